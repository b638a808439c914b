//! P: the right to run goroutines, and what goes with it. There are `max_procs` of them.
//!
//! A P is used by the one M that holds it; other threads only steal from its ring, arm timers in its heap (sysmon also fires late ones) and read
//! its counters. It changes its holder only as `sched/handoff` says.

use crate::counter::Count;
use crate::runq::Ring;
use crate::stack::SlotCache;
use crate::sync::{AtomicU32, Lock, Ordering};
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
