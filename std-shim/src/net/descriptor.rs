//! [`Descriptor`].
#![allow(
    unsafe_code,
    reason = "the poller is lent a descriptor that another value owns"
)]

use super::socket::zero_duration;
use crate::builder::{deadline, sched};
use crate::error::io_error;
use crate::runtime::duration_nanos;
use gopark_backends::linux::io::is_ready;
use gopark_core::fd::Fd;
use gopark_core::os::{Borrowed, Mode, Outcome};
use std::fmt;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Result, Write};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::{Duration, Instant};

/// Waits for any file that can be polled: pipes, terminals, `timerfd`, `eventfd`, `inotify`,
/// `pidfd`, and the sockets of other libraries. Go's `os.NewFile` and `syscall.RawConn`, tokio's
/// `AsyncFd`.
///
/// `inner` owns the file and reads and writes it. The `Descriptor` waits until that is possible:
/// [`read_with`](Self::read_with) and [`write_with`](Self::write_with) call an operation until it
/// does not return `WouldBlock`, and park before each further call. [`Read`] and [`Write`] do so
/// for an `inner` that has them.
///
/// # `O_NONBLOCK`
///
/// The flags of the file are left as they are. Unless its owner has made it non-blocking, an
/// operation that would block does block its thread. Make it non-blocking, except where other
/// processes share the file (the terminal of a shell). For such a file, wait with
/// [`readable`](Self::readable) or [`writable`](Self::writable) before each operation.
///
/// # Limits
///
/// - A file that is always ready, such as a regular file or `/dev/null`, cannot be polled:
///   [`new`](Self::new) returns [`PollError::NotPollable`](crate::PollError::NotPollable).
/// - A poller watches a number once: a second `Descriptor` for the same number can fail with
///   `EEXIST`. Duplicate the descriptor (`try_clone_to_owned`) for a second one.
/// - `inner` must keep its descriptor open, and may not change to another one. There is no
///   `get_mut` for that reason.
///
/// Operations in the same direction run one after another. All operations end by their deadline, by
/// [`close`](Self::close) and by a [cancel](crate::sync::Cancel), and work on ordinary threads. A
/// `Descriptor` can be an arm `readable` or `writable` of [`select!`](crate::select!).
///
/// ```
/// use gopark::net::Descriptor;
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
///
/// # fn main() -> std::io::Result<()> {
/// gopark::run(|| {
///     let (near, far) = UnixStream::pair()?;
///     near.set_nonblocking(true)?;
///     let mut near = Descriptor::new(near)?;
///     gopark::go(move || (&far).write_all(b"ping"));
///     let mut buffer = [0; 4];
///     near.read_exact(&mut buffer)?; // The goroutine parks until the bytes come.
///     assert_eq!(&buffer, b"ping");
///     Ok(())
/// })
/// # }
/// ```
#[doc(alias = "AsyncFd")]
#[doc(alias = "RawConn")]
pub struct Descriptor<T: AsFd> {
    // Declared, and so dropped, before `inner`: it leaves the poller while the file is still open.
    fd: Lent,
    inner: T,
}

static_assertions::assert_impl_all!(
    Descriptor<std::fs::File>: Send, Sync, UnwindSafe, RefUnwindSafe
);

// As for sockets: a panic inside an operation leaves `fd` consistent.
impl<T: AsFd + UnwindSafe> UnwindSafe for Descriptor<T> {}
impl<T: AsFd + RefUnwindSafe> RefUnwindSafe for Descriptor<T> {}

/// An `Fd` for a descriptor that another value owns. It never closes the number.
struct Lent(ManuallyDrop<Fd>);

impl Lent {
    fn new(raw: RawFd) -> Result<Self> {
        // SAFETY: this `Fd` is used as one that does not own its number: its `close` calls
        // `leave_open`, and the drop below does not run that of `Fd`.
        let lent = Lent(ManuallyDrop::new(unsafe { Fd::new(sched(), raw) }));
        // SAFETY: `leave_open` does nothing, so the number stays taken by its owner.
        unsafe { lent.reserve_number(leave_open) }.map_err(io_error)?;
        Ok(lent)
    }
}

