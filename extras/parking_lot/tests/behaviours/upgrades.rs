//! `RwLock`: upgradable readers.

use super::actors::{Actor, Flag, LONG, SHORT, until};
use super::rwlock::{behind, until_wait, waiters};
use crate::{check, spawn};
use parking_lot::{RwLock, RwLockReadGuard, RwLockUpgradableReadGuard, RwLockWriteGuard};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn an_upgrade_waits_for_the_readers_and_overtakes_the_writers() {
    check(|| {
        let lock = Arc::new(RwLock::new(Vec::new()));
        let reader = lock.read();
        let (theirs, upgradable) = (lock.clone(), Arc::new(Flag::default()));
        let (taken, upgrade) = (upgradable.clone(), Arc::new(Flag::default()));
        let upgrades = upgrade.clone();
        let upgrader = spawn(move || {
            let guard = theirs.upgradable_read();
            assert!(guard.is_empty());
            taken.set();
            upgrades.wait();
            let mut guard = RwLockUpgradableReadGuard::upgrade(guard);
            assert!(guard.is_empty(), "a writer came in between");
            guard.push("upgrade");
        });
        upgradable.wait();
        let writer = behind(&lock, 0, |lock| lock.write().push("write"));
        upgrade.set();
        until_wait(&lock, 2);
        assert!(
            lock.try_read().is_none(),
            "new readers wait behind the upgrade"
        );
        assert!(lock.try_read_recursive().is_some());
        RwLockReadGuard::unlock_fair(reader);
        upgrader.join();
        writer.join();
        assert_eq!(*lock.read(), ["upgrade", "write"]);
    });
}

#[test]
fn an_upgrade_without_readers_is_at_once() {
    check(|| {
        let lock = RwLock::new(0);
        let mut guard = RwLockUpgradableReadGuard::upgrade(lock.upgradable_read());
        *guard += 1;
        assert!(lock.try_read().is_none());
        let guard = RwLockWriteGuard::downgrade_to_upgradable(guard);
        assert!(lock.try_read().is_some() && lock.try_upgradable_read().is_none());
        let guard = RwLockUpgradableReadGuard::try_upgrade(guard).unwrap();
        let guard = RwLockWriteGuard::downgrade_to_upgradable(guard);
        let guard = RwLockUpgradableReadGuard::downgrade(guard);
        assert!(lock.try_upgradable_read().is_some() && lock.try_write().is_none());
        assert_eq!(*guard, 1);
    });
}

#[test]
fn an_upgrade_that_fails_leaves_the_guard_as_it_was() {
    check(|| {
        let lock = RwLock::new(0);
        let reader = lock.read();
        let guard = lock.upgradable_read();
        let guard = RwLockUpgradableReadGuard::try_upgrade(guard).unwrap_err();
        let start = Instant::now();
        let guard = RwLockUpgradableReadGuard::try_upgrade_for(guard, SHORT).unwrap_err();
        assert!(start.elapsed() >= SHORT);
        let guard = RwLockUpgradableReadGuard::try_upgrade_until(guard, start).unwrap_err();
        assert!(lock.try_read().is_some() && lock.try_upgradable_read().is_none());
        drop(reader);
        let guard = RwLockUpgradableReadGuard::try_upgrade_until(guard, start).unwrap();
        assert!(lock.try_read().is_none());
        drop(guard);
        assert!(lock.try_write().is_some());
    });
}

#[test]
fn an_upgrade_with_a_limit_ends_when_the_readers_leave() {
    check(|| {
        let lock = Arc::new(RwLock::new(0));
        let reader = lock.read();
        let upgrader = behind(&lock, 0, |lock| {
            let guard = lock.upgradable_read();
            match RwLockUpgradableReadGuard::try_upgrade_for(guard, LONG) {
                Ok(mut guard) => *guard += 1,
                Err(_) => panic!("the reader has left"),
            }
        });
        drop(reader);
        upgrader.join();
        assert_eq!(*lock.read(), 1);
    });
}

