//! The poll(2) poller: level-triggered, without epoll.
//!
//! Goal: a poller for kernels and sandboxes without anything better, and the smallest set of
//! promises that a port can be built on. Each poll costs time in proportion to the armed
//! descriptors.
//!
//! Refused: one array that the kernel fills in place. `arm` would then have to wait until the
//! sleeper has left the kernel, as in Go on AIX (`src/runtime/netpoll_aix.go`). Here each poll
//! takes a copy ([`Snapshot`]), `arm` changes the set at once, and only a sleeper with an outdated
//! copy is woken to copy it again.
//!
//! The rule: a descriptor is in the set while one of its directions is armed. A delivery disarms
//! the direction that fired; otherwise the poller would spin until it is read.
//!
//! | step | armed directions | the set |
//! |---|---|---|
//! | `open` | none | unchanged |
//! | `arm`, already armed | unchanged | unchanged |
//! | `arm`, not yet armed | plus this one | contains the descriptor; the sleeper copies it again |
//! | a delivery | minus those that fired | loses the descriptor if none are left |
//! | `close` | slot emptied | loses the descriptor; `close` waits for polls that copied it |
//!
//! An entry in a socket's error queue is a level that stays until it is fetched, and poll(2)
//! reports it whatever is asked for. A waiter would spin. So if the last event of a socket was an
//! error alone, the next `arm` pauses its entry for [`ERROR_PAUSE`]: the entry has a negative
//! number, which the kernel skips (poll(2)). After the pause the kernel looks at it again.
//!
//! The race is in `close`. A thread inside poll(2) holds a reference to each file in its copy. The
//! socket would outlive close(2), and its peer would not see the end. So each change of the set has
//! a number ([`Set::version`]), each poll in the kernel records the version that it copied, and
//! `close` wakes the sleeper and waits until no poll with a version from before the removal is
//! left.

#![allow(
    unsafe_code,
    reason = "the poll system call, and it promises that tokens are genuine"
)]

use crate::level::{direction, is_queued_error, levels};
use crate::linux::{Linux, check, retry_or_abort};
use crate::lock::{Guard, Lock};
use crate::mask::Mask;
use crate::pollable::check_pollable;
use crate::probe::probe;
use crate::table::{Key, Slot, Table};
use crate::wakeup::WakeUp;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};
use gopark_core::os::{Delay, Errno, Event, Events, Mode, Nanos, Netpoll, Os, Ready};
use gopark_core::tagptr::TaggedPtr;

/// A set of descriptors for poll(2), and two eventfds that end a sleep in it.
///
/// `poll` and `wake` abort the process if the kernel refuses either eventfd. That happens when
/// other code has closed it; no descriptor would become ready again.
pub struct Poll {
    /// Ends a waiting poll.
    wakeup: WakeUp,
    /// Makes a waiting poll copy the set again.
    changed: WakeUp,
    set: Lock<Set>,
    /// A futex on which `close` waits for polls to end. Written under the lock of `set`, when a
    /// poll ends and closers wait.
    ended: AtomicU32,
}

// The armed descriptors and the polls in the kernel, all under one lock.
struct Set {
    table: Table<Watched>,
    /// The armed descriptors, in any order.
    armed: Entries,
    /// When paused entries are looked at again; 0 if none is paused.
    paused_until: Nanos,
    /// The number of changes so far.
    version: u64,
    /// For each poll in the kernel, the version that it copied.
    in_kernel: Vec<u64>,
    /// The version of the poll that waits, if one does.
    sleeper: Option<u64>,
    /// Threads in `close` that wait for polls to end.
    closers: u32,
    /// Buffers of polls that have ended, for reuse.
    spare: Vec<Entries>,
}

/// An open descriptor.
struct Watched {
    /// The directions that the kernel is asked for.
    armed: Ready,
    /// The last event was an entry in the socket's error queue and nothing else.
    queued_error: bool,
    /// Its index in the set. Meaningless while no direction is armed.
    index: usize,
    /// The version that last removed it from the set.
    removed_in: u64,
}

