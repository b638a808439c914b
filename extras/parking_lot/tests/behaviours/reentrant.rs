//! `ReentrantMutex` and `RawThreadId`.

use super::actors::{Actor, Flag, SHORT};
use crate::{check, spawn};
use parking_lot::lock_api::GetThreadId;
use parking_lot::{RawThreadId, ReentrantMutex, ReentrantMutexGuard, const_reentrant_mutex};
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;
use std::thread;

#[test]
fn its_owner_locks_it_again_and_others_wait_until_the_last_guard() {
    check(|| {
        let mutex = Arc::new(ReentrantMutex::new(Cell::new(0)));
        let first = mutex.lock();
        let second = mutex.try_lock().unwrap();
        let third = mutex.try_lock_for(SHORT).unwrap();
        third.set(third.get() + 1);
        assert!(mutex.is_owned_by_current_thread() && mutex.is_locked());
        let theirs = mutex.clone();
        let refused = spawn(move || {
            assert!(!theirs.is_owned_by_current_thread());
            theirs.try_lock().is_none() && theirs.try_lock_for(SHORT).is_none()
        });
        assert!(refused.join());
        let (theirs, entered) = (mutex.clone(), Arc::new(Flag::default()));
        let entering = entered.clone();
        let waiter = spawn(move || {
            let guard = theirs.lock();
            entering.set();
            guard.set(guard.get() + 1);
        });
        drop(second);
        drop(third);
        gopark::yield_now();
        assert!(!entered.is_set());
        ReentrantMutexGuard::unlock_fair(first);
        waiter.join();
        assert_eq!(mutex.lock().get(), 2);
        assert!(!mutex.is_locked());
    });
}

#[test]
fn owners_exclude_each_other_over_parks() {
    static MUTEX: ReentrantMutex<Cell<u32>> = const_reentrant_mutex(Cell::new(0));
    check(|| {
        let actors = Vec::from_iter((0..5).map(|_| {
            spawn(|| {
                for _ in 0..100 {
                    let outer = MUTEX.lock();
                    let before = outer.get();
                    gopark::yield_now();
                    let inner = MUTEX.lock();
                    gopark::yield_now();
                    assert_eq!(inner.get(), before);
                    inner.set(before + 1);
                }
            })
        }));
        actors.into_iter().for_each(Actor::join);
        assert_eq!(MUTEX.lock().get(), 500);
    });
}

#[test]
fn a_mapped_guard_counts_as_a_guard() {
    check(|| {
        let mutex = ReentrantMutex::new((1, 2));
        let mapped = ReentrantMutexGuard::map(mutex.lock(), |pair| &pair.1);
        assert_eq!(*mapped, 2);
        assert!(mutex.is_owned_by_current_thread());
        drop(mapped);
        assert!(!mutex.is_locked());
    });
}

#[test]
fn those_that_live_have_different_identities_and_keep_them() {
    let identity = || RawThreadId.nonzero_thread_id();
    check(move || {
        let over = Arc::new(Flag::default());
        let lives = |over: Arc<Flag>, seen: Arc<Flag>| {
            move || {
                let before = identity();
                seen.set();
                over.wait();
                assert_eq!(before, identity());
                before
            }
        };
        let mut all = Vec::new();
        for _ in 0..8 {
            let seen = Arc::new(Flag::default());
            all.push(spawn(lives(over.clone(), seen.clone())));
            all.push(Actor::Thread(thread::spawn(lives(
                over.clone(),
                seen.clone(),
            ))));
            seen.wait();
        }
        over.set();
        let identities: HashSet<_> = all.into_iter().map(Actor::join).collect();
        assert_eq!(identities.len(), 16);
        assert!(!identities.contains(&identity()));
    });
}
