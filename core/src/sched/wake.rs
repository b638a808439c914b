//! Waking: how a thread tells an M that has work for it. `idle` decides which M is woken for work
//! that any M may do.

use super::Sched;
use crate::m::{Asleep, M};
use crate::sync::AtomicU32;
use crate::timer::Heap;
use core::ptr;

impl Sched {
    /// Makes an M look for work once more before it sleeps, or wakes it.
    pub(super) fn notify(&self, m: &M) {
        if let Some(asleep) = m.wake.notify() {
            self.unpark(m, asleep);
        }
    }

    /// Ends the sleep of an M, which is where `asleep` says.
    pub(super) fn unpark(&self, m: &M, asleep: Asleep) {
        match asleep {
            Asleep::Futex | Asleep::WithoutP => self.wake_one(m.wake.futex()),
            // A child process would wake an M of its parent.
            Asleep::Poller if self.is_forked() => {}
            // If the M has got up by now, it may hold another P, or none: that wake is in vain.
            Asleep::Poller => m.p().into_iter().for_each(|p| {
                self.count_wake();
                self.poller(self.p(p).poller).wake();
            }),
        }
    }

    /// Wakes one thread that sleeps on `word`.
    pub(crate) fn wake_one(&self, word: &AtomicU32) {
        self.count_wake();
        self.os.futex_wake(ptr::from_ref(word).cast());
    }

    /// Makes the M that sleeps for the timers of `heap` look at them again. Called after a timer
    /// was armed that is due before all others of the heap.
    pub(crate) fn look_again(&'static self, heap: &Heap) {
        // This M looks at its timers before it sleeps.
        if self.here().is_none_or(|here| here.p.index != heap.owner()) {
            // If the P is changing hands, either this finds the new holder, or the new holder sees
            // the timer: `P::holder` is a read-modify-write.
            self.notify(self.m(self.p(heap.owner()).holder()));
        }
    }

    /// The heap for a timer that the caller arms: that of its P. Ordinary threads use all in turn.
    pub(crate) fn timers(&'static self) -> &'static Heap {
        match self.here() {
            Some(here) => &here.p.timers,
            None => &self.p(self.ordinary.round_robin(self.ps.len())).timers,
        }
    }
}
