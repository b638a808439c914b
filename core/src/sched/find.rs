//! The search for the next goroutine of an M, in the order of its sources.

use super::Sched;
use crate::g::GRef;
use crate::m::Here;
use crate::os::{Delay, Nanos};
use crate::polldesc;
use crate::sync::Ordering;
use crate::trace::Source;
use crate::waiter::WaiterList;

/// One search in this many begins with the poller and the global queue: a P with endless work of
/// its own must not starve them. Go's number, and a prime, so it does not coincide with
/// a period of the program.
const FAIR_TICK: u64 = 61;

/// One search in this many looks at timers even if there is other work. A look costs a clock read.
const TIMER_TICK: u64 = 8;

/// How many times a spinning M looks into the rings of all other Ps; Go's number. In the last round
/// it also takes what is to run next there.
const STEAL_ROUNDS: usize = 4;

impl Sched {
    /// The next goroutine for this M to run. Sleeps until there is one.
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

    /// The next goroutine, from the first of these sources that has one:
    ///
    /// 1. one search in [`FAIR_TICK`]: the poller, the global queue,
    /// 2. one search in [`TIMER_TICK`]: timers that are due,
    /// 3. the inbox, the home queue, the ring of the P,
    /// 4. the global queue,
    /// 5. the rings of other Ps,
    /// 6. the poller once more, after other threads could run,
    /// 7. timers that are due; else the M sleeps, in the poller or on its futex.
    ///
    /// If another M wants a P, this M gives way to it before 1, and before it sleeps.
    #[doc(alias = "findRunnable")]
    fn find_runnable(&'static self, here: &mut Here) -> GRef {
        loop {
            let tick = here.p.tick.bump();
            if tick % FAIR_TICK == 0 {
                if self.without_p.is_wanted() {
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
            if self.without_p.is_wanted() {
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

    /// Takes a fair share of the global queue: one goroutine to run, and the others for the ring.
    /// If an M took one at a time while its home queue is never empty, a burst of spawns would wait
    /// for as many rounds as it has goroutines.
    fn take_global(&'static self, here: &Here) -> Option<GRef> {
        let first = self.global.take(&here.p.ring, self.config.procs)?;
        if !here.p.ring.is_empty() {
            // The others were in no queue for a moment. An M that went to sleep may have looked
            // then.
            self.wake_idle();
        }
        Some(first)
    }

    /// Takes a goroutine from the global queue, or steals from the ring of another P.
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
            // A random number below `victims`, without a division.
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

    /// Fires timers that are due. Returns the time until the next one: 0 if any fired, `None` if
    /// there is no timer.
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

    /// Polls, and readies what the events wake. Returns whether they woke any waiter.
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
