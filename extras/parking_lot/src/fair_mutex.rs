//! `FairMutex` and its guards.

use crate::RawFairMutex;

/// A [`Mutex`](crate::Mutex) whose waiters get it in the order of arrival, before other callers.
///
/// ```
/// use parking_lot::FairMutex;
///
/// static TURNS: FairMutex<Vec<u32>> = FairMutex::new(Vec::new());
/// TURNS.lock().push(1);
/// assert_eq!(*TURNS.lock(), [1]);
/// ```
pub type FairMutex<T> = lock_api::Mutex<RawFairMutex, T>;

/// Access to the data of a locked [`FairMutex`]. Dropping it unlocks the mutex.
///
/// ```
/// use parking_lot::{FairMutex, FairMutexGuard};
///
/// let mutex = FairMutex::new(1);
/// let guard: FairMutexGuard<'_, u32> = mutex.lock();
/// assert!(mutex.try_lock().is_none());
/// # drop(guard);
/// ```
pub type FairMutexGuard<'a, T> = lock_api::MutexGuard<'a, RawFairMutex, T>;

/// Access to a part of the data of a locked [`FairMutex`].
///
/// ```
/// use parking_lot::{FairMutex, FairMutexGuard, MappedFairMutexGuard};
///
/// let mutex = FairMutex::new((1, 2));
/// let second: MappedFairMutexGuard<'_, u32> =
///     FairMutexGuard::map(mutex.lock(), |pair| &mut pair.1);
/// assert_eq!(*second, 2);
/// ```
pub type MappedFairMutexGuard<'a, T> = lock_api::MappedMutexGuard<'a, RawFairMutex, T>;

/// Makes an unlocked mutex, as `FairMutex::new` does.
///
/// ```
/// static COUNT: parking_lot::FairMutex<u32> = parking_lot::const_fair_mutex(3);
/// assert_eq!(*COUNT.lock(), 3);
/// ```
pub const fn const_fair_mutex<T>(data: T) -> FairMutex<T> {
    FairMutex::new(data)
}
