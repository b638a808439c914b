//! Mutexes and read-write locks, between goroutines and ordinary threads.

use super::check_on_thread;
use super::sync::{GIVES_UP, MANY, until_all_wait, until_waits};
use crate::check;
use gopark::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use gopark::sync::{
    Arc, Barrier, Condvar, Mutex, Notify, RwLock, RwLockWriteGuard, Semaphore, TryLockError,
};
use gopark::{JoinHandle, go, go_local, yield_now};
use gopark_core::rwlock::RawRwLock;
use gopark_core::watch::Wait;
use gopark_tests::{Dice, join, rounds, until};
use std::panic::{self, AssertUnwindSafe};
use std::thread;
use std::time::{Duration, Instant};

/// Runs `destructor` while the calling goroutine unwinds.
fn while_unwinding(destructor: impl FnOnce()) {
    struct OnDrop<F: FnOnce()>(Option<F>);

    impl<F: FnOnce()> Drop for OnDrop<F> {
        fn drop(&mut self) {
            self.0.take().unwrap()();
        }
    }

    let unwinding: thread::Result<()> = panic::catch_unwind(AssertUnwindSafe(|| {
        let _dropped = OnDrop(Some(destructor));
        // `panic!` would call the hook, which prints.
        panic::resume_unwind(Box::new(()))
    }));
    assert!(unwinding.is_err());
}

#[test]
fn a_mutex_excludes_goroutines_and_threads_and_loses_no_wake_up() {
    const ADDERS: u64 = 8;
    check_on_thread(|| {
        let turns = rounds(2_000);
        let sum = Arc::new(Mutex::new(0));
        let inside = Arc::new(AtomicU32::new(0));
        let adder = |seed: u64| {
            let (sum, inside) = (sum.clone(), inside.clone());
            move || {
                let dice = Dice::new(seed);
                for _ in 0..turns {
                    let mut sum = sum.lock().unwrap();
                    assert_eq!(inside.fetch_add(1, SeqCst), 0);
                    let before = *sum;
                    match dice.below(8) {
                        0 => yield_now(),
                        1 => std::hint::spin_loop(),
                        _ => {}
                    }
                    *sum = before + 1;
                    inside.fetch_sub(1, SeqCst);
                }
            }
        };
        let goroutines: Vec<_> = (0..ADDERS).map(|seed| go(adder(seed))).collect();
        let threads: Vec<_> = (0..3)
            .map(|seed| thread::spawn(adder(ADDERS + seed)))
            .collect();
        goroutines.into_iter().for_each(join);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(*sum.lock().unwrap(), (ADDERS + 3) * turns);
    });
}

#[test]
fn a_guard_is_held_over_parks_and_a_waiter_does_not_keep_its_neighbours() {
    check(|| {
        let mutex = Arc::new(Mutex::new(0));
        let guard = mutex.lock().unwrap();
        let theirs = mutex.clone();
        let waiter = go_local(move || *theirs.lock().unwrap());
        until_waits(&waiter, Wait::Mutex(0));
        assert_eq!(join(go_local(|| 7)), 7);
        gopark::sleep(Duration::from_millis(1));
        assert!(!waiter.is_finished());
        drop(guard);
        assert_eq!(join(waiter), 0);
    });
}

/// Without a yield in `lock`, the waiter would not run on the thread of the hog.
#[test]
fn a_goroutine_that_locks_again_and_again_lets_a_waiter_of_its_thread_run() {
    check(|| {
        let mutex = Arc::new(Mutex::new(()));
        let guard = mutex.lock().unwrap();
        let theirs = mutex.clone();
        let over = Arc::new(AtomicBool::new(false));
        let done = over.clone();
        let waiter = go_local(move || {
            drop(theirs.lock().unwrap());
            done.store(true, SeqCst);
        });
        until_waits(&waiter, Wait::Mutex(0));
        drop(guard);
        let start = Instant::now();
        while !over.load(SeqCst) {
            drop(mutex.lock().unwrap());
            assert!(
                start.elapsed() < gopark_tests::LIMIT / 2,
                "the waiter starves"
            );
        }
        join(waiter);
    });
}

