//! `RawMutex` and `RawFairMutex`.
//!
//! | bit | set | means |
//! |---|---|---|
//! | `LOCKED` | by the owner, or for a waiter by an unlock | the mutex is locked |
//! | `QUEUED` | under the queue's lock, while `LOCKED` | there may be waiters in the queue |
//! | `WOKEN` | by an unlock | a waiter was woken and has not competed for the mutex yet |
//!
//! | word | unlock does |
//! |---|---|
//! | `LOCKED` | removes `LOCKED` |
//! | `LOCKED`, `WOKEN` with or without `QUEUED` | removes `LOCKED`: the woken waiter competes |
//! | `LOCKED`, `QUEUED` | serves the first waiter, as below |
//!
//! - Normally it unlocks the mutex and wakes the waiter, which competes with callers of `lock`. A
//!   waiter that lost goes to the front of the queue.
//! - If the waiter has waited for `STARVING`, or the unlock is fair, `LOCKED` stays and the waiter
//!   owns the mutex: it is handed over.
//!
//! The race: a waiter joins the queue while the owner unlocks. The waiter adds `QUEUED` to a word
//! that has `LOCKED`, under the queue's lock. The owner removes `LOCKED` from a word without
//! `QUEUED`. The word orders them: either the waiter finds the mutex unlocked, or the owner finds
//! the waiter. While `LOCKED` and the queue's lock are held, no other caller changes the word.
#![allow(
    unsafe_code,
    reason = "the traits of lock_api promise that a lock excludes"
)]

use crate::queue::{Queue, Waiter};
use crate::{GuardMarker, deadline, turn};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

const LOCKED: u8 = 1;
const QUEUED: u8 = 2;
const WOKEN: u8 = 4;

/// Time after which a waiter is handed the mutex: that of Go's `sync.Mutex`.
const STARVING: Duration = Duration::from_millis(1);

/// The lock of a [`Mutex`](crate::Mutex), without data.
///
/// ```
/// use parking_lot::RawMutex;
/// use parking_lot::lock_api::RawMutex as _;
///
/// static LOCK: RawMutex = RawMutex::INIT;
/// assert!(LOCK.try_lock() && !LOCK.try_lock());
/// // SAFETY: this thread has locked it.
/// unsafe { LOCK.unlock() };
/// assert!(!LOCK.is_locked());
/// ```
pub struct RawMutex {
    word: AtomicU8,
    queue: Queue<Contender>,
}

/// What a waiter tells the owner, and the owner the waiter.
struct Contender {
    since: Instant,
    /// Whether the waiter owns the mutex. Written under the queue's lock.
    handed_over: AtomicBool,
}

impl RawMutex {
    #[inline]
    fn lock_fast(&self) -> bool {
        self.word
            .compare_exchange(0, LOCKED, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Locks the mutex if it is unlocked. `mine` is `WOKEN` if the caller was woken, else 0.
    fn compete(&self, mine: u8) -> bool {
        let next = |word| (word & LOCKED == 0).then_some((word | LOCKED) & !mine);
        // Acquire pairs with the Release of `unlock` and `unlock_slow`.
        self.word
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, next)
            .is_ok()
    }

    /// Returns whether the mutex is locked. If so, the owner will find that there are waiters.
    /// Called under the queue's lock.
    fn announce(&self, mine: u8) -> bool {
        let next = |word| (word & LOCKED != 0).then_some((word | QUEUED) & !mine);
        self.word
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .is_ok()
    }

    #[cold]
    fn lock_slow(&self, limit: Option<Instant>) -> bool {
        turn::spend();
        if self.compete(0) {
            return true;
        }
        let waiter = Waiter::new(Contender {
            since: Instant::now(),
            handed_over: AtomicBool::new(false),
        });
        let mut mine = 0;
        loop {
            let mut queued = self.queue.lock();
            if self.announce(mine) {
                match mine {
                    0 => queued.push_back(waiter.clone()),
                    _ => queued.push_front(waiter.clone()),
                }
                drop(queued);
                let served = self.queue.wait(&waiter, limit, |queued| {
                    if queued.is_empty() {
                        self.word.fetch_and(!QUEUED, Ordering::Relaxed);
                    }
                });
                if !served {
                    return false;
                }
                if waiter.wants.handed_over.load(Ordering::Relaxed) {
                    return true;
                }
                mine = WOKEN;
            } else {
                drop(queued);
            }
            if self.compete(mine) {
                return true;
            }
        }
    }

    #[inline]
    fn unlock_fast(&self) -> bool {
        self.word
            .compare_exchange(LOCKED, 0, Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }

    #[cold]
    fn unlock_slow(&self, fair: bool) {
        let next = |word| (word & (QUEUED | WOKEN) != QUEUED).then_some(word & !LOCKED);
        let unlocked = |order| self.word.fetch_update(order, Ordering::Relaxed, next);
        if !fair && unlocked(Ordering::Release).is_ok() {
            return;
        }
        let mut queued = self.queue.lock();
        let woken = self.word.load(Ordering::Relaxed) & WOKEN;
        let served = queued.pop_front();
        let word = match served.as_deref() {
            None => woken,
            Some(waiter) if fair || waiter.wants.since.elapsed() >= STARVING => {
                waiter.wants.handed_over.store(true, Ordering::Relaxed);
                LOCKED | woken
            }
            Some(_) => WOKEN,
        };
        let waiting = if queued.is_empty() { 0 } else { QUEUED };
        self.word.store(word | waiting, Ordering::Release);
        drop(queued);
        if let Some(waiter) = served {
            waiter.wake();
        }
    }

    fn lock_until(&self, limit: Option<Instant>) -> bool {
        self.lock_fast() || self.lock_slow(limit)
    }

    /// Returns how many callers wait in the queue. For tests.
    #[doc(hidden)]
    pub fn waiters(&self) -> usize {
        self.queue.lock().len()
    }
}

// SAFETY: one caller at a time owns the lock.
unsafe impl lock_api::RawMutex for RawMutex {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "the trait asks for it"
    )]
    const INIT: Self = RawMutex {
        word: AtomicU8::new(0),
        queue: Queue::new(),
    };

