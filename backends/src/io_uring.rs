//! The io_uring poller: one multishot poll for each descriptor, edge-triggered.
//!
//! Goal: readiness without a system call to fetch it. The kernel writes events into a queue in shared memory; only sleeping needs a call.
//!
//! Refused: a one-shot poll for each wait, which costs a submission where an edge costs nothing; an eventfd as wake-up, since its poll would
//! run on the thread that made the ring and interrupt that, where a submission of nothing completes at once; `IORING_SETUP_DEFER_TASKRUN`,
//! which wants all submissions from one thread.
//!
//! What differs from epoll:
//!
//! - A poll may end by itself (its completion lacks `F_MORE`): the queue was full, or the thread that submitted it has ended. It is submitted
//!   again, which reports what is ready by then ([`State::rearm`]).
//! - The kernel often reports what the waker said instead of what holds: every message on a socket as perhaps urgent, the end of a terminal as
//!   data, an error without what else is there. Core takes ends and errors at their word, so a batch is looked up ([`look_up`]).
//! - The kernel runs a poll's work on the thread that submitted it, and interrupts that thread for it. A system call so interrupted goes on by
//!   itself, but for the few that Linux never restarts (`epoll_wait`, socket calls with a timeout option), which fail with `EINTR`.
//! - A read that is interrupted so at an urgent mark says `EAGAIN`, though there is data behind the mark, and no edge follows. So a descriptor
//!   that has shown a mark is looked at before each wait (`arm`).
//!
//! The first hard race is the wake-up. Any thread consumes completions, also the one of a wake-up that was meant for the sleeper:
//!
//! | `requested` | completion of a kick | state | who leaves it |
//! |---|---|---|---|
//! | false | none | nobody asked | a waker: swaps in true |
//! | true | none | a waker is about to kick | that waker |
//! | true | in the queue | a wake-up is pending | a waiting poll: swaps in false. A poll without delay that consumes the kick kicks again if somebody waits |
//! | false | in the queue | the waiting poll looked at `requested` first | any poll: consumes it; the sleeper sleeps again |
//!
//! A poll looks at `requested` and says that it waits under one lock, and that lock is what the other takes to consume. So a kick that comes after
//! the look is in the queue when the sleeper enters the kernel, or is repeated.
//!
//! The second is `close`: the kernel holds the file until the poll has ended, on the thread that submitted it. `close` waits for the last
//! completion, and then for the release that follows it ([`Ring::settle`]).

#![allow(
    unsafe_code,
    reason = "it promises that tokens are genuine, and asks poll(2) what holds"
)]

use crate::linux::{Linux, check, refused};
use crate::lock::{Guard, Lock};
use crate::mask::Mask;
use crate::pollable::check_pollable;
use crate::ring::{Completion, Completions, Ring, Submission};
use crate::table::{Key, Table};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::mem;
use core::sync::atomic::{AtomicBool, Ordering};
use gopark_core::os::{Delay, EVENT_BATCH, Errno, Event, Events, Mode, Nanos, Netpoll, Os};
use gopark_core::tagptr::TaggedPtr;

/// An io_uring instance and what it watches.
///
/// All but `init` and `open` abort the process if the kernel refuses the ring: somebody else closed it, or the kernel has lost completions
/// for want of memory (`EBADR`), and nobody knows whose.
///
/// # Panics
///
/// `poll`, if its batch is not empty and overflows.
pub struct IoUring {
    ring: Ring,
    state: Lock<State>,
    /// Whether a wake has been asked for and not consumed. Swapped by both sides, so that the poll that takes a wake acquires what each
    /// waker wrote before.
    requested: AtomicBool,
    /// Some descriptor has shown an urgent mark.
    urgent: AtomicBool,
}

struct State {
    completions: Completions,
    table: Table<Watched>,
    /// Who has reports that no poll has handed over.
    reported: VecDeque<Key>,
    /// Open descriptors whose poll has ended by itself.
    ended: Vec<Key>,
    /// Descriptors that are being closed, and whose last completion has not been consumed.
    closing: Vec<Key>,
    /// A poll sleeps, or is about to.
    waiting: bool,
}