/// Each hog keeps the mutex whenever another goroutine runs, so only a hand-over serves a waiter.
#[test]
fn a_waiter_of_a_mutex_that_is_always_locked_when_it_runs_is_handed_the_mutex() {
    check(|| {
        let mutex = Arc::new(Mutex::new(()));
        let over = Arc::new(AtomicBool::new(false));
        let held = Arc::new(Notify::new());
        let hog = || {
            let (mutex, over, held) = (mutex.clone(), over.clone(), held.clone());
            go_local(move || {
                while !over.load(SeqCst) {
                    let guard = mutex.lock().unwrap();
                    held.notify_one();
                    yield_now();
                    drop(guard);
                }
            })
        };
        let hogs = [hog(), hog()];
        held.notified();
        for _ in 0..10 {
            drop(mutex.lock().unwrap());
        }
        over.store(true, SeqCst);
        hogs.into_iter().for_each(join);
    });
}

#[test]
fn a_goroutine_that_polls_a_lock_lets_its_owner_run() {
    check(|| {
        let mutex = Arc::new(Mutex::new(()));
        let lock = Arc::new(RwLock::new(()));
        let semaphore = Arc::new(Semaphore::new(0));
        let (theirs, shared, permits) = (mutex.clone(), lock.clone(), semaphore.clone());
        let entered = Arc::new(AtomicBool::new(false));
        let enters = entered.clone();
        let owner = go_local(move || {
            let (first, second) = (theirs.lock().unwrap(), shared.write().unwrap());
            enters.store(true, SeqCst);
            yield_now();
            drop(first);
            yield_now();
            drop(second);
            yield_now();
            permits.add_permits(1);
        });
        until("the owner has the locks", || entered.load(SeqCst));
        while mutex.try_lock().is_err() {}
        while lock.try_read().is_err() {}
        while semaphore.try_acquire().is_none() {}
        join(owner);

        let (pair, ready) = (
            Arc::new((Mutex::new(false), Condvar::new())),
            Duration::ZERO,
        );
        let theirs = pair.clone();
        let setter = go_local(move || *theirs.0.lock().unwrap() = true);
        let mut guard = pair.0.lock().unwrap();
        while !*guard {
            guard = pair.1.wait_timeout(guard, ready).unwrap().0;
        }
        drop(guard);
        join(setter);
    });
}

#[test]
fn a_panic_poisons_the_locks_that_its_goroutine_holds() {
    check(|| {
        let mutex = Arc::new(Mutex::new(1));
        let lock = Arc::new(RwLock::new(2));
        let read = Arc::new(RwLock::new(3));
        let theirs = (mutex.clone(), lock.clone(), read.clone());
        let failed: JoinHandle<()> = go(move || {
            let _guards = (theirs.0.lock(), theirs.1.write(), theirs.2.read());
            panic::resume_unwind(Box::new(()))
        });
        assert!(failed.join().is_err());
        assert!(mutex.is_poisoned() && lock.is_poisoned() && !read.is_poisoned());
        assert_eq!(*mutex.lock().unwrap_err().into_inner(), 1);
        assert!(matches!(mutex.try_lock(), Err(TryLockError::Poisoned(_))));
        assert_eq!(*lock.read().unwrap_err().into_inner(), 2);
        assert_eq!(*lock.write().unwrap_err().into_inner(), 2);
        assert_eq!(*read.write().unwrap(), 3);
        mutex.clear_poison();
        assert_eq!(*mutex.lock().unwrap(), 1);

        while_unwinding(|| *mutex.lock().unwrap() += 1);
        assert_eq!(
            *mutex.lock().unwrap(),
            2,
            "a guard of a destructor poisons nothing"
        );
    });
}

/// A goroutine that migrates takes a panic along, which confuses `std` about all that follow.
#[test]
fn a_panic_poisons_no_lock_of_a_neighbour() {
    check(|| {
        if gopark::scheduler().config().migrate {
            return;
        }
        let (mine, own) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(())));
        let (parked, seen) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (parks, sees, theirs) = (parked.clone(), seen.clone(), own.clone());
        let guard = mine.lock().unwrap();
        let unwinding = go_local(move || {
            let mut guard = Some(theirs.lock());
            while_unwinding(|| {
                parks.notify_one();
                sees.notified();
                drop(guard.take());
            });
        });
        parked.notified();
        assert!(thread::panicking(), "std counts the panic of the neighbour");
        drop(guard);
        drop(mine.lock().unwrap());
        seen.notify_one();
        join(unwinding);
        assert!(!mine.is_poisoned());
        assert!(own.is_poisoned());
    });
}

