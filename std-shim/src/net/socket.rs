//! What the socket types share: one descriptor, held by every clone, and its operations as `std::io` knows them.
//!
//! Inside an operation that may park, only `gopark_backends::linux::io` makes system calls. It reports an error by value; `std` and
//! `socket2` read errno, whose address a compiler may keep over a park that comes back on another thread (`Socket::with` says more).
#![allow(
    unsafe_code,
    reason = "vectors of buffers, borrowed descriptors, and addresses cross into system calls"
)]

use crate::error::io_error;
use crate::runtime::{deadline, duration_nanos, sched};
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
use std::time::{Duration, Instant};

/// A non-blocking socket. Its clones are the same descriptor, registered once, with one pair of deadlines.
#[derive(Clone)]
pub(super) struct Socket(Arc<Fd>);

// As std's sockets. A panic inside an operation leaves nothing half changed that a later operation
// relies on: the operation gives back the descriptor's lock while it unwinds, and bytes, deadlines
// and registration change in single steps.
impl UnwindSafe for Socket {}
impl RefUnwindSafe for Socket {}

impl Socket {
    /// Takes over a descriptor, which must be non-blocking.
    pub(super) fn new(fd: OwnedFd) -> Self {
        // SAFETY: an OwnedFd owns its descriptor, and this one gives it up.
        Socket(Arc::new(unsafe { Fd::new(sched(), fd.into_raw_fd()) }))
    }

