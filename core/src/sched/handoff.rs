//! Hand-off: Ps that change their M, so that a goroutine that keeps its thread keeps nobody else waiting.
//!
//! ```text
//!                 take (sysmon)               grant
//!   M runs, P ─────────────────▶ M runs, no P
//!     ▲    │ give way               │ its goroutine parks, yields or returns
//!     │    ▼                        ▼
//!     │   WANTING  ◀─────────────  home queue not empty?  ─────────────▶ SPARE
//!     │      │   grant                                                    │  │ readied at home: WANTING
//!     └──────┴────────────────────────────────────────────────────────────┘  ▼
//! ```
//!
//! A P always has a holder: whoever takes one from an M has another M at hand, a spare one or a new one. An M without a P is in one of the
//! two lists of the exchange or has been granted a P, and sleeps on its wake word until it is. It runs its started goroutines, which nobody
//! else may, when a holder gives way: one that has nothing to run does so at once, a busy one now and then.
//!
//! The race: an M begins to want a P while the last holder that could give one goes to sleep. The M is in the list before it looks for a
//! sleeping holder, and a holder says that it sleeps before it looks at the list; both pass a fence in between, so one of them sees the other.

use super::Sched;
use crate::m::{Asleep, Here, M};
use crate::sync::{AtomicU32, Lock, Ordering};
use core::ptr;

/// The Ms without a P.
pub(super) struct IdleMs {
    /// How many want one: to look at without the lock.
    wanting: AtomicU32,
    lists: Lock<Lists>,
}

#[derive(Default)]
struct Lists {
    /// Ms that have goroutines to run, first come first served.
    wanting: List,
    /// Ms that have none.
    spare: List,
}

/// Ms linked through themselves: no allocation. An M is in one list, or in none; there is one lock for all lists.
#[derive(Default)]
struct List {
    first: Option<&'static M>,
    last: Option<&'static M>,
}

impl List {
    fn iter(&self) -> impl Iterator<Item = &'static M> {
        core::iter::successors(self.first, |m| *next(m))
    }

    fn push(&mut self, m: &'static M) {
        *next(m) = None;
        match self.last.replace(m) {
            None => self.first = Some(m),
            Some(last) => *next(last) = Some(m),
        }
    }

    fn push_first(&mut self, m: &'static M) {
        *next(m) = self.first.replace(m);
        self.last.get_or_insert(m);
    }

    fn pop(&mut self) -> Option<&'static M> {
        let first = self.first?;
        self.first = *next(first);
        if self.first.is_none() {
            self.last = None;
        }
        Some(first)
    }

    /// False if it is not there.
    fn remove(&mut self, m: &'static M) -> bool {
        let (mut rest, mut found) = (core::mem::take(self), false);
        while let Some(other) = rest.pop() {
            match ptr::eq(other, m) {
                true => found = true,
                false => self.push(other),
            }
        }
        found
    }
}

/// The link of an M, to be used at once and by a list.
#[allow(clippy::mut_from_ref, reason = "the lock of all lists is held")]
fn next(m: &M) -> &mut Option<&'static M> {
    // SAFETY: only lists call this, under their lock, and keep the result for one statement, in which they ask for one link.
    unsafe { &mut *m.link.get() }
}

impl IdleMs {
    pub(super) fn new() -> Self {
        IdleMs {
            wanting: AtomicU32::new(0),
            lists: Lock::new(Lists::default()),
        }
    }

    /// Whether some M waits for a P.
    #[inline]
    pub(super) fn is_wanted(&self) -> bool {
        self.wanting.load(Ordering::Relaxed) > 0
    }

    fn enlist(&self, m: &'static M, wants: bool) {
        let mut lists = self.lists.lock();
        if wants {
            lists.wanting.push(m);
            self.wanting.fetch_add(1, Ordering::AcqRel);
        } else {
            lists.spare.push_first(m);
        }
    }

    /// A spare M begins to want a P. False if it is no longer in that list: a grant is on its way.
    fn want(&self, m: &'static M) -> bool {
        let mut lists = self.lists.lock();
        if !lists.spare.remove(m) {
            return false;
        }
        lists.wanting.push(m);
        self.wanting.fetch_add(1, Ordering::AcqRel);
        true
    }

