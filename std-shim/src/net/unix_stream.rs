//! [`UnixStream`].

use super::UnixAddr;
use super::handle::{deadlines, descriptor, stream};
use super::socket::Socket;
use super::unix::{self, connected_send_msg, unix_socket};
use crate::builder::sched;
use gopark_core::fd::Fd;
use std::io::Result;
use std::os::unix::net;
use std::path::Path;

/// A connection between two processes of this machine:
/// [`std::os::unix::net::UnixStream`], Go's `net.UnixConn` of the network `unix`.
///
/// Reading and writing are independent and work on `&UnixStream`. Dropping the last handle closes
/// the connection.
///
/// ```
/// use gopark::net::UnixStream;
/// use std::io::{Read, Write};
///
/// # fn main() -> std::io::Result<()> {
/// gopark::run(|| {
///     let (mut client, mut server) = UnixStream::pair()?;
///     let echo = gopark::go(move || std::io::copy(&mut server.try_clone()?, &mut server));
///     client.write_all(b"ping")?;
///     let mut reply = [0; 4];
///     client.read_exact(&mut reply)?;
///     assert_eq!(&reply, b"ping");
///     drop(client);
///     assert_eq!(echo.join().unwrap()?, 4);
///     Ok(())
/// })
/// # }
/// ```
#[doc(alias = "UnixConn")]
pub struct UnixStream {
    pub(super) socket: Socket,
}

impl UnixStream {
    /// Connects to the listener at `path`. While its queue of connections is full, waits.
    ///
    /// Starts the runtime with the defaults if it is not running.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such file. `ConnectionRefused` if no socket listens there.
    /// `InvalidInput` if the path has more than 107 bytes.
    ///
    /// # Panics
    ///
    /// If the runtime is not running and cannot be started.
    ///
    /// ```
    /// # use gopark::net::{UnixListener, UnixStream};
    /// # let path = std::env::temp_dir().join(format!("gopark-doc-stream-{}", std::process::id()));
    /// let listener = UnixListener::bind(&path)?;
    /// let stream = UnixStream::connect(&path)?;
    /// assert_eq!(stream.peer_addr()?.as_pathname(), Some(path.as_path()));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "DialUnix")]
    #[track_caller]
    pub fn connect<P: AsRef<Path>>(path: P) -> Result<UnixStream> {
        sched();
        Self::connect_addr(&unix::of_path(path.as_ref())?)
    }

    /// Connects as [`connect`](Self::connect) does, to an address, which may be an abstract name.
    ///
    /// ```
    /// # use gopark::net::{UnixAddr, UnixListener, UnixStream};
    /// use std::os::linux::net::SocketAddrExt;
    ///
    /// let name = format!("gopark-doc-abstract-{}", std::process::id());
    /// let addr = UnixAddr::from_abstract_name(name)?;
    /// let listener = UnixListener::bind_addr(&addr)?;
    /// let stream = UnixStream::connect_addr(&addr)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn connect_addr(addr: &UnixAddr) -> Result<UnixStream> {
        sched();
        let socket = unix::connected(libc::SOCK_STREAM, addr)?;
        Ok(UnixStream { socket })
    }

    /// Makes two connected sockets: `socketpair(2)`.
    ///
    /// ```
    /// # use gopark::net::UnixStream;
    /// let (one, other) = UnixStream::pair()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn pair() -> Result<(UnixStream, UnixStream)> {
        sched();
        let (one, other) = unix::pair(libc::SOCK_STREAM)?;
        Ok((UnixStream { socket: one }, UnixStream { socket: other }))
    }

    /// Waits for data, copies it to `buf` and returns how many bytes it copied, as a read does. The
    /// data stays queued: the next read returns it again (`MSG_PEEK`).
    ///
    /// ```
    /// # use gopark::net::UnixStream;
    /// # use std::io::Write;
    /// let (one, mut other) = UnixStream::pair()?;
    /// other.write_all(b"GET /")?;
    /// let mut buffer = [0; 3];
    /// assert_eq!(one.peek(&mut buffer)?, 3);
    /// assert_eq!(one.peek(&mut buffer)?, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "MSG_PEEK")]
    pub fn peek(&self, buf: &mut [u8]) -> Result<usize> {
        self.socket.peek(buf)
    }

    pub(crate) fn fd(&self) -> &Fd {
        self.socket.fd()
    }

    /// Takes the connection out of the runtime and returns it as a blocking stream of `std`,
    /// without its deadlines and timeouts.
    ///
    /// # Errors
    ///
    /// `ResourceBusy` if other handles from [`try_clone`](Self::try_clone) exist.
    /// [`PollError::Closing`](crate::PollError::Closing) if the connection is closed. This handle
    /// is dropped even on an error.
    ///
    /// ```
    /// # use gopark::net::UnixStream;
    /// let (one, _other) = UnixStream::pair()?;
    /// let one: std::os::unix::net::UnixStream = one.into_std()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_std(self) -> Result<net::UnixStream> {
        self.socket.into_blocking().map(net::UnixStream::from)
    }
}

unix_socket!(
    UnixStream,
    ["let (socket, _peer) = UnixStream::pair()?;"],
    "socket.send_msg(&[IoSlice::new(b\"x\")], &[ControlMessage::Fds(&fds)])?;"
);
connected_send_msg!(UnixStream);
descriptor!(
    UnixStream,
    ["let (mut socket, _peer) = UnixStream::pair()?;"],
    "socket.read(&mut [0])"
);
deadlines!(
    UnixStream,
    ["let (mut socket, _peer) = UnixStream::pair()?;"],
    "socket.read(&mut [0])"
);
stream!(UnixStream, ["let (socket, _peer) = UnixStream::pair()?;"]);

/// Takes a connection of `std` into the runtime and makes it non-blocking.
///
/// # Panics
///
/// If the runtime is not running and cannot be started.
impl From<net::UnixStream> for UnixStream {
    fn from(stream: net::UnixStream) -> Self {
        Self::adopt(stream.into())
    }
}
