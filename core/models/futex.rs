//! Models of the table of futexes. Most use its word as `std`'s mutex does: it is 0 if unlocked, 1
//! if locked, and 2 if locked with waiters. The lock protects a [`Mail`].
//!
//! All threads here are ordinary ones, so a model says where each of its waiters waits: in the
//! table or in a kernel of its own.

use super::{FutexTable, FutexWait, LockKind, Policy};
use crate::futex::hot::Party;
use crate::locked_queue::Waited;
use crate::models::{Immortal, Mail, ModelSched, explore};
use crate::os::Nanos;
use crate::sched::Sched;
use crate::sync::Ordering;
use crate::waiter::WaiterList;
use crate::watch::rescue;
use core::ptr;
use loom::sync::atomic::AtomicU32;
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::vec::Vec;

/// Later than the clock shows while a model runs.
const SOON: Nanos = 1_000_000;
/// So late that a wait is rescued.
const LATE: Nanos = 1 << 40;

struct Shared {
    table: FutexTable,
    word: AtomicU32,
    mail: Mail,
    kernel: Kernel,
    sched: &'static Sched,
}

/// The sleepers of the one word.
struct Kernel {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    asleep: Vec<u32>,
    /// How many have slept.
    slept: u32,
    /// How many waiters were about to park.
    parks: u32,
}

impl Kernel {
    /// Returns whether the caller has slept.
    fn wait(&self, word: &AtomicU32, expected: u32) -> bool {
        let mut state = self.state.lock().unwrap();
        if word.load(Ordering::Relaxed) != expected {
            return false;
        }
        let me = state.slept;
        state.slept += 1;
        state.asleep.push(me);
        self.changed.notify_all();
        while state.asleep.contains(&me) {
            state = self.changed.wait(state).unwrap();
        }
        true
    }

    fn wake(&self, most: u32) -> u32 {
        let mut state = self.state.lock().unwrap();
        let woken = state.asleep.len().min(most as usize);
        state.asleep.drain(..woken);
        self.changed.notify_all();
        woken as u32
    }

    fn until(&self, holds: impl Fn(&State) -> bool) {
        let mut state = self.state.lock().unwrap();
        while !holds(&state) {
            state = self.changed.wait(state).unwrap();
        }
    }
}

impl Shared {
    fn address(&self) -> usize {
        ptr::from_ref(&self.word).addr()
    }

    /// Waits in the table.
    fn park(&self, expected: u32, until: Option<Nanos>) -> Waited {
        let wait = FutexWait {
            word: &self.word,
            expected,
            until,
            kind: LockKind::Std,
        };
        self.table
            .queue_up(self.sched, wait, self.address(), Party::new())
    }

    /// Waits in the kernel. Returns whether the caller has slept.
    fn block(&self, expected: u32) -> bool {
        let sleep = || self.kernel.wait(&self.word, expected);
        let (m, address) = (self.sched.m(0), self.address());
        self.table
            .block(self.sched, m, (LockKind::Std, false), address, sleep)
    }

    fn wake(&self, most: u32) -> u32 {
        let kernel = |most| self.kernel.wake(most);
        self.table.wake(self.sched, self.address(), most, kernel)
    }

    fn lock(&self) {
        let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
        if self.word.compare_exchange(0, 1, acquire, relaxed).is_ok() {
            return;
        }
        while self.word.swap(2, acquire) != 0 {
            if self.table.parks_at_once(self.sched, self.address()) {
                self.kernel.state.lock().unwrap().parks += 1;
                self.kernel.changed.notify_all();
                _ = self.park(2, None);
            } else {
                self.block(2);
            }
        }
    }

    fn unlock(&self) {
        if self.word.swap(0, Ordering::Release) == 2 {
            self.wake(1);
        }
    }

    fn add(&self) {
        self.lock();
        self.mail.put(self.mail.get() + 1);
        self.unlock();
    }

    /// What sysmon does.
    fn rescue(&self) -> bool {
        rescue(self.sched, &self.table, LATE, |_| {
            self.kernel.wake(u32::MAX);
            // The woken run.
            thread::yield_now();
        })
    }

    /// The clock reaches the time limits.
    fn expire(&self) {
        let mut woken = WaiterList::new();
        self.sched.timers().run(SOON, &mut woken);
        self.sched.ready_list(woken);
    }
}

