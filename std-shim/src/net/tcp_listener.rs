//! [`TcpListener`].

use super::dial::adopt_options;
use super::handle::{accept_deadline, descriptor};
use super::socket::{Socket, ip};
use super::{ListenConfig, SocketAddr, TcpStream, ToSocketAddrs};
use crate::PollError;
use crate::error::poll_error;
use socket2::SockRef;
use std::fmt;
use std::io::{ErrorKind, Result};
use std::iter::FusedIterator;
use std::net;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

/// A TCP socket that accepts connections: [`std::net::TcpListener`], Go's `net.TCPListener`. The
/// [module](super) lists the differences.
///
/// Any number of goroutines may accept from one listener. Each connection goes to one of them.
/// Dropping the last handle closes the listener.
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
    pub(super) socket: Socket,
    /// Whether it comes from `std`. Connections that the kernel queued before `from` then lack the
    /// options of a connection.
    adopted: bool,
}

static_assertions::assert_impl_all!(TcpListener: Send, Sync, UnwindSafe, RefUnwindSafe);
static_assertions::assert_impl_all!(Incoming<'static>: UnwindSafe, RefUnwindSafe);

impl TcpListener {
    /// Listens on the first address of `addr` that can be bound. Port 0 selects a free port, which
    /// [`local_addr`](Self::local_addr) returns.
    ///
    /// The port of a listener just closed can be bound again at once (`SO_REUSEADDR`). The address
    /// `[::]` also accepts IPv4 connections. The kernel queues up to `net.core.somaxconn`
    /// connections that have not been accepted. [`ListenConfig`] has other settings.
    ///
    /// A host name is looked up as in [`TcpStream::connect`]. Starts the runtime with the defaults
    /// if it is not running.
    ///
    /// # Errors
    ///
    /// The error of the last address, such as `AddrInUse`, `AddrNotAvailable` or
    /// `PermissionDenied`. `InvalidInput` if `addr` resolves to no address.
    ///
    /// # Panics
    ///
    /// If the runtime is not running and cannot be started.
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
        ListenConfig::new().listen(addr)
    }

    /// Takes a socket that listens, with the options of a connection.
    pub(super) fn listening(fd: OwnedFd) -> Self {
        TcpListener {
            socket: Socket::new(fd),
            adopted: false,
        }
    }

    /// Waits for a connection. Returns it with the address of its peer.
    ///
    /// Skips a connection that the peer has aborted while it was queued (`ECONNABORTED`), as Go
    /// does.
    ///
    /// # Errors
    ///
    /// - [`PollError::Timeout`](crate::PollError::Timeout) when the deadline of
    ///   [`set_deadline`](Self::set_deadline) has passed.
    /// - [`PollError::Closing`](crate::PollError::Closing) when the listener is closed with
    ///   [`close`](Self::close).
    /// - `EMFILE` or `ENFILE` when the process (`RLIMIT_NOFILE`) or the system (`fs.file-max`) has
    ///   no free descriptor. The connection stays in the queue: try again after closing others.
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
        let stream = TcpStream { socket };
        if self.adopted {
            self.hand_down_options(&stream);
        }
        Ok((stream, ip(&peer)?))
    }

    /// Sets the options of a connection on `stream` if it lacks them.
    ///
    /// Linux copies a listener's options to a connection when the connection is established, not
    /// when it is accepted, so those already queued when the listener was adopted lack them. Errors
    /// are ignored: a socket that is not TCP works without these options.
    #[cold]
    fn hand_down_options(&self, stream: &TcpStream) {
        let has_nodelay =
            |socket: &Socket| socket.with(|socket| socket.tcp_nodelay()).unwrap_or(false);
        if has_nodelay(&self.socket) && !has_nodelay(&stream.socket) {
            let _ = stream.socket.with(|socket| adopt_options(&socket));
        }
    }

    /// Returns an iterator that accepts connections. It ends when the listener is closed with
    /// [`close`](Self::close), or when the caller is [cancelled](crate::sync::Cancel); that of
    /// `std` never ends.
    ///
    /// Every other error of [`accept`](Self::accept) is an item, and the next call tries again. An
    /// error of the system, such as `EMFILE`, would probably recur at once. The call after such an
    /// error therefore sleeps first: 5 ms, doubled after each further error in a row, at most 1 s.
    /// Go's HTTP server does the same. After the deadline of [`set_deadline`](Self::set_deadline)
    /// has passed, each call fails without a sleep until the deadline is changed.
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
            pause: Some(Duration::ZERO),
        }
    }

    /// Returns the address that it listens on: `getsockname(2)`.
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

    /// Returns another handle of this listener, with the same descriptor and the same deadline. It
    /// never fails.
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

    /// Closes the listener under all its handles. Returns when its port is free.
    ///
    /// Calls of [`accept`](Self::accept) in progress, and all later operations, fail with
    /// [`PollError::Closing`](crate::PollError::Closing).
    ///
    /// # Errors
    ///
    /// [`PollError::Closing`](crate::PollError::Closing) if the listener is already closed.
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
    /// let error = blocked.join().unwrap().unwrap_err();
    /// assert_eq!(error.to_string(), "use of closed network connection");
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn close(&self) -> Result<()> {
        self.socket.close()
    }

    /// Returns the time to live of packets of accepted connections: the number of routers that one
    /// may pass (`IP_TTL`).
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

    /// Sets the time to live, 1 to 255 routers, of packets of connections that the kernel
    /// establishes from now on (`IP_TTL`).
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a value outside of that range.
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

    /// Takes the listener out of the runtime and returns it as a blocking listener of `std`,
    /// without its deadline.
    ///
    /// # Errors
    ///
    /// `ResourceBusy` if other handles from [`try_clone`](Self::try_clone) exist.
    /// [`PollError::Closing`](crate::PollError::Closing) if the listener is closed. This handle is
    /// dropped even on an error.
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

    fn adopt(fd: OwnedFd) -> Self {
        // Fails if it is not a TCP socket. Such a listener works without the options.
        let _ = adopt_options(&SockRef::from(&fd));
        TcpListener {
            socket: Socket::adopt(fd),
            adopted: true,
        }
    }

    fn into_fd(self) -> OwnedFd {
        self.socket.into_fd()
    }
}

