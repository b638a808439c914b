//! A group to wait for: Go's `sync.WaitGroup`.

use crate::choice::End;
use crate::locked_queue::{LockedQueue, Queued};
use crate::runtime::Runtime;
use crate::sync::const_unless_loom;
use crate::wait_info::Wait;

/// A counter. Callers of [`wait`](RawWaitGroup::wait) wait until it is 0.
pub struct RawWaitGroup<R: Runtime> {
    queue: LockedQueue<usize>,
    runtime: R,
}

impl<R: Runtime> RawWaitGroup<R> {
    const_unless_loom! {
        /// A group whose counter is 0.
        pub fn new(runtime: R) -> Self {
            RawWaitGroup {
                queue: LockedQueue::new(0),
                runtime,
            }
        }
    }

    /// Adds `n` to the counter.
    ///
    /// # Panics
    ///
    /// If the counter would exceed `usize::MAX`. It stays as it is.
    #[track_caller]
    pub fn add(&self, n: usize) {
        let sum = {
            let count = &mut self.queue.lock().state;
            let sum = count.checked_add(n);
            *count = sum.unwrap_or(*count);
            sum
        };
        assert!(sum.is_some(), "too many members of a wait group");
    }

    /// Subtracts 1 from the counter. If it is 0 then, wakes all that wait.
    ///
    /// # Panics
    ///
    /// If the counter is 0.
    #[track_caller]
    pub fn done(&self) {
        let mut before = 0;
        // In one critical section: a caller that adds members and waits after it must not be woken.
        self.queue.wake_all(self.runtime, |count| {
            before = *count;
            *count = before.saturating_sub(1);
            before == 1
        });
        assert!(
            before > 0,
            "a wait group is done more often than members were added"
        );
    }

    /// Waits until the counter is 0.
    pub fn wait(&self) {
        self.wait_as(Wait::WaitGroup);
    }

    /// As [`wait`](Self::wait). Watchers are told `reason`.
    pub fn wait_as(&self, reason: Wait<usize>) {
        if self.count() > 0 {
            let sched = self.runtime.sched();
            let members = |queued: &mut Queued<usize, ()>| (queued.state > 0).then_some(End::Back);
            _ = self.queue.wait(sched, reason.encode(), None, &(), members);
        }
    }

    /// The counter.
    pub fn count(&self) -> usize {
        self.queue.lock().state
    }
}

impl<R: Runtime + Default> Default for RawWaitGroup<R> {
    fn default() -> Self {
        Self::new(R::default())
    }
}

#[cfg(all(test, loom))]
#[path = "../models/wait_group.rs"]
mod models;
