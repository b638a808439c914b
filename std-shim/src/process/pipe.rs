//! The parent's ends of the pipes to a child.
#![allow(
    unsafe_code,
    reason = "descriptors change their owner, and their numbers are lent"
)]

use super::Stdio;
use crate::builder::{deadline, sched};
use crate::error::io_error;
use crate::net::sealed::SealedReadiness;
use crate::net::{Readiness, zero_duration};
use crate::runtime::duration_nanos;
use gopark_backends::linux::io as sys;
use gopark_backends::linux::stream::set_nonblocking;
use gopark_core::fd::{Fd, FdError, MAX_RW};
use gopark_core::os::{Borrowed, Mode};
use std::fmt;
use std::io::{Read, Result, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::{Duration, Instant};

/// One end of a pipe. Its file is non-blocking, and the child's end of the pipe is another file.
struct Pipe(Fd);

impl Pipe {
    fn new(fd: OwnedFd) -> Self {
        // It fails if `fd` is not open, where reads and writes fail as well.
        let _ = nonblocking(&fd, true);
        // SAFETY: `into_raw_fd` transfers the ownership of the descriptor.
        Pipe(unsafe { Fd::new(sched(), fd.into_raw_fd()) })
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        let len = buffer.len().min(MAX_RW);
        self.0
            .transfer(Mode::Read, len, |fd| sys::read(fd, &mut buffer[..len]))
            .map_err(io_error)
    }

    fn write(&self, buffer: &[u8]) -> Result<usize> {
        let buffer = &buffer[..buffer.len().min(MAX_RW)];
        self.0
            .transfer(Mode::Write, buffer.len(), |fd| sys::write(fd, buffer))
            .map_err(io_error)
    }

    fn write_all(&self, buffer: &[u8]) -> Result<()> {
        self.0
            .transfer_all(buffer.len(), |fd, range| sys::write(fd, &buffer[range]))
            .map_err(|(_, error)| io_error(error))
    }

    fn set_deadline(&self, mode: Mode, when: Option<Instant>) -> Result<()> {
        self.0
            .set_deadline(Some(mode), deadline(when))
            .map_err(io_error)
    }

    fn set_timeout(&self, mode: Mode, limit: Option<Duration>) -> Result<()> {
        if limit == Some(Duration::ZERO) {
            return Err(zero_duration());
        }
        let nanos = limit.map_or(0, duration_nanos);
        self.0.set_timeout(mode, nanos).map_err(io_error)
    }

    /// Borrows the descriptor, and keeps its number taken until `self` is dropped.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `close_keeping_number` closes the file and keeps the number taken.
        match unsafe { self.0.reserve_number(sys::close_keeping_number) } {
            // SAFETY: a reserved number stays taken until the Fd is dropped.
            Ok(fd) => unsafe { BorrowedFd::borrow_raw(fd) },
            Err(error) => panic!("as_fd: {error}: borrow the descriptor before `close`"),
        }
    }

    fn into_blocking(self) -> OwnedFd {
        let raw = match self.0.into_raw() {
            Ok(raw) => raw,
            Err(error) => panic!("{error}: convert the pipe before `close`"),
        };
        // SAFETY: `into_raw` transfers the ownership of the descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        // It cannot fail for an open file.
        let _ = nonblocking(&fd, false);
        fd
    }
}

fn nonblocking(fd: &OwnedFd, on: bool) -> Result<()> {
    // SAFETY: `fd` keeps the descriptor open.
    let borrowed = unsafe { Borrowed::new(fd.as_raw_fd()) };
    set_nonblocking(borrowed, on).map_err(|errno| io_error(FdError::Os(errno)))
}

