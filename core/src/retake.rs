//! Retake: how sysmon takes the P from an M that does not come back to the scheduler.
//!
//! A goroutine that computes or blocks in a system call keeps its M's thread, but must not keep the
//! P. An M enters and leaves the scheduler far more often than sysmon takes a P. So entering and
//! leaving are plain stores, and the taker pays for both sides with a process-wide memory barrier.
//!
//! | word | by | meaning |
//! |---|---|---|
//! | `in_scheduler` | the M | the scheduler's code runs on the M, and may use the P |
//! | `request`: `NONE` → `ASKED` | the taker | is the M in a goroutine? |
//! | `ASKED` → `NONE` | the M in `enter`, or the taker | no: the M keeps its P |
//! | `ASKED` → `TAKEN` | the taker | yes: the P belongs to the taker |
//! | `TAKEN` → `NONE` | the M in `renew` | the M has noticed, and has a P again |
//!
//! The race: the M enters the scheduler while sysmon takes its P. The M stores `in_scheduler`, then
//! loads `request`. The taker stores `request`, makes every thread pass a memory barrier, then
//! loads `in_scheduler`. So at least one sees the other's store. If the M sees `ASKED`, both try to
//! change `request` by compare-and-swap, and one succeeds: the P has one owner.

use crate::sync::{AtomicBool, AtomicU32, Ordering, light_barrier};

const NONE: u32 = 0;
const ASKED: u32 = 1;
const TAKEN: u32 = 2;

pub(crate) struct Retake {
    in_scheduler: AtomicBool,
    request: AtomicU32,
}

impl Retake {
    /// The state of an M that is in the scheduler and holds its P.
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

    /// Refuses a request that was seen. True if the M keeps its P. Failure needs no Acquire: an M
    /// without a P reads nothing of it.
    #[cold]
    fn refuse(&self) -> bool {
        self.request
            .compare_exchange(ASKED, NONE, Ordering::AcqRel, Ordering::Relaxed)
            != Err(TAKEN)
    }

    /// The M returns to its goroutine. Release pairs with the Acquire in `take`: the taker sees
    /// what the M did to the P.
    #[inline]
    pub(crate) fn leave(&self) {
        self.in_scheduler.store(false, Ordering::Release);
    }

    /// Notes that the M has a P again after one was taken.
    pub(crate) fn renew(&self) {
        self.request.store(NONE, Ordering::Release);
    }

    /// Whether the M runs a goroutine's code, or did a moment ago.
    pub(crate) fn in_goroutine(&self) -> bool {
        !self.in_scheduler.load(Ordering::Relaxed)
    }

    /// Whether the P was taken and the M has none since.
    pub(crate) fn is_taken(&self) -> bool {
        self.request.load(Ordering::Relaxed) == TAKEN
    }

    /// Takes the P from the only thread of a forked process, which runs a goroutine's code.
    pub(crate) fn revoke(&self) {
        self.request.store(TAKEN, Ordering::Relaxed);
    }

    /// Takes the P if the M is in a goroutine. `barrier` makes every running thread of the process
    /// pass a memory barrier, or returns false if the system cannot. Only one thread at a time may
    /// call this.
    #[must_use]
    pub(crate) fn take(&self, barrier: impl FnOnce() -> bool) -> bool {
        if self
            .request
            .compare_exchange(NONE, ASKED, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            return false;
        }
        // Acquire pairs with the Release in `leave`.
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
