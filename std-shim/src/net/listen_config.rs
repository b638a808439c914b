//! [`ListenConfig`].
#![allow(
    unsafe_code,
    reason = "an option that socket2 lacks is set through the system call"
)]

use super::dial::{Control, KEEP_ALIVE, set_connection_options, stream_socket};
use super::{SocketAddr, TcpListener, ToSocketAddrs, each_address};
use crate::builder::sched;
use gopark_backends::linux::socket::set_option;
use gopark_core::os::Borrowed;
use socket2::SockRef;
use std::fmt;
use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Makes listeners with settings: Go's `net.ListenConfig`.
///
/// ```
/// use gopark::net::{ListenConfig, TcpStream};
///
/// # fn main() -> std::io::Result<()> {
/// # gopark::run(|| {
/// let listener = ListenConfig::new().backlog(16).listen("127.0.0.1:0")?;
/// let client = TcpStream::connect(listener.local_addr()?)?;
/// assert_eq!(listener.accept()?.1, client.local_addr()?);
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Clone)]
#[must_use = "settings do nothing until `listen`"]
pub struct ListenConfig {
    backlog: Option<u32>,
    reuse_port: bool,
    only_v6: bool,
    keep_alive: Option<Duration>,
    defer_accept: Option<Duration>,
    mptcp: bool,
    control: Option<Control>,
}

static_assertions::assert_impl_all!(ListenConfig: Send, Sync);

impl Default for ListenConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// When a socket gets `SO_REUSEPORT`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReusePort {
    Never,
    /// It joins the sockets that have bound the port with it.
    BeforeBind,
    /// It fails if another socket has bound the port. Later ones can join it.
    AfterBind,
}

impl ListenConfig {
    /// Returns the settings of [`TcpListener::bind`].
    ///
    /// ```
    /// let config = gopark::net::ListenConfig::new();
    /// assert!(format!("{config:?}").contains("reuse_port: false"));
    /// ```
    pub fn new() -> Self {
        ListenConfig {
            backlog: None,
            reuse_port: false,
            only_v6: false,
            keep_alive: KEEP_ALIVE,
            defer_accept: None,
            mptcp: false,
            control: None,
        }
    }

