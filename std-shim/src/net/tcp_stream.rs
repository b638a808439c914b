//! [`TcpStream`].

use super::dial::{adopt_options, dial};
use super::socket::{Socket, zero_duration};
use super::{Shutdown, SocketAddr, ToSocketAddrs, each_address};
use crate::runtime::sched;
use gopark_core::os::Mode;
use socket2::SockRef;
use std::fmt;
use std::io::{Error, IoSlice, IoSliceMut, Read, Result, Write};
use std::net;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::{Duration, Instant};

/// A TCP connection, as [`std::net::TcpStream`]. The [module](super) says what differs.
///
/// Reading and writing are independent and work on `&TcpStream`, so one goroutine may read while another writes. Dropping the last handle
/// closes the connection.
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
pub struct TcpStream(pub(super) Socket);

static_assertions::assert_impl_all!(TcpStream: Send, Sync, UnwindSafe, RefUnwindSafe);

impl TcpStream {
    /// Connects to the first of the addresses that answers.
    ///
    /// A name is looked up by the C library on a thread of [`blocking`](crate::blocking)'s pool, while the goroutine is parked; an address in
    /// digits is only parsed. That holds for a `&str`, a `String` and a pair of either with a port. A type of your own that implements
    /// [`ToSocketAddrs`] is asked on the goroutine's thread: if it looks up names, hand over what
    /// `gopark::blocking(|| addr.to_socket_addrs())` returns.
    ///
    /// # Errors
    ///
    /// That of the last address: `ConnectionRefused`, `TimedOut` when the system gives up (after about two minutes), `HostUnreachable`.
    /// `InvalidInput` if there is no address.
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
        // A start that fails panics at the caller.
        sched();
        each_address(addr, |addr| dial(addr, None))
    }

    /// Connects within `timeout`. A name is to be looked up before, with `gopark::blocking(|| name.to_socket_addrs())`: `to_socket_addrs`
    /// itself is that of `std` and blocks the thread.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect); [`PollError::Timeout`](crate::PollError::Timeout) when the time is over; `InvalidInput` if it is zero.
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
        // A start that fails panics at the caller.
        sched();
        // An end beyond what the clock can show is none.
        dial(*addr, Instant::now().checked_add(timeout))
    }

    /// The peer's address: `getpeername(2)`.
    ///
    /// # Errors
    ///
    /// `NotConnected` once the connection was reset.
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
        self.0.peer_addr()
    }

    /// This end's address: `getsockname(2)`.
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
        self.0.local_addr()
    }

    /// Ends reading, writing or both, for all handles: `shutdown(2)`. After the end of writing, the peer reads what is on its way and then the
    /// end of the stream.
    ///
    /// # Errors
    ///
    /// `NotConnected` if the peer has ended the connection before.
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
        self.0.with(|socket| socket.shutdown(how))
    }

    /// Another handle of this connection: of the same descriptor, with the same deadlines. It does not fail.
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
        Ok(TcpStream(self.0.clone()))
    }

    /// Waits for data and copies it without taking it: the next read returns it again.
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
        self.0.peek(buf)
    }

    /// Closes the connection under all handles, and returns when the system has released it.
    ///
    /// Operations under way fail with [`PollError::Closing`](crate::PollError::Closing), and so does every later one, this one included.
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
        self.0.close()
    }

    /// Sets the time after which reads and writes fail, `None` for never. It holds for those under way and for all later ones, until it is
    /// changed: a passed deadline fails each at once.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// # use std::io::{ErrorKind, Read};
    /// # use std::time::{Duration, Instant};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let mut stream = TcpStream::connect(listener.local_addr()?)?;
    /// stream.set_deadline(Some(Instant::now() + Duration::from_millis(5)))?;
    /// let error = stream.read(&mut [0]).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::TimedOut);
    /// assert_eq!(error.to_string(), "i/o timeout");
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[doc(alias = "SetDeadline")]
    pub fn set_deadline(&self, deadline: Option<Instant>) -> Result<()> {
        self.0.set_deadline(None, deadline)
    }

    /// [`set_deadline`](Self::set_deadline) for reads only.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// # use std::io::{Read, Write};
    /// # use std::time::{Duration, Instant};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let mut stream = TcpStream::connect(listener.local_addr()?)?;
    /// stream.set_read_deadline(Some(Instant::now()))?;
    /// assert!(stream.read(&mut [0]).is_err());
    /// assert!(stream.write(b"in time").is_ok());
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[doc(alias = "SetReadDeadline")]
    pub fn set_read_deadline(&self, deadline: Option<Instant>) -> Result<()> {
        self.0.set_deadline(Some(Mode::Read), deadline)
    }

    /// [`set_deadline`](Self::set_deadline) for writes only. A write that it ends may have sent a part.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// # use std::io::Write;
    /// # use std::time::{Duration, Instant};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let mut stream = TcpStream::connect(listener.local_addr()?)?;
    /// stream.set_write_deadline(Some(Instant::now()))?;
    /// assert!(stream.write(b"too late").is_err());
    /// stream.set_write_deadline(None)?;
    /// assert!(stream.write(b"in time").is_ok());
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[doc(alias = "SetWriteDeadline")]
    pub fn set_write_deadline(&self, deadline: Option<Instant>) -> Result<()> {
        self.0.set_deadline(Some(Mode::Write), deadline)
    }

    /// Gives each later read that much time, `None` for no limit, in place of a deadline. A read under way, on another handle of this
    /// connection, keeps the limit that it began with; [`set_read_deadline`](Self::set_read_deadline) moves it.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if it is zero. A read that takes longer fails with [`PollError::Timeout`](crate::PollError::Timeout), of kind
    /// `TimedOut`.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// # use std::io::{ErrorKind, Read};
    /// # use std::time::Duration;
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let mut stream = TcpStream::connect(listener.local_addr()?)?;
    /// stream.set_read_timeout(Some(Duration::from_millis(5)))?;
    /// for _ in 0..2 {
    ///     assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
    /// }
    /// assert!(stream.set_read_timeout(Some(Duration::ZERO)).is_err());
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        self.0.set_timeout(Mode::Read, timeout)
    }

    /// [`set_read_timeout`](Self::set_read_timeout) for writes. `write_all` counts as one.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// # use std::io::{ErrorKind, Write};
    /// # use std::time::Duration;
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let mut stream = TcpStream::connect(listener.local_addr()?)?;
    /// stream.set_write_timeout(Some(Duration::from_millis(5)))?;
    /// // More than the system buffers while nobody reads.
    /// let error = stream.write_all(&vec![0; 64 << 20]).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::TimedOut);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        self.0.set_timeout(Mode::Write, timeout)
    }

    /// How long each read may take. A deadline set later takes its place.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// # use std::time::{Duration, Instant};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    /// assert_eq!(stream.read_timeout()?, Some(Duration::from_secs(5)));
    /// stream.set_read_deadline(Some(Instant::now()))?;
    /// assert_eq!(stream.read_timeout()?, None);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn read_timeout(&self) -> Result<Option<Duration>> {
        Ok(self.0.timeout(Mode::Read))
    }

    /// How long each write may take. A deadline set later takes its place.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// assert_eq!(stream.write_timeout()?, None);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn write_timeout(&self) -> Result<Option<Duration>> {
        Ok(self.0.timeout(Mode::Write))
    }

    /// Whether small writes go out at once (`TCP_NODELAY`), which is the default here, as in Go, and not in `std`.
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
        self.0.with(|socket| socket.tcp_nodelay())
    }

    /// Whether small writes are to go out at once. If not, they wait for the peer's acknowledgement of earlier ones, to go together.
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
        self.0.with(|socket| socket.set_tcp_nodelay(nodelay))
    }

    /// How many routers a packet may pass (`IP_TTL`).
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
        self.0.with(|socket| socket.ttl_v4())
    }

    /// How many routers a packet may pass, 1 to 255.
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
        self.0.with(|socket| socket.set_ttl_v4(ttl))
    }

    /// How long closing waits for unsent data (`SO_LINGER`). `None`: it returns at once, and the system goes on to send.
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
        self.0.with(|socket| socket.linger())
    }

    /// How long closing is to wait for unsent data, in whole seconds: a fraction is cut off. Zero drops such data and resets the connection.
    ///
    /// The system blocks the thread for that time, even with non-blocking sockets.
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
        self.0.with(|socket| socket.set_linger(linger))
    }

    /// Takes the error that the system keeps for the next operation (`SO_ERROR`).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// assert!(stream.take_error()?.is_none());
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[doc(alias = "SO_ERROR")]
    pub fn take_error(&self) -> Result<Option<Error>> {
        self.0.with(|socket| socket.take_error())
    }

    /// The connection outside the runtime, blocking its thread. Deadlines and timeouts stay behind.
    ///
    /// # Errors
    ///
    /// `ResourceBusy` if [`try_clone`](Self::try_clone) gave other handles that still exist. This handle
    /// is dropped in each case.
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
        self.0.into_blocking().map(net::TcpStream::from)
    }
}

