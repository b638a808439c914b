//! `Condvar`.
#![allow(unsafe_code, reason = "a wait unlocks the mutex of a guard")]

use crate::queue::{Queue, Waiter};
use crate::{MutexGuard, RawMutex, deadline};
use lock_api::RawMutex as _;
use std::fmt;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A condition variable.
///
/// A waiter joins the queue before it unlocks the mutex. A notifier that has changed the condition
/// under the mutex therefore finds every waiter that has seen the old condition. No wait ends
/// without a notification or its limit, but others may lock the mutex before the waiter does.
///
/// ```
/// use parking_lot::{Condvar, Mutex};
/// use std::sync::Arc;
///
/// let shared = Arc::new((Mutex::new(false), Condvar::new()));
/// let theirs = shared.clone();
/// gopark::go(move || {
///     *theirs.0.lock() = true;
///     theirs.1.notify_one();
/// });
/// let mut ready = shared.0.lock();
/// while !*ready {
///     shared.1.wait(&mut ready);
/// }
/// ```
pub struct Condvar {
    /// The length of the queue, written under its lock. Read without it: the mutex orders the
    /// change of the condition against the wait, and with it this word.
    waiting: AtomicUsize,
    /// Each waiter has the address of its mutex.
    queue: Queue<usize>,
}

