//! Metrics: the figures of a scheduler that a reader gets, and the histogram that latencies are
//! recorded in.
//!
//! Each counter behind them has one writer (`Count`), so counting costs an addition; the reader
//! adds the counters up. A reader stops no M, so it may see only one side of a change that another
//! thread makes: [`Metrics`] says how exact each figure is.

use crate::counter::{Count, UnmodeledCount};
use crate::os::Nanos;
use crate::sync::Ordering;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

/// Figures of one runtime. Counts of events never go down, and are zero when the runtime starts.
///
/// All figures are exact while only the reader runs, and miss nothing in the long run. Otherwise a
/// figure may be off by what changed during the read, which takes some microseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// Goroutines that exist: spawned and not yet returned. The next four figures add up to it.
    #[doc(alias = "/sched/goroutines:goroutines")]
    pub goroutines: u64,
    /// Goroutines that have not run yet, except those of `idle_connections`.
    pub goroutines_not_started: u64,
    /// Goroutines that have run before and are in a run queue.
    #[doc(alias = "/sched/goroutines/runnable:goroutines")]
    pub goroutines_runnable: u64,
    /// Goroutines on a thread: they run, or the system blocks them.
    #[doc(alias = "/sched/goroutines/running:goroutines")]
    pub goroutines_running: u64,
    /// Parked goroutines: they wait for a descriptor, a timer, another goroutine, or work given to
    /// `blocking`. `idle_connections` is among them.
    #[doc(alias = "/sched/goroutines/waiting:goroutines")]
    pub goroutines_waiting: u64,
    /// Goroutines and ordinary threads that wait for a descriptor.
    pub poll_waiters: u64,
    /// Goroutines that wait for a descriptor before their first run, and so without a stack.
    pub idle_connections: u64,
    /// Goroutines spawned.
    #[doc(alias = "/sched/goroutines-created:goroutines")]
    pub goroutines_created: u64,
    /// Goroutines whose panic nothing has read: the handle was dropped without a join. The crate
    /// `gopark` counts them; 0 without it.
    pub unseen_panics: u64,
    /// Goroutines whose error nothing has read, as far as the crate `gopark` recognizes errors
    /// (`Builder::on_leak`); 0 without it.
    pub unseen_errors: u64,

    /// How many goroutines can run at once.
    #[doc(alias = "/sched/gomaxprocs:threads")]
    pub max_procs: u64,
    /// Procs whose thread sleeps because there is nothing to run.
    pub procs_idle: u64,
    /// Threads started to run goroutines.
    #[doc(alias = "/sched/threads/total:threads")]
    pub threads: u64,
    /// Those of `threads` without a proc: their goroutine computes or blocks, or they are spare.
    pub threads_without_proc: u64,
    /// Those of `threads` that look for goroutines to run.
    pub threads_spinning: u64,
    /// Threads of the pool for work that blocks.
    pub pool_threads: u64,

    /// Turns of goroutines that have ended: with a park, a yield or a return.
    pub runs: u64,
    /// Turns that ended with a park.
    pub parks: u64,
    /// Turns that ended with a yield.
    pub yields: u64,
    /// How often a thread stole goroutines from the queue of another proc.
    pub steals: u64,
    /// Procs retaken from a thread whose goroutine kept them for too long.
    pub handoffs: u64,
    /// How often a wait for a lock of `std` was ended because it kept a thread from other
    /// goroutines, or for a second.
    pub rescues: u64,
    /// Calls of a poller.
    pub polls: u64,
    /// Events that pollers reported.
    pub events: u64,
    /// System calls that wake a sleeping thread.
    pub wakes: u64,

    /// Timers that will fire, deadlines included.
    pub timers_armed: u64,
    /// Timers that have fired.
    pub timers_fired: u64,

    /// The length of the queue that all procs share.
    pub global_queue: u64,
    /// The lengths of the procs' own queues and the home queues of their threads. A home queue's
    /// length is up to eight turns old, and lacks goroutines that other threads have readied since;
    /// `goroutines_runnable` includes them.
    pub local_queues: Vec<u64>,

    /// How long runnable goroutines waited for their turn. One turn in eight is measured, as in Go.
    #[doc(alias = "/sched/latencies:seconds")]
    pub latencies: Histogram,

    /// Bytes of memory behind goroutine stacks, free ones included. With more than 256 stacks an
    /// estimate, from 256 of them. `None` if the system does not report it.
    pub stack_bytes: Option<u64>,
}

/// A histogram of durations.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Histogram {
    /// From short to long, without gaps. Go's buckets: four between two powers of two.
    pub buckets: Vec<Bucket>,
    /// The sum of all measured durations.
    pub sum: Duration,
}

/// A range of durations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Bucket {
    /// The exclusive upper bound, where the next bucket begins. [`Duration::MAX`] for the last one.
    pub below: Duration,
    /// How many durations are in it.
    pub count: u64,
}

impl Histogram {
    /// How many durations were measured.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.count).sum()
    }
}

/// Shows only the buckets that are not empty.
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

/// How many buckets lie between two powers of two.
const STEPS: usize = 4;

/// log2 of 256 ns, below which all buckets have the same width.
const SHORTEST_BITS: u32 = 8;

/// log2 of a day and a half in nanoseconds. Longer durations are in the last bucket.
const LONGEST_BITS: u32 = 47;

const BUCKETS: usize = (LONGEST_BITS - SHORTEST_BITS + 1) as usize * STEPS + 1;

/// log2 of 64 ns, the width of the narrowest buckets.
const NARROWEST_BITS: u32 = SHORTEST_BITS - STEPS.ilog2();

/// The index of the bucket for a duration.
fn bucket(nanos: Nanos) -> usize {
    const LEAST: u64 = 1 << SHORTEST_BITS;
    let nanos = nanos.max(0) as u64;
    let octave = (nanos | LEAST).ilog2() - SHORTEST_BITS;
    (octave as usize * STEPS + (nanos >> (octave + NARROWEST_BITS)) as usize).min(BUCKETS - 1)
}

/// The upper bound of a bucket.
fn below(bucket: usize) -> Duration {
    if bucket + 1 == BUCKETS {
        return Duration::MAX;
    }
    let octave = ((bucket + 1) / STEPS).saturating_sub(1);
    Duration::from_nanos(((bucket + 1 - octave * STEPS) as u64) << (octave as u32 + NARROWEST_BITS))
}

/// Counters of what goroutines did on one M. Written on its thread.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) spawned: Count,
    pub(crate) finished: Count,
    /// Waits in a poller that have begun.
    pub(crate) poll_waits: Count,
    /// Waits in a poller that have ended.
    pub(crate) poll_resumes: Count,
    /// Waits without a stack that have begun.
    pub(crate) stackless_waits: Count,
    /// Waits without a stack that have ended, counted by the goroutine in its first turn.
    pub(crate) stackless_ends: Count,
    /// Goroutines that ran for the first time.
    pub(crate) started: Count,
    pub(crate) parked: Count,
    pub(crate) yielded: Count,
    pub(crate) readied: Count,
    /// How often the M stole from another P.
    pub(crate) steals: Count,
    /// The length of the home queue, up to eight turns old.
    pub(crate) queued: Count,
    /// Goroutines that must start on this M and have not run yet.
    pub(crate) unstarted: Count,
}

/// The latencies that one M has measured. Written on its thread.
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

    /// Adds up the latencies of several Ms.
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
        // Go's runtime/metrics has these bounds for /sched/latencies at both ends.
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
