//! Models of the latch. Its event announces a [`Mail`]: loom reports a race if a waiter reads too
//! early.

use super::Latch;
use crate::models::{Immortal, Mail, ModelSched, explore};
use crate::sched::Sched;
use crate::wait_info::Wait;
use loom::thread;

struct Shared {
    latch: Latch,
    mail: Mail,
}

impl Shared {
    fn set(&self, sched: &'static Sched) {
        self.mail.put(1);
        if let Some(waiter) = self.latch.set() {
            sched.ready(waiter);
        }
    }
}

fn run<F: Fn(&'static Shared, &'static Sched) + Send + Sync + 'static>(model: F) {
    explore::<F>(move || {
        let owner = ModelSched::new(1, 1);
        let shared = Immortal::new(Shared {
            latch: Latch::new(),
            mail: Mail::new(),
        });
        model(shared.get(), owner.get());
    });
}

#[test]
fn a_waiter_claims_what_the_event_announces() {
    run(|shared, sched| {
        let other = thread::spawn(move || shared.set(sched));
        shared.latch.wait(sched, Wait::Join(1).encode());
        assert_eq!(shared.mail.get(), 1);
        assert!(shared.latch.take() && !shared.latch.take());
        other.join().unwrap();
    });
}

#[test]
fn a_thread_that_sees_the_event_sees_what_came_before() {
    run(|shared, sched| {
        let other = thread::spawn(move || shared.set(sched));
        if shared.latch.is_set() {
            assert_eq!(shared.mail.get(), 1);
        }
        other.join().unwrap();
        assert!(!shared.latch.take());
    });
}
