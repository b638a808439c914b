//! `Mutex` and its guards.

use crate::RawMutex;

/// A lock for data, which is not poisoned by a panic. A goroutine that waits for it parks.
///
/// ```
/// use parking_lot::Mutex;
///
/// static TOTAL: Mutex<u64> = Mutex::new(0);
///
/// let adders = [1, 2, 3].map(|n| gopark::go(move || *TOTAL.lock() += n));
/// for adder in adders {
///     adder.join().unwrap();
/// }
/// assert_eq!(*TOTAL.lock(), 6);
/// ```
pub type Mutex<T> = lock_api::Mutex<RawMutex, T>;

/// Access to the data of a locked [`Mutex`]. Dropping it unlocks the mutex.
///
/// ```
/// use parking_lot::{Mutex, MutexGuard};
///
/// let mutex = Mutex::new(1);
/// let mut guard: MutexGuard<'_, u32> = mutex.lock();
/// *guard += 1;
/// MutexGuard::unlock_fair(guard); // The first waiter, if there is one, has the mutex now.
/// assert_eq!(mutex.into_inner(), 2);
/// ```
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, RawMutex, T>;

/// Access to a part of the data of a locked [`Mutex`].
///
/// ```
/// use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
///
/// let mutex = Mutex::new((1, "one"));
/// let name: MappedMutexGuard<'_, &str> = MutexGuard::map(mutex.lock(), |pair| &mut pair.1);
/// assert_eq!(*name, "one");
/// ```
pub type MappedMutexGuard<'a, T> = lock_api::MappedMutexGuard<'a, RawMutex, T>;

/// Makes an unlocked mutex, as `Mutex::new` does.
///
/// ```
/// static NAMES: parking_lot::Mutex<Vec<&str>> = parking_lot::const_mutex(Vec::new());
/// NAMES.lock().push("gopher");
/// ```
pub const fn const_mutex<T>(data: T) -> Mutex<T> {
    Mutex::new(data)
}