/// Descriptors for the kernel to look at, each with the key of the use that is meant.
#[derive(Default)]
struct Entries {
    fds: Vec<libc::pollfd>,
    keys: Vec<Key>,
}

/// What one poll asks the kernel: the two eventfds, then a copy of the set.
struct Snapshot {
    entries: Entries,
    version: u64,
    /// How long until paused entries are looked at again.
    pause: Option<Nanos>,
}

impl Poll {
    /// Returns the error of the system if it refuses to wait in this poller.
    pub(crate) fn probe(&self) -> Result<(), Errno> {
        let mut nothing = Snapshot {
            entries: Entries::default(),
            version: 0,
            pause: None,
        };
        probe(format_args!("poll"), || nothing.wait(Delay::None))
    }
}

/// Nanoseconds. Data that arrives during the pause waits this long at most. All sockets with
/// unfetched errors together cost one poll in this time.
const ERROR_PAUSE: Nanos = 10_000_000;

/// The eventfds at the front of a snapshot: `wakeup`, then `changed`.
const OWN_ENTRIES: usize = 2;

// SAFETY: events carry the token of their slot, which `open` put there.
unsafe impl Netpoll for Poll {
    fn init() -> Result<Self, Errno> {
        let set = Set {
            table: Table::new(),
            armed: Entries::default(),
            paused_until: 0,
            version: 0,
            in_kernel: Vec::new(),
            sleeper: None,
            closers: 0,
            spare: Vec::new(),
        };
        Ok(Poll {
            wakeup: WakeUp::new()?,
            changed: WakeUp::new()?,
            set: Lock::new(set),
            ended: AtomicU32::new(0),
        })
    }

    fn open(&self, fd: i32, token: TaggedPtr) -> Result<(), Errno> {
        check_pollable(fd)?;
        let mut set = self.set.lock();
        if set.table.at(fd).is_some() {
            return Err(Errno::new(libc::EEXIST));
        }
        let key = set.table.next_key(fd);
        set.table.fill(
            key,
            token,
            Watched {
                armed: Ready::empty(),
                queued_error: false,
                index: 0,
                removed_in: 0,
            },
        );
        Ok(())
    }

    fn close(&self, fd: i32) {
        let mut set = self.set.lock();
        let Some(mut slot) = set.table.empty(fd) else {
            return;
        };
        set.disarm(&mut slot, Ready::READ | Ready::WRITE);
        while set
            .in_kernel
            .iter()
            .any(|&version| version < slot.state.removed_in)
        {
            set.closers += 1;
            let ended = self.ended.load(Ordering::Relaxed);
            self.unlock_and_refresh(set);
            Linux::new().futex_wait(&self.ended, ended, None);
            set = self.set.lock();
            set.closers -= 1;
        }
    }

    fn arm(&self, fd: i32, token: TaggedPtr, mode: Mode) {
        let mut set = self.set.lock();
        if set.arm(fd, token, direction(mode)) {
            self.unlock_and_refresh(set);
        }
    }

    fn poll(&self, delay: Delay, events: &mut Events) {
        let end = match delay {
            Delay::AtMost(limit) => Linux::new().now().saturating_add(limit),
            Delay::None | Delay::Forever => 0,
        };
        let mut remaining = delay;
        let mut failures = 0;
        loop {
            let mut snapshot = self.begin(delay);
            let (limit, cut) = snapshot.limit(remaining);
            let waited = snapshot.wait(limit);
            let [wakeup, changed] = [0, 1].map(|own| snapshot.entries.fds[own].revents != 0);
            self.finish(snapshot, waited.unwrap_or(0), delay, events);
            if changed {
                self.changed.consume(delay);
            }
            if wakeup {
                self.wakeup.consume(delay);
            }
            match (waited, delay) {
                _ if wakeup || !events.is_empty() => return,
                (Ok(0), Delay::AtMost(_)) if cut => {}
                (Ok(_), Delay::None)
                | (Ok(0), Delay::AtMost(_))
                | (Err(INTERRUPTED), Delay::AtMost(_)) => return,
                (Ok(_), _) | (Err(INTERRUPTED), _) => {}
                (Err(errno), _) => retry_or_abort(format_args!("poll"), errno, &mut failures),
            }
            if let Delay::AtMost(_) = delay {
                // At least 1, since zero would mean not to wait; the next round then ends.
                remaining = Delay::AtMost((end - Linux::new().now()).max(1));
            }
        }
    }