unsafe fn leave_open(_: RawFd) {}

impl Deref for Lent {
    type Target = Fd;

    fn deref(&self) -> &Fd {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // SAFETY: the value is not used again.
        unsafe { ManuallyDrop::take(&mut self.0) }.into_reserved();
    }
}

impl<T: AsFd> Descriptor<T> {
    /// Registers the descriptor of `inner` with the poller. Starts the runtime with the defaults if
    /// it is not running.
    ///
    /// # Errors
    ///
    /// [`PollError::NotPollable`](crate::PollError::NotPollable) if the file is always ready, such
    /// as a regular file. `EEXIST` if the same poller already watches this number. `ENOSPC`: the
    /// limit `fs.epoll.max_user_watches`. `inner` is dropped on an error.
    ///
    /// # Panics
    ///
    /// If the runtime is not running and cannot be started.
    ///
    /// ```
    /// use gopark::net::Descriptor;
    /// use gopark::{PollError, poll_error};
    ///
    /// let file = std::fs::File::open("/proc/self/exe")?;
    /// let error = Descriptor::new(file).unwrap_err();
    /// assert_eq!(poll_error(&error), Some(PollError::NotPollable));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new(inner: T) -> Result<Self> {
        let fd = Lent::new(inner.as_fd().as_raw_fd())?;
        let descriptor = Descriptor { fd, inner };
        descriptor.fd.register().map_err(io_error)?;
        Ok(descriptor)
    }

    /// The value that owns the file.
    ///
    /// ```
    /// use gopark::net::Descriptor;
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (near, _far) = UnixStream::pair()?;
    /// let near = Descriptor::new(near)?;
    /// near.get_ref().set_nonblocking(true)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    /// Leaves the poller and returns the value that owns the file, which stays open.
    ///
    /// ```
    /// use gopark::net::Descriptor;
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (near, _far) = UnixStream::pair()?;
    /// let near: UnixStream = Descriptor::new(near)?.into_inner();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_inner(self) -> T {
        let Descriptor { fd, inner } = self;
        drop(fd);
        inner
    }

    /// Waits until a read would not block: there is data, an end or an error. Returns at once if
    /// that is so already.
    ///
    /// Another reader of the file may take the data before the caller does. A read of a blocking
    /// file then blocks the thread.
    ///
    /// # Errors
    ///
    /// If the deadline passes, the `Descriptor` is closed, or the caller is cancelled. The
    /// [module](super) lists them.
    ///
    /// ```
    /// use gopark::net::Descriptor;
    /// use std::io::{Read, Write};
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (near, mut far) = UnixStream::pair()?;
    /// let near = Descriptor::new(near)?; // It blocks, but is asked only when it is ready.
    /// far.write_all(b"x")?;
    /// near.readable()?;
    /// near.get_ref().read_exact(&mut [0])?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn readable(&self) -> Result<()> {
        self.wait(Mode::Read)
    }

    /// Waits until a write would not block, as [`readable`](Self::readable) does for a read. How
    /// many bytes a write then takes depends on the file. A pipe takes at least `PIPE_BUF` (4096).
    ///
    /// # Errors
    ///
    /// As for [`readable`](Self::readable).
    ///
    /// ```
    /// use gopark::net::Descriptor;
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (near, _far) = UnixStream::pair()?;
    /// Descriptor::new(near)?.writable()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn writable(&self) -> Result<()> {
        self.wait(Mode::Write)
    }

    fn wait(&self, mode: Mode) -> Result<()> {
        let probe = |fd: Borrowed<'_>| match is_ready(fd, mode) {
            true => Outcome::Done(()),
            false => Outcome::WouldBlock,
        };
        self.fd.operate(mode, probe).map_err(io_error)
    }

    /// Calls `f` until it returns something other than `WouldBlock` or `Interrupted`. After each
    /// `WouldBlock` it first waits until a read would not block.
    ///
    /// `f` tries the operation once and must not wait. Operations of one direction exclude each
    /// other, so within `f` another read of this `Descriptor` would wait without end.
    ///
    /// # Errors
    ///
    /// Those of `f`, and as for [`readable`](Self::readable).
    ///
    /// ```
    /// use gopark::net::Descriptor;
    /// use std::os::unix::net::UnixDatagram;
    ///
    /// let (near, far) = UnixDatagram::pair()?;
    /// near.set_nonblocking(true)?;
    /// let near = Descriptor::new(near)?;
    /// gopark::go(move || far.send(b"datagram"));
    /// let mut buffer = [0; 16];
    /// assert_eq!(near.read_with(|near| near.recv(&mut buffer))?, 8);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn read_with<R>(&self, f: impl FnMut(&T) -> Result<R>) -> Result<R> {
        self.operate(Mode::Read, f)
    }

    /// As [`read_with`](Self::read_with), for an operation that writes.
    ///
    /// # Errors
    ///
    /// Those of `f`, and as for [`readable`](Self::readable).
    ///
    /// ```
    /// use gopark::net::Descriptor;
    /// use std::os::unix::net::UnixDatagram;
    ///
    /// let (near, _far) = UnixDatagram::pair()?;
    /// near.set_nonblocking(true)?;
    /// let near = Descriptor::new(near)?;
    /// assert_eq!(near.write_with(|near| near.send(b"datagram"))?, 8);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn write_with<R>(&self, f: impl FnMut(&T) -> Result<R>) -> Result<R> {
        self.operate(Mode::Write, f)
    }

    fn operate<R>(&self, mode: Mode, mut f: impl FnMut(&T) -> Result<R>) -> Result<R> {
        let attempt = |_: Borrowed<'_>| match attempt(&mut f, &self.inner) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Outcome::WouldBlock,
            Err(error) if error.kind() == ErrorKind::Interrupted => Outcome::Interrupted,
            result => Outcome::Done(result),
        };
        self.fd.operate(mode, attempt).map_err(io_error)?
    }

    /// Sets the time at which reads and writes fail, those under way and all later ones. `None`
    /// removes it. It replaces earlier deadlines and timeouts.
    ///
    /// # Errors
    ///
    /// If the `Descriptor` is closed.
    ///
    /// ```
    /// use gopark::net::Descriptor;
    /// use std::os::unix::net::UnixStream;
    /// use std::time::Instant;
    ///
    /// let (near, _far) = UnixStream::pair()?;
    /// let near = Descriptor::new(near)?;
    /// near.set_deadline(Some(Instant::now()))?;
    /// assert!(near.readable().is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_deadline(&self, when: Option<Instant>) -> Result<()> {
        self.set_limit(None, when)
    }

    /// As [`set_deadline`](Self::set_deadline), for reads only.
    ///
    /// # Errors
    ///
    /// If the `Descriptor` is closed.
    ///
    /// ```
    /// use gopark::net::Descriptor;
    /// use std::os::unix::net::UnixStream;
    /// use std::time::Instant;
    ///
    /// let (near, _far) = UnixStream::pair()?;
    /// let near = Descriptor::new(near)?;
    /// near.set_read_deadline(Some(Instant::now()))?;
    /// assert!(near.readable().is_err());
    /// near.writable()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_read_deadline(&self, when: Option<Instant>) -> Result<()> {
        self.set_limit(Some(Mode::Read), when)
    }

    /// As [`set_deadline`](Self::set_deadline), for writes only.
    ///
    /// # Errors
    ///
    /// If the `Descriptor` is closed.
    ///
    /// ```
    /// use gopark::net::Descriptor;
    /// use std::os::unix::net::UnixStream;
    /// use std::time::Instant;
    ///
    /// let (near, _far) = UnixStream::pair()?;
    /// let near = Descriptor::new(near)?;
    /// near.set_write_deadline(Some(Instant::now()))?;
    /// assert!(near.writable().is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_write_deadline(&self, when: Option<Instant>) -> Result<()> {
        self.set_limit(Some(Mode::Write), when)
    }

    fn set_limit(&self, mode: Option<Mode>, when: Option<Instant>) -> Result<()> {
        self.fd.set_deadline(mode, deadline(when)).map_err(io_error)
    }

    /// Limits each later read, or with `None` does not. It replaces an earlier deadline for reads.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if `limit` is zero. An error if the `Descriptor` is closed.
    ///
    /// ```
    /// use gopark::net::Descriptor;
    /// use std::os::unix::net::UnixStream;
    /// use std::time::Duration;
    ///
    /// let (near, _far) = UnixStream::pair()?;
    /// let near = Descriptor::new(near)?;
    /// near.set_read_timeout(Some(Duration::from_millis(1)))?;
    /// assert_eq!(near.readable().unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_read_timeout(&self, limit: Option<Duration>) -> Result<()> {
        self.set_timeout(Mode::Read, limit)
    }

    /// Limits each later write, as [`set_read_timeout`](Self::set_read_timeout) does for reads.
    ///
    /// # Errors
    ///
    /// As for [`set_read_timeout`](Self::set_read_timeout).
    ///
    /// ```
    /// use gopark::net::Descriptor;
    /// use std::os::unix::net::UnixStream;
    /// use std::time::Duration;
    ///
    /// let (near, _far) = UnixStream::pair()?;
    /// let near = Descriptor::new(near)?;
    /// near.set_write_timeout(Some(Duration::from_secs(1)))?;
    /// near.writable()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_write_timeout(&self, limit: Option<Duration>) -> Result<()> {
        self.set_timeout(Mode::Write, limit)
    }

    fn set_timeout(&self, mode: Mode, limit: Option<Duration>) -> Result<()> {
        if limit == Some(Duration::ZERO) {
            return Err(zero_duration());
        }
        let nanos = limit.map_or(0, duration_nanos);
        self.fd.set_timeout(mode, nanos).map_err(io_error)
    }

    /// Leaves the poller and ends all waits with
    /// [`PollError::Closing`](crate::PollError::Closing). Later operations fail in the same way.
    ///
    /// The file itself stays open until `inner` is dropped, with the `Descriptor` or after
    /// [`into_inner`](Self::into_inner).
    ///
    /// # Errors
    ///
    /// If it is closed already.
    ///
    /// ```
    /// use gopark::net::Descriptor;
    /// use std::os::unix::net::UnixStream;
    ///
    /// let (near, _far) = UnixStream::pair()?;
    /// let near = Descriptor::new(near)?;
    /// near.close()?;
    /// assert!(near.readable().is_err());
    /// let near: UnixStream = near.into_inner();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn close(&self) -> Result<()> {
        self.fd.close().map_err(io_error)
    }

    pub(super) fn fd(&self) -> &Fd {
        &self.fd
    }
}

