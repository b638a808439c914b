//! TCP, UDP and Unix sockets whose operations park the goroutine where those of `std` block the
//! thread.
//!
//! Names and meanings are those of [`std::net`] and [`std::os::unix::net`], so replacing
//! `use std::net` by `use gopark::net` is most of a port. The sockets also work on ordinary
//! threads, where an operation blocks its thread.
//!
//! # Porting from `std::net`
//!
//! - **A timeout is [`TimedOut`](std::io::ErrorKind::TimedOut).** `std` on Linux returns
//!   `WouldBlock`. Match both.
//! - **Small writes are sent at once**, because `TCP_NODELAY` is on. Code that writes a message in
//!   pieces should use a [`BufWriter`](std::io::BufWriter) and `flush` at the end of the message.
//! - **`set_read_timeout` and `set_write_timeout` limit each operation**, as in `std`. An operation
//!   in progress keeps the limit that it started with. `write_all` is one operation, even when it
//!   takes many system calls. A timeout set on one handle from `try_clone` applies to all of them.
//!   The time that an operation waits for its turn, behind another one in its direction, does not
//!   count; for a deadline it does.
//! - **[`incoming`](TcpListener::incoming) ends** when the listener is closed. That of `std` never
//!   ends.
//! - **Host names are looked up on another thread** while the goroutine is parked, for a string and
//!   for a pair of host and port. [`ToSocketAddrs::to_socket_addrs`] itself is that of `std` and
//!   blocks the thread: call `gopark::blocking(|| name.to_socket_addrs())`, or
//!   [`try_blocking`](crate::try_blocking) to leave it on a cancel.
//! - **A socket cannot wait in a child made by `fork`**: see `docs/fork.md`.
//!
//! # Differences from `std::net`
//!
//! - Go's deadlines (`set_deadline`, `set_read_deadline`, `set_write_deadline`) exist beside
//!   `std`'s timeouts. Of a deadline and a timeout for the same direction, the one set later
//!   applies. A new deadline also applies to an operation in progress; a new timeout does not.
//! - `close(&self)` closes the socket under all its handles, as Go's `Close` does.
//! - `try_clone` returns another handle of the same descriptor instead of duplicating it.
//! - Every connection has `TCP_NODELAY` on and sends keep-alive probes after 15 idle seconds, as in
//!   Go. This includes connections that come from `std` (`TcpStream::from`) and those accepted by a
//!   listener that does (`TcpListener::from`).
//! - The descriptor is always non-blocking. `set_nonblocking` decides whether an operation fails
//!   with `WouldBlock` instead of a wait; `try_read`, `try_write` and `try_peek` never wait.
//! - Operations in the same direction on one socket run one after another, so that the bytes of one
//!   `write_all` stay together. Goroutines that receive from one [`UdpSocket`] take turns; sockets
//!   of their own, on one port with `SO_REUSEPORT`, receive at the same time.
//! - A [`UdpSocket`] also sends and receives messages in several buffers with [`ControlMessage`]s,
//!   and [batches](DatagramBatch) of datagrams.
//!
//! # Without a network, and without a copy
//!
//! [`pipe()`] makes a connection in memory, for tests and to join parts of a program. [`proxy`] and
//! [`io::copy`](crate::io::copy()) move bytes between connections inside the kernel.
//!
//! # Ending an operation early
//!
//! A parked operation ends when its deadline or timeout passes, or when any handle of the socket is
//! closed with `close`; both can be done by any goroutine or thread. It also ends by a
//! [cancel](crate::sync::Cancel) of its goroutine. Nothing else ends it: dropping the goroutine's
//! [`JoinHandle`](crate::JoinHandle) does not.
//!
//! The look-up of a host name ends by a cancel, and by a limit of [`Dialer`]. The C library cannot
//! be told to stop, so its thread of the pool remains occupied until the name servers have answered
//! or are given up. At most 64 look-ups run at once, and no more than half as many as
//! [`Builder::max_threads`](crate::Builder::max_threads). Others wait for their turn. Look-ups of
//! the same host and port share one.
//!
//! # Idle connections
//!
//! A goroutine that waits in a read keeps its stack, at least a page of memory. [`on_readable`]
//! hands the connection over and starts a goroutine for it when data comes. Until then the
//! connection has no stack, for servers on which most connections are quiet.
//!
//! # Errors
//!
//! Beside the errors that its documentation lists, every operation can fail with an error of the
//! system, whose number [`raw_os_error`](std::io::Error::raw_os_error) returns, or with a
//! [`PollError`](crate::PollError), which [`poll_error`] returns:
//!
//! | `PollError` | kind | text |
//! |---|---|---|
//! | `Timeout` | `TimedOut` | i/o timeout |
//! | `Closing` | `ConnectionAborted` | use of closed network connection |
//! | `NotPollable` | `Unsupported` | not pollable |
//! | `Unwinding` | `WouldBlock` | a goroutine that unwinds cannot wait |
//! | `Cancelled` | `Other` | the goroutine is cancelled |
//!
//! `Unwinding` concerns destructors that run because of a panic: an operation that would have to
//! wait fails instead. When such a panic drops a `BufWriter<TcpStream>`, it sends as much as the
//! kernel accepts at once and discards the rest. A destructor must therefore not depend on an
//! operation that may wait, and must not hand the connection on after this error.

