//! The search for the next goroutine of an M, in the order of its sources.

use super::Sched;
use crate::g::GRef;
use crate::m::Here;
use crate::os::{Delay, Nanos};
use crate::polldesc;
use crate::sync::Ordering;
use crate::trace::Source;
use crate::waiter::WaiterList;

/// Every so many schedules, the global queue comes first and the poller is asked: a P with endless work of its own must not starve
/// them. Go's number: not a power of two, so that it does not beat in time with the program.
const FAIR_TICK: u64 = 61;

/// Every so many schedules, timers are looked at while there is other work. A look costs a clock read.
const TIMER_TICK: u64 = 8;

/// How often a thief goes round all Ps; Go's number. In the last round it takes what runs next, too.
const STEAL_ROUNDS: usize = 4;

impl Sched {
    /// The next goroutine to run, and somebody else to look on.
    pub(super) fn next(&'static self, here: &mut Here) -> GRef {
        loop {
            let g = self.find_one(here);
            if let Some(g) = self.keep(here, g) {
                return g;
            }
        }
    }

    fn find_one(&'static self, here: &mut Here) -> GRef {
        let g = self.find_runnable(here);
        self.stop_searching(here);
        self.found_work(here);
        g
    }

    /// The next goroutine to run. Sleeps until there is one.
    ///
    /// The order: now and then the global queue and the poller; due timers; what other threads readied for this M; own queues; the global
    /// queue; others' queues; sleep in the poller.
    #[doc(alias = "findRunnable")]
    fn find_runnable(&'static self, here: &mut Here) -> GRef {
        loop {
            let tick = here.p.tick.bump();
            if tick % FAIR_TICK == 0 {
                if self.exchange.is_wanted() {
                    *here = self.give_way(*here);
                }
                self.poll(here, Delay::None);
                if let Some(g) = self.take_global(here) {
                    return g;
                }
            }
            if tick % TIMER_TICK == 0 {
                self.run_timers(here);
                here.publish_queue();
            }
            if let Some(g) = here.next_local().or_else(|| self.next_foreign(here)) {
                return g;
            }
            here.m.searches.store(true, Ordering::Relaxed);
            if self.exchange.is_wanted() {
                *here = self.give_way(*here);
                continue;
            }
            if self.yield_before_park(here) {
                continue;
            }
            match self.run_timers(here) {
                Some(0) => {}
                next => self.sleep(here, next),
            }
        }
    }

    /// A fair share of the global queue: one to run, and the rest for the P's ring. A single one each time would let a burst of spawns wait for
    /// as many rounds as it has goroutines, while home queues never run empty.
    fn take_global(&'static self, here: &Here) -> Option<GRef> {
        let first = self.global.take(&here.p.ring, self.config.procs)?;
        if !here.p.ring.is_empty() {
            // The rest of the batch was in no queue for a moment, when an M that went to sleep may have looked for it.
            self.wake_idle();
        }
        Some(first)
    }

    /// From the global queue, or from another P's ring.
    fn next_foreign(&'static self, here: &Here) -> Option<GRef> {
        let ring = &here.p.ring;
        let from_global = self.take_global(here);
        if from_global.is_some() || self.config.procs == 1 {
            return from_global;
        }
        if !self.try_spin(here) {
            return None;
        }
        let victims = self.ps.len();
        for round in 0..STEAL_ROUNDS {
            // A number below `victims`, without a division.
            let mut next = ((u64::from(here.p.random()) * victims as u64) >> 32) as usize;
            for _ in 0..victims {
                let victim = self.p(next);
                next = if next + 1 == victims { 0 } else { next + 1 };
                if victim.index == here.p.index {
                    continue;
                }
                let next_too = round + 1 == STEAL_ROUNDS && !self.is_searching(victim);
                if let Some(g) = ring.steal(&victim.ring, next_too) {
                    here.m.counts.steals.bump();
                    return Some(g);
                }
            }
        }
        None
    }

    /// Fires due timers. The time until the next one: `None` without timers, 0 if some fired.
    fn run_timers(&'static self, here: &Here) -> Option<Nanos> {
        let next = here.p.timers.next()?;
        let now = self.os.now();
        if next > now {
            return Some(next - now);
        }
        let mut woken = WaiterList::new();
        here.p.timers.run(now, &mut woken);
        self.ready_woken(Source::Timers, woken, here);
        Some(0)
    }

    /// Asks this P's poller, and readies whom its events wake. True if there was anyone.
    pub(super) fn poll(&'static self, here: &Here, delay: Delay) -> bool {
        let poller = self.poller(here.p.poller);
        if delay == Delay::None && poller.watched() == 0 {
            return false;
        }
        here.p.polls.bump();
        let woken = polldesc::poll(poller, delay, &here.p.events);
        let any = !woken.is_empty();
        self.ready_woken(Source::Poll, woken, here);
        any
    }
}
