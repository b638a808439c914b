//! How many Ms sleep, and how many look for work: one word for both, since they are decided upon together.
//!
//! ```text
//!   63 ........ 32 | 31 ...... 0
//!      spinning        idle
//! ```
//!
//! The race: a goroutine is made while the last M that looks gives up. The maker pushes, then reads this word; the M leaves the spinning
//! (or becomes idle) in this word, then reads all rings. Each writes one place and reads the other's, so both put a `SeqCst` fence in
//! between, and at least one sees the other: `Idlers::after_submit` and `Idlers::before_recheck`.

use crate::sync::{AtomicU64, Ordering, fence};

const SPINNING: u64 = 1 << 32;

pub(crate) struct Idlers(AtomicU64);

impl Idlers {
    pub(crate) fn new() -> Self {
        Idlers(AtomicU64::new(0))
    }

    fn idle(word: u64) -> u32 {
        word as u32
    }

    fn spinning(word: u64) -> u32 {
        (word / SPINNING) as u32
    }

    /// After work was made visible: whether an idle M ought to be recruited, because none is looking.
    #[inline]
    pub(crate) fn after_submit(&self) -> bool {
        fence(Ordering::SeqCst);
        let word = self.0.load(Ordering::Relaxed);
        Self::idle(word) > 0 && Self::spinning(word) == 0
    }

    /// After leaving the spinning or becoming idle, before looking at all queues once more.
    pub(crate) fn before_recheck(&self) {
        fence(Ordering::SeqCst);
    }

    /// How many sleep, and how many look.
    pub(crate) fn count(&self) -> (usize, usize) {
        let word = self.0.load(Ordering::Relaxed);
        (Self::idle(word) as usize, Self::spinning(word) as usize)
    }

    /// Whether any M sleeps.
    pub(crate) fn any_idle(&self) -> bool {
        Self::idle(self.0.load(Ordering::Relaxed)) > 0
    }

    /// Takes the place of the only spinning M, for an M that is about to be recruited.
    pub(crate) fn spin_alone(&self) -> bool {
        let first = |word| (Self::spinning(word) == 0).then_some(word + SPINNING);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, first)
            .is_ok()
    }

    /// Joins the spinning, unless half of the busy Ms (of `procs` in all) spin already: more would only get in each other's way.
    pub(crate) fn try_spin(&self, procs: usize) -> bool {
        let room = |word| {
            let busy = (procs as u32).saturating_sub(Self::idle(word));
            (2 * Self::spinning(word) < busy).then_some(word + SPINNING)
        };
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, room)
            .is_ok()
    }

    /// Joins the spinning in any case, for an M that has seen work.
    pub(crate) fn spin(&self) {
        self.0.fetch_add(SPINNING, Ordering::AcqRel);
    }

    /// Leaves the spinning.
    pub(crate) fn stop_spinning(&self) {
        self.0.fetch_sub(SPINNING, Ordering::AcqRel);
    }

    /// Becomes idle.
    pub(crate) fn park(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// Is no longer idle. How many were, this one included.
    pub(crate) fn unpark(&self) -> usize {
        Self::idle(self.0.fetch_sub(1, Ordering::AcqRel)) as usize
    }

    /// Whether as many as `procs` Ms are idle. A read-modify-write: see `Sched::wake_sysmon`.
    pub(crate) fn all_idle(&self, procs: usize) -> bool {
        Self::idle(self.0.fetch_add(0, Ordering::AcqRel)) as usize == procs
    }
}
