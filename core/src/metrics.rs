//! What a scheduler has done and is doing, in figures: the plain structure that a reader gets, and what latencies are recorded in.
//!
//! The counters behind it have one writer each (`Count`), so that counting costs an addition; a reader sums them up. Since it stops nobody,
//! it may see the two ends of a change at different times: [`Metrics`] says how exact each figure is.

use crate::counter::{Count, UnmodeledCount};
use crate::os::Nanos;
use crate::sync::Ordering;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

/// Figures of one runtime. Those that count what happened never go down, and begin at zero when it starts.
///
/// All are exact while nothing runs but the reader, and miss nothing in the long run. While others run, a figure may be off by as many as
/// changed during the read, which takes some microseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// Goroutines that exist: spawned, and not yet returned. The next four add up to it.
    #[doc(alias = "/sched/goroutines:goroutines")]
    pub goroutines: u64,
    /// Goroutines that wait for their first turn.
    pub goroutines_not_started: u64,
    /// Goroutines that have run before and wait for a turn.
    #[doc(alias = "/sched/goroutines/runnable:goroutines")]
    pub goroutines_runnable: u64,
    /// Goroutines on a thread: they run, compute, or are blocked in the system.
    #[doc(alias = "/sched/goroutines/running:goroutines")]
    pub goroutines_running: u64,
    /// Goroutines that are parked: for a descriptor, a timer, another goroutine, or work given to `blocking`.
    #[doc(alias = "/sched/goroutines/waiting:goroutines")]
    pub goroutines_waiting: u64,
    /// Goroutines, and ordinary threads, that wait for a descriptor.
    pub poll_waiters: u64,
    /// Goroutines spawned.
    #[doc(alias = "/sched/goroutines-created:goroutines")]
    pub goroutines_created: u64,

    /// How many goroutines run at once.
    #[doc(alias = "/sched/gomaxprocs:threads")]
    pub max_procs: u64,
    /// Procs whose thread sleeps, because there is nothing to run.
    pub procs_idle: u64,
    /// Threads started to run goroutines.
    #[doc(alias = "/sched/threads/total:threads")]
    pub threads: u64,
    /// Those of `threads` that have no proc: their goroutine keeps them busy or blocked, or they wait to be needed.
    pub threads_without_proc: u64,
    /// Those of `threads` that look for goroutines to run.
    pub threads_spinning: u64,
    /// Threads started for work that blocks its thread.
    pub pool_threads: u64,

    /// Turns of goroutines that have come to an end: those that parked, yielded or returned.
    pub runs: u64,
    /// Turns that ended because the goroutine had to wait.
    pub parks: u64,
    /// Turns that ended because the goroutine let others go first.
    pub yields: u64,
    /// How often a thread took goroutines out of the queue of another's proc.
    pub steals: u64,
    /// Procs taken from a thread whose goroutine kept it for too long.
    pub handoffs: u64,
    /// How often a poller was asked for events.
    pub polls: u64,
    /// Events that pollers reported.
    pub events: u64,
    /// Calls to the system that end a thread's sleep.
    pub wakes: u64,

    /// Timers that will fire, deadlines included.
    pub timers_armed: u64,
    /// Timers that have fired.
    pub timers_fired: u64,

    /// Length of the queue that all procs share.
    pub global_queue: u64,
    /// Lengths of the procs' own queues, with those of their threads. The latter are up to eight turns old, and without what other threads have
    /// sent meanwhile: `goroutines_runnable` has all.
    pub local_queues: Vec<u64>,

    /// How long goroutines that could run waited for their turn: one turn in eight is measured, as in Go.
    #[doc(alias = "/sched/latencies:seconds")]
    pub latencies: Histogram,

    /// Memory behind the stacks of goroutines, in bytes; free stacks that are kept for the next goroutines are included. With more than 256
    /// stacks an estimate, from 256 of them. `None` if the system does not say.
    pub stack_bytes: Option<u64>,
}

/// How often something took how long.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Histogram {
    /// From short to long, without gaps: Go's, four between each power of two and the next.
    pub buckets: Vec<Bucket>,
    /// All that was measured, added up.
    pub sum: Duration,
}

/// A range of durations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Bucket {
    /// Longer than all of this bucket, and the shortest of the next. The last bucket ends with [`Duration::MAX`].
    pub below: Duration,
    /// How many there were.
    pub count: u64,
}

impl Histogram {
    /// How many were measured.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.count).sum()
    }
}

/// Only the buckets with something in them.
impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Histogram { buckets, sum } = self;
        let some = buckets.iter().filter(|bucket| bucket.count > 0);
        f.debug_map()
            .entries(some.map(|bucket| (bucket.below, bucket.count)))
            .finish()?;
        write!(f, " in all {sum:?}")
    }
}

/// Buckets between one power of two and the next.
const STEPS: usize = 4;

/// 256 ns, below which all steps are of the same width.
const SHORTEST_BITS: u32 = 8;

/// A day and a half. What takes longer is in the last bucket.
const LONGEST_BITS: u32 = 47;

