//! Models of the wait group.

use super::RawWaitGroup;
use crate::models::{Immortal, Mail, ModelSched, explore};
use crate::sched::Sched;
use loom::thread;

type Shared = (RawWaitGroup<&'static Sched>, Mail);

fn run<F: Fn(&'static Shared) + Send + Sync + 'static>(model: F) {
    explore::<F>(move || {
        let owner = ModelSched::new(1, 1);
        let shared = Immortal::new((RawWaitGroup::new(owner.get()), Mail::new()));
        model(shared.get());
    });
}

#[test]
fn a_waiter_sees_what_the_members_did() {
    run(|(group, mail)| {
        group.add(2);
        let first = thread::spawn(|| group.done());
        let last = thread::spawn(|| {
            mail.put(1);
            group.done();
        });
        group.wait();
        assert_eq!(mail.get(), 1);
        first.join().unwrap();
        last.join().unwrap();
    });
}

#[test]
fn the_end_of_one_round_does_not_wake_a_waiter_of_the_next() {
    run(|(group, mail)| {
        group.add(1);
        let first = thread::spawn(|| group.done());
        if group.count() == 0 {
            group.add(1);
            let second = thread::spawn(|| {
                mail.put(1);
                group.done();
            });
            group.wait();
            assert_eq!(mail.get(), 1);
            second.join().unwrap();
        }
        first.join().unwrap();
    });
}
