//! Cancelling: which goroutines a cancel reaches, and when.
//!
//! A [`RawCancel`] has members (goroutines that run in it), waiters (those that wait for it to be
//! cancelled) and children, which are cancelled with it. Its state changes once, under its gate:
//!
//! | cause | members | a new member | a new child | timer |
//! |---|---|---|---|---|
//! | none | run | runs | is not cancelled | armed if there is a deadline |
//! | some | fail (`withdraw`) | fails at once | is cancelled at once | does nothing |
//!
//! The race: a child or a member joins while the canceller walks. It joins under the gate. Either
//! the canceller finds it, or it finds the cause.
//!
//! A walk holds the gate for a batch of members at a time. Members that were cancelled leave the
//! list, and later ones do not join it, so the walk ends. No walk holds two gates. Each cancelled
//! member is in a list of its goroutine, for watchers (`reached`).
//!
//! The timer is disarmed when the last `RawCancel` is dropped.
#![allow(unsafe_code, reason = "members refer to nodes by address")]

mod reached;

pub use reached::Cancellation;
pub(crate) use reached::cancellation;

use crate::choice::{End, WaitNode, WaitQueue};
use crate::g::G;
use crate::must::Must;
use crate::os::Nanos;
use crate::sched::Sched;
use crate::select::{Arm, Attempt, CancelledArm, Case, Gate, Limit, OnCancel};
use crate::sync::{AtomicU8, AtomicUsize, Once, Ordering, UnsafeCell, while_unparkable};
use crate::timed::{OnTime, Timed};
use crate::trace::{Canceller, Identity};
use crate::waiter::WaiterList;
pub use crate::withdraw::Cancelled;
use crate::withdraw::{Member, Members, Operations};
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::panic::Location;
use core::ptr::NonNull;

/// How many members are cancelled for each time that the gate is held.
const BATCH: usize = if cfg!(any(test, fuzzing)) { 2 } else { 32 };

/// Why a [`RawCancel`] is cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A `cancel` was called.
    Asked,
    /// Its own deadline has passed.
    Deadline,
    /// The one that it is a child of was cancelled.
    Parent,
}

const NONE: u8 = 0;

impl Cause {
    fn number(self) -> u8 {
        match self {
            Cause::Asked => 1,
            Cause::Deadline => 2,
            Cause::Parent => 3,
        }
    }

    fn of(number: u8) -> Option<Self> {
        match number {
            NONE => None,
            1 => Some(Cause::Asked),
            2 => Some(Cause::Deadline),
            _ => Some(Cause::Parent),
        }
    }
}

/// What cancels goroutines. Clones are the same one.
pub struct RawCancel(Shared);

struct Node {
    sched: &'static Sched,
    /// How many `RawCancel`s there are, those of children included.
    users: AtomicUsize,
    /// The number of the cause. Written by the holder of the gate.
    cause: AtomicU8,
    /// Set before `cause`, by the holder of the gate.
    canceller: Once<Canceller>,
    gate: Gate,
    /// Protected by `gate`.
    state: UnsafeCell<State>,
    /// What it is a child of. Two if `run` was called within another cancel.
    parents: [Option<Parent>; 2],
}

type Shared = Arc<Timed<Node>>;

struct Parent {
    node: Shared,
    /// The child's number among its children.
    number: u64,
}

struct State {
    /// Those that are not cancelled.
    members: Members,
    waiters: WaitQueue,
    /// By their numbers.
    children: Children,
    /// The number of the last child.
    last_child: u64,
}

type Children = BTreeMap<u64, Weak<Timed<Node>>>;

// SAFETY: the gate protects the state; what it refers to may be used by any thread.
unsafe impl Send for Node {}
// SAFETY: as above.
unsafe impl Sync for Node {}

static OPERATIONS: Operations = Operations {
    poll_wait: Sched::poll_wait_as,
    lock: Member::lock,
    sleep: Member::sleep,
    wait: Member::wait,
};

impl RawCancel {
    /// One that is no child of another.
    pub fn new(sched: &'static Sched) -> Self {
        Self::make(sched, [None, None])
    }

    /// The one that the caller is a member of: the innermost, if there are several.
    pub fn current(sched: &'static Sched) -> Option<Self> {
        let node = sched.parker().member()?.owner().cast::<Timed<Node>>();
        // SAFETY: `enter` has stored what `Arc::as_ptr` returned, and keeps a count of it.
        let node = unsafe {
            Arc::increment_strong_count(node.as_ptr());
            Arc::from_raw(node.as_ptr())
        };
        node.users.fetch_add(1, Ordering::Relaxed);
        Some(RawCancel(node))
    }

