//! The io_uring poller: one multishot poll for each descriptor, edge-triggered.
//!
//! Goal: no system call to fetch events. The kernel writes them into a queue in shared memory; only
//! sleeping needs a call.
//!
//! Refused:
//!
//! - a one-shot poll for each wait: it costs a submission, where an edge costs nothing;
//! - an eventfd as wake-up: its poll would run on the thread that created the ring, and interrupt
//!   it. A submission of a no-op completes at once;
//! - `IORING_SETUP_DEFER_TASKRUN`: it wants all submissions from one thread.
//!
//! What differs from epoll:
//!
//! - A poll may end by itself: its completion lacks `F_MORE`, because the queue was full or the
//!   thread that submitted it has exited. The poller submits it again, which also reports what is
//!   ready by then ([`State::rearm`]).
//! - The kernel often reports the key of the wake-up, and not what is ready: each message on a
//!   socket as possibly urgent, the end of a terminal as data, an error without the other bits.
//!   Core relies on exact ends and errors, so the poller asks poll(2) about each batch
//!   ([`recheck`]).
//! - The kernel runs the work of a poll on the thread that submitted it, and interrupts that
//!   thread. Most interrupted system calls restart. Those that Linux never restarts fail with
//!   `EINTR`: `epoll_wait`, and socket calls with a timeout option (signal(7)).
//! - A read that is interrupted so at an urgent mark fails with `EAGAIN`, though there is data
//!   behind the mark, and no edge follows. So `arm` looks at a descriptor that has shown a mark
//!   before each wait.
//!
//! The first race is the wake-up. Any thread may consume completions, including the completion of a
//! no-op (a *kick*) that was meant for the sleeper:
//!
//! | `requested` | kick completion | state | left by |
//! |---|---|---|---|
//! | false | none | no wake requested | a waker: swaps in true |
//! | true | none | a waker is about to kick | that waker |
//! | true | in the queue | a wake is pending | a waiting poll: swaps in false |
//! | false | in the queue | the waiting poll saw `requested` first | any poll: consumes the kick |
//!
//! In the third state a poll without delay may consume the kick; it then kicks again if a poll
//! waits. In the last state the sleeper wakes once too often and sleeps again.
//!
//! A poll reads `requested` and sets `waiting` under one lock, and every consumer takes that lock.
//! So a kick that arrives after the read is in the queue when the sleeper enters the kernel, or is
//! repeated.
//!
//! The second race is `close`. The kernel holds the file until the poll has ended, on the thread
//! that submitted it. `close` waits for the last completion, and then for the release that follows
//! it ([`Ring::wait_for_release`]).
//!
//! Source: io_uring_enter(2); Linux `io_uring/poll.c`.

#![allow(
    unsafe_code,
    reason = "it promises that tokens are genuine, and asks poll(2) what holds"
)]

use crate::linux::{Linux, check, retry_or_abort};
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

/// An io_uring instance and the descriptors that it watches.
///
/// All methods except `init` and `open` abort the process if the kernel refuses the ring. That
/// happens when other code has closed it, or when the kernel has lost completions for lack of
/// memory (`EBADR`) and does not say which.
///
/// # Panics
///
/// `poll` panics if its batch is not empty on entry and overflows.
pub struct IoUring {
    ring: Ring,
    state: Lock<State>,
    /// Whether a wake has been requested and not yet consumed. Both sides swap it with acquire and
    /// release, so that the poll that takes a wake sees what each waker wrote before.
    requested: AtomicBool,
    /// Set once a descriptor has shown an urgent mark.
    urgent: AtomicBool,
}

// Descriptors and completions, all under one lock.
struct State {
    completions: Completions,
    table: Table<Watched>,
    /// Descriptors with reports that no poll has delivered.
    reported: VecDeque<Key>,
    /// Open descriptors whose poll has ended by itself.
    ended: Vec<Key>,
    /// Descriptors in `close`, whose last completion has not been consumed.
    closing: Vec<Key>,
    /// Whether a poll sleeps or is about to.
    waiting: bool,
}

/// An open descriptor.
struct Watched {
    /// Whether a poll was submitted and its last completion has not been consumed.
    submitted: bool,
    /// What the kernel has reported and no poll has delivered.
    reports: Mask,
    /// Whether it has shown an urgent mark.
    urgent: bool,
}

/// The words of submissions that are not polls. Every key is larger.
const KICK: u64 = 0;
const CANCEL: u64 = 1;

/// Completions that the queue holds: 64 KiB. If more descriptors become ready at once, their polls
/// end and are submitted again.
const COMPLETIONS: u32 = 4096;

/// Nanoseconds. How long `close` waits for the end of a poll before it leaves the file to the
/// kernel. The poll ends on the thread that submitted it: at once if that is the caller, else as
/// soon as that thread gets a CPU. The limit is for a thread that a debugger has stopped.
const CLOSE_TIMEOUT: Nanos = 1_000_000_000;

