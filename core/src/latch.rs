//! An event that comes once, such as the return of a goroutine, and that one waiter may claim.
//!
//! | state | `set` | `claimed` | waiters |
//! |---|---|---|---|
//! | not yet | no | no | any number |
//! | come | yes | no | none: the first waiter would have claimed it |
//! | claimed | yes | yes | those that came too late, and never get it |
#![allow(unsafe_code, reason = "nodes are queued by address")]

use crate::choice::{Choice, Decided, End, Outcome, WaitNode, WaitQueue};
use crate::sched::{Ended, Sched};
use crate::select::{Arm, Attempt, Gate};
use crate::sync::{AtomicBool, Ordering, UnsafeCell};
use crate::wait_info::WaitWords;
use crate::withdraw::Cancelled;
use core::ptr::NonNull;

/// An event that comes once. What it announces belongs to the waiter that claims it.
pub(crate) struct Latch {
    gate: Gate,
    /// Protected by `gate`.
    state: UnsafeCell<State>,
    /// Whether the event has come. Written by the holder of `gate`.
    set: AtomicBool,
}

struct State {
    claimed: bool,
    taken: bool,
    waiters: WaitQueue,
}

// SAFETY: the gate protects the state.
unsafe impl Send for Latch {}
// SAFETY: as above.
unsafe impl Sync for Latch {}

impl Latch {
    pub(crate) fn new() -> Self {
        Latch {
            gate: Gate::new(()),
            state: UnsafeCell::new(State {
                claimed: false,
                taken: false,
                waiters: WaitQueue::new(),
            }),
            set: AtomicBool::new(false),
        }
    }

    #[inline]
    fn with<Q>(&self, f: impl FnOnce(&mut State) -> Q) -> Q {
        let _gate = self.gate.lock();
        // SAFETY: the gate is locked.
        f(unsafe { &mut *self.state.get() })
    }

    /// Whether the event has come.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        // Acquire pairs with the Release in `set`.
        self.set.load(Ordering::Acquire)
    }

    /// Takes what the event announces. False unless a waiter has claimed it and it was not taken.
    #[inline]
    pub(crate) fn take(&self) -> bool {
        self.with(|state| state.claimed && !core::mem::replace(&mut state.taken, true))
    }

    /// Whether what the event announces was taken.
    #[inline]
    pub(crate) fn is_taken(&self) -> bool {
        self.with(|state| state.taken)
    }

    /// The event comes. Returns the waiter that claims it, to be readied.
    pub(crate) fn set(&self) -> Decided {
        self.with(|state| {
            self.set.store(true, Ordering::Release);
            let first = state.waiters.pop()?;
            state.claimed = true;
            first.waiter
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
        let must_wait = self.with(|state| {
            if self.is_set() {
                state.claimed = true;
                return false;
            }
            // From the push to the end of the wait nothing may unwind.
            sched.forbid_block_in_fork();
            // SAFETY: node and choice stay until this function returns, which is after `set` has
            // unlocked the gate.
            unsafe { state.waiters.push(&node, End::Back) };
            true
        });
        if !must_wait {
            return Ok(());
        }
        let ended = wait(&choice);
        let is_cancelled = ended.outcome == Outcome::Withdrawn;
        if !ended.parked || is_cancelled {
            // SAFETY: the node is in this queue or in none.
            self.with(|state| unsafe { state.waiters.remove(&node) });
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
        // SAFETY: the caller has locked the gate.
        let state = unsafe { &mut *self.state.get() };
        if !self.is_set() || state.claimed {
            return Attempt::Blocked;
        }
        state.claimed = true;
        Attempt::Done(None)
    }

    unsafe fn enqueue(&self, node: &WaitNode) {
        // SAFETY: the caller has locked the gate, and keeps the node.
        unsafe { (*self.state.get()).waiters.push(node, End::Back) };
    }

    unsafe fn dequeue(&self, node: &WaitNode) {
        // SAFETY: the caller has locked the gate. Only `enqueue` has queued the node.
        unsafe { (*self.state.get()).waiters.remove(node) };
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
