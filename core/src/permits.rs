//! Permits: what the lock of a descriptor gives its waiters. A semaphore without limits, which is
//! small because every program with a socket has it; [`semaphore`](crate::semaphore) is the one for
//! programs.
#![allow(unsafe_code, reason = "a queue refers to nodes by address")]

use crate::choice::{Choice, End, Outcome, WaitNode, WaitQueue};
use crate::sched::{Ended, Sched};
use crate::sync::{Lock, UnsafeCell};
use crate::wait_info::{Wait, WaitWords};
use core::ptr::NonNull;

/// A count of permits. Waiters queue in order. All callers pass the same scheduler.
pub(crate) struct Permits {
    count: Lock<u32>,
    /// Empty while there are permits. Protected by the lock of `count`. Within it, the padding
    /// would be eight bytes more.
    waiters: UnsafeCell<WaitQueue>,
}

// SAFETY: the lock of `count` protects the waiters.
unsafe impl Sync for Permits {}

impl Permits {
    pub(crate) fn new() -> Self {
        Permits {
            count: Lock::new(0),
            waiters: UnsafeCell::new(WaitQueue::new()),
        }
    }

    #[inline]
    fn with<Q>(&self, f: impl FnOnce(&mut u32, &mut WaitQueue) -> Q) -> Q {
        let mut count = self.count.lock();
        // SAFETY: the lock is held.
        f(&mut count, unsafe { &mut *self.waiters.get() })
    }

    /// Takes a permit, after waiting for one. If there is one, it lets no other goroutine run.
    pub(crate) fn acquire(&self, sched: &'static Sched) {
        let choice = Choice::new();
        let node = WaitNode::new(&choice, 0, NonNull::dangling());
        // SAFETY: node and choice stay until this function returns, which is after `release` has
        // unlocked: it readies a parked waiter then, and another one locks below.
        let must_wait = unsafe { self.take_or_queue(sched, &node) };
        if must_wait && !sched.wait_served(&choice, Wait::Semaphore.encode()) {
            drop(self.count.lock());
        }
    }

    /// As [`acquire`](Self::acquire), by a wait that a cancel may end. Returns whether it has taken
    /// a permit.
    pub(crate) fn acquire_by(
        &self,
        sched: &'static Sched,
        wait: impl FnOnce(&Choice, WaitWords) -> Ended,
    ) -> bool {
        let choice = Choice::new();
        let node = WaitNode::new(&choice, 0, NonNull::dangling());
        // SAFETY: as in `acquire`. After a cancel, the node is removed.
        if !unsafe { self.take_or_queue(sched, &node) } {
            return true;
        }
        let ended = wait(&choice, Wait::Semaphore.encode());
        let is_served = ended.outcome != Outcome::Withdrawn;
        if !(is_served && ended.parked) {
            // SAFETY: the node is in this queue or in none.
            self.with(|_, waiters| unsafe { waiters.remove(&node) });
        }
        is_served
    }

    /// Takes a permit. If there is none, queues the node and returns true.
    ///
    /// # Safety
    ///
    /// As for [`WaitQueue::push`].
    unsafe fn take_or_queue(&self, sched: &'static Sched, node: &WaitNode) -> bool {
        self.with(|count, waiters| {
            if *count > 0 {
                *count -= 1;
                return false;
            }
            // From the push to the end of the wait nothing may unwind.
            sched.forbid_block_in_fork();
            // SAFETY: the caller's promise.
            unsafe { waiters.push(node, End::Back) };
            true
        })
    }

    /// Releases `n` permits, each to the first waiter if there is one.
    pub(crate) fn release(&self, sched: &'static Sched, n: u32) {
        for _ in 0..n {
            let served = self.with(|count, waiters| {
                let first = waiters.pop();
                *count += u32::from(first.is_none());
                first
            });
            if let Some(waiter) = served.and_then(|served| served.waiter) {
                sched.ready(waiter);
            }
        }
    }
}
