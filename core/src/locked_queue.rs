//! What the primitives with waiters have in common: a state and the queue of its waiters under one
//! lock, a wait in that queue, and wakes in batches.
//!
//! A primitive says under the lock whether its caller must wait, and which waiter is to be served.
//! This module keeps the protocol of [`choice`](crate::choice): a waiter looks and joins the queue
//! in one critical section, and leaves the queue when its wait has ended. Waiters are readied after
//! the lock is released.
#![allow(unsafe_code, reason = "a queue refers to nodes and packets by address")]

use crate::choice::{Choice, Decided, End, Outcome, WaitNode, WaitQueue};
use crate::must::Must;
use crate::os::Nanos;
use crate::runtime::Runtime;
use crate::sched::{Ended, Sched};
use crate::sync::{Lock, const_unless_loom};
use crate::wait_info::WaitWords;
use crate::waiter::WaiterList;
use crate::withdraw::Cancelled;
use core::marker::PhantomData;
use core::ops::DerefMut;
use core::ptr::NonNull;

/// How many waiters are woken for each time that the lock is held. Few in tests, so that their
/// waiters fill several batches.
const BATCH: usize = if cfg!(any(test, fuzzing)) { 4 } else { 32 };

/// A state `S` and its waiters. Each waiter brings a packet `P`, which its waker can read.
pub(crate) struct LockedQueue<S, P = ()>(Lock<Queued<S, P>>);

/// What the lock guards.
pub(crate) struct Queued<S, P> {
    pub(crate) state: S,
    pub(crate) waiters: Waiters<P>,
}

/// The queue of those that wait, the first to be served in front.
pub(crate) struct Waiters<P> {
    queue: WaitQueue,
    /// How many waiters have joined the queue so far.
    joined: u64,
    packets: PhantomData<fn(&P)>,
}

/// What a node in the queue refers to.
struct Packet<'a, P> {
    /// The value of `Waiters::joined` before this waiter.
    number: u64,
    content: &'a P,
}

/// A waiter whose wait has been ended by [`Waiters::pop_if`].
#[must_use = "the waiter must be made to run"]
pub(crate) struct Served<'a, P> {
    pub(crate) waiter: Decided,
    pub(crate) packet: &'a P,
}

/// How a call of [`LockedQueue::wait`] ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Waited {
    /// A waker has served the caller.
    Served,
    /// The time limit came first. The caller is in no queue.
    Expired,
    /// There was no reason to wait.
    NotQueued,
}

