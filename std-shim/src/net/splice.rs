//! Moving bytes from socket to socket inside the kernel: `splice(2)` through a pipe.
//!
//! The pipe is empty when bytes are moved into it, and holds bytes when they are moved out. So an
//! `EAGAIN` always comes from the socket, and `Fd` waits for the right one.
//!
//! A wait for data needs no pipe: it goes back to the [`POOL`] before the goroutine parks. So
//! thousands of idle connections share a few pipes.

use crate::error::io_error;
use crate::runtime::started;
use gopark_backends::linux::file::{KernelPipe, splice};
use gopark_backends::linux::io as sys;
use gopark_core::fd::{Fd, FdError};
use gopark_core::os::{Borrowed, Errno, Mode, Outcome};
use std::io::{Error, ErrorKind, Result};
use std::sync::Mutex;

/// Bytes in a pipe: the most that the system permits to all users (`/proc/sys/fs/pipe-max-size`).
const CAPACITY: usize = 1 << 20;

/// Pipes that are kept when no splice uses them. An empty pipe takes two descriptors and 10 KiB.
const SPARE: usize = 16;

/// Bytes that are moved at once where the kernel cannot splice.
const BUFFER: usize = 64 << 10;

static POOL: Mutex<Vec<KernelPipe>> = Mutex::new(Vec::new());

/// How many bytes arrived at the sink, and how it ended: at the end of the source or the limit, or
/// with an error.
pub(crate) type Moved = (u64, Result<()>);

/// A pipe from the pool, made when it is first used.
#[derive(Default)]
pub(crate) struct Spliced {
    pipe: Option<KernelPipe>,
    /// Bytes in the pipe.
    held: usize,
}

impl Spliced {
    /// Moves up to `limit` bytes from a socket into the empty pipe, after waiting for data. Returns
    /// how many: 0 at the end of the stream.
    pub(crate) fn fill(&mut self, from: &Fd, limit: u64) -> std::result::Result<usize, FdError> {
        let filled = from.operate(Mode::Read, |fd| {
            let pipe = match self.pipe() {
                Ok(pipe) => pipe,
                Err(errno) => return Outcome::Failed(errno),
            };
            let len = limit.min(pipe.capacity() as u64) as usize;
            let outcome = splice(fd, pipe.writer(), len);
            if outcome == Outcome::WouldBlock {
                self.give_back();
            }
            outcome
        })?;
        self.held = filled;
        Ok(filled)
    }

    fn pipe(&mut self) -> std::result::Result<&KernelPipe, Errno> {
        if self.pipe.is_none() {
            // A child made by `fork` would share the pipes of its parent.
            let spare = started().and_then(|_| POOL.try_lock().ok()?.pop());
            self.pipe = Some(spare.map_or_else(|| KernelPipe::new(CAPACITY), Ok)?);
        }
        self.pipe.as_ref().ok_or(Errno::new(libc::EBADF))
    }

    /// Moves the bytes in the pipe to a socket, after waiting for room. Returns how many arrived.
    pub(crate) fn drain(&mut self, to: &Fd) -> (u64, std::result::Result<(), FdError>) {
        let before = self.held;
        let ended = loop {
            let (Some(pipe), 1..) = (&self.pipe, self.held) else {
                break Ok(());
            };
            match to.operate(Mode::Write, |fd| splice(pipe.reader(), fd, self.held)) {
                // No bytes and no error: retrying could go on without end.
                Ok(0) => break Err(FdError::Os(Errno::EIO)),
                Ok(n) => self.held -= n,
                Err(error) => break Err(error),
            }
        };
        ((before - self.held) as u64, ended)
    }

