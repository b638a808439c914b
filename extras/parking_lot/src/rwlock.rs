//! `RwLock` and its guards.

use crate::RawRwLock;

/// A lock for data with several readers or one writer, which is not poisoned by a panic.
///
/// An upgradable reader reads beside other readers. It excludes writers and other upgradable
/// readers, so it can become a writer without a writer in between.
///
/// Waiters are served in the order of arrival, and a reader waits behind a writer that waits. A
/// goroutine that has a read guard and may take another one uses `read_recursive`, which does not.
///
/// ```
/// use parking_lot::RwLock;
///
/// let lock = RwLock::new(1);
/// {
///     let (first, second) = (lock.read(), lock.read());
///     assert_eq!(*first + *second, 2);
/// }
/// *lock.write() += 1;
/// assert_eq!(*lock.read(), 2);
/// ```
pub type RwLock<T> = lock_api::RwLock<RawRwLock, T>;

/// Shared access to the data of a [`RwLock`].
///
/// ```
/// use parking_lot::{RwLock, RwLockReadGuard};
///
/// let lock = RwLock::new(1);
/// let guard: RwLockReadGuard<'_, u32> = lock.read();
/// assert!(lock.try_write().is_none());
/// # drop(guard);
/// ```
pub type RwLockReadGuard<'a, T> = lock_api::RwLockReadGuard<'a, RawRwLock, T>;

/// Exclusive access to the data of a [`RwLock`].
///
/// ```
/// use parking_lot::{RwLock, RwLockWriteGuard};
///
/// let lock = RwLock::new(1);
/// let mut guard: RwLockWriteGuard<'_, u32> = lock.write();
/// *guard = 2;
/// let read = RwLockWriteGuard::downgrade(guard); // No writer comes in between.
/// assert_eq!(*read, 2);
/// ```
pub type RwLockWriteGuard<'a, T> = lock_api::RwLockWriteGuard<'a, RawRwLock, T>;

/// Shared access to the data of a [`RwLock`] that can become exclusive.
///
/// ```
/// use parking_lot::{RwLock, RwLockUpgradableReadGuard};
///
/// let lock = RwLock::new(1);
/// let guard: RwLockUpgradableReadGuard<'_, u32> = lock.upgradable_read();
/// assert_eq!(*guard + *lock.read(), 2);
/// let mut guard = RwLockUpgradableReadGuard::upgrade(guard);
/// *guard += 1;
/// ```
pub type RwLockUpgradableReadGuard<'a, T> = lock_api::RwLockUpgradableReadGuard<'a, RawRwLock, T>;

/// Shared access to a part of the data of a [`RwLock`].
///
/// ```
/// use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};
///
/// let lock = RwLock::new((1, 2));
/// let second: MappedRwLockReadGuard<'_, u32> =
///     RwLockReadGuard::map(lock.read(), |pair| &pair.1);
/// assert_eq!(*second, 2);
/// ```
pub type MappedRwLockReadGuard<'a, T> = lock_api::MappedRwLockReadGuard<'a, RawRwLock, T>;

/// Exclusive access to a part of the data of a [`RwLock`].
///
/// ```
/// use parking_lot::{MappedRwLockWriteGuard, RwLock, RwLockWriteGuard};
///
/// let lock = RwLock::new((1, 2));
/// let mut second: MappedRwLockWriteGuard<'_, u32> =
///     RwLockWriteGuard::map(lock.write(), |pair| &mut pair.1);
/// *second = 3;
/// ```
pub type MappedRwLockWriteGuard<'a, T> = lock_api::MappedRwLockWriteGuard<'a, RawRwLock, T>;

/// Makes an unlocked lock, as `RwLock::new` does.
///
/// ```
/// static COUNT: parking_lot::RwLock<u32> = parking_lot::const_rwlock(3);
/// assert_eq!(*COUNT.read(), 3);
/// ```
pub const fn const_rwlock<T>(data: T) -> RwLock<T> {
    RwLock::new(data)
}
