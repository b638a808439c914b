//! Models of a goroutine that waits without a stack: the thread that makes it against events and a
//! close. The goroutine is queued exactly once.

use super::Sched;
use crate::models::{Immortal, Mail, ModelSched, explore, finish, goroutine};
use crate::sched::models::run;
use crate::sync::{AtomicBool, Ordering};
use crate::waiter::{WaitSlot, WaiterList};
use loom::thread;
use std::vec::Vec;

struct Wait {
    slot: WaitSlot,
    closed: AtomicBool,
    mail: Mail,
}

/// What the threads of a model share.
#[derive(Clone, Copy)]
struct Shared {
    sched: &'static Sched,
    wait: &'static Wait,
}

impl Shared {
    fn make(self) {
        let may_wait = || !self.wait.closed.load(Ordering::SeqCst);
        self.sched
            .wait_without_stack(goroutine(1), &self.wait.slot, may_wait);
    }

    fn event(self) {
        let mut woken = WaiterList::new();
        woken.extend(self.wait.slot.notify());
        self.sched.ready_list(woken);
    }

    fn close(self) {
        self.wait.closed.swap(true, Ordering::SeqCst);
        let mut woken = WaiterList::new();
        woken.extend(self.wait.slot.cancel());
        self.sched.ready_list(woken);
    }

    /// How often the goroutine is queued, once all threads have ended.
    fn queued(self) -> usize {
        let mut list = self.sched.global.take_all();
        let found: Vec<_> = core::iter::from_fn(|| list.pop_front()).collect();
        found.into_iter().map(finish).count()
    }
}

/// Explores a model of one descriptor.
fn check<F: Fn(Shared) + Send + Sync + 'static>(model: F) {
    explore::<F>(move || {
        let wait = Immortal::new(Wait {
            slot: WaitSlot::new(),
            closed: AtomicBool::new(false),
            mail: Mail::new(),
        });
        let owner = ModelSched::new(1, 1);
        model(Shared {
            sched: owner.get(),
            wait: wait.get(),
        });
    });
}

#[test]
fn an_m_that_starts_the_goroutine_sees_what_the_waker_wrote() {
    check(|shared| {
        let kernel = thread::spawn(move || {
            shared.wait.mail.put(7);
            shared.event();
        });
        shared.make();
        assert_eq!(run(shared.sched, 0, 1), [1]);
        assert_eq!(shared.wait.mail.get(), 7);
        kernel.join().unwrap();
    });
}

#[test]
fn a_goroutine_made_while_its_descriptor_is_closed_is_queued() {
    check(|shared| {
        let closer = thread::spawn(move || shared.close());
        shared.make();
        closer.join().unwrap();
        assert_eq!(shared.queued(), 1);
    });
}

#[test]
fn an_event_and_a_close_queue_the_goroutine_once() {
    check(|shared| {
        let kernel = thread::spawn(move || shared.event());
        let closer = thread::spawn(move || shared.close());
        shared.make();
        kernel.join().unwrap();
        closer.join().unwrap();
        assert_eq!(shared.queued(), 1);
    });
}

#[test]
fn two_events_queue_the_goroutine_once() {
    check(|shared| {
        let first = thread::spawn(move || shared.event());
        let second = thread::spawn(move || shared.event());
        shared.make();
        first.join().unwrap();
        second.join().unwrap();
        assert_eq!(shared.queued(), 1);
    });
}
