//! The text of reports.

use crate::os::ThreadState;
use crate::sched::{Report, SchedTrace, StallReport, THREAD_LIMITS};
use core::fmt;

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Report::Stall(stall) => stall.fmt(f),
            Report::Asked => f.write_str("a report was asked for"),
            // Go's words.
            Report::Deadlock => f.write_str("all goroutines are asleep - deadlock!"),
            Report::Rescue { waiter, waker } => {
                write!(
                    f,
                    "{waiter} blocked its thread in a lock of std while other goroutines waited \
                     for that thread; so it was parked, until "
                )?;
                match waker {
                    Some(waker) => waker.fmt(f)?,
                    None => f.write_str("a thread")?,
                }
                f.write_str(
                    " woke it: waits for that lock park from now on; those for the locks of \
                     gopark::sync always do",
                )
            }
            Report::NoThread { threads, refused } => {
                write!(f, "all {threads} threads are kept busy, and ")?;
                match refused {
                    None => f.write_str("no more are allowed (Builder::max_threads)")?,
                    Some(errno) => {
                        write!(f, "the system refuses another ({errno}; {THREAD_LIMITS})")?
                    }
                }
                f.write_str(
                    ": other goroutines wait; hand what blocks or computes to gopark::blocking",
                )
            }
            Report::PoolFull {
                threads,
                waiting,
                refused,
            } => {
                write!(f, "gopark::blocking has {threads} threads, ")?;
                match refused {
                    None => f.write_str(
                        "all busy for a second, and no more are allowed (Builder::max_threads)",
                    )?,
                    Some(errno) => write!(
                        f,
                        "and the system refuses another ({errno}; {THREAD_LIMITS})"
                    )?,
                }
                match (threads, waiting) {
                    (0, _) => {
                        f.write_str(": work runs on the threads of the goroutines that call it")
                    }
                    (_, 0) => Ok(()),
                    (_, 1) => f.write_str(": 1 call waits for one"),
                    _ => write!(f, ": {waiting} calls wait for one"),
                }
            }
            Report::Trace(trace) => trace.fmt(f),
        }
    }
}

impl fmt::Display for StallReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "goroutine {}", self.id)?;
        if let Some(name) = &self.name {
            write!(f, " \"{name}\"")?;
        }
        write!(
            f,
            ", spawned at {}, keeps its thread for {} ms ",
            self.site,
            self.lasts / 1_000_000
        )?;
        match self.doing {
            ThreadState::Running => f.write_str("computing")?,
            ThreadState::Blocked(Some(number)) => write!(f, "in system call {number}")?,
            ThreadState::Blocked(None) => f.write_str("in a system call")?,
            ThreadState::Unknown => f.write_str("so far")?,
        }
        match self.waiting {
            0 => Ok(()),
            1 => f.write_str("; 1 goroutine waits for it"),
            waiting => write!(f, "; {waiting} goroutines wait for it"),
        }
    }
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
            "spinningthreads={spinning_threads} needspinning=0 idlethreads={idle_threads} \
             runqueue={global_queue} [ "
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

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use core::time::Duration;

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
            "SCHED 1004ms: gomaxprocs=2 idleprocs=1 threads=5 spinningthreads=1 needspinning=0 \
             idlethreads=2 runqueue=7 [ 3 0 ] schedticks=[ 40 1066 ]"
        );
    }
}
