//! Placement: on which M a fresh goroutine starts. It stays there, so this decides which goroutines
//! share a thread.
//!
//! The rule: an M that is about to start a goroutine offers it to an M that runs none and has
//! clearly fewer at home. Clearly means fewer by two, and by an eighth. So a program that spawns
//! and joins one goroutine at a time does not wake another thread for each of them. While all Ms
//! are busy, each starts what it finds.
//!
//! The goroutine is put in front of the ring of the other P. Other Ms can steal it from there if
//! that M runs something else first.
//!
//! The race: the other M finds a goroutine to run while this one is offered to it. The other M
//! clears `M::searches`, then reads its ring; the M that offers fills the ring, then reads
//! `M::searches`. Both pass a fence in between, so at least one sees the other's store, and wakes
//! an M that takes the goroutine.

use super::Sched;
use crate::g::GRef;
use crate::m::{Here, M};
use crate::p::P;
use crate::sync::Ordering;

/// How many Ps are looked at, from a random one on. A bound, so that a start costs no more on a
/// machine with many CPUs.
const CANDIDATES: usize = 8;

/// How many goroutines have started on an M and have not returned. Another thread may get an old
/// figure.
fn at_home(m: &M) -> u64 {
    m.counts
        .started
        .get()
        .saturating_sub(m.counts.finished.get())
}

impl Sched {
    /// Returns a goroutine that is to run on this M, or `None` if it was offered to another M.
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

    /// The P whose M runs no goroutine and has the fewest at home, if those are clearly fewer than
    /// on this M.
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

    /// Whether the M of a P has found no goroutine to run.
    pub(super) fn is_searching(&self, p: &P) -> bool {
        self.m(p.holder()).searches.load(Ordering::Relaxed)
    }

    /// Called when this M has found a goroutine. If another M has offered it one more, wakes an M
    /// that can take that.
    pub(super) fn stop_searching(&self, here: &Here) {
        if here.m.searches.load(Ordering::Relaxed) {
            here.m.searches.store(false, Ordering::Relaxed);
            self.idlers.before_recheck();
            if !here.p.ring.is_empty() {
                self.wake_idle();
            }
        }
    }

    /// Whether the ring of a P holds goroutines that other Ms may take. What was offered to its M
    /// is left to it while it searches.
    pub(super) fn is_open(&self, p: &P) -> bool {
        !p.ring.is_empty() && (p.ring.has_queued() || !self.is_searching(p))
    }
}
