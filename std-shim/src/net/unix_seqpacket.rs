//! [`UnixSeqpacket`] and [`UnixSeqpacketListener`].

use super::UnixAddr;
use super::handle::{accept_deadline, deadlines, descriptor};
use super::socket::Socket;
use super::unix::{self, connected_send_msg, unix_socket};
use super::unix_listener::SocketFile;
use crate::builder::sched;
use gopark_backends::linux::io as sys;
use gopark_backends::linux::socket::local_address;
use gopark_core::os::Mode;
use std::fmt;
use std::io::Result;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

/// A connection between two processes of this machine that keeps the bounds of messages: Go's
/// `net.UnixConn` of the network `unixpacket` (`SOCK_SEQPACKET`). `std` has no such type.
///
/// Each [`send`](Self::send) is one message, and each [`recv`](Self::recv) receives one.
///
/// ```
/// use gopark::net::UnixSeqpacket;
///
/// # fn main() -> std::io::Result<()> {
/// gopark::run(|| {
///     let (one, other) = UnixSeqpacket::pair()?;
///     one.send(b"two")?;
///     one.send(b"messages")?;
///     drop(one);
///     let mut buffer = [0; 16];
///     assert_eq!(other.recv(&mut buffer)?, 3);
///     assert_eq!(other.recv(&mut buffer)?, 8);
///     assert_eq!(other.recv(&mut buffer)?, 0);
///     Ok(())
/// })
/// # }
/// ```
#[doc(alias = "SOCK_SEQPACKET")]
pub struct UnixSeqpacket {
    pub(super) socket: Socket,
}

impl UnixSeqpacket {
    /// Connects to the listener at `path`, as [`UnixStream::connect`] does.
    ///
    /// ```
    /// # use gopark::net::{UnixSeqpacket, UnixSeqpacketListener};
    /// # let path = std::env::temp_dir().join(format!("gopark-doc-seq-{}", std::process::id()));
    /// let listener = UnixSeqpacketListener::bind(&path)?;
    /// let client = UnixSeqpacket::connect(&path)?;
    /// let (server, _) = listener.accept()?;
    /// client.send(b"hello")?;
    /// assert_eq!(server.recv(&mut [0; 16])?, 5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// [`UnixStream::connect`]: super::UnixStream::connect
    #[track_caller]
    pub fn connect<P: AsRef<Path>>(path: P) -> Result<UnixSeqpacket> {
        sched();
        Self::connect_addr(&unix::of_path(path.as_ref())?)
    }

    /// Connects as [`connect`](Self::connect) does, to an address, which may be an abstract name.
    ///
    /// ```
    /// # use gopark::net::{UnixAddr, UnixSeqpacket, UnixSeqpacketListener};
    /// let listener = UnixSeqpacketListener::bind_addr(&UnixAddr::from_pathname("")?)?;
    /// let client = UnixSeqpacket::connect_addr(&listener.local_addr()?)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn connect_addr(addr: &UnixAddr) -> Result<UnixSeqpacket> {
        sched();
        let socket = unix::connected(libc::SOCK_SEQPACKET, addr)?;
        Ok(UnixSeqpacket { socket })
    }

    /// Makes two connected sockets: `socketpair(2)`.
    ///
    /// ```
    /// # use gopark::net::UnixSeqpacket;
    /// let (one, other) = UnixSeqpacket::pair()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn pair() -> Result<(UnixSeqpacket, UnixSeqpacket)> {
        sched();
        let (one, other) = unix::pair(libc::SOCK_SEQPACKET)?;
        Ok((
            UnixSeqpacket { socket: one },
            UnixSeqpacket { socket: other },
        ))
    }

    /// Waits for a message, copies it to `buf`, and returns its length. What does not fit is lost.
    /// The result is 0 at the end of the connection, and for an empty message.
    ///
    /// ```
    /// # use gopark::net::UnixSeqpacket;
    /// let (one, other) = UnixSeqpacket::pair()?;
    /// other.send(b"hello")?;
    /// assert_eq!(one.recv(&mut [0; 3])?, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn recv(&self, buf: &mut [u8]) -> Result<usize> {
        self.socket.operate(Mode::Read, |fd| sys::recv(fd, buf))
    }

    /// As [`recv`](Self::recv), but leaves the message queued.
    ///
    /// ```
    /// # use gopark::net::UnixSeqpacket;
    /// let (one, other) = UnixSeqpacket::pair()?;
    /// other.send(b"hello")?;
    /// assert_eq!(one.peek(&mut [0; 16])?, 5);
    /// assert_eq!(one.recv(&mut [0; 16])?, 5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn peek(&self, buf: &mut [u8]) -> Result<usize> {
        self.socket.peek(buf)
    }

    /// Sends a message. While the peer's queue is full, waits.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` if the peer is gone. `EMSGSIZE` if the message exceeds the socket's send
    /// buffer.
    ///
    /// ```
    /// # use gopark::net::UnixSeqpacket;
    /// let (one, other) = UnixSeqpacket::pair()?;
    /// assert_eq!(one.send(b"hello")?, 5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn send(&self, buf: &[u8]) -> Result<usize> {
        self.socket.operate(Mode::Write, |fd| sys::send(fd, buf))
    }
}

