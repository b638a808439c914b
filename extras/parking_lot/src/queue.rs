//! Waiters in a queue: those of one lock or condition variable.

use gopark::sync::Notify;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A goroutine or thread that is, or was, in a [`Queue`].
///
/// The queue and the waiter share it. A waker may still use it after the waiter has returned.
pub(crate) struct Waiter<T> {
    /// What the waiter waits for.
    pub(crate) wants: T,
    /// Notified once each time that the waiter was taken out of the queue.
    served: Notify,
}

/// The waiters, with the queue's lock held.
pub(crate) type Queued<'a, T> = MutexGuard<'a, VecDeque<Arc<Waiter<T>>>>;

/// Waiters in the order in which they are to be served.
///
/// Its lock is one of `std`, for which no goroutine parks. So an unlock never parks: it may run in
/// a destructor while its goroutine unwinds. The lock is held for a few instructions, and over no
/// call of gopark, so it is never held by a goroutine that does not run.
pub(crate) struct Queue<T>(Mutex<VecDeque<Arc<Waiter<T>>>>);

impl<T> Waiter<T> {
    /// Makes a waiter that is in no queue. Starts the runtime if it is not running.
    ///
    /// # Panics
    ///
    /// If the runtime cannot be started. A waiter that panicked in the queue would keep its place.
    pub(crate) fn new(wants: T) -> Arc<Self> {
        gopark::max_procs();
        Arc::new(Waiter {
            wants,
            served: Notify::new(),
        })
    }

    /// Ends the wait of a waiter that the caller has taken out of the queue. The caller no longer
    /// holds the queue's lock.
    pub(crate) fn wake(&self) {
        self.served.notify_one();
    }
}

impl<T> Queue<T> {
    pub(crate) const fn new() -> Self {
        Queue(Mutex::new(VecDeque::new()))
    }

    pub(crate) fn lock(&self) -> Queued<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Parks the caller, whose waiter is in the queue, until the waiter was taken out and woken.
    ///
    /// Gives up at `limit`: takes the waiter out itself, calls `left` with the rest of the queue,
    /// and returns false.
    pub(crate) fn wait(
        &self,
        waiter: &Arc<Waiter<T>>,
        limit: Option<Instant>,
        left: impl FnOnce(Queued<'_, T>),
    ) -> bool {
        let Some(limit) = limit else {
            waiter.served.notified();
            return true;
        };
        let left_over = limit.saturating_duration_since(Instant::now());
        if waiter.served.notified_timeout(left_over) {
            return true;
        }
        let mut queued = self.lock();
        let place = queued.iter().position(|other| Arc::ptr_eq(other, waiter));
        let Some(place) = place else {
            // A waker has served the waiter at the limit, and is about to notify it. The waiter may
            // join the queue again, where a late notification would count as a new one.
            drop(queued);
            waiter.served.notified();
            return true;
        };
        queued.remove(place);
        left(queued);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Duration;

    /// Otherwise the notification would end the next wait of the same waiter.
    #[test]
    fn a_waiter_that_is_served_at_its_limit_waits_for_the_notification() {
        let (queue, waiter) = (Queue::new(), Waiter::new(()));
        let (woken, limit) = (AtomicBool::new(false), Instant::now());
        thread::scope(|scope| {
            // The waiter is no longer in the queue: a waker has taken it out.
            let waits = scope.spawn(|| {
                let served = queue.wait(&waiter, Some(limit), |_| unreachable!());
                served && woken.load(Ordering::SeqCst)
            });
            thread::sleep(Duration::from_millis(5));
            woken.store(true, Ordering::SeqCst);
            waiter.wake();
            assert!(waits.join().unwrap());
        });
    }

    #[test]
    fn a_waiter_that_gives_up_leaves_the_others_in_the_queue() {
        let (queue, waiter) = (Queue::new(), Waiter::new(1));
        queue
            .lock()
            .extend([Waiter::new(0), waiter.clone(), Waiter::new(2)]);
        let limit = Instant::now() + Duration::from_millis(1);
        let mut left = Vec::new();
        assert!(!queue.wait(&waiter, Some(limit), |queued| {
            left.extend(queued.iter().map(|waiter| waiter.wants));
        }));
        assert_eq!(left, [0, 2]);
    }
}