mod activation;
mod datagram_batch;
mod descriptor;
mod dial;
mod dialer;
mod handle;
mod idle;
mod incoming;
mod listen_config;
mod message;
mod names;
mod options;
mod pipe;
mod proxy;
mod readiness;
mod resolve;
mod serve;
mod socket;
pub(crate) mod splice;
mod tcp_listener;
mod tcp_options;
mod tcp_stream;
#[cfg(test)]
mod tests;
mod udp_options;
mod udp_socket;
mod unix;
mod unix_datagram;
mod unix_listener;
mod unix_seqpacket;
mod unix_stream;

pub use activation::{Inherited, SocketKind, listeners_from_env, pass_listeners};
pub use datagram_batch::{Datagram, DatagramBatch};
pub use descriptor::Descriptor;
pub use dialer::Dialer;
pub use idle::on_readable;
pub use listen_config::ListenConfig;
pub use message::{ControlBuffer, ControlMessage, Message};
pub use names::{Resolver, set_resolver};
pub use pipe::{Pipe, pipe};
pub use proxy::{Connection, proxy};
pub(crate) use readiness::sealed;
pub use readiness::{Acceptable, Readiness};
#[doc(hidden)]
pub use readiness::{SocketArm, acceptable, readable, writable};
pub use serve::Server;
pub(crate) use socket::zero_duration;
pub use std::net::{
    AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6,
    ToSocketAddrs,
};
pub use std::os::unix::net::SocketAddr as UnixAddr;
pub use tcp_listener::{Incoming, TcpListener};
pub use tcp_options::{TcpInfo, TcpState};
pub use tcp_stream::TcpStream;
pub use udp_socket::UdpSocket;
pub use unix::UCred;
pub use unix_datagram::UnixDatagram;
pub use unix_listener::{UnixIncoming, UnixListener};
pub use unix_seqpacket::{UnixSeqpacket, UnixSeqpacketListener};
pub use unix_stream::UnixStream;

use crate::error::poll_error;
use std::convert::identity;
use std::io::{Error, ErrorKind, Result};

/// Calls `f` with each address that `addrs` resolves to until one succeeds or the caller is
/// cancelled. Returns that result, or the error of the last address.
fn each_address<A: ToSocketAddrs, T>(addrs: A, f: impl Fn(SocketAddr) -> Result<T>) -> Result<T> {
    match resolve::look_up(&addrs, None, identity) {
        Some(found) => first_success(found?.into_iter(), f),
        None => first_success(addrs.to_socket_addrs()?, f),
    }
}

fn first_success<T>(
    addrs: impl Iterator<Item = SocketAddr>,
    f: impl Fn(SocketAddr) -> Result<T>,
) -> Result<T> {
    let mut last = None;
    for addr in addrs {
        match f(addr) {
            Err(error) if poll_error(&error) != Some(crate::PollError::Cancelled) => {
                last = Some(error);
            }
            result => return result,
        }
    }
    Err(last.unwrap_or_else(unresolved))
}

#[cold]
fn unresolved() -> Error {
    Error::new(
        ErrorKind::InvalidInput,
        "could not resolve to any addresses",
    )
}
