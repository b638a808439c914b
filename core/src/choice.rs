//! Waiting for one of several events: the outcome word, and the queues that refer to it.
//!
//! A waiter has one [`Choice`] and, for each object that may end its wait, a [`WaitNode`] in the
//! queue of that object. All of them lie on the waiter's own stack, which stays in place while it
//! waits, so a wait allocates nothing. Go has `sudog` and `selectDone`, crossbeam `Context`.
//!
//! ```text
//!            commit                  decide: returns the waiter
//!   OPEN ─────────────▶ waiter ────────────────────────────────▶ decided
//!     └────────────────────────────────────────────────────────────▲
//!                        decide: the commit will be refused
//! ```
//!
//! | word | means | left by |
//! |---|---|---|
//! | `OPEN` | the waiter still runs | `commit`, `decide` |
//! | a waiter | it is parked | `decide` |
//! | decided (low bit) | the outcome; never changes again | |
//!
//! # The protocol
//!
//! 1. The waiter locks a queue, finds that it must wait, and pushes its node in the same critical
//!    section. It still runs. It unlocks, and parks with [`Choice::commit`].
//! 2. The other side locks the queue and pops a node. [`WaitQueue::pop`] decides the node's choice.
//!    If that succeeds, the other side alone may use the node's packet, until it unlocks. Then it
//!    readies the waiter.
//! 3. The waiter runs again and reads the outcome. It locks each queue in which a node of its may
//!    still lie, and removes the node.
//!
//! The race: the other side decides while the waiter still runs. The commit is then refused, and
//! the waiter must not leave its stack while the other side uses the packet. So after a refused
//! commit the waiter locks the queue once, even if its node is in no queue any more. A waiter that
//! was parked need not: it is readied after the unlock.
//!
//! The invariant: while a node is in a queue, its choice and its packet are alive.
#![allow(unsafe_code, reason = "queues refer to nodes by address")]

use crate::sync::{AtomicUsize, Ordering, UnsafeCell};
use crate::waiter::Waiter;
use core::ptr::NonNull;

const OPEN: usize = 0;
/// Set in every decided word. Words of waiters have the three low bits clear.
const DECIDED: usize = 0b001;
const EXPIRED: usize = 0b011;
const WITHDRAWN: usize = 0b101;
/// The number of the arm is above these bits.
const ARM_SHIFT: u32 = 3;

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// The event of the arm with this number came.
    Arm(u32),
    /// The time limit came.
    Expired,
    /// The waiter gave up, or was cancelled.
    Withdrawn,
}

impl Outcome {
    #[inline]
    fn into_word(self) -> usize {
        match self {
            Outcome::Arm(arm) => (arm as usize) << ARM_SHIFT | DECIDED,
            Outcome::Expired => EXPIRED,
            Outcome::Withdrawn => WITHDRAWN,
        }
    }

    #[inline]
    fn from_word(word: usize) -> Option<Self> {
        match word {
            EXPIRED => Some(Outcome::Expired),
            WITHDRAWN => Some(Outcome::Withdrawn),
            _ if word & DECIDED != 0 => Some(Outcome::Arm((word >> ARM_SHIFT) as u32)),
            _ => None,
        }
    }
}

/// What the caller of a successful `decide` must make run: the waiter, or nothing if it still runs.
pub(crate) type Decided = Option<Waiter>;

/// The outcome of one wait. See the module's head.
pub(crate) struct Choice(AtomicUsize);

impl Choice {
    /// A choice that is open.
    #[inline]
    pub(crate) fn new() -> Self {
        Choice(AtomicUsize::new(OPEN))
    }

    /// Stores the waiter, which has stopped running. Gives it back if the choice is decided.
    #[inline]
    pub(crate) fn commit(&self, waiter: Waiter) -> Result<(), Waiter> {
        let word = waiter.into_word();
        // Release pairs with the Acquire in `decide`: the winner sees the waiter's state. On
        // failure the waiter reads the outcome by `outcome`.
        self.0
            .compare_exchange(OPEN, word, Ordering::Release, Ordering::Relaxed)
            .map(|_| ())
            // SAFETY: the word was not stored anywhere.
            .map_err(|_| unsafe { Waiter::from_word(word) })
    }

