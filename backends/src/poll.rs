//! The `poll(2)` poller: level-triggered, without epoll.
//!
//! Goal: a poller for kernels and sandboxes that have nothing better, and the smallest set of promises that a port can stand on. It costs
//! time in proportion to the descriptors that somebody waits for, at every poll.
//!
//! Refused: one array that the kernel works on in place, which would make `arm` wait until the sleeper has left the kernel (Go's way on AIX):
//! here every poll takes a copy ([`Snapshot`]), `arm` changes the set at once, and only a sleeper whose copy is too old is sent back.
//!
//! The rule: a descriptor is in the set while a direction of it is armed. A delivery disarms the direction that fired, so that the poller
//! does not spin while nobody reads.
//!
//! | step | directions | the set |
//! |---|---|---|
//! | `open` | none | unchanged |
//! | `arm`, armed already | same | unchanged |
//! | `arm`, not armed | and this one | has the descriptor; the sleeper takes a new copy |
//! | a delivery | less what fired | loses the descriptor if none are left |
//! | `close` | slot emptied | loses the descriptor; every poll that may have it has ended |
//!
//! An entry in the error queue of a socket is a level that stays until it is fetched, and
//! `poll(2)` reports it whatever is asked. A waiter would spin. So a socket whose last event was
//! nothing but an error rests when it is armed again: for [`REST`] its entry has a negative number,
//! which the kernel skips. Then it is looked at once more.
//!
//! The hard race is `close`. A thread inside `poll(2)` holds a reference to each file in its copy: the socket would live on after
//! `close(2)`, and its peer would not see the end. So each change of the set has a number ([`Set::version`]), each poll under way says which
//! one it has copied, and `close` sends the sleeper back and waits until no poll is under way that began before the descriptor had left.

#![allow(
    unsafe_code,
    reason = "the poll system call, and it promises that tokens are genuine"
)]

use crate::level::{direction, is_queued_error, levels};
use crate::linux::{Linux, check, refused};
use crate::lock::{Guard, Lock};
use crate::mask::Mask;
use crate::pollable::check_pollable;
use crate::table::{Key, Slot, Table};
use crate::wakeup::WakeUp;
use alloc::vec::Vec;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};
use gopark_core::os::{Delay, Errno, Event, Events, Mode, Nanos, Netpoll, Os, Ready};
use gopark_core::tagptr::TaggedPtr;

/// A set of descriptors for `poll(2)`, and two eventfds that end a sleep in it.
///
/// `poll` and `wake` abort the process if the kernel refuses what is always there: somebody else closed it, and nothing would ever become
/// ready again.
pub struct Poll {
    /// Ends a waiting poll.
    wakeup: WakeUp,
    /// Has a waiting poll copy the set anew.
    changed: WakeUp,
    set: Lock<Set>,
    /// A futex for those who `close`. Changes under the lock of `set`, when a poll ends and they are waiting.
    ended: AtomicU32,
}

struct Set {
    table: Table<Watched>,
    /// Who is armed, in any order.
    armed: Entries,
    /// When those that rest are looked at again; 0 if none rests.
    rest_until: Nanos,
    /// The number of changes so far.
    version: u64,
    /// For each poll in the kernel, the version that it has copied.
    under_way: Vec<u64>,
    /// The one of them that waits.
    sleeper: Option<u64>,
    /// Threads in `close` that wait for polls to end.
    closers: u32,
    /// The memory of polls that have ended.
    spare: Vec<Entries>,
}

/// An open descriptor.
struct Watched {
    armed: Ready,
    /// The last event was an error in its error queue and nothing else.
    erred: bool,
    /// Where it is in the set. Means nothing while no direction is armed.
    place: usize,
    /// The version in which it was last taken out of the set.
    left: u64,
}

/// Descriptors for the kernel to look at, and which uses of the numbers are meant.
#[derive(Default)]
struct Entries {
    fds: Vec<libc::pollfd>,
    keys: Vec<Key>,
}

