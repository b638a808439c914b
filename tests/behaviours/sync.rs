//! Shared state other than locks, between goroutines and ordinary threads.

use super::check_on_thread;
use crate::check;
use gopark::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use gopark::sync::{
    Arc, Barrier, Condvar, LazyLock, Mutex, Notify, Once, OnceLock, Semaphore, WaitGroup,
};
use gopark::{JoinHandle, go, yield_now};
use gopark_core::watch::{State, Wait};
use gopark_tests::{Dice, join, rounds, until};
use std::collections::HashSet;
use std::panic::{self, AssertUnwindSafe};
use std::slice;
use std::thread;
use std::time::{Duration, Instant};

/// More waiters than are woken under one hold of a lock.
pub(crate) const MANY: usize = 100;

/// Nanoseconds after which a waiter gives up. Another one joins the queue behind it before.
pub(crate) const GIVES_UP: i64 = 500_000_000;

/// Waits until a goroutine is parked for the expected reason.
#[track_caller]
pub(crate) fn until_waits<T>(goroutine: &JoinHandle<T>, expected: Wait) {
    until_all_wait(slice::from_ref(goroutine), expected);
}

/// Waits until all of them are parked for the expected reason, or have ended: on a loaded machine a
/// wait with a limit may be over before it is seen.
#[track_caller]
pub(crate) fn until_all_wait<T>(goroutines: &[JoinHandle<T>], expected: Wait) {
    let ids: HashSet<_> = goroutines.iter().map(JoinHandle::id).collect();
    let reason = expected.reason();
    until(reason, || {
        let mut waiting = 0;
        gopark::scheduler().snapshot(None, |it| {
            let waits = matches!(it.state, State::Waiting { wait, .. } if wait.reason() == reason);
            waiting += usize::from(waits && ids.contains(&it.id));
        });
        let ended = goroutines.iter().filter(|it| it.is_finished()).count();
        waiting + ended >= ids.len()
    });
}

/// Runs `f` and returns the text of its panic.
#[track_caller]
fn panic_text<T>(f: impl FnOnce() -> T) -> String {
    let payload = panic::catch_unwind(AssertUnwindSafe(f)).err();
    let payload = payload.expect("it panics");
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => payload.downcast_ref::<&str>().unwrap().to_string(),
    }
}

#[test]
fn a_notification_wakes_the_first_waiter_and_a_broadcast_all() {
    check(|| {
        let pair = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let arrive = |number: usize| {
            let pair = pair.clone();
            let waiter = go(move || {
                let guard = pair.0.lock().unwrap();
                pair.1.wait(guard).unwrap().push(number);
            });
            until_waits(&waiter, Wait::Condvar);
            waiter
        };
        let mut waiters: Vec<_> = (0..5).map(arrive).collect();
        pair.1.notify_one();
        join(waiters.remove(0));
        pair.1.notify_one();
        join(waiters.remove(0));
        assert_eq!(*pair.0.lock().unwrap(), [0, 1]);
        waiters.extend((5..MANY).map(arrive));
        pair.1.notify_all();
        waiters.into_iter().for_each(join);
        assert_eq!(pair.0.lock().unwrap().len(), MANY);
    });
}

#[test]
fn a_broadcast_does_not_wake_those_that_wait_again() {
    check(|| {
        let pair = Arc::new((Mutex::new((0, false)), Condvar::new()));
        let waiters: Vec<_> = (0..MANY)
            .map(|_| {
                let pair = pair.clone();
                go(move || {
                    let mut guard = pair.0.lock().unwrap();
                    while !guard.1 {
                        guard = pair.1.wait(guard).unwrap();
                        guard.0 += 1;
                    }
                })
            })
            .collect();
        until_all_wait(&waiters, Wait::Condvar);
        for broadcast in 1..=3 {
            pair.1.notify_all();
            until("each waiter ran", || {
                pair.0.lock().unwrap().0 >= broadcast * MANY
            });
            until_all_wait(&waiters, Wait::Condvar);
            assert_eq!(pair.0.lock().unwrap().0, broadcast * MANY);
        }
        pair.0.lock().unwrap().1 = true;
        pair.1.notify_all();
        waiters.into_iter().for_each(join);
    });
}

