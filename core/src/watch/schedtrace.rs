//! schedtrace: Go's line about the scheduler, every period.

use crate::os::Nanos;
use crate::sched::{Report, Sched, SchedTraceInterval, SchedTraceTimer};
use core::time::Duration;

impl SchedTraceInterval {
    /// A line every `period`, which is more than 0.
    pub fn new(period: Nanos) -> Self {
        SchedTraceInterval {
            period,
            look: report_if_due,
        }
    }
}

fn report_if_due(sched: &'static Sched, schedule: &mut SchedTraceTimer, now: Nanos) {
    let Some(SchedTraceInterval { period, .. }) = schedule.every.filter(|_| now >= schedule.next)
    else {
        return;
    };
    // Lines that were due while sysmon slept are left out.
    schedule.next += ((now - schedule.next) / period + 1) * period;
    let elapsed = Duration::from_nanos((now - schedule.start) as u64);
    sched.report(Report::Trace(&sched.sched_trace(elapsed)));
}
