//! TCP sockets that park the goroutine where `std`'s block the thread.
//!
//! Names and meanings are those of [`std::net`], so `use std::net` → `use gopark::net` is most of a port. On an ordinary thread they
//! work as well, and block it.
//!
//! # What a port must look for
//!
//! - **A timeout is [`TimedOut`](std::io::ErrorKind::TimedOut)**, where `std` on Linux has `WouldBlock`. Match both.
//! - **Small writes go out at once**, since `TCP_NODELAY` is on. What writes a message in pieces needs a [`BufWriter`](std::io::BufWriter) and a
//!   `flush` at the end of the message.
//! - **`set_read_timeout` and `set_write_timeout` count for each operation**, as in `std`: an operation under way keeps the limit that it began
//!   with. `write_all` is one operation, also when it takes many system calls. With `try_clone`, a timeout set on one handle holds for all.
//! - **[`incoming`](TcpListener::incoming) ends** when the listener is closed; that of `std` never does.
//! - **A name is looked up on another thread** while the goroutine is parked, for text and for a pair of text and port.
//!   [`ToSocketAddrs::to_socket_addrs`] itself is that of `std` and blocks the thread: `gopark::blocking(|| name.to_socket_addrs())`.
//! - **A socket does not outlive `fork`** as one that waits: `docs/fork.md`.
//!
//! # What differs
//!
//! - Go's deadlines (`set_deadline` and its kin) stand beside `std`'s timeouts; of the two, the one set later counts. A deadline also
//!   moves the end of an operation under way, a timeout does not.
//! - `close(&self)` ends a socket under all who use it: their operations fail with [`PollError::Closing`](crate::PollError::Closing).
//! - `try_clone` makes no new descriptor: what is set on one handle holds for all.
//! - Connections have `TCP_NODELAY` on, and keep-alive probes after 15 idle seconds, as in Go. That includes those that come from `std`
//!   (`TcpStream::from`), and those of a listener that does (`TcpListener::from`).
//! - `set_nonblocking` is absent: the sockets are non-blocking underneath, and an operation that must not wait has a deadline.
//! - Operations of one direction on one socket take turns, so that what `write_all` writes stays together.
//!
//! # Errors
//!
//! Beside its own, every operation may fail with what the system says (its number is in [`raw_os_error`](std::io::Error::raw_os_error)) or with
//! a [`PollError`](crate::PollError), to which the error's [`get_ref`](std::io::Error::get_ref) can be downcast:
//!
//! | `PollError` | kind | text |
//! |---|---|---|
//! | `Timeout` | `TimedOut` | i/o timeout |
//! | `Closing` | `ConnectionAborted` | use of closed network connection |
//! | `NotPollable` | `Unsupported` | not pollable |
//! | `Unwinding` | `WouldBlock` | a goroutine that unwinds cannot wait |
//!
//! The last one is for destructors that a panic runs: there an operation that would have to wait
//! fails instead. A `BufWriter<TcpStream>` that is dropped so sends what the
//! socket takes at once, and no more. What a destructor may have to wait for it must not rely on,
//! nor give a connection on after such an error.

mod dial;
mod resolve;
mod socket;
mod tcp_listener;
mod tcp_stream;
#[cfg(test)]
mod tests;

pub use std::net::{
    AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6,
    ToSocketAddrs,
};
pub use tcp_listener::{Incoming, TcpListener};
pub use tcp_stream::TcpStream;

use std::io::{Error, ErrorKind, Result};

/// The first success of `f` over the addresses that `addrs` resolves to, or else its last error.
fn each_address<A: ToSocketAddrs, T>(addrs: A, f: impl Fn(SocketAddr) -> Result<T>) -> Result<T> {
    match resolve::look_up(&addrs) {
        Some(found) => first_success(found?, f),
        None => first_success(addrs.to_socket_addrs()?, f),
    }
}

fn first_success<T>(
    addrs: impl Iterator<Item = SocketAddr>,
    f: impl Fn(SocketAddr) -> Result<T>,
) -> Result<T> {
    let mut last = Error::new(
        ErrorKind::InvalidInput,
        "could not resolve to any addresses",
    );
    for addr in addrs {
        match f(addr) {
            Ok(value) => return Ok(value),
            Err(error) => last = error,
        }
    }
    Err(last)
}
