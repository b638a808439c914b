//! [`TcpListener`].

use super::dial::{adopt_options, set_connection_options};
use super::socket::{Socket, ip};
use super::{SocketAddr, TcpStream, ToSocketAddrs, each_address};
use crate::PollError;
use crate::error::poll_error;
use crate::runtime::sched;
use gopark_core::os::Mode;
use socket2::{Domain, Protocol, SockRef, Type};
use std::fmt;
use std::io::{Error, Result};
use std::iter::FusedIterator;
use std::net;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::{Duration, Instant};

/// A TCP socket that accepts connections, as [`std::net::TcpListener`]. The [module](super) says what differs.
///
/// Any number of goroutines may accept from one listener. Dropping the last handle closes it.
///
/// ```
/// use gopark::net::{TcpListener, TcpStream};
/// use std::io::{self, Write};
///
/// # fn main() -> io::Result<()> {
/// gopark::run(|| {
///     let listener = TcpListener::bind("127.0.0.1:0")?;
///     let addr = listener.local_addr()?;
///     gopark::go(move || {
///         for stream in listener.incoming() {
///             let mut stream = stream.unwrap();
///             gopark::go(move || stream.write_all(b"hello"));
///         }
///     });
///
///     assert_eq!(io::read_to_string(TcpStream::connect(addr)?)?, "hello");
///     assert_eq!(io::read_to_string(TcpStream::connect(addr)?)?, "hello");
///     Ok(())
/// })
/// # }
/// ```
#[doc(alias = "TCPListener")]
pub struct TcpListener {
    socket: Socket,
    /// It came from `std`, so connections may have been queued before it had the options of one that is bound here.
    adopted: bool,
}

