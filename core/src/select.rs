//! Select: waits for the first of several events, and lets exactly one of them happen.
//!
//! Each event is an `Arm`: an operation on an object that has a lock, its *gate*. The select
//! locks the gates of all arms, in the order of their addresses, so it sees all objects at one
//! moment. If an operation is possible, it is done and the others are not touched. Otherwise each
//! object gets a node of the waiter, before any gate is unlocked: no event is lost in between. Then
//! one event decides the waiter's `Choice`, and the waiter removes its other nodes.
//!
//! A descriptor's readiness is known to the system only, which cannot be asked under a lock. Such
//! an arm *looks* before the attempts, and once more after its node was queued. An event between
//! the two looks is found by the second one, a later event finds the node.
//!
//! A queued node never meets another node of the same select: operations pair with nodes of others
//! before the select queues its own.
#![allow(unsafe_code, reason = "nodes are queued by address")]

mod cancelled;

pub use cancelled::CancelledArm;
pub(crate) use cancelled::OnCancel;

use crate::choice::{Choice, Decided, Outcome, WaitNode};
use crate::os::Nanos;
use crate::sched::Sched;
use crate::sync::{Cell, Guard, Lock, Ordering, unmodeled};
use crate::wait_info::Wait;
use alloc::vec::Vec;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// The lock of an object that can be selected on. What it protects lies beside it.
pub(crate) type Gate = Lock<()>;

/// What [`Arm::attempt`] found.
pub(crate) enum Attempt {
    /// The operation is done. The waiter must be readied after the gate is unlocked.
    Done(Decided),
    /// It would have to wait.
    Blocked,
    /// [`Arm::prepare`] must be called first.
    Unprepared,
}

/// One operation of a select.
pub(crate) trait Arm {
    /// The lock of the object.
    fn gate(&self) -> &Gate;

    /// What a queued node carries.
    fn packet(&self) -> NonNull<()>;

    /// Does the operation if it need not wait.
    ///
    /// # Safety
    ///
    /// The caller has locked the gate.
    unsafe fn attempt(&self) -> Attempt;

    /// Gets ready for an attempt. Called without locks.
    fn prepare(&self) {}

    /// Looks for an event that no lock protects: the system knows it. Called without locks before
    /// the attempts, so that [`attempt`](Self::attempt) can use what it found, and again after
    /// `enqueue`. Returns whether the event is there.
    fn look(&self) -> bool {
        false
    }

    /// Whether the event is gone although it has decided the wait. The select then starts over.
    fn is_spurious(&self) -> bool {
        false
    }

    /// When the event comes at the latest, on the monotonic clock. `None`: no clock knows.
    fn due(&self) -> Option<Nanos> {
        None
    }

    /// Queues a node.
    ///
    /// # Safety
    ///
    /// The caller has locked the gate. As for [`WaitQueue::push`](crate::choice::WaitQueue::push).
    unsafe fn enqueue(&self, node: &WaitNode);

    /// Removes a node, if it is queued.
    ///
    /// # Safety
    ///
    /// The caller has locked the gate. The node was queued by `enqueue` of the same arm, or never.
    unsafe fn dequeue(&self, node: &WaitNode);
}

/// One case of a [`Sched::select`].
#[derive(Clone, Copy)]
pub struct Case<'a> {
    arm: &'a dyn Arm,
    gate: &'a Gate,
    on_cancel: OnCancel,
}

impl<'a> Case<'a> {
    #[inline]
    pub(crate) fn new(arm: &'a impl Arm, on_cancel: OnCancel) -> Self {
        Case {
            arm,
            gate: arm.gate(),
            on_cancel,
        }
    }
}

/// A time as a case of a select: it happens once the monotonic clock shows it.
pub struct TimeArm {
    sched: &'static Sched,
    when: Nanos,
    gate: Gate,
    /// What the last look found.
    has_come: Cell<bool>,
}

impl TimeArm {
    /// The time `when`, more than 0.
    pub fn new(sched: &'static Sched, when: Nanos) -> Self {
        TimeArm {
            sched,
            when,
            gate: Gate::new(()),
            has_come: Cell::new(false),
        }
    }

    /// The case for the select.
    pub fn case(&self) -> Case<'_> {
        Case::new(self, OnCancel::Ignore)
    }
}

impl Arm for TimeArm {
    fn gate(&self) -> &Gate {
        &self.gate
    }

    fn packet(&self) -> NonNull<()> {
        NonNull::dangling()
    }

