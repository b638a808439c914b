//! Lease: an M's hold on its P while the M runs goroutines, and how another thread takes the P from an M that does not come back.
//!
//! A goroutine that computes or sits in a system call keeps its thread, but must not keep the P with it. Entering the scheduler and leaving
//! it are far more frequent than that, so they are plain stores, and whoever takes the P pays for both sides' barrier:
//!
//! | word | by | means |
//! |---|---|---|
//! | `in_scheduler` | the M | the scheduler's code runs on the M, and may use the P |
//! | `request`: `NONE` → `ASKED` | the taker | is the M outside? |
//! | `ASKED` → `NONE` | the M in `enter`, or the taker | it was not |
//! | `ASKED` → `TAKEN` | the taker | it was: the P is the taker's |
//! | `TAKEN` → `NONE` | the M in `renew` | the M has noticed, and has a P again |
//!
//! The M stores `in_scheduler` and then loads `request`; the taker stores `request`, has every thread pass a memory barrier, and then loads `in_scheduler`.
//! So not both miss the other's store. If the M sees `ASKED`, both try to move `request` on, and one succeeds: the P has one owner.

use crate::sync::{AtomicBool, AtomicU32, Ordering, light_barrier};

const NONE: u32 = 0;
const ASKED: u32 = 1;
const TAKEN: u32 = 2;

pub(crate) struct Retake {
    in_scheduler: AtomicBool,
    request: AtomicU32,
}

impl Retake {
    /// The M is in the scheduler and holds its P.
    pub(crate) fn new() -> Self {
        Retake {
            in_scheduler: AtomicBool::new(true),
            request: AtomicU32::new(NONE),
        }
    }

    /// The M enters the scheduler. False if its P was taken.
    #[inline]
    #[must_use]
    pub(crate) fn enter(&self) -> bool {
        self.in_scheduler.store(true, Ordering::Relaxed);
        light_barrier();
        self.request.load(Ordering::Relaxed) == NONE || self.refuse()
    }

    /// Answers a demand. Failure needs no Acquire: an M without a P reads nothing of it.
    #[cold]
    fn refuse(&self) -> bool {
        self.request
            .compare_exchange(ASKED, NONE, Ordering::AcqRel, Ordering::Relaxed)
            != Err(TAKEN)
    }

    /// The M goes back to its goroutine. Release: what it did to the P comes before whatever a taker does.
    #[inline]
    pub(crate) fn leave(&self) {
        self.in_scheduler.store(false, Ordering::Release);
    }

    /// The M has a P again after one was taken.
    pub(crate) fn renew(&self) {
        self.request.store(NONE, Ordering::Release);
    }

    /// Whether a goroutine's code runs on the M, or did a moment ago.
    pub(crate) fn in_goroutine(&self) -> bool {
        !self.in_scheduler.load(Ordering::Relaxed)
    }

    /// Whether the P was taken, and the M has none since.
    pub(crate) fn is_taken(&self) -> bool {
        self.request.load(Ordering::Relaxed) == TAKEN
    }

    /// Takes the P from the only thread of a forked process, which is outside.
    pub(crate) fn revoke(&self) {
        self.request.store(TAKEN, Ordering::Relaxed);
    }

    /// Takes the P if the M is outside. `barrier` has every running thread of the process pass a memory barrier, or says that it cannot. One
    /// thread at a time may call this.
    #[must_use]
    pub(crate) fn take(&self, barrier: impl FnOnce() -> bool) -> bool {
        if self
            .request
            .compare_exchange(NONE, ASKED, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            return false;
        }
        // Acquire: pairs with `leave`.
        let wanted = if barrier() && !self.in_scheduler.load(Ordering::Acquire) {
            TAKEN
        } else {
            NONE
        };
        self.request
            .compare_exchange(ASKED, wanted, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
            && wanted == TAKEN
    }
}

#[cfg(all(test, loom))]
#[path = "../models/retake.rs"]
mod models;
