//! Placement: on which M a fresh goroutine starts. It stays there, so where it starts decides which goroutines share a thread.
//!
//! The rule: an M that is about to start a goroutine leaves it to an M that runs none and has clearly fewer at home. "Clearly" is two
//! fewer, and an eighth: a program that spawns and joins one goroutine at a time does not have each of them started by another thread,
//! which must be woken for it. While all Ms are busy, each starts what it finds.
//!
//! The goroutine is put in front of the other P's ring, where thieves still find it if that M does something else first.
//!
//! The race: the other M finds another goroutine to run while this one is offered to it. It says that it no longer searches, then looks
//! at its ring; the M that offers fills the ring, then looks whether the other still searches. Both put a fence in between, so one of
//! them sees the other's store, and wakes an M that takes the goroutine.

use super::Sched;
use crate::g::GRef;
use crate::m::{Here, M};
use crate::p::P;
use crate::sync::Ordering;

/// How many Ps are looked at, from a random one on. A start costs no more on a machine with many CPUs.
const CANDIDATES: usize = 8;

/// How many goroutines have started on an M and have not returned, as far as another thread can tell.
fn at_home(m: &M) -> u64 {
    m.counts
        .started
        .get()
        .saturating_sub(m.counts.finished.get())
}

impl Sched {
    /// Hands back a goroutine that is to run here. `None` if it has not started and was left to another M.
    #[inline]
    pub(super) fn keep(&'static self, here: &Here, g: GRef) -> Option<GRef> {
        if g.started() {
            Some(g)
        } else {
            self.keep_fresh(here, g)
        }
    }

    fn keep_fresh(&'static self, here: &Here, g: GRef) -> Option<GRef> {
        if self.config.migrate || self.config.procs == 1 || g.home().is_some() {
            return Some(g);
        }
        let Some(p) = self.lighter(here) else {
            return Some(g);
        };
        if let Err(g) = p.ring.offer(g) {
            return Some(g);
        }
        self.notify(self.m(p.holder()));
        self.idlers.before_recheck();
        if !self.is_searching(p) {
            self.wake_idle();
        }
        None
    }

    /// Of the Ps whose Ms run no goroutine, the one with the fewest at home, if those are clearly fewer than here.
    fn lighter(&self, here: &Here) -> Option<&P> {
        let mine = at_home(here.m);
        if mine < 2 {
            return None;
        }
        let procs = self.config.procs;
        let first = here.p.random() as usize % procs;
        let candidates = (first..first + procs.min(CANDIDATES)).map(|p| self.p(p % procs));
        let free = candidates.filter(|p| self.is_searching(p) && p.ring.is_empty());
        let (fewer, lightest) = free
            .map(|p| (at_home(self.m(p.holder())), p))
            .min_by_key(|&(at_home, _)| at_home)?;
        (fewer + fewer / 8 + 1 < mine).then_some(lightest)
    }

    /// Whether the M of a P has found nothing to run since it last looked.
    pub(super) fn is_searching(&self, p: &P) -> bool {
        self.m(p.holder()).searches.load(Ordering::Relaxed)
    }

    /// The M has found a goroutine. If another M has offered it one more meanwhile, others may take that.
    pub(super) fn stop_searching(&self, here: &Here) {
        if here.m.searches.load(Ordering::Relaxed) {
            here.m.searches.store(false, Ordering::Relaxed);
            self.idlers.before_recheck();
            if !here.p.ring.is_empty() {
                self.wake_idle();
            }
        }
    }

    /// Whether the ring of a P holds what other Ms may take: all but what was offered to its M while that searches.
    pub(super) fn is_open(&self, p: &P) -> bool {
        !p.ring.is_empty() && (p.ring.has_queued() || !self.is_searching(p))
    }
}