    /// One that is cancelled when this one is.
    pub fn child(&self) -> Self {
        self.child_within(None)
    }

    /// One that is cancelled when this one or `outer` is.
    fn child_within(&self, outer: Option<&RawCancel>) -> Self {
        let parents = [Some(self), outer].map(|parent| parent.map(|parent| parent.0.parent()));
        let child = Self::make(self.0.sched, parents);
        for Parent { node, number } in child.0.parents.iter().flatten() {
            let canceller = node.with(|state| {
                let canceller = node.canceller.get().copied();
                if canceller.is_none() {
                    let child = Arc::downgrade(&child.0);
                    while_unparkable(|| state.children.insert(*number, child));
                }
                canceller
            });
            if let Some(by) = canceller {
                child.0.sched.cancel(&child.0, Cause::Parent, by);
            }
        }
        child
    }

    fn make(sched: &'static Sched, parents: [Option<Parent>; 2]) -> Self {
        RawCancel(Timed::new(|_| Node {
            sched,
            users: AtomicUsize::new(1),
            cause: AtomicU8::new(NONE),
            canceller: Once::new(),
            gate: Gate::new(()),
            state: UnsafeCell::new(State {
                members: Members::new(),
                waiters: WaitQueue::new(),
                children: BTreeMap::new(),
                last_child: 0,
            }),
            parents,
        }))
    }

    /// Cancels the members, those of its children and of theirs, and wakes the waiters. Returns
    /// false if it was cancelled before. Dumps and traces name the caller.
    #[track_caller]
    pub fn cancel(&self) -> bool {
        let (by, at) = (self.caller(), Location::caller());
        let by = Canceller::Call { by, at };
        self.0.sched.cancel(&self.0, Cause::Asked, by)
    }

    /// As [`cancel`](Self::cancel), because the calling goroutine has failed.
    pub fn fail(&self) -> bool {
        let by = Canceller::Failure(self.caller());
        self.0.sched.cancel(&self.0, Cause::Asked, by)
    }

    /// The number of the calling goroutine. 0 on an ordinary thread.
    fn caller(&self) -> u64 {
        self.0.sched.current().map_or(0, G::id)
    }

    /// Why it is cancelled, if it is.
    pub fn cause(&self) -> Option<Cause> {
        // Acquire pairs with the Release in `begin`.
        Cause::of(self.0.cause.load(Ordering::Acquire))
    }

    /// Whether it is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cause().is_some()
    }

    /// Cancels it when the monotonic clock shows `when`, or at once if it is later already. An
    /// earlier deadline is forgotten. `None`: no deadline.
    pub fn set_deadline(&self, when: Option<Nanos>) {
        let node = &self.0;
        if when.is_some_and(|when| when <= node.sched.now()) {
            node.sched
                .cancel(node, Cause::Deadline, Canceller::Deadline);
        }
        let moved = node.with(|_| match when {
            Some(when) if !self.is_cancelled() => node.arm(node.sched.timers(), when),
            _ => {
                node.disarm();
                None
            }
        });
        if let Some(heap) = moved {
            node.sched.look_again(heap);
        }
    }

    /// The deadline.
    pub fn deadline(&self) -> Option<Nanos> {
        self.0.due()
    }

    /// Calls `f` with the calling goroutine or thread as a member. It stays a member of what it is
    /// in already: then it is in a child of both.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        match RawCancel::current(self.0.sched) {
            Some(outer) if !outer.0.is_above(&self.0) => match self.0.is_above(&outer.0) {
                true => f(),
                false => self.child_within(Some(&outer)).enter(f),
            },
            _ => self.enter(f),
        }
    }

    fn enter<T>(&self, f: impl FnOnce() -> T) -> T {
        let node = &self.0;
        let owner = NonNull::new(Arc::as_ptr(node).cast_mut()).must("an Arc is null");
        let member = Member::new(&OPERATIONS, owner.cast());
        let _stay = Stay::begin(node, &member);
        node.sched.enter(Some(&member), f)
    }

    /// Waits until it is cancelled.
    ///
    /// # Errors
    ///
    /// If the caller is cancelled first.
    pub fn wait(&self) -> Result<(), Cancelled> {
        let caller = CancelledArm::default();
        let cases = [self.case(), caller.case()];
        match self.0.sched.select(&cases, true, Limit::Never) {
            Some(0) => Ok(()),
            _ => Err(Cancelled),
        }
    }

    /// That it is cancelled, as a case of a [select](Sched::select).
    pub fn case(&self) -> Case<'_> {
        Case::new(&**self.0, OnCancel::Ignore)
    }
}

