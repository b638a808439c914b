//! A goroutine that unwinds does not wait for what can fail.
//!
//! std counts panics by thread. If a goroutine parks in a destructor that a panic runs, its
//! neighbours, the goroutines at home on the same thread, see
//! `std::thread::panicking()`, and their lock guards poison their locks. So where gopark decides,
//! no other goroutine runs on the thread until the unwinding is over:
//!
//! | what | by a goroutine that unwinds |
//! |---|---|
//! | an operation of a descriptor that must wait | fails with [`PollError::Unwinding`] |
//! | a close while others use the descriptor | returns; the last of them releases it |
//! | the turn of others after many operations | comes later |
//! | work for a pool | runs on the goroutine's own thread |
//! | a join, a sleep, a yield | parks: its caller asked for that |
//!
//! The last row makes the neighbours see a panic that is not theirs, and no operation may fail for
//! that. So each M records the goroutine that stopped there in a panic: `M::panicker`. While the
//! thread is in a panic, that goroutine unwinds, and its neighbours do not.
//!
//! `std` says only whether a thread is in a panic, not how often. So a neighbour that begins to
//! panic in that time does not count as unwinding, and it may wait: a panic that is not seen costs
//! less than one that is not there. The record ends when a goroutine stops or returns while the
//! thread is in no panic.

use super::Sched;
use crate::g::G;
#[cfg(doc)]
use crate::polldesc::PollError;
use crate::sync::Ordering;

impl Sched {
    /// Whether the calling goroutine unwinds. False on an ordinary thread, which has no neighbours.
    pub fn unwinds(&self) -> bool {
        (self.config.unwinding)() && self.current().is_some_and(|g| !self.neighbour_panics(g))
    }

    /// Whether the panic that `std` sees on this thread is that of another goroutine, which has
    /// stopped in it. The caller has found that the thread is in a panic.
    pub fn panic_is_foreign(&self) -> bool {
        self.current().is_some_and(|g| self.neighbour_panics(g))
    }

    /// Whether a goroutine other than `g` has stopped here in a panic.
    fn neighbour_panics(&self, g: &G) -> bool {
        let panicker = self.m_of(g).panicker.load(Ordering::Relaxed);
        panicker != 0 && panicker != g.id()
    }

    /// Whether a goroutine may stop in an operation that can fail. If so, it is about to stop.
    #[inline]
    pub(crate) fn may_stop(&self, g: &G) -> bool {
        if (self.config.unwinding)() {
            return self.neighbour_panics(g);
        }
        self.m_of(g).panicker.store(0, Ordering::Relaxed);
        true
    }

    /// Declares that the calling goroutine is about to stop although it may unwind. Called before
    /// [`yield_now`](Self::yield_now) if the thread is in a panic.
    pub fn stops_unwinding(&self) {
        if let Some(g) = self.current() {
            self.stops(g);
        }
    }

    /// Called when a goroutine is about to stop or to return, whether it unwinds or not.
    pub(super) fn stops(&self, g: &G) {
        let panicker = &self.m_of(g).panicker;
        let after = match (self.config.unwinding)() {
            false => 0,
            true if self.neighbour_panics(g) => return,
            true => g.id(),
        };
        panicker.store(after, Ordering::Relaxed);
    }
}