    /// Decides the choice, unless it is decided: `None` then. The last access to the choice.
    #[inline]
    #[must_use = "the waiter must be made to run"]
    pub(crate) fn decide(&self, outcome: Outcome) -> Option<Decided> {
        let decided = outcome.into_word();
        let mut seen = self.0.load(Ordering::Relaxed);
        while seen & DECIDED == 0 {
            // Acquire pairs with the Release in `commit`. Release pairs with the Acquire in
            // `outcome`: a waiter that still runs sees what the winner did before.
            match self
                .0
                .compare_exchange(seen, decided, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(OPEN) => return Some(None),
                // SAFETY: the swap took the word out, so this caller alone has the waiter.
                Ok(word) => return Some(Some(unsafe { Waiter::from_word(word) })),
                Err(now) => seen = now,
            }
        }
        None
    }

    /// The outcome, once there is one.
    #[inline]
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        Outcome::from_word(self.0.load(Ordering::Acquire))
    }

    #[inline]
    fn is_decided(&self) -> bool {
        self.0.load(Ordering::Relaxed) & DECIDED != 0
    }
}

/// One event that a waiter waits for, on the waiter's stack.
pub(crate) struct WaitNode {
    links: UnsafeCell<Links>,
    choice: NonNull<Choice>,
    /// The number of the outcome.
    arm: u32,
    /// What the event brings or takes. Its type is that of the queue's owner.
    packet: NonNull<()>,
}

/// The neighbours in the queue, which is a ring. `None` in no queue. Owned by the holder of the
/// queue's lock.
#[derive(Default)]
struct Links {
    prev: Option<NonNull<WaitNode>>,
    next: Option<NonNull<WaitNode>>,
}

impl WaitNode {
    /// A node in no queue. If it is popped, the outcome of `choice` is `arm`.
    #[inline]
    pub(crate) fn new(choice: &Choice, arm: u32, packet: NonNull<()>) -> Self {
        WaitNode {
            links: UnsafeCell::new(Links::default()),
            choice: NonNull::from(choice),
            arm,
            packet,
        }
    }
}

/// A waiter whose choice was decided by [`WaitQueue::pop`].
#[must_use = "the waiter must be made to run"]
pub(crate) struct Chosen {
    pub(crate) waiter: Decided,
    /// Valid until the queue is unlocked.
    pub(crate) packet: NonNull<()>,
}

/// Where a node joins a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Front,
    Back,
}

/// The waiters for one event, the first to be served in front. It lies under its owner's lock. One
/// pointer, since each descriptor has several queues: the first of a ring of nodes.
pub(crate) struct WaitQueue {
    first: Option<NonNull<WaitNode>>,
}

// SAFETY: nodes are used under the lock that the queue lies under, and may be by any thread.
unsafe impl Send for WaitQueue {}

impl WaitQueue {
    /// An empty queue.
    pub(crate) const fn new() -> Self {
        WaitQueue { first: None }
    }

    /// Whether no node is queued. The choices of queued nodes may be decided by other events.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Queues a node.
    ///
    /// # Safety
    ///
    /// - The node is in no queue.
    /// - It, its choice and its packet stay in place until `remove` was called for this queue, or
    ///   until the waiter, parked when the choice was decided by this queue, was readied.
    #[inline]
    pub(crate) unsafe fn push(&mut self, node: &WaitNode, end: End) {
        let this = NonNull::from(node);
        // SAFETY: the lock is held, and the node is in no queue.
        let links = unsafe { &mut *node.links.get() };
        debug_assert!(links.next.is_none());
        let next = self.first.unwrap_or(this);
        (links.prev, links.next) = (Some(this), Some(this));
        if next != this {
            // SAFETY: queued nodes are alive, and the lock is held.
            links.prev = unsafe { links_of(next) }.prev.replace(this);
            links.next = Some(next);
        }
        if let Some(prev) = links.prev.filter(|&prev| prev != this) {
            // SAFETY: as above.
            unsafe { links_of(prev) }.next = Some(this);
        }
        if next == this || end == End::Front {
            self.first = Some(this);
        }
    }