#[test]
fn an_upgrade_that_gives_up_lets_the_readers_behind_it_in() {
    check(|| {
        let lock = Arc::new(RwLock::new(0));
        let reader = lock.read();
        let (theirs, over) = (lock.clone(), Arc::new(Flag::default()));
        let (ends, gave_up) = (over.clone(), Arc::new(Flag::default()));
        let gives_up = gave_up.clone();
        let upgrader = spawn(move || {
            let guard = theirs.upgradable_read();
            let limit = Duration::from_millis(20);
            let guard = RwLockUpgradableReadGuard::try_upgrade_for(guard, limit).unwrap_err();
            gives_up.set();
            ends.wait();
            *guard
        });
        // On a busy machine the limit may come before the wait is seen.
        until("the upgrade", || waiters(&lock) == 1 || gave_up.is_set());
        let theirs = lock.clone();
        let other = spawn(move || *theirs.read());
        assert_eq!(other.join(), 0, "the upgrader still reads");
        over.set();
        assert_eq!(upgrader.join(), 0);
        drop(reader);
        assert!(lock.try_write().is_some());
    });
}

#[test]
fn upgradable_readers_exclude_each_other_and_not_readers() {
    check(|| {
        let lock = Arc::new(RwLock::new(0));
        let first = lock.upgradable_read();
        let second = behind(&lock, 0, |lock| *lock.upgradable_read());
        let reader = lock
            .try_read()
            .expect("it overtakes an upgradable reader that waits");
        assert_eq!(*lock.read(), 0);
        assert!(!second.is_finished());
        RwLockUpgradableReadGuard::unlock_fair(first);
        assert_eq!(second.join(), 0, "a reader does not keep it");
        drop(reader);
    });
}

#[test]
fn a_writer_lets_readers_in_past_an_upgradable_reader_that_must_wait() {
    check(|| {
        let (lock, release) = (Arc::new(RwLock::new(0)), Arc::new(Flag::default()));
        let write = lock.write();
        let stay = |lock: &RwLock<u32>, release: Arc<Flag>| {
            let guard = lock.upgradable_read();
            release.wait();
            *guard
        };
        let released = release.clone();
        let first = behind(&lock, 0, move |lock| stay(lock, released));
        let released = release.clone();
        let second = behind(&lock, 1, move |lock| stay(lock, released));
        let reader = behind(&lock, 2, |lock| *lock.read());
        drop(write);
        assert_eq!(reader.join(), 0);
        until_wait(&lock, 1);
        release.set();
        assert_eq!(first.join() + second.join(), 0);
    });
}

#[test]
fn a_downgrade_to_a_reader_lets_the_next_upgradable_reader_in() {
    check(|| {
        let lock = Arc::new(RwLock::new(0));
        let first = lock.upgradable_read();
        let second = behind(&lock, 0, |lock| *lock.upgradable_read());
        let read = RwLockUpgradableReadGuard::downgrade(first);
        assert_eq!(second.join(), 0);
        drop(read);
    });
}

#[test]
fn a_downgrade_of_a_writer_to_an_upgradable_reader_lets_readers_in() {
    check(|| {
        let lock = Arc::new(RwLock::new(0));
        let mut write = lock.write();
        let reader = behind(&lock, 0, |lock| *lock.read());
        let writer = behind(&lock, 1, |lock| *lock.write() += 10);
        *write += 1;
        let guard = RwLockWriteGuard::downgrade_to_upgradable(write);
        assert_eq!(reader.join(), 1);
        assert_eq!(*guard, 1);
        drop(guard);
        writer.join();
    });
}

#[test]
fn an_upgrade_for_a_while_ends_with_the_upgradable_reader() {
    check(|| {
        let lock = RwLock::new(0);
        let mut guard = lock.upgradable_read();
        guard.with_upgraded(|data| {
            assert!(lock.try_read().is_none());
            *data += 1;
        });
        assert_eq!(*guard, 1);
        assert!(lock.try_read().is_some() && lock.try_write().is_none());
        let reader = lock.read();
        assert!(guard.try_with_upgraded(|_| ()).is_none());
        assert!(guard.try_with_upgraded_for(SHORT, |_| ()).is_none());
        drop(reader);
        assert_eq!(guard.try_with_upgraded(|data| *data), Some(1));
    });
}

#[test]
fn many_upgraders_take_turns() {
    check(|| {
        let lock = Arc::new(RwLock::new(0));
        let actors = Vec::from_iter((0..5).map(|_| {
            let lock = lock.clone();
            spawn(move || {
                for _ in 0..200 {
                    let guard = lock.upgradable_read();
                    let before = *guard;
                    gopark::yield_now();
                    *RwLockUpgradableReadGuard::upgrade(guard) = before + 1;
                    drop(lock.read());
                }
            })
        }));
        actors.into_iter().for_each(Actor::join);
        assert_eq!(*lock.read(), 1_000);
    });
}
