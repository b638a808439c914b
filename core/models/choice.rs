//! Models of the outcome word and of queues of nodes: a waiter against the events that decide its
//! choice. The waiter is a thread that sleeps on the futex of [`ModelOs`].
#![allow(unsafe_code, reason = "queues refer to nodes by address")]

use super::{Choice, Decided, End, Outcome, WaitNode, WaitQueue};
use crate::models::{Immortal, Mail, ModelOs, check};
use crate::sync::Lock;
use crate::waiter::{Thread, Waiter};
use core::ptr::NonNull;
use loom::thread;

struct Wait {
    choice: Choice,
    /// Written by the side that decides.
    event: Mail,
    /// Written by the waiter before it parks, as a goroutine writes to its stack.
    stack: Mail,
    os: ModelOs,
}

impl Wait {
    fn new() -> Immortal<Self> {
        Immortal::new(Wait {
            choice: Choice::new(),
            event: Mail::new(),
            stack: Mail::new(),
            os: ModelOs::default(),
        })
    }

    /// Parks as `Sched::wait_decided` does. Returns the outcome, and whether the thread parked.
    fn wait(&self) -> (Outcome, bool) {
        let thread = Thread::new();
        self.stack.put(1);
        let parked = self.choice.commit(thread.waiter()).is_ok();
        if parked {
            thread.block(&self.os);
        }
        let outcome = self.choice.outcome();
        (outcome.expect("the choice is decided"), parked)
    }

    /// Returns whether this call has decided.
    fn decide(&self, outcome: Outcome) -> bool {
        self.choice
            .decide(outcome)
            .map(|waiter| self.wake(waiter))
            .is_some()
    }

    fn wake(&self, waiter: Decided) {
        if let Some(Waiter::Thread(thread)) = waiter {
            assert_eq!(self.stack.get(), 1);
            thread.wake(&self.os);
        }
    }
}

#[test]
fn a_decision_wakes_the_waiter_or_refuses_its_commit() {
    check(|| {
        let owner = Wait::new();
        let wait = owner.get();
        let other = thread::spawn(|| {
            wait.event.put(1);
            assert!(wait.decide(Outcome::Arm(7)));
        });
        assert_eq!(wait.wait().0, Outcome::Arm(7));
        assert_eq!(wait.event.get(), 1);
        other.join().unwrap();
    });
}

#[test]
fn of_two_events_one_decides() {
    check(|| {
        let owner = Wait::new();
        let wait = owner.get();
        let others = [Outcome::Arm(1), Outcome::Expired]
            .map(|outcome| thread::spawn(move || wait.decide(outcome)));
        let (outcome, _) = wait.wait();
        let decided = others.map(|other| other.join().unwrap());
        assert_eq!(
            decided,
            [outcome == Outcome::Arm(1), outcome == Outcome::Expired]
        );
    });
}

#[test]
fn a_waiter_that_gives_up_is_not_handed_out() {
    check(|| {
        let owner = Wait::new();
        let wait = owner.get();
        let other = thread::spawn(|| wait.decide(Outcome::Arm(0)));
        let gave_up = wait.decide(Outcome::Withdrawn);
        let (outcome, parked) = wait.wait();
        assert!(!parked);
        assert_eq!(outcome == Outcome::Withdrawn, gave_up);
        assert_ne!(other.join().unwrap(), gave_up);
    });
}

/// A queue under its lock, and the packet of the one waiter's node.
struct Object {
    queue: Lock<WaitQueue>,
    packet: Mail,
}

impl Object {
    fn new() -> Immortal<Self> {
        Immortal::new(Object {
            queue: Lock::new(WaitQueue::new()),
            packet: Mail::new(),
        })
    }

    fn node(&self, choice: &Choice, arm: u32) -> WaitNode {
        WaitNode::new(choice, arm, NonNull::from(&self.packet).cast())
    }

    /// The event: writes the packet of the waiter that it decides. Returns whether there was one.
    fn happens(&self, wait: &Wait) -> bool {
        let mut queue = self.queue.lock();
        // The packet belongs to the lock's holder while the node is queued.
        let chosen = queue.pop_if(|packet| {
            // SAFETY: the packet is a `Mail`.
            unsafe { packet.cast::<Mail>().as_ref() }.get() == 0
        });
        let Some(chosen) = chosen else { return false };
        // SAFETY: as above.
        unsafe { chosen.packet.cast::<Mail>().as_ref() }.put(1);
        drop(queue);
        wait.wake(chosen.waiter);
        true
    }
}

#[test]
fn of_two_queues_one_serves_the_waiter_and_the_other_leaves_its_packet() {
    check(|| {
        let owner = Wait::new();
        let wait = owner.get();
        let owners = [Object::new(), Object::new()];
        let objects = [0, 1].map(|i: usize| owners[i].get());
        let nodes = [0, 1].map(|i: usize| objects[i].node(&wait.choice, i as u32));
        for (object, node) in objects.iter().zip(&nodes) {
            // SAFETY: node, choice and packet stay until the loop below has removed the node.
            unsafe { object.queue.lock().push(node, End::Back) };
        }
        let others = objects.map(|object| thread::spawn(|| object.happens(wait)));
        let (outcome, parked) = wait.wait();
        for (i, (object, node)) in objects.iter().zip(&nodes).enumerate() {
            let served = outcome == Outcome::Arm(i as u32);
            if !(served && parked) {
                // SAFETY: the node is in this queue or in none.
                unsafe { object.queue.lock().remove(node) };
            }
            assert_eq!(object.packet.get() == 1, served);
            // The waiter's stack is used for something else.
            object.packet.put(2);
        }
        let decided = others.map(|other| other.join().unwrap());
        assert_eq!(
            decided,
            [outcome == Outcome::Arm(0), outcome == Outcome::Arm(1)]
        );
        assert!(objects.iter().all(|object| object.queue.lock().is_empty()));
    });
}