/// What all ends have.
macro_rules! pipe_end {
    (
        $(#[$doc:meta])*
        $name:ident, $mode:expr, $set_deadline:ident, $set_timeout:ident, $operation:literal,
        $field:ident, $try_it:literal
    ) => {
        $(#[$doc])*
        pub struct $name(Pipe);

        static_assertions::assert_impl_all!($name: Send, Sync, UnwindSafe, RefUnwindSafe);

        // As for sockets.
        impl UnwindSafe for $name {}
        impl RefUnwindSafe for $name {}

        impl $name {
            #[doc = concat!(
                "Sets the time at which each ", $operation, " fails, one under way and all later \
                 ones. `None` removes it.\n\n# Errors\n\nIf the pipe is closed."
            )]
            ///
            /// ```
            /// use gopark::process::{Command, Stdio};
            /// use std::io::{ErrorKind, Read, Write};
            /// use std::time::{Duration, Instant};
            ///
            /// let mut child = Command::new("sleep");
            #[doc = concat!("child.arg(\"3600\").", stringify!($field), "(Stdio::piped());")]
            /// let mut child = child.kill_on_drop(true).spawn()?;
            #[doc = concat!("let mut pipe = child.", stringify!($field), ".take().unwrap();")]
            #[doc = concat!("pipe.", stringify!($set_deadline), "(Some(Instant::now()))?;")]
            #[doc = concat!("let error = ", $try_it, ".unwrap_err();")]
            /// assert_eq!(error.kind(), ErrorKind::TimedOut);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn $set_deadline(&self, when: Option<Instant>) -> Result<()> {
                self.0.set_deadline($mode, when)
            }

            #[doc = concat!(
                "Limits each later ", $operation, ", or with `None` does not. It replaces a \
                 deadline.\n\n# Errors\n\n`InvalidInput` if `limit` is zero. An error if the pipe \
                 is closed."
            )]
            ///
            /// ```
            /// use gopark::process::{Command, Stdio};
            /// use std::io::{ErrorKind, Read, Write};
            /// use std::time::{Duration, Instant};
            ///
            /// let mut child = Command::new("sleep");
            #[doc = concat!("child.arg(\"3600\").", stringify!($field), "(Stdio::piped());")]
            /// let mut child = child.kill_on_drop(true).spawn()?;
            #[doc = concat!("let mut pipe = child.", stringify!($field), ".take().unwrap();")]
            /// let limit = Some(Duration::from_millis(2));
            #[doc = concat!("pipe.", stringify!($set_timeout), "(limit)?;")]
            #[doc = concat!("let error = ", $try_it, ".unwrap_err();")]
            /// assert_eq!(error.kind(), ErrorKind::TimedOut);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn $set_timeout(&self, limit: Option<Duration>) -> Result<()> {
                self.0.set_timeout($mode, limit)
            }

            #[doc = concat!(
                "Closes this end of the pipe, and ends a ", $operation, " that waits with \
                 [`PollError::Closing`](crate::PollError::Closing).\n\n# Errors\n\nIf it is closed \
                 already."
            )]
            ///
            /// ```
            /// use gopark::process::{Command, Stdio};
            /// use std::io::{ErrorKind, Read, Write};
            /// use std::time::{Duration, Instant};
            ///
            /// let mut child = Command::new("sleep");
            #[doc = concat!("child.arg(\"3600\").", stringify!($field), "(Stdio::piped());")]
            /// let mut child = child.kill_on_drop(true).spawn()?;
            #[doc = concat!("let mut pipe = child.", stringify!($field), ".take().unwrap();")]
            /// pipe.close()?;
            #[doc = concat!("let error = ", $try_it, ".unwrap_err();")]
            /// assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn close(&self) -> Result<()> {
                self.0.0.close().map_err(io_error)
            }
        }

        impl SealedReadiness for $name {
            fn fd(&self) -> &Fd {
                &self.0.0
            }
        }
        impl Readiness for $name {}

        /// Borrows the descriptor, which is non-blocking. The number stays taken until the value
        /// is dropped.
        ///
        /// # Panics
        ///
        /// If it was closed with `close`.
        impl AsFd for $name {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.0.as_fd()
            }
        }

        impl AsRawFd for $name {
            fn as_raw_fd(&self) -> RawFd {
                self.0.0.raw()
            }
        }

        /// Makes the file non-blocking.
        ///
        /// # Panics
        ///
        /// If the runtime is not running and cannot be started.
        impl From<OwnedFd> for $name {
            fn from(fd: OwnedFd) -> Self {
                $name(Pipe::new(fd))
            }
        }

        /// As for `OwnedFd`.
        impl From<std::process::$name> for $name {
            fn from(pipe: std::process::$name) -> Self {
                OwnedFd::from(pipe).into()
            }
        }

        /// Takes the pipe out of the runtime and makes it blocking.
        ///
        /// # Panics
        ///
        /// If it was closed with `close`.
        impl From<$name> for OwnedFd {
            fn from(pipe: $name) -> Self {
                pipe.0.into_blocking()
            }
        }

        /// Makes the pipe a standard stream of another child, and blocking.
        ///
        /// # Panics
        ///
        /// If it was closed with `close`.
        impl From<$name> for Stdio {
            fn from(pipe: $name) -> Self {
                OwnedFd::from(pipe).into()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("fd", &self.as_raw_fd())
                    .finish()
            }
        }
    };
}

