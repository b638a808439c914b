//! Deadlock: nothing will ever wake a goroutine or a thread of the process again.
//!
//! Go knows because it starts every thread itself. Here any thread of the process may ready a
//! goroutine. So after the scheduler's own sources of work (`is_quiescent`), this accounts for
//! every thread of the process: it must be sysmon or a thread that sleeps until another thread
//! wakes it (`quiescent_threads`).
//!
//! The race: a thread that runs must not count as asleep. A thread adds itself to the count once
//! the thread that will wake it can find it, and that thread subtracts it before it wakes it. So
//! the count is too low for a moment, and never too high.

use crate::os::Observe;
use crate::sched::{Deadlocks, Report, Sched};

impl Deadlocks {
    /// Detects them by counting the threads of the process, as `system` does.
    pub fn new(system: &'static dyn Observe) -> Self {
        Deadlocks { system, look }
    }
}

fn look(sched: &'static Sched, system: &'static dyn Observe) -> bool {
    let quiescent = sched.is_quiescent();
    if quiescent && sched.has_sleepers() && is_dead(sched, system) {
        sched.report(Report::Deadlock);
    }
    // Also without sleepers: an ordinary thread that begins to wait does not wake sysmon.
    quiescent
}

/// Whether every thread of the process but sysmon, the caller, sleeps until another thread wakes
/// it.
fn is_dead(sched: &'static Sched, system: &dyn Observe) -> bool {
    let asleep = sched.quiescent_threads();
    system.threads() == Some(asleep) && sched.has_sleepers() && sched.is_quiescent()
}
