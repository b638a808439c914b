//! FdMutex: Go's `fdMutex`, which serialises reads, serialises writes, and keeps a descriptor open while somebody uses it.
//!
//! ```text
//!   62 ......... 43 | 42 ........ 23 | 22 ... 3 | 2      | 1     | 0
//!   waiting writers | waiting readers | refs     | WLOCK  | RLOCK | CLOSED
//! ```
//!
//! | operation | if | then |
//! |---|---|---|
//! | `incref` | not closed | refs + 1 |
//! | `lock(side)` | not closed, side free | side held, refs + 1 |
//! | | not closed, side held | a waiter more; sleeps; starts over when woken (its waker has taken it off the count). Refused if the caller unwinds |
//! | `unlock(side)` | | side free, refs - 1; wakes one waiter of the side |
//! | `decref` | | refs - 1 |
//! | `close` | not closed | closed, refs + 1, no waiters: all are woken, and find it closed |
//! | any but `close`, `unlock`, `decref` | closed | refused |
//!
//! Whoever brings refs to 0 on a closed mutex is told to destroy the descriptor: exactly one caller is. Read and write locks are
//! independent: a connection is read and written at the same time.

use crate::os::Mode;
use crate::polldesc::PollError;
use crate::sched::Sched;
use crate::sema::Permits;
use crate::sync::{AtomicU64, Ordering};

const CLOSED: u64 = 1;
const RLOCK: u64 = 1 << 1;
const WLOCK: u64 = 1 << 2;
const COUNT_BITS: u32 = 20;
/// The most a counter holds.
const MAX: u64 = (1 << COUNT_BITS) - 1;
const REF: u64 = 1 << 3;
const REFS: u64 = MAX * REF;
const RWAIT: u64 = REF << COUNT_BITS;
const RWAITS: u64 = MAX * RWAIT;
const WWAIT: u64 = RWAIT << COUNT_BITS;
const WWAITS: u64 = MAX * WWAIT;

static_assertions::const_assert!(CLOSED | RLOCK | WLOCK | REFS | RWAITS | WWAITS == u64::MAX >> 1);

/// The bits of one side.
struct Side {
    lock: u64,
    wait: u64,
    waits: u64,
}

const fn side(mode: Mode) -> Side {
    match mode {
        Mode::Read => Side {
            lock: RLOCK,
            wait: RWAIT,
            waits: RWAITS,
        },
        Mode::Write => Side {
            lock: WLOCK,
            wait: WWAIT,
            waits: WWAITS,
        },
    }
}

/// The descriptor is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Closed;

/// What the caller of `unlock` or `decref` must do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Release {
    /// Nothing.
    Held,
    /// Destroy the descriptor: it is closed, and this was its last user.
    Last,
}

/// See the module's head.
#[repr(C)]
pub(crate) struct FdMutex {
    state: AtomicU64,
    readers: Permits,
    writers: Permits,
}

impl FdMutex {
    /// Open, unlocked, unused.
    pub(crate) fn new() -> Self {
        FdMutex {
            state: AtomicU64::new(0),
            readers: Permits::new(),
            writers: Permits::new(),
        }
    }

    fn sema(&self, mode: Mode) -> &Permits {
        match mode {
            Mode::Read => &self.readers,
            Mode::Write => &self.writers,
        }
    }

    /// Keeps the descriptor open until `decref`.
    ///
    /// # Panics
    ///
    /// With more than 1 048 575 users.
    pub(crate) fn incref(&self) -> Result<(), Closed> {
        let next = |old: u64| (old & CLOSED == 0).then(|| plus_one(old, REF, REFS));
        self.state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
            .map(|_| ())
            .map_err(|_| Closed)
    }

    /// Ends what `incref` or `close` began.
    ///
    /// # Panics
    ///
    /// If nothing was begun.
    pub(crate) fn decref(&self) -> Release {
        let old = self.state.fetch_sub(REF, Ordering::AcqRel);
        assert!(
            old & REFS != 0,
            "inconsistent FdMutex: decref of one that nobody uses"
        );
        last(old - REF)
    }

    /// Waits for the lock of one side and keeps the descriptor open until `unlock`.
    ///
    /// # Panics
    ///
    /// With more than 1 048 575 users or waiters.
    #[inline]
    pub(crate) fn lock(&self, mode: Mode, sched: &'static Sched) -> Result<(), PollError> {
        let old = self.state.load(Ordering::Relaxed);
        let lock = side(mode).lock;
        if old & (CLOSED | lock) == 0 {
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

    #[cold]
    fn lock_slow(&self, mode: Mode, sched: &'static Sched) -> Result<(), PollError> {
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
                    self.sema(mode).acquire(sched);
                    old = self.state.load(Ordering::Relaxed);
                }
            }
        }
    }

    /// Ends what `lock` began.
    ///
    /// # Panics
    ///
    /// If the side is not locked.
    #[inline]
    pub(crate) fn unlock(&self, mode: Mode, sched: &'static Sched) -> Release {
        let side = side(mode);
        let old = self.state.fetch_sub(side.lock + REF, Ordering::AcqRel);
        assert!(
            old & side.lock != 0 && old & REFS != 0,
            "inconsistent FdMutex: unlock of one that is not locked"
        );
        if old & side.waits != 0 {
            self.wake_next(mode, sched);
        }
        last(old - side.lock - REF)
    }

    /// Wakes one waiter of a side that was unlocked, unless a close has woken all.
    #[cold]
    fn wake_next(&self, mode: Mode, sched: &'static Sched) {
        let side = side(mode);
        let next = |old: u64| (old & side.waits != 0).then(|| old - side.wait);
        if self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, next)
            .is_ok()
        {
            self.sema(mode).release(sched, 1);
        }
    }

    /// Closes: new users are refused, those that wait for a lock are woken. The caller becomes a user, until `decref`.
    #[doc(alias = "increfAndClose")]
    pub(crate) fn close(&self, sched: &'static Sched) -> Result<(), Closed> {
        let next = |old: u64| {
            (old & CLOSED == 0).then(|| plus_one(old | CLOSED, REF, REFS) & !(RWAITS | WWAITS))
        };
        let old = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
            .map_err(|_| Closed)?;
        self.readers.release(sched, ((old & RWAITS) / RWAIT) as u32);
        self.writers.release(sched, ((old & WWAITS) / WWAIT) as u32);
        Ok(())
    }
}

#[inline]
fn last(state: u64) -> Release {
    if state & (CLOSED | REFS) == CLOSED {
        Release::Last
    } else {
        Release::Held
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
        assert_eq!(mutex.decref(), Release::Held);
        assert_eq!(mutex.decref(), Release::Held, "open: nobody destroys");
    }

    #[test]
    #[should_panic(expected = "inconsistent")]
    fn a_decref_too_many_is_refused() {
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
