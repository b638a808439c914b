//! `Once`: that of gopark, with a state that callers can read.
//!
//! The initializer writes the state while it is the only one: before and after its call. So the
//! state is never ahead of that of gopark's `Once`, except that `Done` and `Poisoned` are seen just
//! before callers that wait are woken.

use gopark::sync;
use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicU8, Ordering};

/// What has happened to a [`Once`].
///
/// ```
/// use parking_lot::{Once, OnceState};
///
/// let once = Once::new();
/// assert_eq!(once.state(), OnceState::New);
/// once.call_once(|| assert_eq!(once.state(), OnceState::InProgress));
/// assert!(once.state().done());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum OnceState {
    /// No initializer has run.
    New,
    /// An initializer has panicked, and none has returned since.
    Poisoned,
    /// An initializer runs.
    InProgress,
    /// An initializer has returned.
    Done,
}

impl OnceState {
    const ALL: [Self; 4] = [Self::New, Self::Poisoned, Self::InProgress, Self::Done];

    /// Returns whether the last initializer has panicked.
    ///
    /// ```
    /// parking_lot::Once::new().call_once_force(|state| assert!(!state.poisoned()));
    /// ```
    #[inline]
    pub fn poisoned(self) -> bool {
        self == Self::Poisoned
    }

    /// Returns whether an initializer has returned.
    ///
    /// ```
    /// assert!(!parking_lot::Once::new().state().done());
    /// ```
    #[inline]
    pub fn done(self) -> bool {
        self == Self::Done
    }
}

/// A one-time initialization. The initializer may park: other callers then park, too.
///
/// ```
/// use parking_lot::Once;
///
/// static START: Once = Once::new();
/// let mut calls = 0;
/// START.call_once(|| calls += 1);
/// START.call_once(|| calls += 1);
/// assert_eq!(calls, 1);
/// ```
pub struct Once {
    state: AtomicU8,
    once: sync::Once,
}

impl Once {
    /// Makes a `Once` whose initializer has not run.
    ///
    /// ```
    /// assert!(!parking_lot::Once::new().state().done());
    /// ```
    #[inline]
    pub const fn new() -> Self {
        Once {
            state: AtomicU8::new(OnceState::New as u8),
            once: sync::Once::new(),
        }
    }

    /// Returns what has happened. After `Done`, what the initializer wrote is visible.
    ///
    /// ```
    /// use parking_lot::{Once, OnceState};
    ///
    /// assert_eq!(Once::new().state(), OnceState::New);
    /// ```
    #[inline]
    pub fn state(&self) -> OnceState {
        // Acquire pairs with the Release in `initialize`.
        OnceState::ALL[usize::from(self.state.load(Ordering::Acquire))]
    }

    /// Calls `f`, unless an initializer has returned before. If one runs, waits for it. When this
    /// returns, an initializer has returned, and what it wrote is visible.
    ///
    /// # Panics
    ///
    /// With the panic of `f`, which poisons this `Once`. If it is poisoned. If `f` calls this for
    /// the same `Once`.
    ///
    /// ```
    /// let once = parking_lot::Once::new();
    /// once.call_once(|| ());
    /// once.call_once(|| unreachable!());
    /// ```
    #[inline]
    #[track_caller]
    pub fn call_once<F: FnOnce()>(&self, f: F) {
        if !self.state().done() {
            self.once.call_once(|| self.initialize(f));
        }
    }

    /// As [`call_once`](Self::call_once), but calls `f` also if an earlier initializer has
    /// panicked. The argument of `f` is the state before: `New` or `Poisoned`.
    ///
    /// # Panics
    ///
    /// With the panic of `f`, and if `f` calls this for the same `Once`.
    ///
    /// ```
    /// let once = parking_lot::Once::new();
    /// once.call_once_force(|state| assert!(!state.poisoned()));
    /// assert!(once.state().done());
    /// ```
    #[inline]
    #[track_caller]
    pub fn call_once_force<F: FnOnce(OnceState)>(&self, f: F) {
        if !self.state().done() {
            self.once.call_once_force(|before| {
                let before = match before.is_poisoned() {
                    true => OnceState::Poisoned,
                    false => OnceState::New,
                };
                self.initialize(|| f(before));
            });
        }
    }

    fn initialize(&self, f: impl FnOnce()) {
        struct Poisons<'a>(&'a Once);

        impl Drop for Poisons<'_> {
            fn drop(&mut self) {
                self.0.set(OnceState::Poisoned);
            }
        }

        self.set(OnceState::InProgress);
        let poisons = Poisons(self);
        f();
        mem::forget(poisons);
        self.set(OnceState::Done);
    }

    fn set(&self, state: OnceState) {
        self.state.store(state as u8, Ordering::Release);
    }
}

impl Default for Once {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once")
            .field("state", &self.state())
            .finish()
    }
}
