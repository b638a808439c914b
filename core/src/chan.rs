//! Channels: Go's, with one short lock each.
//!
//! A value goes straight from the sender's stack to that of a waiting receiver, or into the buffer,
//! or stays on the stack of a sender that waits for room. So at most one of the buffer's values and
//! the receivers' queue is not empty:
//!
//! | state | buffer | senders wait | receivers wait |
//! |---|---|---|---|
//! | idle | empty | no | no |
//! | starved | empty | no | yes |
//! | filled | some | no | no |
//! | full (a rendezvous is always empty and full) | `capacity` | yes | no |
//! | closed | drained by receives | no new ones | no new ones |
//!
//! The rule: an operation that finds a partner does both sides' work under the lock, and readies
//! the partner after it. Nodes of partners that have lost (a timeout, another arm of a `select!`)
//! are skipped, and their values untouched: see `choice`.
//!
//! Values move by copies of their bytes. No code of theirs runs under the lock, and neither does
//! the allocator.
#![allow(unsafe_code, reason = "values move from stack to stack")]

mod arms;
mod buffer;
mod delivery;
mod handles;

pub use arms::{RecvArm, SendArm};
pub(crate) use delivery::Delivery;
pub use handles::{
    Receiver, RecvError, RecvTimeoutError, SendError, SendTimeoutError, Sender, TryRecvError,
    TrySendError, bounded, never, unbounded,
};

use crate::choice::{Choice, Decided, End, Outcome, WaitNode, WaitQueue};
use crate::must::Must;
use crate::os::Nanos;
use crate::runtime::Runtime;
use crate::sched::Sched;
use crate::select::Gate;
use crate::sync::{Cell, Guard, Owned, UnsafeCell};
use crate::wait_info::Wait;
use crate::waiter::WaiterList;
use alloc::sync::Arc;
use buffer::{Blocks, Buffer, NeedsBlock};
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// One in this many operations that do not wait takes [`COST`] from the turn of its goroutine.
const OPERATIONS: u32 = 32;
/// An operation on a channel costs an eighth of one on a socket.
const COST: u32 = 4;

/// How many waiters a close wakes between two acquisitions of the lock.
const WAKE_BATCH: usize = if cfg!(loom) { 1 } else { 32 };

/// A value on its way, on the stack of its sender or receiver.
///
/// While a node that refers to it is queued, it belongs to the holder of the channel's lock.
struct Packet<T> {
    value: UnsafeCell<MaybeUninit<T>>,
    full: Cell<bool>,
    owned: Owned,
}

impl<T> Packet<T> {
    fn empty() -> Self {
        Packet {
            value: UnsafeCell::new(MaybeUninit::uninit()),
            full: Cell::new(false),
            owned: Owned::new(),
        }
    }

    fn full(value: T) -> Self {
        Packet {
            value: UnsafeCell::new(MaybeUninit::new(value)),
            full: Cell::new(true),
            owned: Owned::new(),
        }
    }

    fn place(&self) -> NonNull<T> {
        self.owned.touch();
        NonNull::from(&self.value).cast()
    }

    /// Takes the value out, if there is one.
    fn take(&self) -> Option<T> {
        // SAFETY: the packet is full, and no longer is.
        self.full
            .replace(false)
            .then(|| unsafe { self.place().read() })
    }

    /// Moves the value to `to`, which is empty.
    ///
    /// # Safety
    ///
    /// This packet is full, and `to` has room for a value.
    unsafe fn move_to(&self, to: NonNull<T>) {
        debug_assert!(self.full.get());
        self.full.set(false);
        // SAFETY: the caller's promise.
        unsafe { to.copy_from_nonoverlapping(self.place(), 1) };
    }

    /// Fills the packet with the value at `from`, which is then empty.
    ///
    /// # Safety
    ///
    /// This packet is empty, and there is a value at `from`.
    unsafe fn move_from(&self, from: NonNull<T>) {
        debug_assert!(!self.full.get());
        // SAFETY: the caller's promise.
        unsafe { self.place().copy_from_nonoverlapping(from, 1) };
        self.full.set(true);
    }
}

impl<T> Drop for Packet<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// What sends into a channel and is no handle: a timer.
pub(crate) trait Source: Send + Sync {
    /// The last receiver was dropped.
    fn no_receiver(self: Arc<Self>);
}

/// The direction of an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Send,
    Receive,
}

/// How long an operation waits.
#[derive(Clone, Copy)]
enum Patience<I> {
    None,
    Until(I),
    Endless,
}

