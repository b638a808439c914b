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
//! that. So each M records whether its thread was in a panic when a goroutine last stopped there:
//! `M::foreign_panic`. While that is set, the panic may be that of any goroutine at home there, and
//! all may wait.

use super::Sched;
use crate::g::G;
#[cfg(doc)]
use crate::polldesc::PollError;
use crate::sync::Ordering;

impl Sched {
    /// Whether the calling goroutine unwinds. False if the panic may be that of a neighbour, and on
    /// an ordinary thread, which has no neighbours.
    pub(crate) fn unwinds(&self) -> bool {
        (self.config.unwinding)()
            && self
                .current()
                .is_some_and(|g| !self.m_of(g).foreign_panic.load(Ordering::Relaxed))
    }

    /// Whether a goroutine may stop in an operation that can fail. If so, it is about to stop.
    #[inline]
    pub(crate) fn may_stop(&self, g: &G) -> bool {
        let panics = (self.config.unwinding)();
        let foreign = &self.m_of(g).foreign_panic;
        if panics && !foreign.load(Ordering::Relaxed) {
            return false;
        }
        foreign.store(panics, Ordering::Relaxed);
        true
    }

    /// Declares that the calling goroutine is about to stop although it may unwind. Called before
    /// [`yield_now`](Self::yield_now) if the thread is in a panic.
    pub fn stops_unwinding(&self) {
        if let Some(g) = self.current() {
            self.stops(g);
        }
    }

    /// Called when a goroutine is about to stop, whether it unwinds or not.
    pub(super) fn stops(&self, g: &G) {
        self.m_of(g)
            .foreign_panic
            .store((self.config.unwinding)(), Ordering::Relaxed);
    }
}
