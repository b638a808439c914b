//! Connecting to an address, and the socket options of a connection.

use super::socket::Socket;
use super::{SocketAddr, TcpStream};
use socket2::{Domain, Protocol, SockRef, TcpKeepalive, Type};
use std::io::Result;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Connects to `addr` before `until`.
///
/// Tries up to three times, as Go does, in two cases:
///
/// - The socket is connected to itself. A dial to a free port of this machine may get that same
///   port as its local port.
/// - The kernel returns EADDRNOTAVAIL, which Linux sometimes does although local ports are free.
#[doc(alias = "doDialTCP")]
pub(super) fn dial(addr: SocketAddr, until: Option<Instant>) -> Result<TcpStream> {
    for _ in 0..2 {
        match dial_once(addr, until) {
            Ok(stream) if is_self_connected(&stream, addr) => {}
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
            result => return result,
        }
    }
    dial_once(addr, until)
}

fn dial_once(addr: SocketAddr, until: Option<Instant>) -> Result<TcpStream> {
    let socket = Socket::new(unconnected(addr)?);
    socket.connect(&addr.into(), until)?;
    Ok(TcpStream { socket })
}

/// Returns a new socket with the options of a connection. Never inlined, for the reason given at
/// [`Socket::with`].
#[inline(never)]
fn unconnected(addr: SocketAddr) -> Result<OwnedFd> {
    let socket = socket2::Socket::new(
        Domain::for_address(addr),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    set_connection_options(&SockRef::from(&socket))?;
    Ok(socket.into())
}

/// Sets the options that Go sets on every connection.
#[doc(alias = "newTCPConn")]
pub(super) fn set_connection_options(socket: &SockRef<'_>) -> Result<()> {
    socket.set_tcp_nodelay(true)?;
    set_keep_alive(socket)
}

/// Sets the options of a connection on a socket that comes from other code. If that code has turned
/// keep-alive on, its intervals stay.
pub(super) fn adopt_options(socket: &SockRef<'_>) -> Result<()> {
    socket.set_tcp_nodelay(true)?;
    if socket.keepalive()? {
        Ok(())
    } else {
        set_keep_alive(socket)
    }
}

/// Uses Go's defaults: the first probe after 15 idle seconds, then one every 15 s. Nine probes
/// without a reply end the connection.
fn set_keep_alive(socket: &SockRef<'_>) -> Result<()> {
    const INTERVAL: Duration = Duration::from_secs(15);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(INTERVAL)
            .with_interval(INTERVAL)
            .with_retries(9),
    )
}

/// Returns whether `stream`, the result of a dial to `dialled`, is connected to itself.
#[doc(alias = "selfConnect")]
pub(super) fn is_self_connected(stream: &TcpStream, dialled: SocketAddr) -> bool {
    // The ports nearly always differ, so comparing them first saves a getpeername.
    stream.local_addr().is_ok_and(|local| {
        local.port() == dialled.port() && stream.peer_addr().is_ok_and(|peer| peer == local)
    })
}
