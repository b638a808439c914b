//! P: the right to run goroutines, and what goes with it. There are `procs` of them.
//!
//! One M holds a P and uses it. Other threads steal from its ring, arm timers in its heap, fire
//! late ones (sysmon) and read its counters. A P changes its holder only as `sched/handoff` says.

use crate::counter::Count;
use crate::polldesc::FreeDescs;
use crate::runq::Ring;
use crate::stack::SlotCache;
use crate::sync::{AtomicU32, Lock, Ordering};
use crate::timer::Heap;

pub(crate) struct P {
    /// From 0.
    pub(crate) index: usize,
    /// Goroutines that any M may run: those that have not started and, in a migrating scheduler,
    /// all that are runnable.
    pub(crate) ring: Ring,
    pub(crate) timers: Heap,
    /// The index of the poller that descriptors join which are first waited for on this P.
    pub(crate) poller: usize,
    /// Free stacks. Only the holder of the P takes this lock, so it is never contended.
    pub(crate) slots: Lock<SlotCache>,
    /// Free poll descriptors. Goroutines that run on the P lock them.
    pub(crate) descs: Lock<FreeDescs>,
    /// How often its M has looked for a goroutine: once a turn, at least. Written by the holder.
    pub(crate) tick: Count,
    /// How often its M has polled. Written by the holder.
    pub(crate) polls: Count,
    /// Events that these polls brought. Written by the holder.
    pub(crate) events: Count,
    /// The index of the M that holds it, or to which it is granted. All accesses are
    /// read-modify-writes: see `holder`.
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
            descs: Lock::new(FreeDescs::default()),
            tick: Count::new(),
            polls: Count::new(),
            events: Count::new(),
            holder: AtomicU32::new(index as u32),
            random: AtomicU32::new(index as u32 * 2 + 1),
        }
    }

    /// The index of the M that holds this P, or to which it is granted.
    ///
    /// The caller has changed something that the holder looks at before it sleeps, and then
    /// notifies that M. Both this and `set_holder` are read-modify-writes. If this comes first, the
    /// new holder acquires the change and sees it; otherwise this finds the new holder.
    pub(crate) fn holder(&self) -> usize {
        self.holder.fetch_add(0, Ordering::AcqRel) as usize
    }

    pub(crate) fn set_holder(&self, m: usize) {
        self.holder.swap(m as u32, Ordering::AcqRel);
    }

    /// A cheap random number, for the order in which the M steals from others. Called by the
    /// holder.
    pub(crate) fn random(&self) -> u32 {
        let mut x = self.random.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.random.store(x, Ordering::Relaxed);
        x
    }
}
