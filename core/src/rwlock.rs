//! A read-write lock that hands itself over in the order of arrival.
//!
//! | readers | writer | means |
//! |---|---|---|
//! | 0 | no | unlocked; no waiter is queued |
//! | n | no | n readers own the lock; the first waiter is a writer |
//! | 0 | yes | a writer owns the lock |
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
use crate::sync::const_unless_loom;
use crate::wait_info::Wait;

/// The largest number of readers.
const READERS_MAX: u32 = u32::MAX;

/// A read-write lock without data.
pub struct RawRwLock<R: Runtime> {
    queue: LockedQueue<Owners, Access>,
    runtime: R,
}

/// The owners of the lock.
#[derive(Clone, Copy)]
struct Owners {
    readers: u32,
    writer: bool,
}

/// What a caller wants.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl Owners {
    fn admits(self, access: Access) -> bool {
        match access {
            Access::Read => !self.writer && self.readers < READERS_MAX,
            Access::Write => !self.writer && self.readers == 0,
        }
    }

    fn admit(&mut self, access: Access) {
        match access {
            Access::Read => self.readers += 1,
            Access::Write => self.writer = true,
        }
    }
}

impl Queued<Owners, Access> {
    /// Admits a caller that need not wait.
    fn admit_now(&mut self, access: Access) -> bool {
        let now = self.waiters.is_empty() && self.state.admits(access);
        if now {
            self.state.admit(access);
        }
        now
    }
}

/// Admits the first waiter, if the lock admits it.
fn serve(queued: &mut Queued<Owners, Access>) -> Option<Decided> {
    let owners = queued.state;
    let served = queued.waiters.pop_if(|access| owners.admits(*access))?;
    queued.state.admit(*served.packet);
    Some(served.waiter)
}

impl<R: Runtime> RawRwLock<R> {
    const_unless_loom! {
        /// An unlocked lock.
        pub fn new(runtime: R) -> Self {
            RawRwLock {
                queue: LockedQueue::new(Owners {
                    readers: 0,
                    writer: false,
                }),
                runtime,
            }
        }
    }

    /// Locks for reading, after waiting for the writers that came before.
    ///
    /// # Panics
    ///
    /// If there are 4 294 967 295 readers. The lock stays as it is.
    pub fn read(&self) {
        self.lock(Access::Read, None);
    }

    /// As [`read`](Self::read), but gives up at `limit`: returns whether it locked.
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
    pub fn try_read(&self) -> bool {
        self.try_lock(Access::Read)
    }

    /// Locks for writing, after waiting for those that came before.
    pub fn write(&self) {
        self.lock(Access::Write, None);
    }

    /// As [`write`](Self::write), but gives up at `limit`: returns whether it locked.
    pub fn write_until(&self, limit: R::Instant) -> bool {
        self.lock(Access::Write, Some(limit))
    }

    /// Locks for writing if the lock is unlocked. Returns whether it did.
    ///
    /// After many failures in a row a goroutine yields, so that the owner can run.
    pub fn try_write(&self) -> bool {
        self.try_lock(Access::Write)
    }

    /// Whether readers or a writer own the lock.
    pub fn is_locked(&self) -> bool {
        !self.queue.lock().state.admits(Access::Write)
    }

    /// Whether a writer owns the lock.
    pub fn is_write_locked(&self) -> bool {
        self.queue.lock().state.writer
    }

    /// Locks if the caller need not wait.
    fn lock_now(&self, access: Access) -> bool {
        let owners = {
            let mut queued = self.queue.lock();
            if queued.admit_now(access) {
                return true;
            }
            queued.state
        };
        assert!(
            access == Access::Write || owners.readers < READERS_MAX,
            "too many readers of one lock (max {READERS_MAX})"
        );
        false
    }

    fn try_lock(&self, access: Access) -> bool {
        if self.lock_now(access) {
            return true;
        }
        if let Some(sched) = self.runtime.started() {
            sched.spend(1);
        }
        false
    }

    fn lock(&self, access: Access, limit: Option<R::Instant>) -> bool {
        self.lock_now(access) || self.lock_slow(access, limit)
    }

    #[cold]
    fn lock_slow(&self, access: Access, limit: Option<R::Instant>) -> bool {
        let sched = self.runtime.sched();
        let until = limit.map(|limit| self.runtime.nanos(limit));
        let wait = match access {
            Access::Read => Wait::RwLockRead.encode(),
            Access::Write => Wait::RwLockWrite.encode(),
        };
        let waited = self.queue.wait(sched, wait, until, &access, |queued| {
            // An owner may have unlocked since the first look.
            let now = queued.admit_now(access);
            (!now).then_some(End::Back)
        });
        if waited == Waited::Expired {
            self.queue.wake(self.runtime, |_| (), serve);
        }
        waited != Waited::Expired
    }

    /// Unlocks for one reader.
    ///
    /// # Safety
    ///
    /// The caller owns a lock for reading.
    pub unsafe fn unlock_read(&self) {
        self.queue
            .wake(self.runtime, |owners| owners.readers -= 1, serve);
    }

    /// Unlocks for the writer.
    ///
    /// # Safety
    ///
    /// The caller owns the lock for writing.
    pub unsafe fn unlock_write(&self) {
        self.queue
            .wake(self.runtime, |owners| owners.writer = false, serve);
    }

    /// Turns the lock for writing into one for reading. No writer gets the lock in between.
    ///
    /// # Safety
    ///
    /// The caller owns the lock for writing.
    pub unsafe fn downgrade(&self) {
        let one_reader = Owners {
            readers: 1,
            writer: false,
        };
        self.queue
            .wake(self.runtime, |owners| *owners = one_reader, serve);
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::locked_queue::tests::NoScheduler;
    use std::panic;

    #[test]
    fn too_many_readers_panic_and_leave_the_lock_as_it_is() {
        let lock = RawRwLock::new(NoScheduler);
        lock.queue.lock().state.readers = READERS_MAX - 1;
        lock.read();
        for _ in 0..2 {
            let refused = panic::catch_unwind(panic::AssertUnwindSafe(|| lock.read()));
            let text = refused.unwrap_err().downcast::<std::string::String>();
            assert!(text.unwrap().contains("too many readers"));
            assert_eq!(lock.queue.lock().state.readers, READERS_MAX);
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
}
