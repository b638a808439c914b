//! [`UnixDatagram`].

use super::handle::{deadlines, descriptor};
use super::message::{encoded, sender};
use super::socket::Socket;
use super::unix::{self, send_patiently, unix_socket, unless_receiver_is_full};
use super::{ControlMessage, UnixAddr};
use crate::builder::sched;
use gopark_backends::linux::io as sys;
use gopark_backends::linux::message;
use gopark_backends::linux::socket::Address;
use gopark_core::os::{Borrowed, Mode, Outcome};
use std::io::{IoSlice, Result};
use std::os::unix::net;
use std::path::Path;

/// A Unix socket for datagrams: [`std::os::unix::net::UnixDatagram`], Go's `net.UnixConn` of the
/// network `unixgram`.
///
/// Datagrams arrive whole and in order, and none is lost: a send waits while the receiver's queue
/// is full (`net.unix.max_dgram_qlen`). Dropping the last handle closes the socket. The file of a
/// socket that was bound to a path stays, as with `std`.
///
/// ```
/// use gopark::net::UnixDatagram;
///
/// # fn main() -> std::io::Result<()> {
/// gopark::run(|| {
///     let (one, other) = UnixDatagram::pair()?;
///     let reply = gopark::go(move || {
///         let mut buffer = [0; 16];
///         let len = other.recv(&mut buffer)?;
///         other.send(&buffer[..len])
///     });
///     one.send(b"ping")?;
///     let mut buffer = [0; 16];
///     assert_eq!(one.recv(&mut buffer)?, 4);
///     assert_eq!(reply.join().unwrap()?, 4);
///     Ok(())
/// })
/// # }
/// ```
pub struct UnixDatagram {
    pub(super) socket: Socket,
}

impl UnixDatagram {
    /// Makes a socket with a file at `path`, for others to send to. An empty path lets the kernel
    /// choose an abstract name, to which a receiver can reply.
    ///
    /// Starts the runtime with the defaults if it is not running.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if there is a file at `path`. `InvalidInput` if it has more than 107 bytes.
    ///
    /// # Panics
    ///
    /// If the runtime is not running and cannot be started.
    ///
    /// ```
    /// # use gopark::net::UnixDatagram;
    /// # let path = std::env::temp_dir().join(format!("gopark-doc-gram-{}", std::process::id()));
    /// let server = UnixDatagram::bind(&path)?;
    /// let client = UnixDatagram::bind("")?;
    /// client.send_to(b"question", &path)?;
    /// let (len, from) = server.recv_from(&mut [0; 16])?;
    /// assert_eq!(len, 8);
    /// server.send_to_addr(b"answer", &from)?;
    /// assert_eq!(client.recv(&mut [0; 16])?, 6);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "ListenUnixgram")]
    #[track_caller]
    pub fn bind<P: AsRef<Path>>(path: P) -> Result<UnixDatagram> {
        sched();
        Self::bind_addr(&unix::of_path(path.as_ref())?)
    }

