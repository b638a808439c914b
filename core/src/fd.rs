//! Fd: a descriptor whose operations block goroutines instead of threads, Go's `poll.FD`. It does
//! not read or write itself: the caller passes each operation as a closure that tries it once and
//! returns what happened. The `Fd` closes the descriptor, through `Os`.
//!
//! # One system call where two would do
//!
//! A stream's read that returned fewer bytes than requested has emptied the kernel's buffer. The
//! next read then waits for an edge first, because asking would only return `EAGAIN`. The flag
//! `drained` records this. The same holds for writes that took less than offered. Three rules make
//! it safe:
//!
//! - Readiness that came after the short read has latched in the descriptor's slot. So this path
//!   does not reset the slot.
//! - One edge may announce both data and an end of stream, and no other edge follows. So once the
//!   kernel has reported an end, an error or an urgent mark, every operation asks first.
//! - A descriptor that no poller watches yet is registered first. Registration reports what is
//!   ready by then.
//!
//! # Closing
//!
//! `close` refuses new operations and wakes those that wait. It returns when the last operation has
//! ended and the system has released the descriptor, so its port can be bound again at once.
#![allow(unsafe_code, reason = "it owns the descriptor that it has closed")]

mod idle;
mod ready;

pub use ready::{Probe, ReadyArm};

use crate::fdmutex::{AfterUse, Closed, FdMutex};
use crate::netpoll::RegisterError;
use crate::os::{Borrowed, Errno, Mode, Nanos, Outcome};
use crate::polldesc::{Deadline, PollDesc, PollError};
use crate::sched::Sched;
use crate::sync::{AtomicBool, AtomicI64, AtomicU32, Once, Ordering};
use crate::wait_info::Wait;
use crate::waiter::WaitSlot;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Range;

/// The maximum number of bytes to move in one system call. Go's number. Linux stops at a page below
/// 2 GiB, and a call that the system cuts short would look like an empty or full buffer.
#[doc(alias = "maxRW")]
pub const MAX_RW: usize = 1 << 30;

/// Why an operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FdError {
    /// The operation could not wait.
    Poll(PollError),
    /// The system call failed.
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

/// An open, non-blocking descriptor. The fields that every operation uses come first, in one cache
/// line.
#[repr(C)]
pub struct Fd {
    sched: &'static Sched,
    desc: &'static PollDesc,
    raw: i32,
    /// Set when the file is closed but the number stays taken. See `reserve_number`.
    number_kept: AtomicBool,
    read: Side,
    write: Side,
    mutex: FdMutex,
    /// Notified when the system has released the descriptor; `close` waits for it.
    closed: WaitSlot,
    /// How to close the descriptor and keep its number taken. Set if code outside knows the number
    /// for as long as this `Fd` exists.
    on_reserved_close: Once<unsafe fn(i32)>,
}

