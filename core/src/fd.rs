//! Fd: a descriptor that blocks goroutines in place of threads, Go's `poll.FD`. It makes no system call itself: an operation comes as a
//! closure that tries it once and says what happened.
//!
//! # One system call where two would do
//!
//! When a stream's read returned less than was asked for, the kernel's buffer is empty: the next read waits for an edge, and does
//! not ask only to hear `EAGAIN` ("spent"). Readiness that came after that read has latched in the descriptor's slot, so nothing is lost,
//! provided that the slot is not reset on this path. An edge may also bring data and an end of stream at once, and then no further
//! edge comes: so a descriptor on which the kernel has reported any end, error or urgent mark is always asked. The same holds for writes
//! that took less than was offered. A descriptor that no poller watches yet is registered, which reports what is ready by then.
//!
//! # Closing
//!
//! `close` refuses new operations, wakes those that wait, and returns when the last one has let go and the system has released the
//! descriptor: its port can be bound again at once.
#![allow(unsafe_code, reason = "it owns the descriptor that it has closed")]

use crate::fdmutex::{Closed, FdMutex, Release};
use crate::netpoll::RegisterError;
use crate::os::{Borrowed, Errno, Mode, Nanos, Outcome};
use crate::polldesc::{Deadline, PollDesc, PollError};
use crate::sched::Sched;
use crate::sema::Permits;
use crate::sync::{AtomicBool, AtomicI64, AtomicU32, Once, Ordering};
use core::fmt;
use core::ops::Range;

/// The most bytes to move in one system call. Go's number; Linux has a limit of its own, a page below 2 GiB, and a call cut by the system
/// would look like a buffer that is full or empty.
#[doc(alias = "maxRW")]
pub const MAX_RW: usize = 1 << 30;

/// Why an operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FdError {
    /// It could not wait.
    Poll(PollError),
    /// The system refused it.
    Os(Errno),
}

impl fmt::Display for FdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FdError::Poll(error) => error.fmt(f),
            FdError::Os(errno) => errno.fmt(f),
        }
    }
}

impl core::error::Error for FdError {}

impl From<PollError> for FdError {
    fn from(error: PollError) -> Self {
        FdError::Poll(error)
    }
}

impl From<Closed> for FdError {
    fn from(_: Closed) -> Self {
        FdError::Poll(PollError::Closing)
    }
}

impl From<RegisterError> for FdError {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::NotPollable => FdError::Poll(PollError::NotPollable),
            RegisterError::Os(errno) => FdError::Os(errno),
        }
    }
}

/// An open, non-blocking descriptor. What every operation touches comes first and together.
#[repr(C)]
pub struct Fd {
    sched: &'static Sched,
    desc: &'static PollDesc,
    raw: i32,
    /// Whether the system has released the descriptor but its number is kept.
    number_kept: AtomicBool,
    read: Side,
    write: Side,
    mutex: FdMutex,
    /// Released when the system has released the descriptor.
    closed: Permits,
    /// How it is closed if somebody knows the number for as long as this Fd exists, so that it must stay taken.
    on_reserved_close: Once<unsafe fn(i32)>,
}

