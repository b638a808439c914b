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

use crate::choice::{Choice, Decided, Outcome, WaitNode};
use crate::os::Nanos;
use crate::sched::Sched;
use crate::sync::{Guard, Lock, Ordering, unmodeled};
use crate::wait_info::Wait;
use alloc::vec::Vec;
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
pub struct Case<'a>(pub(crate) &'a dyn Arm);

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

/// What a select keeps for one case while it waits.
struct Seat<'a> {
    case: Case<'a>,
    guard: Option<Guard<'a, ()>>,
    node: Option<WaitNode>,
    /// The index of the case that is tried at this turn.
    turn: usize,
    /// The index of the case that is locked at this turn.
    rank: usize,
}

impl Sched {
    /// Waits for the first of `cases`. Returns its index, or `None` at the limit. If several are
    /// possible, it takes one at random, or the first in the order of `cases` if `biased`.
    ///
    /// A case without an event is left as it was. Without cases it waits for the limit.
    #[doc(alias = "selectgo")]
    pub fn select(&'static self, cases: &[Case<'_>], biased: bool, limit: Limit) -> Option<usize> {
        let seat = |index| Seat {
            case: cases[index],
            guard: None,
            node: None,
            turn: index,
            rank: index,
        };
        if cases.len() <= INLINE {
            let mut seats: heapless::Vec<Seat<'_>, INLINE> = (0..cases.len()).map(seat).collect();
            self.select_among(&mut seats, biased, limit)
        } else {
            let mut seats: Vec<Seat<'_>> = (0..cases.len()).map(seat).collect();
            self.select_among(&mut seats, biased, limit)
        }
    }

    fn select_among(
        &'static self,
        seats: &mut [Seat<'_>],
        biased: bool,
        limit: Limit,
    ) -> Option<usize> {
        rank(seats);
        loop {
            if !biased {
                shuffle(seats);
            }
            let picked = self.select_once(seats, limit);
            if picked.is_none_or(|index| !seats[index].case.0.is_spurious()) {
                return picked;
            }
        }
    }

    fn select_once(&'static self, seats: &mut [Seat<'_>], limit: Limit) -> Option<usize> {
        let choice = Choice::new();
        for seat in seats.iter() {
            seat.case.0.look();
        }
        let done = loop {
            lock(seats);
            match attempt(seats) {
                Found::Done(index, waiter) => break Some((index, waiter)),
                Found::Unprepared(index) => {
                    unlock(seats);
                    seats[index].case.0.prepare();
                }
                Found::Blocked if limit == Limit::Now => break None,
                Found::Blocked => {
                    enqueue(seats, &choice);
                    unlock(seats);
                    look_again(seats, &choice);
                    return self.await_event(seats, &choice, limit);
                }
            }
        };
        unlock(seats);
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

    fn await_event(
        &'static self,
        seats: &[Seat<'_>],
        choice: &Choice,
        limit: Limit,
    ) -> Option<usize> {
        let until = match limit {
            Limit::At(when) => Some(when),
            Limit::Now | Limit::Never => None,
        };
        let ended = self.wait_until(choice, until, Wait::Select.encode());
        for (index, seat) in seats.iter().enumerate() {
            // A waiter that was parked runs after its partner has unlocked.
            if ended.parked && ended.outcome == Outcome::Arm(index as u32) {
                continue;
            }
            if let Some(node) = &seat.node {
                let _gate = seat.case.0.gate().lock();
                // SAFETY: the gate is locked, and the same arm queued the node.
                unsafe { seat.case.0.dequeue(node) };
            }
        }
        if !ended.parked {
            self.spend(1);
        }
        match ended.outcome {
            Outcome::Arm(index) => Some(index as usize),
            Outcome::Expired | Outcome::Withdrawn => None,
        }
    }
}

/// Sets the order of locking: by address.
fn rank(seats: &mut [Seat<'_>]) {
    for end in 1..seats.len() {
        let moving = seats[end].rank;
        let mut at = end;
        while at > 0 && address(seats, seats[at - 1].rank) > address(seats, moving) {
            seats[at].rank = seats[at - 1].rank;
            at -= 1;
        }
        seats[at].rank = moving;
    }
}

fn address(seats: &[Seat<'_>], index: usize) -> *const Gate {
    seats[index].case.0.gate()
}

/// Sets a random order of attempts.
fn shuffle(seats: &mut [Seat<'_>]) {
    for end in (1..seats.len()).rev() {
        let other = random(end as u32 + 1) as usize;
        let turn = seats[end].turn;
        seats[end].turn = core::mem::replace(&mut seats[other].turn, turn);
    }
}

/// A number below `n`, by a shared sequence of Weyl, mixed. Threads that lose an update get the
/// same number, which is random all the same.
fn random(n: u32) -> u32 {
    static SEQUENCE: unmodeled::AtomicU32 = unmodeled::AtomicU32::new(0);
    let weyl = SEQUENCE.load(Ordering::Relaxed).wrapping_add(0x9e37_79b9);
    SEQUENCE.store(weyl, Ordering::Relaxed);
    let mixed = (weyl ^ (weyl >> 16)).wrapping_mul(0x85eb_ca6b);
    let mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35);
    ((u64::from(mixed ^ (mixed >> 16)) * u64::from(n)) >> 32) as u32
}

fn lock(seats: &mut [Seat<'_>]) {
    let mut last = None;
    for turn in 0..seats.len() {
        let index = seats[turn].rank;
        let gate = seats[index].case.0.gate();
        // Two cases may have one gate.
        if last != Some(core::ptr::from_ref(gate)) {
            last = Some(gate);
            seats[index].guard = Some(gate.lock());
        }
    }
}

fn unlock(seats: &mut [Seat<'_>]) {
    for seat in seats {
        seat.guard = None;
    }
}

enum Found {
    Done(usize, Decided),
    Unprepared(usize),
    Blocked,
}

fn attempt(seats: &[Seat<'_>]) -> Found {
    for seat in seats {
        // SAFETY: all gates are locked.
        match unsafe { seats[seat.turn].case.0.attempt() } {
            Attempt::Done(waiter) => return Found::Done(seat.turn, waiter),
            Attempt::Unprepared => return Found::Unprepared(seat.turn),
            Attempt::Blocked => {}
        }
    }
    Found::Blocked
}

/// Decides the choice if an event came before its node was queued.
fn look_again(seats: &[Seat<'_>], choice: &Choice) {
    for seat in seats {
        if seats[seat.turn].case.0.look() {
            // The waiter still runs, so there is none to wake.
            _ = choice.decide(Outcome::Arm(seat.turn as u32));
            return;
        }
    }
}

fn enqueue(seats: &mut [Seat<'_>], choice: &Choice) {
    for (index, seat) in seats.iter_mut().enumerate() {
        let arm = seat.case.0;
        let node = &*seat
            .node
            .insert(WaitNode::new(choice, index as u32, arm.packet()));
        // SAFETY: all gates are locked. `await_event` removes the nodes before they and the choice
        // go, and each arm outlives the select.
        unsafe { arm.enqueue(node) };
    }
}

#[cfg(all(test, loom))]
#[path = "../models/select.rs"]
mod models;
