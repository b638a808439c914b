//! Poisoning: the flag of a lock, and whose panic counts.

use crate::runtime::started;
use gopark_core::sched::Sched;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LockResult, PoisonError};
use std::thread;

/// Whether a guard was dropped while its goroutine panicked. The lock orders the accesses.
pub(super) struct Flag(AtomicBool);

impl Flag {
    pub(super) const fn new() -> Self {
        Flag(AtomicBool::new(false))
    }

    #[inline]
    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Called when a guard is dropped. `panicked_before`: whether its goroutine panicked when the
    /// guard was made. The guard is then one of a destructor, which may well have come to its end.
    #[inline]
    pub(super) fn done(&self, panicked_before: bool) {
        if !panicked_before && panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// `value` as an error if the lock is poisoned.
    #[inline]
    pub(super) fn result<T>(&self, value: T) -> LockResult<T> {
        match self.get() {
            true => Err(PoisonError::new(value)),
            false => Ok(value),
        }
    }
}

/// Whether the calling goroutine or ordinary thread panics.
#[inline]
pub(super) fn panicking() -> bool {
    thread::panicking() && !started().is_some_and(Sched::panic_is_foreign)
}
