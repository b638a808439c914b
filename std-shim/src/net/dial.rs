//! Dialling, and the options of a connection.

use super::socket::Socket;
use super::{SocketAddr, TcpStream};
use socket2::{Domain, Protocol, SockRef, TcpKeepalive, Type};
use std::io::Result;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Connects to one address.
///
/// Who dials a free port of this machine may be given that very port, and is then connected to himself; and Linux now and then
/// finds no port to give where there are some. Go tries thrice.
#[doc(alias = "doDialTCP")]
pub(super) fn dial(addr: SocketAddr, until: Option<Instant>) -> Result<TcpStream> {
    for _ in 0..2 {
        match dial_once(addr, until) {
            Ok(stream) if is_its_own_peer(&stream, addr) => {}
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
            result => return result,
        }
    }
    dial_once(addr, until)
}

fn dial_once(addr: SocketAddr, until: Option<Instant>) -> Result<TcpStream> {
    let socket = Socket::new(unconnected(addr)?);
    socket.connect(&addr.into(), until)?;
    Ok(TcpStream(socket))
}

/// A socket with the options of a connection. Never inlined, for the reason of [`Socket::with`].
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

/// What Go sets on every connection.
#[doc(alias = "newTCPConn")]
pub(super) fn set_connection_options(socket: &SockRef<'_>) -> Result<()> {
    socket.set_tcp_nodelay(true)?;
    set_keep_alive(socket)
}

/// As [`set_connection_options`], for a socket made elsewhere: keep-alive that is on has been chosen there.
pub(super) fn adopt_options(socket: &SockRef<'_>) -> Result<()> {
    socket.set_tcp_nodelay(true)?;
    if socket.keepalive()? {
        Ok(())
    } else {
        set_keep_alive(socket)
    }
}

fn set_keep_alive(socket: &SockRef<'_>) -> Result<()> {
    const INTERVAL: Duration = Duration::from_secs(15);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(INTERVAL)
            .with_interval(INTERVAL)
            .with_retries(9),
    )
}

#[doc(alias = "selfConnect")]
pub(super) fn is_its_own_peer(stream: &TcpStream, dialled: SocketAddr) -> bool {
    // The port comes first because it decides nearly always.
    stream.local_addr().is_ok_and(|local| {
        local.port() == dialled.port() && stream.peer_addr().is_ok_and(|peer| peer == local)
    })
}