impl<P> Waiters<P> {
    /// Whether no waiter is queued. Those whose time limit has come count until they leave.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Ends the wait of the first waiter, if `wanted` says yes to its packet.
    pub(crate) fn pop_if(&mut self, wanted: impl Fn(&P) -> bool) -> Option<Served<'_, P>> {
        self.pop_packet_if(|packet| wanted(packet.content))
    }

    /// How many waiters have joined the queue so far.
    pub(crate) fn joined(&self) -> u64 {
        self.joined
    }

    /// Ends the waits of those whose packets are `wanted`, wherever in the queue they are: up to
    /// `most`, the first ones. Only waiters are looked at that had joined when
    /// [`joined`](Self::joined) returned `joined`.
    pub(crate) fn pop_each(
        &mut self,
        joined: u64,
        most: usize,
        wanted: impl Fn(&P) -> bool,
        mut served: impl FnMut(Served<'_, P>),
    ) {
        // SAFETY: the packets of queued nodes, and the lock is held until `served` has returned.
        let of = |packet| unsafe { packet_at::<P>(packet) };
        self.queue.pop_each(
            most,
            |packet| {
                let packet = of(packet);
                packet.number < joined && wanted(packet.content)
            },
            |chosen| {
                served(Served {
                    waiter: chosen.waiter,
                    packet: of(chosen.packet).content,
                });
            },
        );
    }

    fn pop_packet_if(&mut self, wanted: impl Fn(&Packet<'_, P>) -> bool) -> Option<Served<'_, P>> {
        // SAFETY: the packets of queued nodes, and the caller keeps the lock while it has one.
        let of = |packet| unsafe { packet_at::<P>(packet) };
        let chosen = self.queue.pop_if(|packet| wanted(of(packet)))?;
        Some(Served {
            waiter: chosen.waiter,
            packet: of(chosen.packet).content,
        })
    }
}

/// # Safety
///
/// Nodes join by `wait`, which leaves the packet in place until the node has left the queue and the
/// lock was released. The node is queued, or has left since the lock was taken.
unsafe fn packet_at<'a, P>(packet: NonNull<()>) -> &'a Packet<'a, P> {
    // SAFETY: the caller's promise.
    unsafe { packet.cast().as_ref() }
}

impl<S, P: Sync> LockedQueue<S, P> {
    const_unless_loom! {
        pub(crate) fn new(state: S) -> Self {
            LockedQueue(Lock::new(Queued {
                state,
                waiters: Waiters {
                    queue: WaitQueue::new(),
                    joined: 0,
                    packets: PhantomData,
                },
            }))
        }
    }

    pub(crate) fn lock(&self) -> impl DerefMut<Target = Queued<S, P>> {
        self.0.lock()
    }

    /// Waits until a waker serves the caller, or until the clock shows `until`. `join` says, under
    /// the lock, at which end of the queue to wait, or that there is no reason to wait.
    pub(crate) fn wait(
        &self,
        sched: &'static Sched,
        wait: WaitWords,
        until: Option<Nanos>,
        packet: &P,
        join: impl FnOnce(&mut Queued<S, P>) -> Option<End>,
    ) -> Waited {
        self.wait_after(sched, wait, until, packet, join, || ())
    }

    /// As [`wait`](Self::wait), but a cancel of the caller also ends the wait.
    pub(crate) fn wait_or_cancel(
        &self,
        sched: &'static Sched,
        wait: WaitWords,
        until: Option<Nanos>,
        packet: &P,
        join: impl FnOnce(&mut Queued<S, P>) -> Option<End>,
    ) -> Result<Waited, Cancelled> {
        let stop = |choice: &Choice| sched.wait_or_cancel(choice, until, wait);
        self.wait_by(sched, packet, join, stop)
    }

    /// As [`wait`](Self::wait), and calls `queued` between joining the queue and parking.
    pub(crate) fn wait_after(
        &self,
        sched: &'static Sched,
        wait: WaitWords,
        until: Option<Nanos>,
        packet: &P,
        join: impl FnOnce(&mut Queued<S, P>) -> Option<End>,
        queued: impl FnOnce(),
    ) -> Waited {
        self.wait_by(sched, packet, join, |choice| {
            queued();
            sched.wait_until(choice, until, wait)
        })
        .ok()
        .must("a cancel has ended a wait that none can end")
    }

    /// As [`wait_after`](Self::wait_after), but a cancel of the caller also ends the wait.
    pub(crate) fn wait_after_or_cancel(
        &self,
        sched: &'static Sched,
        wait: WaitWords,
        until: Option<Nanos>,
        packet: &P,
        queued: impl FnOnce(),
    ) -> Result<Waited, Cancelled> {
        self.wait_by(
            sched,
            packet,
            |_| Some(End::Back),
            |choice| {
                queued();
                sched.wait_or_cancel(choice, until, wait)
            },
        )
    }

    fn wait_by(
        &self,
        sched: &'static Sched,
        packet: &P,
        join: impl FnOnce(&mut Queued<S, P>) -> Option<End>,
        stop: impl FnOnce(&Choice) -> Ended,
    ) -> Result<Waited, Cancelled> {
        let choice = Choice::new();
        let (content, node);
        {
            let mut locked = self.0.lock();
            let Some(end) = join(&mut locked) else {
                return Ok(Waited::NotQueued);
            };
            let waiters = &mut locked.waiters;
            content = Packet {
                number: waiters.joined,
                content: packet,
            };
            waiters.joined += 1;
            node = WaitNode::new(&choice, 0, NonNull::from(&content).cast());
            // SAFETY: the node is new. It, its choice and its packet stay until `leave` was
            // dropped, or until the waiter runs again after it was parked and served.
            unsafe { waiters.queue.push(&node, end) };
        }
        let leave = Leave(self, &node);
        let ended = stop(&choice);
        if !matches!(ended.outcome, Outcome::Arm(_)) {
            drop(leave);
            // A goroutine that asks again and again with a limit that has come must let others run.
            if !ended.parked {
                sched.spend(1);
            }
            return match ended.outcome {
                Outcome::Withdrawn => Err(Cancelled),
                _ => Ok(Waited::Expired),
            };
        }
        if ended.parked {
            core::mem::forget(leave);
        }
        Ok(Waited::Served)
    }

    /// Readies the waiter whose wait `serve` ends under the lock, if it ends one.
    pub(crate) fn wake_one(
        &self,
        runtime: impl Runtime,
        serve: impl FnOnce(&mut Queued<S, P>) -> Option<Decided>,
    ) {
        let served = serve(&mut self.0.lock());
        if let Some(waiter) = served.flatten() {
            runtime.sched().ready(waiter);
        }
    }

    /// Makes a change to the state, and readies the waiters whose waits `serve` then ends. Both run
    /// under the lock, `serve` until it returns `None`.
    pub(crate) fn wake(
        &self,
        runtime: impl Runtime,
        change: impl FnOnce(&mut S),
        mut serve: impl FnMut(&mut Queued<S, P>) -> Option<Decided>,
    ) {
        let mut change = Some(change);
        loop {
            let mut woken = WaiterList::new();
            let mut served = 0;
            {
                let mut queued = self.0.lock();
                if let Some(change) = change.take() {
                    change(&mut queued.state);
                }
                while served < BATCH {
                    let Some(waiter) = serve(&mut queued) else {
                        break;
                    };
                    woken.extend(waiter);
                    served += 1;
                }
            }
            if let Some(first) = woken.pop() {
                let sched = runtime.sched();
                sched.ready(first);
                sched.ready_list(woken);
            }
            if served < BATCH {
                return;
            }
        }
    }

    /// Makes a change to the state, and wakes all that wait at that moment if it returns true.
    /// Waiters that join later keep waiting, so this comes to an end even if the woken ones wait
    /// again at once.
    pub(crate) fn wake_all(&self, runtime: impl Runtime, change: impl FnOnce(&mut S) -> bool) {
        let (mut change, mut end) = (Some(change), 0);
        let serve = |queued: &mut Queued<S, P>| {
            if let Some(change) = change.take() {
                if !change(&mut queued.state) {
                    return None;
                }
                end = queued.waiters.joined;
            }
            let served = queued.waiters.pop_packet_if(|packet| packet.number < end)?;
            Some(served.waiter)
        };
        self.wake(runtime, |_| (), serve);
    }
}

/// Takes a node out of the queue when the wait has ended, also by a panic. The lock also keeps the
/// waiter from leaving its stack while a waker uses the packet.
struct Leave<'a, S, P>(&'a LockedQueue<S, P>, &'a WaitNode);

impl<S, P> Drop for Leave<'_, S, P> {
    fn drop(&mut self) {
        let mut queued = self.0.0.lock();
        // SAFETY: the node joined this queue, and joins no other.
        unsafe { queued.waiters.queue.remove(self.1) };
    }
}

