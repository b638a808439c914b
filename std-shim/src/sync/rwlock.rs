//! `RwLock`.
#![allow(
    unsafe_code,
    reason = "a guard gives access to the data that its lock guards"
)]

use super::poison::{self, Flag};
use crate::global::Global;
use gopark_core::rwlock::RawRwLock;
use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{LockResult, TryLockError, TryLockResult};

/// A lock that several readers or one writer can own: [`std::sync::RwLock`], Go's `sync.RWMutex`.
///
/// A goroutine that has to wait parks; an ordinary thread blocks. Callers get the lock in the order
/// of arrival, so neither readers nor writers starve. A reader that comes after a waiting writer
/// waits for it. So a goroutine that locks for reading twice may wait for itself without end.
///
/// ```
/// use gopark::sync::RwLock;
///
/// static ROUTES: RwLock<Vec<&str>> = RwLock::new(Vec::new());
///
/// ROUTES.write().unwrap().push("/");
/// let readers: Vec<_> = (0..3).map(|_| gopark::go(|| ROUTES.read().unwrap().len())).collect();
/// for reader in readers {
///     assert_eq!(reader.join().unwrap(), 1);
/// }
/// ```
pub struct RwLock<T: ?Sized> {
    raw: RawRwLock<Global>,
    poison: Flag,
    data: UnsafeCell<T>,
}

// SAFETY: a lock owns its data.
unsafe impl<T: ?Sized + Send> Send for RwLock<T> {}
// SAFETY: the lock gives the data to one writer on any thread, or shares it among readers.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwLock<T> {}
impl<T: ?Sized> UnwindSafe for RwLock<T> {}
impl<T: ?Sized> RefUnwindSafe for RwLock<T> {}

/// Shared access to the data of a [`RwLock`]. Dropping it unlocks.
///
/// It stays on its thread, as [`std::sync::RwLockReadGuard`] does.
///
/// ```
/// let lock = gopark::sync::RwLock::new(1);
/// let (one, other) = (lock.read().unwrap(), lock.read().unwrap());
/// assert_eq!(*one + *other, 2);
/// ```
#[must_use = "if unused the RwLock will immediately unlock"]
#[clippy::has_significant_drop]
pub struct RwLockReadGuard<'a, T: ?Sized> {
    lock: &'a RwLock<T>,
    not_send: PhantomData<*const ()>,
}

/// Exclusive access to the data of a [`RwLock`]. Dropping it unlocks.
///
/// It stays on its thread, as [`std::sync::RwLockWriteGuard`] does.
///
/// ```
/// let lock = gopark::sync::RwLock::new(1);
/// *lock.write().unwrap() += 1;
/// assert_eq!(*lock.read().unwrap(), 2);
/// ```
#[must_use = "if unused the RwLock will immediately unlock"]
#[clippy::has_significant_drop]
pub struct RwLockWriteGuard<'a, T: ?Sized> {
    lock: &'a RwLock<T>,
    panicked_before: bool,
    not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives shared access to the data only.
unsafe impl<T: ?Sized + Sync> Sync for RwLockReadGuard<'_, T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Sync> Sync for RwLockWriteGuard<'_, T> {}

impl<T> RwLock<T> {
    /// Makes an unlocked lock.
    ///
    /// ```
    /// static LIMIT: gopark::sync::RwLock<u32> = gopark::sync::RwLock::new(10);
    /// assert_eq!(*LIMIT.read().unwrap(), 10);
    /// ```
    pub const fn new(data: T) -> Self {
        RwLock {
            raw: RawRwLock::new(Global),
            poison: Flag::new(),
            data: UnsafeCell::new(data),
        }
    }

    /// Returns the data.
    ///
    /// # Errors
    ///
    /// If the lock is poisoned. The error contains the data.
    ///
    /// ```
    /// assert_eq!(gopark::sync::RwLock::new(7).into_inner().unwrap(), 7);
    /// ```
    pub fn into_inner(self) -> LockResult<T> {
        self.poison.result(self.data.into_inner())
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Locks for reading, after waiting for the writers that came before.
    ///
    /// # Errors
    ///
    /// If the lock is poisoned. The error contains the guard.
    ///
    /// # Panics
    ///
    /// If there are 4 294 967 295 readers. The lock stays as it is.
    ///
    /// ```
    /// let lock = gopark::sync::RwLock::new(1);
    /// assert_eq!(*lock.read().unwrap(), 1);
    /// ```
    pub fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        self.raw.read();
        // SAFETY: it was just locked for reading.
        self.poison.result(unsafe { self.read_guard() })
    }

