//! Channels as cases of a select.
#![allow(unsafe_code, reason = "nodes are queued by address")]

use super::buffer::Blocks;
use super::{Channel, Direction, Packet, Receiver, RecvError, SendError, Sender, Step};
use crate::choice::{End, WaitNode};
use crate::runtime::Runtime;
use crate::select::{Arm, Attempt, Case, Gate, OnCancel};
use crate::sync::RefCell;
use core::ptr::NonNull;

struct Operation<'a, T, R> {
    channel: &'a Channel<T, R>,
    direction: Direction,
    packet: Packet<T>,
    blocks: RefCell<Blocks<T>>,
}

impl<'a, T, R: Runtime> Operation<'a, T, R> {
    fn new(channel: &'a Channel<T, R>, direction: Direction, packet: Packet<T>) -> Self {
        Operation {
            channel,
            direction,
            packet,
            blocks: RefCell::new(Blocks::new()),
        }
    }
}

impl<T, R: Runtime> Arm for Operation<'_, T, R> {
    fn gate(&self) -> &Gate {
        &self.channel.gate
    }

    fn packet(&self) -> NonNull<()> {
        NonNull::from(&self.packet).cast()
    }

    unsafe fn attempt(&self) -> Attempt {
        let mut blocks = self.blocks.borrow_mut();
        // SAFETY: the caller has locked the gate.
        let step = unsafe { self.channel.step(self.direction, &self.packet, &mut blocks) };
        match step {
            Step::Done(partner) => Attempt::Done(partner),
            Step::Closed => Attempt::Done(None),
            Step::Blocked => Attempt::Blocked,
            Step::NeedsBlock => Attempt::Unprepared,
        }
    }

    fn prepare(&self) {
        self.blocks.borrow_mut().prepare(self.channel.capacity);
    }

    unsafe fn enqueue(&self, node: &WaitNode) {
        // SAFETY: the caller has locked the gate.
        let state = unsafe { &mut *self.channel.state.get() };
        // SAFETY: the caller's promise.
        unsafe { state.queue(self.direction).push(node, End::Back) };
    }

    unsafe fn dequeue(&self, node: &WaitNode) {
        // SAFETY: the caller has locked the gate.
        let state = unsafe { &mut *self.channel.state.get() };
        // SAFETY: only `enqueue` has queued the node.
        unsafe { state.queue(self.direction).remove(node) };
    }
}

/// A receive as a case of a [select](crate::sched::Sched::select).
pub struct RecvArm<'a, T, R: Runtime>(Operation<'a, T, R>);

/// A send as a case of a [select](crate::sched::Sched::select).
pub struct SendArm<'a, T, R: Runtime>(Operation<'a, T, R>);

impl<T, R: Runtime> Receiver<T, R> {
    /// A receive for one select.
    #[inline]
    pub fn arm(&self) -> RecvArm<'_, T, R> {
        let packet = Packet::empty();
        RecvArm(Operation::new(self.channel(), Direction::Receive, packet))
    }
}

impl<T, R: Runtime> Sender<T, R> {
    /// A send of `value` for one select.
    #[inline]
    pub fn arm(&self, value: T) -> SendArm<'_, T, R> {
        let packet = Packet::full(value);
        SendArm(Operation::new(self.channel(), Direction::Send, packet))
    }
}

impl<T, R: Runtime> RecvArm<'_, T, R> {
    /// The case for the select.
    #[inline]
    pub fn case(&self) -> Case<'_> {
        Case::new(&self.0, OnCancel::Fail)
    }

    /// What the receive returns. Called after the select has returned this case's index.
    ///
    /// # Errors
    ///
    /// If the channel is closed and empty.
    #[inline]
    pub fn finish(self) -> Result<T, RecvError> {
        self.0.packet.take().ok_or(RecvError)
    }
}

impl<T, R: Runtime> SendArm<'_, T, R> {
    /// The case for the select.
    #[inline]
    pub fn case(&self) -> Case<'_> {
        Case::new(&self.0, OnCancel::Fail)
    }

    /// What the send returns. After a select that has returned another case's index, the error has
    /// the value.
    ///
    /// # Errors
    ///
    /// If the value was not sent: the channel is closed, or another case was selected.
    #[inline]
    pub fn finish(self) -> Result<(), SendError<T>> {
        match self.0.packet.take() {
            Some(value) => Err(SendError(value)),
            None => Ok(()),
        }
    }
}