static_assertions::assert_impl_all!(TcpListener: Send, Sync, UnwindSafe, RefUnwindSafe);
static_assertions::assert_impl_all!(Incoming<'static>: UnwindSafe, RefUnwindSafe);

/// The kernel cuts it to `net.core.somaxconn`. Go reads that file, to the same effect.
const BACKLOG: i32 = i32::MAX;

impl TcpListener {
    /// Listens on the first of the addresses that can be had. Port 0 is a free one, which [`local_addr`](Self::local_addr) tells.
    ///
    /// A port of a listener just closed can be bound again at once (`SO_REUSEADDR`). The address `[::]` takes IPv4 connections as well, unless
    /// the system's `net.ipv6.bindv6only` says otherwise. The queue of connections is as long as `net.core.somaxconn` allows.
    ///
    /// A name is looked up as by [`TcpStream::connect`].
    ///
    /// # Errors
    ///
    /// That of the last address: `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`. `InvalidInput` if there is no address.
    ///
    /// ```
    /// # use gopark::net::TcpListener;
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// assert_ne!(listener.local_addr()?.port(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "ListenTCP")]
    #[track_caller]
    pub fn bind<A: ToSocketAddrs>(addr: A) -> Result<TcpListener> {
        // A start that fails panics at the caller.
        sched();
        each_address(addr, |addr| {
            Ok(TcpListener {
                socket: Socket::new(listening(addr)?),
                adopted: false,
            })
        })
    }

    /// Waits for a connection. Returns it with its peer's address.
    ///
    /// A connection that was reset in the queue is passed over, as in Go.
    ///
    /// # Errors
    ///
    /// [`PollError::Timeout`](crate::PollError::Timeout) after [`set_deadline`](Self::set_deadline). `EMFILE` and `ENFILE` when the process
    /// (`RLIMIT_NOFILE`) or the system (`fs.file-max`) has no descriptor left: the connection then stays in the queue, so try again when
    /// others have been closed.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let client = TcpStream::connect(listener.local_addr()?)?;
    /// let (server, peer) = listener.accept()?;
    /// assert_eq!(peer, client.local_addr()?);
    /// assert!(server.nodelay()?);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn accept(&self) -> Result<(TcpStream, SocketAddr)> {
        let (socket, peer) = self.socket.accept()?;
        let stream = TcpStream(socket);
        if self.adopted {
            self.hand_down_options(&stream);
        }
        Ok((stream, ip(&peer)?))
    }

    /// Linux copies a listener's options to a connection when the connection is made, not when it is accepted. A refusal is no reason to
    /// lose the connection: what is no TCP socket works without these options.
    #[cold]
    fn hand_down_options(&self, stream: &TcpStream) {
        let small_writes_go_out =
            |socket: &Socket| socket.with(|socket| socket.tcp_nodelay()).unwrap_or(false);
        if small_writes_go_out(&self.socket) && !small_writes_go_out(&stream.0) {
            let _ = stream.0.with(|socket| adopt_options(&socket));
        }
    }

    /// The connections as they come, or why one did not. It ends when the listener is closed; that of `std`, which has no `close`, never
    /// ends.
    ///
    /// Every other error is an item, and the next call tries again. An error of the system (`EMFILE`, say) would come again at once, so
    /// the call after one first sleeps: 5 ms, and twice as long after each further error in a row, up to a second. Go's HTTP server does
    /// the same. After a passed [`set_deadline`](Self::set_deadline) each call fails without a sleep, until the deadline is moved.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::{TcpListener, TcpStream};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let client = TcpStream::connect(listener.local_addr()?)?;
    /// for stream in listener.incoming() {
    ///     assert_eq!(stream?.peer_addr()?, client.local_addr()?);
    ///     listener.close()?;
    /// }
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming {
            listener: self,
            pause: Duration::ZERO,
        }
    }

    /// The address it listens on: `getsockname(2)`.
    ///
    /// ```
    /// # use gopark::net::TcpListener;
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// assert!(listener.local_addr()?.ip().is_loopback());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Another handle of this listener: of the same descriptor, with the same deadline. It does not fail.
    ///
    /// ```
    /// # use gopark::net::TcpListener;
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let other = listener.try_clone()?;
    /// assert_eq!(listener.local_addr()?, other.local_addr()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_clone(&self) -> Result<TcpListener> {
        Ok(TcpListener {
            socket: self.socket.clone(),
            adopted: self.adopted,
        })
    }

    /// Sets the time after which `accept` fails, `None` for never. It holds for calls under way and for all later ones, until it is changed.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::TcpListener;
    /// # use std::{io::ErrorKind, time::{Duration, Instant}};
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// listener.set_deadline(Some(Instant::now() + Duration::from_millis(5)))?;
    /// assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::TimedOut);
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    #[doc(alias = "SetDeadline")]
    pub fn set_deadline(&self, deadline: Option<Instant>) -> Result<()> {
        self.socket.set_deadline(Some(Mode::Read), deadline)
    }

    /// Closes the listener under all handles, and returns when its port is free. Calls of `accept` under way fail with
    /// [`PollError::Closing`](crate::PollError::Closing), and so does every later operation, this one included.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::TcpListener;
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let addr = listener.local_addr()?;
    /// let acceptor = listener.try_clone()?;
    /// let blocked = gopark::go(move || acceptor.accept());
    /// gopark::yield_now();
    /// listener.close()?;
    /// TcpListener::bind(addr)?;
    /// assert_eq!(blocked.join().unwrap().unwrap_err().to_string(), "use of closed network connection");
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn close(&self) -> Result<()> {
        self.socket.close()
    }

    /// How many routers a packet of an accepted connection may pass (`IP_TTL`).
    ///
    /// ```
    /// # use gopark::net::TcpListener;
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// assert!(listener.ttl()? > 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn ttl(&self) -> Result<u32> {
        self.socket.with(|socket| socket.ttl_v4())
    }

    /// How many routers a packet of connections accepted from now on may pass, 1 to 255.
    ///
    /// ```
    /// # use gopark::net::TcpListener;
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// listener.set_ttl(7)?;
    /// assert_eq!(listener.ttl()?, 7);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "IP_TTL")]
    pub fn set_ttl(&self, ttl: u32) -> Result<()> {
        self.socket.with(|socket| socket.set_ttl_v4(ttl))
    }

    /// Takes the error that the system keeps for the next operation (`SO_ERROR`).
    ///
    /// ```
    /// # use gopark::net::TcpListener;
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// assert!(listener.take_error()?.is_none());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "SO_ERROR")]
    pub fn take_error(&self) -> Result<Option<Error>> {
        self.socket.with(|socket| socket.take_error())
    }

    /// The listener outside the runtime, blocking its thread. Its deadline stays behind.
    ///
    /// # Errors
    ///
    /// `ResourceBusy` if [`try_clone`](Self::try_clone) gave other handles that still exist. This handle
    /// is dropped in each case.
    ///
    /// ```
    /// # use gopark::net::TcpListener;
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let addr = listener.local_addr()?;
    /// let listener: std::net::TcpListener = listener.into_std()?;
    /// assert_eq!(listener.local_addr()?, addr);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_std(self) -> Result<net::TcpListener> {
        self.socket.into_blocking().map(net::TcpListener::from)
    }
}

