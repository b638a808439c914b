//! `Socket`: the descriptor that all handles of a socket share, with operations whose errors are
//! those of `std::io`.
//!
//! An operation that may park makes its system calls through `gopark_backends::linux::io`, which
//! returns errno as a value. `std` and `socket2` read errno from a thread-local. When goroutines
//! migrate, an operation may resume on another thread while the compiler still uses the old
//! thread's address of errno (see `Socket::with`).
#![allow(
    unsafe_code,
    reason = "vectors of buffers, borrowed descriptors, and addresses cross into system calls"
)]

use crate::builder::{deadline, sched};
use crate::error::io_error;
use crate::runtime::duration_nanos;
use gopark_backends::linux::io::{self as sys, IOV_MAX};
use gopark_backends::linux::socket::{self, Address};
use gopark_core::fd::{Fd, FdError, MAX_RW};
use gopark_core::os::{Borrowed, Errno, Mode, Outcome};
use socket2::SockRef;
use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result};
use std::net::SocketAddr;
use std::ops::{Deref, Range};
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A non-blocking socket. Clones share the descriptor, its registration with the poller, its
/// deadlines, and whether its operations wait.
#[derive(Clone)]
pub(super) struct Socket(Arc<Shared>);

struct Shared {
    fd: Fd,
    /// Set by `set_nonblocking`: operations fail with `EAGAIN` instead of a wait.
    never_waits: AtomicBool,
}

// As for std's sockets. A panic inside an operation leaves the socket consistent: the operation
// releases the descriptor's lock while it unwinds, and deadlines and registration each change in
// one step.
impl UnwindSafe for Socket {}
impl RefUnwindSafe for Socket {}

impl Socket {
    /// Takes ownership of `fd`, which must be non-blocking.
    pub(super) fn new(fd: OwnedFd) -> Self {
        Socket(Arc::new(Shared {
            // SAFETY: `into_raw_fd` transfers the ownership of the descriptor.
            fd: unsafe { Fd::new(sched(), fd.into_raw_fd()) },
            never_waits: AtomicBool::new(false),
        }))
    }

    /// Takes ownership of `fd` and makes it non-blocking. If that fails, `fd` is not an open file,
    /// and operations fail as well.
    pub(super) fn adopt(fd: OwnedFd) -> Self {
        let _ = SockRef::from(&fd).set_nonblocking(true);
        Socket::new(fd)
    }

    /// Sets whether operations fail with `WouldBlock` instead of a wait.
    pub(super) fn set_nonblocking(&self, nonblocking: bool) -> Result<()> {
        self.0
            .fd
            .with(|_| self.0.never_waits.store(nonblocking, Ordering::Relaxed))
            .map_err(io_error)
    }

    pub(super) fn never_waits(&self) -> bool {
        self.0.never_waits.load(Ordering::Relaxed)
    }