#[test]
fn readers_share_a_lock_and_writers_do_not() {
    check(|| {
        let turns = rounds(1_000);
        let lock = Arc::new(RwLock::new([0u64; 2]));
        let readers = Arc::new(AtomicUsize::new(0));
        let worker = |seed: u64| {
            let (lock, readers) = (lock.clone(), readers.clone());
            move || {
                let dice = Dice::new(seed);
                for _ in 0..turns {
                    if dice.below(3) == 0 {
                        let mut guard = lock.write().unwrap();
                        assert_eq!(readers.load(SeqCst), 0);
                        guard[0] += 1;
                        if dice.below(4) == 0 {
                            yield_now();
                        }
                        guard[1] += 1;
                    } else {
                        let guard = lock.read().unwrap();
                        readers.fetch_add(1, SeqCst);
                        if dice.below(4) == 0 {
                            yield_now();
                        }
                        assert_eq!(guard[0], guard[1]);
                        readers.fetch_sub(1, SeqCst);
                    }
                }
            }
        };
        let threads: Vec<_> = (0..2).map(|seed| thread::spawn(worker(seed))).collect();
        let goroutines: Vec<_> = (2..10).map(|seed| go(worker(seed))).collect();
        goroutines.into_iter().for_each(join);
        gopark::blocking(|| {
            threads
                .into_iter()
                .for_each(|thread| thread.join().unwrap())
        });

        let first = lock.read().unwrap();
        let theirs = lock.clone();
        join(go(move || drop(theirs.read().unwrap())));
        drop(first);
    });
}

#[test]
fn a_read_write_lock_is_handed_over_in_the_order_of_arrival() {
    check(|| {
        let lock = Arc::new(RwLock::new(Vec::new()));
        let order = Arc::new(Mutex::new(Vec::new()));
        let first = lock.read().unwrap();
        let arrive = |name: &'static str| {
            let (lock, order) = (lock.clone(), order.clone());
            let goroutine = go(move || match name.starts_with("write") {
                true => {
                    let mut names = lock.write().unwrap();
                    order.lock().unwrap().push(name);
                    names.push(name);
                    yield_now();
                }
                false => {
                    let _names = lock.read().unwrap();
                    order.lock().unwrap().push(name);
                    yield_now();
                }
            });
            until_waits(
                &goroutine,
                match name.starts_with("write") {
                    true => Wait::RwLockWrite,
                    false => Wait::RwLockRead,
                },
            );
            goroutine
        };
        let names = ["write 1", "read 1", "write 2", "write 3", "read 2"];
        let arrived = names.map(arrive);
        assert!(
            lock.try_read().is_err(),
            "a reader does not overtake a writer that waits"
        );
        drop(first);
        arrived.into_iter().for_each(join);
        assert_eq!(*order.lock().unwrap(), names);
    });
}

#[test]
fn all_readers_that_wait_together_are_admitted_together() {
    check(|| {
        let lock = Arc::new(RwLock::new(()));
        let all = Arc::new(Barrier::new(MANY));
        let writing = lock.write().unwrap();
        let readers: Vec<_> = (0..MANY)
            .map(|_| {
                let (lock, all) = (lock.clone(), all.clone());
                go(move || {
                    let _guard = lock.read().unwrap();
                    all.wait();
                })
            })
            .collect();
        until_all_wait(&readers, Wait::RwLockRead);
        let theirs = lock.clone();
        let writer = go(move || drop(theirs.write().unwrap()));
        until_waits(&writer, Wait::RwLockWrite);
        let reading = RwLockWriteGuard::downgrade(writing);
        readers.into_iter().for_each(join);
        assert!(!writer.is_finished(), "a guard for reading is left");
        drop(reading);
        join(writer);
    });
}

#[test]
fn a_writer_that_gives_up_lets_the_readers_behind_it_in() {
    check(|| {
        let sched = gopark::scheduler();
        let lock = Arc::new(RawRwLock::new(sched));
        lock.read();
        let theirs = lock.clone();
        let limit = sched.now() + GIVES_UP;
        let writer = go(move || theirs.write_until(limit));
        until_waits(&writer, Wait::RwLockWrite);
        let theirs = lock.clone();
        let reader = go(move || theirs.read());
        until_waits(&reader, Wait::RwLockRead);
        assert!(!join(writer));
        join(reader);
        assert!(!lock.try_write() && lock.try_read());
    });
}
