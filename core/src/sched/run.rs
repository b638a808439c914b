//! Turns: an M runs a goroutine until the goroutine parks, yields or returns, and then does what
//! that asks for.
//!
//! | the goroutine | the M that has kept its P | the M whose P sysmon has taken |
//! |---|---|---|
//! | parked | runs the commit, finds the next goroutine | runs the commit, waits for a P |
//! | parked, but the commit refused | resumes it: the turn goes on | queues it, waits for a P |
//! | yielded | queues it, finds the next goroutine | queues it, waits for a P |
//! | returned | keeps the stack with the P | gives the stack to the arena, waits for a P |
//!
//! A turn ends by itself or by its allowance. Each operation of the goroutine that does not block
//! takes from the allowance, and sysmon takes all of it after a time slice; the next operation
//! then yields.

use super::Sched;
use super::park::commit;
use crate::g::{GRef, Resumed, Status};
use crate::m::Here;
use crate::must::Must;
use crate::os::Delay;
use crate::p::P;
use crate::sync::Ordering;
use core::ptr::NonNull;

/// How many operations that do not block a goroutine may do in a row. A hot connection then keeps
/// the others waiting for a fraction of a millisecond.
const ALLOWANCE: u32 = 64;

/// What the M still has to do about a goroutine that has stopped.
#[must_use]
enum Stopped {
    /// Nothing: the goroutine waits, or has returned.
    Done,
    /// Resume it or queue it: it parked, but its commit refused.
    Refused(GRef),
    /// Queue it: it yielded.
    Yielded(GRef),
}

impl Sched {
    /// The main loop of an M.
    pub(super) fn run(&'static self, mut here: Here) -> ! {
        loop {
            let g = self.next(&mut here);
            self.execute(&mut here, g);
        }
    }

    /// Gives a goroutine a turn. Afterwards `here` has the P that the M then holds.
    fn execute(&'static self, here: &mut Here, mut g: GRef) {
        if !g.started() {
            self.start_g(here, &g);
        }
        loop {
            here.m.allowance.store(ALLOWANCE, Ordering::Relaxed);
            self.on_run(here, &g);
            here.m.retake.leave();
            let resumed = g.resume(NonNull::from(here.m).cast());
            if !here.m.retake.enter() {
                let sysmon = self.config.sysmon.must("a P was taken without sysmon");
                *here = (sysmon.come_back)(self, *here, resumed);
                return;
            }
            match self.stop(here, Some(here.p), resumed) {
                Stopped::Done => return,
                Stopped::Refused(back) => g = back,
                Stopped::Yielded(g) => {
                    if here.m.allowance.load(Ordering::Relaxed) == 0 {
                        // It did not stop of its own will: events come before its next turn.
                        self.poll(here, Delay::None);
                    }
                    self.on_yield(here.m, &g);
                    return self.push_yielded(here, g);
                }
            }
        }
    }

    /// Prepares the first turn of a goroutine: gives it a stack and, unless goroutines migrate, a
    /// home.
    fn start_g(&'static self, here: &Here, g: &GRef) {
        let (slot, stack, owner) = self.arena.take(g.stack_size(), &mut here.p.slots.lock());
        g.start(slot, stack, owner);
        let counts = &here.m.counts;
        if g.home().is_some() {
            counts.unstarted.set(counts.unstarted.get() - 1);
        }
        if !self.config.migrate {
            g.set_home(here.m.index);
        }
        counts.started.bump();
    }

    /// Carries out what a goroutine asked for when it stopped on this M. `p` is the P that the M
    /// has kept: if sysmon has taken it, nothing of that P may be touched.
    #[inline(always)]
    fn stop(&'static self, here: &Here, p: Option<&P>, resumed: Resumed) -> Stopped {
        self.on_stop(here, p.is_some(), &resumed);
        match resumed {
            // SAFETY: the goroutine was suspended with this request.
            Resumed::Parked(g, request) => match unsafe { commit(request, g) } {
                Ok(()) => {
                    self.on_park(here.m);
                    Stopped::Done
                }
                Err(g) => {
                    self.on_refuse(&g);
                    Stopped::Refused(g)
                }
            },
            Resumed::Yielded(g) => Stopped::Yielded(g),
            Resumed::Dead(slot) => {
                match p {
                    Some(p) => self.arena.put(&p.slots, slot),
                    None => self.arena.give_back(slot),
                }
                Stopped::Done
            }
        }
    }

    /// Ends a turn on an M whose P sysmon has taken. Returns when the M has a P again.
    #[cold]
    pub(super) fn come_back(&'static self, here: Here, resumed: Resumed) -> Here {
        self.abort_in_fork();
        match self.stop(&here, None, resumed) {
            Stopped::Done => {}
            Stopped::Refused(g) | Stopped::Yielded(g) => {
                // A goroutine whose commit refused still has the status of one that waits.
                g.set_status(Status::Runnable);
                self.on_yield(here.m, &g);
                let anywhere = g.home().is_none();
                self.push_yielded(&here, g);
                if anywhere {
                    self.wake_idle();
                }
            }
        }
        self.give_up_p(here, |_| ())
    }

    /// Queues a goroutine whose turn is over behind all others that may run before it.
    fn push_yielded(&self, here: &Here, g: GRef) {
        debug_assert_eq!(g.status(), Status::Runnable, "it is in a run queue");
        match g.home() {
            Some(_) => here.home(|home| home.queue.push_back(g)),
            None => self.global.push(g),
        }
    }

    /// Ends the turn of the calling goroutine: others run, and then it goes on. An ordinary thread
    /// lets other threads run.
    #[doc(alias = "Gosched")]
    pub fn yield_now(&'static self) {
        match self.current() {
            // SAFETY: `current` found the stack pointer on this goroutine's stack.
            Some(g) => unsafe { g.suspend(None) },
            None => self.os.yield_thread(),
        }
    }

    /// Takes `count` operations that did not block from the allowance of the calling goroutine,
    /// and yields when it is used up. Does nothing on an ordinary thread, and does not yield while
    /// the goroutine unwinds.
    #[cold]
    pub fn spend(&'static self, count: u32) {
        let Some(g) = self.current() else { return };
        let allowance = &self.m_of(g).allowance;
        // If sysmon stores 0 between the load and the store, that is lost: sysmon repeats it.
        let rest = allowance.load(Ordering::Relaxed).saturating_sub(count);
        allowance.store(rest, Ordering::Relaxed);
        if rest == 0 && !self.unwinds() {
            self.yield_now();
        }
    }

    /// As [`spend`](Self::spend), for accepts. Each accept makes work for the neighbours, which
    /// have one turn in a round, as the acceptor has. So the acceptor's turn grows with the number
    /// of neighbours that are ready: with a fixed number of accepts, the more clients there are
    /// the longer each would wait for its accept.
    #[cold]
    pub(crate) fn spend_accepts(&'static self, count: u32) {
        /// One accept for this many goroutines that wait for the turn to end. An accept takes about
        /// as long as two of their turns.
        const NEIGHBOURS: u32 = 4;
        /// Accepts in the longest turn: about as long as the time slice that sysmon ends.
        const MOST: u32 = 1024;
        let ready = self
            .here()
            .map_or(0, |here| here.home(|home| home.queue.len()));
        let turn = (ready.min(1 << 20) as u32 / NEIGHBOURS).clamp(ALLOWANCE, MOST);
        self.spend((count * ALLOWANCE / turn).max(1));
    }
}
