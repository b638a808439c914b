//! Hand-off: how a P changes its M, so that a goroutine that keeps its thread delays only those
//! that must run on that thread.
//!
//! ```text
//!                take (sysmon)
//!   M runs, P ─────────────────▶ M runs, no P
//!     ▲    │ gives way              │ its goroutine parks, yields or returns
//!     │    ▼                        ▼
//!     │   WANTING ◀─────────── home queue empty? ───────────▶ SPARE
//!     │      │ ▲        no                          yes        │ │
//!     │      │ └───────── a goroutine is readied at home ──────┘ │
//!     └──────┴────────────────────── grant ──────────────────────┘
//! ```
//!
//! A P always has a holder: sysmon takes a P from an M only when it has a wanting, a spare or a new
//! M to grant it to. An M without a P is in one of the lists of [`MsWithoutP`] or has been granted
//! a P, and sleeps on its wake word until it is granted one. Goroutines that have started there run
//! when a holder gives way. A holder that has nothing to run does so at once, a busy one after
//! `FAIR_TICK` searches.
//!
//! The race: an M begins to want a P while the last holder that could give way goes to sleep. The M
//! enters the list, then reads the wake words of holders; a holder writes its wake word, then reads
//! the list. Both pass a fence in between (`before_recheck`), so at least one sees the other.

use super::Sched;
use crate::m::{Asleep, Here, M};
use crate::sync::{AtomicU32, Lock, Ordering};
use core::ptr;

/// The Ms without a P whose goroutines have stopped.
pub(super) struct MsWithoutP {
    /// The length of `Lists::wanting`, which holders read without the lock.
    wanting: AtomicU32,
    lists: Lock<Lists>,
}

#[derive(Default)]
struct Lists {
    /// Ms that have goroutines to run, in the order in which they came.
    wanting: List,
    /// Ms that have none. The last to come is the first to go: its stack is in the cache.
    spare: List,
}

/// A list of Ms, linked through `M::link`. An M is in one list at most.
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

    /// Removes an M. Returns whether it was in the list.
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

/// The link of an M, which a list uses at once.
#[allow(clippy::mut_from_ref, reason = "the lock of all lists is held")]
fn next(m: &M) -> &mut Option<&'static M> {
    // SAFETY: only lists call this, under the one lock of all lists, and no statement holds two
    // results.
    unsafe { &mut *m.link.get() }
}

impl MsWithoutP {
    pub(super) fn new() -> Self {
        MsWithoutP {
            wanting: AtomicU32::new(0),
            lists: Lock::new(Lists::default()),
        }
    }

    /// Whether an M with goroutines waits for a P.
    #[inline]
    pub(super) fn is_wanted(&self) -> bool {
        self.wanting.load(Ordering::Relaxed) > 0
    }

    /// Adds an M that has no P: to those that want one, or to the spare ones.
    fn enlist(&self, m: &'static M, wants: bool) {
        let mut lists = self.lists.lock();
        if wants {
            lists.wanting.push(m);
            self.wanting.fetch_add(1, Ordering::AcqRel);
        } else {
            lists.spare.push_first(m);
        }
    }

    /// Moves a spare M to those that want a P. Returns false if it is in no list: a P is about to
    /// be granted to it.
    fn want(&self, m: &'static M) -> bool {
        let mut lists = self.lists.lock();
        if !lists.spare.remove(m) {
            return false;
        }
        lists.wanting.push(m);
        self.wanting.fetch_add(1, Ordering::AcqRel);
        true
    }

    /// Removes the M that has wanted a P for longest.
    fn first_wanting(&self) -> Option<&'static M> {
        let first = self.lists.lock().wanting.pop()?;
        self.wanting.fetch_sub(1, Ordering::AcqRel);
        Some(first)
    }

    /// How many spare Ms there are.
    pub(super) fn spares(&self) -> usize {
        self.lists.lock().spare.iter().count()
    }

    fn spare(&self) -> Option<&'static M> {
        self.lists.lock().spare.pop()
    }
}

impl Sched {
    /// Gives a P that is not in use to an M that is in no list.
    pub(super) fn grant(&self, p: usize, m: &M) {
        self.p(p).set_holder(m.index);
        m.grant.give(p);
        self.notify(m);
    }

    /// Sleeps until the M is granted a P. The M is in a list, or is about to be granted a P.
    pub(super) fn await_grant(&'static self, m: &'static M) -> Here {
        loop {
            if let Some(p) = m.grant.take() {
                m.set_p(Some(p));
                m.retake.renew();
                // SAFETY: this is the M's thread, the grant made the M the holder, and code on an
                // M's own stack never parks.
                return unsafe { Here::new(m, self.p(p)) };
            }
            if !m.inbox.is_empty() && self.without_p.want(m) {
                self.wake_holder();
            }
            if m.wake.prepare(Asleep::WithoutP) {
                self.os
                    .futex_wait(m.wake.futex(), Asleep::WithoutP.bits(), None);
            }
            let spins = m.wake.awake();
            debug_assert!(!spins, "M {} has no P but is counted as spinning", m.index);
        }
    }

    /// Wakes one M that sleeps with a P, to give way. Called after an M began to want a P.
    fn wake_holder(&self) {
        self.idlers.before_recheck();
        if let Some(m) = self.ms().find(|m| m.wake.sleeps_with_p()) {
            self.notify(m);
        }
    }

    /// Grants this P to an M that wants one, if there is one still, and waits for another.
    #[cold]
    pub(super) fn give_way(&'static self, here: Here) -> Here {
        let Some(next) = self.without_p.first_wanting() else {
            return here;
        };
        if self.stop_spinning(&here) {
            self.wake_idle();
        }
        self.trace_gave_way(&here, next);
        self.give_up_p(here, |sched| sched.grant(here.p.index, next))
    }

    /// Puts this M into a list, calls `then`, and waits until the M is granted a P. From the moment
    /// that it is in a list, another thread may grant it one.
    pub(super) fn give_up_p(&'static self, here: Here, then: impl FnOnce(&Self)) -> Here {
        let m = here.m;
        let wants =
            here.home(|home| home.next.is_some() || home.queue.len() > 0) || !m.inbox.is_empty();
        m.set_p(None);
        self.without_p.enlist(m, wants);
        then(self);
        if wants {
            self.wake_holder();
        }
        self.await_grant(m)
    }

    /// Takes a P from an M that does not come back, and grants it to another M. Returns false if no
    /// other M can be had, or if the M is back. Called by sysmon only.
    #[doc(alias = "retake", alias = "handoffp")]
    pub(super) fn hand_off(&'static self, p: usize) -> bool {
        let wanting = self.without_p.first_wanting();
        let wanted = wanting.is_some();
        let Some(next) = wanting
            .or_else(|| self.without_p.spare())
            .or_else(|| self.another_m())
        else {
            return false;
        };
        let holder = self.m(self.p(p).holder());
        if holder.retake.take(|| self.os.barrier()) {
            // SAFETY: `take` has just taken the P.
            unsafe { self.trace_taken(p, holder, next) };
            self.totals.handoffs.bump();
            self.grant(p, next);
            return true;
        }
        // The M is back. Put `next` into its list again, and make it look for what arrived while it
        // was in none.
        self.without_p.enlist(next, wanted);
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