impl<I> Patience<I> {
    #[inline(always)]
    fn can_wait(&self) -> bool {
        !matches!(self, Patience::None)
    }
}

/// The scheduler of an operation that has to wait, and how long it waits.
type WaitLimit = (&'static Sched, Option<Nanos>);

/// Why an operation did nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Failure {
    Closed,
    WouldBlock,
    Timeout,
    Cancelled,
}

/// What an operation found under the lock.
enum Step {
    /// It is done. The partner must be readied after the lock is released.
    Done(Decided),
    Closed,
    /// It would have to wait.
    Blocked,
    NeedsBlock,
}

/// A channel without handles.
struct Channel<T, R> {
    gate: Gate,
    /// Protected by `gate`.
    state: UnsafeCell<State<T>>,
    /// `usize::MAX` if there is no bound.
    capacity: usize,
    runtime: R,
}

// SAFETY: values change threads, and are never shared. The gate protects the state.
unsafe impl<T: Send, R: Send> Send for Channel<T, R> {}
// SAFETY: as above.
unsafe impl<T: Send, R: Sync> Sync for Channel<T, R> {}

struct State<T> {
    buffer: Buffer<T>,
    senders: WaitQueue,
    receivers: WaitQueue,
    closed: bool,
    /// Operations that did not wait.
    operations: u32,
}

/// # Safety
///
/// `packet` is that of a live node of a channel of `T`, and the channel is locked.
unsafe fn packet_of<'a, T>(packet: NonNull<()>) -> &'a Packet<T> {
    // SAFETY: the caller's promise.
    unsafe { packet.cast::<Packet<T>>().as_ref() }
}

impl<T> State<T> {
    /// Sends the value of `packet`, if that needs no wait.
    #[inline(always)]
    fn send(&mut self, capacity: usize, packet: &Packet<T>, blocks: &mut Blocks<T>) -> Step {
        if self.closed {
            return Step::Closed;
        }
        if let Some(receiver) = self.receivers.pop() {
            // SAFETY: the receiver's packet is empty, and this one full.
            unsafe { packet_of::<T>(receiver.packet).move_from(packet.place()) };
            packet.full.set(false);
            return Step::Done(receiver.waiter);
        }
        if self.buffer.len() >= capacity {
            return Step::Blocked;
        }
        match self.buffer.push(&mut blocks.offered) {
            Ok(place) => {
                // SAFETY: the packet is full, and the place is for a value.
                unsafe { packet.move_to(place) };
                Step::Done(None)
            }
            Err(NeedsBlock) => Step::NeedsBlock,
        }
    }

    /// Receives into `packet`, if that needs no wait. The value of the first sender that waits
    /// moves to the room in the buffer.
    #[inline(always)]
    fn receive(&mut self, packet: &Packet<T>, blocks: &mut Blocks<T>) -> Step {
        if !self.senders.is_empty()
            && self.buffer.len() > 0
            && !self.buffer.has_room_after_pop()
            && blocks.offered.is_none()
        {
            return Step::NeedsBlock;
        }
        let from_buffer = self.buffer.pop(&mut blocks.freed);
        if let Some(place) = from_buffer {
            // SAFETY: there is a value, and the packet is empty.
            unsafe { packet.move_from(place) };
        }
        if let Some(sender) = self.senders.pop() {
            // SAFETY: the packet of a sender that waits is full.
            let value = unsafe { packet_of::<T>(sender.packet) };
            let place = match from_buffer {
                Some(_) => self.buffer.push(&mut blocks.offered),
                None => Ok(packet.place()),
            };
            let place = place
                .ok()
                .must("a receive has left no room for a sender's value");
            // SAFETY: the place is for a value.
            unsafe { value.move_to(place) };
            packet.full.set(true);
            return Step::Done(sender.waiter);
        }
        match from_buffer {
            Some(_) => Step::Done(None),
            None if self.closed => Step::Closed,
            None => Step::Blocked,
        }
    }

    fn queue(&mut self, direction: Direction) -> &mut WaitQueue {
        match direction {
            Direction::Send => &mut self.senders,
            Direction::Receive => &mut self.receivers,
        }
    }
}

impl<T, R: Runtime> Channel<T, R> {
    fn new(capacity: usize, runtime: R) -> Self {
        Channel {
            gate: Gate::new(()),
            state: UnsafeCell::new(State {
                buffer: Buffer::new(capacity),
                senders: WaitQueue::new(),
                receivers: WaitQueue::new(),
                closed: false,
                operations: 0,
            }),
            capacity,
            runtime,
        }
    }

