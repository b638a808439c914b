//! A read-write lock that hands itself over in the order of arrival.
//!
//! | bits | set | means |
//! |---|---|---|
//! | `WRITER` | by the owner, or by the unlock that admits it | a writer owns the lock |
//! | `QUEUED` | by a waiter, under the queue's lock | there may be waiters in the queue |
//! | the others | by the owners, or by the unlock that admits them | the number of readers |
//!
//! Without `QUEUED` no waiter is queued, and a caller locks or unlocks with one compare-and-swap.
//! With `QUEUED` the word changes under the queue's lock only. The waiter or unlock that leaves the
//! queue empty clears `QUEUED`.
//!
//! The race: a waiter joins the queue while an owner unlocks. The waiter sets `QUEUED` in the word
//! that has the owners, and then looks at the owners. The owner leaves the word without `QUEUED`.
//! The word orders them: either the waiter sees that the owner has left, or the owner sees
//! `QUEUED`. The owner then takes the queue's lock, which the waiter keeps until it has joined.
//!
//! A caller that finds waiters queues behind them, even if the lock would admit it: readers that
//! keep coming do not starve a writer. An unlock admits the first waiter, and after a reader all
//! readers that follow it in the queue. They own the lock before they run, so no later caller
//! overtakes them: writers that keep coming do not starve a reader.
//!
//! A waiter whose time limit comes may be the one that keeps those behind it waiting. So after it
//! has left the queue, it admits what the lock then admits.
#![allow(
    unsafe_code,
    reason = "what the lock guards relies on its owners to unlock it"
)]

use crate::choice::{Decided, End};
use crate::locked_queue::{LockedQueue, Queued, Waited};
use crate::runtime::Runtime;
use crate::sync::{AtomicU64, Ordering, const_unless_loom};
use crate::wait_info::Wait;
use core::mem;

const WRITER: u64 = 1;
const QUEUED: u64 = 2;
/// One reader.
const READER: u64 = 4;

/// The largest number of readers.
const READERS_MAX: u64 = u32::MAX as u64;

/// A read-write lock without data. Locking and unlocking it without contention takes one
/// compare-and-swap each and needs no scheduler.
pub struct RawRwLock<R: Runtime> {
    word: AtomicU64,
    queue: LockedQueue<(), Access>,
    runtime: R,
}

/// What a caller wants, and what it adds to the word as an owner.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Access {
    Read = READER,
    Write = WRITER,
}

impl Access {
    /// The word with the caller as an owner, if `word` admits it.
    #[inline]
    fn admitted(self, word: u64) -> Option<u64> {
        let admits = match self {
            Access::Read => word & WRITER == 0 && word / READER < READERS_MAX,
            Access::Write => word & !QUEUED == 0,
        };
        admits.then_some(word + self as u64)
    }
}

impl<R: Runtime> RawRwLock<R> {
    const_unless_loom! {
        /// An unlocked lock.
        pub fn new(runtime: R) -> Self {
            RawRwLock {
                word: AtomicU64::new(0),
                queue: LockedQueue::new(()),
                runtime,
            }
        }
    }

    /// Locks for reading, after waiting for the writers that came before.
    ///
    /// # Panics
    ///
    /// If there are 4 294 967 295 readers. The lock stays as it is.
    #[inline]
    pub fn read(&self) {
        self.lock(Access::Read, None);
    }

    /// As [`read`](Self::read), but gives up at `limit`: returns whether it locked.
    #[inline]
    pub fn read_until(&self, limit: R::Instant) -> bool {
        self.lock(Access::Read, Some(limit))
    }

    /// Locks for reading, unless a writer owns the lock or waits for it. Returns whether it did.
    ///
    /// After many failures in a row a goroutine yields, so that the owner can run.
    ///
    /// # Panics
    ///
    /// As [`read`](Self::read).
    #[inline]
    pub fn try_read(&self) -> bool {
        self.try_lock(Access::Read)
    }

    /// Locks for writing, after waiting for those that came before.
    #[inline]
    pub fn write(&self) {
        self.lock(Access::Write, None);
    }