unix_socket!(
    UnixSeqpacket,
    ["let (socket, _peer) = UnixSeqpacket::pair()?;"],
    "socket.send_msg(&[IoSlice::new(b\"x\")], &[ControlMessage::Fds(&fds)])?;"
);
connected_send_msg!(UnixSeqpacket);
descriptor!(
    UnixSeqpacket,
    ["let (socket, _peer) = UnixSeqpacket::pair()?;"],
    "socket.recv(&mut [0])"
);
deadlines!(
    UnixSeqpacket,
    ["let (socket, _peer) = UnixSeqpacket::pair()?;"],
    "socket.recv(&mut [0])"
);

/// Accepts connections of [`UnixSeqpacket`]. It treats its file as
/// [`UnixListener`](super::UnixListener) does.
///
/// ```
/// use gopark::net::{UnixAddr, UnixSeqpacket, UnixSeqpacketListener};
///
/// let listener = UnixSeqpacketListener::bind_addr(&UnixAddr::from_pathname("")?)?;
/// let client = UnixSeqpacket::connect_addr(&listener.local_addr()?)?;
/// let (server, _) = listener.accept()?;
/// server.send(b"hello")?;
/// assert_eq!(client.recv(&mut [0; 16])?, 5);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct UnixSeqpacketListener {
    /// Dropped before the socket.
    file: Option<Arc<SocketFile>>,
    pub(super) socket: Socket,
}