    fn wake(&self) {
        self.wakeup.request();
    }
}

const INTERRUPTED: Errno = Errno::new(libc::EINTR);

impl Poll {
    /// Unlocks the set. If the sleeper's copy is outdated, wakes it to copy the set again.
    fn unlock_and_refresh(&self, set: Guard<'_, Set>) {
        let outdated = set.sleeper.is_some_and(|version| version < set.version);
        drop(set);
        if outdated {
            self.changed.request();
        }
    }

    /// Copies the set and records the poll in it.
    fn begin(&self, delay: Delay) -> Snapshot {
        // A poll that does not wait leaves both eventfds to the poll that does. The kernel skips
        // negative numbers.
        let own = match delay {
            Delay::None => [-1; OWN_ENTRIES],
            Delay::AtMost(_) | Delay::Forever => [self.wakeup.fd(), self.changed.fd()],
        };
        let mut set = self.set.lock();
        let pause = set.end_pause();
        let mut entries = set.spare.pop().unwrap_or_default();
        entries.fds.extend(own.map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        }));
        entries.fds.extend_from_slice(&set.armed.fds);
        entries.keys.extend_from_slice(&set.armed.keys);
        let version = set.version;
        set.in_kernel.push(version);
        if delay != Delay::None {
            set.sleeper = Some(version);
        }
        Snapshot {
            entries,
            version,
            pause,
        }
    }

    /// Turns the entries that fired, at most `found`, into events. Then removes the poll's record
    /// and wakes the closers.
    fn finish(&self, snapshot: Snapshot, found: usize, delay: Delay, events: &mut Events) {
        let Snapshot {
            mut entries,
            version,
            pause: _,
        } = snapshot;
        let mut set = self.set.lock();
        let fired = entries.fds[OWN_ENTRIES..]
            .iter()
            .zip(&entries.keys)
            .filter(|(entry, _)| entry.revents != 0);
        for (entry, &key) in fired.take(found) {
            if events.is_full() {
                // The other entries stay armed: the next poll finds them again.
                break;
            }
            if let Some(token) = set.table.get(key).map(|slot| slot.token) {
                let ready = mask(entry.revents).ready();
                set.fire(key, ready, is_queued_error(key.fd(), mask(entry.revents)));
                let _ = events.push(Event { token, ready });
            }
        }
        entries.fds.clear();
        entries.keys.clear();
        set.spare.push(entries);
        let own = set
            .in_kernel
            .iter()
            .position(|&other| other == version)
            .expect("`begin` recorded this poll");
        set.in_kernel.swap_remove(own);
        if delay != Delay::None {
            set.sleeper = None;
        }
        let closers = set.closers;
        if closers > 0 {
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
        drop(set);
        for _ in 0..closers {
            Linux::new().futex_wake(&self.ended);
        }
    }
}