    type GuardMarker = GuardMarker;

    #[inline]
    fn lock(&self) {
        if !self.lock_fast() {
            self.lock_slow(None);
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        let locked = self.lock_fast() || self.compete(0);
        if !locked {
            turn::spend();
        }
        locked
    }

    #[inline]
    unsafe fn unlock(&self) {
        if !self.unlock_fast() {
            self.unlock_slow(false);
        }
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.word.load(Ordering::Relaxed) & LOCKED != 0
    }
}

// SAFETY: as above. A waiter that is handed the lock is its only owner.
unsafe impl lock_api::RawMutexFair for RawMutex {
    #[inline]
    unsafe fn unlock_fair(&self) {
        if !self.unlock_fast() {
            self.unlock_slow(true);
        }
    }

    #[inline]
    unsafe fn bump(&self) {
        if self.word.load(Ordering::Relaxed) & QUEUED != 0 {
            self.unlock_slow(true);
            lock_api::RawMutex::lock(self);
        }
    }
}

// SAFETY: as above.
unsafe impl lock_api::RawMutexTimed for RawMutex {
    type Duration = Duration;
    type Instant = Instant;

    fn try_lock_for(&self, limit: Duration) -> bool {
        self.lock_until(deadline(limit))
    }

    fn try_lock_until(&self, limit: Instant) -> bool {
        self.lock_until(Some(limit))
    }
}

/// The lock of a [`FairMutex`](crate::FairMutex), without data: each unlock hands it over to the
/// first waiter.
///
/// ```
/// use parking_lot::RawFairMutex;
/// use parking_lot::lock_api::RawMutex as _;
///
/// static LOCK: RawFairMutex = RawFairMutex::INIT;
/// LOCK.lock();
/// assert!(!LOCK.try_lock());
/// ```
pub struct RawFairMutex(RawMutex);

impl RawFairMutex {
    /// Returns how many callers wait in the queue. For tests.
    #[doc(hidden)]
    pub fn waiters(&self) -> usize {
        self.0.waiters()
    }
}

// SAFETY: as for `RawMutex`.
unsafe impl lock_api::RawMutex for RawFairMutex {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "the trait asks for it"
    )]
    const INIT: Self = RawFairMutex(<RawMutex as lock_api::RawMutex>::INIT);

    type GuardMarker = GuardMarker;

    #[inline]
    fn lock(&self) {
        self.0.lock();
    }

    #[inline]
    fn try_lock(&self) -> bool {
        self.0.try_lock()
    }

    #[inline]
    unsafe fn unlock(&self) {
        // SAFETY: the caller's promise.
        unsafe { lock_api::RawMutexFair::unlock_fair(&self.0) };
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.0.is_locked()
    }
}

// SAFETY: as for `RawMutex`.
unsafe impl lock_api::RawMutexFair for RawFairMutex {
    #[inline]
    unsafe fn unlock_fair(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.0.unlock_fair() };
    }

    #[inline]
    unsafe fn bump(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.0.bump() };
    }
}

// SAFETY: as for `RawMutex`.
unsafe impl lock_api::RawMutexTimed for RawFairMutex {
    type Duration = Duration;
    type Instant = Instant;

    fn try_lock_for(&self, limit: Duration) -> bool {
        self.0.try_lock_for(limit)
    }

    fn try_lock_until(&self, limit: Instant) -> bool {
        self.0.try_lock_until(limit)
    }
}
