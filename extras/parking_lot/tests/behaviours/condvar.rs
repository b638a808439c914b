//! `Condvar`.

use super::actors::{Actor, Dice, Flag, LONG, SHORT, until};
use super::mutex::until_wait;
use crate::{check, spawn};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

type Shared<T> = Arc<(Mutex<T>, Condvar)>;

fn shared<T>(data: T) -> Shared<T> {
    Arc::new((Mutex::new(data), Condvar::new()))
}

/// Starts one that waits once, and then adds its number to the data.
fn waiter(shared: &Shared<Vec<usize>>, number: usize) -> Actor<()> {
    let theirs = shared.clone();
    let waiter = spawn(move || {
        let mut data = theirs.0.lock();
        theirs.1.wait(&mut data);
        data.push(number);
    });
    until("a waiter", || shared.1.waiters() > number);
    waiter
}

#[test]
fn notify_one_wakes_the_first_waiter_and_says_so() {
    check(|| {
        let shared = shared(Vec::new());
        assert!(!shared.1.notify_one());
        let waiters = Vec::from_iter((0..3).map(|number| waiter(&shared, number)));
        for woken in 1..=3 {
            assert!(shared.1.notify_one());
            until("the woken", || shared.0.lock().len() == woken);
            assert_eq!(shared.1.waiters(), 3 - woken);
        }
        assert!(!shared.1.notify_one());
        for waiter in waiters {
            waiter.join();
        }
        assert_eq!(*shared.0.lock(), [0, 1, 2]);
    });
}

/// The original moves the waiters to the queue of the mutex. Here they wake and wait there.
#[test]
fn notify_all_wakes_all_and_says_how_many_but_none_returns_while_the_mutex_is_locked() {
    check(|| {
        let shared = shared(Vec::new());
        assert_eq!(shared.1.notify_all(), 0);
        let waiters = Vec::from_iter((0..5).map(|number| waiter(&shared, number)));
        let guard = shared.0.lock();
        assert_eq!(shared.1.notify_all(), 5);
        assert_eq!(shared.1.notify_all(), 0, "they were notified once");
        assert!(!shared.1.notify_one());
        until_wait(&shared.0, 5);
        assert!(guard.is_empty() && waiters.iter().all(|waiter| !waiter.is_finished()));
        drop(guard);
        for waiter in waiters {
            waiter.join();
        }
        assert_eq!(shared.0.lock().len(), 5);
    });
}

#[test]
fn a_notification_is_not_kept() {
    check(|| {
        let shared = shared(());
        assert!(!shared.1.notify_one());
        let result = shared.1.wait_for(&mut shared.0.lock(), SHORT);
        assert!(result.timed_out());
    });
}

#[test]
fn a_wait_ends_at_its_limit_and_not_before_with_the_mutex_locked() {
    check(|| {
        let shared = shared(1);
        let mut guard = shared.0.lock();
        let start = Instant::now();
        assert!(shared.1.wait_for(&mut guard, SHORT).timed_out());
        assert!(start.elapsed() >= SHORT);
        let limit = Instant::now() + SHORT;
        assert!(shared.1.wait_until(&mut guard, limit).timed_out());
        assert!(Instant::now() >= limit);
        assert!(shared.1.wait_until(&mut guard, start).timed_out());
        assert!(shared.0.is_locked());
        assert_eq!((shared.1.waiters(), shared.1.notify_all()), (0, 0));
    });
}

#[test]
fn a_notification_ends_a_wait_with_a_limit() {
    for limit in [LONG, Duration::MAX] {
        check(move || {
            let shared = shared(());
            let theirs = shared.clone();
            let waiter = spawn(move || theirs.1.wait_for(&mut theirs.0.lock(), limit));
            until("the waiter", || shared.1.notify_one());
            assert!(!waiter.join().timed_out());
        });
    }
}

#[test]
fn wait_while_waits_until_the_condition_is_false() {
    check(|| {
        let shared = shared(0);
        let (condvar, calls) = (&shared.1, AtomicUsize::new(0));
        condvar.wait_while(&mut shared.0.lock(), |_| calls.fetch_add(1, SeqCst) > 0);
        assert_eq!(calls.load(SeqCst), 1, "it does not wait");
        let theirs = shared.clone();
        let waiter = spawn(move || {
            let mut data = theirs.0.lock();
            theirs.1.wait_while(&mut data, |data| *data < 3);
            *data
        });
        for _ in 0..3 {
            until("the waiter", || shared.1.waiters() == 1);
            *shared.0.lock() += 1;
            assert!(shared.1.notify_one());
        }
        assert_eq!(waiter.join(), 3);
    });
}

