//! Readying: where a goroutine that can run again goes, and which thread is told.

use super::Sched;
use crate::g::{GRef, Status};
use crate::m::{Asleep, Here, M};
use crate::os::Nanos;
use crate::p::P;
use crate::sync::{AtomicU32, Ordering};
use crate::timer::Heap;
use crate::trace::Source;
use crate::waiter::{Waiter, WaiterList};
use core::{iter, ptr};

/// Where among ready goroutines one goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Before the others: the goroutine that readies it is about to block, and its data is in the cache.
    Next,
    Tail,
}

impl Sched {
    /// Makes a waiter run again. Callable from goroutines and ordinary threads; hold no lock.
    #[doc(alias = "goready")]
    pub(crate) fn ready(&'static self, waiter: Waiter) {
        let here = self.here();
        self.make_ready(waiter, here.as_deref(), Position::Next, &mut None);
    }

    /// Makes all of a list run again, in its order.
    pub(crate) fn ready_list(&'static self, list: WaiterList) {
        if !list.is_empty() {
            self.ready_all(list, self.here().as_deref());
        }
    }

    /// Makes the waiters run again that events or timers have woken.
    #[inline]
    pub(super) fn ready_woken(&'static self, source: Source, woken: WaiterList, here: &Here) {
        match self.is_traced() {
            true => self.ready_traced(source, woken, here),
            false => _ = self.ready_all(woken, Some(here)),
        }
    }

    #[cold]
    fn ready_traced(&'static self, source: Source, woken: WaiterList, here: &Here) {
        let since = self.os.now();
        let count = self.ready_all(woken, Some(here));
        self.trace_batch(here, source, count, since);
    }

    /// Makes all of a list run again, in its order. Returns how many there were.
    fn ready_all(&'static self, mut list: WaiterList, here: Option<&Here>) -> u32 {
        let (mut now, mut count) = (None, 0);
        while let Some(waiter) = list.pop() {
            self.make_ready(waiter, here, Position::Tail, &mut now);
            count += 1;
        }
        count
    }

    /// Makes one waiter run again: wakes its thread, or queues its goroutine.
    #[inline(always)]
    fn make_ready(
        &'static self,
        waiter: Waiter,
        here: Option<&Here>,
        position: Position,
        now: &mut Option<Nanos>,
    ) {
        let g = match waiter {
            Waiter::Thread(thread) => {
                self.count_wake();
                self.ordinary.dormant.fetch_sub(1, Ordering::Relaxed);
                return thread.wake(self.os);
            }
            Waiter::G(g) => g,
        };
        debug_assert_eq!(
            g.status(),
            Status::Waiting,
            "goroutine {} is readied but does not wait",
            g.id()
        );
        g.set_status(Status::Runnable);
        self.on_ready(&g, here, now);
        self.enqueue(g, here, position);
    }

    /// Queues a goroutine where an M finds it that may run it, and wakes that M.
    fn enqueue(&'static self, g: GRef, here: Option<&Here>, position: Position) {
        match (g.home(), here) {
            (Some(home), Some(here)) if home == here.m.index => {
                here.home(|home| match position {
                    Position::Tail => home.queue.push_back(g),
                    Position::Next => {
                        if let Some(before) = home.next.replace(g) {
                            home.queue.push_back(before);
                        }
                    }
                });
            }
            (Some(home), _) => {
                let m = self.m(home);
                if m.inbox.push(g) {
                    self.notify(m);
                }
            }
            (None, Some(here)) => {
                let tail = match position {
                    Position::Tail => Some(g),
                    Position::Next => here.p.ring.swap_next(g),
                };
                if let Some(g) = tail {
                    self.push_anywhere(here, g);
                }
                self.wake_idle();
            }
            (None, None) => {
                self.global.push(g);
                self.wake_idle();
            }
        }
    }

    /// Appends to the P's ring; a full ring gives its older half to the global queue.
    pub(super) fn push_anywhere(&self, here: &Here, g: GRef) {
        if let Err(g) = here.p.ring.push(g) {
            here.p.ring.spill(&self.global, g);
        }
    }

    /// Moves what lies in the ring of a P whose M does not come back to the global queue, where every P looks now and then. A P with work of its own
    /// looks into no other's ring. Called by sysmon.
    pub(super) fn empty_ring(&self, p: &P) {
        let stuck = p.ring.len();
        if stuck > 0 {
            self.global
                .extend(iter::from_fn(|| p.ring.steal_one()).take(stuck));
            self.wake_idle();
        }
    }

    /// Makes an M look for work again.
    pub(super) fn notify(&self, m: &M) {
        if let Some(asleep) = m.wake.notify() {
            self.unpark(m, asleep);
        }
    }

    /// Ends an M's sleep.
    fn unpark(&self, m: &M, asleep: Asleep) {
        match asleep {
            Asleep::Futex | Asleep::WithoutP => self.wake_one(m.wake.futex()),
            // An M that is no longer there may hold another P, or none.
            // A child process would wake an M of its parent.
            Asleep::Poller if self.is_forked() => {}
            Asleep::Poller => m.p().into_iter().for_each(|p| {
                self.count_wake();
                self.poller(self.p(p).poller).wake();
            }),
        }
    }

    /// Ends the sleep of one thread on `word`.
    pub(crate) fn wake_one(&self, word: &AtomicU32) {
        self.count_wake();
        self.os.futex_wake(ptr::from_ref(word).cast());
    }

    /// After a goroutine that may run anywhere was queued: wakes one sleeping M to look for it, unless one is looking.
    #[doc(alias = "wakep")]
    pub(super) fn wake_idle(&self) {
        while self.idlers.after_submit() && self.idlers.spin_alone() {
            for m in self.ms() {
                if let Some(asleep) = m.wake.notify_idle() {
                    return self.unpark(m, asleep);
                }
            }
            self.idlers.stop_spinning();
            // Whoever submitted meanwhile has left it to the place just given up. An M that is not asleep by now will look at all queues
            // before it sleeps; for one that is, this starts over.
            self.idlers.before_recheck();
            if !self.ms().any(|m| m.wake.asleep()) {
                return;
            }
        }
    }

    /// An M has left a poller that several share, or was called to take the place and found work: one that sleeps on its futex may take it,
    /// lest events wait for nobody.
    pub(super) fn fill_poller(&self, poller: usize) {
        if self.pollers.len() == self.ps.len() {
            return;
        }
        self.idlers.before_recheck();
        if !self.idlers.any_idle() || self.poller(poller).is_occupied() {
            return;
        }
        let shares = |m: &&M| m.p().is_some_and(|p| self.p(p).poller == poller);
        for m in self.ms().filter(shares) {
            if m.wake.on_futex() {
                return self.notify(m);
            }
        }
    }

    /// A timer was armed that comes before all others of its heap: the M that may sleep for that heap must look again.
    pub(crate) fn look_again(&'static self, heap: &Heap) {
        // An M that runs looks at its timers before it sleeps.
        if self.here().is_none_or(|here| here.p.index != heap.owner()) {
            // A P on its way from one M to another: either this finds the new holder, or the new holder sees the timer.
            self.notify(self.m(self.p(heap.owner()).holder()));
        }
    }

    /// The heap for a timer that the caller arms.
    pub(crate) fn timers(&'static self) -> &'static Heap {
        match self.here() {
            Some(here) => &here.p.timers,
            None => &self.p(self.ordinary.round_robin(self.ps.len())).timers,
        }
    }
}