/// Calls `f` once. Never inlined: `f` usually reads errno, and the caller parks between two calls.
/// When goroutines migrate, it may resume on another thread. See `Socket::with`.
#[inline(never)]
fn attempt<T, R>(f: &mut impl FnMut(&T) -> Result<R>, inner: &T) -> Result<R> {
    f(inner)
}

impl<T: AsFd> Read for &Descriptor<T>
where
    for<'a> &'a T: Read,
{
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.read_with(|mut inner| inner.read(buf))
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> Result<usize> {
        self.read_with(|mut inner| inner.read_vectored(bufs))
    }
}

impl<T: AsFd> Write for &Descriptor<T>
where
    for<'a> &'a T: Write,
{
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        self.write_with(|mut inner| inner.write(buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> Result<usize> {
        self.write_with(|mut inner| inner.write_vectored(bufs))
    }

    fn flush(&mut self) -> Result<()> {
        self.write_with(|mut inner| inner.flush())
    }
}

/// As for `&Descriptor`.
impl<T: AsFd> Read for Descriptor<T>
where
    for<'a> &'a T: Read,
{
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        (&*self).read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> Result<usize> {
        (&*self).read_vectored(bufs)
    }
}

/// As for `&Descriptor`.
impl<T: AsFd> Write for Descriptor<T>
where
    for<'a> &'a T: Write,
{
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        (&*self).write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> Result<usize> {
        (&*self).write_vectored(bufs)
    }

    fn flush(&mut self) -> Result<()> {
        (&*self).flush()
    }
}

impl<T: AsFd> AsFd for Descriptor<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl<T: AsFd> AsRawFd for Descriptor<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_fd().as_raw_fd()
    }
}

impl<T: AsFd + fmt::Debug> fmt::Debug for Descriptor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Descriptor")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