/// Charges operations that did not block to the goroutine's allowance, which makes it yield when it
/// is spent.
type Spend = fn(&'static Sched, u32);

struct Side {
    /// Nanoseconds that each operation may take. 0: the deadline applies. With [`SPENT`]: the
    /// timeout has passed, and the next operation reports it. [`ENDLESS`]: a timeout was removed.
    /// An operation turns the timeout into a deadline when it begins, so one under way keeps its
    /// limit. Written under the lock of `desc` together with the deadline, except by `set_timeout`
    /// and at the end of an idle wait.
    timeout: AtomicI64,
    /// The last operation emptied the kernel's buffer, or filled it. Owned by the holder of the
    /// side's lock.
    drained: AtomicBool,
    /// Operations that did not block and are not yet charged to the goroutine's allowance. Owned by
    /// the holder of the side's lock.
    uncounted: AtomicU32,
}

/// What a wait has led to.
enum Waited {
    /// The descriptor is probably ready.
    Ready,
    /// The operation asks the system once more, and fails with this error if it would block.
    AskOnce(PollError),
}

/// The sign of a timeout that has passed while no operation could report it. The next operation
/// removes the sign, and does not begin the timeout anew.
const SPENT: Nanos = Nanos::MIN;

/// The value of a removed timeout: the next operation clears the deadline that the timeout had set.
const ENDLESS: Nanos = SPENT;

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
            closed: WaitSlot::new(),
            on_reserved_close: Once::new(),
            number_kept: AtomicBool::new(false),
            read: side(),
            write: side(),
        }
    }

    /// Registers with a poller now. For a descriptor that may turn out not to be pollable.
    pub fn register(&self) -> Result<(), FdError> {
        self.with(|_| self.sched.register(self.desc))?
            .map_err(FdError::from)
    }

    #[inline]
    fn side(&self, mode: Mode) -> &Side {
        match mode {
            Mode::Read => &self.read,
            Mode::Write => &self.write,
        }
    }

    /// Returns the number and keeps it taken until this `Fd` is dropped, even if it is closed
    /// before: `close` closes the file and leaves the number occupied.
    ///
    /// # Safety
    ///
    /// `close` is sound to call with an open descriptor that its caller owns, and the number stays
    /// taken.
    pub unsafe fn reserve_number(&self, close: unsafe fn(i32)) -> Result<i32, FdError> {
        self.with(|fd| {
            self.on_reserved_close.call_once(|| close);
            fd.raw()
        })
    }

    /// Takes the descriptor out of its poller and returns it without closing it.
    pub fn into_raw(self) -> Result<i32, FdError> {
        // This use is never ended, so the descriptor is not destroyed.
        self.begin_close()?;
        self.sched.poll_close(self.desc);
        Ok(self.raw)
    }

    /// As [`into_raw`](Self::into_raw), but after a [`close`](Self::close) as well, and it cannot
    /// fail: the number stays open. For a descriptor that another value owns, where the function
    /// given to [`reserve_number`](Self::reserve_number) closes nothing.
    pub fn into_reserved(self) -> i32 {
        // The drop would close a number that `close` has kept.
        let fd = ManuallyDrop::new(self);
        if fd.begin_close().is_ok() {
            fd.sched.poll_close(fd.desc);
        }
        fd.raw
    }

    /// The number. It means this descriptor only while the descriptor is open.
    pub fn raw(&self) -> i32 {
        self.raw
    }

    /// Borrows the descriptor during a call that keeps it open.
    #[inline]
    fn borrow(&self) -> Borrowed<'_> {
        // SAFETY: the callers hold a use of the descriptor, which is closed only after its last use
        // has ended.
        unsafe { Borrowed::new(self.raw) }
    }

    /// Calls `f` with the descriptor, which stays open during the call, even if `f` panics. `f`
    /// must not block.
    #[inline]
    pub fn with<T>(&self, f: impl FnOnce(Borrowed<'_>) -> T) -> Result<T, FdError> {
        self.mutex.incref()?;
        let _user = OnDrop(|| self.release(self.mutex.decref()));
        Ok(f(self.borrow()))
    }

    /// Repeats one operation until it does not block: a datagram, a peek.
    ///
    /// If `op` panics, here and in the other operations, the direction is unlocked.
    pub fn operate<T>(
        &self,
        mode: Mode,
        op: impl FnMut(Borrowed<'_>) -> Outcome<T>,
    ) -> Result<T, FdError> {
        self.operate_as(mode, Sched::spend, op)
    }

    /// As [`operate`](Self::operate) in the direction [`Read`](Mode::Read), for an accept. Accepts
    /// have an allowance of their own: the more goroutines take turns with the caller, the more
    /// accepts in a row may succeed without blocking.
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
            // The reset may have forgotten readiness that a transfer would wait for, and a peek
            // takes no data.
            self.side(mode).drained.store(false, Ordering::Relaxed);
            self.attempt(mode, false, spend, &mut op)
        })
    }

    /// Tries one operation once, without a wait. [`Outcome::WouldBlock`] also if another operation
    /// in this direction is under way. The deadline does not count.
    pub fn try_operate<T>(
        &self,
        mode: Mode,
        mut op: impl FnMut(Borrowed<'_>) -> Outcome<T>,
    ) -> Result<Outcome<T>, FdError> {
        if !self.mutex.try_lock(mode, self.sched)? {
            return Ok(Outcome::WouldBlock);
        }
        let _held = OnDrop(|| self.release(self.mutex.unlock(mode, self.sched)));
        // The operation may use up readiness that a transfer would wait for.
        self.side(mode).drained.store(false, Ordering::Relaxed);
        loop {
            match op(self.borrow()) {
                Outcome::Interrupted => {}
                tried => {
                    self.count(mode, Sched::spend);
                    return Ok(tried);
                }
            }
        }
    }

    /// Transfers up to `len` bytes on a stream and returns how many. A read of 0 bytes is the end
    /// of the stream.
    ///
    /// `len` is at most [`MAX_RW`], and exactly what `op` offers the system. With `len` 0, `op` is
    /// not called, and a read does not check the deadline either, as in Go.
    #[inline]
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

    /// Writes `len` bytes, with no other writer's bytes in between. `op` gets the range of bytes to
    /// try, at most [`MAX_RW`]. An error includes how many bytes were written.
    #[inline]
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
                    // No bytes and no error: retrying could go on without end.
                    0 => return Err(FdError::Os(Errno::EIO)),
                    n => done += n,
                }
                wait = self.is_drained(Mode::Write);
            }
            Ok(())
        })
        .map_err(|error| (done, error))
    }

    /// Runs `f` under the lock of direction `mode`, after turning a timeout into a deadline.
    #[inline]
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
            // A deadline was set after the check, perhaps to end this operation.
            0 => None,
            old if old < 0 => {
                let after = old & Nanos::MAX;
                // A timeout set since then applies to the next operation.
                let _ = word.compare_exchange(old, after, Ordering::Relaxed, Ordering::Relaxed);
                (after == 0).then_some(Deadline::None)
            }
            timeout => Some(Deadline::At(now.saturating_add(timeout))),
        };
        self.sched.poll_set_deadline(self.desc, &decide, Some(mode));
    }

    /// Whether the last operation emptied or filled the kernel's buffer, and an edge is sure to
    /// announce a change.
    #[inline]
    fn is_drained(&self, mode: Mode) -> bool {
        self.side(mode).drained.load(Ordering::Relaxed) && !self.desc.hung_up()
    }

    /// Begins an operation. True if it should wait before it asks the system. Readiness since the
    /// last operation then counts, so it is not reset.
    #[inline]
    fn begin(&self, mode: Mode) -> Result<bool, FdError> {
        let wait = self.is_drained(mode);
        match wait {
            true => self.desc.may_try(mode)?,
            false => self.sched.poll_reset(self.desc, mode)?,
        }
        Ok(wait)
    }

    #[inline]
    fn transfer_some(
        &self,
        mode: Mode,
        wait: bool,
        len: usize,
        op: &mut impl FnMut(Borrowed<'_>) -> Outcome<usize>,
    ) -> Result<usize, FdError> {
        let n = self.attempt(mode, wait, Sched::spend, op)?;
        assert!(n <= len, "a transfer of {len} bytes moved {n}");
        // After an end of stream (0 bytes) every read returns 0, and no edge comes.
        self.side(mode)
            .drained
            .store(n != 0 && n < len, Ordering::Relaxed);
        Ok(n)
    }

    /// Tries until the operation does not block. Waits after each `EAGAIN`, and before the first
    /// try if `wait` is set.
    #[inline]
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
            let mut waited = Waited::Ready;
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

    /// Waits until the descriptor is ready.
    fn wait(&self, mode: Mode, asked: bool) -> Result<Waited, FdError> {
        self.sched.register(self.desc)?;
        let waited = match self.sched.poll_wait(self.desc, mode) {
            Ok(()) => Waited::Ready,
            // The deadline may have passed while an edge lay in the kernel that no poll had
            // fetched. An operation that has not asked yet asks once.
            Err(error @ (PollError::Timeout | PollError::Unwinding)) if !asked => {
                Waited::AskOnce(error)
            }
            // The operation returns the system's own error.
            Err(error @ PollError::NotPollable) => Waited::AskOnce(error),
            Err(error) => return Err(error.into()),
        };
        // This readiness is used up. If the operation takes no data, because it fails or panics,
        // the next one asks.
        self.side(mode).drained.store(false, Ordering::Relaxed);
        Ok(waited)
    }

    /// Decides after an `EAGAIN` whether to wait again, given the outcome of the last wait.
    #[cold]
    fn may_wait_again(&self, waited: Waited) -> Result<(), PollError> {
        match waited {
            Waited::Ready => Ok(()),
            Waited::AskOnce(PollError::NotPollable) if self.sched.os().is_socket(self.borrow()) => {
                self.desc.forget_error();
                Ok(())
            }
            Waited::AskOnce(error) => Err(error),
        }
    }

    /// Counts an operation that did not block, so that a goroutine whose operations never block
    /// still yields.
    #[inline]
    fn count(&self, mode: Mode, spend: Spend) {
        /// How many operations are charged at once. Charging costs an eighth of a switch.
        const BATCH: u32 = 16;
        let uncounted = &self.side(mode).uncounted;
        let count = uncounted.load(Ordering::Relaxed) + 1;
        uncounted.store(count % BATCH, Ordering::Relaxed);
        if count == BATCH {
            spend(self.sched, BATCH);
        }
    }

    /// Finishes a connect that the system has begun: waits for writability, then asks `finished`,
    /// until it says so.
    pub fn connect(
        &self,
        mut finished: impl FnMut(Borrowed<'_>) -> Outcome<()>,
    ) -> Result<(), FdError> {
        self.locked(Mode::Write, || {
            self.desc.may_try(Mode::Write)?;
            self.attempt(Mode::Write, true, Sched::spend, &mut finished)
        })
    }

    /// Sets the deadline of one direction or (`None`) of both, in place of earlier deadlines and
    /// timeouts. It applies to operations under way and to all later ones.
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

    /// Limits every later operation of one direction to `timeout` nanoseconds, in place of a
    /// deadline. 0: no limit. An operation under way keeps its limit.
    pub fn set_timeout(&self, mode: Mode, timeout: Nanos) -> Result<(), FdError> {
        let word = if timeout == 0 { ENDLESS } else { timeout };
        // A swap: loom may reorder a plain store before the exchange of an operation that begins.
        self.with(|_| _ = self.side(mode).timeout.swap(word, Ordering::Relaxed))
    }

    /// The timeout of one direction in nanoseconds, 0 if there is none.
    pub fn timeout(&self, mode: Mode) -> Nanos {
        self.side(mode).timeout.load(Ordering::Relaxed) & Nanos::MAX
    }

    /// Closes the descriptor. Operations that wait fail with [`PollError::Closing`], and so does a
    /// second close. Returns when the system has released the descriptor. A goroutine that unwinds
    /// does not wait for that; the last operation under way then releases it.
    pub fn close(&self) -> Result<(), FdError> {
        self.begin_close()?;
        self.release(self.mutex.decref());
        if !self.sched.unwinds() {
            self.sched.wait_for(&self.closed, Wait::Semaphore.encode());
        }
        Ok(())
    }

    /// Refuses new operations and ends the waits of those under way. The caller holds a use.
    fn begin_close(&self) -> Result<(), Closed> {
        self.mutex.close(self.sched)?;
        self.sched.poll_unblock(self.desc);
        Ok(())
    }

    #[inline]
    fn release(&self, after: AfterUse) {
        if after == AfterUse::Destroy {
            self.destroy();
        }
    }

    /// Leaves the poller, then closes the descriptor. A dup of it may live on, and the poller would
    /// keep reporting it.
    #[cold]
    fn destroy(&self) {
        self.sched.poll_close(self.desc);
        if let Some(close) = self.on_reserved_close.get() {
            // SAFETY: the caller of `new` gave the descriptor to this Fd, and its last use has
            // ended. The caller of `reserve_number` promised the rest.
            unsafe { close(self.raw) };
            self.number_kept.store(true, Ordering::Relaxed);
        } else {
            // SAFETY: as above.
            unsafe { self.sched.os().close(self.raw) };
        }
        if let Some(closer) = self.closed.notify() {
            self.sched.ready(closer);
        }
    }
}

/// Calls its closure when it is dropped, also during a panic.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    #[inline]
    fn drop(&mut self) {
        (self.0)();
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // The owner drops it, so no operation is under way: there is nothing to wait for, and a
        // destructor must not park.
        if self.begin_close().is_ok() {
            self.release(self.mutex.decref());
        }
        if self.number_kept.load(Ordering::Relaxed) {
            // SAFETY: the number was kept for this Fd alone, and no borrow of it is left.
            unsafe { self.sched.os().close(self.raw) };
        }
    }
}

#[cfg(all(test, loom))]
#[path = "../models/fd.rs"]
mod models;