impl Clone for RawCancel {
    fn clone(&self) -> Self {
        self.0.users.fetch_add(1, Ordering::Relaxed);
        RawCancel(self.0.clone())
    }
}

impl Drop for RawCancel {
    fn drop(&mut self) {
        self.0.lose_user();
    }
}

/// The membership of a goroutine, while it lasts.
struct Stay<'a>(&'a Node, &'a Member);

impl<'a> Stay<'a> {
    fn begin(node: &'a Node, member: &'a Member) -> Self {
        let canceller = node.with(|state| {
            let canceller = node.canceller.get().copied();
            match canceller {
                // SAFETY: the member is new, and stays until `drop`.
                None => unsafe { state.members.push(member) },
                // It has published nothing, so there is no waiter.
                Some(_) => _ = member.cancel(),
            }
            canceller
        });
        if let Some(by) = canceller {
            let mut traced = Vec::new();
            reached::list(node.sched, member, &mut traced);
            node.sched.trace_cancels(traced, by);
        }
        Stay(node, member)
    }
}

impl Drop for Stay<'_> {
    fn drop(&mut self) {
        let Stay(node, member) = self;
        node.with(|state| match member.is_cancelled() {
            // SAFETY: `begin` added it, and only cancelled members were taken out.
            false => unsafe { state.members.remove(member) },
            true => reached::unlist(node.sched, member),
        });
        member.left();
    }
}

impl Node {
    fn with<Q>(&self, f: impl FnOnce(&mut State) -> Q) -> Q {
        let _gate = self.gate.lock();
        // SAFETY: the gate is locked.
        f(unsafe { &mut *self.state.get() })
    }

    /// Whether `other` is this node or is cancelled with it.
    fn is_above(&self, other: &Node) -> bool {
        let mut node = other;
        while !core::ptr::eq(self, node) {
            let [first, second] = &node.parents;
            if second
                .as_ref()
                .is_some_and(|second| self.is_above(&second.node))
            {
                return true;
            }
            let Some(first) = first else { return false };
            node = &first.node;
        }
        true
    }

    /// Sets the cause and the canceller. Returns the children, or `None` if there was a cause.
    fn begin(&self, cause: Cause, by: Canceller) -> Option<Children> {
        self.with(|state| {
            if self.cause.load(Ordering::Relaxed) != NONE {
                return None;
            }
            self.canceller.call_once(|| by);
            self.cause.store(cause.number(), Ordering::Release);
            Some(core::mem::take(&mut state.children))
        })
    }

    /// Cancels some members and waiters. Returns whether there may be more. Adds the goroutines
    /// that a trace is to show to `traced`.
    fn cancel_batch(&self, woken: &mut WaiterList, traced: &mut Vec<Identity>) -> bool {
        self.with(|state| {
            for _ in 0..BATCH {
                if let Some(member) = state.members.pop() {
                    woken.extend(member.cancel());
                    reached::list(self.sched, member, traced);
                } else if let Some(chosen) = state.waiters.pop() {
                    woken.extend(chosen.waiter);
                } else {
                    return false;
                }
            }
            true
        })
    }
}

impl Timed<Node> {
    /// Makes it the parent of a node, which counts as a user.
    fn parent(self: &Arc<Self>) -> Parent {
        self.users.fetch_add(1, Ordering::Relaxed);
        let number = self.with(|state| {
            state.last_child += 1;
            state.last_child
        });
        Parent {
            node: self.clone(),
            number,
        }
    }

    fn lose_user(self: &Arc<Self>) {
        // AcqRel: what the others have done comes before the disarming.
        if self.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.disarm();
        }
    }
}

impl Drop for Node {
    /// The nodes of a chain are dropped in a loop, which needs no more stack for a long one.
    fn drop(&mut self) {
        let [mut next, second] = core::mem::take(&mut self.parents);
        let mut rest = Vec::from_iter(second);
        while let Some(Parent { node, number }) = next.take().or_else(|| rest.pop()) {
            let child = while_unparkable(|| node.with(|state| state.children.remove(&number)));
            drop(child);
            node.lose_user();
            if let Some(mut node) = Arc::into_inner(node) {
                let [first, second] = core::mem::take(&mut node.parents);
                next = first;
                rest.extend(second);
            }
        }
    }
}

impl Sched {
    fn cancel(&'static self, node: &Shared, cause: Cause, by: Canceller) -> bool {
        cancel(node, cause, by, |woken| self.ready_list(woken))
    }
}

