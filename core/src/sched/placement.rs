//! Placement: on which M a fresh goroutine starts. It stays there, so where it starts decides who shares a thread from then on.
//!
//! The rule: an M leaves fresh goroutines to an M that has fewer at home, if that one has nothing to do. One with nothing to do sleeps, or was
//! recruited and is on its way; of those that sleep, the one with the fewest at home is recruited. While all are busy, each M starts what it
//! finds, and reads one word to know.
//!
//! The race: an M leaves a goroutine to another and goes to sleep, while the other gets up for something else. An M that leaves something counts as
//! idle before it looks whether the other still has nothing to do, and if that one has not been recruited, recruits it. The other, once it is up and
//! has found something, recruits an idle M in turn. So one of the two sees the other, and either has the goroutine started.

use super::Sched;
use crate::m::{Here, M};
use crate::sync::Ordering;

/// Of so many starts, an M tells whether any of the goroutines stayed; and one in so many spawns is left to an M where none did. A program that
/// spawns and joins would else have each goroutine started by a thread that must be woken for it.
const WINDOW: u64 = 16;

/// An M has more at home than another if it is by a part of so many, or by one.
const MARGIN: u64 = 8;

/// How many goroutines have started on an M and have not returned.
fn at_home(m: &M) -> u64 {
    m.counts.started.get().saturating_sub(m.counts.finished.get())
}

impl Sched {
    /// Counts a goroutine that starts on this M.
    pub(super) fn count_start(&self, here: &Here) {
        let started = here.m.counts.started.bump();
        if started % WINDOW == 0 {
            here.m.review(at_home(here.m));
        }
    }

    /// The M to which this one leaves fresh goroutines.
    pub(super) fn lighter(&self, here: &Here) -> Option<&M> {
        match self.idlers.any_idle() {
            true => self.find_lighter(here, |m| m.wake.has_nothing_to_do()),
            false => None,
        }
    }

    /// Whether this M leaves what lies in its ring to another, or to one that is up and looks for work: that one needs a moment until it has taken
    /// some, in which this M would start all of it. An M that looks for work itself takes what it finds.
    pub(super) fn lets_others_look(&self, here: &Here, spinning: bool) -> bool {
        if spinning || self.idlers.count().1 == 0 {
            return self.lighter(here).is_some();
        }
        self.find_lighter(here, |m| m.wake.has_nothing_to_do() || m.looks.load(Ordering::Relaxed) != 0).is_some()
    }

    fn find_lighter(&self, here: &Here, has_nothing_to_do: impl Fn(&M) -> bool) -> Option<&M> {
        if self.config.migrate || self.config.procs == 1 {
            return None;
        }
        let mine = at_home(here.m);
        let most = mine - mine / MARGIN;
        let now_and_then = here.m.counts.spawned.get() % WINDOW == 0;
        self.ms().find(|m| has_nothing_to_do(m) && at_home(m) < most && (m.goroutines_stay() || now_and_then))
    }

    /// The M that sleeps and has the fewest at home.
    pub(super) fn lightest_asleep(&self) -> Option<&M> {
        self.ms().filter(|m| m.wake.asleep()).min_by_key(|m| at_home(m))
    }

    /// Before this M, which counts as idle, sleeps and leaves queued goroutines to another: whether another has them now.
    pub(super) fn leaves_work(&self, here: &Here) -> bool {
        let Some(m) = self.lighter(here) else { return false };
        if m.wake.is_recruited() {
            return true;
        }
        self.idlers.spin();
        let asleep = m.wake.recruit();
        match asleep {
            Some(asleep) => self.rouse(m, asleep),
            // It has got up for something else, and this M looks again.
            None => self.idlers.stop_spinning(),
        }
        asleep.is_some()
    }
}
