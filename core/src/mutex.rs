//! A mutex: Go's `sync.Mutex`, without spinning.
//!
//! | bit | set | means |
//! |---|---|---|
//! | `LOCKED` | by the owner | the mutex is locked |
//! | `WAITING` | under the queue's lock, while `LOCKED` | there may be waiters in the queue |
//! | `WOKEN` | by an unlock | a waiter was woken and has not competed for the mutex yet |
//!
//! An unlock that finds `WAITING` without `WOKEN` serves the first waiter:
//!
//! - Normally it unlocks the mutex and wakes the waiter, which then competes with other callers of
//!   `lock`. They run already, so they often win, and the mutex is not idle until the waiter runs.
//!   A waiter that lost waits again in front of the others.
//! - If the waiter has waited for `STARVING`, the mutex stays locked, and the waiter is its owner
//!   when it runs. So no waiter starves.
//!
//! The race: a waiter joins the queue while the owner unlocks. The waiter sets `WAITING` in the
//! word that has `LOCKED`, under the queue's lock. The owner removes `LOCKED` from the word without
//! `WAITING`. The word orders them: either the waiter finds the mutex unlocked, or the owner finds
//! the waiter. While `LOCKED` is set, `WOKEN` and `WAITING` change under the queue's lock only.
#![allow(
    unsafe_code,
    reason = "what a mutex guards relies on its owner to unlock it"
)]

use crate::choice::End;
use crate::locked_queue::{LockedQueue, Waited};
use crate::os::Nanos;
use crate::runtime::Runtime;
use crate::stack::stack_pointer;
use crate::sync::unmodeled::AtomicUsize;
use crate::sync::{AtomicBool, AtomicU32, Ordering, const_unless_loom};
use crate::wait_info::Wait;

const LOCKED: u32 = 1;
const WAITING: u32 = 2;
const WOKEN: u32 = 4;

/// Nanoseconds after which a waiter is handed the mutex: Go's `starvationThresholdNs`. In models,
/// whose clock moves by 500 with each look, so few that both ways to serve a waiter occur.
const STARVING: Nanos = if cfg!(loom) { 1_000 } else { 1_000_000 };

/// A mutex without data. Locking and unlocking it without contention takes one compare-and-swap
/// each and needs no scheduler.
pub struct RawMutex<R: Runtime> {
    word: AtomicU32,
    queue: LockedQueue<(), Contender>,
    /// An address on the stack of the owner, for watchers. Written by the owner.
    holder: AtomicUsize,
    runtime: R,
}

/// What a waiter tells the owner, and the owner the waiter.
struct Contender {
    since: Nanos,
    /// Whether the waiter owns the mutex. Written under the queue's lock.
    handed_over: AtomicBool,
}

impl<R: Runtime> RawMutex<R> {
    const_unless_loom! {
        /// An unlocked mutex.
        pub fn new(runtime: R) -> Self {
            RawMutex {
                word: AtomicU32::new(0),
                queue: LockedQueue::new(()),
                holder: AtomicUsize::new(0),
                runtime,
            }
        }
    }

    /// Locks the mutex, after waiting for it.
    #[inline]
    pub fn lock(&self) {
        if !self.lock_fast() {
            self.lock_slow(None);
        }
        self.sign();
    }

    /// Notes where the owner is, for watchers.
    #[inline(always)]
    fn sign(&self) {
        self.holder.store(stack_pointer(), Ordering::Relaxed);
    }

    /// As [`lock`](Self::lock), but gives up at `limit`: returns whether it locked the mutex.
    #[inline]
    pub fn lock_until(&self, limit: R::Instant) -> bool {
        let locked = self.lock_fast() || self.lock_slow(Some(limit));
        if locked {
            self.sign();
        }
        locked
    }

    /// Locks the mutex if it is unlocked. Returns whether it did.
    ///
    /// After many failures in a row a goroutine yields, so that the owner can run.
    #[inline]
    pub fn try_lock(&self) -> bool {
        if self.lock_fast() || self.compete(0) {
            self.sign();
            return true;
        }
        if let Some(sched) = self.runtime.started() {
            sched.spend(1);
        }
        false
    }

    /// Whether the mutex is locked.
    pub fn is_locked(&self) -> bool {
        self.word.load(Ordering::Relaxed) & LOCKED != 0
    }

