//! [`proxy`].

use super::splice::relay;
use super::{Shutdown, TcpStream};
use crate::scope::try_scope;
use gopark_core::fd::Fd;
use std::io::{ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A connection that [`proxy`] can serve: a [`TcpStream`].
///
/// The trait is sealed.
pub trait Connection: sealed::SealedConnection {}

mod sealed {
    use super::{Fd, Result};

    pub trait SealedConnection: Sync {
        #[doc(hidden)]
        fn descriptor(&self) -> &Fd;

        /// Shuts down writing.
        #[doc(hidden)]
        fn finish(&self) -> Result<()>;
    }
}

impl sealed::SealedConnection for TcpStream {
    fn descriptor(&self) -> &Fd {
        self.socket.fd()
    }

    fn finish(&self) -> Result<()> {
        self.shutdown(Shutdown::Write)
    }
}
impl Connection for TcpStream {}

impl<C: Connection> sealed::SealedConnection for &C {
    fn descriptor(&self) -> &Fd {
        C::descriptor(self)
    }

    fn finish(&self) -> Result<()> {
        C::finish(self)
    }
}
impl<C: Connection> Connection for &C {}

impl<C: Connection + Send> sealed::SealedConnection for Arc<C> {
    fn descriptor(&self) -> &Fd {
        C::descriptor(self)
    }

    fn finish(&self) -> Result<()> {
        C::finish(self)
    }
}
impl<C: Connection + Send> Connection for Arc<C> {}

/// Moves bytes between two connections, in both directions, until both have ended. Returns how many
/// it moved from `a` to `b`, and from `b` to `a`.
///
/// The bytes do not leave the kernel, as in [`io::copy`](crate::io::copy()). The end of one stream
/// is passed on: at the end of `a`, writing to `b` is shut down, and the other direction goes on.
/// The caller moves one direction, and a goroutine the other.
///
/// Deadlines of both connections apply, and a cancel of the caller ends it. Afterwards the
/// connections are still open.
///
/// # Errors
///
/// An error in one direction ends the other one, and is returned. How much was moved is then not
/// known: use [`io::copy`](crate::io::copy()) in two goroutines if it matters.
///
/// ```
/// use gopark::net::{TcpListener, TcpStream, proxy};
/// use std::io::{Read, Write};
/// use std::net::Shutdown;
///
/// # fn main() -> std::io::Result<()> {
/// gopark::run(|| {
///     let (front, back) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
///     let (front_addr, back_addr) = (front.local_addr()?, back.local_addr()?);
///     let server = gopark::go(move || proxy(&front.accept()?.0, &TcpStream::connect(back_addr)?));
///
///     let mut client = TcpStream::connect(front_addr)?;
///     client.write_all(b"question")?;
///     client.shutdown(Shutdown::Write)?;
///     let (mut origin, _) = back.accept()?;
///     let mut question = String::new();
///     origin.read_to_string(&mut question)?;
///     origin.write_all(b"yes")?;
///     drop(origin);
///
///     let mut answer = String::new();
///     client.read_to_string(&mut answer)?;
///     assert_eq!((question.as_str(), answer.as_str()), ("question", "yes"));
///     assert_eq!(server.join().unwrap()?, (8, 3));
///     Ok(())
/// })
/// # }
/// ```
#[track_caller]
pub fn proxy<A: Connection, B: Connection>(a: &A, b: &B) -> Result<(u64, u64)> {
    let back = AtomicU64::new(0);
    let there = try_scope(|scope| {
        scope.go(|| serve(b, a).map(|moved| back.store(moved, Ordering::Relaxed)));
        serve(a, b)
    })?;
    Ok((there, back.into_inner()))
}

/// Moves one direction. Returns how many bytes.
fn serve(from: &impl Connection, to: &impl Connection) -> Result<u64> {
    let (moved, ended) = relay(from.descriptor(), to.descriptor(), u64::MAX);
    ended?;
    match to.finish() {
        // The connection has ended by itself.
        Err(error) if error.kind() != ErrorKind::NotConnected => Err(error),
        _ => Ok(moved),
    }
}
