//! Connecting to one address, and the socket options of a connection.

use super::socket::Socket;
use super::{SocketAddr, TcpStream};
use socket2::{Domain, Protocol, SockRef, TcpKeepalive, Type};
use std::io::Result;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A function of the program that gets each new socket before it is bound or connected, with the
/// address that it is for.
pub(super) type Control = Arc<dyn Fn(BorrowedFd<'_>, SocketAddr) -> Result<()> + Send + Sync>;

/// The time before the first keep-alive probe, and between two: Go's.
pub(super) const KEEP_ALIVE: Option<Duration> = Some(Duration::from_secs(15));

/// The settings of a socket that connects.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) local: Option<SocketAddr>,
    pub(super) keep_alive: Option<Duration>,
    pub(super) mptcp: bool,
    pub(super) control: Option<Control>,
}

impl Settings {
    pub(super) const DEFAULT: Settings = Settings {
        local: None,
        keep_alive: KEEP_ALIVE,
        mptcp: false,
        control: None,
    };
}

/// Connects to `addr` before `until`.
///
/// Unless the program has chosen the local port, it tries up to three times, as Go does, in two
/// cases:
///
/// - The socket is connected to itself. A dial to a free port of this machine may get that same
///   port as its local port.
/// - The kernel returns EADDRNOTAVAIL, which Linux sometimes does although local ports are free.
#[doc(alias = "doDialTCP")]
pub(super) fn dial(
    settings: &Settings,
    addr: SocketAddr,
    until: Option<Instant>,
) -> Result<TcpStream> {
    let retries = if settings.local.is_none_or(|local| local.port() == 0) {
        2
    } else {
        0
    };
    for _ in 0..retries {
        match dial_once(settings, addr, until) {
            Ok(stream) if is_self_connected(&stream, addr) => {}
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
            result => return result,
        }
    }
    dial_once(settings, addr, until)
}

fn dial_once(settings: &Settings, addr: SocketAddr, until: Option<Instant>) -> Result<TcpStream> {
    let fd = unconnected(settings, addr)?;
    // The function may park, so the system calls before and after it are in functions of their own.
    if let Some(control) = &settings.control {
        control(fd.as_fd(), addr)?;
    }
    if let Some(local) = settings.local {
        bind(&fd, local)?;
    }
    let socket = Socket::new(fd);
    socket.connect(&addr.into(), until)?;
    Ok(TcpStream { socket })
}

/// Returns a new socket with the options of a connection. Never inlined, for the reason given at
/// [`Socket::with`].
#[inline(never)]
fn unconnected(settings: &Settings, addr: SocketAddr) -> Result<OwnedFd> {
    let socket = stream_socket(addr, settings.mptcp)?;
    let set = set_connection_options(&SockRef::from(&socket), settings.keep_alive);
    // Multipath TCP has lacked some of the options. Its connections work without them.
    if !settings.mptcp {
        set?;
    }
    Ok(socket.into())
}

/// Returns a new socket for the family of `addr`, of Multipath TCP if `mptcp` is set and the kernel
/// has it, and otherwise of TCP.
pub(super) fn stream_socket(addr: SocketAddr, mptcp: bool) -> Result<socket2::Socket> {
    let make = |protocol| {
        let stream = Type::STREAM.nonblocking();
        socket2::Socket::new(Domain::for_address(addr), stream, Some(protocol))
    };
    let multipath = mptcp.then(|| make(Protocol::from(libc::IPPROTO_MPTCP)));
    match multipath {
        Some(Ok(socket)) => Ok(socket),
        // The kernel is built without it, a sysctl has turned it off, or a policy forbids it.
        _ => make(Protocol::TCP),
    }
}

/// Binds a new socket. Never inlined, for the reason given at [`Socket::with`].
#[inline(never)]
fn bind(fd: &OwnedFd, local: SocketAddr) -> Result<()> {
    SockRef::from(fd).bind(&local.into())
}

/// Sets the options that Go sets on every connection.
#[doc(alias = "newTCPConn")]
pub(super) fn set_connection_options(
    socket: &SockRef<'_>,
    keep_alive: Option<Duration>,
) -> Result<()> {
    socket.set_tcp_nodelay(true)?;
    keep_alive.map_or(Ok(()), |interval| set_keep_alive(socket, interval))
}

/// Sets the options of a connection on a socket that comes from other code. If that code has turned
/// keep-alive on, its intervals stay.
pub(super) fn adopt_options(socket: &SockRef<'_>) -> Result<()> {
    let is_set = socket.keepalive()?;
    set_connection_options(socket, KEEP_ALIVE.filter(|_| !is_set))
}

/// The first probe is sent after `interval` without data, then one every `interval`. Nine probes
/// without a reply end the connection, as in Go. The kernel counts whole seconds, from 1 on.
fn set_keep_alive(socket: &SockRef<'_>, interval: Duration) -> Result<()> {
    let seconds = whole_seconds(interval);
    // The kernel's maximum (tcp.h) is 32767 s.
    let interval = Duration::from_secs(seconds.clamp(1, 32_767));
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(interval)
            .with_interval(interval)
            .with_retries(9),
    )
}

/// The seconds of a duration. A fraction counts as one.
pub(super) fn whole_seconds(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_add(u64::from(duration.subsec_nanos() > 0))
}

/// Returns whether `stream`, the result of a dial to `dialled`, is connected to itself.
#[doc(alias = "selfConnect")]
pub(super) fn is_self_connected(stream: &TcpStream, dialled: SocketAddr) -> bool {
    // The ports nearly always differ, so comparing them first saves a getpeername.
    stream.local_addr().is_ok_and(|local| {
        local.port() == dialled.port() && stream.peer_addr().is_ok_and(|peer| peer == local)
    })
}
