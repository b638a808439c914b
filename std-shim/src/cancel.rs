//! Cancelling goroutines.

use crate::builder::{nanos, sched, sched_if_running};
use crate::runtime::time_limit;
use gopark_core::cancel::RawCancel;
use std::error::Error;
use std::fmt;
use std::io;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::{Duration, Instant};

pub use gopark_core::cancel::Cancelled;
pub use gopark_core::cancel::Cause;

/// Cancels goroutines: Go's `context.Context` and its cancel function. Clones are the same one.
///
/// The goroutines of a [`scope`](crate::scope()) are members of the scope's. [`run`](Self::run)
/// makes the caller a member while a closure runs.
///
/// **What fails.** Every operation of a cancelled goroutine that can return an error does so: those
/// that are waiting, and all that it begins later. That goes on until the closure of `run` returns,
/// or the goroutine. Code in [`shield`] is not affected.
///
/// | operation | in a cancelled goroutine |
/// |---|---|
/// | reads, writes, accepts, connects | `io::Error` around [`PollError::Cancelled`], kind `Other` |
/// | `send` and `recv` of a channel | the error of a closed channel |
/// | `select!` | the arm `cancelled()`, or else the first arm that can fail |
/// | [`Semaphore`](crate::sync::Semaphore) | [`Cancelled`] |
/// | [`JoinHandle::join`](crate::JoinHandle::join) | [`Cancelled`]; the other goroutine goes on |
/// | [`sleep`](crate::sleep()) | returns early |
/// | [`try_blocking`](crate::try_blocking) | [`Cancelled`]; the work is left behind |
/// | look-ups of host names | as a connect; the look-up is left behind |
/// | `try_…`, `close`, all that returns no error | not affected |
///
/// Of the last kind are locks, `Condvar`, `Barrier`, `WaitGroup`, `Notify`, `park`,
/// [`blocking`](crate::blocking), joins in a [`thread::scope`](crate::thread::scope()), the end of
/// a scope, and the wait for a place in a scope with a limit. [`check_cancel`] tells a cancelled
/// goroutine from a closed channel.
///
/// [`PollError::Cancelled`]: crate::PollError
///
/// What was completed wins: no byte that was read and no value that was received is lost. Nothing
/// unwinds, no lock is poisoned, and sockets stay open: other goroutines go on to use them, and
/// their deadlines stay.
///
/// ```
/// use gopark::net::TcpListener;
/// use gopark::sync::Cancel;
/// use gopark::{PollError, go, poll_error};
///
/// # fn main() -> std::io::Result<()> {
/// let stop = Cancel::new();
/// let theirs = stop.clone();
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let server = go(move || theirs.run(|| listener.accept().map(drop)));
/// stop.cancel();
/// let error = server.join().unwrap().unwrap_err();
/// assert_eq!(poll_error(&error), Some(PollError::Cancelled));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Cancel(pub(crate) RawCancel);

static_assertions::assert_impl_all!(Cancel: Send, Sync, UnwindSafe, RefUnwindSafe);

// Its state is behind locks of core, and no panic leaves what is done under them.
impl UnwindSafe for Cancel {}
impl RefUnwindSafe for Cancel {}

impl Cancel {
    /// Makes one that no other one cancels.
    ///
    /// ```
    /// assert!(!gopark::sync::Cancel::new().is_cancelled());
    /// ```
    #[track_caller]
    pub fn new() -> Self {
        Cancel(RawCancel::new(sched()))
    }

    /// Makes one that is cancelled together with this one, or alone.
    ///
    /// ```
    /// use gopark::sync::Cancel;
    ///
    /// let all = Cancel::new();
    /// let (one, other) = (all.child(), all.child());
    /// one.cancel();
    /// assert!(!all.is_cancelled() && !other.is_cancelled());
    /// all.cancel();
    /// assert!(other.is_cancelled());
    /// ```
    #[doc(alias = "WithCancel")]
    pub fn child(&self) -> Self {
        Cancel(self.0.child())
    }

    /// Returns the one that the calling goroutine is a member of: the innermost, which is cancelled
    /// with those around it. `None` if no cancel reaches the goroutine.
    ///
    /// ```
    /// use gopark::sync::Cancel;
    ///
    /// assert!(Cancel::current().is_none());
    /// let cancel = Cancel::new();
    /// cancel.run(|| Cancel::current().unwrap().cancel());
    /// assert!(cancel.is_cancelled());
    /// ```
    pub fn current() -> Option<Self> {
        RawCancel::current(sched_if_running()?).map(Cancel)
    }

