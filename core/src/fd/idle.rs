//! A goroutine that starts when a descriptor is readable, and has no stack before.
//!
//! Its wait is a read in progress: it holds the lock of the direction, begins the timeout of a
//! read, and ends by what ends a read. The goroutine that is made owns the owner of the `Fd`, and
//! ends the wait in its first turn, before any code of the program runs there.
//!
//! | step | by | then |
//! |---|---|---|
//! | `begin_idle` | the maker | the read lock is held, the descriptor is registered |
//! | the owner moves into the goroutine | the maker | no reference to the `Fd` is left |
//! | announce, look, commit | the maker | `sched::stackless` |
//! | `end_idle` | the goroutine | the slot is empty, the read lock is free |
//!
//! The last read may have emptied the kernel's buffer (`drained`). An edge then announces the next
//! bytes, and this wait asks the system nothing. Otherwise the readiness seen so far is forgotten
//! and the system is asked once. Bytes that come after the question latch in the slot, and the
//! commit fails.

use super::{Fd, FdError, OnDrop, Probe, SPENT};
use crate::join::Join;
use crate::os::{Errno, Mode};
use crate::polldesc::PollError;
use crate::sync::Ordering;
use core::mem;
use core::panic::Location;

impl Fd {
    /// Makes a goroutine that calls `f(owner)` once a read of the descriptor in `owner` would not
    /// block, which `probe` asks. It has no stack before. Its start may be spurious.
    ///
    /// It also starts when the deadline or timeout of a read passes and when the descriptor is
    /// closed, and its next read then fails for that reason. Until it starts, its wait counts as a
    /// read in progress. No cancel reaches it.
    ///
    /// # Errors
    ///
    /// If the descriptor is closed or cannot be polled, or if the caller is cancelled.
    /// [`Errno::EBUSY`] if a read is in progress. `owner` and `f` were dropped then.
    ///
    /// # Panics
    ///
    /// In a child of `fork`. A panic out of `f` aborts the process.
    pub fn go_when_readable<O, F, R>(
        owner: O,
        fd: fn(&O) -> &Fd,
        probe: Probe,
        f: F,
        site: &'static Location<'static>,
    ) -> Result<Join<R>, FdError>
    where
        O: Send + 'static,
        F: FnOnce(O) -> R + Send + 'static,
        R: Send + 'static,
    {
        let lent = fd(&owner);
        let (sched, desc) = (lent.sched, lent.desc);
        let is_ready = lent.begin_idle(probe)?;
        let may_wait = || !is_ready && desc.may_wait(Mode::Read).is_ok();
        let body = move || {
            fd(&owner).end_idle();
            f(owner)
        };
        Ok(sched.go_when_notified(desc.slot(Mode::Read), may_wait, body, site))
    }

    /// Begins the wait: takes the read lock and keeps it. Returns whether a read would not block.
    pub(super) fn begin_idle(&self, probe: Probe) -> Result<bool, FdError> {
        let Fd { sched, desc, .. } = *self;
        sched.forbid_in_fork();
        if !self.mutex.try_lock(Mode::Read, sched)? {
            return Err(FdError::Os(Errno::EBUSY));
        }
        let unlock = OnDrop(|| self.release(self.mutex.unlock(Mode::Read, sched)));
        sched.register(desc)?;
        if self.read.timeout.load(Ordering::Relaxed) != 0 {
            self.begin_timeout(Mode::Read);
        }
        let slot = desc.slot(Mode::Read);
        // Readiness since the last read may be that of bytes which the read has taken.
        let asks = !self.is_drained(Mode::Read) || slot.is_ready();
        if asks {
            slot.reset();
        }
        desc.arm(Mode::Read);
        let is_ready = asks && probe(self.borrow(), Mode::Read);
        mem::forget(unlock);
        Ok(is_ready)
    }

    /// Ends the wait, in the goroutine that was made for it.
    fn end_idle(&self) {
        self.sched.end_stackless_wait();
        self.leave_idle();
    }

    /// Undoes what `begin_idle` and the wait have left.
    pub(super) fn leave_idle(&self) {
        self.desc.slot(Mode::Read).settle();
        // The readiness is used up, so the next read asks.
        self.read.drained.store(false, Ordering::Relaxed);
        let timeout = self.read.timeout.load(Ordering::Relaxed);
        if timeout > 0 && self.desc.may_try(Mode::Read) == Err(PollError::Timeout) {
            // A timeout set since then applies to the next read.
            _ = self.read.timeout.compare_exchange(
                timeout,
                timeout | SPENT,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
        self.release(self.mutex.unlock(Mode::Read, self.sched));
    }
}