descriptor!(
    TcpListener,
    ["let socket = TcpListener::bind(\"127.0.0.1:0\")?;"],
    "socket.accept()"
);
accept_deadline!(
    TcpListener,
    ["let socket = TcpListener::bind(\"127.0.0.1:0\")?;"]
);

/// Takes a listener of `std` into the runtime and makes it non-blocking.
///
/// Connections that it accepts get the options of all connections of this [module](super),
/// `TCP_NODELAY` and keep-alive, even if they were queued before. If keep-alive is already on for
/// the listener, its intervals stay.
///
/// # Panics
///
/// If the runtime is not running and cannot be started.
impl From<net::TcpListener> for TcpListener {
    fn from(listener: net::TcpListener) -> Self {
        Self::adopt(listener.into())
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

/// An iterator over the connections of a listener, returned by [`TcpListener::incoming`].
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
    /// How long the next call sleeps before it accepts: zero unless the last call failed. `None`
    /// once it has ended.
    pause: Option<Duration>,
}

/// The shortest and the longest sleep after an error of the system: those of Go's `http.Server`.
const PAUSE: Range<Duration> = Duration::from_millis(5)..Duration::from_secs(1);

impl Incoming<'_> {
    /// The next item, with the address of the peer.
    pub(super) fn accept(&mut self) -> Option<Result<(TcpStream, SocketAddr)>> {
        let pause = self.pause.take()?;
        crate::sleep(pause);
        let accepted = self.listener.accept();
        let cause = accepted.as_ref().err().and_then(poll_error);
        if matches!(cause, Some(PollError::Closing | PollError::Cancelled)) {
            return None;
        }
        self.pause = Some(match &accepted {
            Err(error)
                if error.raw_os_error().is_some() && error.kind() != ErrorKind::WouldBlock =>
            {
                (pause * 2).clamp(PAUSE.start, PAUSE.end)
            }
            _ => Duration::ZERO,
        });
        Some(accepted)
    }
}

impl Iterator for Incoming<'_> {
    type Item = Result<TcpStream>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.accept()?.map(|(stream, _)| stream))
    }
}

impl FusedIterator for Incoming<'_> {}