/// An open descriptor.
struct Watched {
    /// A poll was submitted, and its last completion not consumed.
    submitted: bool,
    /// What the kernel has reported and no poll has handed over.
    reports: Mask,
    /// It has shown an urgent mark.
    urgent: bool,
}

/// The words of submissions that are not polls. A key is larger.
const KICK: u64 = 0;
const CANCEL: u64 = 1;

/// Completions that fit in the queue: 64 KiB. If more descriptors become ready at once, their polls end and are submitted again.
const COMPLETIONS: u32 = 4096;

/// How long `close` waits for the end of a poll before it leaves the file to the kernel. The poll ends on the thread that submitted it: at
/// once if that is the caller, else as soon as that thread gets a CPU. One that a debugger has stopped would take for ever.
const PATIENCE: Nanos = 1_000_000_000;

/// How long to sleep while polls are left to submit again.
const RETRY: Nanos = 1_000_000;

const INTERRUPTED: i32 = libc::EINTR;

// SAFETY: events carry the token of their slot, which `open` put there.
unsafe impl Netpoll for IoUring {
    fn init() -> Result<Self, Errno> {
        Self::with_completions(COMPLETIONS)
    }

    fn open(&self, fd: i32, token: TaggedPtr) -> Result<(), Errno> {
        check_pollable(fd)?;
        let mut state = self.state.lock();
        if state.table.at(fd).is_some() {
            return Err(Errno::new(libc::EEXIST));
        }
        let key = state.table.next_key(fd);
        state.table.fill(
            key,
            token,
            Watched {
                submitted: true,
                reports: Mask::empty(),
                urgent: false,
            },
        );
        drop(state);
        let submitted = self.submit(self.watch(key));
        if submitted.is_err() {
            self.state.lock().table.empty(fd);
        }
        submitted
    }

    fn close(&self, fd: i32) {
        let mut state = self.state.lock();
        let Some(slot) = state.table.empty(fd) else {
            return;
        };
        state.ended.retain(|&key| key != slot.key);
        if !slot.state.submitted {
            return;
        }
        state.closing.push(slot.key);
        drop(state);
        self.insist(self.ring.cancel(slot.key.0, CANCEL));
        let end = Linux::new().now() + PATIENCE;
        while !self.has_ended(slot.key) && Linux::new().now() < end {
            Linux::new().yield_thread();
        }
        self.state.lock().closing.retain(|&key| key != slot.key);
        self.ring.settle();
    }

    /// Looks again at a descriptor that has shown an urgent mark: see the top of this file.
    fn arm(&self, fd: i32, token: TaggedPtr, mode: Mode) {
        // Relaxed is enough: who waits after an urgent mark was reported has been woken for it.
        if mode == Mode::Read && self.urgent.load(Ordering::Relaxed) {
            let mut state = self.state.lock();
            state.look_again(fd, token);
            self.pass_on(state, false);
        }
    }

    fn poll(&self, delay: Delay, events: &mut Events) {
        let end = match delay {
            Delay::AtMost(limit) => Linux::new().now().saturating_add(limit),
            Delay::None | Delay::Forever => Nanos::MAX,
        };
        let mut over = false;
        let mut refusals = 0;
        loop {
            let mut state = self.state.lock();
            state.waiting &= delay == Delay::None;
            let kicked = state.drain(&self.ring);
            state.rearm(&self.ring, |key| self.watch(key));
            if state.hand_over(events) {
                self.urgent.store(true, Ordering::Relaxed);
            }
            if delay == Delay::None {
                return self.pass_on(state, kicked);
            }
            let woken = self.requested.swap(false, Ordering::AcqRel);
            if woken || over || !events.is_empty() {
                return;
            }
            state.waiting = true;
            let retry = if state.ended.is_empty() {
                None
            } else {
                Some(RETRY)
            };
            drop(state);
            let rest = if delay == Delay::Forever {
                None
            } else {
                Some((end - Linux::new().now()).max(1))
            };
            let limit = [rest, retry].into_iter().flatten().min();
            match self.ring.wait(limit).map_err(Errno::raw) {
                Ok(()) | Err(libc::EAGAIN | libc::EBUSY) => {}
                Err(libc::ETIME) => over = Linux::new().now() >= end,
                // The rest of the delay is not known here.
                Err(INTERRUPTED) => over = delay != Delay::Forever,
                Err(errno) => refused(
                    format_args!("io_uring_enter"),
                    Errno::new(errno),
                    &mut refusals,
                ),
            }
        }
    }