    unsafe fn attempt(&self) -> Attempt {
        match self.has_come.get() {
            true => Attempt::Done(None),
            false => Attempt::Blocked,
        }
    }

    fn look(&self) -> bool {
        self.has_come.set(self.sched.now() >= self.when);
        self.has_come.get()
    }

    fn due(&self) -> Option<Nanos> {
        Some(self.when)
    }

    // The limit of the wait is the event: no other thread knows of it.
    unsafe fn enqueue(&self, _: &WaitNode) {}
    unsafe fn dequeue(&self, _: &WaitNode) {}
}

/// How long a select waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// Not at all.
    Now,
    /// Until the monotonic clock shows this.
    At(Nanos),
    /// Until an event comes.
    Never,
}

/// So many cases need no allocation.
const INLINE: usize = 8;

/// What a select keeps for its cases.
struct Seats<'s, 'a> {
    cases: &'s [Case<'a>],
    guards: &'s mut [Option<Guard<'a, ()>>],
    /// Written by `enqueue`, when the select has to wait.
    nodes: &'s mut [MaybeUninit<WaitNode>],
    /// The indices of the cases, in the order in which they are tried.
    turns: &'s mut [usize],
    /// The same, in the order in which their gates are locked.
    ranks: &'s mut [usize],
}

impl Sched {
    /// Waits for the first of `cases`. Returns its index, or `None` at the limit. If several are
    /// possible, it takes one at random, or the first in the order of `cases` if `biased`.
    ///
    /// A case without an event is left as it was. Without cases it waits for the limit. If the
    /// caller is cancelled, it takes a [`CancelledArm`], or else the first case that can fail.
    #[doc(alias = "selectgo")]
    pub fn select(&'static self, cases: &[Case<'_>], biased: bool, limit: Limit) -> Option<usize> {
        const INDICES: [usize; INLINE] = {
            let mut indices = [0; INLINE];
            let mut index = 0;
            while index < INLINE {
                indices[index] = index;
                index += 1;
            }
            indices
        };
        let count = cases.len();
        if count <= INLINE {
            let seats = Seats {
                cases,
                guards: &mut [const { None }; INLINE][..count],
                nodes: &mut [const { MaybeUninit::uninit() }; INLINE][..count],
                turns: &mut { INDICES }[..count],
                ranks: &mut { INDICES }[..count],
            };
            self.select_among(seats, biased, limit)
        } else {
            let mut turns: Vec<_> = (0..count).collect();
            let seats = Seats {
                cases,
                guards: &mut (0..count).map(|_| None).collect::<Vec<_>>(),
                nodes: &mut (0..count)
                    .map(|_| MaybeUninit::uninit())
                    .collect::<Vec<_>>(),
                ranks: &mut turns.clone(),
                turns: &mut turns,
            };
            self.select_among(seats, biased, limit)
        }
    }

    fn select_among(
        &'static self,
        mut seats: Seats<'_, '_>,
        biased: bool,
        limit: Limit,
    ) -> Option<usize> {
        seats.rank();
        loop {
            if let Some(index) = self.cancelled_case(&seats, limit) {
                return Some(index);
            }
            if !biased {
                shuffle(seats.turns, &self.picks);
            }
            let picked = self.select_once(&mut seats, limit);
            if picked.is_none_or(|index| !seats.cases[index].arm.is_spurious()) {
                return picked;
            }
        }
    }

    #[inline]
    fn select_once(&'static self, seats: &mut Seats<'_, '_>, limit: Limit) -> Option<usize> {
        for case in seats.cases {
            case.arm.look();
        }
        let done = loop {
            seats.lock();
            match seats.attempt() {
                Found::Done(index, waiter) => break Some((index, waiter)),
                Found::Unprepared(index) => {
                    seats.unlock();
                    seats.cases[index].arm.prepare();
                }
                Found::Blocked if limit == Limit::Now => break None,
                Found::Blocked => return self.await_event(seats, limit),
            }
        };
        seats.unlock();
        let index = done.map(|(index, waiter)| {
            if let Some(waiter) = waiter {
                self.ready(waiter);
            }
            index
        });
        // Also if nothing was there, so that a loop that polls lets its neighbours run.
        self.spend(1);
        index
    }

    /// Queues the nodes, unlocks the gates and waits.
    fn await_event(&'static self, seats: &mut Seats<'_, '_>, limit: Limit) -> Option<usize> {
        // Nothing may unwind while nodes are queued.
        self.forbid_block_in_fork();
        let choice = Choice::new();
        seats.enqueue(&choice);
        seats.unlock();
        seats.look_again(&choice);
        let (until, first) = seats.limit(limit);
        let wait = Wait::Select.encode();
        let on_cancel = self.parker().member().and_then(|_| seats.on_cancel(limit));
        let ended = match on_cancel {
            Some(_) => self.wait_or_cancel(&choice, until, wait),
            None => self.wait_until(&choice, until, wait),
        };
        for (index, (case, node)) in seats.cases.iter().zip(&*seats.nodes).enumerate() {
            // A waiter that was parked runs after its partner has unlocked.
            if ended.parked && ended.outcome == Outcome::Arm(index as u32) {
                continue;
            }
            let _gate = case.gate.lock();
            // SAFETY: the gate is locked, and the same arm queued the node that `enqueue` wrote.
            unsafe { case.arm.dequeue(node.assume_init_ref()) };
        }
        if !ended.parked {
            self.spend(1);
        }
        match ended.outcome {
            Outcome::Arm(index) => Some(index as usize),
            Outcome::Expired => first,
            Outcome::Withdrawn => on_cancel,
        }
    }
}