    /// The M that has wanted a P for longest.
    fn first_wanting(&self) -> Option<&'static M> {
        let first = self.lists.lock().wanting.pop()?;
        self.wanting.fetch_sub(1, Ordering::AcqRel);
        Some(first)
    }

    /// How many Ms have neither a P nor goroutines.
    pub(super) fn spares(&self) -> usize {
        self.lists.lock().spare.iter().count()
    }

    fn spare(&self) -> Option<&'static M> {
        self.lists.lock().spare.pop()
    }
}

impl Sched {
    /// Gives an M that is in no list a P that nobody uses.
    pub(super) fn grant(&self, p: usize, m: &M) {
        self.p(p).set_holder(m.index);
        m.grant.give(p);
        self.notify(m);
    }

    /// Sleeps until the M is granted a P. It is in a list of the exchange, or about to be granted one.
    pub(super) fn await_grant(&'static self, m: &'static M) -> Here {
        loop {
            if let Some(p) = m.grant.take() {
                m.set_p(Some(p));
                m.retake.renew();
                // SAFETY: this is the M's thread, the grant made it the holder, and code on an M's own stack never parks.
                return unsafe { Here::new(m, self.p(p)) };
            }
            if !m.inbox.is_empty() && self.exchange.want(m) {
                self.wake_holder();
            }
            if m.wake.prepare(Asleep::WithoutP) {
                self.os
                    .futex_wait(m.wake.futex(), Asleep::WithoutP.bits(), None);
            }
            let recruited = m.wake.awake();
            debug_assert!(!recruited, "an M without a P was recruited");
        }
    }

    /// After an M began to want a P: wakes one that holds a P and sleeps, if any does.
    fn wake_holder(&self) {
        self.idlers.before_recheck();
        if let Some(m) = self.ms().find(|m| m.wake.asleep()) {
            self.notify(m);
        }
    }

    /// Lets an M that wants a P have this one, and waits for another.
    #[cold]
    pub(super) fn give_way(&'static self, here: Here) -> Here {
        let Some(next) = self.exchange.first_wanting() else {
            return here;
        };
        if self.stop_spinning(&here) {
            self.wake_idle();
        }
        self.trace_gave_way(&here, next);
        self.give_up_p(here, |sched| sched.grant(here.p.index, next))
    }

    /// Goes on without a P, as one that wants one or as a spare, until the M is granted one. `meanwhile` is done when it is in a list.
    pub(super) fn give_up_p(&'static self, here: Here, meanwhile: impl FnOnce(&Self)) -> Here {
        let m = here.m;
        let wants =
            here.home(|home| home.next.is_some() || home.queue.len() > 0) || !m.inbox.is_empty();
        m.set_p(None);
        self.exchange.enlist(m, wants);
        meanwhile(self);
        if wants {
            self.wake_holder();
        }
        self.await_grant(m)
    }

    /// Takes the P from an M that does not come back, and gives it to another. Whether that was possible. Called by one thread only.
    #[doc(alias = "retake", alias = "handoffp")]
    pub(super) fn hand_off(&'static self, p: usize) -> bool {
        let wanting = self.exchange.first_wanting();
        let wanted = wanting.is_some();
        let Some(next) = wanting
            .or_else(|| self.exchange.spare())
            .or_else(|| self.another_m())
        else {
            return false;
        };
        let holder = self.m(self.p(p).holder());
        if holder.retake.take(|| self.os.barrier()) {
            // SAFETY: it is taken.
            unsafe { self.trace_taken(p, holder, next) };
            self.totals.handoffs.bump();
            self.grant(p, next);
            return true;
        }
        // The M was back. What happened while the other was in no list, it looks for now.
        self.exchange.enlist(next, wanted);
        match wanted {
            true => self.wake_holder(),
            false => self.notify(next),
        }
        false
    }
}

#[cfg(all(test, loom))]
#[path = "../../models/handoff.rs"]
mod models;
