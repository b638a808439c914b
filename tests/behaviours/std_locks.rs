//! Goroutines that share the locks of `std`: programs that hang if a wait for a lock keeps a thread
//! for good, and what a wait that parks keeps to.

mod calls;

use super::sync::{until_all_wait, until_waits};
use crate::check;
use gopark::{JoinHandle, go, go_local, yield_now};
use gopark_core::watch::{LockBlock, State, Wait};
use gopark_tests::{join, std_locks, until};
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, RwLock, TryLockError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

const PARKED: Wait = Wait::StdLock(0);

/// Never inlined: the compiler could keep the address of a thread-local across a park.
#[inline(never)]
fn here() -> ThreadId {
    thread::current().id()
}

#[test]
fn a_mutex_is_held_over_writes_that_yield() {
    check(std_locks::writes);
}

#[test]
fn a_chat_server_with_one_mutex_serves_all_that_read_and_drops_the_others() {
    check(|| std_locks::chat(60, 2));
}

#[test]
fn a_thousand_goroutines_meet_in_a_condvar() {
    check(|| std_locks::meeting(1_000));
}

#[test]
fn goroutines_meet_at_a_barrier_of_std() {
    check(std_locks::barrier);
}

#[test]
fn initializers_of_std_park_while_others_wait_for_them() {
    check(std_locks::initializers);
}

#[test]
fn readers_and_writers_hold_a_lock_of_std_while_they_park() {
    check(std_locks::readers);
}

#[test]
fn a_pool_dials_with_its_mutex_held_and_waits_in_a_condvar() {
    check(std_locks::pool);
}

#[test]
fn a_goroutine_waits_for_a_lock_of_std_while_it_holds_another() {
    check(std_locks::nested);
}

#[test]
fn a_thread_and_goroutines_that_share_a_mutex_of_std_all_go_on() {
    check(std_locks::with_a_thread);
}

#[test]
fn a_goroutine_that_waited_for_a_lock_of_std_goes_on_on_its_thread() {
    check(|| {
        let lock = Arc::new(Mutex::new(()));
        let held = lock.lock().unwrap();
        let waiters: Vec<_> = (0..8)
            .map(|_| {
                let lock = lock.clone();
                go(move || {
                    let before = here();
                    let _guard = lock.lock().unwrap();
                    assert_eq!(here(), before);
                })
            })
            .collect();
        until_all_wait(&waiters, PARKED);
        drop(held);
        waiters.into_iter().for_each(join);
    });
}

/// A waiter without a limit in a Condvar, which is parked. From then on, waits there park.
fn parked_in(pair: &Arc<(Mutex<bool>, Condvar)>) -> JoinHandle<()> {
    let pair = pair.clone();
    let waiter = go(move || {
        let ready = pair.0.lock().unwrap();
        drop(pair.1.wait_while(ready, |ready| !*ready).unwrap());
    });
    until_waits(&waiter, PARKED);
    waiter
}

#[test]
fn a_wait_with_a_limit_in_a_condvar_of_std_ends_by_its_limit_and_not_before() {
    check(|| {
        let pair = Arc::new((Mutex::new(false), Condvar::new()));
        let wait = |limit: u64| {
            let limit = Duration::from_millis(limit);
            let start = Instant::now();
            let ready = pair.0.lock().unwrap();
            let wait = pair.1.wait_timeout_while(ready, limit, |ready| !*ready);
            assert!(wait.unwrap().1.timed_out() && start.elapsed() >= limit);
        };
        [0, 1, 30].into_iter().for_each(wait);
        let first = parked_in(&pair);
        [0, 1, 30].into_iter().for_each(wait);

        let theirs = pair.clone();
        let patient = go(move || {
            let ready = theirs.0.lock().unwrap();
            let wait = theirs
                .1
                .wait_timeout_while(ready, Duration::MAX, |ready| !*ready);
            assert!(!wait.unwrap().1.timed_out());
        });
        until_waits(&patient, PARKED);
        *pair.0.lock().unwrap() = true;
        pair.1.notify_all();
        [first, patient].into_iter().for_each(join);
    });
}

