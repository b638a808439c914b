//! `Notify`.

use crate::global::Global;
use crate::runtime::time_limit;
use gopark_core::notify::RawNotify;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

/// A notification without data: tokio's `Notify`.
///
/// [`notify_one`](Self::notify_one) wakes the first waiter. Without one, it stores a permit, so
/// that the next call of [`notified`](Self::notified) returns at once. There is one permit at most:
/// a waiter that is slow misses the number of notifications, but not that there was one.
/// [`notify_waiters`](Self::notify_waiters) wakes all that wait now, and stores nothing.
///
/// ```
/// use gopark::sync::{Arc, Mutex, Notify};
///
/// let shared = Arc::new((Mutex::new(Vec::new()), Notify::new()));
/// let theirs = shared.clone();
/// gopark::go(move || {
///     theirs.0.lock().unwrap().push("work");
///     theirs.1.notify_one();
/// });
/// let (queue, pushed) = &*shared;
/// let work = loop {
///     let first = queue.lock().unwrap().pop(); // The guard is dropped before the wait.
///     match first {
///         Some(work) => break work,
///         None => pushed.notified(),
///     }
/// };
/// assert_eq!(work, "work");
/// ```
#[derive(Default)]
pub struct Notify(RawNotify<Global>);

impl UnwindSafe for Notify {}
impl RefUnwindSafe for Notify {}

impl Notify {
    /// Makes one without a permit.
    ///
    /// ```
    /// static WAKE: gopark::sync::Notify = gopark::sync::Notify::new();
    /// WAKE.notify_one();
    /// WAKE.notified();
    /// ```
    pub const fn new() -> Self {
        Notify(RawNotify::new(Global))
    }

    /// Waits for a notification, or takes the permit.
    ///
    /// ```
    /// use gopark::sync::{Arc, Notify};
    ///
    /// let ready = Arc::new(Notify::new());
    /// let theirs = ready.clone();
    /// gopark::go(move || theirs.notify_one());
    /// ready.notified();
    /// ```
    pub fn notified(&self) {
        self.0.wait();
    }

    /// As [`notified`](Self::notified), but waits for `limit` at most. Returns whether it was
    /// notified.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let notify = gopark::sync::Notify::new();
    /// assert!(!notify.notified_timeout(Duration::from_millis(1)));
    /// notify.notify_one();
    /// assert!(notify.notified_timeout(Duration::from_millis(1)));
    /// ```
    pub fn notified_timeout(&self, limit: Duration) -> bool {
        match time_limit(limit) {
            Some(deadline) => self.0.wait_until(deadline),
            None => {
                self.0.wait();
                true
            }
        }
    }

    /// Wakes the first waiter, or stores a permit if there is none.
    ///
    /// ```
    /// let notify = gopark::sync::Notify::new();
    /// notify.notify_one();
    /// notify.notify_one(); // There is a permit already.
    /// notify.notified();
    /// ```
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all that wait now. A later call of [`notified`](Self::notified) waits.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let notify = gopark::sync::Notify::new();
    /// notify.notify_waiters(); // There is no waiter, so it has no effect.
    /// assert!(!notify.notified_timeout(Duration::ZERO));
    /// ```
    pub fn notify_waiters(&self) {
        self.0.notify_waiters();
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notify").finish_non_exhaustive()
    }
}
