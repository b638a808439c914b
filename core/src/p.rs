//! P: the right to run goroutines, and what goes with it. There are `max_procs` of them.
//!
//! A P is used by the one M that holds it; other threads only steal from its ring, arm timers in its heap (sysmon also fires late ones) and read
//! its counters. It changes its holder only as `sched/handoff` says.

use crate::os::Nanos;
use crate::runq::Ring;
use crate::stack::SlotCache;
use crate::sync::{AtomicU32, AtomicU64, Lock, Ordering, unmodeled};
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
    /// Goroutines resumed, those that inherit a time slice left out.
    pub(crate) tick: Count,
    /// How often its poller was asked on its behalf.
    pub(crate) polls: Count,
    /// Events that these brought.
    pub(crate) events: Count,
    /// The M that holds it. Moved by read-modify-writes: see `Sched::look_again`.
    holder: AtomicU32,
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
            tick: Count::new(),
            polls: Count::new(),
            events: Count::new(),
            holder: AtomicU32::new(index as u32),
            random: AtomicU32::new(index as u32 * 2 + 1),
        }
    }

    /// The M that holds this P, or is being given it. Whoever changed something that the M looks at before it sleeps finds the M that will look.
    pub(crate) fn holder(&self) -> usize {
        self.holder.fetch_add(0, Ordering::AcqRel) as usize
    }

    pub(crate) fn set_holder(&self, m: usize) {
        self.holder.swap(m as u32, Ordering::AcqRel);
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

/// A time that sysmon keeps, for those who do not need the clock's own: it costs a load. A hint, and so the machine's word in a model, too.
pub(crate) struct CoarseClock(unmodeled::AtomicI64);

impl CoarseClock {
    pub(crate) fn new() -> Self {
        CoarseClock(unmodeled::AtomicI64::new(0))
    }

    /// 0 if nobody keeps it.
    #[inline]
    pub(crate) fn get(&self) -> Nanos {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, now: Nanos) {
        self.0.store(now, Ordering::Relaxed);
    }
}

/// A number with one writer, the holder of the P or the thread of the M, and any number of readers: no read-modify-write.
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

    /// Adds one and returns the sum.
    #[inline]
    pub(crate) fn bump(&self) -> u64 {
        let next = self.get() + 1;
        self.set(next);
        next
    }
}
