//! Goroutines that wait without a stack.
//!
//! The goal: a connection on which nothing happens costs its socket and one allocation, and no
//! page of a stack. So a goroutine waits *before* its first run. It has no frames yet; its closure
//! owns all that it will use.
//!
//! Refused: a third kind of waiter, beside goroutines and threads, that spawns a goroutine when it
//! is readied. A goroutine that has not run is already one allocation without a stack, and the
//! right to wake it is an ordinary `GRef`. Also refused: to reserve the stack before the wait, as a
//! spawn does. Reserved slots are prepared: each has a guard, which costs half a page of page
//! tables or two mappings (`vm.max_map_count`).
//!
//! The rule: the stack is reserved when the goroutine is readied, before it is queued. Until then
//! its `home` is an index that no M has, and the queue of a home leads here.
//!
//! | from → to | by | the goroutine |
//! |---|---|---|
//! | made → waiting | `wait_without_stack`, the maker | is in a wait slot, alone |
//! | waiting → runnable | `admit`, the waker | has a reservation, and any M may start it |
//! | waiting → starved | `starve`, the waker | is in the list, since no stack is available |
//! | starved → waiting | `retry`, a timer | is readied once more |
//! | runnable → running | `start_g`, an M | has its stack, and ends its wait itself |
//!
//! The race: an event, a deadline or a close comes while the goroutine is made. The maker announces
//! it in the slot, then looks for a reason not to wait, and then commits it, as a goroutine that
//! parks does (`waiter`). The maker is not the goroutine, so it may commit it at once, on its own
//! stack. From the commit on, the goroutine may run elsewhere and free what the maker has lent it:
//! the maker touches the slot alone, which is never freed.
//!
//! What follows a refused commit is no special case. The maker readies the goroutine, as if it had
//! found it in the slot.
#![allow(unsafe_code, reason = "the timer refers to the scheduler by address")]

use super::Sched;
use crate::g::{GRef, Status};
use crate::m::Here;
use crate::must::Must;
use crate::os::Nanos;
use crate::sync::Lock;
use crate::timer::Timer;
use crate::waiter::{Announced, WaitSlot, Waiter, WaiterList};
use core::ptr::NonNull;

/// How long a goroutine for which no stack was available waits before the next attempt, in
/// nanoseconds. Goroutines return within milliseconds on a busy server, and an attempt that fails
/// takes microseconds.
const RETRY_AFTER: Nanos = 10_000_000;

/// What the goroutines that wait without a stack share.
pub(super) struct Stackless {
    /// [`admit`], which only programs with such goroutines link.
    admit: fn(&'static Sched, GRef, Option<&Here>),
    starved: Lock<Starved>,
    /// Readies the starved goroutines again. Armed under the lock of `starved`.
    timer: Timer,
}

struct Starved {
    goroutines: WaiterList,
    /// Whether the timer is armed.
    timed: bool,
}

impl Sched {
    /// Lets a new goroutine wait on `slot`. It is readied when the slot is notified or cancelled,
    /// or at once if the slot was notified before or `may_wait` returns false. In its first turn it
    /// calls [`end_stackless_wait`](Self::end_stackless_wait) and settles the slot.
    ///
    /// After the return the goroutine may have run already.
    pub(crate) fn wait_without_stack(
        &'static self,
        g: GRef,
        slot: &WaitSlot,
        may_wait: impl FnOnce() -> bool,
    ) {
        self.stackless.call_once(|| Stackless {
            admit,
            starved: Lock::new(Starved {
                goroutines: WaiterList::new(),
                timed: false,
            }),
            timer: Timer::new(NonNull::from(self).cast()),
        });
        self.on_wait(&g);
        g.await_stack();
        g.set_status(Status::Waiting);
        let waiter = Waiter::G(g);
        let refused = match slot.announce() {
            Announced::Ready => Err(waiter),
            Announced::Waiting if may_wait() => slot.commit(waiter),
            Announced::Waiting => Err(waiter),
        };
        if let Err(waiter) = refused {
            let mut list = WaiterList::new();
            list.push(waiter);
            // At the tail: a goroutine that hands its connection on again and again takes turns.
            self.ready_list(list);
        }
    }

    /// Counts the end of the wait that the calling goroutine was made with.
    pub(crate) fn end_stackless_wait(&'static self) {
        self.parker().on_poll_resume();
        let current = self
            .current()
            .must("only a goroutine waits without a stack");
        self.m_of(current).counts.stackless_ends.bump();
    }

    /// Queues a goroutine that has waited without a stack, once it has a reservation.
    #[cold]
    pub(super) fn admit(&'static self, g: GRef, here: Option<&Here>) {
        let stackless = self.stackless.get().must("a goroutine is at home nowhere");
        (stackless.admit)(self, g, here);
    }

    /// Keeps a goroutine for which no stack is available until the timer fires.
    fn starve(&'static self, stackless: &'static Stackless, g: GRef) {
        self.count_starved();
        g.set_status(Status::Waiting);
        let (heap, when) = (self.timers(), self.now() + RETRY_AFTER);
        let mut starved = stackless.starved.lock();
        starved.goroutines.push(Waiter::G(g));
        if starved.timed {
            return;
        }
        starved.timed = true;
        // SAFETY: the timer is in the scheduler, which is never freed, and `retry` may get its
        // address on any thread. The lock is held, so that no other call overlaps.
        let moved = unsafe { stackless.timer.arm(heap, when, 0, retry) };
        drop(starved);
        if let Some(heap) = moved {
            self.look_again(heap);
        }
    }
}

fn admit(sched: &'static Sched, g: GRef, here: Option<&Here>) {
    let reserved = match here {
        Some(here) => here.m.stack_credit.reserve(&sched.arena),
        None => sched.arena.reserve_stacks(1),
    };
    if reserved.is_err() {
        let stackless = sched.stackless.get();
        return sched.starve(stackless.must("a goroutine starves before one waits"), g);
    }
    g.leave_home();
    match here {
        Some(here) => sched.push_anywhere(here, g),
        None => sched.global.push(g),
    }
    sched.wake_idle();
}

/// Readies all starved goroutines. Those for which there is no stack yet starve again.
unsafe fn retry(sched: NonNull<()>, _: u32, woken: &mut WaiterList) {
    // SAFETY: the argument of the timer is its scheduler, which is never freed.
    let sched: &'static Sched = unsafe { sched.cast().as_ref() };
    let stackless = sched.stackless.get().must("its timer fires");
    let mut starved = stackless.starved.lock();
    starved.timed = false;
    while let Some(waiter) = starved.goroutines.pop() {
        woken.push(waiter);
    }
}

#[cfg(all(test, loom))]
#[path = "../../models/stackless.rs"]
mod models;