    /// Removes a node if it is queued.
    ///
    /// # Safety
    ///
    /// The node is in this queue or in none.
    #[inline]
    pub(crate) unsafe fn remove(&mut self, node: &WaitNode) {
        self.unlink(NonNull::from(node));
    }

    #[inline]
    fn unlink(&mut self, node: NonNull<WaitNode>) {
        // SAFETY: the caller's node is alive, and the lock is held.
        let links = unsafe { links_of(node) };
        let (Some(prev), Some(next)) = (links.prev.take(), links.next.take()) else {
            return;
        };
        if next == node {
            self.first = None;
            return;
        }
        // SAFETY: queued nodes are alive, and the lock is held.
        unsafe { links_of(prev) }.next = Some(next);
        // SAFETY: as above.
        unsafe { links_of(next) }.prev = Some(prev);
        if self.first == Some(node) {
            self.first = Some(next);
        }
    }

    /// Whether a waiter's choice is open. Nodes that lost are removed on the way.
    pub(crate) fn has_waiter(&mut self) -> bool {
        _ = self.pop_if(|_| false);
        !self.is_empty()
    }

    /// Takes the first waiter whose choice is open, and decides that choice. Nodes that lost are
    /// removed on the way.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Chosen> {
        self.pop_if(|_| true)
    }

    /// As [`pop`](Self::pop), if `wanted` says yes to the packet of that waiter. `wanted` only
    /// looks: the choice may still be decided by another event after it.
    #[inline]
    pub(crate) fn pop_if(&mut self, wanted: impl Fn(NonNull<()>) -> bool) -> Option<Chosen> {
        while let Some(first) = self.first {
            // SAFETY: queued nodes are alive, and the lock is held.
            let node = unsafe { first.as_ref() };
            let (arm, packet) = (node.arm, node.packet);
            // SAFETY: so are their choices.
            let choice = unsafe { node.choice.as_ref() };
            if !choice.is_decided() && !wanted(packet) {
                return None;
            }
            self.unlink(first);
            if let Some(waiter) = choice.decide(Outcome::Arm(arm)) {
                return Some(Chosen { waiter, packet });
            }
        }
        None
    }

    /// Takes the waiters whose choices are open and whose packets are `wanted`, wherever in the
    /// queue they are: up to `most`, the first ones. Decides their choices. Nodes that lost are
    /// removed on the way.
    pub(crate) fn pop_each(
        &mut self,
        most: usize,
        wanted: impl Fn(NonNull<()>) -> bool,
        mut chosen: impl FnMut(Chosen),
    ) {
        // SAFETY: queued nodes are alive, and the lock is held.
        let last = self.first.and_then(|first| unsafe { links_of(first) }.prev);
        let (mut at, mut left) = (self.first, most);
        while let Some(this) = at.filter(|_| left > 0) {
            // SAFETY: as above.
            let node = unsafe { this.as_ref() };
            let (arm, packet) = (node.arm, node.packet);
            // SAFETY: as above.
            at = unsafe { links_of(this) }.next.filter(|_| at != last);
            // SAFETY: so are their choices.
            let choice = unsafe { node.choice.as_ref() };
            if !(choice.is_decided() || wanted(packet)) {
                continue;
            }
            self.unlink(this);
            if let Some(waiter) = choice.decide(Outcome::Arm(arm)) {
                chosen(Chosen { waiter, packet });
                left -= 1;
            }
        }
    }
}

/// # Safety
///
/// The node is alive, its queue's lock is held, and no other reference to its links exists.
unsafe fn links_of<'a>(node: NonNull<WaitNode>) -> &'a mut Links {
    // SAFETY: the caller's promise.
    unsafe { &mut *node.as_ref().links.get() }
}

#[cfg(any(test, fuzzing))]
#[path = "../fuzz/choice.rs"]
pub(crate) mod fuzz;

