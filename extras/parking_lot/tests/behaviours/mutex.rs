//! `Mutex` and `FairMutex`.
#![allow(unsafe_code, reason = "`raw` lets a caller unlock")]

use super::actors::{Dice, Flag, LONG, SHORT, quiet_panic, until};
use crate::{check, spawn};
use parking_lot::{
    FairMutex, FairMutexGuard, MappedMutexGuard, Mutex, MutexGuard, const_fair_mutex, const_mutex,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Waits until so many wait for the mutex.
#[track_caller]
pub(crate) fn until_wait<T>(mutex: &Mutex<T>, count: usize) {
    // SAFETY: `waiters` does not unlock.
    until("waiters", || unsafe { mutex.raw() }.waiters() == count);
}

#[track_caller]
fn until_wait_fairly<T>(mutex: &FairMutex<T>, count: usize) {
    // SAFETY: `waiters` does not unlock.
    until("waiters", || unsafe { mutex.raw() }.waiters() == count);
}

/// Starts one that locks the mutex and holds it until `release` is set.
fn waiter(mutex: &Arc<Mutex<u32>>, release: &Arc<Flag>) -> crate::behaviours::actors::Actor<()> {
    let (mutex, release) = (mutex.clone(), release.clone());
    spawn(move || {
        let mut guard = mutex.lock();
        *guard += 1;
        release.wait();
    })
}

#[test]
fn it_excludes_and_loses_no_wake_up() {
    const ADDERS: u64 = 6;
    const TURNS: u64 = 1_500;
    check(|| {
        let sum = Arc::new(Mutex::new(0));
        let inside = Arc::new(AtomicU32::new(0));
        let adders = Vec::from_iter((0..ADDERS).map(|seed| {
            let (sum, inside) = (sum.clone(), inside.clone());
            spawn(move || {
                let mut dice = Dice::new(seed);
                for _ in 0..TURNS {
                    let mut sum = match dice.below(8) {
                        0 => sum.try_lock_for(LONG).unwrap(),
                        _ => sum.lock(),
                    };
                    assert_eq!(inside.fetch_add(1, SeqCst), 0);
                    let before = *sum;
                    if dice.below(8) == 0 {
                        gopark::yield_now();
                    }
                    *sum = before + 1;
                    inside.fetch_sub(1, SeqCst);
                    match dice.below(8) {
                        0 => MutexGuard::unlock_fair(sum),
                        1 => MutexGuard::bump(&mut { sum }),
                        _ => drop(sum),
                    }
                }
            })
        }));
        for adder in adders {
            adder.join();
        }
        assert_eq!(*sum.lock(), ADDERS * TURNS);
        until_wait(&sum, 0);
    });
}

/// Limits that come at the time of an unlock: each wait ends with the mutex or without it.
#[test]
fn a_limit_in_the_race_with_an_unlock_leaves_the_mutex_whole() {
    check(|| {
        let mutex = Arc::new(Mutex::new(0));
        let actors = Vec::from_iter((0..4).map(|seed| {
            let mutex = mutex.clone();
            spawn(move || {
                let (mut dice, mut locked) = (Dice::new(seed), 0);
                for _ in 0..400 {
                    let limit = Duration::from_micros(dice.below(60));
                    if let Some(mut guard) = mutex.try_lock_for(limit) {
                        *guard += 1;
                        locked += 1;
                        gopark::sleep(Duration::from_micros(dice.below(40)));
                    }
                }
                locked
            })
        }));
        let locked: u32 = actors.into_iter().map(|actor| actor.join()).sum();
        assert_eq!(*mutex.try_lock().unwrap(), locked);
        until_wait(&mutex, 0);
    });
}

#[test]
fn try_lock_succeeds_only_if_it_is_unlocked() {
    check(|| {
        let mutex = Mutex::new(1);
        let guard = mutex.try_lock().unwrap();
        assert!(mutex.is_locked() && mutex.try_lock().is_none());
        assert_eq!(format!("{mutex:?}"), "Mutex { data: <locked> }");
        drop(guard);
        assert!(!mutex.is_locked());
        assert_eq!(*mutex.try_lock().unwrap(), 1);
    });
}

#[test]
fn a_wait_with_a_limit_ends_at_the_limit_and_not_before() {
    check(|| {
        let mutex = Mutex::new(1);
        let guard = mutex.lock();
        let start = Instant::now();
        assert!(mutex.try_lock_for(SHORT).is_none());
        assert!(start.elapsed() >= SHORT);
        let limit = Instant::now() + SHORT;
        assert!(mutex.try_lock_until(limit).is_none());
        assert!(Instant::now() >= limit);
        assert!(mutex.try_lock_for(Duration::ZERO).is_none());
        assert!(mutex.try_lock_until(start).is_none());
        until_wait(&mutex, 0);
        drop(guard);
        assert!(mutex.try_lock_for(Duration::ZERO).is_some());
        assert!(mutex.try_lock_until(start).is_some());
    });
}

#[test]
fn a_wait_with_a_limit_ends_with_the_mutex() {
    for limit in [LONG, Duration::MAX] {
        check(move || {
            let mutex = Arc::new(Mutex::new(1));
            let guard = mutex.lock();
            let theirs = mutex.clone();
            let waiter = spawn(move || theirs.try_lock_for(limit).map(|guard| *guard));
            until_wait(&mutex, 1);
            drop(guard);
            assert_eq!(waiter.join(), Some(1));
        });
    }
}

#[test]
fn a_fair_unlock_hands_the_mutex_to_a_waiter() {
    check(|| {
        let (mutex, release) = (Arc::new(Mutex::new(0)), Arc::new(Flag::default()));
        let guard = mutex.lock();
        let waiter = waiter(&mutex, &release);
        until_wait(&mutex, 1);
        MutexGuard::unlock_fair(guard);
        assert!(mutex.try_lock().is_none(), "the waiter has it");
        release.set();
        waiter.join();
        MutexGuard::unlock_fair(mutex.lock());
        assert_eq!(
            *mutex.try_lock().unwrap(),
            1,
            "without a waiter it is unlocked"
        );
    });
}

#[test]
fn a_waiter_of_a_millisecond_is_handed_the_mutex() {
    check(|| {
        let (mutex, release) = (Arc::new(Mutex::new(0)), Arc::new(Flag::default()));
        let guard = mutex.lock();
        let waiter = waiter(&mutex, &release);
        until_wait(&mutex, 1);
        gopark::sleep(Duration::from_millis(2));
        drop(guard);
        assert!(mutex.try_lock().is_none(), "the waiter has it");
        release.set();
        waiter.join();
    });
}

#[test]
fn an_unlocked_mutex_can_be_had_before_a_woken_waiter_runs() {
    check(|| {
        let (mutex, release) = (Arc::new(Mutex::new(0)), Arc::new(Flag::default()));
        let guard = mutex.lock();
        let waiter = waiter(&mutex, &release);
        until_wait(&mutex, 1);
        drop(guard);
        match mutex.try_lock() {
            Some(guard) => assert_eq!(*guard, 0),
            None => assert!(mutex.is_locked(), "the waiter has it"),
        }
        release.set();
        waiter.join();
    });
}

#[test]
fn a_waiter_that_lost_the_mutex_is_served_before_those_behind_it() {
    check(|| {
        let mutex = Arc::new(Mutex::new(Vec::new()));
        let guard = mutex.lock();
        let waiters = Vec::from_iter((0..2).map(|number| {
            let theirs = mutex.clone();
            let waiter = spawn(move || {
                let mut guard = theirs.lock();
                guard.push(number);
                MutexGuard::unlock_fair(guard);
            });
            until_wait(&mutex, number + 1);
            waiter
        }));
        drop(guard);
        // The first waiter is woken. If it has not run yet, it finds the mutex locked.
        if let Some(guard) = mutex.try_lock() {
            until_wait(&mutex, 2 - guard.len());
            MutexGuard::unlock_fair(guard);
        }
        for waiter in waiters {
            waiter.join();
        }
        assert_eq!(*mutex.lock(), [0, 1]);
    });
}

#[test]
fn bump_lets_a_waiter_have_its_turn() {
    check(|| {
        let (mutex, release) = (Arc::new(Mutex::new(0)), Arc::new(Flag::default()));
        let mut guard = mutex.lock();
        MutexGuard::bump(&mut guard);
        assert_eq!(*guard, 0, "without a waiter it does nothing");
        release.set();
        let waiter = waiter(&mutex, &release);
        until_wait(&mutex, 1);
        MutexGuard::bump(&mut guard);
        assert_eq!(*guard, 1, "the waiter had the mutex");
        assert!(mutex.is_locked());
        drop(guard);
        waiter.join();
    });
}

#[test]
fn a_guard_can_be_unlocked_for_a_while() {
    check(|| {
        let mutex = Mutex::new(1);
        let mut guard = mutex.lock();
        MutexGuard::unlocked(&mut guard, || *mutex.try_lock().unwrap() += 1);
        assert_eq!(*guard, 2);
        MutexGuard::unlocked_fair(&mut guard, || *mutex.try_lock().unwrap() += 1);
        assert_eq!(*guard, 3);
        assert!(mutex.try_lock().is_none());
    });
}

#[test]
fn a_mapped_guard_keeps_the_mutex_locked() {
    check(|| {
        let mutex = Mutex::new((1, [2, 3]));
        let guard = MutexGuard::map(mutex.lock(), |data| &mut data.1);
        assert!(mutex.is_locked());
        let mut guard = MappedMutexGuard::map(guard, |pair| &mut pair[1]);
        *guard += 1;
        assert!(mutex.is_locked());
        MappedMutexGuard::unlock_fair(guard);
        let guard = MutexGuard::try_map(mutex.lock(), |data| data.1.get_mut(2));
        let guard = guard.unwrap_err();
        assert_eq!(guard.1, [2, 4]);
        let guard = MutexGuard::try_map(guard, |data| data.1.first_mut());
        assert_eq!(*guard.unwrap(), 2);
        assert!(!mutex.is_locked());
    });
}

#[test]
fn a_panic_unlocks_and_does_not_poison() {
    check(|| {
        let mutex = Arc::new(Mutex::new(1));
        let theirs = mutex.clone();
        let failed = spawn(move || {
            let mut guard = theirs.lock();
            *guard = 2;
            quiet_panic()
        });
        assert!(failed.result().is_err());
        assert_eq!(*mutex.lock(), 2);
    });
}

#[test]
fn it_can_be_a_constant_and_gives_its_data_back() {
    static MUTEX: Mutex<u32> = const_mutex(1);
    static FAIR: FairMutex<u32> = const_fair_mutex(1);
    check(|| {
        *MUTEX.lock() += 1;
        *FAIR.lock() += 1;
        assert_eq!(*MUTEX.lock() + *FAIR.lock(), 4);
        let mut mutex = Mutex::from(1);
        *mutex.get_mut() += 1;
        assert_eq!(mutex.into_inner(), 2);
        assert_eq!(Mutex::<u8>::default().into_inner(), 0);
        let guard = MUTEX.lock();
        let data: &'static mut u32 = MutexGuard::leak(guard);
        assert_eq!(*data, 2);
        assert!(MUTEX.is_locked());
    });
}

#[test]
fn waiters_of_a_fair_mutex_have_it_in_the_order_of_arrival() {
    check(|| {
        let mutex = Arc::new(FairMutex::new(Vec::new()));
        let guard = mutex.lock();
        let waiters = Vec::from_iter((0..6).map(|number| {
            let theirs = mutex.clone();
            let waiter = spawn(move || theirs.lock().push(number));
            until_wait_fairly(&mutex, number + 1);
            waiter
        }));
        FairMutexGuard::unlock_fair(guard);
        // It was handed over, so this lock waits behind all of them.
        assert_eq!(*mutex.lock(), [0, 1, 2, 3, 4, 5]);
        for waiter in waiters {
            waiter.join();
        }
        assert!(mutex.try_lock_for(SHORT).is_some());
    });
}

#[test]
fn each_unlock_of_a_fair_mutex_hands_it_over() {
    check(|| {
        let (mutex, release) = (Arc::new(FairMutex::new(0)), Arc::new(Flag::default()));
        let mut guard = mutex.lock();
        let (theirs, released) = (mutex.clone(), release.clone());
        let waiter = spawn(move || {
            let mut guard = theirs.lock();
            *guard += 1;
            released.wait();
        });
        until_wait_fairly(&mutex, 1);
        *guard += 1;
        drop(guard);
        assert!(mutex.try_lock().is_none(), "the waiter has it");
        assert!(mutex.try_lock_for(SHORT).is_none());
        release.set();
        waiter.join();
        assert_eq!(*mutex.lock(), 2);
    });
}
