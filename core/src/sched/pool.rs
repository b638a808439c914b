//! The pool of `blocking` as sysmon sees it: it reports a pool that has no thread to spare.

use super::{Report, Sched};
use crate::os::{Errno, Nanos};
use crate::sync::{AtomicI32, AtomicUsize, Ordering};

/// Nanoseconds that jobs may wait before sysmon reports it. Jobs that block for some milliseconds
/// each make others wait for moments, which is no reason for a report.
const PATIENCE: Nanos = 1_000_000_000;

/// What pools count.
#[derive(Default)]
pub(crate) struct PoolCounts {
    /// Threads, which never end. Each is counted once it exists.
    pub(crate) threads: AtomicUsize,
    /// Jobs that are not done. Each is counted out after the goroutine that waits for it was
    /// readied.
    pub(crate) jobs: AtomicUsize,
    /// The errno with which the system last refused a thread, or 0 if it gave one.
    pub(crate) refused: AtomicI32,
}

impl PoolCounts {
    /// Jobs that no thread has begun, about: the two numbers are read one after the other.
    fn waiting(&self) -> usize {
        self.jobs
            .load(Ordering::Relaxed)
            .saturating_sub(self.threads.load(Ordering::Relaxed))
    }
}

/// What sysmon remembers of the pool from look to look.
#[derive(Default)]
pub(super) struct PoolWatch {
    /// Since when jobs have waited without a break.
    since: Option<Nanos>,
    /// Whether it was reported that jobs wait, and that the system refuses threads.
    told_full: bool,
    told_refused: bool,
}

impl Sched {
    /// How long sysmon may sleep before it must look at the pool: `None` if no job waits.
    pub(super) fn pool_patience(&self) -> Option<Nanos> {
        (self.pool.waiting() > 0).then_some(PATIENCE)
    }

    /// Reports that jobs have waited for too long, once until half of the threads are free again,
    /// and that the system refuses threads, once until it gives one. Called by sysmon.
    pub(super) fn look_at_pool(&'static self, watch: &mut PoolWatch, now: Nanos) {
        let (waiting, refused) = (
            self.pool.waiting(),
            self.pool.refused.load(Ordering::Relaxed),
        );
        let (jobs, threads) = (
            self.pool.jobs.load(Ordering::Relaxed),
            self.pool.threads.load(Ordering::Relaxed),
        );
        watch.since = if waiting == 0 {
            None
        } else {
            watch.since.or(Some(now))
        };
        watch.told_full &= 2 * jobs > threads;
        watch.told_refused &= refused != 0;
        let full = watch.since.is_some_and(|since| now - since >= PATIENCE);
        let refused = (refused != 0).then_some(Errno::new(refused));
        if (full && !watch.told_full) || (refused.is_some() && !watch.told_refused) {
            (watch.told_full, watch.told_refused) = (full, refused.is_some());
            (self.config.report)(
                self,
                Report::PoolFull {
                    threads,
                    waiting,
                    refused,
                },
            );
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn calls_that_wait_for_the_pool_are_told_if_there_are_any() {
        let told = |waiting| {
            Report::PoolFull {
                threads: 3,
                waiting,
                refused: Some(Errno::new(11)),
            }
            .to_string()
        };
        assert!(!told(0).contains("wait"), "{}", told(0));
        assert!(told(1).ends_with(": 1 call waits for one"));
        assert!(told(2).ends_with(": 2 calls wait for one"));
    }
}