/// What one poll asks the kernel: the two eventfds, then a copy of the set.
struct Snapshot {
    entries: Entries,
    version: u64,
    /// How long until those that rest are looked at again.
    rest: Option<Nanos>,
}

/// How long a descriptor rests: as long as data that comes meanwhile may wait, and of that many
/// milliseconds the sockets with unfetched errors take one poll, however many they are.
const REST: Nanos = 10_000_000;

/// How many entries of a snapshot are the poller's own: `wakeup`, then `changed`.
const OWN: usize = 2;

// SAFETY: events carry the token of their slot, which `open` put there.
unsafe impl Netpoll for Poll {
    fn init() -> Result<Self, Errno> {
        let set = Set {
            table: Table::new(),
            armed: Entries::default(),
            rest_until: 0,
            version: 0,
            under_way: Vec::new(),
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
                erred: false,
                place: 0,
                left: 0,
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
            .under_way
            .iter()
            .any(|&version| version < slot.state.left)
        {
            set.closers += 1;
            let ended = self.ended.load(Ordering::Relaxed);
            self.send_back(set);
            Linux::new().futex_wait(&self.ended, ended, None);
            set = self.set.lock();
            set.closers -= 1;
        }
    }

    fn arm(&self, fd: i32, token: TaggedPtr, mode: Mode) {
        let mut set = self.set.lock();
        if set.arm(fd, token, direction(mode)) {
            self.send_back(set);
        }
    }

    fn poll(&self, delay: Delay, events: &mut Events) {
        let end = match delay {
            Delay::AtMost(limit) => Linux::new().now().saturating_add(limit),
            Delay::None | Delay::Forever => 0,
        };
        let mut rest = delay;
        let mut refusals = 0;
        loop {
            let mut snapshot = self.begin(delay);
            let (limit, cut) = snapshot.limit(rest);
            let waited = snapshot.wait(limit);
            let [wakeup, changed] = [0, 1].map(|own| snapshot.entries.fds[own].revents != 0);
            self.finish(snapshot, waited.unwrap_or(0), delay, events);
            if changed {
                self.changed.seen(delay);
            }
            if wakeup {
                self.wakeup.seen(delay);
            }
            match (waited, delay) {
                _ if wakeup || !events.is_empty() => return,
                (Ok(0), Delay::AtMost(_)) if cut => {}
                (Ok(_), Delay::None)
                | (Ok(0), Delay::AtMost(_))
                | (Err(INTERRUPTED), Delay::AtMost(_)) => return,
                (Ok(_), _) | (Err(INTERRUPTED), _) => {}
                (Err(errno), _) => refused(format_args!("poll"), errno, &mut refusals),
            }
            if let Delay::AtMost(_) = delay {
                // At least one, for zero would mean not to wait; the next round then ends.
                rest = Delay::AtMost((end - Linux::new().now()).max(1));
            }
        }
    }

    fn wake(&self) {
        self.wakeup.request();
    }
}

const INTERRUPTED: Errno = Errno::new(libc::EINTR);

impl Poll {
    /// Unlocks the set, and has the sleeper copy it anew if it has changed.
    fn send_back(&self, set: Guard<'_, Set>) {
        let outdated = set.sleeper.is_some_and(|version| version < set.version);
        drop(set);
        if outdated {
            self.changed.request();
        }
    }

