//! What holds for goroutines only: neighbours on a thread, and threads beside goroutines.

use crate::behaviours::actors::{Actor, Flag, LONG, until};
use crate::behaviours::mutex::until_wait;
use crate::check;
use parking_lot::lock_api::GetThreadId;
use parking_lot::{Condvar, Mutex, Once, RawThreadId, ReentrantMutex, RwLock};
use std::cell::Cell;
use std::num::NonZeroUsize;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::Arc;

/// Runs `waits` in a goroutine on this thread. It must wait until `ends` was called, and another
/// goroutine of the thread must run until then.
fn keeps_no_neighbour(waits: impl FnOnce() + 'static, ends: impl FnOnce()) {
    let waiting = Rc::new(Cell::new(false));
    let began = waiting.clone();
    let waiter = gopark::go_local(move || {
        began.set(true);
        waits();
    });
    until("the waiter", || waiting.get());
    let neighbour = gopark::go_local(|| {
        gopark::yield_now();
        gopark::sleep(std::time::Duration::from_micros(100));
        7
    });
    assert_eq!(neighbour.join().unwrap(), 7);
    assert!(!waiter.is_finished());
    ends();
    waiter.join().unwrap();
}

#[test]
fn waiters_do_not_keep_their_neighbours() {
    check(|| {
        let mutex = Rc::new(Mutex::new(()));
        let (theirs, guard) = (mutex.clone(), mutex.lock());
        keeps_no_neighbour(move || drop(theirs.lock()), || drop(guard));
        let (theirs, guard) = (mutex.clone(), mutex.lock());
        keeps_no_neighbour(
            move || assert!(theirs.try_lock_for(LONG).is_some()),
            || drop(guard),
        );

        let lock = Rc::new(RwLock::new(()));
        let (theirs, guard) = (lock.clone(), lock.write());
        keeps_no_neighbour(move || drop(theirs.read()), || drop(guard));
        let (theirs, guard) = (lock.clone(), lock.read());
        keeps_no_neighbour(move || drop(theirs.write()), || drop(guard));
        let (theirs, guard) = (lock.clone(), lock.upgradable_read());
        keeps_no_neighbour(move || drop(theirs.upgradable_read()), || drop(guard));

        let condvar = Rc::new(Condvar::new());
        let theirs = (mutex.clone(), condvar.clone());
        keeps_no_neighbour(
            move || theirs.1.wait(&mut theirs.0.lock()),
            || assert!(condvar.notify_one()),
        );

        let (once, over) = (Rc::new(Once::new()), Rc::new(Flag::default()));
        let (theirs, ends) = (once.clone(), over.clone());
        let runs = gopark::go_local(move || theirs.call_once(|| ends.wait()));
        until("the initializer", || {
            !once.state().done() && once.state() != parking_lot::OnceState::New
        });
        let theirs = once.clone();
        keeps_no_neighbour(move || theirs.call_once(|| unreachable!()), || over.set());
        runs.join().unwrap();
    });
}

#[test]
fn two_goroutines_of_a_thread_exclude_each_other_from_a_reentrant_mutex() {
    check(|| {
        let mutex = Rc::new(ReentrantMutex::new(Cell::new(0)));
        let outer = mutex.lock();
        let theirs = mutex.clone();
        let refused = gopark::go_local(move || theirs.try_lock().is_none());
        assert!(refused.join().unwrap(), "both are on one thread");
        let theirs = mutex.clone();
        let waiter = gopark::go_local(move || {
            let guard = theirs.lock();
            assert_eq!(guard.get(), 1);
            guard.set(2);
        });
        gopark::yield_now();
        let inner = mutex.lock();
        assert_eq!(inner.get(), 0);
        inner.set(1);
        drop((inner, outer));
        waiter.join().unwrap();
        assert_eq!(mutex.lock().get(), 2);
    });
}