#[test]
fn a_wait_with_a_limit_ends_by_the_limit_or_by_a_notification() {
    check(|| {
        let pair = Arc::new((Mutex::new(false), Condvar::new()));
        let limit = Duration::from_millis(5);
        let start = Instant::now();
        let guard = pair.0.lock().unwrap();
        let (guard, result) = pair.1.wait_timeout(guard, limit).unwrap();
        assert!(result.timed_out() && start.elapsed() >= limit);
        let wait = pair.1.wait_timeout_while(guard, limit, |ready| !*ready);
        assert!(wait.unwrap().1.timed_out());

        let theirs = pair.clone();
        let waiter = go(move || {
            let guard = theirs.0.lock().unwrap();
            let wait = theirs
                .1
                .wait_timeout_while(guard, Duration::MAX, |ready| !*ready);
            wait.unwrap().1.timed_out()
        });
        until_waits(&waiter, Wait::Condvar);
        pair.1.notify_one();
        *pair.0.lock().unwrap() = true;
        until("the waiter waits again or is over", || {
            pair.1.notify_one();
            waiter.is_finished()
        });
        assert!(!join(waiter));
    });
}

#[test]
fn a_notification_is_not_lost_to_a_waiter_whose_limit_comes() {
    check(|| {
        let turns = rounds(500);
        let notify = Arc::new(Notify::new());
        let received = Arc::new(AtomicU32::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let waiters: Vec<_> = (0..4)
            .map(|seed| {
                let (notify, received, over) = (notify.clone(), received.clone(), over.clone());
                go(move || {
                    let dice = Dice::new(seed);
                    while !over.load(SeqCst) {
                        let limit = Duration::from_micros(dice.below(60));
                        if notify.notified_timeout(limit) {
                            received.fetch_add(1, SeqCst);
                        }
                    }
                })
            })
            .collect();
        let dice = Dice::new(99);
        for turn in 1..=turns as u32 {
            notify.notify_one();
            until("the notification is received", || {
                received.load(SeqCst) == turn
            });
            gopark::sleep(Duration::from_micros(dice.below(60)));
        }
        over.store(true, SeqCst);
        waiters.into_iter().for_each(join);
        assert_eq!(u64::from(received.load(SeqCst)), turns);
    });
}

#[test]
fn an_initializer_may_park_and_the_others_wait_for_it() {
    check(|| {
        let once = Arc::new((Once::new(), AtomicU32::new(0), Notify::new()));
        let call = || {
            let once = once.clone();
            go(move || {
                once.0.call_once(|| {
                    once.2.notified();
                    once.1.fetch_add(1, SeqCst);
                });
                assert_eq!(once.1.load(SeqCst), 1);
            })
        };
        let first = call();
        until_waits(&first, Wait::Notify);
        let callers: Vec<_> = (0..MANY).map(|_| call()).collect();
        until_all_wait(&callers, Wait::Once);
        assert!(!once.0.is_completed());
        once.2.notify_one();
        join(first);
        callers.into_iter().for_each(join);
    });
}

#[test]
fn an_initializer_that_panics_poisons_a_once_and_leaves_a_cell_to_the_next() {
    check(|| {
        let once = Once::new();
        let poison = || -> () { once.call_once(|| panic::resume_unwind(Box::new("first"))) };
        assert_eq!(panic_text(poison), "first");
        assert!(panic_text(|| once.call_once(|| ())).contains("has panicked"));
        once.call_once_force(|state| assert!(state.is_poisoned()));
        once.call_once(|| unreachable!());

        let cell = Arc::new(OnceLock::new());
        let (theirs, entered) = (cell.clone(), Arc::new((Notify::new(), Notify::new())));
        let enters = entered.clone();
        let first = go(move || {
            theirs.get_or_init(|| {
                enters.0.notify_one();
                enters.1.notified();
                panic::resume_unwind(Box::new(()))
            });
        });
        entered.0.notified();
        let theirs = cell.clone();
        let second = go(move || *theirs.get_or_init(|| 2));
        until_waits(&second, Wait::Once);
        entered.1.notify_one();
        assert_eq!(join(second), 2);
        assert!(first.join().is_err());
        assert_eq!(cell.set(3), Err(3));

        let lazy: LazyLock<u32, _> = LazyLock::new(|| panic::resume_unwind(Box::new("lazy")));
        assert_eq!(panic_text(|| *lazy), "lazy");
        assert!(panic_text(|| *lazy).contains("previously been poisoned"));
    });
}

#[test]
fn an_initializer_that_waits_for_itself_panics() {
    check(|| {
        let once = Once::new();
        let recursive = || once.call_once(|| once.call_once(|| ()));
        assert!(panic_text(recursive).contains("waits for itself"));
    });
    check_on_thread(|| {
        let cell: OnceLock<u32> = OnceLock::new();
        let recursive = || *cell.get_or_init(|| *cell.get_or_init(|| 1));
        assert!(panic_text(recursive).contains("waits for itself"));
        assert_eq!(cell.get_or_init(|| 2), &2);
    });
}

#[test]
fn a_barrier_lets_all_go_on_together_and_has_one_leader() {
    const GOROUTINES: usize = 40;
    const THREADS: usize = 2;
    check(|| {
        let turns = rounds(100) as usize;
        let barrier = Arc::new(Barrier::new(GOROUTINES + THREADS));
        let counts = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        let worker = || {
            let (barrier, counts) = (barrier.clone(), counts.clone());
            move || {
                for turn in 1..=turns {
                    counts.0.fetch_add(1, SeqCst);
                    if barrier.wait().is_leader() {
                        counts.1.fetch_add(1, SeqCst);
                    }
                    assert!(counts.0.load(SeqCst) >= turn * (GOROUTINES + THREADS));
                    barrier.wait();
                }
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|_| thread::spawn(worker())).collect();
        let goroutines: Vec<_> = (0..GOROUTINES).map(|_| go(worker())).collect();
        goroutines.into_iter().for_each(join);
        gopark::blocking(|| {
            threads
                .into_iter()
                .for_each(|thread| thread.join().unwrap())
        });
        assert_eq!(counts.1.load(SeqCst), turns);
    });
}

#[test]
fn a_semaphore_serves_in_the_order_of_arrival() {
    check(|| {
        let semaphore = Arc::new(Semaphore::new(2));
        let order = Arc::new(Mutex::new(Vec::new()));
        let arrive = |wanted: usize| {
            let (semaphore, order) = (semaphore.clone(), order.clone());
            let goroutine = go(move || {
                let permit = semaphore.acquire_many(wanted).unwrap();
                order.lock().unwrap().push(wanted);
                permit.forget();
            });
            until_waits(&goroutine, Wait::Semaphore);
            goroutine
        };
        let [many, few, last] = [5, 1, 2].map(arrive);
        assert!(
            semaphore.try_acquire().is_none(),
            "the permits are for the first waiter"
        );
        semaphore.add_permits(2);
        gopark::sleep(Duration::from_millis(1));
        assert_eq!(*order.lock().unwrap(), [0; 0]);
        semaphore.add_permits(1);
        join(many);
        semaphore.add_permits(1);
        join(few);
        assert!(!last.is_finished());
        semaphore.add_permits(3);
        join(last);
        assert_eq!(*order.lock().unwrap(), [5, 1, 2]);
        assert_eq!(semaphore.available_permits(), 1);
    });
}

#[test]
fn a_waiter_that_gives_up_lets_those_behind_it_have_the_permits() {
    check(|| {
        let sched = gopark::scheduler();
        let semaphore = Arc::new(gopark_core::semaphore::RawSemaphore::new(1, sched));
        let theirs = semaphore.clone();
        let limit = sched.now() + GIVES_UP;
        let many = go(move || theirs.acquire_until(2, limit));
        until_waits(&many, Wait::Semaphore);
        let theirs = semaphore.clone();
        let few = go(move || theirs.acquire(1));
        until_waits(&few, Wait::Semaphore);
        assert!(!join(many));
        join(few);
        assert_eq!(semaphore.available(), 0);
    });
}

#[test]
fn permits_are_neither_lost_nor_made_when_waits_end_by_their_limits() {
    const PERMITS: usize = 3;
    check_on_thread(|| {
        let turns = rounds(300);
        let semaphore = Arc::new(Semaphore::new(PERMITS));
        let inside = Arc::new(AtomicUsize::new(0));
        let worker = |seed: u64| {
            let (semaphore, inside) = (semaphore.clone(), inside.clone());
            move || {
                let dice = Dice::new(seed);
                for _ in 0..turns {
                    let (permit, count) = match dice.below(3) {
                        0 => (Some(semaphore.acquire_many(2).unwrap()), 2),
                        1 => (Some(semaphore.acquire().unwrap()), 1),
                        _ => {
                            let limit = Duration::from_micros(dice.below(100));
                            (semaphore.acquire_timeout(limit), 1)
                        }
                    };
                    if permit.is_some() {
                        assert!(inside.fetch_add(count, SeqCst) + count <= PERMITS);
                        gopark::sleep(Duration::from_micros(dice.below(20)));
                        inside.fetch_sub(count, SeqCst);
                    }
                }
            }
        };
        let goroutines: Vec<_> = (0..8).map(|seed| go(worker(seed))).collect();
        let threads: Vec<_> = (8..10).map(|seed| thread::spawn(worker(seed))).collect();
        goroutines.into_iter().for_each(join);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(semaphore.available_permits(), PERMITS);
    });
}

#[test]
fn a_wait_group_waits_for_all_members_and_can_be_used_again() {
    check(|| {
        let group = Arc::new(WaitGroup::new());
        let done = Arc::new(AtomicUsize::new(0));
        for round in 1..=20 {
            for member in 0..50 {
                let done = done.clone();
                drop(group.go(move || {
                    yield_now();
                    done.fetch_add(1, SeqCst);
                    if member % 10 == 0 {
                        panic::resume_unwind(Box::new(()));
                    }
                }));
            }
            let theirs = group.clone();
            let other = go(move || theirs.wait());
            group.wait();
            assert_eq!(done.load(SeqCst), round * 50);
            join(other);
        }
        assert!(panic_text(|| group.done()).contains("more often"));
        group.add(1);
        group.done();
        group.wait();
    });
}

#[test]
fn a_notify_stores_one_permit_and_wakes_in_order() {
    check(|| {
        let notify = Arc::new(Notify::new());
        notify.notify_one();
        notify.notify_one();
        notify.notified();
        assert!(
            !notify.notified_timeout(Duration::from_millis(1)),
            "there is one permit at most"
        );

        let order = Arc::new(Mutex::new(Vec::new()));
        let arrive = |number: usize| {
            let (notify, order) = (notify.clone(), order.clone());
            let waiter = go(move || {
                notify.notified();
                order.lock().unwrap().push(number);
            });
            until_waits(&waiter, Wait::Notify);
            waiter
        };
        let mut waiters: Vec<_> = (0..4).map(arrive).collect();
        notify.notify_one();
        join(waiters.remove(0));
        notify.notify_waiters();
        waiters.into_iter().for_each(join);
        assert_eq!(order.lock().unwrap()[0], 0);
        assert!(
            !notify.notified_timeout(Duration::from_millis(1)),
            "no permit was stored"
        );
    });
}

#[test]
fn threads_and_goroutines_wake_each_other() {
    check_on_thread(|| {
        let turns = rounds(500);
        let pair = Arc::new((Mutex::new(0), Condvar::new()));
        let player = |mine: u64| {
            let pair = pair.clone();
            move || {
                for _ in 0..turns {
                    let guard = pair.0.lock().unwrap();
                    let mut turn = pair.1.wait_while(guard, |turn| *turn % 2 != mine).unwrap();
                    *turn += 1;
                    drop(turn);
                    pair.1.notify_all();
                }
            }
        };
        let thread = thread::spawn(player(0));
        join(go(player(1)));
        thread.join().unwrap();
        assert_eq!(*pair.0.lock().unwrap(), 2 * turns);
    });
}
