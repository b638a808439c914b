//! `Once`.

use crate::global::Global;
use gopark_core::once::RawOnce;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};

/// A one-time initialization: [`std::sync::Once`], Go's `sync.Once`.
///
/// The initializer may park. Other callers then park as well, until it has returned.
///
/// ```
/// use gopark::sync::Once;
///
/// static START: Once = Once::new();
///
/// let mut calls = 0;
/// START.call_once(|| calls += 1);
/// START.call_once(|| calls += 1);
/// assert_eq!(calls, 1);
/// ```
pub struct Once(RawOnce<Global>);

impl UnwindSafe for Once {}
impl RefUnwindSafe for Once {}

/// What the initializer of [`Once::call_once_force`] is told.
///
/// ```
/// gopark::sync::Once::new().call_once_force(|state| assert!(!state.is_poisoned()));
/// ```
#[derive(Debug)]
pub struct OnceState {
    poisoned: bool,
}

impl OnceState {
    /// Returns whether an earlier initializer has panicked.
    ///
    /// ```
    /// use gopark::sync::Once;
    ///
    /// static ONCE: Once = Once::new();
    /// let failed = gopark::go(|| ONCE.call_once(|| panic!("an example")));
    /// assert!(failed.join().is_err());
    /// ONCE.call_once_force(|state| assert!(state.is_poisoned()));
    /// assert!(ONCE.is_completed());
    /// ```
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }
}

impl Once {
    /// Makes a `Once` whose initializer has not run.
    ///
    /// ```
    /// assert!(!gopark::sync::Once::new().is_completed());
    /// ```
    // As in std: a default would look like a value that does not matter.
    #[allow(clippy::new_without_default, reason = "std has no default either")]
    pub const fn new() -> Self {
        Once(RawOnce::new(Global))
    }

    /// Calls `init`, unless an initializer has returned before. If one runs, waits for it. When
    /// this returns, an initializer has returned, and what it wrote is visible.
    ///
    /// # Panics
    ///
    /// With the panic of `init`, which poisons this `Once`. If it is poisoned. If `init` calls
    /// this, in the same goroutine: that would wait for itself. On an ordinary thread, such a call
    /// panics only if the runtime is running, and otherwise waits without end.
    ///
    /// ```
    /// let once = gopark::sync::Once::new();
    /// once.call_once(|| ());
    /// once.call_once(|| unreachable!());
    /// ```
    #[inline]
    #[track_caller]
    pub fn call_once<F: FnOnce()>(&self, init: F) {
        self.0.call(false, |_| init());
    }

    /// As [`call_once`](Self::call_once), but calls `init` also if an earlier initializer has
    /// panicked.
    ///
    /// # Panics
    ///
    /// With the panic of `init`, and if `init` waits for itself, as [`call_once`](Self::call_once).
    ///
    /// ```
    /// let once = gopark::sync::Once::new();
    /// once.call_once_force(|_| ());
    /// assert!(once.is_completed());
    /// ```
    #[inline]
    #[track_caller]
    pub fn call_once_force<F: FnOnce(&OnceState)>(&self, init: F) {
        self.0.call(true, |poisoned| init(&OnceState { poisoned }));
    }

    /// Returns whether an initializer has returned.
    ///
    /// ```
    /// let once = gopark::sync::Once::new();
    /// once.call_once(|| assert!(!once.is_completed()));
    /// assert!(once.is_completed());
    /// ```
    #[inline]
    pub fn is_completed(&self) -> bool {
        self.0.is_completed()
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").finish_non_exhaustive()
    }
}
