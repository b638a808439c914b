//! Connections that wait for data without a stack.

use super::Readiness;
use super::readiness::sealed::SealedReadiness;
use crate::builder::sched;
use crate::error::io_error;
use crate::goroutine::reporting;
use gopark_backends::linux::io::is_ready;
use gopark_core::fd::{Fd, FdError};
use gopark_core::os::Errno;
use std::io::{Error, ErrorKind, Result};
use std::panic::Location;

/// Starts a goroutine that calls `handler` with `socket` once a read of it would not block: there
/// is data, an end or an error. Returns at once.
///
/// It is a [`go`](crate::go) whose goroutine has no stack before the data comes. A goroutine that
/// waits in a read keeps at least a page of stack. For many connections that are quiet most of the
/// time, end each handler with another call of this function. Their state is in the closure:
///
/// ```
/// use gopark::net::{UnixStream, on_readable};
/// use std::io::{self, Read, Write};
///
/// /// Answers each message with its number.
/// fn serve(stream: UnixStream, number: u64) -> io::Result<()> {
///     on_readable(stream, move |mut stream| {
///         let mut buffer = [0; 1024];
///         match stream.read(&mut buffer)? {
///             0 => Ok(()), // The end: the drop of the stream closes it.
///             _ => {
///                 write!(stream, "{number}.")?;
///                 serve(stream, number + 1)
///             }
///         }
///     })
/// }
///
/// # fn main() -> io::Result<()> {
/// gopark::run(|| {
///     let (mut client, server) = UnixStream::pair()?;
///     serve(server, 1)?;
///     let mut answer = [0; 2];
///     for expected in [b"1.", b"2."] {
///         client.write_all(b"a message")?;
///         client.read_exact(&mut answer)?;
///         assert_eq!(&answer, expected);
///     }
///     Ok(())
/// })
/// # }
/// ```
///
/// **What starts it.** Beside readiness: the socket's read deadline, or its read timeout, which
/// counts from this call; and [`close`](super::TcpStream::close) on another handle. The first read
/// of `handler` then fails with [`PollError::Timeout`](crate::PollError::Timeout) or
/// [`PollError::Closing`](crate::PollError::Closing). The wait may also end without data, rarely.
/// The first read of `handler` then waits with a stack.
///
/// **Other handles.** Until the goroutine starts, the wait counts as a read in progress: reads
/// through a handle of `try_clone` wait for their turn, and writes do not. The mode of
/// `set_nonblocking` does not count here.
///
/// **Cancels.** As with [`go`](crate::go), the goroutine belongs to no scope and no
/// [`Cancel`](crate::sync::Cancel) of the caller. To end all idle connections of a server, close
/// them, or shut them down.
///
/// **Servers.** A [`Server`](super::Server) counts the connections whose handlers run, for its
/// limit and for its end. A connection that its handler has handed over is no longer among them.
///
/// **Results.** A panic of `handler`, and an error that it returns, are those of a goroutine whose
/// handle was dropped: see [`go`](crate::go) and
/// [`Builder::on_leak`](crate::Builder::on_leak).
///
/// **Memory.** The goroutine gets its stack when it starts. If none is available then, the runtime
/// tries again every 10 ms, and keeps the connection. [`Metrics`](crate::Metrics) counts
/// `idle_connections`, and [`num_goroutines`](crate::num_goroutines) includes them.
///
/// # Errors
///
/// `ResourceBusy` if a read of the socket is in progress. `socket` is dropped on an error. The
/// [module](super) lists the others: if the socket is closed, if the caller is cancelled, or if the
/// poller refuses it.
///
/// # Panics
///
/// If the runtime is not running and cannot be started.
#[track_caller]
pub fn on_readable<S, F, T>(socket: S, handler: F) -> Result<()>
where
    S: Readiness + Send + 'static,
    F: FnOnce(S) -> T + Send + 'static,
    T: Send + 'static,
{
    sched();
    let body = |socket| reporting(|| handler(socket))();
    let site = Location::caller();
    let made = Fd::go_when_readable(socket, SealedReadiness::fd, is_ready, body, site);
    // The drop of the handle detaches the goroutine.
    made.map(drop).map_err(error)
}

fn error(error: FdError) -> Error {
    match error {
        FdError::Os(Errno::EBUSY) => Error::new(
            ErrorKind::ResourceBusy,
            "a read of the socket is in progress, so it is not idle",
        ),
        error => io_error(error),
    }
}