#[cfg(any(test, fuzzing))]
#[path = "../fuzz/locks.rs"]
pub(crate) mod fuzz;

#[cfg(test)]
#[cfg(not(loom))]
pub(crate) mod tests {
    use super::*;
    use crate::fuzz::base::sched as fuzz_sched;
    use crate::waiter::Thread;
    use std::boxed::Box;

    /// For tests in which no caller waits, and which may therefore run without a scheduler.
    #[derive(Clone, Copy, Default)]
    pub(crate) struct NoScheduler;

    impl Runtime for NoScheduler {
        type Instant = Nanos;

        fn sched(self) -> &'static Sched {
            panic!("a caller waits")
        }

        fn started(self) -> Option<&'static Sched> {
            None
        }

        fn nanos(self, limit: Nanos) -> Nanos {
            limit
        }

        fn now(self) -> Nanos {
            0
        }
    }

    static QUEUE: LockedQueue<()> = LockedQueue::new(());

    /// A waiter of `QUEUE` that has parked.
    struct Parked {
        choice: Choice,
        thread: Thread,
    }

    impl Parked {
        fn join() -> &'static Parked {
            let parked = Box::leak(Box::new(Parked {
                choice: Choice::new(),
                thread: Thread::new(),
            }));
            assert!(parked.choice.commit(parked.thread.waiter()).is_ok());
            let mut queued = QUEUE.lock();
            let packet = Box::leak(Box::new(Packet {
                number: queued.waiters.joined,
                content: &(),
            }));
            queued.waiters.joined += 1;
            let node = WaitNode::new(&parked.choice, 0, NonNull::from(packet).cast());
            // SAFETY: choice, packet and node are leaked.
            unsafe {
                queued
                    .waiters
                    .queue
                    .push(Box::leak(Box::new(node)), End::Back)
            };
            parked
        }
    }

    /// Another waiter joins whenever the scheduler is asked for: after each batch.
    #[derive(Clone, Copy)]
    struct Joining;

    impl Runtime for Joining {
        type Instant = Nanos;

        fn sched(self) -> &'static Sched {
            Parked::join();
            fuzz_sched()
        }

        fn started(self) -> Option<&'static Sched> {
            None
        }

        fn nanos(self, limit: Nanos) -> Nanos {
            limit
        }

        fn now(self) -> Nanos {
            0
        }
    }

    #[test]
    fn a_broadcast_wakes_every_batch_and_none_that_joins_between_them() {
        let waiters: [_; 2 * BATCH] = core::array::from_fn(|_| Parked::join());
        QUEUE.wake_all(Joining, |()| true);
        let woken = |parked: &&Parked| parked.choice.outcome().is_some();
        assert_eq!(
            waiters.iter().filter(|parked| woken(parked)).count(),
            waiters.len()
        );
        let mut queued = QUEUE.lock();
        let late = core::iter::from_fn(|| queued.waiters.pop_if(|()| true).map(|_| ()));
        assert_eq!(late.count(), 2);
    }
}
