//! P: the right to run goroutines, and what goes with it. There are `max_procs` of them.
//!
//! A P is used by the one M that holds it; other threads only steal from its ring, arm timers in its heap and sum its counters.

use crate::runq::Ring;
use crate::stack::SlotCache;
use crate::sync::{AtomicU32, AtomicU64, Lock, Ordering};
use crate::timer::Heap;

pub(crate) struct P {
    pub(crate) index: usize,
    /// Goroutines that may run on any M: not yet started ones, and all ready ones in a migrating scheduler.
    pub(crate) ring: Ring,
    pub(crate) timers: Heap,
    /// Which of the scheduler's pollers this P's descriptors join.
    pub(crate) poller: usize,
    /// Free stacks. Only the holder of the P takes this lock, so it never waits.
    pub(crate) slots: Lock<SlotCache>,
    /// Promised stacks not yet used by a spawn.
    pub(crate) promises: Count,
    /// Goroutines resumed, those that inherit a time slice left out.
    pub(crate) tick: Count,
    pub(crate) spawned: Count,
    pub(crate) finished: Count,
    /// Goroutines that began to wait in a poller, and that went on.
    pub(crate) poll_waits: Count,
    pub(crate) poll_resumes: Count,
    random: AtomicU32,
}

impl P {
    pub(crate) fn new(index: usize, poller: usize) -> Self {
        P {
            index,
            ring: Ring::new(),
            timers: Heap::new(index),
            poller,
            slots: Lock::new(SlotCache::new()),
            promises: Count::new(),
            tick: Count::new(),
            spawned: Count::new(),
            finished: Count::new(),
            poll_waits: Count::new(),
            poll_resumes: Count::new(),
            random: AtomicU32::new(index as u32 * 2 + 1),
        }
    }

    /// A cheap random number, for the order of victims.
    pub(crate) fn random(&self) -> u32 {
        let mut x = self.random.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.random.store(x, Ordering::Relaxed);
        x
    }
}

/// A number with one writer, the holder of the P, and any number of readers: no read-modify-write.
pub(crate) struct Count(AtomicU64);

impl Count {
    fn new() -> Self {
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

    /// Adds one and returns the sum.
    #[inline]
    pub(crate) fn bump(&self) -> u64 {
        let next = self.get() + 1;
        self.set(next);
        next
    }
}