    /// Makes a socket as [`bind`](Self::bind) does, at an address, which may be an abstract name.
    ///
    /// ```
    /// # use gopark::net::{UnixAddr, UnixDatagram};
    /// let unnamed = UnixAddr::from_pathname("")?;
    /// let socket = UnixDatagram::bind_addr(&unnamed)?;
    /// assert!(!socket.local_addr()?.is_unnamed());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn bind_addr(addr: &UnixAddr) -> Result<UnixDatagram> {
        sched();
        let socket = unix::bound(libc::SOCK_DGRAM, addr)?;
        Ok(UnixDatagram { socket })
    }

    /// Makes a socket without a name, to which no receiver can reply.
    ///
    /// ```
    /// # use gopark::net::UnixDatagram;
    /// let socket = UnixDatagram::unbound()?;
    /// assert!(socket.local_addr()?.is_unnamed());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn unbound() -> Result<UnixDatagram> {
        sched();
        let socket = unix::unbound(libc::SOCK_DGRAM)?;
        Ok(UnixDatagram { socket })
    }

    /// Makes two connected sockets: `socketpair(2)`.
    ///
    /// ```
    /// # use gopark::net::UnixDatagram;
    /// let (one, other) = UnixDatagram::pair()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn pair() -> Result<(UnixDatagram, UnixDatagram)> {
        sched();
        let (one, other) = unix::pair(libc::SOCK_DGRAM)?;
        Ok((UnixDatagram { socket: one }, UnixDatagram { socket: other }))
    }

    /// Makes `path` the receiver of [`send`](Self::send). From then on, only datagrams of that
    /// socket arrive.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such file. `ConnectionRefused` if no socket receives there.
    ///
    /// ```
    /// # use gopark::net::UnixDatagram;
    /// # let path = std::env::temp_dir().join(format!("gopark-doc-conn-{}", std::process::id()));
    /// let server = UnixDatagram::bind(&path)?;
    /// let client = UnixDatagram::unbound()?;
    /// client.connect(&path)?;
    /// client.send(b"hello")?;
    /// assert_eq!(server.recv(&mut [0; 16])?, 5);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn connect<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        self.connect_addr(&unix::of_path(path.as_ref())?)
    }

    /// Connects as [`connect`](Self::connect) does, to an address.
    ///
    /// ```
    /// # use gopark::net::{UnixAddr, UnixDatagram};
    /// let server = UnixDatagram::bind("")?;
    /// let client = UnixDatagram::unbound()?;
    /// client.connect_addr(&server.local_addr()?)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn connect_addr(&self, addr: &UnixAddr) -> Result<()> {
        unix::connect(&self.socket, addr)
    }

    /// Waits for a datagram, copies it to `buf`, and returns its length and its sender. What does
    /// not fit is lost.
    ///
    /// ```
    /// # use gopark::net::UnixDatagram;
    /// let (one, other) = UnixDatagram::pair()?;
    /// other.send(b"hello")?;
    /// let (len, from) = one.recv_from(&mut [0; 16])?;
    /// assert!(len == 5 && from.is_unnamed());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "ReadFromUnix")]
    pub fn recv_from(&self, buf: &mut [u8]) -> Result<(usize, UnixAddr)> {
        let receive = |fd: Borrowed<'_>| message::recv_from(fd, buf);
        with_sender(self.socket.operate(Mode::Read, receive)?)
    }

    /// As [`recv_from`](Self::recv_from), but leaves the datagram queued.
    ///
    /// ```
    /// # use gopark::net::UnixDatagram;
    /// let (one, other) = UnixDatagram::pair()?;
    /// other.send(b"hello")?;
    /// assert_eq!(one.peek_from(&mut [0; 16])?.0, 5);
    /// assert_eq!(one.recv(&mut [0; 16])?, 5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn peek_from(&self, buf: &mut [u8]) -> Result<(usize, UnixAddr)> {
        let receive = |fd: Borrowed<'_>| message::peek_from(fd, buf);
        with_sender(self.socket.operate(Mode::Read, receive)?)
    }

    /// Waits for a datagram, copies it to `buf`, and returns its length. What does not fit is lost.
    ///
    /// ```
    /// # use gopark::net::UnixDatagram;
    /// let (one, other) = UnixDatagram::pair()?;
    /// other.send(b"hello")?;
    /// assert_eq!(one.recv(&mut [0; 3])?, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn recv(&self, buf: &mut [u8]) -> Result<usize> {
        self.socket.operate(Mode::Read, |fd| sys::recv(fd, buf))
    }

    /// As [`recv`](Self::recv), but leaves the datagram queued.
    ///
    /// ```
    /// # use gopark::net::UnixDatagram;
    /// let (one, other) = UnixDatagram::pair()?;
    /// other.send(b"hello")?;
    /// assert_eq!(one.peek(&mut [0; 16])?, 5);
    /// assert_eq!(one.recv(&mut [0; 16])?, 5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn peek(&self, buf: &mut [u8]) -> Result<usize> {
        self.socket.peek(buf)
    }

    /// Sends a datagram to the socket at `path`. While that socket's queue is full, waits.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such file, `ConnectionRefused` if no socket receives there, and
    /// `EMSGSIZE` if the datagram exceeds the socket's send buffer. In non-blocking mode,
    /// `WouldBlock` if the receiver's queue is full.
    ///
    /// ```
    /// # use gopark::net::UnixDatagram;
    /// # let path = std::env::temp_dir().join(format!("gopark-doc-to-{}", std::process::id()));
    /// let server = UnixDatagram::bind(&path)?;
    /// UnixDatagram::unbound()?.send_to(b"hello", &path)?;
    /// assert_eq!(server.recv(&mut [0; 16])?, 5);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "WriteToUnix")]
    pub fn send_to<P: AsRef<Path>>(&self, buf: &[u8], path: P) -> Result<usize> {
        self.send_to_addr(buf, &unix::of_path(path.as_ref())?)
    }

    /// Sends a datagram as [`send_to`](Self::send_to) does, to an address.
    ///
    /// ```
    /// # use gopark::net::UnixDatagram;
    /// let server = UnixDatagram::bind("")?;
    /// UnixDatagram::unbound()?.send_to_addr(b"hello", &server.local_addr()?)?;
    /// assert_eq!(server.recv(&mut [0; 16])?, 5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn send_to_addr(&self, buf: &[u8], addr: &UnixAddr) -> Result<usize> {
        let address = unix::to_kernel(addr)?;
        self.send_or_wait(|fd| message::send_to(fd, buf, &address))
    }

    /// Repeats `send` until the receiver has room.
    fn send_or_wait(&self, mut send: impl FnMut(Borrowed<'_>) -> Outcome<usize>) -> Result<usize> {
        if self.socket.never_waits() {
            return self.socket.attempt(Mode::Write, send);
        }
        send_patiently(self.socket.timeout(Mode::Write), || {
            self.socket.operate(Mode::Write, |fd| {
                let tried = send(fd);
                unless_receiver_is_full(fd, tried)
            })
        })
    }

    /// Sends a datagram to the socket that this one is connected to. While that socket's queue is
    /// full, waits.
    ///
    /// # Errors
    ///
    /// `NotConnected` without a [`connect`](Self::connect), `ConnectionRefused` if the receiver is
    /// gone, and `EMSGSIZE` if the datagram exceeds the socket's send buffer.
    ///
    /// ```
    /// # use gopark::net::UnixDatagram;
    /// let (one, other) = UnixDatagram::pair()?;
    /// assert_eq!(one.send(b"hello")?, 5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn send(&self, buf: &[u8]) -> Result<usize> {
        self.socket.operate(Mode::Write, |fd| sys::send(fd, buf))
    }

    /// Sends a datagram with control messages, such as descriptors, to `addr`, or with `None` to
    /// the socket that this one is connected to. While that socket's queue is full, waits. Go's
    /// `WriteMsgUnix`.
    ///
    /// ```
    /// # use gopark::net::{ControlBuffer, ControlMessage, UnixDatagram};
    /// # use std::io::{IoSlice, IoSliceMut};
    /// # use std::os::fd::AsFd;
    /// let (one, other) = UnixDatagram::pair()?;
    /// let stdin = std::io::stdin();
    /// let fds = [stdin.as_fd()];
    /// one.send_msg(&[IoSlice::new(b"")], None, &[ControlMessage::Fds(&fds)])?;
    /// let mut control = ControlBuffer::for_fds(1);
    /// other.recv_msg(&mut [IoSliceMut::new(&mut [])], &mut control)?;
    /// assert_eq!(control.take_fds().len(), 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "WriteMsgUnix")]
    #[doc(alias = "SCM_RIGHTS")]
    pub fn send_msg(
        &self,
        bufs: &[IoSlice<'_>],
        addr: Option<&UnixAddr>,
        control: &[ControlMessage<'_>],
    ) -> Result<usize> {
        let Some(addr) = addr else {
            return self.socket.send_msg(bufs, None, control);
        };
        let address = unix::to_kernel(addr)?;
        let control = encoded(control)?;
        self.send_or_wait(sender(bufs, Some(&address), &control))
    }

    /// Takes the socket out of the runtime and returns it as a blocking socket of `std`, without
    /// its deadlines and timeouts.
    ///
    /// # Errors
    ///
    /// `ResourceBusy` if other handles from [`try_clone`](Self::try_clone) exist.
    /// [`PollError::Closing`](crate::PollError::Closing) if the socket is closed. This handle is
    /// dropped even on an error.
    ///
    /// ```
    /// # use gopark::net::UnixDatagram;
    /// let (one, _other) = UnixDatagram::pair()?;
    /// let one: std::os::unix::net::UnixDatagram = one.into_std()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_std(self) -> Result<net::UnixDatagram> {
        self.socket.into_blocking().map(net::UnixDatagram::from)
    }
}

fn with_sender((len, sender): (usize, Address)) -> Result<(usize, UnixAddr)> {
    Ok((len, unix::from_kernel(&sender)?))
}

unix_socket!(
    UnixDatagram,
    ["let (socket, _peer) = UnixDatagram::pair()?;"],
    "socket.send_msg(&[IoSlice::new(b\"x\")], None, &[ControlMessage::Fds(&fds)])?;"
);
descriptor!(
    UnixDatagram,
    ["let (socket, _peer) = UnixDatagram::pair()?;"],
    "socket.recv(&mut [0])"
);
deadlines!(
    UnixDatagram,
    ["let (socket, _peer) = UnixDatagram::pair()?;"],
    "socket.recv(&mut [0])"
);

/// Takes a socket of `std` into the runtime and makes it non-blocking.
///
/// # Panics
///
/// If the runtime is not running and cannot be started.
impl From<net::UnixDatagram> for UnixDatagram {
    fn from(socket: net::UnixDatagram) -> Self {
        Self::adopt(socket.into())
    }
}