/// One read from the connection; 0 is its end.
impl Read for &TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.0.read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> Result<usize> {
        self.0.read_vectored(bufs)
    }
}

impl Read for TcpStream {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.0.read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> Result<usize> {
        self.0.read_vectored(bufs)
    }
}

/// `write` sends as much as the system takes at once. `write_all` sends everything, with nothing of other writers in between.
impl Write for &TcpStream {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        self.0.write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> Result<usize> {
        self.0.write_vectored(bufs)
    }

    fn write_all(&mut self, buf: &[u8]) -> Result<()> {
        self.0.write_all(buf)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// As for `&TcpStream`.
impl Write for TcpStream {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        self.0.write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> Result<usize> {
        self.0.write_vectored(bufs)
    }

    fn write_all(&mut self, buf: &[u8]) -> Result<()> {
        self.0.write_all(buf)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The descriptor, which is non-blocking. It stays this socket's own, or after `close` nobody's, as long as it is borrowed.
///
/// # Panics
///
/// If the connection was closed with `close`.
impl AsFd for TcpStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The descriptor's number, meaningful until the connection is closed.
impl AsRawFd for TcpStream {
    fn as_raw_fd(&self) -> RawFd {
        self.0.raw()
    }
}

/// Takes a connection into the runtime, makes it non-blocking and gives it the options of all connections here (`TCP_NODELAY` and keep-alive,
/// see the [module](super)), as Go's `net.FileConn` does. Keep-alive that is on already stays as it is.
impl From<net::TcpStream> for TcpStream {
    fn from(stream: net::TcpStream) -> Self {
        // Refused only for what is no open file, which refuses reads and writes as well, and for what is no TCP connection.
        let _ = stream.set_nonblocking(true);
        let _ = adopt_options(&SockRef::from(&stream));
        TcpStream(Socket::new(stream.into()))
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