    pub(super) fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        let len = buffer.len().min(MAX_RW);
        self.0
            .transfer(Mode::Read, len, |fd| sys::recv(fd, &mut buffer[..len]))
            .map_err(io_error)
    }

    pub(super) fn read_vectored(&self, buffers: &mut [IoSliceMut<'_>]) -> Result<usize> {
        let (range, len) = one_call(buffers);
        if range.is_empty() {
            return self.read(buffers.get_mut(range.start).map_or(&mut [], |large| large));
        }
        let buffers = &mut buffers[range];
        // SAFETY: std gives an IoSliceMut the layout of an iovec.
        let vector = unsafe {
            slice::from_raw_parts(buffers.as_mut_ptr().cast::<libc::iovec>(), buffers.len())
        };
        // SAFETY: the buffers are mutably borrowed until this function returns.
        self.0
            .transfer(Mode::Read, len, |fd| unsafe {
                sys::recv_vectored(fd, vector)
            })
            .map_err(io_error)
    }

    pub(super) fn peek(&self, buffer: &mut [u8]) -> Result<usize> {
        self.0
            .operate(Mode::Read, |fd| sys::recv_peek(fd, buffer))
            .map_err(io_error)
    }

    pub(super) fn write(&self, buffer: &[u8]) -> Result<usize> {
        let buffer = &buffer[..buffer.len().min(MAX_RW)];
        self.0
            .transfer(Mode::Write, buffer.len(), |fd| sys::send(fd, buffer))
            .map_err(io_error)
    }

    pub(super) fn write_vectored(&self, buffers: &[IoSlice<'_>]) -> Result<usize> {
        let (range, len) = one_call(buffers);
        if range.is_empty() {
            return self.write(buffers.get(range.start).map_or(&[], |large| large));
        }
        let buffers = &buffers[range];
        // SAFETY: std gives an IoSlice the layout of an iovec.
        let vector =
            unsafe { slice::from_raw_parts(buffers.as_ptr().cast::<libc::iovec>(), buffers.len()) };
        // SAFETY: the buffers are borrowed until this function returns.
        self.0
            .transfer(Mode::Write, len, |fd| unsafe {
                sys::send_vectored(fd, vector)
            })
            .map_err(io_error)
    }

    pub(super) fn write_all(&self, buffer: &[u8]) -> Result<()> {
        self.0
            .transfer_all(buffer.len(), |fd, range| sys::send(fd, &buffer[range]))
            .map_err(|(_, error)| io_error(error))
    }

    /// A connection from a listener's queue, and the address that the system reported for its peer.
    pub(super) fn accept(&self) -> Result<(Socket, Address)> {
        let (fd, peer) = self.0.accept(sys::accept4).map_err(io_error)?;
        // SAFETY: `accept4` has just opened it for us.
        Ok((Socket::new(unsafe { OwnedFd::from_raw_fd(fd) }), peer))
    }

    /// Connects, which may take until `until`.
    pub(super) fn connect(&self, address: &Address, until: Option<Instant>) -> Result<()> {
        let connected = match self
            .0
            .with(|fd| sys::connect(fd, address))
            .map_err(io_error)?
        {
            Outcome::Done(()) => return Ok(()),
            Outcome::Failed(errno) => Err(FdError::Os(errno)),
            // It goes on by itself, and is not to be begun again.
            Outcome::WouldBlock | Outcome::Interrupted => {
                self.set_deadline(Some(Mode::Write), until)?;
                self.0.connect(finished)
            }
        };
        connected.map_err(io_error)?;
        // The limit was the connect's, not the connection's.
        self.set_deadline(Some(Mode::Write), None)
    }

    /// Asks or sets what does not block.
    ///
    /// Never inlined: `f` reads errno if it fails. Where goroutines migrate, the caller's loop may park between two such reads and go on on
    /// another thread, so the compiler must not see that both are of one address.
    #[inline(never)]
    pub(super) fn with<T>(&self, f: impl FnOnce(SockRef<'_>) -> Result<T>) -> Result<T> {
        let borrow = |fd: Borrowed<'_>| {
            // SAFETY: `Fd::with` keeps the descriptor open during this call.
            f(SockRef::from(&unsafe { BorrowedFd::borrow_raw(fd.raw()) }))
        };
        self.0.with(borrow).map_err(io_error)?
    }

    pub(super) fn local_addr(&self) -> Result<SocketAddr> {
        self.address(socket::local_address)
    }

    pub(super) fn peer_addr(&self) -> Result<SocketAddr> {
        self.address(socket::peer_address)
    }

    fn address(
        &self,
        ask: fn(Borrowed<'_>) -> std::result::Result<Address, Errno>,
    ) -> Result<SocketAddr> {
        ip(&self
            .0
            .with(ask)
            .and_then(|asked| asked.map_err(FdError::Os))
            .map_err(io_error)?)
    }

    pub(super) fn set_deadline(&self, mode: Option<Mode>, until: Option<Instant>) -> Result<()> {
        self.0.set_deadline(mode, deadline(until)).map_err(io_error)
    }

    /// `None` is no limit; a limit of zero is refused, as by `std`.
    pub(super) fn set_timeout(&self, mode: Mode, limit: Option<Duration>) -> Result<()> {
        if limit == Some(Duration::ZERO) {
            return Err(zero_duration());
        }
        let nanos = limit.map_or(0, duration_nanos);
        self.0.set_timeout(mode, nanos).map_err(io_error)
    }

    pub(super) fn timeout(&self, mode: Mode) -> Option<Duration> {
        let nanos = self.0.timeout(mode);
        (nanos > 0).then(|| Duration::from_nanos(nanos.unsigned_abs()))
    }

    pub(super) fn close(&self) -> Result<()> {
        self.0.close().map_err(io_error)
    }

    /// # Panics
    ///
    /// If the socket was closed: there is no descriptor left to borrow.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: that is what it does.
        match unsafe { self.0.reserve_number(sys::close_keeping_number) } {
            // SAFETY: a lent number stays taken until the Fd is dropped, and a handle of it is borrowed.
            Ok(fd) => unsafe { BorrowedFd::borrow_raw(fd) },
            Err(error) => panic!("as_fd: {error}"),
        }
    }

    pub(super) fn raw(&self) -> i32 {
        self.0.raw()
    }

    /// The descriptor in blocking mode, outside the runtime.
    pub(super) fn into_blocking(self) -> Result<OwnedFd> {
        let shared = |_| {
            Error::new(
                ErrorKind::ResourceBusy,
                "the socket has other handles, from try_clone",
            )
        };
        let fd = Arc::try_unwrap(self.0).map_err(shared)?;
        let raw = fd.into_raw().map_err(io_error)?;
        // SAFETY: `into_raw` has given the descriptor up to us.
        let owned = unsafe { OwnedFd::from_raw_fd(raw) };
        SockRef::from(&owned).set_nonblocking(false)?;
        Ok(owned)
    }
}

/// The outcome of a connect, after the socket has become writable. Neither an error nor a peer: that was for another reason; wait on.
fn finished(fd: Borrowed<'_>) -> Outcome<()> {
    match sys::take_socket_error(fd).and_then(|()| sys::is_connected(fd)) {
        Err(errno) => Outcome::Failed(errno),
        Ok(true) => Outcome::Done(()),
        Ok(false) => Outcome::WouldBlock,
    }
}

/// Which buffers one system call moves, and their length in bytes: empty if there is nothing to move, or if the first that is not empty is
/// too large by itself.
///
/// The length is exact, since a transfer of less tells `Fd` that the system has no more, or takes no more, for now.
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

pub(super) fn zero_duration() -> Error {
    Error::new(ErrorKind::InvalidInput, "cannot set a 0 duration timeout")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vectored_call_starts_at_the_first_byte_and_is_measured_exactly() {
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
        // Zeroed pages that are never touched.
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
