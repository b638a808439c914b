//! schedtrace: one line about the scheduler every so often, in Go's words.

use super::{Report, Sched};
use crate::os::Nanos;
use crate::timer::NEVER;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

/// What a scheduler is doing at one moment. As text it is the line that Go prints for `GODEBUG=schedtrace=…`.
///
/// Two numbers mean a little else than Go's: a proc without work keeps its thread here, which therefore counts among `idlethreads`, and
/// there is no `needspinning`, which is always 0.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SchedTrace {
    /// Time since the start.
    pub elapsed: Duration,
    /// How many goroutines run at once.
    pub max_procs: usize,
    /// Procs that have nothing to run.
    pub idle_procs: usize,
    /// Threads that run goroutines, and sysmon.
    pub threads: usize,
    /// Threads that look for goroutines to run.
    pub spinning_threads: usize,
    /// Threads that sleep because there is nothing to run.
    pub idle_threads: usize,
    /// Length of the queue that all procs share.
    pub global_queue: usize,
    /// Lengths of the procs' own queues.
    pub local_queues: Vec<u64>,
    /// How often each proc looked for a goroutine to run.
    pub ticks: Vec<u64>,
}

impl fmt::Display for SchedTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SchedTrace {
            elapsed,
            max_procs,
            idle_procs,
            threads,
            spinning_threads,
            idle_threads,
            global_queue,
            ..
        } = self;
        write!(
            f,
            "SCHED {}ms: gomaxprocs={max_procs} idleprocs={idle_procs} threads={threads} ",
            elapsed.as_millis()
        )?;
        write!(
            f,
            "spinningthreads={spinning_threads} needspinning=0 idlethreads={idle_threads} runqueue={global_queue} [ "
        )?;
        self.local_queues
            .iter()
            .try_for_each(|len| write!(f, "{len} "))?;
        f.write_str("] schedticks=[ ")?;
        self.ticks
            .iter()
            .try_for_each(|tick| write!(f, "{tick} "))?;
        f.write_str("]")
    }
}

/// How often sysmon reports what the scheduler is doing.
#[derive(Clone, Copy, Debug)]
pub struct Every {
    period: Nanos,
    look: fn(&'static Sched, &mut Schedule, Nanos),
}

impl Every {
    /// So often; more than 0.
    pub fn nanos(period: Nanos) -> Self {
        Every {
            period,
            look: Sched::report_trace,
        }
    }
}

/// When the lines of one scheduler are due.
pub(super) struct Schedule {
    every: Option<Every>,
    start: Nanos,
    next: Nanos,
}

impl Schedule {
    /// The first line comes at once, as in Go.
    pub(super) fn new(every: Option<Every>, now: Nanos) -> Self {
        Schedule {
            every,
            start: now,
            next: now,
        }
    }

    /// The time until the next line.
    pub(super) fn until_next(&self, now: Nanos) -> Nanos {
        self.every.map_or(NEVER, |_| (self.next - now).max(0))
    }
}

impl Sched {
    /// Reports a line if one is due. Called by sysmon.
    pub(super) fn trace_if_due(&'static self, schedule: &mut Schedule, now: Nanos) {
        if let Some(every) = schedule.every {
            (every.look)(self, schedule, now);
        }
    }

    fn report_trace(&'static self, schedule: &mut Schedule, now: Nanos) {
        let Some(Every { period, .. }) = schedule.every.filter(|_| now >= schedule.next) else {
            return;
        };
        // One that was missed is not made up for.
        schedule.next += ((now - schedule.next) / period + 1) * period;
        let elapsed = Duration::from_nanos((now - schedule.start) as u64);
        (self.config.report)(self, Report::Trace(&self.sched_trace(elapsed)));
    }

    fn sched_trace(&self, elapsed: Duration) -> SchedTrace {
        let (idle_procs, spinning_threads) = self.idlers.count();
        SchedTrace {
            elapsed,
            max_procs: self.config.procs,
            idle_procs,
            threads: self.ms().count() + 1,
            spinning_threads,
            idle_threads: idle_procs + self.exchange.spares(),
            global_queue: self.global.len(),
            local_queues: self.ps.iter().map(|p| self.queue_len(p)).collect(),
            ticks: self.ps.iter().map(|p| p.tick.get()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;

    #[test]
    fn the_line_is_gos() {
        let trace = SchedTrace {
            elapsed: Duration::from_micros(1_004_999),
            max_procs: 2,
            idle_procs: 1,
            threads: 5,
            spinning_threads: 1,
            idle_threads: 2,
            global_queue: 7,
            local_queues: vec![3, 0],
            ticks: vec![40, 1066],
        };
        assert_eq!(
            trace.to_string(),
            "SCHED 1004ms: gomaxprocs=2 idleprocs=1 threads=5 spinningthreads=1 needspinning=0 idlethreads=2 runqueue=7 [ 3 0 ] \
             schedticks=[ 40 1066 ]"
        );
    }
}
