//! `RawRwLock`.
//!
//! | part of the word | set | means |
//! |---|---|---|
//! | `WRITER` | by the owner, or for a waiter | a writer owns the lock |
//! | `UPGRADABLE` | likewise | an upgradable reader owns the lock, with any number of readers |
//! | a multiple of `READER` | likewise | so many readers own the lock |
//! | `QUEUED` | under the queue's lock | there are waiters in the queue |
//! | `BARRED` | under the queue's lock | a `Write` or an `Upgrade` is among them |
//!
//! | access | the owners admit it if | a newcomer also needs |
//! |---|---|---|
//! | `Read` | no `WRITER` | no `BARRED` |
//! | `Recursive` | no `WRITER` | |
//! | `Upgradable` | no `WRITER`, no `UPGRADABLE` | no `QUEUED` |
//! | `Write` | no owner | no `QUEUED` |
//! | `Upgrade`, by the owner of `UPGRADABLE` | no reader | |
//!
//! The owners' part changes by one atomic step in each lock, unlock, upgrade and downgrade, so
//! no writer gets in between. A caller that is not admitted joins the back of the queue, and an
//! `Upgrade` the front. Each waiter that a release admits becomes an owner before it runs. A waiter
//! is served before those behind it, with two exceptions: a `Recursive` overtakes writers, and
//! readers overtake an `Upgradable` that waits for another one.
//!
//! The race: a waiter joins the queue while the last owner in its way leaves. The waiter adds
//! `QUEUED` to a word that does not admit it, under the queue's lock. The owner leaves without the
//! queue's lock only if the word has no `QUEUED`, or if other readers stay. The word orders them:
//! either the waiter is admitted, or the owner takes the queue's lock and serves the waiter.
//! A reader that leaves others behind serves no waiter, since what waits for readers waits for all.
#![allow(
    unsafe_code,
    reason = "the traits of lock_api promise that a lock excludes"
)]

use crate::queue::{Queue, Queued, Waiter};
use crate::{GuardMarker, deadline, turn};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const WRITER: usize = 1;
const UPGRADABLE: usize = 2;
const QUEUED: usize = 4;
const BARRED: usize = 8;
const READER: usize = 16;
const OWNERS: usize = !(QUEUED | BARRED);
const READERS: usize = !(READER - 1);

/// The lock of a [`RwLock`](crate::RwLock), without data.
///
/// ```
/// use parking_lot::RawRwLock;
/// use parking_lot::lock_api::RawRwLock as _;
///
/// static LOCK: RawRwLock = RawRwLock::INIT;
/// LOCK.lock_shared();
/// assert!(LOCK.try_lock_shared() && !LOCK.try_lock_exclusive());
/// ```
pub struct RawRwLock {
    word: AtomicUsize,
    queue: Queue<Access>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Recursive,
    Upgradable,
    Write,
    /// By the owner of `UPGRADABLE`.
    Upgrade,
}

impl Access {
    /// The word with this access as an owner, if the owners admit it.
    #[inline]
    fn admitted(self, word: usize) -> Option<usize> {
        match self {
            Access::Read | Access::Recursive => {
                (word & WRITER == 0 && word < READERS).then(|| word + READER)
            }
            Access::Upgradable => (word & (WRITER | UPGRADABLE) == 0).then_some(word | UPGRADABLE),
            Access::Write => (word & OWNERS == 0).then_some(word | WRITER),
            Access::Upgrade => (word & OWNERS == UPGRADABLE).then_some(word & !UPGRADABLE | WRITER),
        }
    }

    /// As [`admitted`](Self::admitted), for a caller that is not in the queue.
    #[inline]
    fn arrived(self, word: usize) -> Option<usize> {
        let waits_behind = match self {
            Access::Read => BARRED,
            Access::Upgradable | Access::Write => QUEUED,
            Access::Recursive | Access::Upgrade => 0,
        };
        match word & waits_behind {
            0 => self.admitted(word),
            _ => None,
        }
    }

    /// Whether readers wait behind it.
    fn bars(self) -> bool {
        matches!(self, Access::Write | Access::Upgrade)
    }
}

impl RawRwLock {
    #[inline]
    fn update(&self, order: Ordering, next: impl FnMut(usize) -> Option<usize>) -> bool {
        self.word
            .fetch_update(order, Ordering::Relaxed, next)
            .is_ok()
    }

    /// As [`update`](Self::update), but expects to find `word`: without a load in front, the
    /// uncontended case is one step.
    #[inline]
    fn update_from(
        &self,
        mut word: usize,
        order: Ordering,
        next: impl Fn(usize) -> Option<usize>,
    ) -> bool {
        while let Some(new) = next(word) {
            let found = self
                .word
                .compare_exchange_weak(word, new, order, Ordering::Relaxed);
            match found {
                Ok(_) => return true,
                Err(found) => word = found,
            }
        }
        false
    }