    /// As [`write`](Self::write), but gives up at `limit`: returns whether it locked.
    #[inline]
    pub fn write_until(&self, limit: R::Instant) -> bool {
        self.lock(Access::Write, Some(limit))
    }

    /// Locks for writing if the lock is unlocked. Returns whether it did.
    ///
    /// After many failures in a row a goroutine yields, so that the owner can run.
    #[inline]
    pub fn try_write(&self) -> bool {
        self.try_lock(Access::Write)
    }

    /// Whether readers or a writer own the lock.
    pub fn is_locked(&self) -> bool {
        self.word.load(Ordering::Relaxed) & !QUEUED != 0
    }

    /// Whether a writer owns the lock.
    pub fn is_write_locked(&self) -> bool {
        self.word.load(Ordering::Relaxed) & WRITER != 0
    }

    #[inline]
    fn lock(&self, access: Access, limit: Option<R::Instant>) -> bool {
        self.lock_fast(access) || self.lock_slow(access, limit)
    }

    #[inline]
    fn try_lock(&self, access: Access) -> bool {
        self.lock_fast(access) || self.try_lock_slow(access)
    }

    /// Locks if the lock has no waiters and admits the caller.
    #[inline]
    fn lock_fast(&self, access: Access) -> bool {
        let next = |word| match word & QUEUED {
            0 => access.admitted(word),
            _ => None,
        };
        // Acquire pairs with the Release in `release` and `serve`.
        self.update(0, Ordering::Acquire, next)
    }

    /// Changes the word to `next(word)`, unless that is `None`. Returns whether it did. Begins with
    /// the guess that the word is `word`: a load before the compare-and-swap takes about 2 ns.
    #[inline]
    fn update(&self, mut word: u64, order: Ordering, next: impl Fn(u64) -> Option<u64>) -> bool {
        while let Some(new) = next(word) {
            match self
                .word
                .compare_exchange_weak(word, new, order, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(seen) => word = seen,
            }
        }
        false
    }

    /// As `lock_fast`, also for a word with `QUEUED`. `queued` proves that the caller has the
    /// queue's lock.
    fn lock_queued(&self, queued: &Queued<(), Access>, access: Access) -> bool {
        let next = |word| access.admitted(word).map(|next| next & !QUEUED);
        queued.waiters.is_empty()
            && self
                .word
                .fetch_update(Ordering::Acquire, Ordering::Relaxed, next)
                .is_ok()
    }

    fn check_readers(&self, access: Access) {
        let readers = self.word.load(Ordering::Relaxed) / READER;
        assert!(
            access == Access::Write || readers < READERS_MAX,
            "too many readers of one lock (max {READERS_MAX})"
        );
    }

    #[cold]
    fn try_lock_slow(&self, access: Access) -> bool {
        if self.lock_queued(&self.queue.lock(), access) {
            return true;
        }
        self.check_readers(access);
        if let Some(sched) = self.runtime.started() {
            sched.spend(1);
        }
        false
    }

    #[cold]
    fn lock_slow(&self, access: Access, limit: Option<R::Instant>) -> bool {
        self.check_readers(access);
        let sched = self.runtime.sched();
        let until = limit.map(|limit| self.runtime.nanos(limit));
        let wait = match access {
            Access::Read => Wait::RwLockRead.encode(),
            Access::Write => Wait::RwLockWrite.encode(),
        };
        let waited = self.queue.wait(sched, wait, until, &access, |queued| {
            // Acquire pairs with the Release in `release`: the unlock that admits this waiter may
            // be another one.
            self.word.fetch_or(QUEUED, Ordering::Acquire);
            // An owner may have unlocked since the first look.
            let now = self.lock_queued(queued, access);
            (!now).then_some(End::Back)
        });
        if waited == Waited::Expired {
            self.release_slow(0);
        }
        waited != Waited::Expired
    }

    /// Takes an owner out of the word, and puts `kept` in its place.
    #[inline]
    fn release(&self, owner: Access, kept: u64) {
        let owner = owner as u64;
        let change = kept.wrapping_sub(owner);
        let next = |word: u64| (word & QUEUED == 0).then_some(word.wrapping_add(change));
        if !self.update(owner, Ordering::Release, next) {
            self.release_slow(change);
        }
    }

