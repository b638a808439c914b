//! Adding up what the hooks have counted: on the M where the change happened, or in [`Totals`].
//!
//! The goroutines that run are counted as Ms that are in a goroutine (`Retake::in_goroutine`).
//! Those that have started, do not wait and do not run are runnable.

use super::Sched;
use crate::counter::{Count, UnmodeledCount};
use crate::metrics::{Counts, Latencies, Metrics};
use crate::os::Observe;
use crate::p::P;
use crate::sync::Ordering;

/// What is not counted for one M or P.
pub(super) struct Totals {
    /// By threads that hold no P.
    pub(super) readied: UnmodeledCount,
    /// By all threads.
    wakes: UnmodeledCount,
    /// Goroutines without a stack that were readied and wait again, because none was available. By
    /// all threads.
    starved: UnmodeledCount,
    /// By sysmon, as are the three that follow.
    pub(super) handoffs: Count,
    rescues: Count,
    pub(super) polls: Count,
    pub(super) events: Count,
}

impl Totals {
    pub(super) fn new() -> Self {
        Totals {
            readied: UnmodeledCount::new(0),
            wakes: UnmodeledCount::new(0),
            starved: UnmodeledCount::new(0),
            handoffs: Count::new(),
            rescues: Count::new(),
            polls: Count::new(),
            events: Count::new(),
        }
    }
}

impl Sched {
    /// How many goroutines exist: spawned and not returned. Exact while none is spawned or returns.
    pub fn num_goroutines(&self) -> usize {
        // `finished` before `spawned`: otherwise a goroutine that is spawned and returns in between
        // would count as -1.
        let finished: u64 = self.ms().map(|m| m.counts.finished.get()).sum();
        let spawned: u64 = self.ms().map(|m| m.counts.spawned.get()).sum();
        (spawned + self.ordinary.spawned.load(Ordering::Relaxed)).saturating_sub(finished) as usize
    }

    /// How many goroutines and threads wait for a descriptor. Exact while none begins or ends such
    /// a wait.
    #[doc(alias = "netpollWaiters")]
    pub fn num_poll_waiters(&self) -> usize {
        let resumed: u64 = self.ms().map(|m| m.counts.poll_resumes.get()).sum();
        let waits: u64 = self.ms().map(|m| m.counts.poll_waits.get()).sum();
        let outside = self.ordinary.poll_waiting.load(Ordering::Relaxed);
        (waits as i64 + outside - resumed as i64).max(0) as usize
    }

    /// How many goroutines wait without a stack, or have not begun since. Exact while none begins
    /// or ends such a wait.
    pub fn num_idle_connections(&self) -> usize {
        let ended: u64 = self.ms().map(|m| m.counts.stackless_ends.get()).sum();
        self.stackless_waits().saturating_sub(ended) as usize
    }

    /// How many goroutines have begun to wait without a stack.
    fn stackless_waits(&self) -> u64 {
        let by_ms: u64 = self.ms().map(|m| m.counts.stackless_waits.get()).sum();
        by_ms + self.ordinary.stackless.load(Ordering::Relaxed)
    }

    /// A goroutine without a stack was readied and waits again.
    pub(super) fn count_starved(&self) {
        self.totals.starved.fetch_add(1, Ordering::Relaxed);
    }

    /// How many threads that are no Ms wait in an operation of this crate. Exact while none begins
    /// or ends such a wait.
    pub fn num_waiting_threads(&self) -> usize {
        self.ordinary.dormant.load(Ordering::Relaxed).max(0) as usize
    }

    /// A system call is about to wake a thread.
    pub(super) fn count_wake(&self) {
        self.totals.wakes.fetch_add(1, Ordering::Relaxed);
    }

    /// sysmon ends a wait for a lock of `std`.
    pub(crate) fn count_rescue(&self) {
        self.totals.rescues.bump();
    }

    /// How many goroutines are queued on a P and at home on the M that holds it.
    pub(super) fn queue_len(&self, p: &P) -> u64 {
        p.ring.len() as u64 + self.m(p.holder()).counts.queued.get()
    }

    /// All figures. `system` says how much memory stacks use.
    pub fn metrics(&self, system: &dyn Observe) -> Metrics {
        let tally = |tally: &UnmodeledCount| tally.load(Ordering::Relaxed);
        let by_m =
            |count: fn(&Counts) -> &Count| self.ms().map(|m| count(&m.counts).get()).sum::<u64>();
        let by_p = |count: fn(&P) -> &Count| self.ps.iter().map(|p| count(p).get()).sum::<u64>();
        // What leads out of a state is read before what leads into it, so that a change in between
        // does not make the difference negative.
        let finished = by_m(|counts| &counts.finished);
        let yields = by_m(|counts| &counts.yielded);
        let readied = by_m(|counts| &counts.readied) + tally(&self.totals.readied);
        let parks = by_m(|counts| &counts.parked);
        let idle_connections = self.num_idle_connections() as u64;
        let stackless_waits = self.stackless_waits() + tally(&self.totals.starved);
        let started = by_m(|counts| &counts.started);
        let created =
            by_m(|counts| &counts.spawned) + self.ordinary.spawned.load(Ordering::Relaxed);
        let (idle, spinning) = self.idlers.count();
        let threads = self.ms().count() as u64;
        let goroutines = created.saturating_sub(finished);
        let not_started = created.saturating_sub(started + idle_connections);
        let running = self.ms().filter(|m| m.retake.in_goroutine()).count() as u64;
        let waiting = (parks + stackless_waits).saturating_sub(readied);
        Metrics {
            goroutines,
            goroutines_not_started: not_started,
            goroutines_runnable: goroutines.saturating_sub(not_started + running + waiting),
            goroutines_running: running,
            goroutines_waiting: waiting,
            poll_waiters: self.num_poll_waiters() as u64,
            idle_connections,
            goroutines_created: created,
            unseen_panics: 0,
            unseen_errors: 0,
            max_procs: self.config.procs as u64,
            procs_idle: idle as u64,
            threads,
            threads_without_proc: threads - self.config.procs as u64,
            threads_spinning: spinning as u64,
            pool_threads: self.pool.threads.load(Ordering::Relaxed) as u64,
            runs: finished + yields + parks,
            parks,
            yields,
            steals: by_m(|counts| &counts.steals),
            handoffs: self.totals.handoffs.get(),
            rescues: self.totals.rescues.get(),
            polls: by_p(|p| &p.polls) + self.totals.polls.get(),
            events: by_p(|p| &p.events) + self.totals.events.get(),
            wakes: tally(&self.totals.wakes),
            timers_armed: self.ps.iter().map(|p| p.timers.armed() as u64).sum(),
            timers_fired: self.ps.iter().map(|p| p.timers.fired()).sum(),
            global_queue: self.global.len() as u64,
            local_queues: self.ps.iter().map(|p| self.queue_len(p)).collect(),
            latencies: Latencies::sum(self.ms().map(|m| &m.latencies)),
            stack_bytes: self.arena.resident(system),
        }
    }
}