    fn wake(&self) {
        if !self.requested.swap(true, Ordering::AcqRel) {
            self.kick();
        }
    }
}

impl IoUring {
    fn with_completions(count: u32) -> Result<Self, Errno> {
        let (ring, completions) = Ring::new(count)?;
        let state = State {
            completions,
            table: Table::new(),
            reported: VecDeque::new(),
            ended: Vec::new(),
            closing: Vec::new(),
            waiting: false,
        };
        Ok(IoUring {
            ring,
            state: Lock::new(state),
            requested: AtomicBool::new(false),
            urgent: AtomicBool::new(false),
        })
    }

    fn watch(&self, key: Key) -> Submission {
        self.ring.watch(key.fd(), Mask::all().bits(), key.0)
    }

    /// Unlocks, and ends the sleep of a poll that what was just consumed was for: a kick, or reports that are left.
    fn pass_on(&self, state: Guard<'_, State>, kicked: bool) {
        let missed = state.waiting && (kicked || !state.reported.is_empty());
        drop(state);
        if missed {
            self.kick();
        }
    }

    /// Ends the sleep of whoever sleeps.
    fn kick(&self) {
        self.insist(self.ring.nothing(KICK));
    }

    /// Submits what must not fail: again, until the kernel has memory for it.
    fn insist(&self, submission: Submission) {
        let mut refusals = 0;
        while let Err(errno) = self.submit(submission) {
            match errno.raw() {
                libc::ENOMEM => Linux::new().yield_thread(),
                _ => refused(format_args!("io_uring_enter"), errno, &mut refusals),
            }
        }
    }

    /// Older kernels refuse submissions while completions do not fit in the queue: then some are consumed first.
    fn submit(&self, submission: Submission) -> Result<(), Errno> {
        loop {
            match self.ring.submit(submission) {
                Err(errno) if errno.raw() == libc::EBUSY => self.consume(|_| ()),
                Err(errno) if errno.raw() == libc::EINTR => {}
                submitted => return submitted,
            }
        }
    }

    /// Whether the last completion of the poll of `key`, which is being closed, has been consumed.
    fn has_ended(&self, key: Key) -> bool {
        self.consume(|state| !state.closing.contains(&key))
    }

    /// Consumes all completions, and looks at the state then.
    fn consume<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        let mut state = self.state.lock();
        let kicked = state.drain(&self.ring);
        let seen = look(&state);
        self.pass_on(state, kicked);
        seen
    }
}

impl State {
    /// Consumes all completions. True if one of them was a kick.
    fn drain(&mut self, ring: &Ring) -> bool {
        let mut kicked = false;
        loop {
            match ring.next(&mut self.completions) {
                Some(Completion { word: KICK, .. }) => kicked = true,
                Some(Completion { word: CANCEL, .. }) => {}
                Some(completion) => self.note(
                    Key(completion.word),
                    completion.result,
                    completion.is_last(),
                ),
                None if ring.has_overflowed() => ring.flush(),
                None => return kicked,
            }
        }
    }

