//! `RwLock`: what its owners may see of each other, at random.

use super::actors::{Actor, Dice};
use super::rwlock::until_wait;
use crate::{check, spawn};
use parking_lot::{RwLock, RwLockUpgradableReadGuard, RwLockWriteGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::time::Duration;

const ACTORS: u64 = 6;
const TURNS: u64 = 1_000;

#[derive(Default)]
struct Shared {
    lock: RwLock<u64>,
    /// Owners inside: readers, upgradable readers and writers.
    inside: [AtomicI32; 3],
}

const READER: usize = 0;
const UPGRADABLE: usize = 1;
const WRITER: usize = 2;

impl Shared {
    /// Counts the caller as an owner while `f` runs.
    fn stay<T>(&self, owner: usize, f: impl FnOnce() -> T) -> T {
        self.inside[owner].fetch_add(1, SeqCst);
        let [readers, upgradable, writers] = [0, 1, 2].map(|i| self.inside[i].load(SeqCst));
        assert!(writers <= 1 && upgradable <= 1);
        assert!(writers == 0 || readers + upgradable == 0);
        let result = f();
        self.inside[owner].fetch_sub(1, SeqCst);
        result
    }

    fn look(&self, data: &u64, pause: impl FnOnce()) {
        self.stay(READER, || {
            let before = *data;
            pause();
            assert_eq!(*data, before);
        });
    }

    /// Does something at random, and returns how often it wrote.
    fn turn(&self, dice: &mut Dice) -> u64 {
        let (kind, pauses) = (dice.below(8), dice.below(4) == 0);
        let limit = Duration::from_micros(dice.below(50));
        let pause = || {
            if pauses {
                gopark::yield_now();
            }
        };
        match kind {
            0 => self.look(&self.lock.read_recursive(), pause),
            1..=3 => self.look(&self.lock.read(), pause),
            4 => return self.write_and_downgrade(pause),
            5 => return self.upgrade_and_back(pause),
            6 => {
                let Some(mut guard) = self.lock.try_write_for(limit) else {
                    return 0;
                };
                self.stay(WRITER, || {
                    pause();
                    *guard += 1;
                });
                return 1;
            }
            _ => {
                let guard = self.lock.upgradable_read();
                match RwLockUpgradableReadGuard::try_upgrade_for(guard, limit) {
                    Ok(mut guard) => {
                        self.stay(WRITER, || *guard += 1);
                        return 1;
                    }
                    Err(_guard) => self.stay(UPGRADABLE, pause),
                }
            }
        }
        0
    }

    fn write_and_downgrade(&self, pause: impl FnOnce()) -> u64 {
        let mut guard = self.lock.write();
        self.stay(WRITER, || *guard += 1);
        let guard = RwLockWriteGuard::downgrade(guard);
        self.look(&guard, pause);
        1
    }

    fn upgrade_and_back(&self, pause: impl Fn()) -> u64 {
        let guard = self.lock.upgradable_read();
        let before = self.stay(UPGRADABLE, || {
            pause();
            *guard
        });
        let mut guard = RwLockUpgradableReadGuard::upgrade(guard);
        self.stay(WRITER, || {
            assert_eq!(*guard, before, "a writer came in between");
            *guard += 1;
        });
        let guard = RwLockWriteGuard::downgrade_to_upgradable(guard);
        self.stay(UPGRADABLE, || assert_eq!(*guard, before + 1));
        let guard = RwLockUpgradableReadGuard::downgrade(guard);
        self.look(&guard, pause);
        1
    }
}

#[test]
fn writers_exclude_all_and_upgradable_readers_each_other() {
    check(|| {
        let shared = Arc::new(Shared::default());
        let actors = Vec::from_iter((0..ACTORS).map(|seed| {
            let shared = shared.clone();
            spawn(move || {
                let mut dice = Dice::new(seed);
                (0..TURNS).map(|_| shared.turn(&mut dice)).sum::<u64>()
            })
        }));
        let writes: u64 = actors.into_iter().map(Actor::join).sum();
        assert_eq!(*shared.lock.try_write().unwrap(), writes);
        until_wait(&shared.lock, 0);
    });
}
