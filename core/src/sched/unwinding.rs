//! A goroutine that unwinds does not wait for what can fail.
//!
//! std counts panics by thread. If a goroutine parks in a destructor that a panic runs, its
//! neighbours, the goroutines at home on the same thread, see
//! `std::thread::panicking()`, and their lock guards poison their locks. So where gopark decides,
//! no other goroutine runs on the thread until the unwinding is over:
//!
//! | what | by a goroutine that unwinds |
//! |---|---|
//! | an operation of a descriptor that must wait | fails with [`PollError::Unwinding`](crate::polldesc::PollError::Unwinding) |
//! | a close while others use the descriptor | returns; the last of them releases it |
//! | the turn of others after many operations | comes later |
//! | work for a pool | runs on the goroutine's own thread |
//! | a join, a sleep, a yield | parks: its caller asked for that |
//!
//! The last row makes the neighbours see a panic that is not theirs, and they must not be refused
//! for it. Each M keeps that in mind: `detached` is whether its
//! thread was in a panic when a goroutine last stopped there. While it is set, it is unknown
//! whose panic it is, and all may wait.

use super::Sched;
use crate::g::G;
use crate::sync::Ordering;

impl Sched {
    /// Whether the calling goroutine unwinds, as far as can be told. False on an ordinary thread,
    /// which has no neighbours.
    pub(crate) fn unwinds(&self) -> bool {
        (self.config.unwinding)()
            && self
                .current()
                .is_some_and(|g| !self.m_of(g).detached.load(Ordering::Relaxed))
    }

    /// Whether a goroutine may stop for what can fail; if so, it is about to.
    #[inline]
    pub(crate) fn may_stop(&self, g: &G) -> bool {
        let panics = (self.config.unwinding)();
        let detached = &self.m_of(g).detached;
        if panics && !detached.load(Ordering::Relaxed) {
            return false;
        }
        detached.store(panics, Ordering::Relaxed);
        true
    }

    /// The calling goroutine is about to stop although it may be unwinding: to be called before
    /// [`yield_now`](Self::yield_now), if its thread is in a panic.
    pub fn stops_unwinding(&self) {
        if let Some(g) = self.current() {
            self.stops(g);
        }
    }

    /// A goroutine is about to stop, whether it unwinds or not.
    pub(super) fn stops(&self, g: &G) {
        self.m_of(g)
            .detached
            .store((self.config.unwinding)(), Ordering::Relaxed);
    }
}