    /// Takes note of a completion of the poll of `key`.
    fn note(&mut self, key: Key, result: i32, last: bool) {
        if last {
            self.closing.retain(|&closing| closing != key);
        }
        let Some(slot) = self.table.get(key) else {
            return;
        };
        slot.state.submitted &= !last;
        let (report, again) = match -result {
            ..=0 => (Mask::from_bits_retain(result as u32), true),
            libc::ECANCELED | libc::ENOMEM => (Mask::empty(), true),
            // Whoever waits asks the system, which says what is wrong with the file. A poll would only fail again.
            _ => (Mask::HUP, false),
        };
        if last && again {
            self.ended.push(key);
        }
        if slot.state.reports.is_empty() && !report.is_empty() {
            self.reported.push_back(key);
        }
        slot.state.reports |= report;
    }

    /// Turns reports into events, as many as fit. True if a descriptor that has shown an urgent mark is among them.
    fn hand_over(&mut self, events: &mut Events) -> bool {
        let mut reports = Reports::new();
        while !reports.is_full() {
            let Some(key) = self.reported.pop_front() else {
                break;
            };
            if let Some(slot) = self.table.get(key) {
                let _ = reports.push((key, mem::replace(&mut slot.state.reports, Mask::empty())));
            }
        }
        look_up(&mut reports);
        let mut urgent = false;
        for (key, mask) in reports {
            let slot = self.table.get(key).expect("it was there just now");
            slot.state.urgent |= mask.contains(Mask::PRI);
            urgent |= slot.state.urgent;
            events
                .push(Event {
                    token: slot.token,
                    ready: mask.ready(),
                })
                .unwrap_or_else(|_| panic!("a batch is empty on entry"));
        }
        urgent
    }

    /// Reports a descriptor that has shown an urgent mark, if there is something to read.
    fn look_again(&mut self, fd: i32, token: TaggedPtr) {
        let Some(slot) = self
            .table
            .at(fd)
            .filter(|slot| slot.token == token && slot.state.urgent)
        else {
            return;
        };
        let mut entry = entry(fd, Mask::IN | Mask::RDHUP);
        // SAFETY: one writable entry.
        if unsafe { libc::poll(&mut entry, 1, 0) } > 0 {
            if slot.state.reports.is_empty() {
                self.reported.push_back(slot.key);
            }
            slot.state.reports |= Mask::IN;
        }
    }

    /// Submits polls again that have ended by themselves. Those that cannot be stay for the next time.
    ///
    /// It happens under the lock, so that `close` finds either the poll or nothing to end. Each reports at once what is ready: of those whose
    /// reports do not fit in the queue the polls end again, of the others not, so that they get fewer every time.
    fn rearm(&mut self, ring: &Ring, watch: impl Fn(Key) -> Submission) {
        for key in mem::take(&mut self.ended) {
            let submitted = ring.submit(watch(key)).is_ok();
            if !submitted {
                self.ended.push(key);
            }
            if let Some(slot) = self.table.get(key) {
                slot.state.submitted = submitted;
            }
        }
    }
}

/// A question for `poll(2)`. Nothing is asked of a negative descriptor.
fn entry(fd: i32, events: Mask) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: events.bits() as i16,
        revents: 0,
    }
}

/// What the kernel has reported of open descriptors.
type Reports = heapless::Vec<(Key, Mask), EVENT_BATCH>;