    /// Calls `f` under the lock.
    #[inline]
    fn with<Q>(&self, f: impl FnOnce(&mut State<T>) -> Q) -> Q {
        let _gate = self.gate.lock();
        // SAFETY: the gate is locked.
        f(unsafe { &mut *self.state.get() })
    }

    /// Tries once.
    ///
    /// # Safety
    ///
    /// The caller has locked the gate.
    #[inline(always)]
    unsafe fn step(
        &self,
        direction: Direction,
        packet: &Packet<T>,
        blocks: &mut Blocks<T>,
    ) -> Step {
        // SAFETY: the gate is locked.
        let state = unsafe { &mut *self.state.get() };
        match direction {
            Direction::Send => state.send(self.capacity, packet, blocks),
            Direction::Receive => state.receive(packet, blocks),
        }
    }

    /// Sends a value, if there is room in the buffer and no receiver waits. Otherwise returns it,
    /// for [`operate`](Self::operate).
    #[inline]
    fn send_to_buffer(&self, value: T) -> Result<(), (T, Guard<'_, ()>)> {
        let gate = self.gate.lock();
        // SAFETY: the gate is locked.
        let state = unsafe { &mut *self.state.get() };
        if state.closed || !state.receivers.is_empty() || state.buffer.len() >= self.capacity {
            return Err((value, gate));
        }
        let Some(place) = state.buffer.push_in_block() else {
            return Err((value, gate));
        };
        // SAFETY: the place is for a value.
        unsafe { place.write(value) };
        self.leave(gate, None);
        Ok(())
    }