/// Nanoseconds. The longest sleep while the kernel has refused to take polls again.
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
        self.submit_until_accepted(self.ring.cancel(slot.key.0, CANCEL));
        let end = Linux::new().now() + CLOSE_TIMEOUT;
        while !self.has_ended(slot.key) && Linux::new().now() < end {
            Linux::new().yield_thread();
        }
        self.state.lock().closing.retain(|&key| key != slot.key);
        self.ring.wait_for_release();
    }

    /// Looks at a descriptor that has shown an urgent mark: see the head of this file.
    fn arm(&self, fd: i32, token: TaggedPtr, mode: Mode) {
        // Relaxed is enough: a goroutine that waits after a reported mark was woken for that
        // report.
        if mode == Mode::Read && self.urgent.load(Ordering::Relaxed) {
            let mut state = self.state.lock();
            state.recheck_urgent(fd, token);
            self.unlock_and_rewake(state, false);
        }
    }

    fn poll(&self, delay: Delay, events: &mut Events) {
        let end = match delay {
            Delay::AtMost(limit) => Linux::new().now().saturating_add(limit),
            Delay::None | Delay::Forever => Nanos::MAX,
        };
        let mut timed_out = false;
        let mut failures = 0;
        loop {
            let mut state = self.state.lock();
            state.waiting &= delay == Delay::None;
            let kicked = state.drain(&self.ring);
            state.rearm(&self.ring, |key| self.watch(key));
            if state.deliver(events) {
                self.urgent.store(true, Ordering::Relaxed);
            }
            if delay == Delay::None {
                return self.unlock_and_rewake(state, kicked);
            }
            let woken = self.requested.swap(false, Ordering::AcqRel);
            if woken || timed_out || !events.is_empty() {
                return;
            }
            state.waiting = true;
            let retry = if state.ended.is_empty() {
                None
            } else {
                Some(RETRY)
            };
            drop(state);
            let remaining = if delay == Delay::Forever {
                None
            } else {
                Some((end - Linux::new().now()).max(1))
            };
            let limit = [remaining, retry].into_iter().flatten().min();
            match self.ring.wait(limit).map_err(Errno::raw) {
                Ok(()) | Err(libc::EAGAIN | libc::EBUSY) => {}
                Err(libc::ETIME) => timed_out = Linux::new().now() >= end,
                // The time left is not known here; the caller computes the delay anew.
                Err(INTERRUPTED) => timed_out = delay != Delay::Forever,
                Err(errno) => retry_or_abort(
                    format_args!("io_uring_enter"),
                    Errno::new(errno),
                    &mut failures,
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

    /// Unlocks. Wakes a waiting poll if the caller has just consumed something that was meant for
    /// it: a kick, or completions with reports.
    fn unlock_and_rewake(&self, state: Guard<'_, State>, kicked: bool) {
        let missed = state.waiting && (kicked || !state.reported.is_empty());
        drop(state);
        if missed {
            self.kick();
        }
    }

    /// Ends the sleep of the poll that waits.
    fn kick(&self) {
        self.submit_until_accepted(self.ring.no_op(KICK));
    }

    /// Submits until the kernel accepts. For submissions that must not fail; `ENOMEM` passes.
    fn submit_until_accepted(&self, submission: Submission) {
        let mut failures = 0;
        while let Err(errno) = self.submit(submission) {
            match errno.raw() {
                libc::ENOMEM => Linux::new().yield_thread(),
                _ => retry_or_abort(format_args!("io_uring_enter"), errno, &mut failures),
            }
        }
    }

    /// Submits once. Older kernels refuse with `EBUSY` while completions do not fit in the queue;
    /// then it consumes some and tries again.
    fn submit(&self, submission: Submission) -> Result<(), Errno> {
        loop {
            match self.ring.submit(submission) {
                Err(errno) if errno.raw() == libc::EBUSY => self.consume(|_| ()),
                Err(errno) if errno.raw() == libc::EINTR => {}
                submitted => return submitted,
            }
        }
    }

    /// Whether the last completion of the poll of `key`, a descriptor in `close`, has been
    /// consumed.
    fn has_ended(&self, key: Key) -> bool {
        self.consume(|state| !state.closing.contains(&key))
    }

    /// Consumes all completions and returns what `look` sees in the state then.
    fn consume<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        let mut state = self.state.lock();
        let kicked = state.drain(&self.ring);
        let seen = look(&state);
        self.unlock_and_rewake(state, kicked);
        seen
    }
}

impl State {
    /// Consumes all completions. Returns true if one of them was a kick.
    fn drain(&mut self, ring: &Ring) -> bool {
        let mut kicked = false;
        loop {
            match ring.next(&mut self.completions) {
                Some(Completion { word: KICK, .. }) => kicked = true,
                Some(Completion { word: CANCEL, .. }) => {}
                Some(completion) => self.record(
                    Key(completion.word),
                    completion.result,
                    completion.is_last(),
                ),
                None if ring.has_overflowed() => ring.flush(),
                None => return kicked,
            }
        }
    }

    /// Records a completion of the poll of `key`.
    fn record(&mut self, key: Key, result: i32, last: bool) {
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
            // The waiter's next call says what is wrong with the file. Another poll would fail
            // again.
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

    /// Turns reports into events, as many as fit. Returns true if one of the descriptors has shown
    /// an urgent mark.
    fn deliver(&mut self, events: &mut Events) -> bool {
        let mut reports = Reports::new();
        while !reports.is_full() {
            let Some(key) = self.reported.pop_front() else {
                break;
            };
            if let Some(slot) = self.table.get(key) {
                let _ = reports.push((key, mem::replace(&mut slot.state.reports, Mask::empty())));
            }
        }
        recheck(&mut reports);
        let mut urgent = false;
        for (key, mask) in reports {
            let slot = self
                .table
                .get(key)
                .expect("reports are of open descriptors");
            slot.state.urgent |= mask.contains(Mask::PRI);
            urgent |= slot.state.urgent;
            events
                .push(Event {
                    token: slot.token,
                    ready: mask.ready(),
                })
                .unwrap_or_else(|_| panic!("poll needs an empty batch of events"));
        }
        urgent
    }

    /// Reports a descriptor that has shown an urgent mark, if there is data to read.
    fn recheck_urgent(&mut self, fd: i32, token: TaggedPtr) {
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

    /// Submits again the polls that have ended by themselves. Those that the kernel refuses stay
    /// for the next time.
    ///
    /// It runs under the lock, so that `close` finds either a submitted poll or none. Each poll
    /// reports at once what is ready. Polls whose reports overflow the queue end again and the
    /// others do not, so fewer are left each time.
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

/// An entry for poll(2), which skips a negative descriptor.
fn entry(fd: i32, events: Mask) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: events.bits() as i16,
        revents: 0,
    }
}

/// Open descriptors and what the kernel has reported about them.
type Reports = heapless::Vec<(Key, Mask), EVENT_BATCH>;

/// Replaces what the kernel reported by what holds now, with one poll(2) for the whole batch.
///
/// It does not ask about writability alone, nor about an end, which the kernel reports exactly.
fn recheck(reports: &mut Reports) {
    let ended = Mask::HUP | Mask::RDHUP;
    let needs_recheck =
        |mask: Mask| mask.intersects(Mask::IN | Mask::PRI | Mask::ERR) && !mask.intersects(ended);
    let asked = |&(key, mask): &(Key, Mask)| {
        entry(if needs_recheck(mask) { key.fd() } else { -1 }, Mask::all())
    };
    let mut entries: heapless::Vec<libc::pollfd, EVENT_BATCH> = reports.iter().map(asked).collect();
    if entries.iter().all(|entry| entry.fd < 0) {
        return;
    }
    let rechecked = loop {
        let len = entries.len() as libc::nfds_t;
        // SAFETY: `entries` is writable for its length.
        let ready = unsafe { libc::poll(entries.as_mut_ptr(), len, 0) };
        match check(ready as isize).map_err(Errno::raw) {
            Err(INTERRUPTED) => {}
            // If it fails for lack of memory, the reports stand as they are.
            rechecked => break rechecked.is_ok(),
        }
    };
    for ((_, mask), entry) in reports
        .iter_mut()
        .zip(&entries)
        .filter(|(_, entry)| rechecked && entry.fd >= 0)
    {
        *mask -= Mask::PRI | Mask::ERR;
        *mask |= Mask::from_bits_truncate(u32::from(entry.revents as u16));
        if mask.is_empty() {
            // Another thread has fetched the error since.
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

    /// `ci/backends.sh` runs this test by name to find out whether the system permits io_uring.
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
                assert!(Linux::new().now() < end, "readiness was lost");
                let mut events = Events::new();
                // A poll that sleeps makes the kernel move completions into the queue; a poll that
                // only looks moves them itself.
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
                    "polls end and are submitted again without end"
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
        let sent =
            unsafe { libc::send(theirs.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) };
        assert_eq!(sent, 1);
        theirs.write_all(b"cd").unwrap();
        assert!(readable());
        while readable() {}
        // The first read stops at the mark. Each `arm` below stands for a read that was interrupted
        // there.
        assert_eq!(ours.read(&mut [0; 8]).unwrap(), 2);
        for _ in 0..3 {
            poller.arm(ours.as_raw_fd(), token(1), Mode::Read);
            assert!(readable(), "readiness was lost");
        }
        assert_eq!(ours.read(&mut [0; 8]).unwrap(), 2);
        poller.arm(ours.as_raw_fd(), token(1), Mode::Read);
        assert!(!readable());
    }

    #[test]
    fn a_wake_survives_an_overflow_of_the_queue() {
        let poller = IoUring::with_completions(8).unwrap();
        for _ in 0..50 {
            poller.kick();
        }
        poller.wake();
        poller.poll(Delay::Forever, &mut Events::new());
    }
}