    /// Repeats `op` until it does not block: a datagram, a message, a peek.
    pub(super) fn operate<T>(
        &self,
        mode: Mode,
        op: impl FnMut(Borrowed<'_>) -> Outcome<T>,
    ) -> Result<T> {
        if self.never_waits() {
            return self.attempt(mode, op);
        }
        self.0.fd.operate(mode, op).map_err(io_error)
    }

    /// Tries `op` once. Fails with `EAGAIN` if it would block.
    pub(super) fn attempt<T>(
        &self,
        mode: Mode,
        op: impl FnMut(Borrowed<'_>) -> Outcome<T>,
    ) -> Result<T> {
        match self.0.fd.try_operate(mode, op).map_err(io_error)? {
            Outcome::Done(value) => Ok(value),
            Outcome::Failed(errno) => Err(io_error(FdError::Os(errno))),
            Outcome::WouldBlock | Outcome::Interrupted => {
                Err(Error::from_raw_os_error(libc::EAGAIN))
            }
        }
    }

    /// Moves at most `len` bytes on a stream.
    fn transfer(
        &self,
        mode: Mode,
        len: usize,
        op: impl FnMut(Borrowed<'_>) -> Outcome<usize>,
    ) -> Result<usize> {
        if len > 0 && self.never_waits() {
            return self.attempt(mode, op);
        }
        self.0.fd.transfer(mode, len, op).map_err(io_error)
    }

    pub(super) fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        let len = buffer.len().min(MAX_RW);
        self.transfer(Mode::Read, len, |fd| sys::recv(fd, &mut buffer[..len]))
    }

    pub(super) fn read_vectored(&self, buffers: &mut [IoSliceMut<'_>]) -> Result<usize> {
        let (range, len) = one_call(buffers);
        if range.is_empty() {
            return self.read(buffers.get_mut(range.start).map_or(&mut [], |large| large));
        }
        let vector = vector_mut(&mut buffers[range]);
        // SAFETY: the buffers are mutably borrowed until this function returns.
        self.transfer(Mode::Read, len, |fd| unsafe {
            sys::recv_vectored(fd, vector)
        })
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> Result<usize> {
        self.attempt(Mode::Read, |fd| sys::recv(fd, buffer))
    }

    pub(super) fn peek(&self, buffer: &mut [u8]) -> Result<usize> {
        self.operate(Mode::Read, |fd| sys::recv_peek(fd, buffer))
    }

    pub(super) fn try_peek(&self, buffer: &mut [u8]) -> Result<usize> {
        self.attempt(Mode::Read, |fd| sys::recv_peek(fd, buffer))
    }

    pub(super) fn write(&self, buffer: &[u8]) -> Result<usize> {
        let buffer = &buffer[..buffer.len().min(MAX_RW)];
        self.transfer(Mode::Write, buffer.len(), |fd| sys::send(fd, buffer))
    }

    pub(super) fn write_vectored(&self, buffers: &[IoSlice<'_>]) -> Result<usize> {
        let (range, len) = one_call(buffers);
        if range.is_empty() {
            return self.write(buffers.get(range.start).map_or(&[], |large| large));
        }
        let vector = vector(&buffers[range]);
        // SAFETY: the buffers are borrowed until this function returns.
        self.transfer(Mode::Write, len, |fd| unsafe {
            sys::send_vectored(fd, vector)
        })
    }

    pub(super) fn try_write(&self, buffer: &[u8]) -> Result<usize> {
        self.attempt(Mode::Write, |fd| sys::send(fd, buffer))
    }

    pub(super) fn write_all(&self, mut buffer: &[u8]) -> Result<()> {
        if self.never_waits() {
            while !buffer.is_empty() {
                buffer = &buffer[self.try_write(buffer)?..];
            }
            return Ok(());
        }
        self.0
            .fd
            .transfer_all(buffer.len(), |fd, range| sys::send(fd, &buffer[range]))
            .map_err(|(_, error)| io_error(error))
    }

    /// Waits for a connection. Returns its socket and the peer's address as the kernel reports it.
    pub(super) fn accept(&self) -> Result<(Socket, Address)> {
        let accepted = match self.never_waits() {
            true => self.attempt(Mode::Read, sys::accept4)?,
            false => self.0.fd.accept(sys::accept4).map_err(io_error)?,
        };
        // SAFETY: `accept4` has just opened the descriptor, and this is its only owner.
        let fd = unsafe { OwnedFd::from_raw_fd(accepted.0) };
        Ok((Socket::new(fd), accepted.1))
    }

    /// Connects to `address`. Fails with a timeout if that takes longer than `until`.
    pub(super) fn connect(&self, address: &Address, until: Option<Instant>) -> Result<()> {
        let connected = match self
            .0
            .fd
            .with(|fd| sys::connect(fd, address))
            .map_err(io_error)?
        {
            Outcome::Done(()) => return Ok(()),
            Outcome::Failed(errno) => Err(FdError::Os(errno)),
            // The kernel goes on connecting. A second connect(2) would fail with EALREADY.
            Outcome::WouldBlock | Outcome::Interrupted => {
                if until.is_some() {
                    self.set_deadline(Some(Mode::Write), until)?;
                }
                self.0.fd.connect(finished)
            }
        };
        connected.map_err(io_error)?;
        // `until` limits the connect only, not later writes.
        match until {
            Some(_) => self.set_deadline(Some(Mode::Write), None),
            None => Ok(()),
        }
    }

    /// Calls `f`, which must not block, with the open descriptor.
    ///
    /// Never inlined: when `f` fails, it reads errno. When goroutines migrate, a caller may park
    /// between two such reads and resume on another thread. Inlined, the compiler could compute the
    /// address of errno once for both.
    #[inline(never)]
    pub(super) fn with<T>(&self, f: impl FnOnce(SockRef<'_>) -> Result<T>) -> Result<T> {
        let borrow = |fd: Borrowed<'_>| {
            // SAFETY: `Fd::with` keeps the descriptor open while it calls this closure.
            f(SockRef::from(&unsafe { BorrowedFd::borrow_raw(fd.raw()) }))
        };
        self.0.fd.with(borrow).map_err(io_error)?
    }

    pub(super) fn local_addr(&self) -> Result<SocketAddr> {
        ip(&self.ask(socket::local_address)?)
    }

    pub(super) fn peer_addr(&self) -> Result<SocketAddr> {
        ip(&self.ask(socket::peer_address)?)
    }

    /// Calls `ask`, which must not block, with the open descriptor.
    pub(super) fn ask<T>(
        &self,
        ask: impl FnOnce(Borrowed<'_>) -> std::result::Result<T, Errno>,
    ) -> Result<T> {
        self.0
            .fd
            .with(ask)
            .and_then(|asked| asked.map_err(FdError::Os))
            .map_err(io_error)
    }

    pub(super) fn set_deadline(&self, mode: Option<Mode>, until: Option<Instant>) -> Result<()> {
        self.0
            .fd
            .set_deadline(mode, deadline(until))
            .map_err(io_error)
    }

    /// Limits each later operation of `mode`, or with `None` does not. A limit of zero is an error,
    /// as in `std`.
    pub(super) fn set_timeout(&self, mode: Mode, limit: Option<Duration>) -> Result<()> {
        if limit == Some(Duration::ZERO) {
            return Err(zero_duration());
        }
        let nanos = limit.map_or(0, duration_nanos);
        self.0.fd.set_timeout(mode, nanos).map_err(io_error)
    }

    pub(super) fn timeout(&self, mode: Mode) -> Option<Duration> {
        let nanos = self.0.fd.timeout(mode);
        (nanos > 0).then(|| Duration::from_nanos(nanos.unsigned_abs()))
    }

    pub(super) fn close(&self) -> Result<()> {
        self.0.fd.close().map_err(io_error)
    }

    /// Borrows the descriptor. From then on, closing the socket keeps the descriptor's number taken
    /// until the last handle is dropped.
    ///
    /// # Panics
    ///
    /// If the socket has been closed.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `close_keeping_number` closes the file and keeps the number taken.
        match unsafe { self.0.fd.reserve_number(sys::close_keeping_number) } {
            // SAFETY: a reserved number stays taken until the Fd is dropped, and the result borrows
            // a handle of the Fd.
            Ok(fd) => unsafe { BorrowedFd::borrow_raw(fd) },
            Err(error) => panic!("as_fd: {error}: borrow the descriptor before `close`"),
        }
    }

    pub(super) fn fd(&self) -> &Fd {
        &self.0.fd
    }

    pub(super) fn raw(&self) -> i32 {
        self.0.fd.raw()
    }

    /// Takes the descriptor out of the runtime. It stays non-blocking.
    fn into_owned(self) -> Result<OwnedFd> {
        let shared = |_| {
            Error::new(
                ErrorKind::ResourceBusy,
                "the socket has other handles, made by try_clone: drop them first",
            )
        };
        let shared = Arc::try_unwrap(self.0).map_err(shared)?;
        let raw = shared.fd.into_raw().map_err(io_error)?;
        // SAFETY: `into_raw` transfers the ownership of the descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(raw) })
    }

    /// Takes the descriptor out of the runtime, or a duplicate of it if other handles exist.
    ///
    /// # Panics
    ///
    /// If the socket has been closed, or if the system cannot duplicate the descriptor.
    pub(super) fn into_fd(self) -> OwnedFd {
        if Arc::strong_count(&self.0) > 1 {
            let duplicate = self.as_fd().try_clone_to_owned();
            return duplicate.unwrap_or_else(|error| {
                panic!("the socket has other handles, and no duplicate can be made: {error}")
            });
        }
        self.into_owned()
            .unwrap_or_else(|error| panic!("the descriptor cannot be taken: {error}"))
    }

    /// Takes the descriptor out of the runtime and returns it in blocking mode.
    pub(super) fn into_blocking(self) -> Result<OwnedFd> {
        let owned = self.into_owned()?;
        SockRef::from(&owned).set_nonblocking(false)?;
        Ok(owned)
    }
}

/// The buffers as the kernel takes them.
pub(super) fn vector<'a>(buffers: &'a [IoSlice<'_>]) -> &'a [libc::iovec] {
    // SAFETY: std documents that IoSlice has the layout of an iovec.
    unsafe { slice::from_raw_parts(buffers.as_ptr().cast(), buffers.len()) }
}

/// The buffers as the kernel takes them. They stay mutably borrowed as long as the result.
pub(super) fn vector_mut<'a>(buffers: &'a mut [IoSliceMut<'_>]) -> &'a [libc::iovec] {
    // SAFETY: std documents that IoSliceMut has the layout of an iovec.
    unsafe { slice::from_raw_parts(buffers.as_ptr().cast(), buffers.len()) }
}

/// The result of a connect after the poller has reported the socket writable. A socket with neither
/// an error nor a peer is still connecting: the report was spurious.
fn finished(fd: Borrowed<'_>) -> Outcome<()> {
    match sys::take_socket_error(fd).and_then(|()| sys::is_connected(fd)) {
        Err(errno) => Outcome::Failed(errno),
        Ok(true) => Outcome::Done(()),
        Ok(false) => Outcome::WouldBlock,
    }
}

/// Returns the range of buffers to pass to one system call, and their total length in bytes.
///
/// The call takes at most [`IOV_MAX`] buffers and [`MAX_RW`] bytes. The range is empty if all
/// buffers are empty, or if the first non-empty buffer alone exceeds [`MAX_RW`]: it then starts at
/// that buffer. The length is exact, because `Fd` concludes from a shorter transfer that the kernel
/// has no more data, or no more room.
fn one_call<B: Deref<Target = [u8]>>(buffers: &[B]) -> (Range<usize>, usize) {
    let start = buffers
        .iter()
        .take_while(|buffer| buffer.is_empty())
        .count();
    let mut len = 0;
    let fits = |buffer: &&B| {
        let fits = buffer.len() <= MAX_RW - len;
        len += if fits { buffer.len() } else { 0 };
        fits
    };
    let count = buffers[start..]
        .iter()
        .take(IOV_MAX)
        .take_while(fits)
        .count();
    (start..start + count, len)
}

pub(super) fn ip(address: &Address) -> Result<SocketAddr> {
    address.ip().ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidInput,
            "the socket's address is not an IP address",
        )
    })
}

pub(crate) fn zero_duration() -> Error {
    Error::new(ErrorKind::InvalidInput, "cannot set a 0 duration timeout")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vectored_call_skips_leading_empty_buffers_and_knows_its_length() {
        let check = |lens: &[usize], range: Range<usize>, len| {
            static MANY: [u8; 100] = [0; 100];
            let buffers: Vec<_> = lens.iter().map(|&len| IoSlice::new(&MANY[..len])).collect();
            assert_eq!(one_call(&buffers), (range, len), "{lens:?}");
        };
        check(&[], 0..0, 0);
        check(&[0, 0], 2..2, 0);
        check(&[0, 3, 0, 4], 1..4, 7);
        check(&[1; IOV_MAX + 5], 0..IOV_MAX, IOV_MAX);
        let mut leading = vec![0; IOV_MAX];
        leading.extend([2, 3]);
        check(&leading, IOV_MAX..IOV_MAX + 2, 5);
    }

    #[test]
    fn a_vectored_call_stays_below_the_limit() {
        // Zeroed pages that are never touched take no memory.
        let large = vec![0; MAX_RW + 1];
        let slices = |lens: &[usize]| {
            lens.iter()
                .map(|&len| IoSlice::new(&large[..len]))
                .collect::<Vec<_>>()
        };
        assert_eq!(one_call(&slices(&[1, MAX_RW, 1])), (0..1, 1));
        assert_eq!(one_call(&slices(&[MAX_RW, 1])), (0..1, MAX_RW));
        assert_eq!(one_call(&slices(&[0, MAX_RW + 1, 1])), (1..1, 0));
    }
}
