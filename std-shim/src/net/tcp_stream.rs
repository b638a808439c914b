//! [`TcpStream`].

use super::dial::{Settings, adopt_options, dial, whole_seconds};
use super::handle::{deadlines, descriptor, stream};
use super::options::options;
use super::socket::{Socket, zero_duration};
use super::{Shutdown, SocketAddr, ToSocketAddrs, each_address};
use crate::builder::sched;
use gopark_core::fd::Fd;
use socket2::SockRef;
use std::fmt;
use std::io::Result;
use std::net;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::{Duration, Instant};

/// A TCP connection: [`std::net::TcpStream`], Go's `net.TCPConn`. The [module](super) lists the
/// differences.
///
/// Reading and writing are independent and work on `&TcpStream`, so one goroutine may read while
/// another writes. Dropping the last handle closes the connection.
///
/// ```
/// use gopark::net::{TcpListener, TcpStream};
/// use std::io::{Read, Write};
///
/// # fn main() -> std::io::Result<()> {
/// gopark::run(|| {
///     let listener = TcpListener::bind("127.0.0.1:0")?;
///     let mut client = TcpStream::connect(listener.local_addr()?)?;
///     let (mut server, _) = listener.accept()?;
///
///     client.write_all(b"ping")?;
///     let mut buffer = [0; 16];
///     assert_eq!(server.read(&mut buffer)?, 4);
///     drop(client);
///     assert_eq!(server.read(&mut buffer)?, 0);
///     Ok(())
/// })
/// # }
/// ```
#[doc(alias = "TCPConn")]
pub struct TcpStream {
    pub(super) socket: Socket,
}

static_assertions::assert_impl_all!(TcpStream: Send, Sync, UnwindSafe, RefUnwindSafe);

impl TcpStream {
    /// Connects to the first address of `addr` that accepts. Waits until the connection is
    /// established.
    ///
    /// A host name is looked up by the C library on a thread of the pool of
    /// [`blocking`](crate::blocking) while the goroutine is parked; a numeric address is only
    /// parsed. This is so for a `&str`, a `String` and a pair of either with a port. Other
    /// implementations of [`ToSocketAddrs`] run on the goroutine's thread. If yours looks up names,
    /// pass the result of `gopark::blocking(|| addr.to_socket_addrs())` instead.
    ///
    /// A [cancel](crate::sync::Cancel) ends all of it at once. A look-up is then left behind on the
    /// pool, as by [`try_blocking`](crate::try_blocking).
    ///
    /// Starts the runtime with the defaults if it is not running.
    ///
    /// # Errors
    ///
    /// The error of the last address: `ConnectionRefused`, `HostUnreachable`, or `TimedOut` when
    /// the kernel gives up, by default after about two minutes (`net.ipv4.tcp_syn_retries`).
    /// `InvalidInput` if `addr` resolves to no address.
    ///
    /// # Panics
    ///
    /// If the runtime is not running and cannot be started.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// assert_eq!(stream.peer_addr()?, listener.local_addr()?);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[doc(alias = "DialTCP")]
    #[track_caller]
    pub fn connect<A: ToSocketAddrs>(addr: A) -> Result<TcpStream> {
        // Starts the runtime here, so that a failed start panics with the location of the caller.
        sched();
        each_address(addr, |addr| dial(&Settings::DEFAULT, addr, None))
    }

    /// Connects to `addr`, and fails if that takes longer than `timeout`. Later reads and writes
    /// have no limit.
    ///
    /// [`Dialer`](super::Dialer) connects to a host name, with a limit that includes the look-up.
    ///
    /// # Errors
    ///
    /// Those of [`connect`](Self::connect), and [`PollError::Timeout`](crate::PollError::Timeout)
    /// after `timeout`. `InvalidInput` if `timeout` is zero.
    ///
    /// # Panics
    ///
    /// If the runtime is not running and cannot be started.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// # use std::time::Duration;
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let addr = listener.local_addr()?;
    /// let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5))?;
    /// assert_eq!(stream.peer_addr()?, addr);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[track_caller]
    pub fn connect_timeout(addr: &SocketAddr, timeout: Duration) -> Result<TcpStream> {
        if timeout.is_zero() {
            return Err(zero_duration());
        }
        // Starts the runtime here, so that a failed start panics with the location of the caller.
        sched();
        // An end that an Instant cannot represent is no limit.
        dial(
            &Settings::DEFAULT,
            *addr,
            Instant::now().checked_add(timeout),
        )
    }