/// Explores `model`, whose lock is locked at first.
fn run<F: Fn(&'static Shared) + Send + Sync + 'static>(policy: Policy, model: F) {
    explore::<F>(move || {
        let owner = ModelSched::new(1, 1);
        let table = FutexTable::new();
        table.set_policy(policy);
        let shared = Immortal::new(Shared {
            table,
            word: AtomicU32::new(1),
            mail: Mail::new(),
            kernel: Kernel {
                state: Mutex::new(State::default()),
                changed: Condvar::new(),
            },
            sched: owner.get(),
        });
        model(shared.get());
        assert_eq!(shared.get().table.num_parked(), 0);
    });
}

#[test]
fn an_unlock_against_a_locker_that_parks() {
    run(Policy::Park, |shared| {
        let other = thread::spawn(|| shared.add());
        shared.mail.put(1);
        shared.unlock();
        other.join().unwrap();
        assert_eq!(shared.mail.get(), 2);
    });
}

#[test]
fn an_unlock_against_two_lockers_that_park() {
    run(Policy::Park, |shared| {
        let others = [(), ()].map(|()| thread::spawn(|| shared.add()));
        shared.mail.put(1);
        shared.unlock();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(shared.mail.get(), 3);
    });
}

#[test]
fn a_wake_or_the_limit_ends_a_wait_and_a_wake_that_does_counts_one() {
    run(Policy::Park, |shared| {
        let waiter = thread::spawn(|| shared.park(1, Some(SOON)));
        let clock = thread::spawn(|| shared.expire());
        shared.word.store(0, Ordering::Relaxed);
        let woken = shared.wake(1);
        let served = waiter.join().unwrap() == Waited::Served;
        assert_eq!(served, woken == 1);
        clock.join().unwrap();
    });
}

#[test]
fn two_wakes_end_two_waits_and_count_those_that_no_limit_has_ended() {
    run(Policy::Park, |shared| {
        let waiters = [Some(SOON), None].map(|until| thread::spawn(move || shared.park(1, until)));
        shared.expire();
        shared.word.store(0, Ordering::Relaxed);
        let woken = shared.wake(1) + shared.wake(1);
        let ended = waiters.map(|waiter| waiter.join().unwrap());
        let served = ended.iter().filter(|&&waited| waited == Waited::Served);
        assert_eq!(served.count(), woken as usize);
    });
}

#[test]
fn a_rescued_waiter_parks_so_the_owner_can_run_and_unlock() {
    run(Policy::Rescue, |shared| {
        let other = thread::spawn(|| shared.add());
        shared.kernel.until(|state| state.slept > 0);
        assert!(shared.rescue());
        assert!(!shared.rescue(), "the waiter has not had a CPU since");
        // The owner is at home on the thread of the waiter.
        shared.kernel.until(|state| state.parks > 0);
        shared.unlock();
        other.join().unwrap();
    });
}

#[test]
fn a_rescue_against_an_unlock_by_a_thread() {
    run(Policy::Rescue, |shared| {
        let other = thread::spawn(|| shared.add());
        let sysmon = thread::spawn(|| shared.rescue());
        shared.unlock();
        other.join().unwrap();
        sysmon.join().unwrap();
    });
}

#[test]
fn two_wakes_of_one_reach_a_waiter_here_and_one_in_the_kernel() {
    run(Policy::Rescue, |shared| {
        let here = thread::spawn(|| shared.park(1, None) == Waited::Served);
        let kernels = thread::spawn(|| shared.block(1));
        shared.word.store(0, Ordering::Relaxed);
        let woken = shared.wake(1) + shared.wake(1);
        let ended = [here, kernels].map(|waiter| waiter.join().unwrap());
        // The first wake may have woken both, and counts one.
        assert!(woken <= u32::from(ended[0]) + u32::from(ended[1]));
    });
}

#[test]
fn a_broadcast_wakes_every_batch_and_none_that_waits_again() {
    run(Policy::Park, |shared| {
        let wait_twice = || {
            let woken = [1, 2].map(|word| shared.park(word, None) == Waited::Served);
            if woken == [true; 2] {
                assert_eq!(shared.word.load(Ordering::Relaxed), 3);
            }
        };
        let waiters = [(), ()].map(|()| thread::spawn(wait_twice));
        for word in [2, 3] {
            shared.word.store(word, Ordering::Relaxed);
            shared.wake(u32::MAX);
        }
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}
