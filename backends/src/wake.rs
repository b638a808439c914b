//! The word that joins wakes: of all who want a poll to return, one writes to the wake-up descriptor.
//!
//! | `WakeSig` | descriptor | state | who leaves it |
//! |---|---|---|---|
//! | false | empty | nobody asked | a waker: swaps in true |
//! | true | empty | a waker is about to write | that waker: writes |
//! | true | readable | a wake is pending | the waiting poll: reads |
//! | true | empty | the waiting poll returns | that poll: swaps in false |
//!
//! Both sides use a swap: a waker that finds true has joined a pending wake, and the poll that takes it acquires what each of
//! those wakers wrote before, not only what the first did. The models are in `core/models/wake.rs`.

#[cfg(not(loom))]
use core::sync::atomic::{AtomicBool, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering};

/// Whether a wake has been asked for and not consumed.
pub(crate) struct WakeSig(AtomicBool);

impl WakeSig {
    /// Nobody asked.
    pub(crate) fn new() -> Self {
        WakeSig(AtomicBool::new(false))
    }

    /// Asks for a wake. `write` makes the descriptor readable, and is not called if that has been done or is about to be.
    pub(crate) fn ask(&self, write: impl FnOnce()) {
        if !self.0.swap(true, Ordering::AcqRel) {
            write();
        }
    }

    /// A poll has found the descriptor readable; `read` empties it. A poll that did not wait was not asleep: the wake is for the one that is.
    ///
    /// The order matters. A wake between the two steps is dropped, which is fine: this poll is about to return anyway. With the steps
    /// swapped, a wake between them sets the word and has its write eaten by the read, and then every later wake joins one that
    /// never comes.
    pub(crate) fn seen(&self, waited: bool, read: impl FnOnce()) {
        if waited {
            read();
            self.0.swap(false, Ordering::AcqRel);
        }
    }
}
