//! Which lock of the system the goroutine on an M waits for, while that wait blocks the M's thread.
//!
//! A goroutine that waits for a lock of `std` blocks its thread at first (`futex`). It notes the
//! wait on its M before, so that sysmon can end it if other goroutines need the thread, and so that
//! reports and dumps can say what kind of lock it is. A watcher reads one word after the other. If
//! the wait ends before it has read all, it acts on an old one: sleepers wake once in vain.

use crate::counter::CoarseClock;
use crate::os::Nanos;
use crate::sync::unmodeled::AtomicU32;
use crate::sync::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

/// What kind of wait blocks a thread in a futex.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// Of a lock, condition variable or initializer of `std`. It may be ended at any time.
    Std,
    /// The same, where the goroutine must not park: its code forbids it, it unwinds, or the lock is
    /// in a thread-local.
    Forbidden,
    /// Of `std::thread::park`, which `std`'s channels and many libraries use to wait.
    ThreadPark,
    /// Of another library that calls the system itself, such as `parking_lot`.
    Other,
}

/// A wait that blocks the thread of an M. Written by that thread.
pub(crate) struct LockWait {
    /// The address of the futex, or 0 without a wait.
    address: AtomicUsize,
    kind: AtomicU8,
    /// Whether it has a time limit.
    limited: AtomicBool,
    /// How many goroutines are in the home queue of the M, which only its own thread reads.
    neighbours: AtomicU32,
    since: CoarseClock,
    /// Not before this time is the wait ended again. Written by sysmon, too.
    again: CoarseClock,
}

/// A [`LockWait`] as a watcher has read it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocked {
    pub(crate) address: usize,
    pub(crate) kind: LockKind,
    pub(crate) limited: bool,
    pub(crate) neighbours: u32,
    pub(crate) since: Nanos,
    pub(crate) again: Nanos,
}

impl LockWait {
    pub(crate) fn new() -> Self {
        LockWait {
            address: AtomicUsize::new(0),
            kind: AtomicU8::new(0),
            limited: AtomicBool::new(false),
            neighbours: AtomicU32::new(0),
            since: CoarseClock::new(),
            again: CoarseClock::new(),
        }
    }

    /// The thread is about to wait.
    pub(crate) fn begin(
        &self,
        address: usize,
        (kind, limited): (LockKind, bool),
        neighbours: u32,
        now: Nanos,
    ) {
        self.limited.store(limited, Ordering::Relaxed);
        self.kind.store(kind as u8, Ordering::Relaxed);
        self.neighbours.store(neighbours, Ordering::Relaxed);
        self.since.set(now);
        self.again.set(now);
        // Release pairs with the Acquire in `get`: a watcher that sees the address sees the rest.
        self.address.store(address, Ordering::Release);
    }

    /// The wait has ended.
    pub(crate) fn end(&self) {
        self.address.store(0, Ordering::Relaxed);
    }

    /// The wait, if there is one.
    pub(crate) fn get(&self) -> Option<Blocked> {
        let address = self.address.load(Ordering::Acquire);
        (address != 0).then(|| Blocked {
            address,
            kind: match self.kind.load(Ordering::Relaxed) {
                0 => LockKind::Std,
                1 => LockKind::Forbidden,
                2 => LockKind::ThreadPark,
                _ => LockKind::Other,
            },
            limited: self.limited.load(Ordering::Relaxed),
            neighbours: self.neighbours.load(Ordering::Relaxed),
            since: self.since.get(),
            again: self.again.get(),
        })
    }

    /// The wait was told to end. It is not told again before `when`.
    pub(crate) fn postpone(&self, when: Nanos) {
        self.again.set(when);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_reads_the_wait_that_goes_on() {
        let wait = LockWait::new();
        assert!(wait.get().is_none());
        for kind in [
            LockKind::Std,
            LockKind::Forbidden,
            LockKind::ThreadPark,
            LockKind::Other,
        ] {
            wait.begin(0x1000, (kind, true), 3, 50);
            let blocked = wait.get().expect("the wait goes on");
            assert_eq!((blocked.address, blocked.kind), (0x1000, kind));
            assert!(blocked.limited);
            assert_eq!(
                (blocked.neighbours, blocked.since, blocked.again),
                (3, 50, 50)
            );
        }
        wait.postpone(70);
        assert_eq!(wait.get().map(|blocked| blocked.again), Some(70));
        wait.end();
        assert!(wait.get().is_none());
    }
}