#[cfg(all(test, loom))]
#[path = "../models/choice.rs"]
mod models;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::waiter::Thread;
    use alloc::vec::Vec;

    fn node(choice: &Choice, arm: u32) -> WaitNode {
        WaitNode::new(choice, arm, NonNull::dangling())
    }

    #[test]
    fn the_first_event_decides() {
        for first in [
            Outcome::Arm(0),
            Outcome::Arm(7),
            Outcome::Expired,
            Outcome::Withdrawn,
        ] {
            let choice = Choice::new();
            assert_eq!(choice.outcome(), None);
            assert!(choice.decide(first).is_some_and(|waiter| waiter.is_none()));
            assert!(choice.decide(Outcome::Arm(3)).is_none());
            assert_eq!(choice.outcome(), Some(first));
        }
    }

    #[test]
    fn a_decision_returns_the_parked_waiter_or_refuses_the_commit() {
        let thread = Thread::new();
        let parked = Choice::new();
        assert!(parked.commit(thread.waiter()).is_ok());
        let waiter = parked.decide(Outcome::Expired).expect("it is open");
        assert!(matches!(waiter, Some(Waiter::Thread(_))));
        let early = Choice::new();
        assert!(early.decide(Outcome::Arm(1)).is_some());
        assert!(early.commit(thread.waiter()).is_err());
        assert_eq!(early.outcome(), Some(Outcome::Arm(1)));
    }

    #[test]
    fn a_queue_serves_in_order_and_skips_those_that_lost() {
        let choices: [Choice; 5] = core::array::from_fn(|_| Choice::new());
        let nodes: [WaitNode; 5] = core::array::from_fn(|i| node(&choices[i], i as u32));
        let mut queue = WaitQueue::new();
        for node in &nodes[..4] {
            // SAFETY: nodes and choices outlive the queue.
            unsafe { queue.push(node, End::Back) };
        }
        // SAFETY: as above.
        unsafe { queue.push(&nodes[4], End::Front) };
        assert!(choices[1].decide(Outcome::Expired).is_some());
        // SAFETY: the node is in this queue.
        unsafe { queue.remove(&nodes[2]) };
        for served in [4, 0, 3] {
            assert!(queue.pop().is_some_and(|chosen| chosen.waiter.is_none()));
            assert_eq!(choices[served].outcome(), Some(Outcome::Arm(served as u32)));
        }
        assert!(queue.pop().is_none() && queue.is_empty());
        assert_eq!(choices[2].outcome(), None);
        // SAFETY: the node is in no queue.
        unsafe { queue.remove(&nodes[0]) };
    }

    #[test]
    fn an_unwanted_waiter_stays_in_front() {
        let choice = Choice::new();
        let first = node(&choice, 0);
        let mut queue = WaitQueue::new();
        // SAFETY: node and choice outlive the queue.
        unsafe { queue.push(&first, End::Back) };
        assert!(queue.pop_if(|_| false).is_none());
        assert!(!queue.is_empty() && choice.outcome().is_none());
        assert!(queue.pop().is_some());
    }

    #[test]
    fn a_look_at_each_waiter_takes_the_first_that_are_wanted_and_those_that_lost() {
        let choices: [Choice; 5] = core::array::from_fn(|_| Choice::new());
        let mut kinds = [0u8, 1, 1, 0, 1];
        let kinds = kinds.each_mut().map(NonNull::from);
        let nodes: [WaitNode; 5] =
            core::array::from_fn(|i| WaitNode::new(&choices[i], i as u32, kinds[i].cast()));
        // SAFETY: the packets are those above.
        let wanted = |packet: NonNull<()>| unsafe { *packet.cast::<u8>().as_ref() } == 1;
        let mut queue = WaitQueue::new();
        for node in &nodes {
            // SAFETY: nodes and choices outlive the queue.
            unsafe { queue.push(node, End::Back) };
        }
        assert!(choices[0].decide(Outcome::Expired).is_some());
        for expected in [[1, 2].as_slice(), &[4], &[]] {
            let mut served = Vec::new();
            queue.pop_each(2, wanted, |chosen| served.push(chosen.packet));
            let expected: Vec<_> = expected.iter().map(|&i: &usize| kinds[i].cast()).collect();
            assert_eq!(served, expected);
        }
        assert!(queue.pop().is_some() && queue.is_empty());
        assert_eq!(choices[3].outcome(), Some(Outcome::Arm(3)));
    }
}
