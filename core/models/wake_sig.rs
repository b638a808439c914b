//! Models of the word beside a backend's wake-up descriptor. A counter behind a lock stands for the
//! descriptor, and a condition variable for a poll that waits on it.

use super::WakeSig;
use crate::models::{Immortal, Mail, check};
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;

struct Poller {
    sig: WakeSig,
    eventfd: Mutex<u64>,
    readable: Condvar,
    /// The work that wakers publish for the M that sleeps.
    work: [AtomicBool; 3],
    mail: Mail,
}

impl Poller {
    fn new() -> Immortal<Self> {
        Immortal::new(Poller {
            sig: WakeSig::default(),
            eventfd: Mutex::new(0),
            readable: Condvar::new(),
            work: core::array::from_fn(|_| AtomicBool::new(false)),
            mail: Mail::new(),
        })
    }

    fn wake(&self) {
        self.sig.request(|| {
            *self.eventfd.lock().unwrap() += 1;
            self.readable.notify_all();
        });
    }

    fn poll(&self, wait: bool) {
        let mut count = self.eventfd.lock().unwrap();
        while wait && *count == 0 {
            count = self.readable.wait(count).unwrap();
        }
        let readable = *count > 0;
        drop(count);
        if readable {
            self.sig.consume(wait, || *self.eventfd.lock().unwrap() = 0);
        }
    }

    /// Checks for the work and polls, as an M does, until all of it is there.
    fn sleep_for(&self, pieces: &[AtomicBool]) {
        while !pieces.iter().all(|piece| piece.load(Ordering::Relaxed)) {
            self.poll(true);
        }
    }
}

#[test]
fn a_wake_ends_the_poll_and_hands_over_what_came_before() {
    check(|| {
        let owner = Poller::new();
        let poller = owner.get();
        let waker = thread::spawn(|| {
            poller.mail.put(1);
            poller.work[0].store(true, Ordering::Relaxed);
            poller.wake();
        });
        poller.poll(true);
        assert_eq!(poller.mail.get(), 1);
        waker.join().unwrap();
    });
}

#[test]
fn two_wakers_joined_into_one_wake_are_both_heard() {
    check(|| {
        let owner = Poller::new();
        let poller = owner.get();
        let wakers = [0, 1].map(|piece: usize| {
            thread::spawn(move || {
                poller.work[piece].store(true, Ordering::Relaxed);
                poller.wake();
            })
        });
        poller.sleep_for(&poller.work[..2]);
        for waker in wakers {
            waker.join().unwrap();
        }
    });
}

#[test]
fn one_waker_that_wakes_again_and_again_is_heard_each_time() {
    check(|| {
        let owner = Poller::new();
        let poller = owner.get();
        let waker = thread::spawn(|| {
            for piece in &poller.work {
                piece.store(true, Ordering::Relaxed);
                poller.wake();
            }
        });
        poller.sleep_for(&poller.work);
        waker.join().unwrap();
    });
}

#[test]
fn a_poll_that_does_not_wait_takes_no_wake_from_one_that_does() {
    check(|| {
        let owner = Poller::new();
        let poller = owner.get();
        let waker = thread::spawn(|| {
            poller.work[0].store(true, Ordering::Relaxed);
            poller.wake();
        });
        let looker = thread::spawn(|| poller.poll(false));
        poller.sleep_for(&poller.work[..1]);
        waker.join().unwrap();
        looker.join().unwrap();
    });
}