#[test]
fn a_panic_poisons_the_lock_of_std_that_its_goroutine_holds_and_no_other() {
    check(|| {
        let locks = Arc::new([const { Mutex::new(()) }; 2]);
        let theirs = locks.clone();
        let panics = go(move || {
            drop(theirs[1].lock().unwrap());
            let _guard = theirs[0].lock().unwrap();
            (0..5).for_each(|_| yield_now());
            panic::resume_unwind(Box::new("a test expects this"));
        });
        until("the lock is held", || {
            matches!(locks[0].try_lock(), Err(TryLockError::WouldBlock)) || panics.is_finished()
        });
        let waiters = [(); 3].map(|()| {
            let locks = locks.clone();
            go(move || (locks[0].lock().is_err(), locks[1].lock().is_err()))
        });
        assert!(panics.join().is_err());
        assert_eq!(waiters.map(join), [(true, false); 3]);
    });
}

/// Four goroutines each take a lock `turns` times, and go on until all have.
fn all_take_turns(turns: u32, take: impl Fn(usize) + Clone + Send + 'static) {
    check(move || {
        let counts = Arc::new([const { AtomicU32::new(0) }; 4]);
        let goroutines: Vec<_> = (0..counts.len())
            .map(|number| {
                let (counts, take) = (counts.clone(), take.clone());
                go(move || {
                    while counts.iter().any(|count| count.load(SeqCst) < turns) {
                        take(number);
                        counts[number].fetch_add(1, SeqCst);
                    }
                })
            })
            .collect();
        goroutines.into_iter().for_each(join);
    });
}

#[test]
fn a_goroutine_that_locks_a_mutex_of_std_again_at_once_does_not_starve_the_others() {
    let mutex = Arc::new(Mutex::new(()));
    all_take_turns(5, move |_| {
        let _guard = mutex.lock().unwrap();
        yield_now();
    });
}

#[test]
fn a_writer_that_locks_a_rwlock_of_std_again_at_once_does_not_starve_its_readers() {
    let lock = Arc::new(RwLock::new(()));
    all_take_turns(5, move |number| {
        if number == 0 {
            let _guard = lock.write().unwrap();
            yield_now();
        } else {
            let _guard = lock.read().unwrap();
            yield_now();
        }
    });
}

/// What the goroutine's thread waits for, and since when, if that blocks the thread.
fn blocked(id: u64) -> Option<LockBlock> {
    let mut found = None;
    gopark::scheduler().snapshot(None, |it| {
        if let State::Running { lock, .. } = it.state {
            found = found.or(lock.filter(|_| it.id == id));
        }
    });
    found
}

/// A library that keeps a latch for each thread relies on this.
#[test]
fn a_goroutine_does_not_park_at_a_lock_in_a_thread_local() {
    thread_local!(static LATCH: (Mutex<bool>, Condvar) =
        const { (Mutex::new(false), Condvar::new()) });
    check(|| {
        let id = gopark::thread::current().id().goroutine().unwrap();
        let ran = Arc::new(AtomicBool::new(false));
        let theirs = ran.clone();
        let neighbour = go_local(move || theirs.store(true, SeqCst));
        LATCH.with(|(mutex, condvar)| {
            thread::scope(|scope| {
                scope.spawn(|| {
                    until("the thread is blocked for long", || {
                        let now = gopark::scheduler().now();
                        blocked(id).is_some_and(|lock| now - lock.since > 5_000_000)
                    });
                    *mutex.lock().unwrap() = true;
                    condvar.notify_one();
                });
                let done = mutex.lock().unwrap();
                drop(condvar.wait_while(done, |done| !*done).unwrap());
                assert!(!ran.load(SeqCst), "the neighbour could wait there, too");
            });
            *mutex.lock().unwrap() = false;
        });
        join(neighbour);
    });
}
