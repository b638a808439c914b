//! `ReentrantMutex` and its guards.

use crate::{RawMutex, RawThreadId};

/// A mutex that its owner can lock again. The owner is a goroutine, or a thread that runs none. Two
/// goroutines of a thread exclude each other.
///
/// ```
/// use parking_lot::ReentrantMutex;
///
/// let mutex = ReentrantMutex::new(1);
/// let outer = mutex.lock();
/// let inner = mutex.lock();
/// assert_eq!(*outer + *inner, 2);
/// ```
pub type ReentrantMutex<T> = lock_api::ReentrantMutex<RawMutex, RawThreadId, T>;

/// Shared access to the data of a locked [`ReentrantMutex`]. Dropping the last one of the owner
/// unlocks the mutex.
///
/// ```
/// use parking_lot::{ReentrantMutex, ReentrantMutexGuard};
///
/// let mutex = ReentrantMutex::new(1);
/// let guard: ReentrantMutexGuard<'_, u32> = mutex.lock();
/// assert!(mutex.is_owned_by_current_thread());
/// drop(guard);
/// assert!(!mutex.is_owned_by_current_thread());
/// ```
pub type ReentrantMutexGuard<'a, T> = lock_api::ReentrantMutexGuard<'a, RawMutex, RawThreadId, T>;

/// Shared access to a part of the data of a locked [`ReentrantMutex`].
///
/// ```
/// use parking_lot::{MappedReentrantMutexGuard, ReentrantMutex, ReentrantMutexGuard};
///
/// let mutex = ReentrantMutex::new((1, 2));
/// let second: MappedReentrantMutexGuard<'_, u32> =
///     ReentrantMutexGuard::map(mutex.lock(), |pair| &pair.1);
/// assert_eq!(*second, 2);
/// ```
pub type MappedReentrantMutexGuard<'a, T> =
    lock_api::MappedReentrantMutexGuard<'a, RawMutex, RawThreadId, T>;

/// Makes an unlocked mutex, as `ReentrantMutex::new` does.
///
/// ```
/// static COUNT: parking_lot::ReentrantMutex<u32> = parking_lot::const_reentrant_mutex(3);
/// assert_eq!(*COUNT.lock(), 3);
/// ```
pub const fn const_reentrant_mutex<T>(data: T) -> ReentrantMutex<T> {
    ReentrantMutex::new(data)
}
