//! The search for the next goroutine of an M, in the order of its sources.

use super::Sched;
use crate::g::GRef;
use crate::m::Here;
use crate::os::{Delay, Nanos};
use crate::polldesc;
use crate::sync::Ordering;
use crate::trace::Source;
use crate::waiter::WaiterList;
use core::hint;

/// One search in this many begins with the poller and the global queue: a P with endless work of
/// its own must not starve them. Go's number, and a prime, so it does not coincide with
/// a period of the program.
const FAIR_TICK: u64 = 61;

/// One search in this many looks at timers even if there is other work. A look costs a clock read.
const TIMER_TICK: u64 = 8;

/// How many times a spinning M looks into the rings of all other Ps; Go's number. Only in the last
/// round it takes the only goroutine there, or what is to run next.
const STEAL_ROUNDS: usize = 4;

/// How long an M spins that expects a change soon, in nanoseconds: about what a park and a wake-up
/// take on a virtual machine.
const SPIN: Nanos = 20_000;

/// How many times a spinning M looks before it asks the clock again, and how many times it asks at
/// most.
const SPIN_LOOKS: (u32, u32) = if cfg!(loom) { (1, 1) } else { (16, 64) };

/// How many parks that another thread has ended do without a linger after one in vain. The other
/// thread may have no CPU of its own, or need long for its answers.
const LINGER_PAUSE: u32 = 4;

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
    /// 7. any of these that has something shortly after, if the M lingers,
    /// 8. timers that are due; else the M sleeps, in the poller or on its futex.
    ///
    /// If another M wants a P, this M gives way to it before 1, and before it sleeps.
    #[doc(alias = "findRunnable")]
    fn find_runnable(&'static self, here: &mut Here) -> GRef {
        loop {
            let tick = here.p.tick.bump();
            if tick % FAIR_TICK == 0 {
                self.give_way_if_wanted(here);
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
            if self.give_way_if_wanted(here) {
                continue;
            }
            let linger = self.config.sysmon.map(|sysmon| sysmon.linger);
            if self.yield_before_park(here) || linger.is_some_and(|linger| linger(self, here)) {
                continue;
            }
            match self.run_timers(here) {
                Some(0) => {}
                next => {
                    self.sleep(here, next);
                    if !here.m.inbox.is_empty() {
                        here.home(|home| home.skip_lingers = home.skip_lingers.saturating_sub(1));
                    }
                }
            }
        }
    }

    /// Gives way to an M that wants a P, if there may be one. Returns whether there may.
    fn give_way_if_wanted(&'static self, here: &mut Here) -> bool {
        let sysmon = self.config.sysmon.filter(|_| self.without_p.is_wanted());
        if let Some(sysmon) = sysmon {
            *here = (sysmon.give_way)(self, *here);
        }
        sysmon.is_some()
    }

    /// Before this M parks: waits a few microseconds for a goroutine that another thread readies.
    /// Returns whether there may be work.
    ///
    /// Two goroutines on two Ms that take turns answer each other within a microsecond. A park and
    /// a wake-up take ten times as long. So an M lingers after a park that another thread has ended
    /// by readying a goroutine at home here, and while that brings work.
    pub(super) fn linger(&'static self, here: &Here) -> bool {
        if self.config.procs == 1 || here.home(|home| home.skip_lingers > 0) {
            return false;
        }
        // From here on a notification is for something that the search has not seen.
        _ = here.m.wake.awake();
        let m = here.m;
        let found = self.spin_until(|| {
            !m.inbox.is_empty()
                || m.wake.is_notified()
                || !here.p.ring.is_empty()
                || self.work_elsewhere(here)
        });
        if !found {
            here.home(|home| home.skip_lingers = LINGER_PAUSE);
        }
        found
    }

    /// Looks again and again, for up to [`SPIN`]. Returns whether `is_so` has returned true.
    fn spin_until(&self, is_so: impl Fn() -> bool) -> bool {
        let limit = self.os.now() + SPIN;
        for _ in 0..SPIN_LOOKS.1 {
            for _ in 0..SPIN_LOOKS.0 {
                if is_so() {
                    return true;
                }
                hint::spin_loop();
            }
            if self.os.now() > limit {
                break;
            }
        }
        false
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
            let last = round + 1 == STEAL_ROUNDS;
            // A goroutine that has spawned one and then waits for it parks soon. Both then stay on
            // one M. Go's thief sleeps here.
            let gone = || !self.work_elsewhere(here) || !here.m.inbox.is_empty();
            if last && self.spin_until(gone) {
                return None;
            }
            // A random number below `victims`, without a division.
            let mut next = ((u64::from(here.p.random()) * victims as u64) >> 32) as usize;
            for _ in 0..victims {
                let victim = self.p(next);
                next = if next + 1 == victims { 0 } else { next + 1 };
                if victim.index == here.p.index || !last && victim.ring.len() < 2 {
                    continue;
                }
                let next_too = last && !self.is_searching(victim);
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
