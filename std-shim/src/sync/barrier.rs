//! `Barrier`.

use super::condvar::Condvar;
use super::mutex::Mutex;
use std::fmt;
use std::sync::PoisonError;

/// A point where a number of goroutines and threads wait for each other: [`std::sync::Barrier`].
///
/// ```
/// use gopark::sync::{Arc, Barrier};
///
/// let barrier = Arc::new(Barrier::new(3));
/// let workers: Vec<_> = (0..3)
///     .map(|_| {
///         let barrier = barrier.clone();
///         gopark::go(move || barrier.wait().is_leader())
///     })
///     .collect();
/// let leaders = workers.into_iter().map(|worker| worker.join().unwrap());
/// assert_eq!(leaders.filter(|leads| *leads).count(), 1);
/// ```
pub struct Barrier {
    round: Mutex<Round>,
    over: Condvar,
    size: usize,
}

struct Round {
    waiting: usize,
    /// The number of the round.
    number: usize,
}

/// Returned by [`Barrier::wait`].
///
/// ```
/// assert!(gopark::sync::Barrier::new(1).wait().is_leader());
/// ```
pub struct BarrierWaitResult(bool);

impl Barrier {
    /// Makes a barrier for `n` callers of [`wait`](Self::wait). With 0 or 1 they do not wait.
    ///
    /// ```
    /// static BARRIER: gopark::sync::Barrier = gopark::sync::Barrier::new(1);
    /// BARRIER.wait();
    /// ```
    pub const fn new(n: usize) -> Self {
        Barrier {
            round: Mutex::new(Round {
                waiting: 0,
                number: 0,
            }),
            over: Condvar::new(),
            size: n,
        }
    }

    /// Waits until as many callers wait as the barrier is for. All of them then return, and one of
    /// them is the leader. After that the barrier can be used again.
    ///
    /// ```
    /// use gopark::sync::{Arc, Barrier};
    ///
    /// let barrier = Arc::new(Barrier::new(2));
    /// let theirs = barrier.clone();
    /// let other = gopark::go(move || theirs.wait().is_leader());
    /// assert_ne!(barrier.wait().is_leader(), other.join().unwrap());
    /// ```
    pub fn wait(&self) -> BarrierWaitResult {
        // No code that could panic runs under the lock.
        let mut round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        let number = round.number;
        round.waiting += 1;
        if round.waiting < self.size {
            let waits = |round: &mut Round| round.number == number;
            drop(self.over.wait_while(round, waits));
            return BarrierWaitResult(false);
        }
        round.waiting = 0;
        round.number = number.wrapping_add(1);
        drop(round);
        self.over.notify_all();
        BarrierWaitResult(true)
    }
}

impl BarrierWaitResult {
    /// Returns whether the caller is the leader: the last one that came.
    ///
    /// ```
    /// assert!(gopark::sync::Barrier::new(0).wait().is_leader());
    /// ```
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.0
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier").finish_non_exhaustive()
    }
}

impl fmt::Debug for BarrierWaitResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BarrierWaitResult")
            .field("is_leader", &self.is_leader())
            .finish()
    }
}
