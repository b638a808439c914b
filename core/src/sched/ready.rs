//! Readying: where a goroutine goes that can run again.
//!
//! | the goroutine | readied on its home M | readied elsewhere |
//! |---|---|---|
//! | has a home | the home queue | the inbox of its home, whose M is notified |
//! | has none | the ring of the P; wakes an idle M | the same; without a P, the global queue |
//! | has no stack | as with none, once a stack is reserved for it (`stackless`) | the same |

use super::Sched;
use crate::g::{G, GRef, Status};
use crate::m::Here;
use crate::os::Nanos;
use crate::p::P;
use crate::sync::Ordering;
use crate::trace::Source;
use crate::waiter::{Waiter, WaiterList};
use core::iter;

/// Where in a queue a goroutine goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Before the others: the goroutine that readies it is likely to block soon, and their common
    /// data is in the cache.
    Next,
    /// Behind the others.
    Tail,
}

impl Sched {
    /// Makes a waiter run again. Any thread may call this, but hold no lock.
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

    /// As [`ready_list`](Self::ready_list). The caller may be in the scheduler's own code, or hold
    /// a lock of it, while the program's allocator runs.
    pub(crate) fn ready_by_anyone(&'static self, list: WaiterList) {
        let in_scheduler = |g: &G| !self.m_of(g).retake.in_goroutine();
        let guarded = |g: &G| g.unparkable().load(Ordering::Relaxed);
        match self.current() {
            Some(g) if in_scheduler(g) || guarded(g) => _ = self.ready_all(list, None),
            _ => self.ready_list(list),
        }
    }

    /// Makes the waiters run again that events or timers have woken.
    #[inline]
    pub(super) fn ready_woken(&'static self, source: Source, woken: WaiterList, here: &Here) {
        match self.is_observed() {
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
            (Some(home), _) => match self.ms.get(home) {
                Some(m) => {
                    if m.inbox.push(g) {
                        self.notify(m);
                    }
                }
                None => self.admit(g, here),
            },
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

    /// Appends to the ring of this P. A full ring moves its older half to the global queue.
    pub(super) fn push_anywhere(&self, here: &Here, g: GRef) {
        if let Err(g) = here.p.ring.push(g) {
            here.p.ring.spill(&self.global, g);
        }
    }

    /// Moves all goroutines from the ring of a P to the global queue, which every P looks at now
    /// and then. A P with work of its own looks into no other ring. Called by sysmon when the M of
    /// the P does not come back.
    pub(super) fn empty_ring(&self, p: &P) {
        let stuck = p.ring.len();
        if stuck > 0 {
            self.global
                .extend(iter::from_fn(|| p.ring.steal_one()).take(stuck));
            self.wake_idle();
        }
    }
}
