//! The locks as raw locks of the crate `lock_api`.
#![allow(
    unsafe_code,
    reason = "the traits of lock_api promise that a lock excludes"
)]

use crate::global::Global;
use crate::runtime::time_limit;
use gopark_core::{mutex, rwlock};
use lock_api::{GuardNoSend, RawMutexTimed, RawRwLockDowngrade, RawRwLockTimed};
use std::time::{Duration, Instant};

/// A mutex for [`lock_api::Mutex`], with the feature `lock_api`. It is not poisoned.
///
/// ```
/// type Mutex<T> = lock_api::Mutex<gopark::sync::RawMutex, T>;
///
/// static COUNT: Mutex<u32> = Mutex::new(0);
/// *COUNT.lock() += 1;
/// assert_eq!(*COUNT.lock(), 1);
/// ```
pub struct RawMutex(mutex::RawMutex<Global>);

/// A read-write lock for [`lock_api::RwLock`], with the feature `lock_api`. It is not poisoned.
///
/// ```
/// type RwLock<T> = lock_api::RwLock<gopark::sync::RawRwLock, T>;
///
/// let lock = RwLock::new(1);
/// *lock.write() += 1;
/// assert_eq!(*lock.read() + *lock.read(), 4);
/// ```
pub struct RawRwLock(rwlock::RawRwLock<Global>);

// SAFETY: one caller at a time owns the lock.
unsafe impl lock_api::RawMutex for RawMutex {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "the trait asks for it"
    )]
    const INIT: Self = RawMutex(mutex::RawMutex::new(Global));

    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        self.0.lock();
    }

    fn try_lock(&self) -> bool {
        self.0.try_lock()
    }

    unsafe fn unlock(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.0.unlock() };
    }

    fn is_locked(&self) -> bool {
        self.0.is_locked()
    }
}

// SAFETY: as above.
unsafe impl RawMutexTimed for RawMutex {
    type Duration = Duration;
    type Instant = Instant;

    fn try_lock_for(&self, limit: Duration) -> bool {
        match time_limit(limit) {
            Some(deadline) => self.0.lock_until(deadline),
            None => {
                self.0.lock();
                true
            }
        }
    }

    fn try_lock_until(&self, deadline: Instant) -> bool {
        self.0.lock_until(deadline)
    }
}

// SAFETY: several readers or one writer own the lock.
unsafe impl lock_api::RawRwLock for RawRwLock {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "the trait asks for it"
    )]
    const INIT: Self = RawRwLock(rwlock::RawRwLock::new(Global));

    type GuardMarker = GuardNoSend;

    fn lock_shared(&self) {
        self.0.read();
    }

    fn try_lock_shared(&self) -> bool {
        self.0.try_read()
    }

    unsafe fn unlock_shared(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.0.unlock_read() };
    }

    fn lock_exclusive(&self) {
        self.0.write();
    }

    fn try_lock_exclusive(&self) -> bool {
        self.0.try_write()
    }

    unsafe fn unlock_exclusive(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.0.unlock_write() };
    }

    fn is_locked(&self) -> bool {
        self.0.is_locked()
    }

    fn is_locked_exclusive(&self) -> bool {
        self.0.is_write_locked()
    }
}

// SAFETY: as above. No writer gets the lock in between.
unsafe impl RawRwLockDowngrade for RawRwLock {
    unsafe fn downgrade(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.0.downgrade() };
    }
}

// SAFETY: as above.
unsafe impl RawRwLockTimed for RawRwLock {
    type Duration = Duration;
    type Instant = Instant;

    fn try_lock_shared_for(&self, limit: Duration) -> bool {
        match time_limit(limit) {
            Some(deadline) => self.0.read_until(deadline),
            None => {
                self.0.read();
                true
            }
        }
    }

    fn try_lock_shared_until(&self, deadline: Instant) -> bool {
        self.0.read_until(deadline)
    }

    fn try_lock_exclusive_for(&self, limit: Duration) -> bool {
        match time_limit(limit) {
            Some(deadline) => self.0.write_until(deadline),
            None => {
                self.0.write();
                true
            }
        }
    }

    fn try_lock_exclusive_until(&self, deadline: Instant) -> bool {
        self.0.write_until(deadline)
    }
}
