//! Notifications without data: tokio's `Notify`.
//!
//! | operation | no waiter, no permit | no waiter, a permit | waiters |
//! |---|---|---|---|
//! | `notify_one` | stores a permit | does nothing | wakes the first |
//! | `notify_waiters` | does nothing | does nothing | wakes all that wait now |
//! | `wait` | waits | takes the permit | waits |
//!
//! There is one permit at most, and none while waiters are queued.

use crate::choice::End;
use crate::locked_queue::{LockedQueue, Queued, Waited};
use crate::runtime::Runtime;
use crate::sync::const_unless_loom;
use crate::wait_info::Wait;

/// A source of notifications.
pub struct RawNotify<R: Runtime> {
    /// The state is whether there is a permit.
    queue: LockedQueue<bool>,
    runtime: R,
}

impl<R: Runtime> RawNotify<R> {
    const_unless_loom! {
        /// A source without a permit.
        pub fn new(runtime: R) -> Self {
            RawNotify {
                queue: LockedQueue::new(false),
                runtime,
            }
        }
    }

    /// Wakes the first waiter. If there is none, the next `wait` returns at once.
    pub fn notify_one(&self) {
        self.queue.wake_one(self.runtime, |queued| {
            let served = queued.waiters.pop_if(|()| true);
            queued.state |= served.is_none();
            Some(served?.waiter)
        });
    }

    /// Wakes all that wait now. A later `wait` is not affected.
    pub fn notify_waiters(&self) {
        self.queue.wake_all(self.runtime, |_| true);
    }

    /// Waits for a notification, or takes the permit.
    pub fn wait(&self) {
        self.wait_as(Wait::Notify, None);
    }

    /// As [`wait`](Self::wait), but gives up at `limit`: returns whether it was notified.
    pub fn wait_until(&self, limit: R::Instant) -> bool {
        self.wait_as(Wait::Notify, Some(limit))
    }

    /// As [`wait`](Self::wait), perhaps with a limit. Watchers are told `reason`.
    pub fn wait_as(&self, reason: Wait<usize>, limit: Option<R::Instant>) -> bool {
        if core::mem::take(&mut self.queue.lock().state) {
            return true;
        }
        let sched = self.runtime.sched();
        let until = limit.map(|limit| self.runtime.nanos(limit));
        let join = |queued: &mut Queued<bool, ()>| {
            let permit = core::mem::take(&mut queued.state);
            (!permit).then_some(End::Back)
        };
        let wait = reason.encode();
        self.queue.wait(sched, wait, until, &(), join) != Waited::Expired
    }
}

impl<R: Runtime + Default> Default for RawNotify<R> {
    fn default() -> Self {
        Self::new(R::default())
    }
}

#[cfg(all(test, loom))]
#[path = "../models/notify.rs"]
mod models;
