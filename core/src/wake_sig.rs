//! WakeSig: the word with which a poller joins concurrent wakes, so that one waker writes to the
//! eventfd and the others do not.
//!
//! | `WakeSig` | eventfd | state | left by |
//! |---|---|---|---|
//! | false | empty | no wake requested | a waker: swaps in true |
//! | true | empty | a waker is about to write | that waker: writes |
//! | true | readable | a wake is pending | the waiting poll: reads |
//! | true | empty | the waiting poll returns | that poll: swaps in false |
//!
//! Both sides swap with acquire and release. A waker that finds true has joined a pending wake; its
//! release pairs with the acquire of the poll that takes the wake. So that poll sees what each
//! joined waker wrote before, and not only what the first one wrote.
//!
//! Source: Go `src/runtime/netpoll_epoll.go`, `netpollWakeSig`.

use crate::sync::{AtomicBool, Ordering};

/// Whether a wake has been requested and not yet consumed. None is at first.
#[derive(Default)]
pub struct WakeSig(AtomicBool);

impl WakeSig {
    /// Requests a wake. Calls `write`, which makes the eventfd readable, unless another waker has
    /// done so or is about to.
    pub fn request(&self, write: impl FnOnce()) {
        if !self.0.swap(true, Ordering::AcqRel) {
            write();
        }
    }

    /// Consumes the wake, if the poll that found the eventfd readable has waited; `read` empties
    /// the eventfd. A poll that did not wait leaves the wake to the poll that does.
    ///
    /// The order matters. A wake between the two steps is dropped, which is harmless: this poll is
    /// about to return anyway. With the steps swapped, a wake between them sets the word, and the
    /// read then eats its write. Every later wake would join one that never comes.
    pub fn consume(&self, waited: bool, read: impl FnOnce()) {
        if waited {
            read();
            self.0.swap(false, Ordering::AcqRel);
        }
    }
}

#[cfg(all(test, loom))]
#[path = "../models/wake_sig.rs"]
mod models;