    #[inline]
    fn lock(&self, access: Access, limit: Option<Instant>) -> bool {
        let expected = match access {
            Access::Upgrade => UPGRADABLE,
            _ => 0,
        };
        self.update_from(expected, Ordering::Acquire, |word| access.arrived(word))
            || self.lock_slow(access, limit)
    }

    #[inline]
    fn try_lock(&self, access: Access) -> bool {
        let locked = self.update(Ordering::Acquire, |word| access.arrived(word));
        if !locked {
            turn::spend();
        }
        locked
    }

    #[cold]
    fn lock_slow(&self, access: Access, limit: Option<Instant>) -> bool {
        assert!(
            self.word.load(Ordering::Relaxed) < READERS,
            "too many readers of one lock (max {})",
            READERS / READER
        );
        turn::spend();
        let waiter = Waiter::new(access);
        let mut queued = self.queue.lock();
        let flags = if access.bars() {
            QUEUED | BARRED
        } else {
            QUEUED
        };
        let mut locked = false;
        self.update(Ordering::Acquire, |word| {
            let next = access.arrived(word);
            locked = next.is_some();
            Some(next.unwrap_or(word | flags))
        });
        if locked {
            return true;
        }
        match access {
            Access::Upgrade => queued.push_front(waiter.clone()),
            _ => queued.push_back(waiter.clone()),
        }
        drop(queued);
        // Readers may have waited behind a writer that has given up.
        self.queue.wait(&waiter, limit, |queued| self.serve(queued))
    }

    /// Gives up what the caller owns, except `kept`.
    #[inline]
    fn release(&self, owned: usize, kept: usize) {
        let change = kept.wrapping_sub(owned);
        let next = |word: usize| {
            let left = word.wrapping_add(change);
            let serves = word & QUEUED != 0 && (owned != READER || left & READERS == 0);
            (!serves).then_some(left)
        };
        if !self.update_from(owned, Ordering::Release, next) {
            self.release_slow(change);
        }
    }

    #[cold]
    fn release_slow(&self, change: usize) {
        let queued = self.queue.lock();
        self.word.fetch_add(change, Ordering::Release);
        self.serve(queued);
    }

    /// Makes owners of the waiters that are admitted now, and wakes them.
    ///
    /// Its updates acquire: with the release of the last owner they pass on what the owners before
    /// have written. The queue's lock and the wake up pass it on to the waiter.
    fn serve(&self, mut queued: Queued<'_, Access>) {
        let mut served = Vec::new();
        let (mut place, mut barred) = (0, false);
        while self.word.load(Ordering::Relaxed) & WRITER == 0 {
            let Some(access) = queued.get(place).map(|waiter| waiter.wants) else {
                break;
            };
            let may_pass = !barred || access == Access::Recursive;
            if may_pass && self.update(Ordering::Acquire, |word| access.admitted(word)) {
                served.extend(queued.remove(place));
            } else {
                barred |= access.bars();
                place += 1;
            }
        }
        let flags = match queued.is_empty() {
            true => 0,
            false if queued.iter().any(|waiter| waiter.wants.bars()) => QUEUED | BARRED,
            false => QUEUED,
        };
        self.update(Ordering::Relaxed, |word| Some(word & OWNERS | flags));
        drop(queued);
        for waiter in served {
            waiter.wake();
        }
    }

    fn has(&self, flag: usize) -> bool {
        self.word.load(Ordering::Relaxed) & flag != 0
    }

    /// Returns how many callers wait in the queue. For tests.
    #[doc(hidden)]
    pub fn waiters(&self) -> usize {
        self.queue.lock().len()
    }
}

// SAFETY: a writer owns the lock alone, as the table at the top says.
unsafe impl lock_api::RawRwLock for RawRwLock {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "the trait asks for it"
    )]
    const INIT: Self = RawRwLock {
        word: AtomicUsize::new(0),
        queue: Queue::new(),
    };

    type GuardMarker = GuardMarker;

    #[inline]
    fn lock_shared(&self) {
        self.lock(Access::Read, None);
    }

    #[inline]
    fn try_lock_shared(&self) -> bool {
        self.try_lock(Access::Read)
    }

    #[inline]
    unsafe fn unlock_shared(&self) {
        self.release(READER, 0);
    }

    #[inline]
    fn lock_exclusive(&self) {
        self.lock(Access::Write, None);
    }

    #[inline]
    fn try_lock_exclusive(&self) -> bool {
        self.try_lock(Access::Write)
    }

    #[inline]
    unsafe fn unlock_exclusive(&self) {
        self.release(WRITER, 0);
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.has(OWNERS)
    }

    #[inline]
    fn is_locked_exclusive(&self) -> bool {
        self.has(WRITER)
    }
}

