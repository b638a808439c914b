//! A condition variable: a queue of those that wait for a notification. Go's `sync.Cond`.
//!
//! A waiter joins the queue before it unlocks the mutex. A notifier that has changed the condition
//! under the mutex therefore finds every waiter that has seen the old condition.
#![allow(
    unsafe_code,
    reason = "a wait unlocks the mutex that its caller has locked"
)]

use crate::choice::End;
use crate::locked_queue::{LockedQueue, Waited};
use crate::mutex::RawMutex;
use crate::runtime::Runtime;
use crate::sync::const_unless_loom;
use crate::wait_info::Wait;
use crate::withdraw::Cancelled;

/// A condition variable for a [`RawMutex`].
pub struct RawCondvar<R: Runtime> {
    queue: LockedQueue<()>,
    runtime: R,
}

impl<R: Runtime> RawCondvar<R> {
    const_unless_loom! {
        /// A condition variable without waiters.
        pub fn new(runtime: R) -> Self {
            RawCondvar {
                queue: LockedQueue::new(()),
                runtime,
            }
        }
    }

    /// Unlocks `mutex`, waits for a notification or until `limit`, and locks `mutex` again. Returns
    /// whether a notification ended the wait. No wait ends without a reason, but before the caller
    /// has the mutex again, others may change the condition.
    ///
    /// # Safety
    ///
    /// The caller owns the lock of `mutex`.
    pub unsafe fn wait(&self, mutex: &RawMutex<R>, limit: Option<R::Instant>) -> bool {
        let sched = self.runtime.sched();
        let until = limit.map(|limit| self.runtime.nanos(limit));
        let waited = self.queue.wait_after(
            sched,
            Wait::Condvar.encode(),
            until,
            &(),
            |_| Some(End::Back),
            // SAFETY: the caller's promise.
            || unsafe { mutex.unlock() },
        );
        Self::lock_again(mutex, Ok(waited)) == Ok(true)
    }

    /// As [`wait`](Self::wait), but a cancel of the caller also ends the wait. The caller has the
    /// mutex again in that case, too.
    ///
    /// # Errors
    ///
    /// If the caller is cancelled before a notification comes.
    ///
    /// # Safety
    ///
    /// The caller owns the lock of `mutex`.
    pub unsafe fn wait_or_cancel(
        &self,
        mutex: &RawMutex<R>,
        limit: Option<R::Instant>,
    ) -> Result<bool, Cancelled> {
        let sched = self.runtime.sched();
        let until = limit.map(|limit| self.runtime.nanos(limit));
        let wait = Wait::Condvar.encode();
        // SAFETY: the caller's promise.
        let unlock = || unsafe { mutex.unlock() };
        let waited = self
            .queue
            .wait_after_or_cancel(sched, wait, until, &(), unlock);
        Self::lock_again(mutex, waited)
    }

    /// Ends a wait. Returns whether a notification has ended it.
    fn lock_again(
        mutex: &RawMutex<R>,
        waited: Result<Waited, Cancelled>,
    ) -> Result<bool, Cancelled> {
        mutex.lock();
        Ok(waited? == Waited::Served)
    }

    /// Wakes the first waiter.
    pub fn notify_one(&self) {
        self.queue.wake_one(self.runtime, |queued| {
            let served = queued.waiters.pop_if(|()| true)?;
            Some(served.waiter)
        });
    }

    /// Wakes all that wait now.
    pub fn notify_all(&self) {
        self.queue.wake_all(self.runtime, |()| true);
    }
}

impl<R: Runtime + Default> Default for RawCondvar<R> {
    fn default() -> Self {
        Self::new(R::default())
    }
}
