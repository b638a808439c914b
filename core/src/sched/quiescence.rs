//! Quiescence: no goroutine runs, and nothing within the scheduler will wake one.
//!
//! Only a thread that is none of the scheduler's can then end it: it readies or spawns a goroutine.

use super::Sched;
use crate::sync::Ordering;

impl Sched {
    /// Whether a goroutine or a thread waits in this library.
    pub(crate) fn has_sleepers(&self) -> bool {
        self.num_goroutines() > 0 || self.ordinary.dormant.load(Ordering::Acquire) > 0
    }

    /// Whether nothing within the scheduler will wake a goroutine or a thread.
    ///
    /// This reads many words one after the other. A goroutine that runs between two of the reads
    /// and sleeps again has moved the tick of a P, which is read first and last.
    #[doc(alias = "checkdead")]
    pub(crate) fn is_quiescent(&'static self) -> bool {
        let ticks = self.ticks();
        self.idlers.all_idle(self.config.procs)
            && self.ms().all(|m| m.wake.is_asleep())
            && !self.without_p.is_wanted()
            && self.global.is_empty()
            && self
                .ps
                .iter()
                .all(|p| p.ring.is_empty() && p.timers.next().is_none())
            && self.pool.jobs.load(Ordering::Acquire) == 0
            && self.num_poll_waiters() == 0
            && self.idlers.all_idle(self.config.procs)
            && self.ticks() == ticks
    }

    fn ticks(&self) -> u64 {
        self.ps.iter().map(|p| p.tick.get()).sum()
    }

    /// While [`is_quiescent`](Self::is_quiescent): threads that only this process can wake. They
    /// are the Ms, sysmon, those of the pool, a reader of the trace, and ordinary threads that wait
    /// in this library.
    pub(crate) fn quiescent_threads(&self) -> usize {
        let pool = self.pool.threads.load(Ordering::Acquire);
        let dormant = self.ordinary.dormant.load(Ordering::Acquire).max(0) as usize;
        self.ms().count() + 1 + pool + dormant + self.trace_readers()
    }
}