    /// Receives a value, if there is one in the buffer and no sender waits.
    #[inline]
    fn receive_from_buffer(&self) -> Result<T, Guard<'_, ()>> {
        let gate = self.gate.lock();
        // SAFETY: the gate is locked.
        let state = unsafe { &mut *self.state.get() };
        if !state.senders.is_empty() {
            return Err(gate);
        }
        let Some(place) = state.buffer.pop_in_block() else {
            return Err(gate);
        };
        // SAFETY: there is a value, which has left the buffer.
        let value = unsafe { place.read() };
        self.leave(gate, None);
        Ok(value)
    }

    /// Sends or receives the value of `packet`. The caller has locked the gate.
    ///
    /// Never inlined: most operations of a channel with a buffer end before it.
    #[inline(never)]
    fn operate<'a>(
        &'a self,
        mut gate: Guard<'a, ()>,
        direction: Direction,
        packet: &Packet<T>,
        patience: Patience<R::Instant>,
    ) -> Result<(), Failure> {
        let mut blocks = Blocks::new();
        let mut wait = None;
        loop {
            // SAFETY: the gate is locked.
            let failure = match unsafe { self.step(direction, packet, &mut blocks) } {
                Step::Done(partner) => {
                    self.leave(gate, partner);
                    blocks.free();
                    return Ok(());
                }
                Step::NeedsBlock => {
                    drop(gate);
                    blocks.prepare(self.capacity);
                    gate = self.gate.lock();
                    continue;
                }
                Step::Closed => Failure::Closed,
                Step::Blocked => match (patience, wait.or_else(|| self.endless(patience))) {
                    (Patience::None, _) => Failure::WouldBlock,
                    (_, Some((sched, until))) => {
                        // From the push to the end of the wait nothing may unwind.
                        sched.forbid_block_in_fork();
                        let choice = Choice::new();
                        let node = WaitNode::new(&choice, 0, NonNull::from(packet).cast());
                        // SAFETY: the gate is locked. `park` keeps the protocol of nodes.
                        unsafe { (*self.state.get()).queue(direction).push(&node, End::Back) };
                        drop(gate);
                        blocks.free();
                        return self.park(direction, (&choice, &node, packet), sched, until);
                    }
                    (Patience::Endless | Patience::Until(_), None) => {
                        drop(gate);
                        wait = Some(self.wait_limit(patience));
                        gate = self.gate.lock();
                        continue;
                    }
                },
            };
            self.leave(gate, None);
            return Err(failure);
        }
    }

    /// What an operation without a limit needs to wait, if the scheduler runs. Called under the
    /// lock: `started` only loads a pointer.
    #[inline(always)]
    fn endless(&self, patience: Patience<R::Instant>) -> Option<WaitLimit> {
        match patience {
            Patience::Endless => self.runtime.started().map(|sched| (sched, None)),
            Patience::None | Patience::Until(_) => None,
        }
    }

    /// What an operation needs to wait. May start the scheduler.
    #[cold]
    fn wait_limit(&self, patience: Patience<R::Instant>) -> WaitLimit {
        let until = match patience {
            Patience::Until(limit) => Some(self.runtime.nanos(limit).max(1)),
            Patience::None | Patience::Endless => None,
        };
        (self.runtime.sched(), until)
    }

    /// Waits for a partner, after the node was queued.
    fn park(
        &self,
        direction: Direction,
        (choice, node, packet): (&Choice, &WaitNode, &Packet<T>),
        sched: &'static Sched,
        until: Option<Nanos>,
    ) -> Result<(), Failure> {
        let wait = match direction {
            Direction::Send => Wait::ChanSend,
            Direction::Receive => Wait::ChanReceive,
        };
        let ended = sched.wait_or_cancel(choice, until, wait.encode());
        let served = matches!(ended.outcome, Outcome::Arm(_));
        if !(served && ended.parked) {
            // SAFETY: the node is in this queue or in none.
            self.with(|state| unsafe { state.queue(direction).remove(node) });
        }
        if !ended.parked {
            sched.spend(1);
        }
        match ended.outcome {
            Outcome::Arm(_) => {}
            Outcome::Expired => return Err(Failure::Timeout),
            Outcome::Withdrawn => return Err(Failure::Cancelled),
        }
        // A close leaves the packet as it was.
        match packet.full.get() == (direction == Direction::Receive) {
            true => Ok(()),
            false => Err(Failure::Closed),
        }
    }

    /// Ends an operation that did not wait: counts it, unlocks, and readies the partner. One that
    /// has failed counts as well, so that a loop that polls lets its neighbours run.
    #[inline]
    fn leave(&self, gate: Guard<'_, ()>, partner: Decided) {
        // SAFETY: the gate is locked.
        let state = unsafe { &mut *self.state.get() };
        state.operations = state.operations.wrapping_add(1);
        let turn_ends = state.operations % OPERATIONS == 0;
        drop(gate);
        if partner.is_some() || turn_ends {
            self.after(partner, turn_ends);
        }
    }

    /// Readies the partner, and ends the turn of a goroutine that has had many operations.
    fn after(&self, partner: Decided, turn_ends: bool) {
        let Some(sched) = self.runtime.started() else {
            return;
        };
        if let Some(partner) = partner {
            sched.ready(partner);
        }
        if turn_ends {
            sched.spend(COST);
        }
    }

    /// Closes the channel and wakes all waiters. False if it was closed.
    fn close(&self) -> bool {
        let mut first = None;
        loop {
            let mut woken = WaiterList::new();
            let more = self.with(|state| {
                first.get_or_insert(!core::mem::replace(&mut state.closed, true));
                for _ in 0..WAKE_BATCH {
                    match state.receivers.pop().or_else(|| state.senders.pop()) {
                        Some(chosen) => woken.extend(chosen.waiter),
                        None => return false,
                    }
                }
                true
            });
            if let Some(sched) = self.runtime.started() {
                sched.ready_list(woken);
            }
            if !more {
                return first.unwrap_or(false);
            }
        }
    }

    /// Drops the values of a channel that no receiver is left for.
    fn drain(&self) {
        while self.receive_now().is_some() {}
    }

    fn receive_now(&self) -> Option<T> {
        let packet = Packet::empty();
        let gate = self.gate.lock();
        _ = self.operate(gate, Direction::Receive, &packet, Patience::None);
        packet.take()
    }

    fn len(&self) -> usize {
        self.with(|state| state.buffer.len())
    }

    fn is_closed(&self) -> bool {
        self.with(|state| state.closed)
    }

    /// Whether an operation would be done, or fail, without a wait.
    fn is_ready(&self, direction: Direction) -> bool {
        self.with(|state| {
            let (is_possible, partners) = match direction {
                Direction::Send => (state.buffer.len() < self.capacity, &mut state.receivers),
                Direction::Receive => (state.buffer.len() > 0, &mut state.senders),
            };
            is_possible || state.closed || partners.has_waiter()
        })
    }
}

#[cfg(any(test, fuzzing))]
#[path = "../fuzz/chan.rs"]
pub(crate) mod fuzz;

#[cfg(all(test, loom))]
#[path = "../models/chan.rs"]
mod models;
