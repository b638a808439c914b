//! Deadlock: nothing will ever wake a goroutine or a thread of the process again.
//!
//! Go knows because it starts every thread itself. Here any thread of the process may ready a
//! goroutine. So besides what could wake one from within (`is_quiescent`), this accounts for every
//! thread of the process: each must be one that only another thread of the process can wake
//! (`quiescent_threads`).
//!
//! The race: a thread is counted that runs. It counts itself after it can be found by the thread
//! that wakes it, and that thread counts it out before it wakes it. So no thread that runs is
//! counted.

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

/// Whether every thread of the process waits for another one. The caller is sysmon, the exception.
fn is_dead(sched: &'static Sched, system: &dyn Observe) -> bool {
    let asleep = sched.quiescent_threads();
    system.threads() == Some(asleep) && sched.has_sleepers() && sched.is_quiescent()
}