    /// Sets how many connections the kernel queues that have not been accepted. The kernel adds
    /// one, and limits it to `net.core.somaxconn`, which is the default.
    ///
    /// While the queue is full, the kernel drops what clients send to connect, and they try again
    /// after a second.
    ///
    /// ```
    /// gopark::net::ListenConfig::new().backlog(16).listen("127.0.0.1:0")?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = Some(connections);
        self
    }

    /// Sets whether other listeners of the same user can listen on the same port, if all have this
    /// set (`SO_REUSEPORT`). The kernel spreads the connections among them. Default: false.
    ///
    /// Connections in the queue of a listener that is closed are reset.
    ///
    /// ```
    /// # use gopark::net::ListenConfig;
    /// let config = ListenConfig::new().reuse_port(true);
    /// let first = config.listen("127.0.0.1:0")?;
    /// let second = config.listen(first.local_addr()?)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "SO_REUSEPORT")]
    pub fn reuse_port(mut self, on: bool) -> Self {
        self.reuse_port = on;
        self
    }

    /// Sets whether the address `[::]` accepts connections of IPv6 only (`IPV6_V6ONLY`). Default:
    /// false, whatever `net.ipv6.bindv6only` says, as in Go.
    ///
    /// ```
    /// # use gopark::net::ListenConfig;
    /// let six = ListenConfig::new().only_v6(true).listen("[::]:0")?;
    /// let four = ListenConfig::new().listen(("0.0.0.0", six.local_addr()?.port()))?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "IPV6_V6ONLY")]
    pub fn only_v6(mut self, on: bool) -> Self {
        self.only_v6 = on;
        self
    }

    /// Sets the keep-alive of accepted connections, as
    /// [`Dialer::keep_alive`](super::Dialer::keep_alive) does. Default: 15 s. `None`: no probes.
    ///
    /// ```
    /// gopark::net::ListenConfig::new().keep_alive(None).listen("127.0.0.1:0")?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn keep_alive(mut self, interval: Option<Duration>) -> Self {
        self.keep_alive = interval;
        self
    }

    /// A connection can be accepted when its client has sent data, or after about `limit`, in whole
    /// seconds (`TCP_DEFER_ACCEPT`). For protocols in which the client speaks first: it saves the
    /// wait for a connection that sends nothing.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let config = gopark::net::ListenConfig::new().defer_accept(Duration::from_secs(5));
    /// config.listen("127.0.0.1:0")?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "TCP_DEFER_ACCEPT")]
    pub fn defer_accept(mut self, limit: Duration) -> Self {
        self.defer_accept = Some(limit);
        self
    }

    /// Sets whether clients can use Multipath TCP (RFC 8684), if the kernel has it. Others connect
    /// with TCP. Default: false; Go's is true.
    ///
    /// ```
    /// gopark::net::ListenConfig::new().mptcp(true).listen("127.0.0.1:0")?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "SetMultipathTCP")]
    pub fn mptcp(mut self, on: bool) -> Self {
        self.mptcp = on;
        self
    }

    /// Calls `control` with each socket after it is made and before it is bound, and with the
    /// address that it is for: Go's `Control`. Connections inherit most options on Linux. If it
    /// fails, its error is that of the address.
    ///
    /// ```
    /// # use gopark::net::ListenConfig;
    /// let config = ListenConfig::new().control(|fd, _| socket2::SockRef::from(&fd).set_mark(0));
    /// assert!(config.listen("127.0.0.1:0").is_ok());
    /// ```
    #[doc(alias = "Control")]
    pub fn control<F>(mut self, control: F) -> Self
    where
        F: Fn(BorrowedFd<'_>, SocketAddr) -> Result<()> + Send + Sync + 'static,
    {
        self.control = Some(Arc::new(control));
        self
    }

    /// Listens on the first address of `addr` that can be bound, as [`TcpListener::bind`] does.
    ///
    /// # Errors
    ///
    /// Those of [`TcpListener::bind`], and that of [`control`](Self::control).
    ///
    /// # Panics
    ///
    /// If the runtime is not running and cannot be started.
    ///
    /// ```
    /// let listener = gopark::net::ListenConfig::new().listen("127.0.0.1:0")?;
    /// assert_ne!(listener.local_addr()?.port(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "ListenTCP")]
    #[track_caller]
    pub fn listen<A: ToSocketAddrs>(&self, addr: A) -> Result<TcpListener> {
        // Starts the runtime here, so that a failed start panics with the location of the caller.
        sched();
        let when = match self.reuse_port {
            true => ReusePort::BeforeBind,
            false => ReusePort::Never,
        };
        each_address(addr, |addr| self.listen_at(addr, when))
    }

    /// Listens with `count` listeners on one port, among which the kernel spreads the connections:
    /// for [`Server::new`](super::Server::new).
    ///
    /// Unless [`reuse_port`](Self::reuse_port) is set, another listener on the port is an error, as
    /// in [`listen`](Self::listen).
    ///
    /// # Errors
    ///
    /// Those of [`listen`](Self::listen).
    ///
    /// # Panics
    ///
    /// If `count` is 0. If the runtime is not running and cannot be started.
    ///
    /// ```
    /// let listeners = gopark::net::ListenConfig::new().listen_group("127.0.0.1:0", 3)?;
    /// assert_eq!(listeners.len(), 3);
    /// assert_eq!(listeners[0].local_addr()?, listeners[2].local_addr()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn listen_group<A: ToSocketAddrs>(
        &self,
        addr: A,
        count: usize,
    ) -> Result<Vec<TcpListener>> {
        assert!(count > 0, "listen_group: the count of listeners is 0");
        sched();
        let first = match (self.reuse_port, count) {
            (true, _) => ReusePort::BeforeBind,
            (false, 1) => ReusePort::Never,
            (false, _) => ReusePort::AfterBind,
        };
        each_address(addr, |addr| {
            let mut group = vec![self.listen_at(addr, first)?];
            let addr = group[0].local_addr()?;
            for _ in 1..count {
                group.push(self.listen_at(addr, ReusePort::BeforeBind)?);
            }
            Ok(group)
        })
    }

    fn listen_at(&self, addr: SocketAddr, reuse_port: ReusePort) -> Result<TcpListener> {
        let fd = self.unbound(addr, reuse_port)?;
        // The function may park, so the system calls before and after it are in functions of their
        // own.
        if let Some(control) = &self.control {
            control(fd.as_fd(), addr)?;
        }
        self.bind(&fd, addr, reuse_port)?;
        Ok(TcpListener::listening(fd))
    }

    /// Returns a new socket, with the options of a connection. Never inlined, for the reason given
    /// at [`Socket::with`](super::socket::Socket::with).
    #[inline(never)]
    fn unbound(&self, addr: SocketAddr, reuse_port: ReusePort) -> Result<OwnedFd> {
        let socket = stream_socket(addr, self.mptcp)?;
        socket.set_reuse_address(true)?;
        if reuse_port == ReusePort::BeforeBind {
            socket.set_reuse_port(true)?;
        }
        if self.only_v6 {
            socket.set_only_v6(addr.is_ipv6())?;
        } else if addr.is_ipv6() && addr.ip().is_unspecified() {
            // A kernel without IPv4 listens all the same.
            _ = socket.set_only_v6(false);
        }
        // Linux copies these options to the connections, which saves system calls for each of them.
        let set = set_connection_options(&SockRef::from(&socket), self.keep_alive);
        // Multipath TCP has lacked some of the options. Its connections work without them.
        if !self.mptcp {
            set?;
        }
        Ok(socket.into())
    }

    /// Binds and listens. Never inlined, as `unbound`.
    #[inline(never)]
    fn bind(&self, fd: &OwnedFd, addr: SocketAddr, reuse_port: ReusePort) -> Result<()> {
        let socket = SockRef::from(fd);
        socket.bind(&addr.into())?;
        if reuse_port == ReusePort::AfterBind {
            // Linux lets later sockets bind the port if all have the option by then.
            socket.set_reuse_port(true)?;
        }
        if let Some(limit) = self.defer_accept {
            let seconds = limit.as_secs() + u64::from(limit.subsec_nanos() > 0);
            let seconds = i32::try_from(seconds).unwrap_or(i32::MAX);
            // SAFETY: the descriptor is open while `fd` is borrowed.
            let fd = unsafe { Borrowed::new(fd.as_raw_fd()) };
            // SAFETY: the option takes an integer.
            unsafe { set_option(fd, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds) }
                .map_err(|errno| Error::from_raw_os_error(errno.raw()))?;
        }
        // Go reads `net.core.somaxconn` and passes its value. The kernel does so for a larger one.
        let backlog = self.backlog.and_then(|backlog| backlog.try_into().ok());
        socket.listen(backlog.unwrap_or(i32::MAX))
    }
}

impl fmt::Debug for ListenConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ListenConfig {
            backlog,
            reuse_port,
            only_v6,
            keep_alive,
            defer_accept,
            mptcp,
            control: _,
        } = self;
        f.debug_struct("ListenConfig")
            .field("backlog", backlog)
            .field("reuse_port", reuse_port)
            .field("only_v6", only_v6)
            .field("keep_alive", keep_alive)
            .field("defer_accept", defer_accept)
            .field("mptcp", mptcp)
            .finish_non_exhaustive()
    }
}