    /// Returns the address of the peer: `getpeername(2)`.
    ///
    /// # Errors
    ///
    /// `NotConnected` after the connection was reset.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// let (_, client) = listener.accept()?;
    /// assert_eq!(stream.peer_addr()?, listener.local_addr()?);
    /// assert_eq!(stream.local_addr()?, client);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn peer_addr(&self) -> Result<SocketAddr> {
        self.socket.peer_addr()
    }

    /// Returns the address of this end: `getsockname(2)`.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// assert!(stream.local_addr()?.ip().is_loopback());
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Shuts down reading, writing or both, for all handles: `shutdown(2)`, Go's `CloseRead` and
    /// `CloseWrite`.
    ///
    /// After writing is shut down, the peer reads the data already sent and then the end of the
    /// stream. Operations in progress in that direction end.
    ///
    /// # Errors
    ///
    /// `NotConnected` if the connection has already ended.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// # use std::io::{Read, Write};
    /// # use std::net::Shutdown;
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let mut client = TcpStream::connect(listener.local_addr()?)?;
    /// let (mut server, _) = listener.accept()?;
    /// client.write_all(b"question")?;
    /// client.shutdown(Shutdown::Write)?;
    ///
    /// let mut question = String::new();
    /// server.read_to_string(&mut question)?;
    /// server.write_all(question.to_uppercase().as_bytes())?;
    /// drop(server);
    ///
    /// let mut answer = String::new();
    /// client.read_to_string(&mut answer)?;
    /// assert_eq!(answer, "QUESTION");
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[doc(alias = "CloseRead")]
    #[doc(alias = "CloseWrite")]
    pub fn shutdown(&self, how: Shutdown) -> Result<()> {
        self.socket.with(|socket| socket.shutdown(how))
    }

    /// Returns another handle of this connection, with the same descriptor and the same deadlines.
    /// It never fails.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// # use std::os::fd::AsRawFd;
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// let other = stream.try_clone()?;
    /// assert_eq!(stream.as_raw_fd(), other.as_raw_fd());
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn try_clone(&self) -> Result<TcpStream> {
        Ok(TcpStream {
            socket: self.socket.clone(),
        })
    }

    /// Waits for data, copies it to `buf` and returns how many bytes it copied, as a read does. The
    /// data stays queued: the next read returns it again (`MSG_PEEK`).
    ///
    /// # Errors
    ///
    /// Those of a read: see the [module](super#errors).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// # use std::io::{Read, Write};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let mut client = TcpStream::connect(listener.local_addr()?)?;
    /// let (mut server, _) = listener.accept()?;
    /// client.write_all(b"GET /")?;
    /// let mut buffer = [0; 3];
    /// server.peek(&mut buffer)?;
    /// assert_eq!(&buffer, b"GET");
    /// server.read_exact(&mut buffer)?;
    /// assert_eq!(&buffer, b"GET");
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[doc(alias = "MSG_PEEK")]
    pub fn peek(&self, buf: &mut [u8]) -> Result<usize> {
        self.socket.peek(buf)
    }

    /// Closes the connection under all its handles. Returns when the descriptor is closed.
    ///
    /// Operations in progress, and all later operations, fail with
    /// [`PollError::Closing`](crate::PollError::Closing). The kernel still sends the data that it
    /// has accepted, with two exceptions, in which it resets the connection: received data is
    /// unread, or [`set_linger`](Self::set_linger) was called with zero.
    ///
    /// # Errors
    ///
    /// [`PollError::Closing`](crate::PollError::Closing) if the connection is already closed.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// # use std::io::{ErrorKind, Read};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// let mut reader = stream.try_clone()?;
    /// let blocked = gopark::go(move || reader.read(&mut [0]));
    /// gopark::yield_now();
    /// stream.close()?;
    /// let error = blocked.join().unwrap().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    /// assert_eq!(error.to_string(), "use of closed network connection");
    /// assert!(stream.close().is_err());
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn close(&self) -> Result<()> {
        self.socket.close()
    }

    /// Returns whether small writes are sent at once (`TCP_NODELAY`). On by default, as in Go;
    /// `std` has it off.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// assert!(stream.nodelay()?);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn nodelay(&self) -> Result<bool> {
        self.socket.with(|socket| socket.tcp_nodelay())
    }

    /// Sets whether small writes are sent at once (`TCP_NODELAY`). If not, the kernel collects them
    /// until the peer has acknowledged earlier data: Nagle's algorithm.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// stream.set_nodelay(false)?;
    /// assert!(!stream.nodelay()?);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[doc(alias = "TCP_NODELAY")]
    pub fn set_nodelay(&self, nodelay: bool) -> Result<()> {
        self.socket.with(|socket| socket.set_tcp_nodelay(nodelay))
    }

    /// Returns the time to live of packets: the number of routers that one may pass (`IP_TTL`).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// assert!(stream.ttl()? > 0);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn ttl(&self) -> Result<u32> {
        self.socket.with(|socket| socket.ttl_v4())
    }

    /// Sets the time to live of packets, 1 to 255 routers (`IP_TTL`).
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a value outside of that range.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// stream.set_ttl(7)?;
    /// assert_eq!(stream.ttl()?, 7);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[doc(alias = "IP_TTL")]
    pub fn set_ttl(&self, ttl: u32) -> Result<()> {
        self.socket.with(|socket| socket.set_ttl_v4(ttl))
    }

    /// Returns how long a close waits until the peer has acknowledged all data (`SO_LINGER`).
    /// `None`, the default, is not at all: the kernel sends the data after the close.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// assert_eq!(stream.linger()?, None);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn linger(&self) -> Result<Option<Duration>> {
        self.socket.with(|socket| socket.linger())
    }

    /// Sets how long a close waits until the peer has acknowledged all data (`SO_LINGER`), in whole
    /// seconds: a fraction counts as one. Zero discards unsent data and resets the connection.
    ///
    /// The kernel blocks the thread for that time, although the socket is non-blocking, and with it
    /// the goroutines that have started on that thread.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// # use std::io::{ErrorKind, Read};
    /// # use std::time::Duration;
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let client = TcpStream::connect(listener.local_addr()?)?;
    /// let (mut server, _) = listener.accept()?;
    /// client.set_linger(Some(Duration::ZERO))?;
    /// drop(client);
    /// assert_eq!(server.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[doc(alias = "SO_LINGER")]
    pub fn set_linger(&self, linger: Option<Duration>) -> Result<()> {
        // The kernel's type is an int.
        let seconds = |linger| whole_seconds(linger).min(i32::MAX as u64);
        let linger = linger.map(|linger| Duration::from_secs(seconds(linger)));
        self.socket.with(|socket| socket.set_linger(linger))
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
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// # use std::io::{Read, Write};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// let (mut server, _) = listener.accept()?;
    /// server.write_all(b"x")?;
    /// let mut stream: std::net::TcpStream = stream.into_std()?;
    /// stream.read_exact(&mut [0])?;
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn into_std(self) -> Result<net::TcpStream> {
        self.socket.into_blocking().map(net::TcpStream::from)
    }

    pub(crate) fn fd(&self) -> &Fd {
        self.socket.fd()
    }

    fn adopt(fd: OwnedFd) -> Self {
        // Fails if it is not a TCP connection. Such a socket works without the options.
        let _ = adopt_options(&SockRef::from(&fd));
        TcpStream {
            socket: Socket::adopt(fd),
        }
    }

    fn into_fd(self) -> OwnedFd {
        self.socket.into_fd()
    }
}