    fn begin(&self, delay: Delay) -> Snapshot {
        // A poll that does not wait leaves both to the one that does: the kernel ignores negative numbers.
        let own = match delay {
            Delay::None => [-1; OWN],
            Delay::AtMost(_) | Delay::Forever => [self.wakeup.fd(), self.changed.fd()],
        };
        let mut set = self.set.lock();
        let rest = set.rest();
        let mut entries = set.spare.pop().unwrap_or_default();
        entries.fds.extend(own.map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        }));
        entries.fds.extend_from_slice(&set.armed.fds);
        entries.keys.extend_from_slice(&set.armed.keys);
        let version = set.version;
        set.under_way.push(version);
        if delay != Delay::None {
            set.sleeper = Some(version);
        }
        Snapshot {
            entries,
            version,
            rest,
        }
    }

    /// Hands over what a poll has found, `found` descriptors at most, and lets those go on who waited for its end.
    fn finish(&self, snapshot: Snapshot, found: usize, delay: Delay, events: &mut Events) {
        let Snapshot {
            mut entries,
            version,
            rest: _,
        } = snapshot;
        let mut set = self.set.lock();
        let fired = entries.fds[OWN..]
            .iter()
            .zip(&entries.keys)
            .filter(|(entry, _)| entry.revents != 0);
        for (entry, &key) in fired.take(found) {
            if events.is_full() {
                // The rest stays armed: the next poll finds it again.
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
            .under_way
            .iter()
            .position(|&other| other == version)
            .expect("it was put there");
        set.under_way.swap_remove(own);
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
    /// Arms directions of `fd`. True if the kernel must be asked for more than before.
    fn arm(&mut self, fd: i32, token: TaggedPtr, directions: Ready) -> bool {
        let Some(slot) = self.table.at(fd).filter(|slot| slot.token == token) else {
            return false;
        };
        if slot.state.armed.contains(directions) {
            return false;
        }
        if slot.state.armed.is_empty() {
            slot.state.place = self.armed.fds.len();
            let number = if slot.state.erred { !fd } else { fd };
            if slot.state.erred && self.rest_until == 0 {
                self.rest_until = Linux::new().now() + REST;
            }
            self.armed.fds.push(libc::pollfd {
                fd: number,
                events: 0,
                revents: 0,
            });
            self.armed.keys.push(slot.key);
        }
        slot.state.armed |= directions;
        self.armed.fds[slot.state.place].events = levels(slot.state.armed).bits() as i16;
        self.version += 1;
        true
    }

    /// Ends the rest of those that have rested. How long the others still rest.
    fn rest(&mut self) -> Option<Nanos> {
        if self.rest_until == 0 {
            return None;
        }
        let left = self.rest_until - Linux::new().now();
        if left > 0 {
            return Some(left);
        }
        self.rest_until = 0;
        for entry in self.armed.fds.iter_mut().filter(|entry| entry.fd < 0) {
            entry.fd = !entry.fd;
        }
        None
    }

    /// Disarms what an event has reported.
    fn fire(&mut self, key: Key, ready: Ready, erred: bool) {
        if let Some(mut slot) = self.table.empty(key.fd()) {
            slot.state.erred = erred;
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
            self.armed.fds[watched.place].events = levels(watched.armed).bits() as i16;
            return;
        }
        self.version += 1;
        watched.left = self.version;
        self.armed.fds.swap_remove(watched.place);
        self.armed.keys.swap_remove(watched.place);
        // The last entry has moved here, unless it was this one.
        if let Some(&moved) = self.armed.keys.get(watched.place) {
            self.table
                .get(moved)
                .expect("what is armed is open")
                .state
                .place = watched.place;
        }
    }
}

impl Snapshot {
    /// How long to wait, and whether that is less than `delay`.
    fn limit(&self, delay: Delay) -> (Delay, bool) {
        match (self.rest, delay) {
            (Some(rest), Delay::Forever) => (Delay::AtMost(rest), true),
            (Some(rest), Delay::AtMost(limit)) if rest < limit => (Delay::AtMost(rest), true),
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
        // SAFETY: `fds` is writable for its length, `limit` is null or points to a timespec that outlives the call, and the null mask
        // leaves signals as they are.
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

/// The table on [`Ready`]. A number that is not open any more counts as an end: whoever waits asks the system, which says `EBADF`.
fn mask(revents: i16) -> Mask {
    if revents & libc::POLLNVAL != 0 {
        Mask::HUP
    } else {
        Mask::from_bits_retain(u32::from(revents as u16))
    }
}