// SAFETY: as above. Every unlock serves the waiters in their order.
unsafe impl lock_api::RawRwLockFair for RawRwLock {
    #[inline]
    unsafe fn unlock_shared_fair(&self) {
        self.release(READER, 0);
    }

    #[inline]
    unsafe fn unlock_exclusive_fair(&self) {
        self.release(WRITER, 0);
    }

    #[inline]
    unsafe fn bump_shared(&self) {
        if self.has(BARRED) {
            self.release(READER, 0);
            self.lock(Access::Read, None);
        }
    }

    #[inline]
    unsafe fn bump_exclusive(&self) {
        if self.has(QUEUED) {
            self.release(WRITER, 0);
            self.lock(Access::Write, None);
        }
    }
}

// SAFETY: as above. One step makes a reader of the writer.
unsafe impl lock_api::RawRwLockDowngrade for RawRwLock {
    #[inline]
    unsafe fn downgrade(&self) {
        self.release(WRITER, READER);
    }
}

// SAFETY: as above.
unsafe impl lock_api::RawRwLockTimed for RawRwLock {
    type Duration = Duration;
    type Instant = Instant;

    fn try_lock_shared_for(&self, limit: Duration) -> bool {
        self.lock(Access::Read, deadline(limit))
    }

    fn try_lock_shared_until(&self, limit: Instant) -> bool {
        self.lock(Access::Read, Some(limit))
    }

    fn try_lock_exclusive_for(&self, limit: Duration) -> bool {
        self.lock(Access::Write, deadline(limit))
    }

    fn try_lock_exclusive_until(&self, limit: Instant) -> bool {
        self.lock(Access::Write, Some(limit))
    }
}

// SAFETY: as above.
unsafe impl lock_api::RawRwLockRecursive for RawRwLock {
    #[inline]
    fn lock_shared_recursive(&self) {
        self.lock(Access::Recursive, None);
    }

    #[inline]
    fn try_lock_shared_recursive(&self) -> bool {
        self.try_lock(Access::Recursive)
    }
}

// SAFETY: as above.
unsafe impl lock_api::RawRwLockRecursiveTimed for RawRwLock {
    fn try_lock_shared_recursive_for(&self, limit: Duration) -> bool {
        self.lock(Access::Recursive, deadline(limit))
    }

    fn try_lock_shared_recursive_until(&self, limit: Instant) -> bool {
        self.lock(Access::Recursive, Some(limit))
    }
}

// SAFETY: as above. One step makes a writer of the upgradable reader.
unsafe impl lock_api::RawRwLockUpgrade for RawRwLock {
    #[inline]
    fn lock_upgradable(&self) {
        self.lock(Access::Upgradable, None);
    }

    #[inline]
    fn try_lock_upgradable(&self) -> bool {
        self.try_lock(Access::Upgradable)
    }

    #[inline]
    unsafe fn unlock_upgradable(&self) {
        self.release(UPGRADABLE, 0);
    }

    #[inline]
    unsafe fn upgrade(&self) {
        self.lock(Access::Upgrade, None);
    }

    #[inline]
    unsafe fn try_upgrade(&self) -> bool {
        self.try_lock(Access::Upgrade)
    }
}

// SAFETY: as above.
unsafe impl lock_api::RawRwLockUpgradeFair for RawRwLock {
    #[inline]
    unsafe fn unlock_upgradable_fair(&self) {
        self.release(UPGRADABLE, 0);
    }

    #[inline]
    unsafe fn bump_upgradable(&self) {
        if self.has(QUEUED) {
            self.release(UPGRADABLE, 0);
            self.lock(Access::Upgradable, None);
        }
    }
}

// SAFETY: as above. Each is one step.
unsafe impl lock_api::RawRwLockUpgradeDowngrade for RawRwLock {
    #[inline]
    unsafe fn downgrade_upgradable(&self) {
        self.release(UPGRADABLE, READER);
    }

    #[inline]
    unsafe fn downgrade_to_upgradable(&self) {
        self.release(WRITER, UPGRADABLE);
    }
}

// SAFETY: as above. A caller whose upgrade fails keeps `UPGRADABLE`.
unsafe impl lock_api::RawRwLockUpgradeTimed for RawRwLock {
    fn try_lock_upgradable_for(&self, limit: Duration) -> bool {
        self.lock(Access::Upgradable, deadline(limit))
    }

    fn try_lock_upgradable_until(&self, limit: Instant) -> bool {
        self.lock(Access::Upgradable, Some(limit))
    }

    unsafe fn try_upgrade_for(&self, limit: Duration) -> bool {
        self.lock(Access::Upgrade, deadline(limit))
    }

    unsafe fn try_upgrade_until(&self, limit: Instant) -> bool {
        self.lock(Access::Upgrade, Some(limit))
    }
}
