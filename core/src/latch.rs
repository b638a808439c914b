//! An event that comes once, such as the return of a goroutine, and that one waiter may claim.
//!
//! | state | left by | waiters |
//! |---|---|---|
//! | `NOT_YET` | `set` | any number |
//! | `COME` | the next waiter, a select | none: the first waiter would have claimed it |
//! | `CLAIMED` | `take` | those that came too late, and never get it |
//! | `TAKEN` | | as above |
#![allow(unsafe_code, reason = "nodes are queued by address")]

use crate::choice::{Choice, Decided, End, Outcome, WaitNode, WaitQueue};
use crate::sched::{Ended, Sched};
use crate::select::{Arm, Attempt, Gate};
use crate::sync::{AtomicU8, Ordering, UnsafeCell};
use crate::wait_info::WaitWords;
use crate::withdraw::Cancelled;
use core::ptr::NonNull;

/// An event that comes once. What it announces belongs to the waiter that claims it.
pub(crate) struct Latch {
    gate: Gate,
    /// Written by the holder of `gate`.
    state: AtomicU8,
    /// Protected by `gate`.
    waiters: UnsafeCell<WaitQueue>,
}

const NOT_YET: u8 = 0;
const COME: u8 = 1;
const CLAIMED: u8 = 2;
const TAKEN: u8 = 3;

// SAFETY: the gate protects the waiters.
unsafe impl Send for Latch {}
// SAFETY: as above.
unsafe impl Sync for Latch {}

impl Latch {
    pub(crate) fn new() -> Self {
        Latch {
            gate: Gate::new(()),
            state: AtomicU8::new(NOT_YET),
            waiters: UnsafeCell::new(WaitQueue::new()),
        }
    }

    #[inline]
    fn with<Q>(&self, f: impl FnOnce(&mut WaitQueue) -> Q) -> Q {
        let _gate = self.gate.lock();
        // SAFETY: the gate is locked.
        f(unsafe { &mut *self.waiters.get() })
    }

    /// Goes from one state to another. Returns whether it was in the first. The caller has locked
    /// the gate.
    #[inline]
    fn go(&self, from: u8, to: u8) -> bool {
        let goes = self.state.load(Ordering::Relaxed) == from;
        if goes {
            // Release pairs with the Acquire in `is_set`.
            self.state.store(to, Ordering::Release);
        }
        goes
    }

    /// Whether the event has come.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        // Acquire pairs with the Release in `go`.
        self.state.load(Ordering::Acquire) != NOT_YET
    }

    /// Takes what the event announces. False unless a waiter has claimed it and it was not taken.
    #[inline]
    pub(crate) fn take(&self) -> bool {
        self.with(|_| self.go(CLAIMED, TAKEN))
    }

    /// Whether what the event announces was taken.
    #[inline]
    pub(crate) fn is_taken(&self) -> bool {
        self.with(|_| self.state.load(Ordering::Relaxed) == TAKEN)
    }

    /// The event comes. Returns the waiter that claims it, to be readied.
    pub(crate) fn set(&self) -> Decided {
        self.with(|waiters| {
            let first = waiters.pop();
            self.go(NOT_YET, if first.is_some() { CLAIMED } else { COME });
            first?.waiter
        })
    }

    /// Waits for the event and claims it, unless another waiter has claimed it.
    pub(crate) fn wait(&self, sched: &'static Sched, wait: WaitWords) {
        _ = self.wait_by(sched, |choice| sched.wait_until(choice, None, wait));
    }

    /// As [`wait`](Self::wait), unless the caller is cancelled first.
    pub(crate) fn wait_or_cancel(
        &self,
        sched: &'static Sched,
        wait: WaitWords,
    ) -> Result<(), Cancelled> {
        self.wait_by(sched, |choice| sched.wait_or_cancel(choice, None, wait))
    }

    fn wait_by(
        &self,
        sched: &'static Sched,
        wait: impl FnOnce(&Choice) -> Ended,
    ) -> Result<(), Cancelled> {
        let choice = Choice::new();
        let node = WaitNode::new(&choice, 0, NonNull::dangling());
        let must_wait = self.with(|waiters| {
            if self.is_set() {
                self.go(COME, CLAIMED);
                return false;
            }
            // From the push to the end of the wait nothing may unwind.
            sched.forbid_block_in_fork();
            // SAFETY: node and choice stay until this function returns, which is after `set` has
            // unlocked the gate.
            unsafe { waiters.push(&node, End::Back) };
            true
        });
        if !must_wait {
            return Ok(());
        }
        let ended = wait(&choice);
        let is_cancelled = ended.outcome == Outcome::Withdrawn;
        if !ended.parked || is_cancelled {
            // SAFETY: the node is in this queue or in none.
            self.with(|waiters| unsafe { waiters.remove(&node) });
        }
        match is_cancelled {
            true => Err(Cancelled),
            false => Ok(()),
        }
    }
}

impl Arm for Latch {
    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn packet(&self) -> NonNull<()> {
        NonNull::dangling()
    }

    unsafe fn attempt(&self) -> Attempt {
        match self.go(COME, CLAIMED) {
            true => Attempt::Done(None),
            false => Attempt::Blocked,
        }
    }

    unsafe fn enqueue(&self, node: &WaitNode) {
        // SAFETY: the caller has locked the gate, and keeps the node.
        unsafe { (*self.waiters.get()).push(node, End::Back) };
    }

    unsafe fn dequeue(&self, node: &WaitNode) {
        // SAFETY: the caller has locked the gate. Only `enqueue` has queued the node.
        unsafe { (*self.waiters.get()).remove(node) };
    }
}

#[cfg(all(test, loom))]
#[path = "../models/latch.rs"]
mod models;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn claims(latch: &Latch) -> bool {
        let _gate = latch.gate().lock();
        // SAFETY: the gate is locked.
        matches!(unsafe { latch.attempt() }, Attempt::Done(None))
    }

    #[test]
    fn the_event_is_claimed_once_and_taken_by_its_claimant() {
        let latch = Latch::new();
        assert!(!latch.is_set() && !claims(&latch) && !latch.take());
        assert!(latch.set().is_none());
        assert!(latch.is_set() && !latch.take());
        assert!(claims(&latch) && !claims(&latch) && !latch.is_taken());
        assert!(latch.take() && latch.is_taken() && !latch.take());
    }

    #[test]
    fn the_first_waiter_claims_the_event_and_the_second_keeps_waiting() {
        let latch = Latch::new();
        let choices = [Choice::new(), Choice::new()];
        let nodes = [0, 1].map(|i: usize| WaitNode::new(&choices[i], 0, latch.packet()));
        for node in &nodes {
            let _gate = latch.gate().lock();
            // SAFETY: the gate is locked. Nodes and choices outlive the latch's queue.
            unsafe { latch.enqueue(node) };
        }
        assert!(latch.set().is_none());
        assert_eq!(choices[0].outcome(), Some(Outcome::Arm(0)));
        assert_eq!(choices[1].outcome(), None);
        assert!(!claims(&latch) && latch.take());
        let _gate = latch.gate().lock();
        // SAFETY: the gate is locked, and the node is queued.
        unsafe { latch.dequeue(&nodes[1]) };
    }
}
