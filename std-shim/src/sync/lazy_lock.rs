//! `LazyLock`.
#![allow(unsafe_code, reason = "the initializer is taken by one caller")]

use super::once_lock::OnceLock;
use std::cell::Cell;
use std::fmt;
use std::ops::Deref;
use std::panic::{RefUnwindSafe, UnwindSafe};

/// A value that its first use makes: [`std::sync::LazyLock`].
///
/// The initializer may park. Other callers then park as well, until it has returned.
///
/// ```
/// use gopark::sync::LazyLock;
///
/// static SQUARES: LazyLock<Vec<u32>> = LazyLock::new(|| (0..5).map(|n| n * n).collect());
///
/// let last = gopark::go(|| SQUARES[4]);
/// assert_eq!(last.join().unwrap(), 16);
/// ```
pub struct LazyLock<T, F = fn() -> T> {
    value: OnceLock<T>,
    /// `None` once it was called. Used by the initializer of `value`.
    init: Cell<Option<F>>,
}

// SAFETY: `value` runs one initializer at a time, so one thread at a time uses `init`, and may be
// another one than that which made it (`Send`).
unsafe impl<T, F: Send> Sync for LazyLock<T, F> where OnceLock<T>: Sync {}
impl<T: UnwindSafe, F: UnwindSafe> UnwindSafe for LazyLock<T, F> {}
impl<T: RefUnwindSafe + UnwindSafe, F: UnwindSafe> RefUnwindSafe for LazyLock<T, F> {}

impl<T, F: FnOnce() -> T> LazyLock<T, F> {
    /// Makes a value that `init` will return.
    ///
    /// ```
    /// let lazy = gopark::sync::LazyLock::new(|| 7);
    /// assert_eq!(*lazy, 7);
    /// ```
    pub const fn new(init: F) -> Self {
        LazyLock {
            value: OnceLock::new(),
            init: Cell::new(Some(init)),
        }
    }

    /// Returns the value, after calling the initializer if this is the first use. If the
    /// initializer runs, waits for it. Dereferencing does the same.
    ///
    /// # Panics
    ///
    /// With the panic of the initializer, and then in every use. If the initializer uses this
    /// value in the same goroutine, as [`Once::call_once`](super::Once::call_once).
    ///
    /// ```
    /// use gopark::sync::LazyLock;
    ///
    /// let lazy = LazyLock::new(|| 7);
    /// assert_eq!(LazyLock::force(&lazy), &7);
    /// ```
    pub fn force(this: &Self) -> &T {
        this.value.get_or_init(|| match this.init.take() {
            Some(init) => init(),
            None => panic!("LazyLock instance has previously been poisoned"),
        })
    }
}

impl<T, F: FnOnce() -> T> Deref for LazyLock<T, F> {
    type Target = T;

    fn deref(&self) -> &T {
        LazyLock::force(self)
    }
}

impl<T: Default> Default for LazyLock<T> {
    fn default() -> Self {
        LazyLock::new(T::default)
    }
}

/// Writes the value, or `<uninit>`.
impl<T: fmt::Debug, F> fmt::Debug for LazyLock<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_tuple("LazyLock");
        match self.value.get() {
            Some(value) => debug.field(value),
            None => debug.field(&format_args!("<uninit>")),
        };
        debug.finish()
    }
}

static_assertions::assert_impl_all!(LazyLock<u8>: Send, Sync);
static_assertions::assert_not_impl_any!(LazyLock<std::cell::Cell<u8>>: Sync);
static_assertions::assert_not_impl_any!(LazyLock<u8, std::rc::Rc<u8>>: Sync);