options!(TcpStream, ["let listener = TcpListener::bind(\"127.0.0.1:0\")?;"
        "let socket = TcpStream::connect(listener.local_addr()?)?;"], "false");
descriptor!(
    TcpStream,
    [
        "let listener = TcpListener::bind(\"127.0.0.1:0\")?;"
        "let mut socket = TcpStream::connect(listener.local_addr()?)?;"
    ],
    "socket.read(&mut [0])"
);
deadlines!(
    TcpStream,
    [
        "let listener = TcpListener::bind(\"127.0.0.1:0\")?;"
        "let mut socket = TcpStream::connect(listener.local_addr()?)?;"
    ],
    "socket.read(&mut [0])"
);
stream!(
    TcpStream,
    [
        "let listener = TcpListener::bind(\"127.0.0.1:0\")?;"
        "let socket = TcpStream::connect(listener.local_addr()?)?;"
    ]
);

/// Takes a connection of `std` into the runtime and makes it non-blocking, as Go's `net.FileConn`
/// does.
///
/// It gets the options of all connections of this [module](super), `TCP_NODELAY` and keep-alive. If
/// keep-alive is already on, its intervals stay.
///
/// # Panics
///
/// If the runtime is not running and cannot be started.
impl From<net::TcpStream> for TcpStream {
    fn from(stream: net::TcpStream) -> Self {
        Self::adopt(stream.into())
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("TcpStream");
        if let Ok(addr) = self.local_addr() {
            debug.field("addr", &addr);
        }
        if let Ok(peer) = self.peer_addr() {
            debug.field("peer", &peer);
        }
        debug.field("fd", &self.as_raw_fd()).finish()
    }
}