pipe_end! {
    /// The pipe to the standard input of a child: [`std::process::ChildStdin`]. A write parks while
    /// the pipe is full. Dropping it lets the child read the end of its input.
    ///
    /// It can be an arm `writable` of [`select!`](crate::select!).
    ChildStdin, Mode::Write, set_write_deadline, set_write_timeout, "write",
    stdin, "pipe.write_all(&[0; 1 << 20])"
}

pipe_end! {
    /// The pipe from the standard output of a child: [`std::process::ChildStdout`]. A read parks
    /// while the pipe is empty.
    ///
    /// It can be an arm `readable` of [`select!`](crate::select!).
    ChildStdout, Mode::Read, set_read_deadline, set_read_timeout, "read",
    stdout, "pipe.read(&mut [0])"
}

pipe_end! {
    /// The pipe from the standard error of a child: [`std::process::ChildStderr`]. As
    /// [`ChildStdout`].
    ChildStderr, Mode::Read, set_read_deadline, set_read_timeout, "read",
    stderr, "pipe.read(&mut [0])"
}

/// `write_all` writes everything, without bytes of other writers of this end in between.
impl Write for &ChildStdin {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        self.0.write(buf)
    }

    fn write_all(&mut self, buf: &[u8]) -> Result<()> {
        self.0.write_all(buf)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// As for `&ChildStdin`.
impl Write for ChildStdin {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        self.0.write(buf)
    }

    fn write_all(&mut self, buf: &[u8]) -> Result<()> {
        self.0.write_all(buf)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

macro_rules! read {
    ($($end:ty),*) => {$(
        impl Read for $end {
            fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
                self.0.read(buf)
            }
        }
    )*};
}

read!(ChildStdout, &ChildStdout, ChildStderr, &ChildStderr);

/// Reads both streams to their ends, whichever has data.
pub(super) fn read_both(
    out: Option<ChildStdout>,
    err: Option<ChildStderr>,
) -> Result<(Vec<u8>, Vec<u8>)> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    match (out, err) {
        (Some(out), Some(err)) => read_until_one_ends(out, &mut stdout, err, &mut stderr)?,
        (out, err) => {
            read_rest(out, &mut stdout)?;
            read_rest(err, &mut stderr)?;
        }
    }
    Ok((stdout, stderr))
}

fn read_until_one_ends(
    mut out: ChildStdout,
    stdout: &mut Vec<u8>,
    mut err: ChildStderr,
    stderr: &mut Vec<u8>,
) -> Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        crate::select! {
            readable(out) -> ready => {
                ready?;
                if append(&mut out, &mut piece, stdout)? == 0 {
                    return read_rest(Some(err), stderr);
                }
            }
            readable(err) -> ready => {
                ready?;
                if append(&mut err, &mut piece, stderr)? == 0 {
                    return read_rest(Some(out), stdout);
                }
            }
        }
    }
}

/// The capacity of a pipe in Linux, in bytes.
const PIECE: usize = 64 * 1024;

fn append(from: &mut impl Read, piece: &mut [u8], to: &mut Vec<u8>) -> Result<usize> {
    let n = from.read(piece)?;
    to.extend_from_slice(&piece[..n]);
    Ok(n)
}

fn read_rest(from: Option<impl Read>, to: &mut Vec<u8>) -> Result<()> {
    from.map_or(Ok(0), |mut from| from.read_to_end(to))
        .map(|_| ())
}