    /// Offers the bytes in the pipe to `splice` until it has taken all. Returns how many.
    pub(crate) fn drain_with(
        &mut self,
        mut splice: impl FnMut(Borrowed<'_>, usize) -> Outcome<usize>,
    ) -> (u64, Result<()>) {
        let before = self.held;
        let ended = loop {
            let (Some(pipe), 1..) = (&self.pipe, self.held) else {
                break Ok(());
            };
            match splice(pipe.reader(), self.held) {
                Outcome::Done(0) => break Err(io_error(FdError::Os(Errno::EIO))),
                Outcome::Done(n) => self.held -= n,
                Outcome::Interrupted => {}
                Outcome::WouldBlock => break Err(ErrorKind::WouldBlock.into()),
                Outcome::Failed(errno) => break Err(io_error(FdError::Os(errno))),
            }
        };
        ((before - self.held) as u64, ended)
    }

    /// Takes the bytes out of the pipe, for a sink that the kernel cannot splice to.
    pub(crate) fn take(&mut self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.held];
        let mut len = 0;
        self.drain_with(|pipe, _| {
            let outcome = sys::read(pipe, &mut bytes[len..]);
            if let Outcome::Done(n) = outcome {
                len += n;
            }
            outcome
        })
        .1?;
        Ok(bytes)
    }

    /// Gives an empty pipe back to the pool.
    fn give_back(&mut self) {
        let Some(pipe) = self.pipe.take() else {
            return;
        };
        if self.held == 0 && started().is_some() {
            if let Ok(mut pool) = POOL.try_lock() {
                if pool.len() < SPARE {
                    pool.push(pipe);
                }
            }
        }
    }
}

/// A pipe with bytes of a broken connection is closed.
impl Drop for Spliced {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Whether the kernel cannot do it with these files, or has no descriptors for a pipe, so that a
/// loop has to. `EBADF`: copy_file_range(2) refuses files that are open to append.
pub(crate) fn is_unsupported(errno: Errno) -> bool {
    matches!(
        errno.raw(),
        libc::EINVAL
            | libc::ENOSYS
            | libc::EOPNOTSUPP
            | libc::EPERM
            | libc::EXDEV
            | libc::EBADF
            | libc::EMFILE
            | libc::ENFILE
    )
}

/// Moves up to `limit` bytes from socket to socket.
pub(crate) fn relay(from: &Fd, to: &Fd, limit: u64) -> Moved {
    let mut spliced = Spliced::default();
    let mut done = 0;
    while done < limit {
        match spliced.fill(from, limit - done) {
            Ok(0) => break,
            Ok(_) => {}
            Err(FdError::Os(errno)) if is_unsupported(errno) => {
                let (rest, ended) = relay_copying(from, to, limit - done);
                return (done + rest, ended);
            }
            Err(error) => return (done, Err(io_error(error))),
        }
        let (n, ended) = spliced.drain(to);
        done += n;
        if let Err(error) = ended {
            return (done, Err(io_error(error)));
        }
    }
    (done, Ok(()))
}

/// The same through a buffer.
fn relay_copying(from: &Fd, to: &Fd, limit: u64) -> Moved {
    let read = |buffer: &mut [u8]| {
        from.transfer(Mode::Read, buffer.len(), |fd| sys::recv(fd, buffer))
            .map_err(io_error)
    };
    let write = |data: &[u8]| {
        to.transfer(Mode::Write, data.len(), |fd| sys::send(fd, data))
            .map_err(io_error)
    };
    copy_through_buffer(read, write, limit)
}

/// Moves up to `limit` bytes from `read` to `write`.
pub(crate) fn copy_through_buffer(
    mut read: impl FnMut(&mut [u8]) -> Result<usize>,
    mut write: impl FnMut(&[u8]) -> Result<usize>,
    limit: u64,
) -> Moved {
    let mut buffer = vec![0; limit.min(BUFFER as u64) as usize];
    let mut done = 0;
    while done < limit {
        let len = (limit - done).min(buffer.len() as u64) as usize;
        let n = match read(&mut buffer[..len]) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return (done, Err(error)),
        };
        let (written, ended) = write_whole(&mut write, &buffer[..n]);
        done += written;
        if ended.is_err() {
            return (done, ended);
        }
    }
    (done, Ok(()))
}

/// Writes all of `data`. Returns how many bytes.
pub(crate) fn write_whole(write: &mut impl FnMut(&[u8]) -> Result<usize>, data: &[u8]) -> Moved {
    let mut done = 0;
    while done < data.len() {
        match write(&data[done..]) {
            Ok(0) => return (done as u64, Err(Error::from(ErrorKind::WriteZero))),
            Ok(n) => done += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (done as u64, Err(error)),
        }
    }
    (done as u64, Ok(()))
}
