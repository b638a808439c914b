//! Locks and other shared state, between goroutines and ordinary threads.

use super::check_on_thread;
use crate::check;
use gopark::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use gopark::sync::{
    Arc, Barrier, Condvar, LazyLock, Mutex, Notify, Once, OnceLock, RwLock, RwLockWriteGuard,
    Semaphore, TryLockError, WaitGroup,
};
use gopark::{JoinHandle, go, go_local, yield_now};
use gopark_core::rwlock::RawRwLock;
use gopark_core::watch::{State, Wait};
use gopark_tests::{Dice, join, rounds, until};
use std::collections::HashSet;
use std::panic::{self, AssertUnwindSafe};
use std::slice;
use std::thread;
use std::time::{Duration, Instant};

/// More waiters than are woken under one hold of a lock.
const MANY: usize = 100;

/// Nanoseconds after which a waiter gives up. Another one joins the queue behind it before.
const GIVES_UP: i64 = 500_000_000;

/// Waits until a goroutine is parked for the expected reason.
#[track_caller]
fn until_waits<T>(goroutine: &JoinHandle<T>, expected: Wait) {
    until_all_wait(slice::from_ref(goroutine), expected);
}

/// Waits until all of them are parked for the expected reason.
#[track_caller]
fn until_all_wait<T>(goroutines: &[JoinHandle<T>], expected: Wait) {
    let ids: HashSet<_> = goroutines.iter().map(JoinHandle::id).collect();
    let reason = expected.reason();
    until(reason, || {
        let mut waiting = 0;
        gopark::scheduler().snapshot(None, |it| {
            let waits = matches!(it.state, State::Waiting { wait, .. } if wait.reason() == reason);
            waiting += usize::from(waits && ids.contains(&it.id));
        });
        waiting == ids.len()
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
            let guards = (theirs.lock().unwrap(), shared.write().unwrap());
            enters.store(true, SeqCst);
            yield_now();
            drop(guards);
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
                let permit = semaphore.acquire_many(wanted);
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
                        0 => (Some(semaphore.acquire_many(2)), 2),
                        1 => (Some(semaphore.acquire()), 1),
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
