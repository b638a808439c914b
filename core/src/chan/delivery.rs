//! A channel for one value, which a timer's callback sends.

use super::buffer::{Block, Blocks};
use super::handles::Shared;
use super::{Packet, Receiver, Source, Step};
use crate::runtime::Runtime;
use crate::waiter::WaiterList;
use alloc::sync::{Arc, Weak};

/// The sending end. It is no handle: the channel stays open without it.
pub(crate) struct Delivery<T, R: Runtime>(Arc<Shared<T, R>>);

impl<T, R: Runtime> Delivery<T, R> {
    pub(crate) fn new(runtime: R, source: Weak<dyn Source>) -> (Self, Receiver<T, R>) {
        let shared = Shared::new(1, runtime, Some(source));
        shared
            .channel
            .with(|state| state.buffer.donate(Block::allocate(1)));
        (Delivery(shared.clone()), Receiver(shared))
    }

    /// Sends a value, or drops it if there is one. Adds a receiver that waited to `woken`. Returns
    /// false if the channel is closed. Neither waits nor allocates nor calls a scheduler.
    pub(crate) fn deliver(&self, value: T, woken: &mut WaiterList) -> bool {
        let packet = Packet::full(value);
        let step = self
            .0
            .channel
            .with(|state| state.send(1, &packet, &mut Blocks::new()));
        match step {
            Step::Done(receiver) => woken.extend(receiver),
            Step::Blocked => {}
            Step::Closed => return false,
            Step::NeedsBlock => unreachable!("the only block of a channel for one value stays"),
        }
        true
    }

    /// Takes back the value that was not received. Returns whether there was one.
    pub(crate) fn withdraw(&self) -> bool {
        let packet = Packet::empty();
        self.0
            .channel
            .with(|state| state.receive(&packet, &mut Blocks::new()));
        packet.take().is_some()
    }
}