impl UnixSeqpacketListener {
    /// Listens at `path`, as [`UnixListener::bind`](super::UnixListener::bind) does.
    ///
    /// ```
    /// # use gopark::net::UnixSeqpacketListener;
    /// # let path = std::env::temp_dir().join(format!("gopark-doc-seql-{}", std::process::id()));
    /// let listener = UnixSeqpacketListener::bind(&path)?;
    /// assert!(path.exists());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn bind<P: AsRef<Path>>(path: P) -> Result<UnixSeqpacketListener> {
        sched();
        Self::bind_addr(&unix::of_path(path.as_ref())?)
    }

    /// Listens as [`bind`](Self::bind) does, at an address.
    ///
    /// ```
    /// # use gopark::net::{UnixAddr, UnixSeqpacketListener};
    /// let listener = UnixSeqpacketListener::bind_addr(&UnixAddr::from_pathname("")?)?;
    /// assert!(!listener.local_addr()?.is_unnamed());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn bind_addr(addr: &UnixAddr) -> Result<UnixSeqpacketListener> {
        sched();
        let (socket, file) = unix::listening(libc::SOCK_SEQPACKET, addr)?;
        Ok(UnixSeqpacketListener { file, socket })
    }

    /// Waits for a connection, as [`UnixListener::accept`](super::UnixListener::accept) does.
    ///
    /// ```
    /// # use gopark::net::{UnixAddr, UnixSeqpacket, UnixSeqpacketListener};
    /// let listener = UnixSeqpacketListener::bind_addr(&UnixAddr::from_pathname("")?)?;
    /// let client = UnixSeqpacket::connect_addr(&listener.local_addr()?)?;
    /// let (server, peer) = listener.accept()?;
    /// assert!(peer.is_unnamed());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn accept(&self) -> Result<(UnixSeqpacket, UnixAddr)> {
        let (socket, peer) = self.socket.accept()?;
        Ok((UnixSeqpacket { socket }, unix::from_kernel(&peer)?))
    }

    /// Returns the address that it listens on: `getsockname(2)`.
    ///
    /// ```
    /// # use gopark::net::{UnixAddr, UnixSeqpacketListener};
    /// let listener = UnixSeqpacketListener::bind_addr(&UnixAddr::from_pathname("")?)?;
    /// assert!(listener.local_addr()?.as_pathname().is_none());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn local_addr(&self) -> Result<UnixAddr> {
        unix::from_kernel(&self.socket.ask(local_address)?)
    }

    /// Sets whether closing the listener removes its file, as
    /// [`UnixListener::set_unlink_on_close`](super::UnixListener::set_unlink_on_close) does.
    ///
    /// ```
    /// # use gopark::net::UnixSeqpacketListener;
    /// # let path = std::env::temp_dir().join(format!("gopark-doc-sequ-{}", std::process::id()));
    /// let listener = UnixSeqpacketListener::bind(&path)?;
    /// listener.set_unlink_on_close(false);
    /// drop(listener);
    /// std::fs::remove_file(path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_unlink_on_close(&self, unlink: bool) {
        if let Some(file) = &self.file {
            file.set_unlink(unlink);
        }
    }

    /// Returns another handle of this listener. It never fails.
    ///
    /// ```
    /// # use gopark::net::{UnixAddr, UnixSeqpacketListener};
    /// let listener = UnixSeqpacketListener::bind_addr(&UnixAddr::from_pathname("")?)?;
    /// let other = listener.try_clone()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_clone(&self) -> Result<UnixSeqpacketListener> {
        Ok(UnixSeqpacketListener {
            file: self.file.clone(),
            socket: self.socket.clone(),
        })
    }

    /// Closes the listener under all its handles, as
    /// [`UnixListener::close`](super::UnixListener::close) does.
    ///
    /// ```
    /// # use gopark::net::{UnixAddr, UnixSeqpacketListener};
    /// let listener = UnixSeqpacketListener::bind_addr(&UnixAddr::from_pathname("")?)?;
    /// listener.close()?;
    /// assert!(listener.accept().is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn close(&self) -> Result<()> {
        if let Some(file) = &self.file {
            file.remove();
        }
        self.socket.close()
    }

    fn adopt(fd: OwnedFd) -> Self {
        UnixSeqpacketListener {
            file: None,
            socket: Socket::adopt(fd),
        }
    }

    fn into_fd(self) -> OwnedFd {
        self.set_unlink_on_close(false);
        self.socket.into_fd()
    }
}

descriptor!(
    UnixSeqpacketListener,
    ["let socket = UnixSeqpacketListener::bind_addr(&UnixAddr::from_pathname(\"\")?)?;"],
    "socket.accept()"
);
accept_deadline!(
    UnixSeqpacketListener,
    ["let socket = UnixSeqpacketListener::bind_addr(&UnixAddr::from_pathname(\"\")?)?;"]
);

impl fmt::Debug for UnixSeqpacketListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("UnixSeqpacketListener");
        if let Ok(addr) = self.local_addr() {
            debug.field("addr", &addr);
        }
        debug.field("fd", &self.socket.raw()).finish()
    }
}
