//! FdMutex: Go's `fdMutex`. It serialises reads, serialises writes, and keeps a descriptor open
//! while an operation uses it.
//!
//! ```text
//!   62 ......... 43 | 42 ........ 23 | 22 ... 3 | 2      | 1     | 0
//!   waiting writers | waiting readers | refs     | WLOCK  | RLOCK | CLOSED
//! ```
//!
//! | operation | if | then |
//! |---|---|---|
//! | `incref` | not closed | refs + 1 |
//! | `lock(side)` | not closed, side free | side locked, refs + 1 |
//! | | not closed, side locked | waiters + 1; sleeps; starts over when woken |
//! | | cancelled while it sleeps | waiters - 1; if that is taken, takes its permit and wakes one |
//! | `try_lock(side)` | not closed, side free | side locked, refs + 1 |
//! | | not closed, side locked | nothing; returns that it is locked |
//! | `unlock(side)` | | side free, refs - 1; if waiters > 0: waiters - 1, wakes one |
//! | `decref` | | refs - 1 |
//! | `close` | not closed | closed, refs + 1, waiters = 0; wakes all, and they find it closed |
//! | `incref`, `lock`, `try_lock`, `close` | closed | refused |
//!
//! The rule: the caller that brings refs of a closed mutex to 0 must destroy the descriptor. There
//! is exactly one. The two sides are independent, so a connection is read and written at the same
//! time.
//!
//! The waker takes a waiter off the count, not the waiter itself: a `close` and an `unlock` that
//! race release each waiter's permit once. A caller that unwinds does not wait; `lock` refuses it.

mod leave;

use crate::os::Mode;
use crate::permits::Permits;
use crate::polldesc::PollError;
use crate::sched::Sched;
use crate::sync::{AtomicU64, Ordering};

const CLOSED: u64 = 1;
const RLOCK: u64 = 1 << 1;
const WLOCK: u64 = 1 << 2;
const COUNT_BITS: u32 = 20;
/// The largest value of a counter.
const MAX: u64 = (1 << COUNT_BITS) - 1;
const REF: u64 = 1 << 3;
const REFS: u64 = MAX * REF;
const RWAIT: u64 = REF << COUNT_BITS;
const RWAITS: u64 = MAX * RWAIT;
const WWAIT: u64 = RWAIT << COUNT_BITS;
const WWAITS: u64 = MAX * WWAIT;

static_assertions::const_assert!(CLOSED | RLOCK | WLOCK | REFS | RWAITS | WWAITS == u64::MAX >> 1);

/// The bits of one side: its lock, one waiter, and all waiters.
struct SideBits {
    lock: u64,
    wait: u64,
    waits: u64,
}

const fn side(mode: Mode) -> SideBits {
    match mode {
        Mode::Read => SideBits {
            lock: RLOCK,
            wait: RWAIT,
            waits: RWAITS,
        },
        Mode::Write => SideBits {
            lock: WLOCK,
            wait: WWAIT,
            waits: WWAITS,
        },
    }
}

/// The error of an operation on a closed descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Closed;

/// What the caller of `unlock` or `decref` must do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum AfterUse {
    /// Nothing: the descriptor is open or in use.
    Keep,
    /// Destroy the descriptor: it is closed, and the caller was its last user.
    Destroy,
}

/// The state word, and a semaphore for the waiters of each side.
#[repr(C)]
pub(crate) struct FdMutex {
    state: AtomicU64,
    readers: Permits,
    writers: Permits,
}

impl FdMutex {
    /// An FdMutex that is open, unlocked and unused.
    pub(crate) fn new() -> Self {
        FdMutex {
            state: AtomicU64::new(0),
            readers: Permits::new(),
            writers: Permits::new(),
        }
    }

    /// What gives the waiters of a side their turns.
    pub(crate) fn turns(&self, mode: Mode) -> &Permits {
        match mode {
            Mode::Read => &self.readers,
            Mode::Write => &self.writers,
        }
    }

    /// Keeps the descriptor open until `decref`.
    ///
    /// # Panics
    ///
    /// If the descriptor already has 1 048 575 users.
    #[inline]
    pub(crate) fn incref(&self) -> Result<(), Closed> {
        let next = |old: u64| (old & CLOSED == 0).then(|| plus_one(old, REF, REFS));
        self.state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
            .map(|_| ())
            .map_err(|_| Closed)
    }

    /// Ends the use that `incref` or `close` began.
    ///
    /// # Panics
    ///
    /// If there is no use to end.
    #[inline]
    pub(crate) fn decref(&self) -> AfterUse {
        let old = self.state.fetch_sub(REF, Ordering::AcqRel);
        assert!(
            old & REFS != 0,
            "inconsistent FdMutex: decref without a user"
        );
        after_use(old - REF)
    }

