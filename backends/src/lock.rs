//! Lock: a mutex on one futex word, for state that a backend must change together with the kernel's
//! view of it.
//!
//! Refused: a spin lock, since the holder may be inside a system call. Waiters sleep.
//!
//! Source: Ulrich Drepper, "Futexes Are Tricky", mutex, take 3.

#![allow(unsafe_code, reason = "a lock hands out what it protects")]

use crate::linux::Linux;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};
use gopark_core::os::Os;

/// | word | state | left by |
/// |---|---|---|
/// | `FREE` | not held | a locker |
/// | `HELD` | held, without sleepers | the holder; a locker about to sleep makes it `CONTENDED` |
/// | `CONTENDED` | held, perhaps with sleepers | the holder: frees it and wakes one sleeper |
///
/// A woken locker takes the word as `CONTENDED`, because there may be more sleepers.
pub(crate) struct Lock<T> {
    word: AtomicU32,
    value: UnsafeCell<T>,
}

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;

// SAFETY: the value is reached through a guard only, and there is one guard at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

/// Proof that the lock is held. Dropping it unlocks.
pub(crate) struct Guard<'a, T>(&'a Lock<T>);

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Lock {
            word: AtomicU32::new(FREE),
            value: UnsafeCell::new(value),
        }
    }

    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        if self
            .word
            .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            self.lock_slow();
        }
        Guard(self)
    }

    #[cold]
    fn lock_slow(&self) {
        while self.word.swap(CONTENDED, Ordering::Acquire) != FREE {
            Linux::new().futex_wait(&self.word, CONTENDED, None);
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this guard holds the lock.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard holds the lock, and is borrowed mutably.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        if self.0.word.swap(FREE, Ordering::Release) == CONTENDED {
            Linux::new().futex_wake(&self.0.word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn increments_of_four_threads_are_all_counted() {
        let lock = Lock::new(0u64);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50_000 {
                        let mut value = lock.lock();
                        let read = *value;
                        core::hint::spin_loop();
                        *value = read + 1;
                    }
                });
            }
        });
        assert_eq!(*lock.lock(), 200_000);
    }
}
