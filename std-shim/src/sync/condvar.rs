//! `Condvar`.
#![allow(unsafe_code, reason = "a wait unlocks the mutex of a guard")]

use super::mutex::MutexGuard;
use crate::global::Global;
use crate::runtime::time_limit;
use gopark_core::condvar::RawCondvar;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{LockResult, PoisonError};
use std::time::{Duration, Instant};

/// A condition variable: [`std::sync::Condvar`], Go's `sync.Cond`.
///
/// A waiter unlocks the mutex of its guard, waits until it is notified, and locks the mutex again.
/// Before it has locked the mutex, others may have changed the condition: wait in a loop, or use
/// [`wait_while`](Self::wait_while). Waiters are notified in the order of arrival.
///
/// ```
/// use gopark::sync::{Arc, Condvar, Mutex};
///
/// let shared = Arc::new((Mutex::new(false), Condvar::new()));
/// let theirs = shared.clone();
/// gopark::go(move || {
///     *theirs.0.lock().unwrap() = true;
///     theirs.1.notify_one();
/// });
/// let (ready, changed) = &*shared;
/// let guard = changed.wait_while(ready.lock().unwrap(), |ready| !*ready).unwrap();
/// assert!(*guard);
/// ```
#[derive(Default)]
pub struct Condvar(RawCondvar<Global>);

impl UnwindSafe for Condvar {}
impl RefUnwindSafe for Condvar {}

/// Whether a wait with a time limit ended because of the limit.
///
/// ```
/// use gopark::sync::{Condvar, Mutex};
/// use std::time::Duration;
///
/// let (mutex, condvar) = (Mutex::new(()), Condvar::new());
/// let wait = condvar.wait_timeout(mutex.lock().unwrap(), Duration::from_millis(1));
/// assert!(wait.unwrap().1.timed_out());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Returns whether the time limit ended the wait.
    ///
    /// ```
    /// # use gopark::sync::{Condvar, Mutex};
    /// # let (mutex, condvar) = (Mutex::new(()), Condvar::new());
    /// let (_guard, result) = condvar
    ///     .wait_timeout(mutex.lock().unwrap(), std::time::Duration::ZERO)
    ///     .unwrap();
    /// assert!(result.timed_out());
    /// ```
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    /// Makes a condition variable without waiters.
    ///
    /// ```
    /// static CHANGED: gopark::sync::Condvar = gopark::sync::Condvar::new();
    /// CHANGED.notify_all();
    /// ```
    pub const fn new() -> Self {
        Condvar(RawCondvar::new(Global))
    }

    /// Unlocks the mutex, waits for a notification, and locks the mutex again.
    ///
    /// # Errors
    ///
    /// If the mutex is poisoned. The error contains the guard.
    ///
    /// ```
    /// use gopark::sync::{Arc, Condvar, Mutex};
    ///
    /// let shared = Arc::new((Mutex::new(0), Condvar::new()));
    /// let theirs = shared.clone();
    /// gopark::go(move || {
    ///     *theirs.0.lock().unwrap() += 1;
    ///     theirs.1.notify_all();
    /// });
    /// let mut count = shared.0.lock().unwrap();
    /// while *count == 0 {
    ///     count = shared.1.wait(count).unwrap();
    /// }
    /// ```
    pub fn wait<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.wait_until(&guard, None);
        guard.mutex.poison.result(guard)
    }

    /// Waits until `condition` returns false. It is called with the mutex locked.
    ///
    /// # Errors
    ///
    /// If the mutex is poisoned. The error contains the guard.
    ///
    /// ```
    /// use gopark::sync::{Condvar, Mutex};
    ///
    /// let (mutex, condvar) = (Mutex::new(3), Condvar::new());
    /// let guard = condvar.wait_while(mutex.lock().unwrap(), |count| *count == 0).unwrap();
    /// assert_eq!(*guard, 3); // It did not have to wait.
    /// ```
    pub fn wait_while<'a, T: ?Sized, F>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: F,
    ) -> LockResult<MutexGuard<'a, T>>
    where
        F: FnMut(&mut T) -> bool,
    {
        while condition(&mut *guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// As [`wait`](Self::wait), for `limit` at most.
    ///
    /// # Errors
    ///
    /// If the mutex is poisoned. The error contains the guard and the result.
    ///
    /// ```
    /// use gopark::sync::{Condvar, Mutex};
    /// use std::time::Duration;
    ///
    /// let (mutex, condvar) = (Mutex::new(1), Condvar::new());
    /// let guard = mutex.lock().unwrap();
    /// let (guard, result) = condvar.wait_timeout(guard, Duration::from_millis(1)).unwrap();
    /// assert!(result.timed_out() && *guard == 1);
    /// ```
    pub fn wait_timeout<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)> {
        let notified = self.wait_until(&guard, time_limit(limit));
        guard
            .mutex
            .poison
            .result((guard, WaitTimeoutResult(!notified)))
    }

    /// As [`wait_while`](Self::wait_while), for `limit` at most. The result says that the time
    /// limit came only if the condition is still true.
    ///
    /// # Errors
    ///
    /// If the mutex is poisoned. The error contains the guard and the result.
    ///
    /// ```
    /// use gopark::sync::{Condvar, Mutex};
    /// use std::time::Duration;
    ///
    /// let (mutex, condvar) = (Mutex::new(0), Condvar::new());
    /// let guard = mutex.lock().unwrap();
    /// let limit = Duration::from_millis(1);
    /// let (guard, result) = condvar
    ///     .wait_timeout_while(guard, limit, |count| *count == 0)
    ///     .unwrap();
    /// assert!(result.timed_out() && *guard == 0);
    /// ```
    pub fn wait_timeout_while<'a, T: ?Sized, F>(
        &self,
        mut guard: MutexGuard<'a, T>,
        limit: Duration,
        mut condition: F,
    ) -> LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)>
    where
        F: FnMut(&mut T) -> bool,
    {
        let deadline = time_limit(limit);
        let mut in_time = true;
        loop {
            if !condition(&mut *guard) {
                return Ok((guard, WaitTimeoutResult(false)));
            }
            if !in_time {
                return Ok((guard, WaitTimeoutResult(true)));
            }
            in_time = self.wait_until(&guard, deadline);
            guard = match guard.mutex.poison.result(guard) {
                Ok(guard) => guard,
                Err(error) => {
                    let result = WaitTimeoutResult(!in_time);
                    return Err(PoisonError::new((error.into_inner(), result)));
                }
            };
        }
    }

    /// Wakes the first waiter, if there is one: Go's `Cond.Signal`.
    ///
    /// ```
    /// gopark::sync::Condvar::new().notify_one(); // Without a waiter it has no effect.
    /// ```
    #[doc(alias = "Signal")]
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all that wait now: Go's `Cond.Broadcast`.
    ///
    /// ```
    /// gopark::sync::Condvar::new().notify_all(); // Without a waiter it has no effect.
    /// ```
    #[doc(alias = "Broadcast")]
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Waits, and returns whether it was notified.
    fn wait_until<T: ?Sized>(&self, guard: &MutexGuard<'_, T>, limit: Option<Instant>) -> bool {
        // SAFETY: the guard owns the lock of its mutex, and owns it again after the call. No caller
        // uses the guard during the call, since the public functions own it.
        unsafe { self.0.wait(&guard.mutex.raw, limit) }
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar").finish_non_exhaustive()
    }
}