    /// Locks for reading, unless a writer owns the lock or waits for it.
    ///
    /// After many failures in a row a goroutine yields, so that the owner can run.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if it is locked. `Poisoned`, with the guard, if it is poisoned.
    ///
    /// # Panics
    ///
    /// As [`read`](Self::read).
    ///
    /// ```
    /// let lock = gopark::sync::RwLock::new(1);
    /// let guard = lock.write().unwrap();
    /// assert!(lock.try_read().is_err());
    /// drop(guard);
    /// assert_eq!(*lock.try_read().unwrap(), 1);
    /// ```
    pub fn try_read(&self) -> TryLockResult<RwLockReadGuard<'_, T>> {
        if !self.raw.try_read() {
            return Err(TryLockError::WouldBlock);
        }
        // SAFETY: it was just locked for reading.
        Ok(self.poison.result(unsafe { self.read_guard() })?)
    }

    /// Locks for writing, after waiting for all that came before.
    ///
    /// # Errors
    ///
    /// If the lock is poisoned. The error contains the guard.
    ///
    /// ```
    /// let lock = gopark::sync::RwLock::new(1);
    /// *lock.write().unwrap() = 2;
    /// ```
    pub fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        self.raw.write();
        // SAFETY: it was just locked for writing.
        self.poison.result(unsafe { self.write_guard() })
    }

    /// Locks for writing if it is unlocked.
    ///
    /// After many failures in a row a goroutine yields, so that the owner can run.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if it is locked. `Poisoned`, with the guard, if it is poisoned.
    ///
    /// ```
    /// let lock = gopark::sync::RwLock::new(1);
    /// let guard = lock.read().unwrap();
    /// assert!(lock.try_write().is_err());
    /// drop(guard);
    /// *lock.try_write().unwrap() = 2;
    /// ```
    pub fn try_write(&self) -> TryLockResult<RwLockWriteGuard<'_, T>> {
        if !self.raw.try_write() {
            return Err(TryLockError::WouldBlock);
        }
        // SAFETY: it was just locked for writing.
        Ok(self.poison.result(unsafe { self.write_guard() })?)
    }

    /// Returns whether the lock is poisoned: a goroutine or thread has panicked while it held a
    /// guard for writing.
    ///
    /// ```
    /// assert!(!gopark::sync::RwLock::new(1).is_poisoned());
    /// ```
    pub fn is_poisoned(&self) -> bool {
        self.poison.get()
    }

    /// Ends the poisoned state. The caller has made the data consistent again.
    ///
    /// ```
    /// use gopark::sync::RwLock;
    ///
    /// static LOCK: RwLock<u32> = RwLock::new(1);
    /// let failed = gopark::go(|| {
    ///     let _guard = LOCK.write();
    ///     panic!("an example");
    /// });
    /// assert!(failed.join().is_err());
    /// assert!(LOCK.is_poisoned());
    /// LOCK.clear_poison();
    /// assert_eq!(*LOCK.read().unwrap(), 1);
    /// ```
    pub fn clear_poison(&self) {
        self.poison.clear();
    }

    /// Returns the data, without locking: the caller has the lock for itself.
    ///
    /// # Errors
    ///
    /// If the lock is poisoned. The error contains the data.
    ///
    /// ```
    /// let mut lock = gopark::sync::RwLock::new(1);
    /// *lock.get_mut().unwrap() = 2;
    /// assert_eq!(*lock.read().unwrap(), 2);
    /// ```
    pub fn get_mut(&mut self) -> LockResult<&mut T> {
        self.poison.result(self.data.get_mut())
    }

    /// # Safety
    ///
    /// The caller has locked for reading, and makes one guard of that.
    unsafe fn read_guard(&self) -> RwLockReadGuard<'_, T> {
        RwLockReadGuard {
            lock: self,
            not_send: PhantomData,
        }
    }

    /// # Safety
    ///
    /// The caller has locked for writing, and makes one guard of that.
    unsafe fn write_guard(&self) -> RwLockWriteGuard<'_, T> {
        RwLockWriteGuard {
            lock: self,
            panicked_before: poison::panicking(),
            not_send: PhantomData,
        }
    }
}

impl<'a, T: ?Sized> RwLockWriteGuard<'a, T> {
    /// Turns the guard into one for reading. No writer gets the lock in between. Waiting readers
    /// that are in front of all writers get the lock, too.
    ///
    /// ```
    /// use gopark::sync::{RwLock, RwLockWriteGuard};
    ///
    /// let lock = RwLock::new(1);
    /// let mut writing = lock.write().unwrap();
    /// *writing = 2;
    /// let reading = RwLockWriteGuard::downgrade(writing);
    /// assert_eq!((*reading, *lock.read().unwrap()), (2, 2));
    /// ```
    pub fn downgrade(this: Self) -> RwLockReadGuard<'a, T> {
        let this = ManuallyDrop::new(this);
        let lock = this.lock;
        lock.poison.done(this.panicked_before);
        // SAFETY: the guard, whose drop is skipped, owns the lock for writing.
        unsafe {
            lock.raw.downgrade();
            lock.read_guard()
        }
    }
}

impl<T: ?Sized> Drop for RwLockReadGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the guard owns the lock for reading.
        unsafe { self.lock.raw.unlock_read() };
    }
}

impl<T: ?Sized> Drop for RwLockWriteGuard<'_, T> {
    fn drop(&mut self) {
        self.lock.poison.done(self.panicked_before);
        // SAFETY: the guard owns the lock for writing.
        unsafe { self.lock.raw.unlock_write() };
    }
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard owns the lock for reading.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard owns the lock for writing.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard owns the lock for writing.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> From<T> for RwLock<T> {
    fn from(data: T) -> Self {
        RwLock::new(data)
    }
}

impl<T: Default> Default for RwLock<T> {
    fn default() -> Self {
        RwLock::new(T::default())
    }
}

/// Writes the data, or `<locked>`.
impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("RwLock");
        match self.try_read() {
            Ok(guard) => debug.field("data", &&*guard),
            Err(TryLockError::Poisoned(error)) => debug.field("data", &&**error.get_ref()),
            Err(TryLockError::WouldBlock) => debug.field("data", &format_args!("<locked>")),
        };
        debug.field("poisoned", &self.is_poisoned());
        debug.finish_non_exhaustive()
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLockReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLockWriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for RwLockReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for RwLockWriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

static_assertions::assert_impl_all!(RwLock<u8>: Send, Sync);
static_assertions::assert_not_impl_any!(RwLock<std::cell::Cell<u8>>: Sync);
static_assertions::assert_not_impl_any!(RwLockReadGuard<'_, u8>: Send);
static_assertions::assert_not_impl_any!(RwLockWriteGuard<'_, u8>: Send);