#[test]
fn wait_while_with_a_limit_gives_up_or_sees_the_condition() {
    check(|| {
        let shared = shared(0);
        let mut guard = shared.0.lock();
        let (condvar, start) = (&shared.1, Instant::now());
        assert!(
            condvar
                .wait_while_for(&mut guard, |data| *data == 0, SHORT)
                .timed_out()
        );
        assert!(start.elapsed() >= SHORT);
        let past = Instant::now();
        assert!(
            condvar
                .wait_while_until(&mut guard, |data| *data == 0, past)
                .timed_out()
        );
        assert!(
            !condvar
                .wait_while_until(&mut guard, |data| *data == 1, past)
                .timed_out()
        );
        drop(guard);
        let theirs = shared.clone();
        let waiter = spawn(move || {
            let limit = Instant::now() + LONG;
            let mut data = theirs.0.lock();
            theirs
                .1
                .wait_while_until(&mut data, |data| *data == 0, limit)
        });
        until("the waiter", || shared.1.waiters() == 1);
        assert!(shared.1.notify_one(), "the condition is still true");
        until("the waiter", || shared.1.waiters() == 1);
        *shared.0.lock() = 1;
        shared.1.notify_all();
        assert!(!waiter.join().timed_out());
    });
}

#[test]
fn a_wait_with_a_second_mutex_panics_while_there_are_waiters_of_the_first() {
    check(|| {
        let shared = shared(Vec::new());
        let waiter = waiter(&shared, 0);
        let second = Mutex::new(());
        let waits = || {
            let limit = Instant::now();
            shared.1.wait_until(&mut second.lock(), limit)
        };
        assert!(panic::catch_unwind(AssertUnwindSafe(waits)).is_err());
        assert!(!second.is_locked());
        assert_eq!(shared.1.notify_all(), 1);
        assert!(waits().timed_out());
        waiter.join();
    });
}

#[test]
fn what_producers_push_consumers_get_once() {
    const CONSUMERS: usize = 4;
    const VALUES: usize = 3_000;
    check(|| {
        let shared = shared(VecDeque::new());
        let consumers = Vec::from_iter((0..CONSUMERS).map(|_| {
            let shared = shared.clone();
            spawn(move || {
                let mut got = Vec::new();
                loop {
                    let mut queue = shared.0.lock();
                    shared.1.wait_while(&mut queue, |queue| queue.is_empty());
                    match queue.pop_front().unwrap() {
                        None => return got,
                        Some(value) => got.push(value),
                    }
                }
            })
        }));
        let producers = Vec::from_iter((0..2).map(|producer| {
            let shared = shared.clone();
            spawn(move || {
                for value in 0..VALUES / 2 {
                    shared.0.lock().push_back(Some(2 * value + producer));
                    shared.1.notify_one();
                }
            })
        }));
        for producer in producers {
            producer.join();
        }
        shared.0.lock().extend([None; CONSUMERS]);
        shared.1.notify_all();
        let mut got = Vec::from_iter(consumers.into_iter().flat_map(Actor::join));
        got.sort();
        assert_eq!(got, Vec::from_iter(0..VALUES));
    });
}

/// A notification that comes at the limit of a wait either ends the wait or goes to another one.
#[test]
fn each_notification_that_says_so_has_ended_a_wait() {
    check(|| {
        let shared = shared(());
        let over = Arc::new(Flag::default());
        let waiters = Vec::from_iter((0..3).map(|seed| {
            let (shared, over) = (shared.clone(), over.clone());
            spawn(move || {
                let (mut dice, mut notified) = (Dice::new(seed), 0);
                while !over.is_set() {
                    let limit = Duration::from_micros(dice.below(80));
                    let result = shared.1.wait_for(&mut shared.0.lock(), limit);
                    notified += usize::from(!result.timed_out());
                }
                notified
            })
        }));
        let (mut sent, mut dice) = (0, Dice::new(9));
        for _ in 0..1_500 {
            sent += match dice.below(8) {
                0 => shared.1.notify_all(),
                _ => usize::from(shared.1.notify_one()),
            };
            gopark::yield_now();
        }
        over.set();
        assert_eq!(waiters.into_iter().map(Actor::join).sum::<usize>(), sent);
    });
}

#[test]
fn it_prints_and_has_a_default() {
    assert_eq!(format!("{:?}", Condvar::default()), "Condvar { .. }");
}