    /// Adds `change` to the word, and readies the waiters that the lock then admits.
    #[cold]
    fn release_slow(&self, mut change: u64) {
        let serve = |queued: &mut _| self.serve(queued, mem::take(&mut change));
        self.queue.wake(self.runtime, |()| (), serve);
    }

    /// Adds `change` to the word, and admits the first waiter if the lock then admits it. Other
    /// threads see both at once.
    fn serve(&self, queued: &mut Queued<(), Access>, change: u64) -> Option<Decided> {
        let waiters = &mut queued.waiters;
        // If there are waiters, the word has QUEUED, so only this thread changes it.
        let word = self.word.load(Ordering::Relaxed).wrapping_add(change);
        let (waiter, owner) = match waiters.pop_if(|access| access.admitted(word).is_some()) {
            Some(served) => (Some(served.waiter), *served.packet as u64),
            None => (None, 0),
        };
        let left = if waiters.is_empty() { 0 } else { QUEUED };
        let change = change.wrapping_add(owner);
        let next = |word: u64| Some(word.wrapping_add(change) & !QUEUED | left);
        _ = self
            .word
            .fetch_update(Ordering::Release, Ordering::Relaxed, next);
        waiter
    }

    /// Unlocks for one reader.
    ///
    /// # Safety
    ///
    /// The caller owns a lock for reading.
    #[inline]
    pub unsafe fn unlock_read(&self) {
        self.release(Access::Read, 0);
    }

    /// Unlocks for the writer.
    ///
    /// # Safety
    ///
    /// The caller owns the lock for writing.
    #[inline]
    pub unsafe fn unlock_write(&self) {
        self.release(Access::Write, 0);
    }

    /// Turns the lock for writing into one for reading. No writer gets the lock in between.
    ///
    /// # Safety
    ///
    /// The caller owns the lock for writing.
    #[inline]
    pub unsafe fn downgrade(&self) {
        self.release(Access::Write, READER);
    }
}

impl<R: Runtime + Default> Default for RawRwLock<R> {
    fn default() -> Self {
        Self::new(R::default())
    }
}

#[cfg(all(test, loom))]
#[path = "../models/rwlock.rs"]
mod models;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::locked_queue::tests::NoScheduler;
    use std::panic;

    #[test]
    fn too_many_readers_panic_and_leave_the_lock_as_it_is() {
        let lock = RawRwLock::new(NoScheduler);
        let readers = |count| count * READER;
        lock.word.store(readers(READERS_MAX - 1), Ordering::Relaxed);
        lock.read();
        for _ in 0..2 {
            let refused = panic::catch_unwind(panic::AssertUnwindSafe(|| lock.read()));
            let text = refused.unwrap_err().downcast::<std::string::String>();
            assert!(text.unwrap().contains("too many readers"));
            assert_eq!(lock.word.load(Ordering::Relaxed), readers(READERS_MAX));
        }
        // SAFETY: the lock has readers.
        unsafe { lock.unlock_read() };
        assert!(lock.try_read() && !lock.try_write());
    }

    #[test]
    fn without_contention_no_scheduler_is_needed() {
        let lock = RawRwLock::<NoScheduler>::default();
        lock.write();
        assert!(lock.is_write_locked() && !lock.try_read());
        // SAFETY: it is locked for writing.
        unsafe { lock.downgrade() };
        assert!(lock.is_locked() && !lock.is_write_locked() && lock.try_read());
        for _ in 0..2 {
            // SAFETY: it has two readers.
            unsafe { lock.unlock_read() };
        }
        assert!(!lock.is_locked() && lock.try_write() && !lock.try_write());
    }

    #[test]
    fn the_queue_is_left_alone_once_it_is_empty() {
        let lock = RawRwLock::new(NoScheduler);
        lock.word.store(QUEUED, Ordering::Relaxed);
        assert!(lock.try_read());
        assert_eq!(lock.word.load(Ordering::Relaxed), READER);
        lock.word.store(READER | QUEUED, Ordering::Relaxed);
        // SAFETY: the lock has a reader.
        unsafe { lock.unlock_read() };
        assert_eq!(lock.word.load(Ordering::Relaxed), 0);
    }
}