    /// Makes a child of the current one, or one without a parent.
    #[track_caller]
    pub(crate) fn below_current() -> Self {
        let sched = sched();
        Cancel(match RawCancel::current(sched) {
            Some(current) => current.child(),
            None => RawCancel::new(sched),
        })
    }

    /// Cancels the members, and all children. Returns false if it was cancelled before.
    ///
    /// ```
    /// let cancel = gopark::sync::Cancel::new();
    /// assert!(cancel.cancel());
    /// assert!(!cancel.cancel());
    /// ```
    #[track_caller]
    pub fn cancel(&self) -> bool {
        self.0.cancel()
    }

    /// Returns whether it is cancelled.
    ///
    /// ```
    /// let cancel = gopark::sync::Cancel::new();
    /// cancel.cancel();
    /// assert!(cancel.is_cancelled());
    /// ```
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Returns why it is cancelled. `None` if it is not.
    ///
    /// ```
    /// use gopark::sync::{Cancel, Cause};
    /// use std::time::Duration;
    ///
    /// let cancel = Cancel::new();
    /// let child = cancel.child();
    /// cancel.set_timeout(Duration::from_millis(1));
    /// child.wait()?;
    /// assert_eq!(cancel.cause(), Some(Cause::Deadline));
    /// assert_eq!(child.cause(), Some(Cause::Parent));
    /// # Ok::<(), gopark::Cancelled>(())
    /// ```
    #[doc(alias = "Err")]
    pub fn cause(&self) -> Option<Cause> {
        self.0.cause()
    }

    /// Cancels it at `deadline`, in place of an earlier one. `None`: at no time. Without effect if
    /// it is cancelled.
    ///
    /// ```
    /// use gopark::sync::Cancel;
    /// use std::time::{Duration, Instant};
    ///
    /// let cancel = Cancel::new();
    /// cancel.set_deadline(Some(Instant::now() + Duration::from_millis(2)));
    /// cancel.run(|| gopark::sleep(Duration::from_secs(3600))); // Returns after 2 ms.
    /// assert!(cancel.is_cancelled());
    /// ```
    #[doc(alias = "WithDeadline")]
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        self.0.set_deadline(deadline.map(nanos));
    }

    /// Cancels it after `timeout`, as [`set_deadline`](Self::set_deadline) does.
    ///
    /// ```
    /// use gopark::sync::Cancel;
    /// use std::time::Duration;
    ///
    /// let cancel = Cancel::new();
    /// cancel.set_timeout(Duration::from_millis(2));
    /// cancel.wait()?;
    /// # Ok::<(), gopark::Cancelled>(())
    /// ```
    #[doc(alias = "WithTimeout")]
    pub fn set_timeout(&self, timeout: Duration) {
        self.set_deadline(time_limit(timeout));
    }

    /// Calls `f` with the calling goroutine or thread as a member.
    ///
    /// The caller stays a member of what it is in already: within a `scope` or another `run`, a
    /// cancel of either reaches it. [`current`](Self::current) then returns a child of both.
    ///
    /// ```
    /// use gopark::sync::Cancel;
    ///
    /// let cancel = Cancel::new();
    /// cancel.cancel();
    /// let outcome = cancel.run(|| gopark::chan::never::<u8>().recv());
    /// assert!(outcome.is_err());
    /// ```
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        self.0.run(f)
    }

    /// Waits until it is cancelled.
    ///
    /// # Errors
    ///
    /// If the calling goroutine is cancelled. A member of this cancel is cancelled with it, so that
    /// it never gets `Ok`.
    ///
    /// ```
    /// let cancel = gopark::sync::Cancel::new();
    /// let theirs = cancel.clone();
    /// gopark::go(move || theirs.cancel());
    /// cancel.wait()?;
    /// # Ok::<(), gopark::Cancelled>(())
    /// ```
    #[doc(alias = "Done")]
    pub fn wait(&self) -> Result<(), Cancelled> {
        self.0.wait()
    }
}

impl Default for Cancel {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel")
            .field("cause", &self.cause())
            .finish_non_exhaustive()
    }
}

/// Wraps `f` so that it runs as a member of what the caller of this function is a member of.
pub(crate) fn inherit<T>(f: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let cancel = Cancel::current();
    move || match cancel {
        Some(cancel) => cancel.run(f),
        None => f(),
    }
}

