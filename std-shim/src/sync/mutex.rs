//! `Mutex`.
#![allow(
    unsafe_code,
    reason = "a guard gives access to the data that its lock guards"
)]

use super::poison::{self, Flag};
use crate::global::Global;
use gopark_core::mutex::RawMutex;
use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{LockResult, TryLockError, TryLockResult};

/// A lock for data: [`std::sync::Mutex`], Go's `sync.Mutex`.
///
/// A goroutine that has to wait parks; an ordinary thread blocks. Locking and unlocking without
/// contention takes one atomic operation each. A guard may be held over calls that park: only the
/// callers of [`lock`](Self::lock) wait for it, and not their neighbours on the thread.
///
/// A goroutine that locks a mutex twice waits for itself without end.
///
/// ```
/// use gopark::sync::Mutex;
///
/// static TOTAL: Mutex<u64> = Mutex::new(0);
///
/// let add = |n| gopark::go(move || *TOTAL.lock().unwrap() += n);
/// let adders: Vec<_> = (1..=10).map(add).collect();
/// for adder in adders {
///     adder.join().unwrap();
/// }
/// assert_eq!(*TOTAL.lock().unwrap(), 6);
/// ```
pub struct Mutex<T: ?Sized> {
    pub(super) raw: RawMutex<Global>,
    pub(super) poison: Flag,
    data: UnsafeCell<T>,
}

// SAFETY: a mutex owns its data.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: the lock gives the data to one caller at a time, and may give it to any thread.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}
impl<T: ?Sized> UnwindSafe for Mutex<T> {}
impl<T: ?Sized> RefUnwindSafe for Mutex<T> {}

/// Access to the data of a locked [`Mutex`]. Dropping it unlocks the mutex.
///
/// It stays on its thread, as [`std::sync::MutexGuard`] does.
///
/// ```
/// let mutex = gopark::sync::Mutex::new(1);
/// let mut guard = mutex.lock().unwrap();
/// *guard += 1;
/// drop(guard);
/// assert_eq!(mutex.into_inner().unwrap(), 2);
/// ```
#[must_use = "if unused the Mutex will immediately unlock"]
#[clippy::has_significant_drop]
pub struct MutexGuard<'a, T: ?Sized> {
    pub(super) mutex: &'a Mutex<T>,
    panicked_before: bool,
    not_send: PhantomData<*const ()>,
}

// SAFETY: a shared guard gives shared access to the data only.
unsafe impl<T: ?Sized + Sync> Sync for MutexGuard<'_, T> {}

impl<T> Mutex<T> {
    /// Makes an unlocked mutex.
    ///
    /// ```
    /// static NAMES: gopark::sync::Mutex<Vec<String>> = gopark::sync::Mutex::new(Vec::new());
    /// NAMES.lock().unwrap().push("gopher".into());
    /// ```
    pub const fn new(data: T) -> Self {
        Mutex {
            raw: RawMutex::new(Global),
            poison: Flag::new(),
            data: UnsafeCell::new(data),
        }
    }

    /// Returns the data.
    ///
    /// # Errors
    ///
    /// If the mutex is poisoned. The error contains the data.
    ///
    /// ```
    /// assert_eq!(gopark::sync::Mutex::new(7).into_inner().unwrap(), 7);
    /// ```
    pub fn into_inner(self) -> LockResult<T> {
        self.poison.result(self.data.into_inner())
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Locks the mutex, after waiting for it.
    ///
    /// # Errors
    ///
    /// If the mutex is poisoned. The error contains the guard.
    ///
    /// ```
    /// let mutex = gopark::sync::Mutex::new(1);
    /// *mutex.lock().unwrap() = 2;
    /// ```
    #[inline]
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        self.raw.lock();
        // SAFETY: it was just locked.
        self.poison.result(unsafe { self.guard() })
    }

    /// Locks the mutex if it is unlocked.
    ///
    /// After many failures in a row a goroutine yields, so that the owner can run.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the mutex is locked. `Poisoned`, with the guard, if it is poisoned.
    ///
    /// ```
    /// let mutex = gopark::sync::Mutex::new(1);
    /// let guard = mutex.lock().unwrap();
    /// assert!(mutex.try_lock().is_err());
    /// drop(guard);
    /// assert_eq!(*mutex.try_lock().unwrap(), 1);
    /// ```
    #[inline]
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        if !self.raw.try_lock() {
            return Err(TryLockError::WouldBlock);
        }
        // SAFETY: it was just locked.
        Ok(self.poison.result(unsafe { self.guard() })?)
    }

    /// Returns whether the mutex is poisoned: a goroutine or thread has panicked while it held a
    /// guard.
    ///
    /// ```
    /// use gopark::sync::{Arc, Mutex};
    ///
    /// let mutex = Arc::new(Mutex::new(1));
    /// let theirs = mutex.clone();
    /// let failed = gopark::go(move || {
    ///     let _guard = theirs.lock();
    ///     panic!("an example");
    /// });
    /// assert!(failed.join().is_err());
    /// assert!(mutex.is_poisoned());
    /// mutex.clear_poison();
    /// assert_eq!(*mutex.lock().unwrap(), 1);
    /// ```
    pub fn is_poisoned(&self) -> bool {
        self.poison.get()
    }

    /// Ends the poisoned state. The caller has made the data consistent again.
    ///
    /// ```
    /// let mutex = gopark::sync::Mutex::new(1);
    /// mutex.clear_poison();
    /// assert!(!mutex.is_poisoned());
    /// ```
    pub fn clear_poison(&self) {
        self.poison.clear();
    }

    /// Returns the data, without locking: the caller has the mutex for itself.
    ///
    /// # Errors
    ///
    /// If the mutex is poisoned. The error contains the data.
    ///
    /// ```
    /// let mut mutex = gopark::sync::Mutex::new(1);
    /// *mutex.get_mut().unwrap() = 2;
    /// assert_eq!(*mutex.lock().unwrap(), 2);
    /// ```
    pub fn get_mut(&mut self) -> LockResult<&mut T> {
        self.poison.result(self.data.get_mut())
    }

    /// # Safety
    ///
    /// The caller has locked the mutex, and makes one guard of that.
    unsafe fn guard(&self) -> MutexGuard<'_, T> {
        MutexGuard {
            mutex: self,
            panicked_before: poison::panicking(),
            not_send: PhantomData,
        }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.mutex.poison.done(self.panicked_before);
        // SAFETY: the guard owns the lock.
        unsafe { self.mutex.raw.unlock() };
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard owns the lock.
        unsafe { &*self.mutex.data.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard owns the lock.
        unsafe { &mut *self.mutex.data.get() }
    }
}

impl<T> From<T> for Mutex<T> {
    fn from(data: T) -> Self {
        Mutex::new(data)
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Mutex::new(T::default())
    }
}

/// Writes the data, or `<locked>`.
impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Mutex");
        match self.try_lock() {
            Ok(guard) => debug.field("data", &&*guard),
            Err(TryLockError::Poisoned(error)) => debug.field("data", &&**error.get_ref()),
            Err(TryLockError::WouldBlock) => debug.field("data", &format_args!("<locked>")),
        };
        debug.field("poisoned", &self.is_poisoned());
        debug.finish_non_exhaustive()
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

static_assertions::assert_impl_all!(Mutex<std::cell::Cell<u8>>: Send, Sync);
static_assertions::assert_impl_all!(MutexGuard<'_, u8>: Sync);
static_assertions::assert_not_impl_any!(MutexGuard<'_, u8>: Send);
static_assertions::assert_not_impl_any!(MutexGuard<'_, std::cell::Cell<u8>>: Sync);