/// Adds what holds to what was reported, and takes away what was only said: with one `poll(2)` for all of them.
///
/// Nothing is asked about writability alone, nor about an end, which only a look at the file reports.
fn look_up(reports: &mut Reports) {
    let ended = Mask::HUP | Mask::RDHUP;
    let doubtful =
        |mask: Mask| mask.intersects(Mask::IN | Mask::PRI | Mask::ERR) && !mask.intersects(ended);
    let asked =
        |&(key, mask): &(Key, Mask)| entry(if doubtful(mask) { key.fd() } else { -1 }, Mask::all());
    let mut entries: heapless::Vec<libc::pollfd, EVENT_BATCH> = reports.iter().map(asked).collect();
    if entries.iter().all(|entry| entry.fd < 0) {
        return;
    }
    let looked = loop {
        // SAFETY: `entries` is writable for its length.
        match check(
            unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, 0) } as isize,
        )
        .map_err(Errno::raw)
        {
            Err(INTERRUPTED) => {}
            // If it fails for want of memory, nothing more is known than what was reported.
            looked => break looked.is_ok(),
        }
    };
    for ((_, mask), entry) in reports
        .iter_mut()
        .zip(&entries)
        .filter(|(_, entry)| looked && entry.fd >= 0)
    {
        *mask -= Mask::PRI | Mask::ERR;
        *mask |= Mask::from_bits_truncate(u32::from(entry.revents as u16));
        if mask.is_empty() {
            // An error that somebody has taken meanwhile.
            *mask = Mask::ERR | Mask::HUP;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gopark_core::os::Ready;
    use gopark_core::tagptr::ALIGN;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::vec;

    fn token(tag: u32) -> TaggedPtr {
        TaggedPtr::pack(ALIGN, tag)
    }

    /// Asked for by name, to find out whether the system allows it.
    #[test]
    fn a_ring_can_be_made() {
        IoUring::init().unwrap();
    }

    #[test]
    fn a_queue_that_overflows_loses_nothing() {
        let poller = IoUring::with_completions(8).unwrap();
        let pairs: Vec<_> = (0..100).map(|_| UnixStream::pair().unwrap()).collect();
        for (tag, (ours, _)) in (0..).zip(&pairs) {
            poller.open(ours.as_raw_fd(), token(tag)).unwrap();
        }
        for round in 0..20 {
            for (_, theirs) in &pairs {
                for _ in 0..=round % 3 {
                    (&*theirs).write_all(b"x").unwrap();
                }
            }
            let mut readable = vec![false; pairs.len()];
            let end = Linux::new().now() + 10_000_000_000;
            while readable.contains(&false) {
                assert!(Linux::new().now() < end, "lost");
                let mut events = Events::new();
                // Both ways: a poll that sleeps has the kernel move completions into the queue, one that only looks does so itself.
                poller.poll(
                    if round % 2 == 0 {
                        Delay::None
                    } else {
                        Delay::AtMost(10_000_000_000)
                    },
                    &mut events,
                );
                for event in &events {
                    readable[event.token.tag() as usize] |= event.ready.contains(Ready::READ);
                }
            }
            let mut polls = 0..1000;
            while reported(&poller, Delay::AtMost(1_000_000)) {
                assert!(
                    polls.next().is_some(),
                    "polls end and are submitted for ever"
                );
            }
        }
    }

    fn reported(poller: &IoUring, delay: Delay) -> bool {
        let mut events = Events::new();
        poller.poll(delay, &mut events);
        !events.is_empty()
    }

    #[test]
    fn data_at_an_urgent_mark_is_reported_to_each_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut ours, _) = listener.accept().unwrap();
        let poller = IoUring::init().unwrap();
        poller.open(ours.as_raw_fd(), token(1)).unwrap();
        let readable = || {
            let mut events = Events::new();
            poller.poll(Delay::AtMost(1_000_000), &mut events);
            events.iter().any(|event| event.ready.contains(Ready::READ))
        };
        theirs.write_all(b"ab").unwrap();
        // SAFETY: one readable byte.
        assert_eq!(
            unsafe { libc::send(theirs.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) },
            1
        );
        theirs.write_all(b"cd").unwrap();
        assert!(readable());
        while readable() {}
        // The first read stops at the mark. Say that the second was interrupted there.
        assert_eq!(ours.read(&mut [0; 8]).unwrap(), 2);
        for _ in 0..3 {
            poller.arm(ours.as_raw_fd(), token(1), Mode::Read);
            assert!(readable(), "lost");
        }
        assert_eq!(ours.read(&mut [0; 8]).unwrap(), 2);
        poller.arm(ours.as_raw_fd(), token(1), Mode::Read);
        assert!(!readable());
    }

    #[test]
    fn a_wake_gets_through_a_queue_that_overflows() {
        let poller = IoUring::with_completions(8).unwrap();
        for _ in 0..50 {
            poller.kick();
        }
        poller.wake();
        poller.poll(Delay::Forever, &mut Events::new());
    }
}
