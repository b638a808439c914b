//! Poller: a port's [`Netpoll`] as the Ms share it.
//!
//! Several Ms may share a poller, and one M at a time sleeps in it. An M that finds its poller
//! occupied sleeps on its futex. The M that leaves a poller wakes an M that sleeps on its futex
//! (`fill_poller`), so that events do not wait until an M of this poller is idle.

use crate::os::{Delay, Errno, Events, Mode, Netpoll};
use crate::sync::{AtomicBool, AtomicU32, Ordering};
use crate::tagptr::TaggedPtr;
use alloc::boxed::Box;

/// A poller of the scheduler.
pub(crate) struct Poller {
    backend: Box<dyn Netpoll>,
    /// Descriptors that are registered or about to be.
    watched: AtomicU32,
    /// Whether an M sleeps in it, or is about to.
    occupied: AtomicBool,
}

impl Poller {
    pub(crate) fn new(backend: Box<dyn Netpoll>) -> Self {
        Poller {
            backend,
            watched: AtomicU32::new(0),
            occupied: AtomicBool::new(false),
        }
    }

    /// Registers descriptor `fd`, whose events are to carry `token`.
    pub(crate) fn register(&self, fd: i32, token: TaggedPtr) -> Result<(), Errno> {
        // Release pairs with the Acquire in `poll`.
        self.watched.fetch_add(1, Ordering::Release);
        self.backend.open(fd, token).inspect_err(|_| {
            self.watched.fetch_sub(1, Ordering::Relaxed);
        })
    }

    /// Announces a wait for descriptor `fd`, which is registered with `token`.
    pub(crate) fn arm(&self, fd: i32, token: TaggedPtr, mode: Mode) {
        self.backend.arm(fd, token, mode);
    }

    /// Removes descriptor `fd`.
    pub(crate) fn deregister(&self, fd: i32) {
        self.backend.close(fd);
        self.watched.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many descriptors it watches.
    #[inline]
    pub(crate) fn watched(&self) -> u32 {
        self.watched.load(Ordering::Relaxed)
    }

    /// Adds the events of descriptors to `events`. Waits for the first event as `delay` says.
    #[inline]
    pub(crate) fn poll(&self, delay: Delay, events: &mut Events) {
        self.backend.poll(delay, events);
        // Pairs with the Release in `watch`: the caller sees what was written before a descriptor
        // was registered, such as the PollDesc of its token. The kernel orders the two as well, but
        // outside of the language's memory model.
        self.watched.load(Ordering::Acquire);
    }

    /// Ends the sleep of the M in it, or its next sleep there.
    pub(crate) fn wake(&self) {
        self.backend.wake();
    }

    /// Occupies it for the M that is about to sleep there. False if another M does.
    pub(crate) fn try_enter(&self) -> bool {
        !self.occupied.swap(true, Ordering::AcqRel)
    }

    /// Ends the occupation. An RMW orders this before the caller's next look for Ms on their futex
    /// (`fill_poller`): either that look finds the M, or the M finds the poller vacant.
    pub(crate) fn leave(&self) {
        self.occupied.swap(false, Ordering::AcqRel);
    }

    pub(crate) fn is_occupied(&self) -> bool {
        self.occupied.load(Ordering::Relaxed)
    }

    /// Whether it watches descriptors while no M sleeps in it.
    pub(crate) fn is_unattended(&self) -> bool {
        !self.is_occupied() && self.watched() > 0
    }

    /// The port's poller.
    #[cfg(all(test, loom))]
    pub(crate) fn backend(&self) -> &dyn Netpoll {
        &*self.backend
    }
}