const BUCKETS: usize = (LONGEST_BITS - SHORTEST_BITS + 1) as usize * STEPS + 1;

/// The width of the shortest ones: 64 ns.
const NARROWEST_BITS: u32 = SHORTEST_BITS - STEPS.ilog2();

/// The bucket that a duration belongs to. Up to the second power of two all are as narrow.
fn bucket(nanos: Nanos) -> usize {
    const LEAST: u64 = 1 << SHORTEST_BITS;
    let nanos = nanos.max(0) as u64;
    let octave = (nanos | LEAST).ilog2() - SHORTEST_BITS;
    (octave as usize * STEPS + (nanos >> (octave + NARROWEST_BITS)) as usize).min(BUCKETS - 1)
}

/// Where a bucket ends.
fn below(bucket: usize) -> Duration {
    if bucket + 1 == BUCKETS {
        return Duration::MAX;
    }
    let octave = ((bucket + 1) / STEPS).saturating_sub(1);
    Duration::from_nanos(((bucket + 1 - octave * STEPS) as u64) << (octave as u32 + NARROWEST_BITS))
}

/// What goroutines did on one M. Written on its thread.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) spawned: Count,
    pub(crate) finished: Count,
    /// Waits in a poller that began.
    pub(crate) poll_waits: Count,
    /// Waits in a poller that ended.
    pub(crate) poll_resumes: Count,
    /// Goroutines that ran for the first time.
    pub(crate) started: Count,
    pub(crate) parked: Count,
    pub(crate) yielded: Count,
    pub(crate) readied: Count,
    /// Times it stole from another P.
    pub(crate) steals: Count,
    /// The length of the home queue, up to eight turns old.
    pub(crate) queued: Count,
    /// Goroutines that must start on this M and have not run yet.
    pub(crate) unstarted: Count,
}

/// The latencies that one M has measured. Written on its thread only.
pub(crate) struct Latencies {
    counts: [UnmodeledCount; BUCKETS],
    sum: UnmodeledCount,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Latencies {
            counts: [const { UnmodeledCount::new(0) }; BUCKETS],
            sum: UnmodeledCount::new(0),
        }
    }

    pub(crate) fn record(&self, nanos: Nanos) {
        let add = |tally: &UnmodeledCount, more| {
            tally.store(tally.load(Ordering::Relaxed) + more, Ordering::Relaxed)
        };
        add(&self.counts[bucket(nanos)], 1);
        add(&self.sum, nanos.max(0) as u64);
    }

    /// Adds up those of several Ms.
    pub(crate) fn sum<'a>(all: impl Iterator<Item = &'a Latencies>) -> Histogram {
        let mut buckets: Vec<_> = (0..BUCKETS)
            .map(|bucket| Bucket {
                below: below(bucket),
                count: 0,
            })
            .collect();
        let mut sum = 0;
        for latencies in all {
            sum += latencies.sum.load(Ordering::Relaxed);
            buckets
                .iter_mut()
                .zip(&latencies.counts)
                .for_each(|(bucket, count)| bucket.count += count.load(Ordering::Relaxed));
        }
        Histogram {
            buckets,
            sum: Duration::from_nanos(sum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_gos() {
        // The bounds that Go's runtime/metrics names for /sched/latencies begin and end like this.
        let first: Vec<_> = (0..14).map(|bucket| below(bucket).as_nanos()).collect();
        assert_eq!(
            first,
            [
                64, 128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536
            ]
        );
        assert_eq!(BUCKETS, 161);
        assert_eq!(below(BUCKETS - 2), Duration::from_nanos(1 << 47));
        assert_eq!(below(BUCKETS - 1), Duration::MAX);
    }

    #[test]
    fn every_duration_is_in_the_bucket_whose_bounds_hold_it() {
        let around = |bound: u64| [bound - 1, bound, bound + 1];
        let powers =
            (3..62).flat_map(|bits| around(1 << bits).into_iter().chain(around(5 << (bits - 2))));
        for nanos in powers.chain(0..3000) {
            let bucket = bucket(nanos as Nanos);
            let duration = Duration::from_nanos(nanos);
            assert!(duration < below(bucket), "{nanos} ns is in bucket {bucket}");
            assert!(
                bucket == 0 || duration >= below(bucket - 1),
                "{nanos} ns is in bucket {bucket}"
            );
        }
        assert_eq!((bucket(-1), bucket(Nanos::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn the_latencies_of_all_ms_add_up() {
        let all = [Latencies::new(), Latencies::new(), Latencies::new()];
        assert_eq!(Latencies::sum(all.iter()).count(), 0);
        for nanos in [10, 100, 1000] {
            all[0].record(nanos);
            all[2].record(nanos);
        }
        all[2].record(70);
        let sum = Latencies::sum(all.iter());
        assert_eq!((sum.count(), sum.sum), (7, Duration::from_nanos(2290)));
        assert_eq!(
            [0, 1, 11].map(|bucket| sum.buckets[bucket].count),
            [2, 3, 2]
        );
    }
}