#[test]
fn an_identity_is_the_same_after_the_values_of_the_goroutine_were_dropped() {
    thread_local! {
        static SEEN: Cell<Option<NonZeroUsize>> = const { Cell::new(None) };
    }
    struct Looks;
    impl Drop for Looks {
        fn drop(&mut self) {
            SEEN.set(Some(RawThreadId.nonzero_thread_id()));
        }
    }
    check(|| {
        // Without a handle, a result is dropped on the goroutine's stack after its values.
        let (send, receive) = gopark::chan::bounded(1);
        drop(gopark::go_local(move || {
            send.send(RawThreadId.nonzero_thread_id()).unwrap();
            Looks
        }));
        let before = receive.recv().unwrap();
        assert_ne!(before, RawThreadId.nonzero_thread_id());
        until("the drop", || SEEN.get().is_some());
        assert_eq!(SEEN.take(), Some(before));
    });
}

/// A goroutine that tries again and again would keep the owner, its neighbour, from running.
#[test]
fn attempts_in_a_loop_let_the_owner_run() {
    check(|| {
        let shared = Rc::new((Mutex::new(0), RwLock::new(0)));
        let theirs = shared.clone();
        let owner = gopark::go_local(move || {
            let (mut first, mut second) = (theirs.0.lock(), theirs.1.write());
            for _ in 0..3 {
                gopark::yield_now();
            }
            (*first, *second) = (1, 1);
        });
        until("the owner", || shared.1.is_locked());
        let first = loop {
            if let Some(guard) = shared.0.try_lock() {
                break *guard;
            }
        };
        let second = loop {
            if let Some(guard) = shared.1.try_read() {
                break *guard;
            }
        };
        assert_eq!(first + second, 2);
        owner.join().unwrap();
    });
}

#[test]
fn a_goroutine_that_locks_again_and_again_lets_a_waiter_of_its_thread_run() {
    check(|| {
        let mutex = Rc::new(Mutex::new(false));
        let guard = mutex.lock();
        let theirs = mutex.clone();
        let waiter = gopark::go_local(move || *theirs.lock() = true);
        until_wait(&mutex, 1);
        drop(guard);
        while !*mutex.lock() {}
        waiter.join().unwrap();
    });
}

#[test]
fn goroutines_and_threads_share_locks() {
    check(|| {
        let shared = Arc::new((Mutex::new(0), RwLock::new(0), Condvar::new()));
        let actor = |turns: u32| {
            let shared = shared.clone();
            move || {
                for turn in 0..turns {
                    *shared.0.lock() += 1;
                    if turn % 8 == 0 {
                        gopark::yield_now();
                    }
                    *shared.1.write() += 1;
                    let _read = shared.1.read();
                    shared.2.notify_all();
                }
            }
        };
        let actors: Vec<_> = (0..4)
            .flat_map(|_| [Actor::goroutine(actor(300)), Actor::thread(actor(300))])
            .collect();
        let mut sum = shared.0.lock();
        shared.2.wait_while(&mut sum, |sum| *sum < 1_000);
        drop(sum);
        actors.into_iter().for_each(Actor::join);
        assert_eq!((*shared.0.lock(), *shared.1.read()), (2_400, 2_400));
    });
}

#[test]
fn a_goroutine_unlocks_for_a_thread_and_a_thread_for_a_goroutine() {
    check(|| {
        let mutex = Arc::new(Mutex::new(0));
        let guard = mutex.lock();
        let theirs = mutex.clone();
        let thread = Actor::thread(move || *theirs.lock() += 1);
        until_wait(&mutex, 1);
        drop(guard);
        thread.join();
        let (theirs, locked) = (mutex.clone(), Arc::new(Flag::default()));
        let (locks, release) = (locked.clone(), Arc::new(Flag::default()));
        let released = release.clone();
        let thread = Actor::thread(move || {
            let _guard = theirs.lock();
            locks.set();
            released.wait();
        });
        locked.wait();
        let theirs = mutex.clone();
        let waiter = gopark::go(move || *theirs.lock() += 1);
        until_wait(&mutex, 1);
        release.set();
        waiter.join().unwrap();
        thread.join();
        assert_eq!(*mutex.lock(), 2);
    });
}

#[test]
fn an_initializer_that_calls_its_once_panics() {
    check(|| {
        let once = Once::new();
        let inner = || once.call_once(|| once.call_once(|| unreachable!()));
        assert!(panic::catch_unwind(AssertUnwindSafe(inner)).is_err());
        assert!(once.state().poisoned());
    });
}