impl Seats<'_, '_> {
    /// Sets the order of locking.
    fn rank(&mut self) {
        let Seats { cases, ranks, .. } = self;
        ranks.sort_unstable_by_key(|&index| cases[index].gate.place());
    }

    /// When the wait ends at the latest: at `limit`, or when the case comes that is also returned.
    fn limit(&self, limit: Limit) -> (Option<Nanos>, Option<usize>) {
        let mut first = match limit {
            Limit::At(when) => (Some(when), None),
            Limit::Now | Limit::Never => (None, None),
        };
        for (index, case) in self.cases.iter().enumerate() {
            let due = case.arm.due();
            if due.is_some_and(|due| first.0.is_none_or(|until| due < until)) {
                first = (due, Some(index));
            }
        }
        first
    }

    fn lock(&mut self) {
        let mut last = None;
        for (&index, guard) in self.ranks.iter().zip(&mut *self.guards) {
            let gate = self.cases[index].gate;
            // Two cases may have one gate.
            if last != Some(core::ptr::from_ref(gate)) {
                last = Some(gate);
                *guard = Some(gate.lock());
            }
        }
    }

    fn unlock(&mut self) {
        self.guards.iter_mut().for_each(|guard| *guard = None);
    }

    fn attempt(&self) -> Found {
        for &index in &*self.turns {
            // SAFETY: all gates are locked.
            match unsafe { self.cases[index].arm.attempt() } {
                Attempt::Done(waiter) => return Found::Done(index, waiter),
                Attempt::Unprepared => return Found::Unprepared(index),
                Attempt::Blocked => {}
            }
        }
        Found::Blocked
    }

    fn enqueue(&mut self, choice: &Choice) {
        for (index, (case, node)) in self.cases.iter().zip(&mut *self.nodes).enumerate() {
            let node = &*node.write(WaitNode::new(choice, index as u32, case.arm.packet()));
            // SAFETY: all gates are locked. `await_event` removes the nodes before they and the
            // choice go, and each arm outlives the select.
            unsafe { case.arm.enqueue(node) };
        }
    }

    /// Decides the choice if an event came before its node was queued.
    fn look_again(&self, choice: &Choice) {
        let came = self
            .turns
            .iter()
            .find(|&&index| self.cases[index].arm.look());
        if let Some(&index) = came {
            // The waiter still runs, so there is none to wake.
            _ = choice.decide(Outcome::Arm(index as u32));
        }
    }
}

enum Found {
    Done(usize, Decided),
    Unprepared(usize),
    Blocked,
}

/// Sets a random order of attempts.
fn shuffle(turns: &mut [usize], sequence: &unmodeled::AtomicU32) {
    for end in (1..turns.len()).rev() {
        turns.swap(end, random(sequence, end as u32 + 1) as usize);
    }
}

/// A number below `n`, by a shared sequence of Weyl, mixed. Threads that lose an update get the
/// same number, which is random all the same.
fn random(sequence: &unmodeled::AtomicU32, n: u32) -> u32 {
    let weyl = sequence.load(Ordering::Relaxed).wrapping_add(0x9e37_79b9);
    sequence.store(weyl, Ordering::Relaxed);
    let mixed = (weyl ^ (weyl >> 16)).wrapping_mul(0x85eb_ca6b);
    let mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35);
    ((u64::from(mixed ^ (mixed >> 16)) * u64::from(n)) >> 32) as u32
}

#[cfg(all(test, loom))]
#[path = "../models/select.rs"]
mod models;
