//! Numbers that one thread writes and any thread reads, without a read-modify-write.

use crate::os::Nanos;
/// A statistic with several writers, or one that a lock orders. Loom does not model it: no decision
/// depends on it, and it would only enlarge the state space.
pub(crate) use crate::sync::unmodeled::AtomicU64 as UnmodeledCount;
use crate::sync::{AtomicU64, Ordering, unmodeled};

/// A number with one writer: the thread of the M or the holder of the P that it belongs to.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn new() -> Self {
        Count(AtomicU64::new(0))
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, more: u64) {
        self.set(self.get() + more);
    }

    /// Adds 1 and returns the sum.
    #[inline]
    pub(crate) fn bump(&self) -> u64 {
        let next = self.get() + 1;
        self.set(next);
        next
    }
}

/// How many numbers an M takes at once from a counter that all share: Go's number.
const BLOCK: u64 = 16;

/// Numbers that no other thread has: a block of those of a shared counter. Used by one thread. If
/// each number came from the counter, its cache line would move between the CPUs for each.
#[derive(Default)]
pub(crate) struct Numbers {
    next: Count,
    end: Count,
}

impl Numbers {
    pub(crate) fn take(&self, counter: &UnmodeledCount) -> u64 {
        if self.next.get() == self.end.get() {
            let first = counter.fetch_add(BLOCK, Ordering::Relaxed);
            self.next.set(first);
            self.end.set(first + BLOCK);
        }
        self.next.bump() - 1
    }
}

/// A time of the monotonic clock that sysmon writes and others read for the price of a load. Loom
/// does not model it.
pub(crate) struct CoarseClock(unmodeled::AtomicI64);

impl CoarseClock {
    pub(crate) fn new() -> Self {
        CoarseClock(unmodeled::AtomicI64::new(0))
    }

    /// The time. 0 if sysmon has never written it.
    #[inline]
    pub(crate) fn get(&self) -> Nanos {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, now: Nanos) {
        self.0.store(now, Ordering::Relaxed);
    }
}