/// Counts operations that did not block against the goroutine's allowance.
type Spend = fn(&'static Sched, u32);

struct Side {
    /// Nanoseconds that each operation may take; 0 if the deadline counts; `ENDLESS`. Only an operation that begins turns it into a
    /// deadline, so one under way keeps the limit that it began with. Changes together with the deadline, under the lock of `desc`, but
    /// for `set_timeout`.
    timeout: AtomicI64,
    /// The last operation showed that the kernel has no more data, or no more room. Belongs to the holder of the side's lock.
    drained: AtomicBool,
    /// Operations that did not block, since they were last counted against the goroutine's allowance. Belongs to the holder of the side's lock.
    uncounted: AtomicU32,
}

/// A timeout that was taken away: the next operation clears what is left of it, a deadline.
const ENDLESS: Nanos = -1;

static_assertions::assert_impl_all!(Fd: Send, Sync);

impl Fd {
    /// Takes over descriptor `raw`. It joins a poller when an operation first has to wait.
    ///
    /// # Safety
    ///
    /// The caller owns `raw`, which is non-blocking, and gives it up.
    pub unsafe fn new(sched: &'static Sched, raw: i32) -> Self {
        let side = || Side {
            timeout: AtomicI64::new(0),
            drained: AtomicBool::new(false),
            uncounted: AtomicU32::new(0),
        };
        Fd {
            sched,
            mutex: FdMutex::new(),
            raw,
            desc: sched.poll_open(raw),
            closed: Permits::new(),
            on_reserved_close: Once::new(),
            number_kept: AtomicBool::new(false),
            read: side(),
            write: side(),
        }
    }

    /// Registers with a poller now, for a descriptor that may turn out not to be pollable.
    pub fn register(&self) -> Result<(), FdError> {
        self.with(|_| self.sched.register(self.desc))?
            .map_err(FdError::from)
    }

    fn side(&self, mode: Mode) -> &Side {
        match mode {
            Mode::Read => &self.read,
            Mode::Write => &self.write,
        }
    }

    /// The number, which from now on stays taken until this `Fd` is dropped, even if it is closed before: `close` releases the file behind the
    /// number, and leaves something there that is nobody's.
    ///
    /// # Safety
    ///
    /// `close` is sound to call with an open descriptor that its caller owns, and the number stays taken.
    pub unsafe fn reserve_number(&self, close: unsafe fn(i32)) -> Result<i32, FdError> {
        self.with(|fd| {
            self.on_reserved_close.call_once(|| close);
            fd.raw()
        })
    }

    /// Gives the descriptor up without closing it: it leaves its poller.
    pub fn into_raw(self) -> Result<i32, FdError> {
        // The reference that this takes is never given back, so the descriptor is not destroyed.
        self.begin_close()?;
        self.sched.poll_close(self.desc);
        Ok(self.raw)
    }

    /// The number. It means this descriptor for as long as that is open.
    pub fn raw(&self) -> i32 {
        self.raw
    }

    /// For the time of a call that keeps the descriptor open.
    #[inline]
    fn borrow(&self) -> Borrowed<'_> {
        // SAFETY: the callers are users of the descriptor, which is closed after its last user has
        // let go.
        unsafe { Borrowed::new(self.raw) }
    }

    /// Uses the descriptor for something that does not block; it stays open meanwhile, also if `f`
    /// panics.
    pub fn with<T>(&self, f: impl FnOnce(Borrowed<'_>) -> T) -> Result<T, FdError> {
        self.mutex.incref()?;
        let _user = OnDrop(|| self.release(self.mutex.decref()));
        Ok(f(self.borrow()))
    }

    /// One operation, repeated until it does not block any more: a datagram, a peek.
    ///
    /// If `op` panics, here and in the other operations, the direction is free again for others.
    pub fn operate<T>(
        &self,
        mode: Mode,
        op: impl FnMut(Borrowed<'_>) -> Outcome<T>,
    ) -> Result<T, FdError> {
        self.operate_as(mode, Sched::spend, op)
    }

    /// As [`operate`](Self::operate) in the direction [`Read`](Mode::Read), for an accept. One that
    /// never blocks may be repeated the more often in a
    /// row the more goroutines take turns with it.
    pub fn accept<T>(&self, op: impl FnMut(Borrowed<'_>) -> Outcome<T>) -> Result<T, FdError> {
        self.operate_as(Mode::Read, Sched::spend_accepts, op)
    }

    fn operate_as<T>(
        &self,
        mode: Mode,
        spend: Spend,
        mut op: impl FnMut(Borrowed<'_>) -> Outcome<T>,
    ) -> Result<T, FdError> {
        self.locked(mode, || {
            self.sched.poll_reset(self.desc, mode)?;
            // The readiness just forgotten may have been what a transfer would wait for, and a peek takes no data.
            self.side(mode).drained.store(false, Ordering::Relaxed);
            self.attempt(mode, false, spend, &mut op)
        })
    }

    /// One transfer on a stream, of up to `len` bytes: how many. A read of 0 bytes is the end of the stream.
    ///
    /// `len` is at most [`MAX_RW`], and exactly what `op` offers the system. With `len` 0 it is not called: a read then does not even look at the deadline, as in Go.
    pub fn transfer(
        &self,
        mode: Mode,
        len: usize,
        mut op: impl FnMut(Borrowed<'_>) -> Outcome<usize>,
    ) -> Result<usize, FdError> {
        self.locked(mode, || {
            if len == 0 {
                return if mode == Mode::Read {
                    Ok(0)
                } else {
                    self.desc.may_try(mode).map(|()| 0).map_err(FdError::from)
                };
            }
            let first_wait = self.begin(mode)?;
            self.transfer_some(mode, first_wait, len, &mut op)
        })
    }

    /// Writes `len` bytes without another writer's in between; `op` gets the range of those to try, [`MAX_RW`] at most. On failure says how
    /// many were written.
    pub fn transfer_all(
        &self,
        len: usize,
        mut op: impl FnMut(Borrowed<'_>, Range<usize>) -> Outcome<usize>,
    ) -> Result<(), (usize, FdError)> {
        let mut done = 0;
        self.locked(Mode::Write, || {
            let mut wait = self.begin(Mode::Write)?;
            while done < len {
                let chunk = (len - done).min(MAX_RW);
                match self.transfer_some(Mode::Write, wait, chunk, &mut |fd| {
                    op(fd, done..done + chunk)
                })? {
                    0 => return Err(FdError::Os(Errno::new(EIO))),
                    n => done += n,
                }
                wait = self.is_drained(Mode::Write);
            }
            Ok(())
        })
        .map_err(|error| (done, error))
    }

    /// Runs `f` as the only operation in its direction, and with this side's timeout.
    fn locked<T>(&self, mode: Mode, f: impl FnOnce() -> Result<T, FdError>) -> Result<T, FdError> {
        self.mutex.lock(mode, self.sched)?;
        let _held = OnDrop(|| self.release(self.mutex.unlock(mode, self.sched)));
        if self.side(mode).timeout.load(Ordering::Relaxed) != 0 {
            self.begin_timeout(mode);
        }
        f()
    }

    fn begin_timeout(&self, mode: Mode) {
        let now = self.sched.now();
        let word = &self.side(mode).timeout;
        let decide = || match word.load(Ordering::Relaxed) {
            // A deadline was set meanwhile, perhaps to end this operation.
            0 => None,
            ENDLESS => {
                // A timeout set meanwhile is for the next operation.
                let _ = word.compare_exchange(ENDLESS, 0, Ordering::Relaxed, Ordering::Relaxed);
                Some(Deadline::None)
            }
            timeout => Some(Deadline::At(now.saturating_add(timeout))),
        };
        self.sched.poll_set_deadline(self.desc, &decide, Some(mode));
    }

    /// Whether the next attempt would only hear that it must wait.
    fn is_drained(&self, mode: Mode) -> bool {
        self.side(mode).drained.load(Ordering::Relaxed) && !self.desc.hung_up()
    }

    /// Begins an operation. True if it should wait before it asks the system; then readiness seen since the last one must count, and is not reset.
    fn begin(&self, mode: Mode) -> Result<bool, FdError> {
        let wait = self.is_drained(mode);
        match wait {
            true => self.desc.may_try(mode)?,
            false => self.sched.poll_reset(self.desc, mode)?,
        }
        Ok(wait)
    }

    fn transfer_some(
        &self,
        mode: Mode,
        wait: bool,
        len: usize,
        op: &mut impl FnMut(Borrowed<'_>) -> Outcome<usize>,
    ) -> Result<usize, FdError> {
        let n = self.attempt(mode, wait, Sched::spend, op)?;
        assert!(n <= len, "a transfer moved more bytes than it was to");
        // An end of stream (0) comes again and again, without an edge.
        self.side(mode)
            .drained
            .store(n != 0 && n < len, Ordering::Relaxed);
        Ok(n)
    }

    /// Tries until it is done; waits after each `EAGAIN`, and with `wait` before the first try.
    fn attempt<T>(
        &self,
        mode: Mode,
        mut wait: bool,
        spend: Spend,
        op: &mut impl FnMut(Borrowed<'_>) -> Outcome<T>,
    ) -> Result<T, FdError> {
        let mut asked = !wait;
        let mut blocked = false;
        loop {
            let mut waited = Ok(());
            if wait {
                waited = self.wait(mode, asked)?;
                blocked = true;
            }
            asked = true;
            match op(self.borrow()) {
                Outcome::Done(value) => {
                    if !blocked {
                        self.count(mode, spend);
                    }
                    return Ok(value);
                }
                Outcome::WouldBlock => {
                    self.may_wait_again(waited)?;
                    wait = true;
                }
                Outcome::Interrupted => wait = false,
                Outcome::Failed(errno) => return Err(FdError::Os(errno)),
            }
        }
    }

    /// Waits until it is ready. An error inside means that the system is to be asked once more all the same, whether it knows better.
    fn wait(&self, mode: Mode, asked: bool) -> Result<Result<(), PollError>, FdError> {
        self.sched.register(self.desc)?;
        let waited = match self.sched.poll_wait(self.desc, mode) {
            // The time may have passed while an edge lay in the kernel that nobody had fetched: who has not asked yet asks once.
            refused @ Err(PollError::Timeout | PollError::Unwinding) if !asked => refused,
            // The error is the system's to report.
            ready @ (Ok(()) | Err(PollError::NotPollable)) => ready,
            Err(error) => return Err(error.into()),
        };
        // The readiness that led here is used up. If the operation takes no data, because it fails
        // or panics, the next one asks.
        self.side(mode).drained.store(false, Ordering::Relaxed);
        Ok(waited)
    }

    /// After an `EAGAIN` that came after a wait with this outcome: an error if waiting once more is no use.
    #[cold]
    fn may_wait_again(&self, waited: Result<(), PollError>) -> Result<(), PollError> {
        match waited {
            Err(PollError::NotPollable) if self.sched.os().is_socket(self.borrow()) => {
                self.desc.forget_error();
                Ok(())
            }
            waited => waited,
        }
    }

    /// Counts an operation that did not block: one that never does must not keep others from running.
    fn count(&self, mode: Mode, spend: Spend) {
        /// So many are counted at once. A count costs as much as an eighth of a switch.
        const BATCH: u32 = 16;
        let uncounted = &self.side(mode).uncounted;
        let count = uncounted.load(Ordering::Relaxed) + 1;
        uncounted.store(count % BATCH, Ordering::Relaxed);
        if count == BATCH {
            spend(self.sched, BATCH);
        }
    }

    /// Sees a connect through that the system has begun: waits until `finished` says so, after each writability.
    pub fn connect(
        &self,
        mut finished: impl FnMut(Borrowed<'_>) -> Outcome<()>,
    ) -> Result<(), FdError> {
        self.locked(Mode::Write, || {
            self.desc.may_try(Mode::Write)?;
            self.attempt(Mode::Write, true, Sched::spend, &mut finished)
        })
    }

    /// Sets the deadline of one direction or (`None`) of both, in place of earlier deadlines and timeouts. It holds for operations under way and
    /// for all later ones, until it is changed.
    pub fn set_deadline(&self, mode: Option<Mode>, deadline: Deadline) -> Result<(), FdError> {
        let decide = || {
            if mode != Some(Mode::Write) {
                self.read.timeout.store(0, Ordering::Relaxed);
            }
            if mode != Some(Mode::Read) {
                self.write.timeout.store(0, Ordering::Relaxed);
            }
            Some(deadline)
        };
        self.with(|_| self.sched.poll_set_deadline(self.desc, &decide, mode))
    }

    /// Gives every later operation of one direction that many nanoseconds, in place of a deadline. 0: no limit. An operation under way
    /// keeps its limit.
    pub fn set_timeout(&self, mode: Mode, timeout: Nanos) -> Result<(), FdError> {
        let word = if timeout == 0 { ENDLESS } else { timeout };
        // A swap, because loom may let a plain store come before the exchange of an operation that begins.
        self.with(|_| _ = self.side(mode).timeout.swap(word, Ordering::Relaxed))
    }

    /// The timeout of one direction.
    pub fn timeout(&self, mode: Mode) -> Nanos {
        self.side(mode).timeout.load(Ordering::Relaxed).max(0)
    }

    /// Closes. Operations that wait fail with [`PollError::Closing`], and so does a second close. Returns once the system has released
    /// the descriptor, or at once in a goroutine that unwinds; then the last operation under way
    /// releases it.
    pub fn close(&self) -> Result<(), FdError> {
        self.begin_close()?;
        self.release(self.mutex.decref());
        if !self.sched.unwinds() {
            self.closed.acquire(self.sched);
        }
        Ok(())
    }

    /// Refuses new operations and ends the waits of those under way. The caller becomes a user.
    fn begin_close(&self) -> Result<(), Closed> {
        self.mutex.close(self.sched)?;
        self.sched.poll_unblock(self.desc);
        Ok(())
    }

    #[inline]
    fn release(&self, release: Release) {
        if release == Release::Last {
            self.destroy();
        }
    }

    /// Leaves the poller, then releases the descriptor: a dup of it may live on, and would keep reporting.
    #[cold]
    fn destroy(&self) {
        self.sched.poll_close(self.desc);
        if let Some(close) = self.on_reserved_close.get() {
            // SAFETY: `new`'s caller gave the descriptor to this Fd, and its last user has let go; the rest is the promise of `reserve_number`'s.
            unsafe { close(self.raw) };
            self.number_kept.store(true, Ordering::Relaxed);
        } else {
            // SAFETY: as above.
            unsafe { self.sched.os().close(self.raw) };
        }
        self.closed.release(self.sched, 1);
    }
}

/// Calls its closure when it is dropped, also by a panic.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    #[inline]
    fn drop(&mut self) {
        (self.0)();
    }
}

/// What a write that took nothing and reported nothing fails with.
const EIO: i32 = 5;

impl Drop for Fd {
    fn drop(&mut self) {
        // The owner drops it, so no operation is under way: there is nothing to wait for, and a
        // destructor does not park.
        if self.begin_close().is_ok() {
            self.release(self.mutex.decref());
        }
        if self.number_kept.load(Ordering::Relaxed) {
            // SAFETY: the number has been kept for this Fd alone, and nobody borrows it any more.
            unsafe { self.sched.os().close(self.raw) };
        }
    }
}

#[cfg(all(test, loom))]
#[path = "../models/fd.rs"]
mod models;
