//! Deadlock: nobody will ever run again.
//!
//! Go knows when that is so because it makes all threads itself. Here any thread of the process could wake a goroutine. So besides what can
//! wake one from within (a timer, a poller, work in a pool), every thread is accounted for: it is an M asleep, sysmon, an idle one of a
//! pool, reads the trace, or waits in this library until somebody wakes it. Such a thread counts from after it can be found by who wakes it until before it is
//! woken, so at no time is one counted that runs.
//!
//! The race: a goroutine does something between two looks, and is asleep again where the first look was. Whoever has run since has moved the
//! tick of a P.

use super::{Report, Sched};
use crate::os::Observe;
use crate::sync::Ordering;
use core::fmt;

/// How it is found out that nobody will ever run again.
#[derive(Clone, Copy)]
pub struct Deadlocks {
    system: &'static dyn Observe,
    look: fn(&'static Sched, &'static dyn Observe) -> bool,
}

impl fmt::Debug for Deadlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deadlocks")
    }
}

impl Deadlocks {
    /// By counting the threads of the process, as `system` does.
    pub fn new(system: &'static dyn Observe) -> Self {
        Deadlocks {
            system,
            look: Sched::look_for_deadlock,
        }
    }
}

impl Sched {
    /// Reports a deadlock if there is one. True if there may be one, as far as is known within. Called by sysmon.
    pub(super) fn doubts(&'static self) -> bool {
        self.config
            .deadlocks
            .is_some_and(|Deadlocks { system, look }| look(self, system))
    }

    fn look_for_deadlock(&'static self, system: &'static dyn Observe) -> bool {
        let still = self.is_still();
        if still && self.has_sleepers() && self.is_dead(system) {
            (self.config.report)(self, Report::Deadlock);
        }
        // Also without sleepers: an ordinary thread that begins to wait does not wake sysmon.
        still
    }

    /// Whether a goroutine or a thread waits in this library.
    fn has_sleepers(&self) -> bool {
        self.num_goroutines() > 0 || self.ordinary.dormant.load(Ordering::Acquire) > 0
    }

    /// Whether nothing within the scheduler will wake anybody.
    #[doc(alias = "checkdead")]
    fn is_still(&'static self) -> bool {
        let ticks = self.ticks();
        self.idlers.all_idle(self.config.procs)
            && self.ms().all(|m| m.wake.is_asleep())
            && !self.exchange.is_wanted()
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

    /// Whether, besides, no thread of the process is awake that could. Sysmon is one, and asks.
    fn is_dead(&'static self, system: &dyn Observe) -> bool {
        let pool = self.pool.threads.load(Ordering::Acquire);
        let dormant = self.ordinary.dormant.load(Ordering::Acquire).max(0) as usize;
        let accounted = self.ms().count() + 1 + pool + dormant + self.trace_readers();
        system.threads() == Some(accounted) && self.has_sleepers() && self.is_still()
    }

    fn ticks(&self) -> u64 {
        self.ps.iter().map(|p| p.tick.get()).sum()
    }
}