    #[inline]
    fn lock_fast(&self) -> bool {
        self.word
            .compare_exchange(0, LOCKED, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Locks the mutex if it is unlocked. `mine` is `WOKEN` if the caller was woken, else 0.
    fn compete(&self, mine: u32) -> bool {
        let next = |word| (word & LOCKED == 0).then_some((word | LOCKED) & !mine);
        // Acquire pairs with the Release in `unlock` and `unlock_slow`.
        self.word
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, next)
            .is_ok()
    }

    /// Whether the mutex is locked. If so, the owner will find that there are waiters. Called under
    /// the queue's lock.
    fn announce(&self, mine: u32) -> bool {
        let next = |word| (word & LOCKED != 0).then_some((word | WAITING) & !mine);
        self.word
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .is_ok()
    }

    #[cold]
    fn lock_slow(&self, limit: Option<R::Instant>) -> bool {
        let sched = self.runtime.sched();
        // A goroutine that takes a contended mutex again and again must let the waiter run.
        sched.spend(1);
        if self.compete(0) {
            return true;
        }
        let until = limit.map(|limit| self.runtime.nanos(limit));
        let contender = Contender {
            since: sched.now(),
            handed_over: AtomicBool::new(false),
        };
        let (mut end, mut mine) = (End::Back, 0);
        loop {
            let join = |_: &mut _| self.announce(mine).then_some(end);
            let wait = Wait::Mutex(self.holder.as_ptr() as u64).encode();
            match self.queue.wait(sched, wait, until, &contender, join) {
                Waited::NotQueued => {}
                Waited::Expired => return false,
                Waited::Served if contender.handed_over.load(Ordering::Relaxed) => return true,
                Waited::Served => (end, mine) = (End::Front, WOKEN),
            }
            if self.compete(mine) {
                return true;
            }
        }
    }

    /// Unlocks the mutex.
    ///
    /// # Safety
    ///
    /// The caller owns the lock: it has locked the mutex, or acts for a goroutine or thread that
    /// has.
    #[inline]
    pub unsafe fn unlock(&self) {
        let unlocked = self
            .word
            .compare_exchange(LOCKED, 0, Ordering::Release, Ordering::Relaxed);
        if unlocked.is_err() {
            self.unlock_slow();
        }
    }

    #[cold]
    fn unlock_slow(&self) {
        // A waiter that was woken comes without being woken again.
        let next = |word| (word & (WAITING | WOKEN) != WAITING).then_some(word & !LOCKED);
        let seen = self
            .word
            .fetch_update(Ordering::Release, Ordering::Relaxed, next);
        if seen.is_ok() {
            return;
        }
        let starving = self.runtime.sched().now() - STARVING;
        self.queue.wake_one(self.runtime, |queued| {
            let waiters = &mut queued.waiters;
            let (waiter, word) = match waiters.pop_if(|contender| contender.since <= starving) {
                Some(served) => {
                    served.packet.handed_over.store(true, Ordering::Relaxed);
                    (Some(served.waiter), LOCKED)
                }
                None => match waiters.pop_if(|_| true) {
                    Some(served) => (Some(served.waiter), WOKEN),
                    None => (None, 0),
                },
            };
            let waiting = if waiters.is_empty() { 0 } else { WAITING };
            // No other thread changes a word with LOCKED without the queue's lock.
            self.word.store(word | waiting, Ordering::Release);
            waiter
        });
    }
}

impl<R: Runtime + Default> Default for RawMutex<R> {
    fn default() -> Self {
        Self::new(R::default())
    }
}

#[cfg(all(test, loom))]
#[path = "../models/mutex.rs"]
mod models;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::fuzz::base::FuzzOs;
    use crate::locked_queue::fuzz::Fuzzed;
    use crate::locked_queue::tests::NoScheduler;
    use std::thread;
    use std::vec::Vec;

    #[test]
    fn without_contention_no_scheduler_is_needed() {
        let mutex = RawMutex::<NoScheduler>::default();
        for _ in 0..2 {
            mutex.lock();
            assert!(mutex.is_locked() && !mutex.try_lock());
            // SAFETY: it is locked.
            unsafe { mutex.unlock() };
            assert!(!mutex.is_locked());
        }
        assert!(mutex.try_lock());
        assert_eq!(mutex.word.load(Ordering::Relaxed), LOCKED);
    }

    static FIRST_SLEEPS: AtomicBool = AtomicBool::new(false);
    static FIRST_MAY_RUN: AtomicBool = AtomicBool::new(false);
    static SECOND_SLEEPS: AtomicBool = AtomicBool::new(false);

    fn first_sleeps(_: &AtomicU32) {
        FIRST_SLEEPS.store(true, Ordering::Release);
        while !FIRST_MAY_RUN.load(Ordering::Acquire) {
            thread::yield_now();
        }
    }

    fn second_sleeps(_: &AtomicU32) {
        SECOND_SLEEPS.store(true, Ordering::Release);
        thread::yield_now();
    }

    fn wait_until(sleeps: &AtomicBool) {
        while !sleeps.swap(false, Ordering::AcqRel) {
            thread::yield_now();
        }
    }

    #[test]
    fn a_waiter_that_lost_the_mutex_is_the_first_to_be_woken_again() {
        let mutex = RawMutex::<Fuzzed>::default();
        let order = std::sync::Mutex::new(Vec::new());
        let contend = |number, sleeps: fn(&AtomicU32)| {
            FuzzOs::on_sleep(sleeps);
            mutex.lock();
            order.lock().unwrap().push(number);
            // SAFETY: this thread owns the lock.
            unsafe { mutex.unlock() };
        };
        mutex.lock();
        thread::scope(|scope| {
            scope.spawn(|| contend(1, first_sleeps));
            wait_until(&FIRST_SLEEPS);
            scope.spawn(|| contend(2, second_sleeps));
            wait_until(&SECOND_SLEEPS);
            // SAFETY: this thread owns the lock.
            unsafe { mutex.unlock() };
            // The first waiter is woken but does not run.
            assert!(mutex.try_lock());
            FIRST_MAY_RUN.store(true, Ordering::Release);
            wait_until(&FIRST_SLEEPS);
            // SAFETY: as above.
            unsafe { mutex.unlock() };
        });
        assert_eq!(*order.lock().unwrap(), [1, 2]);
    }
}
