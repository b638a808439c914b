//! Counting what goroutines do, and adding it up for whoever asks.
//!
//! | a goroutine | is counted by |
//! |---|---|
//! | spawned → not started | `spawned` |
//! | not started → running | `started`, `resumed` |
//! | running → waiting | `parked` |
//! | running → runnable | `yielded` |
//! | waiting → runnable | `readied` |
//! | runnable → running | `resumed` |
//! | running → gone | `finished` |
//!
//! So how many are in a state is what led into it less what led out of it, and no list of goroutines is needed.

use super::Sched;
use crate::g::G;
use crate::m::{Counts, Here, M};
use crate::metrics::{Latencies, Metrics, is_sampled};
use crate::p::{Count, P};
use crate::sync::{Ordering, Tally};

/// What is counted off the threads of Ms, or together.
#[derive(Default)]
pub(super) struct Tallies {
    readied: Tally,
    wakes: Tally,
    handoffs: Tally,
    polls: Tally,
    events: Tally,
    pool_threads: Tally,
}

fn one_more(tally: &Tally) -> u64 {
    tally.fetch_add(1, Ordering::Relaxed) + 1
}

impl Sched {
    /// A goroutine that waited can run.
    #[inline]
    pub(super) fn count_ready(&self, g: &G, here: Option<&Here>) {
        let readied = match here {
            Some(here) => here.m.counts.readied.bump(),
            None => one_more(&self.tallies.readied),
        };
        self.queued(g, readied);
    }

    /// A goroutine that has not run can. Their numbers are given in turn, and so serve as a count.
    #[inline]
    pub(super) fn count_spawn(&self, g: &G) {
        self.queued(g, g.id());
    }

    /// A goroutine let go of its thread, but can go on.
    pub(super) fn count_yield(&self, g: &G, m: &M) {
        self.queued(g, m.counts.yielded.bump());
    }

    /// Notes the time for every eighth goroutine that is about to be queued.
    #[inline]
    fn queued(&self, g: &G, n: u64) {
        if is_sampled(n) {
            self.note_time(g);
        }
    }

    #[cold]
    fn note_time(&self, g: &G) {
        g.set_queued_at(self.os.now());
    }

    /// A goroutine is about to have a turn.
    #[inline]
    pub(super) fn count_run(&self, g: &G, m: &M) {
        m.counts.resumed.bump();
        if g.queued_at() != 0 {
            self.record_latency(g, m);
        }
    }

    #[cold]
    fn record_latency(&self, g: &G, m: &M) {
        m.latencies.record(self.os.now() - g.queued_at());
        g.set_queued_at(0);
    }

    pub(super) fn count_wake(&self) {
        one_more(&self.tallies.wakes);
    }

    pub(super) fn count_handoff(&self) {
        one_more(&self.tallies.handoffs);
    }

    /// sysmon has asked a poller.
    pub(super) fn count_poll(&self, events: usize) {
        one_more(&self.tallies.polls);
        self.tallies.events.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// A pool has one thread more.
    pub(crate) fn pool_grew(&self) {
        one_more(&self.tallies.pool_threads);
    }

    /// How many goroutines wait in the queues of a P and of the M that holds it.
    pub(super) fn queue_len(&self, p: &P) -> u64 {
        p.ring.len() as u64 + self.m(p.holder()).counts.queued.get()
    }

    /// The figures of now.
    pub fn metrics(&self) -> Metrics {
        let tally = |tally: &Tally| tally.load(Ordering::Relaxed);
        let by_m = |count: fn(&Counts) -> &Count| self.ms().map(|m| count(&m.counts).get()).sum::<u64>();
        let by_p = |count: fn(&P) -> &Count| self.ps.iter().map(|p| count(p).get()).sum::<u64>();
        // What leads out of a state comes first, so that what happens meanwhile does not make it negative.
        let finished = by_m(|counts| &counts.finished);
        let yields = by_m(|counts| &counts.yielded);
        let readied = by_m(|counts| &counts.readied) + tally(&self.tallies.readied);
        let parks = by_m(|counts| &counts.parked);
        let started = by_m(|counts| &counts.started);
        let runs = by_m(|counts| &counts.resumed);
        let created = by_m(|counts| &counts.spawned) + self.outside.spawned.load(Ordering::Relaxed);
        let (idle, spinning) = self.idlers.count();
        let threads = self.ms().count() as u64;
        let goroutines = created.saturating_sub(finished);
        let not_started = created.saturating_sub(started);
        let running = runs.saturating_sub(parks + yields + finished).min(threads);
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
            pool_threads: tally(&self.tallies.pool_threads),
            runs,
            parks,
            yields,
            steals: by_m(|counts| &counts.steals),
            handoffs: tally(&self.tallies.handoffs),
            polls: by_p(|p| &p.polls) + tally(&self.tallies.polls),
            events: by_p(|p| &p.events) + tally(&self.tallies.events),
            wakes: tally(&self.tallies.wakes),
            timers_armed: self.ps.iter().map(|p| p.timers.armed() as u64).sum(),
            timers_fired: self.ps.iter().map(|p| p.timers.fired()).sum(),
            global_queue: self.global.len() as u64,
            local_queues: self.ps.iter().map(|p| self.queue_len(p)).collect(),
            latencies: Latencies::sum(self.ms().map(|m| &m.latencies)),
            stack_bytes: self.arena.resident(),
        }
    }
}
