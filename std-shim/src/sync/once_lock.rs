//! `OnceLock`.
#![allow(
    unsafe_code,
    reason = "the value is initialized once, and shared after that"
)]

use super::once::Once;
use std::cell::UnsafeCell;
use std::fmt;
use std::mem::MaybeUninit;
use std::panic::{RefUnwindSafe, UnwindSafe};

/// A cell that can be written once: [`std::sync::OnceLock`], Go's `sync.OnceValue`.
///
/// The initializer may park. Other callers then park as well, until it has returned.
///
/// ```
/// use gopark::sync::OnceLock;
///
/// static NAME: OnceLock<String> = OnceLock::new();
///
/// let readers = [(); 2].map(|()| gopark::go(|| NAME.get_or_init(|| "gopher".into()).len()));
/// for reader in readers {
///     assert_eq!(reader.join().unwrap(), 6);
/// }
/// ```
pub struct OnceLock<T> {
    once: Once,
    /// Initialized if `once` is completed.
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the cell owns its value. Any thread may write it (`Send`), and then all may read it.
unsafe impl<T: Send + Sync> Sync for OnceLock<T> {}
impl<T: UnwindSafe> UnwindSafe for OnceLock<T> {}
impl<T: RefUnwindSafe + UnwindSafe> RefUnwindSafe for OnceLock<T> {}

impl<T> OnceLock<T> {
    /// Makes an empty cell.
    ///
    /// ```
    /// static CELL: gopark::sync::OnceLock<u32> = gopark::sync::OnceLock::new();
    /// assert_eq!(CELL.get(), None);
    /// ```
    pub const fn new() -> Self {
        OnceLock {
            once: Once::new(),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Returns the value, if there is one. Does not wait for an initializer that runs.
    ///
    /// ```
    /// let cell = gopark::sync::OnceLock::from(7);
    /// assert_eq!(cell.get(), Some(&7));
    /// ```
    #[inline]
    pub fn get(&self) -> Option<&T> {
        self.once.is_completed().then(|| {
            // SAFETY: the initializer has returned, and from then on the value is only shared.
            unsafe { (*self.value.get()).assume_init_ref() }
        })
    }

    /// Returns the value, if there is one.
    ///
    /// ```
    /// let mut cell = gopark::sync::OnceLock::from(7);
    /// *cell.get_mut().unwrap() += 1;
    /// assert_eq!(cell.get(), Some(&8));
    /// ```
    pub fn get_mut(&mut self) -> Option<&mut T> {
        self.once.is_completed().then(|| {
            // SAFETY: the initializer has returned, and the caller has the cell for itself.
            unsafe { self.value.get_mut().assume_init_mut() }
        })
    }

    /// Writes the value, if there is none. Waits for an initializer that runs.
    ///
    /// # Errors
    ///
    /// `value`, if there is one already.
    ///
    /// ```
    /// let cell = gopark::sync::OnceLock::new();
    /// assert_eq!(cell.set(1), Ok(()));
    /// assert_eq!(cell.set(2), Err(2));
    /// assert_eq!(cell.get(), Some(&1));
    /// ```
    pub fn set(&self, value: T) -> Result<(), T> {
        let mut value = Some(value);
        self.get_or_init(|| value.take().expect("an initializer is called once"));
        value.map_or(Ok(()), Err)
    }

    /// Returns the value, after writing that of `init` if there is none. If an initializer runs,
    /// waits for it.
    ///
    /// # Panics
    ///
    /// With the panic of `init`; the cell stays empty. If `init` uses this cell in the same
    /// goroutine, as [`Once::call_once`].
    ///
    /// ```
    /// let cell = gopark::sync::OnceLock::new();
    /// assert_eq!(cell.get_or_init(|| 1), &1);
    /// assert_eq!(cell.get_or_init(|| 2), &1);
    /// ```
    #[track_caller]
    pub fn get_or_init<F: FnOnce() -> T>(&self, init: F) -> &T {
        self.once.call_once_force(|_| {
            let value = init();
            // SAFETY: `once` runs one initializer at a time, and none after one has returned, so no
            // reference to the value exists.
            unsafe { (*self.value.get()).write(value) };
        });
        self.get().expect("an initializer has returned")
    }

    /// Returns the value, if there is one, and leaves the cell empty.
    ///
    /// ```
    /// let mut cell = gopark::sync::OnceLock::from(7);
    /// assert_eq!(cell.take(), Some(7));
    /// assert_eq!(cell.get(), None);
    /// ```
    pub fn take(&mut self) -> Option<T> {
        if !self.once.is_completed() {
            return None;
        }
        self.once = Once::new();
        // SAFETY: the value was initialized. `once` no longer says so, so none reads it again.
        Some(unsafe { self.value.get_mut().assume_init_read() })
    }

    /// Returns the value, if there is one.
    ///
    /// ```
    /// assert_eq!(gopark::sync::OnceLock::from(7).into_inner(), Some(7));
    /// ```
    pub fn into_inner(mut self) -> Option<T> {
        self.take()
    }
}

impl<T> Drop for OnceLock<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> From<T> for OnceLock<T> {
    fn from(value: T) -> Self {
        let cell = OnceLock::new();
        cell.get_or_init(|| value);
        cell
    }
}

impl<T: Clone> Clone for OnceLock<T> {
    fn clone(&self) -> Self {
        self.get().cloned().map_or_else(OnceLock::new, Self::from)
    }
}

impl<T: PartialEq> PartialEq for OnceLock<T> {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl<T: Eq> Eq for OnceLock<T> {}

/// Writes the value, or `<uninit>`.
impl<T: fmt::Debug> fmt::Debug for OnceLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_tuple("OnceLock");
        match self.get() {
            Some(value) => debug.field(value),
            None => debug.field(&format_args!("<uninit>")),
        };
        debug.finish()
    }
}

static_assertions::assert_impl_all!(OnceLock<u8>: Send, Sync);
static_assertions::assert_not_impl_any!(OnceLock<std::cell::Cell<u8>>: Sync);
static_assertions::assert_not_impl_any!(OnceLock<std::sync::MutexGuard<'static, u8>>: Send, Sync);