    /// Locks one side, after waiting for it, and keeps the descriptor open until `unlock`. Refused
    /// if the caller is cancelled: all operations begin here.
    ///
    /// # Panics
    ///
    /// If the descriptor already has 1 048 575 users or waiters.
    #[inline]
    pub(crate) fn lock(&self, mode: Mode, sched: &'static Sched) -> Result<(), PollError> {
        let old = self.state.load(Ordering::Relaxed);
        let lock = side(mode).lock;
        if old & (CLOSED | lock) == 0 && !sched.has_cancelled() {
            let new = plus_one(old | lock, REF, REFS);
            if self
                .state
                .compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                return Ok(());
            }
        }
        self.lock_slow(mode, sched)
    }

    /// Locks one side as [`lock`](Self::lock) does if that needs no wait. Returns whether it did.
    pub(crate) fn try_lock(&self, mode: Mode, sched: &'static Sched) -> Result<bool, PollError> {
        let side = side(mode);
        if sched.has_cancelled() {
            sched.check_cancelled()?;
        }
        let next = |old: u64| {
            (old & (CLOSED | side.lock) == 0).then(|| plus_one(old | side.lock, REF, REFS))
        };
        match self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, next)
        {
            Ok(_) => Ok(true),
            Err(old) if old & CLOSED != 0 => Err(PollError::Closing),
            Err(_) => Ok(false),
        }
    }

    #[cold]
    fn lock_slow(&self, mode: Mode, sched: &'static Sched) -> Result<(), PollError> {
        let wait = || {
            self.turns(mode).acquire(sched);
            true
        };
        sched
            .lock_as_member(self, mode)
            .unwrap_or_else(|| self.lock_by(mode, sched, wait))
    }

    /// Locks one side. While it is locked, `wait` waits for a turn to try again, and returns false
    /// if it was cancelled.
    pub(crate) fn lock_by(
        &self,
        mode: Mode,
        sched: &'static Sched,
        wait: impl Fn() -> bool,
    ) -> Result<(), PollError> {
        let side = side(mode);
        let mut old = self.state.load(Ordering::Relaxed);
        loop {
            if old & CLOSED != 0 {
                return Err(PollError::Closing);
            }
            let free = old & side.lock == 0;
            if !free && sched.unwinds() {
                return Err(PollError::Unwinding);
            }
            let new = if free {
                plus_one(old | side.lock, REF, REFS)
            } else {
                plus_one(old, side.wait, side.waits)
            };
            match self
                .state
                .compare_exchange_weak(old, new, Ordering::AcqRel, Ordering::Relaxed)
            {
                Err(now) => old = now,
                Ok(_) if free => return Ok(()),
                Ok(_) => {
                    if !wait() {
                        return Err(PollError::Cancelled);
                    }
                    old = self.state.load(Ordering::Relaxed);
                }
            }
        }
    }

    /// Unlocks one side and ends the use that `lock` began.
    ///
    /// # Panics
    ///
    /// If the side is not locked.
    #[inline]
    pub(crate) fn unlock(&self, mode: Mode, sched: &'static Sched) -> AfterUse {
        let side = side(mode);
        let old = self.state.fetch_sub(side.lock + REF, Ordering::AcqRel);
        assert!(
            old & side.lock != 0 && old & REFS != 0,
            "inconsistent FdMutex: unlock of a side that is not locked"
        );
        if old & side.waits != 0 {
            self.wake_next(mode, sched);
        }
        after_use(old - side.lock - REF)
    }

    /// Wakes one waiter of a side, unless a close has woken them all.
    #[cold]
    fn wake_next(&self, mode: Mode, sched: &'static Sched) {
        let side = side(mode);
        let next = |old: u64| (old & side.waits != 0).then(|| old - side.wait);
        if self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, next)
            .is_ok()
        {
            self.turns(mode).release(sched, 1);
        }
    }

    /// Closes the mutex: refuses new users and wakes all that wait for a lock. The caller becomes a
    /// user, until `decref`.
    #[doc(alias = "increfAndClose")]
    pub(crate) fn close(&self, sched: &'static Sched) -> Result<(), Closed> {
        let next = |old: u64| {
            (old & CLOSED == 0).then(|| plus_one(old | CLOSED, REF, REFS) & !(RWAITS | WWAITS))
        };
        let old = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
            .map_err(|_| Closed)?;
        let waiters = |waits: u64, wait: u64| ((old & waits) / wait) as u32;
        self.readers.release(sched, waiters(RWAITS, RWAIT));
        self.writers.release(sched, waiters(WWAITS, WWAIT));
        Ok(())
    }
}

#[inline]
fn after_use(state: u64) -> AfterUse {
    if state & (CLOSED | REFS) == CLOSED {
        AfterUse::Destroy
    } else {
        AfterUse::Keep
    }
}

/// Adds `one` to the counter under `mask`.
#[inline]
fn plus_one(state: u64, one: u64, mask: u64) -> u64 {
    assert!(
        state & mask != mask,
        "too many concurrent operations on one descriptor (max 1048575)"
    );
    state + one
}

#[cfg(any(test, fuzzing))]
#[path = "../fuzz/fdmutex.rs"]
pub(crate) mod fuzz;

#[cfg(all(test, loom))]
#[path = "../models/fdmutex.rs"]
mod models;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_user_of_a_closed_descriptor_destroys_it() {
        let mutex = FdMutex::new();
        mutex.incref().unwrap();
        mutex.incref().unwrap();
        assert_eq!(mutex.decref(), AfterUse::Keep);
        assert_eq!(mutex.decref(), AfterUse::Keep, "it is open");
    }

    #[test]
    #[should_panic(expected = "inconsistent")]
    fn a_decref_too_many_panics() {
        let _ = FdMutex::new().decref();
    }

    #[test]
    #[should_panic(expected = "too many concurrent operations")]
    fn a_counter_does_not_overflow_into_its_neighbour() {
        let mutex = FdMutex::new();
        mutex.state.store(REFS, Ordering::Relaxed);
        let _ = mutex.incref();
    }
}