fn listening(addr: SocketAddr) -> Result<OwnedFd> {
    let socket = socket2::Socket::new(
        Domain::for_address(addr),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    // Linux copies these to the sockets it accepts: no call for each of them.
    set_connection_options(&SockRef::from(&socket))?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The descriptor, which is non-blocking. It stays this socket's own, or after `close` nobody's, as long as it is borrowed.
///
/// # Panics
///
/// If the listener was closed with `close`.
impl AsFd for TcpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The descriptor's number, meaningful until the listener is closed.
impl AsRawFd for TcpListener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.raw()
    }
}

/// Takes a listener into the runtime and makes it non-blocking. The connections that it accepts have the options of all connections here
/// (`TCP_NODELAY` and keep-alive, see the [module](super)), those that were queued before included. Keep-alive that is on already stays as
/// it is.
impl From<net::TcpListener> for TcpListener {
    fn from(listener: net::TcpListener) -> Self {
        // Refused only for what is no open file or no TCP socket, and those refuse to accept as well.
        let _ = listener.set_nonblocking(true);
        let _ = adopt_options(&SockRef::from(&listener));
        TcpListener {
            socket: Socket::new(listener.into()),
            adopted: true,
        }
    }
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("TcpListener");
        if let Ok(addr) = self.local_addr() {
            debug.field("addr", &addr);
        }
        debug.field("fd", &self.as_raw_fd()).finish()
    }
}

/// The connections of a listener, from [`TcpListener::incoming`].
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// # gopark::run(|| {
/// # use gopark::net::{TcpListener, TcpStream};
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let clients = [(); 3].map(|_| TcpStream::connect(listener.local_addr().unwrap()));
/// assert_eq!(listener.incoming().take(3).filter(Result::is_ok).count(), clients.len());
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Debug)]
pub struct Incoming<'a> {
    listener: &'a TcpListener,
    /// How long the next call sleeps before it accepts.
    pause: Duration,
}

/// The first sleep after an error of the system, and the longest.
const PAUSE: Range<Duration> = Duration::from_millis(5)..Duration::from_secs(1);

impl Iterator for Incoming<'_> {
    type Item = Result<TcpStream>;

    fn next(&mut self) -> Option<Self::Item> {
        crate::sleep(self.pause);
        let accepted = self.listener.accept().map(|(stream, _)| stream);
        self.pause = match &accepted {
            Err(error) if poll_error(error) == Some(PollError::Closing) => return None,
            Err(error) if error.raw_os_error().is_some() => {
                (self.pause * 2).clamp(PAUSE.start, PAUSE.end)
            }
            _ => Duration::ZERO,
        };
        Some(accepted)
    }
}

impl FusedIterator for Incoming<'_> {}
