//! Models of the semaphore.

use super::RawSemaphore;
use crate::models::{Immortal, Mail, ModelSched, explore};
use crate::sched::Sched;
use loom::thread;

type Shared = (RawSemaphore<&'static Sched>, Mail);

fn run<F: Fn(&'static Shared) + Send + Sync + 'static>(permits: usize, model: F) {
    explore::<F>(move || {
        let owner = ModelSched::new(1, 1);
        let shared = Immortal::new((RawSemaphore::new(permits, owner.get()), Mail::new()));
        model(shared.get());
    });
}

#[test]
fn each_released_permit_is_for_one_waiter() {
    run(0, |(semaphore, mail)| {
        let waiters = [(), ()].map(|()| {
            thread::spawn(|| {
                semaphore.acquire(1);
                assert_eq!(mail.get(), 1);
            })
        });
        mail.put(1);
        semaphore.release(2);
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert_eq!(semaphore.available(), 0);
    });
}

#[test]
fn one_permit_excludes_and_is_not_lost() {
    run(1, |(semaphore, mail)| {
        let add = || {
            semaphore.acquire(1);
            mail.put(mail.get() + 1);
            semaphore.release(1);
        };
        let others = [(), ()].map(|()| thread::spawn(add));
        add();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!((semaphore.available(), mail.get()), (1, 3));
    });
}

#[test]
fn a_waiter_for_two_permits_gets_them_from_two_releases() {
    run(0, |(semaphore, _)| {
        let many = thread::spawn(|| semaphore.acquire(2));
        let few = thread::spawn(|| semaphore.acquire(1));
        semaphore.release(1);
        semaphore.release(2);
        many.join().unwrap();
        few.join().unwrap();
        assert_eq!(semaphore.available(), 0);
    });
}