impl Set {
    /// Arms directions of `fd`. Returns true if the kernel must be asked for more than before.
    fn arm(&mut self, fd: i32, token: TaggedPtr, directions: Ready) -> bool {
        let Some(slot) = self.table.at(fd).filter(|slot| slot.token == token) else {
            return false;
        };
        if slot.state.armed.contains(directions) {
            return false;
        }
        if slot.state.armed.is_empty() {
            slot.state.index = self.armed.fds.len();
            let number = if slot.state.queued_error { !fd } else { fd };
            if slot.state.queued_error && self.paused_until == 0 {
                self.paused_until = Linux::new().now() + ERROR_PAUSE;
            }
            self.armed.fds.push(libc::pollfd {
                fd: number,
                events: 0,
                revents: 0,
            });
            self.armed.keys.push(slot.key);
        }
        slot.state.armed |= directions;
        self.armed.fds[slot.state.index].events = levels(slot.state.armed).bits() as i16;
        self.version += 1;
        true
    }

    /// Ends the pause if its time has come, and returns how long it still lasts.
    fn end_pause(&mut self) -> Option<Nanos> {
        if self.paused_until == 0 {
            return None;
        }
        let left = self.paused_until - Linux::new().now();
        if left > 0 {
            return Some(left);
        }
        self.paused_until = 0;
        for entry in self.armed.fds.iter_mut().filter(|entry| entry.fd < 0) {
            entry.fd = !entry.fd;
        }
        None
    }

    /// Disarms the directions that an event has reported.
    fn fire(&mut self, key: Key, ready: Ready, queued_error: bool) {
        if let Some(mut slot) = self.table.empty(key.fd()) {
            slot.state.queued_error = queued_error;
            self.disarm(&mut slot, ready);
            self.table.fill(key, slot.token, slot.state);
        }
    }

    /// Disarms directions of a slot that was taken out of the table.
    fn disarm(&mut self, slot: &mut Slot<Watched>, directions: Ready) {
        let watched = &mut slot.state;
        if watched.armed.is_empty() {
            return;
        }
        watched.armed -= directions;
        if !watched.armed.is_empty() {
            self.armed.fds[watched.index].events = levels(watched.armed).bits() as i16;
            return;
        }
        self.version += 1;
        watched.removed_in = self.version;
        self.armed.fds.swap_remove(watched.index);
        self.armed.keys.swap_remove(watched.index);
        // `swap_remove` has moved the last entry here, unless it was this one.
        if let Some(&moved) = self.armed.keys.get(watched.index) {
            self.table
                .get(moved)
                .expect("an armed descriptor is in the table")
                .state
                .index = watched.index;
        }
    }
}

impl Snapshot {
    /// How long to wait, and whether that is less than `delay`.
    fn limit(&self, delay: Delay) -> (Delay, bool) {
        match (self.pause, delay) {
            (Some(pause), Delay::Forever) => (Delay::AtMost(pause), true),
            (Some(pause), Delay::AtMost(limit)) if pause < limit => (Delay::AtMost(pause), true),
            _ => (delay, false),
        }
    }

    fn wait(&mut self, delay: Delay) -> Result<usize, Errno> {
        let limit = match delay {
            Delay::None => Some(timespec(0)),
            Delay::AtMost(limit) => Some(timespec(limit)),
            Delay::Forever => None,
        };
        let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
        let fds = &mut self.entries.fds;
        // SAFETY: `fds` is writable for its length, `limit` is null or points to a timespec that
        // outlives the call, and a null mask leaves the blocked signals as they are.
        check(unsafe {
            libc::ppoll(
                fds.as_mut_ptr(),
                fds.len() as libc::nfds_t,
                limit,
                ptr::null(),
            )
        } as isize)
    }
}

fn timespec(limit: Nanos) -> libc::timespec {
    let seconds = (limit / 1_000_000_000).min(libc::time_t::MAX as Nanos);
    libc::timespec {
        tv_sec: seconds as libc::time_t,
        tv_nsec: (limit % 1_000_000_000) as libc::c_long,
    }
}

/// The event mask of `revents`. `POLLNVAL` counts as an end: the number is not open, and the
/// waiter's next call fails with `EBADF`.
fn mask(revents: i16) -> Mask {
    if revents & libc::POLLNVAL != 0 {
        Mask::HUP
    } else {
        Mask::from_bits_retain(u32::from(revents as u16))
    }
}