/// Whether a wait with a time limit ended because of the limit.
///
/// ```
/// use parking_lot::{Condvar, Mutex};
/// use std::time::Duration;
///
/// let mutex = Mutex::new(());
/// let result = Condvar::new().wait_for(&mut mutex.lock(), Duration::from_millis(1));
/// assert!(result.timed_out());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Returns whether the time limit ended the wait.
    ///
    /// ```
    /// # use parking_lot::{Condvar, Mutex};
    /// let mutex = Mutex::new(1);
    /// let limit = std::time::Instant::now();
    /// assert!(Condvar::new().wait_until(&mut mutex.lock(), limit).timed_out());
    /// ```
    #[inline]
    pub fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    /// Makes a condition variable without waiters.
    ///
    /// ```
    /// static CHANGED: parking_lot::Condvar = parking_lot::Condvar::new();
    /// assert_eq!(CHANGED.notify_all(), 0);
    /// ```
    #[inline]
    pub const fn new() -> Self {
        Condvar {
            waiting: AtomicUsize::new(0),
            queue: Queue::new(),
        }
    }

    /// Wakes the first waiter. Returns whether there was one.
    ///
    /// ```
    /// assert!(!parking_lot::Condvar::new().notify_one());
    /// ```
    #[inline]
    pub fn notify_one(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) != 0 && self.notify(1) == 1
    }

    /// Wakes all that wait now. Returns how many there were.
    ///
    /// ```
    /// assert_eq!(parking_lot::Condvar::new().notify_all(), 0);
    /// ```
    #[inline]
    pub fn notify_all(&self) -> usize {
        match self.waiting.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.notify(usize::MAX),
        }
    }

    #[cold]
    fn notify(&self, most: usize) -> usize {
        let mut queued = self.queue.lock();
        let count = most.min(queued.len());
        let notified: Vec<_> = queued.drain(..count).collect();
        self.waiting.store(queued.len(), Ordering::Relaxed);
        drop(queued);
        for waiter in notified {
            waiter.wake();
        }
        count
    }

    /// Unlocks the mutex, waits for a notification, and locks the mutex again.
    ///
    /// # Panics
    ///
    /// If another caller waits with a different mutex. The mutex stays locked.
    ///
    /// ```
    /// use parking_lot::{Condvar, Mutex};
    ///
    /// static QUEUE: Mutex<Vec<u32>> = Mutex::new(Vec::new());
    /// static PUSHED: Condvar = Condvar::new();
    ///
    /// let producer = gopark::go(|| {
    ///     QUEUE.lock().push(7);
    ///     PUSHED.notify_one();
    /// });
    /// let mut queue = QUEUE.lock();
    /// while queue.is_empty() {
    ///     PUSHED.wait(&mut queue);
    /// }
    /// assert_eq!(*queue, [7]);
    /// # producer.join().unwrap();
    /// ```
    pub fn wait<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>) {
        self.wait_with(guard, None);
    }

    /// As [`wait`](Self::wait), until `limit` at most.
    ///
    /// # Panics
    ///
    /// As [`wait`](Self::wait).
    ///
    /// ```
    /// use parking_lot::{Condvar, Mutex};
    /// use std::time::{Duration, Instant};
    ///
    /// let mutex = Mutex::new(());
    /// let limit = Instant::now() + Duration::from_millis(1);
    /// assert!(Condvar::new().wait_until(&mut mutex.lock(), limit).timed_out());
    /// ```
    pub fn wait_until<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        limit: Instant,
    ) -> WaitTimeoutResult {
        self.wait_with(guard, Some(limit))
    }

    /// As [`wait`](Self::wait), for `limit` at most.
    ///
    /// # Panics
    ///
    /// As [`wait`](Self::wait).
    ///
    /// ```
    /// use parking_lot::{Condvar, Mutex};
    /// use std::time::Duration;
    ///
    /// let mutex = Mutex::new(());
    /// let limit = Duration::from_millis(1);
    /// assert!(Condvar::new().wait_for(&mut mutex.lock(), limit).timed_out());
    /// ```
    pub fn wait_for<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        limit: Duration,
    ) -> WaitTimeoutResult {
        self.wait_with(guard, deadline(limit))
    }

    /// Waits until `condition` returns false. It is called with the mutex locked.
    ///
    /// # Panics
    ///
    /// As [`wait`](Self::wait), and if `condition` panics.
    ///
    /// ```
    /// use parking_lot::{Condvar, Mutex};
    ///
    /// let mutex = Mutex::new(3);
    /// // It does not have to wait.
    /// Condvar::new().wait_while(&mut mutex.lock(), |count| *count == 0);
    /// ```
    pub fn wait_while<T, F>(&self, guard: &mut MutexGuard<'_, T>, condition: F)
    where
        T: ?Sized,
        F: FnMut(&mut T) -> bool,
    {
        self.wait_while_with(guard, condition, None);
    }

    /// As [`wait_while`](Self::wait_while), until `limit` at most. A wait that ends at the limit
    /// does not call `condition` again.
    ///
    /// # Panics
    ///
    /// As [`wait_while`](Self::wait_while).
    ///
    /// ```
    /// use parking_lot::{Condvar, Mutex};
    /// use std::time::Instant;
    ///
    /// let mutex = Mutex::new(0);
    /// let mut guard = mutex.lock();
    /// let now = Instant::now();
    /// assert!(Condvar::new().wait_while_until(&mut guard, |n| *n == 0, now).timed_out());
    /// ```
    pub fn wait_while_until<T, F>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        condition: F,
        limit: Instant,
    ) -> WaitTimeoutResult
    where
        T: ?Sized,
        F: FnMut(&mut T) -> bool,
    {
        self.wait_while_with(guard, condition, Some(limit))
    }

    /// As [`wait_while_until`](Self::wait_while_until), for `limit` at most.
    ///
    /// # Panics
    ///
    /// As [`wait_while`](Self::wait_while).
    ///
    /// ```
    /// use parking_lot::{Condvar, Mutex};
    /// use std::time::Duration;
    ///
    /// let mutex = Mutex::new(0);
    /// let mut guard = mutex.lock();
    /// let limit = Duration::from_millis(1);
    /// assert!(Condvar::new().wait_while_for(&mut guard, |n| *n == 0, limit).timed_out());
    /// ```
    pub fn wait_while_for<T: ?Sized, F>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        condition: F,
        limit: Duration,
    ) -> WaitTimeoutResult
    where
        F: FnMut(&mut T) -> bool,
    {
        self.wait_while_with(guard, condition, deadline(limit))
    }

    fn wait_while_with<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
        limit: Option<Instant>,
    ) -> WaitTimeoutResult {
        let mut result = WaitTimeoutResult(false);
        while !result.timed_out() && condition(&mut **guard) {
            result = self.wait_with(guard, limit);
        }
        result
    }

    fn wait_with<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        limit: Option<Instant>,
    ) -> WaitTimeoutResult {
        // SAFETY: the mutex is used as the guard's owner may use it: it is locked, unlocked during
        // the wait, in which the exclusive borrow of the guard prevents other uses, and locked
        // again.
        let mutex: &RawMutex = unsafe { MutexGuard::mutex(guard).raw() };
        let waiter = Waiter::new(ptr::from_ref(mutex).addr());
        let mut queued = self.queue.lock();
        let other = queued
            .front()
            .is_some_and(|first| first.wants != waiter.wants);
        if other {
            drop(queued);
            panic!("a Condvar is waited for with two mutexes at once: use one Condvar for each");
        }
        queued.push_back(waiter.clone());
        self.waiting.store(queued.len(), Ordering::Relaxed);
        drop(queued);
        // SAFETY: the guard owns the lock.
        unsafe { mutex.unlock() };
        let notified = self.queue.wait(&waiter, limit, |queued| {
            self.waiting.store(queued.len(), Ordering::Relaxed);
        });
        mutex.lock();
        WaitTimeoutResult(!notified)
    }

    /// Returns how many callers wait for a notification. For tests.
    #[doc(hidden)]
    pub fn waiters(&self) -> usize {
        self.queue.lock().len()
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("Condvar { .. }")
    }
}
