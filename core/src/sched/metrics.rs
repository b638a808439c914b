//! Counting what goroutines do, and adding it up for whoever asks.
//!
//! | a goroutine | is counted by |
//! |---|---|
//! | spawned → not started | `spawned` |
//! | not started → running | `started` |
//! | running → waiting | `parked` |
//! | running → runnable | `yielded` |
//! | waiting → runnable | `readied` |
//! | running → gone | `finished` |
//!
//! So how many are in a state is what led into it less what led out of it, and no list of goroutines is needed. Those that run are the Ms on
//! which a goroutine's code runs, and the rest are runnable.

use super::Sched;
use crate::counter::{Count, UnmodeledCount};
use crate::g::G;
use crate::m::{Here, M};
use crate::metrics::{Counts, Latencies, Metrics};
use crate::os::{Nanos, Observe};
use crate::p::P;
use crate::sync::Ordering;
use crate::waiter::Waiter;

/// What is not counted on the threads of Ms, or by several of them together.
pub(super) struct Totals {
    readied: UnmodeledCount,
    wakes: UnmodeledCount,
    /// By sysmon alone, as what follows.
    pub(super) handoffs: Count,
    pub(super) polls: Count,
    pub(super) events: Count,
}

impl Totals {
    pub(super) fn new() -> Self {
        Totals {
            readied: UnmodeledCount::new(0),
            wakes: UnmodeledCount::new(0),
            handoffs: Count::new(),
            polls: Count::new(),
            events: Count::new(),
        }
    }
}

impl Sched {
    /// A goroutine that waited can run.
    #[inline]
    pub(super) fn count_ready(&self, here: Option<&Here>) {
        match here {
            Some(here) => _ = here.m.counts.readied.bump(),
            None => _ = self.totals.readied.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// A goroutine let go of its thread, but can go on.
    pub(super) fn count_yield(&self, g: &G, m: &M) {
        m.counts.yielded.bump();
        self.measure_g(g, &mut None);
    }

    /// Whoever waited is about to be queued. `now` is the clock for all that are queued at once, if it was looked at.
    #[inline]
    pub(super) fn measure(&self, waiter: &Waiter, now: &mut Option<Nanos>) {
        if let Waiter::G(g) = waiter {
            self.measure_g(g, now);
        }
    }

    /// A goroutine is about to be queued.
    #[inline]
    pub(super) fn measure_g(&self, g: &G, now: &mut Option<Nanos>) {
        if g.is_measured() {
            self.note_time(g, now);
        }
    }

    #[cold]
    fn note_time(&self, g: &G, now: &mut Option<Nanos>) {
        g.waits_since(*now.get_or_insert_with(|| self.os.now()));
    }

    /// A goroutine is about to have a turn.
    #[inline]
    pub(super) fn begin_turn(&self, g: &G, m: &M) {
        if let Some(since) = g.begin_turn() {
            self.record_latency(m, since);
        }
    }

    #[cold]
    fn record_latency(&self, m: &M, since: Nanos) {
        m.latencies.record(self.os.now() - since);
    }

    pub(super) fn count_wake(&self) {
        self.totals.wakes.fetch_add(1, Ordering::Relaxed);
    }

    /// How many goroutines wait in the queues of a P and of the M that holds it.
    pub(super) fn queue_len(&self, p: &P) -> u64 {
        p.ring.len() as u64 + self.m(p.holder()).counts.queued.get()
    }

    /// The figures of now. `system` says how much memory is behind stacks.
    pub fn metrics(&self, system: &dyn Observe) -> Metrics {
        let tally = |tally: &UnmodeledCount| tally.load(Ordering::Relaxed);
        let by_m =
            |count: fn(&Counts) -> &Count| self.ms().map(|m| count(&m.counts).get()).sum::<u64>();
        let by_p = |count: fn(&P) -> &Count| self.ps.iter().map(|p| count(p).get()).sum::<u64>();
        // What leads out of a state comes first, so that what happens meanwhile does not make it negative.
        let finished = by_m(|counts| &counts.finished);
        let yields = by_m(|counts| &counts.yielded);
        let readied = by_m(|counts| &counts.readied) + tally(&self.totals.readied);
        let parks = by_m(|counts| &counts.parked);
        let started = by_m(|counts| &counts.started);
        let created =
            by_m(|counts| &counts.spawned) + self.ordinary.spawned.load(Ordering::Relaxed);
        let (idle, spinning) = self.idlers.count();
        let threads = self.ms().count() as u64;
        let goroutines = created.saturating_sub(finished);
        let not_started = created.saturating_sub(started);
        let running = self.ms().filter(|m| m.retake.in_goroutine()).count() as u64;
        let waiting = parks.saturating_sub(readied);
        Metrics {
            goroutines,
            goroutines_not_started: not_started,
            goroutines_runnable: goroutines.saturating_sub(not_started + running + waiting),
            goroutines_running: running,
            goroutines_waiting: waiting,
            poll_waiters: self.num_poll_waiters() as u64,
            goroutines_created: created,
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
