//! The selects that wait until a descriptor is ready, beside the operation of each direction.
//!
//! An operation that waits has a slot; selects are rare and may be many, so they have queues, which
//! are allocated when a first select waits for this PollDesc.
//!
//! The race: an event comes while a select begins to wait. The select publishes the queues and its
//! node, and then asks the system whether the descriptor is ready. The poller gets an event from
//! the system, and then reads whether there are queues. The system orders the two: if the select's
//! question did not see the event, the poller got the event after it.
//!
//! A close has no such third party. It publishes that the descriptor closes, and then reads whether
//! there are queues; a select publishes its queues, and then reads whether the descriptor closes.
//! Both accesses of the word are read-modify-writes, so the later one sees what the other party
//! wrote before.
#![allow(unsafe_code, reason = "queues refer to nodes by address")]

use crate::choice::{End, WaitNode, WaitQueue};
use crate::os::{Mode, Ready};
use crate::sync::{AtomicPtr, Lock, Ordering, UnsafeCell};
use crate::waiter::WaiterList;
use alloc::boxed::Box;
use core::ptr;

/// The queues, once there are any. They stay for the rest of the process, as the PollDesc does.
pub(crate) struct Watchers(AtomicPtr<Queues>);

struct Queues {
    gate: Lock<()>,
    /// By direction. Protected by `gate`.
    queues: UnsafeCell<[WaitQueue; 2]>,
}

impl Watchers {
    pub(super) fn new() -> Self {
        Watchers(AtomicPtr::new(ptr::null_mut()))
    }

    fn queues(&self) -> Option<&Queues> {
        // SAFETY: `publish` stored a leaked box. Acquire pairs with its Release.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Makes the queues if there are none. Called before a node is queued. Returns their gate.
    pub(crate) fn publish(&self) -> &Lock<()> {
        if self.queues().is_none() {
            let new = Box::into_raw(Box::new(Queues {
                gate: Lock::new(()),
                queues: UnsafeCell::new([WaitQueue::new(), WaitQueue::new()]),
            }));
            let published =
                self.0
                    .compare_exchange(ptr::null_mut(), new, Ordering::SeqCst, Ordering::SeqCst);
            if published.is_err() {
                // SAFETY: another select was first, so nothing else has this box.
                drop(unsafe { Box::from_raw(new) });
            }
        }
        &self.made().gate
    }

    fn made(&self) -> &Queues {
        self.queues()
            .unwrap_or_else(|| panic!("a select waits for a descriptor without queues"))
    }

    /// Queues a node.
    ///
    /// # Safety
    ///
    /// The caller has locked the gate, and keeps the node as [`WaitQueue::push`] says.
    pub(crate) unsafe fn enqueue(&self, mode: Mode, node: &WaitNode) {
        // SAFETY: the gate is locked.
        let queues = unsafe { &mut *self.made().queues.get() };
        // SAFETY: the caller's promise.
        unsafe { queues[mode as usize].push(node, End::Back) };
    }

    /// Removes a node if it is queued.
    ///
    /// # Safety
    ///
    /// The caller has locked the gate. `enqueue` has queued the node in this direction, or never.
    pub(crate) unsafe fn dequeue(&self, mode: Mode, node: &WaitNode) {
        // SAFETY: the gate is locked.
        let queues = unsafe { &mut *self.made().queues.get() };
        // SAFETY: the caller's promise.
        unsafe { queues[mode as usize].remove(node) };
    }

    /// Wakes all selects, after the close of the descriptor was published.
    pub(super) fn close(&self, woken: &mut WaiterList) {
        let null = ptr::null_mut();
        // A read-modify-write if there are no queues.
        _ = self
            .0
            .compare_exchange(null, null, Ordering::SeqCst, Ordering::SeqCst);
        self.wake(Ready::READ | Ready::WRITE, woken);
    }

    /// Wakes the selects that wait for one of the directions of `ready`.
    #[inline]
    pub(super) fn wake(&self, ready: Ready, woken: &mut WaiterList) {
        if let Some(queues) = self.queues() {
            queues.wake(ready, woken);
        }
    }
}

impl Queues {
    #[cold]
    fn wake(&self, ready: Ready, woken: &mut WaiterList) {
        let _gate = self.gate.lock();
        // SAFETY: the gate is locked.
        let queues = unsafe { &mut *self.queues.get() };
        for (mode, bit) in [(Mode::Read, Ready::READ), (Mode::Write, Ready::WRITE)] {
            if ready.contains(bit) {
                while let Some(chosen) = queues[mode as usize].pop() {
                    woken.extend(chosen.waiter);
                }
            }
        }
    }
}
