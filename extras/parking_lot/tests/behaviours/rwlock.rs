//! `RwLock`: readers and writers.
#![allow(unsafe_code, reason = "`raw` lets a caller unlock")]

use super::actors::{Actor, Flag, LONG, SHORT, quiet_panic, until};
use crate::{check, spawn};
use parking_lot::{
    MappedRwLockReadGuard, MappedRwLockWriteGuard, RwLock, RwLockReadGuard,
    RwLockUpgradableReadGuard, RwLockWriteGuard, const_rwlock,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many wait for the lock.
pub(crate) fn waiters<T>(lock: &RwLock<T>) -> usize {
    // SAFETY: `waiters` does not unlock.
    unsafe { lock.raw() }.waiters()
}

/// Waits until so many wait for the lock.
#[track_caller]
pub(crate) fn until_wait<T>(lock: &RwLock<T>, count: usize) {
    until("waiters", || waiters(lock) == count);
}

/// Starts one, and returns when it waits behind so many.
pub(crate) fn behind<T, R>(
    lock: &Arc<RwLock<T>>,
    count: usize,
    f: impl FnOnce(&RwLock<T>) -> R + Send + 'static,
) -> Actor<R>
where
    T: Send + Sync + 'static,
    R: Send + 'static,
{
    let theirs = lock.clone();
    let actor = spawn(move || f(&theirs));
    until_wait(lock, count + 1);
    actor
}

/// Which of read, recursive read, upgradable read and write can be had at once.
fn open<T>(lock: &RwLock<T>) -> [bool; 4] {
    // Each guard is dropped before the next attempt.
    let read = lock.try_read().is_some();
    let recursive = lock.try_read_recursive().is_some();
    let upgradable = lock.try_upgradable_read().is_some();
    let write = lock.try_write().is_some();
    [read, recursive, upgradable, write]
}

#[test]
fn owners_admit_what_the_table_says() {
    check(|| {
        let lock = RwLock::new(1);
        assert_eq!(open(&lock), [true; 4]);
        let read = lock.read();
        assert_eq!(open(&lock), [true, true, true, false]);
        assert!(lock.is_locked() && !lock.is_locked_exclusive());
        let upgradable = lock.upgradable_read();
        assert_eq!(open(&lock), [true, true, false, false]);
        drop(read);
        assert_eq!(open(&lock), [true, true, false, false]);
        drop(upgradable);
        assert!(!lock.is_locked());
        let write = lock.write();
        assert_eq!(open(&lock), [false; 4]);
        assert!(lock.is_locked() && lock.is_locked_exclusive());
        assert_eq!(format!("{lock:?}"), "RwLock { data: <locked> }");
        drop(write);
        assert_eq!(open(&lock), [true; 4]);
    });
}

#[test]
fn a_reader_waits_behind_a_writer_that_waits_and_a_recursive_one_does_not() {
    check(|| {
        let lock = Arc::new(RwLock::new(0));
        let first = lock.read();
        let writer = behind(&lock, 0, |lock| *lock.write() += 1);
        assert_eq!(open(&lock), [false, true, false, false]);
        let reader = behind(&lock, 1, |lock| *lock.read());
        let recursive = lock.read_recursive();
        assert!(lock.try_read_recursive_for(SHORT).is_some());
        assert!(lock.try_read_recursive_until(Instant::now()).is_some());
        assert!(lock.try_read_for(SHORT).is_none());
        drop(first);
        assert_eq!(*recursive, 0);
        assert!(!writer.is_finished());
        drop(recursive);
        writer.join();
        assert_eq!(reader.join(), 1, "it waited behind the writer");
    });
}

#[test]
fn waiters_are_served_in_the_order_of_arrival() {
    check(|| {
        let lock = Arc::new(RwLock::new(Vec::new()));
        let first = lock.write();
        let writers = Vec::from_iter(
            (0..4).map(|number| behind(&lock, number, move |lock| lock.write().push(number))),
        );
        let last = behind(&lock, 4, |lock| lock.read().clone());
        RwLockWriteGuard::unlock_fair(first);
        assert_eq!(last.join(), [0, 1, 2, 3]);
        writers.into_iter().for_each(Actor::join);
    });
}

#[test]
fn an_unlock_hands_the_lock_to_a_waiter() {
    check(|| {
        for fair in [false, true] {
            let (lock, release) = (Arc::new(RwLock::new(0)), Arc::new(Flag::default()));
            let guard = lock.write();
            let released = release.clone();
            let writer = behind(&lock, 0, move |lock| {
                let mut guard = lock.write();
                *guard += 1;
                released.wait();
            });
            match fair {
                true => RwLockWriteGuard::unlock_fair(guard),
                false => drop(guard),
            }
            assert_eq!(open(&lock), [false; 4], "the waiter has it");
            release.set();
            writer.join();
            let guard = lock.read();
            let writer = behind(&lock, 0, |lock| *lock.write() += 1);
            match fair {
                true => RwLockReadGuard::unlock_fair(guard),
                false => drop(guard),
            }
            writer.join();
            assert_eq!(*lock.try_read().unwrap(), 2);
        }
    });
}

#[test]
fn bump_lets_waiters_have_their_turn() {
    check(|| {
        let lock = Arc::new(RwLock::new(0));
        let mut read = lock.read();
        RwLockReadGuard::bump(&mut read);
        let writer = behind(&lock, 0, |lock| *lock.write() += 1);
        RwLockReadGuard::bump(&mut read);
        assert_eq!(*read, 1);
        drop(read);
        writer.join();
        let mut write = lock.write();
        RwLockWriteGuard::bump(&mut write);
        assert_eq!(*write, 1);
        let writer = behind(&lock, 0, |lock| *lock.write() += 1);
        RwLockWriteGuard::bump(&mut write);
        assert_eq!(*write, 2);
        drop(write);
        writer.join();
        let mut upgradable = lock.upgradable_read();
        let writer = behind(&lock, 0, |lock| *lock.write() += 1);
        RwLockUpgradableReadGuard::bump(&mut upgradable);
        assert_eq!(*upgradable, 3);
        drop(upgradable);
        writer.join();
    });
}

#[test]
fn guards_can_be_unlocked_for_a_while() {
    check(|| {
        let lock = RwLock::new(0);
        let mut read = lock.read();
        RwLockReadGuard::unlocked(&mut read, || *lock.try_write().unwrap() += 1);
        RwLockReadGuard::unlocked_fair(&mut read, || *lock.try_write().unwrap() += 1);
        assert_eq!(*read, 2);
        drop(read);
        let mut write = lock.write();
        RwLockWriteGuard::unlocked(&mut write, || *lock.try_write().unwrap() += 1);
        RwLockWriteGuard::unlocked_fair(&mut write, || *lock.try_write().unwrap() += 1);
        assert_eq!(*write, 4);
    });
}

#[test]
fn a_wait_with_a_limit_ends_at_the_limit_and_not_before() {
    check(|| {
        let lock = RwLock::new(0);
        let after = |ended: bool, since: Instant| ended && since.elapsed() >= SHORT;
        let limit = || Instant::now() + SHORT;
        let write = lock.write();
        let start = Instant::now();
        assert!(after(lock.try_read_for(SHORT).is_none(), start));
        let start = Instant::now();
        assert!(after(lock.try_write_until(limit()).is_none(), start));
        let start = Instant::now();
        assert!(after(lock.try_upgradable_read_for(SHORT).is_none(), start));
        let start = Instant::now();
        assert!(after(
            lock.try_read_recursive_until(limit()).is_none(),
            start
        ));
        assert!(lock.try_read_until(start).is_none());
        assert!(lock.try_upgradable_read_until(start).is_none());
        drop(write);
        until_wait(&lock, 0);
        assert!(lock.try_write_for(Duration::ZERO).is_some());
        assert!(lock.try_read_until(start).is_some());
        let _read = lock.read();
        assert!(lock.try_write_for(SHORT).is_none());
        assert!(lock.try_upgradable_read_until(start).is_some());
        assert_eq!(open(&lock), [true, true, true, false], "no writer waits");
    });
}

#[test]
fn a_wait_with_a_limit_ends_with_the_lock() {
    for limit in [LONG, Duration::MAX] {
        check(move || {
            let lock = Arc::new(RwLock::new(7));
            let write = lock.write();
            let waiters = [
                behind(&lock, 0, move |lock| {
                    lock.try_read_for(limit).map(|data| *data)
                }),
                behind(&lock, 1, move |lock| {
                    lock.try_upgradable_read_for(limit).map(|data| *data)
                }),
                behind(&lock, 2, move |lock| {
                    lock.try_write_for(limit).map(|data| *data)
                }),
            ];
            drop(write);
            for waiter in waiters {
                assert_eq!(waiter.join(), Some(7));
            }
        });
    }
}

#[test]
fn a_writer_that_gives_up_lets_the_readers_behind_it_in() {
    check(|| {
        let lock = Arc::new(RwLock::new(0));
        let read = lock.read();
        let theirs = lock.clone();
        let limit = Duration::from_millis(20);
        let writer = spawn(move || theirs.try_write_for(limit).is_some());
        // On a busy machine the limit may come before the wait is seen.
        until("the writer", || waiters(&lock) == 1 || writer.is_finished());
        let theirs = lock.clone();
        let reader = spawn(move || *theirs.read());
        assert_eq!(reader.join(), 0, "there is a reader all the time");
        assert!(!writer.join());
        drop(read);
        assert_eq!(open(&lock), [true; 4]);
    });
}

#[test]
fn a_downgrade_lets_waiting_readers_in_but_no_writer() {
    check(|| {
        let lock = Arc::new(RwLock::new(0));
        let mut write = lock.write();
        let reader = behind(&lock, 0, |lock| *lock.read());
        let writer = behind(&lock, 1, |lock| *lock.write() += 10);
        *write += 1;
        let read = RwLockWriteGuard::downgrade(write);
        assert_eq!(reader.join(), 1);
        assert_eq!(*read, 1);
        assert_eq!(open(&lock), [false, true, false, false], "the writer waits");
        drop(read);
        writer.join();
        assert_eq!(*lock.read(), 11);
    });
}

#[test]
fn a_recursive_reader_that_waits_overtakes_a_writer_when_the_owner_downgrades() {
    check(|| {
        let lock = Arc::new(RwLock::new(0));
        let write = lock.write();
        let writer = behind(&lock, 0, |lock| *lock.write() += 1);
        let recursive = behind(&lock, 1, |lock| *lock.read_recursive());
        let read = RwLockWriteGuard::downgrade(write);
        assert_eq!(recursive.join(), 0);
        drop(read);
        writer.join();
    });
}

#[test]
fn mapped_guards_keep_the_lock() {
    check(|| {
        let lock = RwLock::new((1, [2, 3]));
        let read = RwLockReadGuard::map(lock.read(), |data| &data.1);
        let read = MappedRwLockReadGuard::map(read, |pair| &pair[1]);
        assert_eq!((*read, open(&lock)), (3, [true, true, true, false]));
        MappedRwLockReadGuard::unlock_fair(read);
        let write = RwLockWriteGuard::map(lock.write(), |data| &mut data.1);
        let mut write = MappedRwLockWriteGuard::map(write, |pair| &mut pair[0]);
        *write += 1;
        assert_eq!(open(&lock), [false; 4]);
        drop(write);
        let write = RwLockWriteGuard::try_map(lock.write(), |data| data.1.get_mut(5));
        assert_eq!(write.unwrap_err().1, [3, 3]);
        assert_eq!(open(&lock), [true; 4]);
    });
}

#[test]
fn a_panic_unlocks_and_does_not_poison() {
    check(|| {
        let lock = Arc::new(RwLock::new(1));
        let theirs = lock.clone();
        let failed = spawn(move || {
            *theirs.write() = 2;
            let _upgradable = theirs.upgradable_read();
            let _read = theirs.read();
            quiet_panic()
        });
        assert!(failed.result().is_err());
        assert_eq!(*lock.try_write().unwrap(), 2);
    });
}

#[test]
fn it_can_be_a_constant_and_gives_its_data_back() {
    static LOCK: RwLock<u32> = const_rwlock(1);
    check(|| {
        *LOCK.write() += 1;
        assert_eq!(*LOCK.read(), 2);
        let mut lock = RwLock::from(1);
        *lock.get_mut() += 1;
        assert_eq!(lock.into_inner(), 2);
    });
}