/// Returns an error if the calling goroutine is cancelled. For loops that compute.
///
/// # Errors
///
/// If it is cancelled.
///
/// ```
/// use gopark::sync::Cancel;
///
/// let cancel = Cancel::new();
/// cancel.run(|| {
///     gopark::check_cancel()?;
///     cancel.cancel();
///     assert_eq!(gopark::check_cancel(), Err(gopark::Cancelled));
///     Ok::<(), gopark::Cancelled>(())
/// })
/// # .unwrap();
/// ```
///
/// In a function that returns an `io::Result`:
///
/// ```
/// use std::io::{self, Write};
///
/// fn write_numbers(to: &mut impl Write) -> io::Result<()> {
///     for number in 0..1000 {
///         gopark::check_cancel().map_err(io::Error::other)?;
///         writeln!(to, "{number}")?;
///     }
///     Ok(())
/// }
/// # write_numbers(&mut io::sink()).unwrap();
/// ```
pub fn check_cancel() -> Result<(), Cancelled> {
    sched_if_running().map_or(Ok(()), |sched| sched.check())
}

/// Calls `f` so that no cancel of before affects it: for a goodbye to a peer, or an undo.
///
/// ```
/// use gopark::sync::Cancel;
///
/// let cancel = Cancel::new();
/// cancel.cancel();
/// cancel.run(|| {
///     assert!(gopark::check_cancel().is_err());
///     assert!(gopark::shield(|| gopark::check_cancel()).is_ok());
/// });
/// ```
pub fn shield<T>(f: impl FnOnce() -> T) -> T {
    match sched_if_running() {
        Some(sched) => sched.shield(f),
        None => f(),
    }
}

/// Calls `f`, and cancels it at `deadline`. Go's `context.WithDeadline`.
///
/// It is also cancelled with the calling goroutine. To tell the two apart: only the deadline makes
/// this return an error.
///
/// # Errors
///
/// If the deadline came before `f` returned. What `f` has returned is in the error, also if `f` has
/// completed: a read whose bytes came just then gives `Expired(Ok(n))`. The operator `?` drops it,
/// and the `n` bytes with it. Match on the error, or take the value with
/// [`into_inner`](Expired::into_inner), if the value matters.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// let soon = Instant::now() + Duration::from_millis(2);
/// let late = gopark::with_deadline(soon, || gopark::chan::never::<u8>().recv());
/// assert!(late.unwrap_err().into_inner().is_err());
/// ```
#[track_caller]
pub fn with_deadline<T>(deadline: Instant, f: impl FnOnce() -> T) -> Result<T, Expired<T>> {
    limited(Some(deadline), f)
}

/// Calls `f`, and cancels it after `timeout`. Go's `context.WithTimeout`.
///
/// # Errors
///
/// As [`with_deadline`].
///
/// ```
/// use std::time::Duration;
///
/// let read = gopark::with_timeout(Duration::from_secs(10), || "done in time");
/// assert_eq!(read, Ok("done in time"));
/// ```
#[track_caller]
pub fn with_timeout<T>(timeout: Duration, f: impl FnOnce() -> T) -> Result<T, Expired<T>> {
    limited(time_limit(timeout), f)
}

#[track_caller]
fn limited<T>(deadline: Option<Instant>, f: impl FnOnce() -> T) -> Result<T, Expired<T>> {
    let cancel = Cancel::below_current();
    cancel.set_deadline(deadline);
    let value = cancel.run(f);
    match cancel.cause() {
        Some(Cause::Deadline) => Err(Expired(value)),
        _ => Ok(value),
    }
}

/// The deadline of [`with_deadline`] or [`with_timeout`] came before its function returned. It has
/// what the function has returned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Expired<T>(pub T);

impl<T> Expired<T> {
    /// Returns what the function has returned.
    ///
    /// ```
    /// assert_eq!(gopark::Expired(7).into_inner(), 7);
    /// ```
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> fmt::Debug for Expired<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Expired(..)")
    }
}

impl<T> fmt::Display for Expired<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time limit has passed")
    }
}

impl<T> Error for Expired<T> {}

impl<T> From<Expired<T>> for io::Error {
    fn from(_: Expired<T>) -> Self {
        io::Error::new(io::ErrorKind::TimedOut, "the time limit has passed")
    }
}