/// Cancels `first` and its descendants. `ready` gets the waiters of each batch.
fn cancel(first: &Shared, cause: Cause, by: Canceller, mut ready: impl FnMut(WaiterList)) -> bool {
    let Some(children) = first.begin(cause, by) else {
        return false;
    };
    let mut reached = Vec::from_iter([(first.clone(), children)]);
    while let Some((node, children)) = reached.pop() {
        for child in children.into_values().filter_map(|child| child.upgrade()) {
            if let Some(children) = child.begin(Cause::Parent, by) {
                reached.push((child, children));
            }
        }
        loop {
            let (mut woken, mut traced) = (WaiterList::new(), Vec::new());
            let more = while_unparkable(|| node.cancel_batch(&mut woken, &mut traced));
            node.sched.trace_cancels(traced, by);
            ready(woken);
            if !more {
                break;
            }
        }
    }
    true
}

impl OnTime for Node {
    fn on_time(this: &Arc<Timed<Self>>, arming: u32, woken: &mut WaiterList) {
        if this.claim(arming).is_some() {
            cancel(this, Cause::Deadline, Canceller::Deadline, |mut batch| {
                while let Some(waiter) = batch.pop() {
                    woken.push(waiter);
                }
            });
        }
    }
}

impl Arm for Node {
    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn packet(&self) -> NonNull<()> {
        NonNull::dangling()
    }

    unsafe fn attempt(&self) -> Attempt {
        match self.cause.load(Ordering::Relaxed) {
            NONE => Attempt::Blocked,
            _ => Attempt::Done(None),
        }
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

impl Sched {
    /// Runs `f` so that no cancel that the caller is a member of ends its waits.
    pub fn shield<T>(&'static self, f: impl FnOnce() -> T) -> T {
        self.enter(None, f)
    }

    /// Fails if the caller is cancelled.
    ///
    /// # Errors
    ///
    /// If it is.
    pub fn check(&'static self) -> Result<(), Cancelled> {
        self.check_cancelled()
    }
}

#[cfg(any(test, fuzzing))]
#[path = "../fuzz/cancel.rs"]
pub(crate) mod fuzz;

#[cfg(all(test, loom))]
#[path = "../models/cancel.rs"]
mod models;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::fuzz::base::{FuzzOs, sched};

    /// The clock shows `now`, and timers that are due fire.
    fn pass(now: Nanos) {
        FuzzOs::set_now(now);
        let mut woken = WaiterList::new();
        sched().timers().run(now, &mut woken);
        assert!(woken.is_empty());
    }

    #[test]
    fn a_deadline_cancels_once_the_clock_shows_it() {
        let cancel = RawCancel::new(sched());
        let child = cancel.child();
        cancel.set_deadline(Some(200));
        cancel.set_deadline(Some(100));
        assert_eq!(cancel.deadline(), Some(100));
        pass(99);
        assert_eq!(cancel.cause(), None);
        pass(100);
        assert_eq!(cancel.cause(), Some(Cause::Deadline));
        assert_eq!(child.cause(), Some(Cause::Parent));
        assert!(!cancel.cancel() && cancel.deadline().is_none());
        // One that has passed already.
        child.set_deadline(Some(1));
        let late = RawCancel::new(sched());
        late.set_deadline(Some(50));
        assert_eq!(late.cause(), Some(Cause::Deadline));
        assert!(sched().timers().is_empty());
        FuzzOs::set_now(1);
    }

    #[test]
    fn the_last_user_takes_the_deadline_with_it() {
        let cancel = RawCancel::new(sched());
        let node = Arc::downgrade(&cancel.0);
        cancel.set_deadline(Some(1 << 40));
        let (clone, child) = (cancel.clone(), cancel.child());
        drop(cancel);
        drop(clone);
        assert!(!sched().timers().is_empty());
        drop(child);
        assert!(sched().timers().is_empty() && node.upgrade().is_none());
        let cancel = RawCancel::new(sched());
        cancel.set_deadline(Some(1 << 40));
        cancel.set_deadline(None);
        assert!(sched().timers().is_empty());
    }

    #[test]
    fn children_that_were_dropped_are_forgotten() {
        let cancel = RawCancel::new(sched());
        let kept = cancel.child();
        for _ in 0..10 {
            drop(cancel.child());
        }
        assert_eq!(cancel.0.with(|state| state.children.len()), 1);
        assert!(cancel.cancel() && kept.is_cancelled());
        assert_eq!(cancel.0.with(|state| state.children.len()), 0);
    }
}
