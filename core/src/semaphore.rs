//! A counting semaphore that serves its waiters in the order of arrival.
//!
//! A waiter for many permits is not overtaken by a later one for few: while waiters are queued,
//! permits go to the first of them, and only when there are as many as it wants. A waiter that
//! gives up, by its time limit or by a cancel, may be the one that keeps those behind it waiting.
//! So after it has left the queue, it gives the permits that are left to those waiters.

use crate::choice::{Decided, End};
use crate::locked_queue::{LockedQueue, Queued, Waited};
use crate::runtime::Runtime;
use crate::sync::const_unless_loom;
use crate::wait_info::Wait;
use crate::withdraw::{Cancelled, check_cancelled};

/// A semaphore.
#[doc(alias = "semacquire")]
#[doc(alias = "semrelease")]
pub struct RawSemaphore<R: Runtime> {
    /// The state is the number of permits, the packet how many permits a waiter wants.
    queue: LockedQueue<usize, usize>,
    runtime: R,
}

/// Gives the first waiter its permits, if there are enough.
fn serve(queued: &mut Queued<usize, usize>) -> Option<Decided> {
    let permits = queued.state;
    let served = queued.waiters.pop_if(|wanted| *wanted <= permits)?;
    queued.state -= *served.packet;
    Some(served.waiter)
}

impl Queued<usize, usize> {
    /// Takes `n` permits for a caller that need not wait.
    fn take_now(&mut self, n: usize) -> bool {
        let now = self.waiters.is_empty() && self.state >= n;
        if now {
            self.state -= n;
        }
        now
    }
}

impl<R: Runtime> RawSemaphore<R> {
    const_unless_loom! {
        /// A semaphore with so many permits.
        pub fn new(permits: usize, runtime: R) -> Self {
            RawSemaphore {
                queue: LockedQueue::new(permits),
                runtime,
            }
        }
    }

    /// Takes `n` permits, after waiting until there are as many and all earlier waiters have
    /// theirs. If it need not wait, it lets no other goroutine run.
    pub fn acquire(&self, n: usize) {
        if !self.take_now(n) {
            _ = self.acquire_slow(n, None, false);
        }
    }

    /// As [`acquire`](Self::acquire), but gives up at `limit`: returns whether it took them.
    pub fn acquire_until(&self, n: usize, limit: R::Instant) -> bool {
        self.take_now(n) || self.acquire_slow(n, Some(limit), false) == Ok(true)
    }

    /// As [`acquire`](Self::acquire), or with a limit as [`acquire_until`](Self::acquire_until).
    ///
    /// # Errors
    ///
    /// If the caller is cancelled. It then has no permits.
    pub fn acquire_or_cancel(
        &self,
        n: usize,
        limit: Option<R::Instant>,
    ) -> Result<bool, Cancelled> {
        check_cancelled(self.runtime)?;
        match self.take_now(n) {
            true => Ok(true),
            false => self.acquire_slow(n, limit, true),
        }
    }

    /// Takes `n` permits if there are as many and no waiter is queued. Returns whether it did.
    ///
    /// After many failures in a row a goroutine yields, so that others can release permits.
    pub fn try_acquire(&self, n: usize) -> bool {
        if self.take_now(n) {
            return true;
        }
        if let Some(sched) = self.runtime.started() {
            sched.spend(1);
        }
        false
    }

    fn take_now(&self, n: usize) -> bool {
        self.queue.lock().take_now(n)
    }

    #[cold]
    fn acquire_slow(
        &self,
        n: usize,
        limit: Option<R::Instant>,
        can_cancel: bool,
    ) -> Result<bool, Cancelled> {
        let sched = self.runtime.sched();
        let until = limit.map(|limit| self.runtime.nanos(limit));
        let wait = Wait::Semaphore.encode();
        let join = |queued: &mut Queued<usize, usize>| {
            // Permits may have been released since the first look.
            let now = queued.take_now(n);
            (!now).then_some(End::Back)
        };
        let waited = match can_cancel {
            true => self.queue.wait_or_cancel(sched, wait, until, &n, join),
            false => Ok(self.queue.wait(sched, wait, until, &n, join)),
        };
        let outcome = match waited {
            Ok(Waited::Served | Waited::NotQueued) => return Ok(true),
            Ok(Waited::Expired) => Ok(false),
            Err(cancelled) => Err(cancelled),
        };
        self.queue.wake(self.runtime, |_| (), serve);
        outcome
    }

    /// Adds `n` permits.
    ///
    /// # Panics
    ///
    /// If there would be more than `usize::MAX`. The semaphore stays as it is.
    pub fn release(&self, n: usize) {
        let mut overflow = false;
        let add = |permits: &mut usize| match permits.checked_add(n) {
            Some(sum) => *permits = sum,
            None => overflow = true,
        };
        self.queue.wake(self.runtime, add, serve);
        assert!(!overflow, "too many permits in a semaphore");
    }

    /// The number of permits that can be taken.
    pub fn available(&self) -> usize {
        self.queue.lock().state
    }
}

impl<R: Runtime + Default> Default for RawSemaphore<R> {
    /// A semaphore without permits.
    fn default() -> Self {
        Self::new(0, R::default())
    }
}

#[cfg(all(test, loom))]
#[path = "../models/semaphore.rs"]
mod models;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::locked_queue::tests::NoScheduler;
    use std::panic;

    #[test]
    fn too_many_permits_panic_and_leave_the_semaphore_as_it_is() {
        let semaphore = RawSemaphore::new(usize::MAX, NoScheduler);
        let release = panic::AssertUnwindSafe(|| semaphore.release(1));
        assert!(panic::catch_unwind(release).is_err());
        assert_eq!(semaphore.available(), usize::MAX);
        semaphore.acquire(usize::MAX);
        assert!(!semaphore.try_acquire(1) && semaphore.try_acquire(0));
    }
}
