//! `Stream`: one of the standard streams, whose file other processes share.
#![allow(unsafe_code, reason = "descriptors 0 to 2 are borrowed by number")]

use crate::builder::sched_if_running;
use crate::error::io_error;
use crate::goroutine::{blocking, yield_now};
use crate::net::Descriptor;
use gopark_backends::linux::io as sys;
use gopark_backends::linux::stream::{StreamKind, kind};
use gopark_core::fd::{FdError, MAX_RW};
use gopark_core::os::{Borrowed, Errno, Mode, Outcome};
use gopark_core::polldesc::PollError;
use std::io::{ErrorKind, Read, Result, Write};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Bytes per write to a pipe: `PIPE_BUF`. A pipe that poll(2) reports writable takes this many
/// without blocking, unless another process fills it first.
const CHUNK: usize = 4096;

/// Bytes. A write to a regular file of at most this size is made at once: it is a copy into the
/// page cache, which takes less time than the way to the pool.
const IN_PLACE: usize = 64 << 10;

/// Set when the process ends. Writes then block the thread, because the runtime's threads may be
/// busy.
pub(super) static EXITING: AtomicBool = AtomicBool::new(false);

/// A standard stream. Its operations come one after another: the callers hold its lock.
pub(super) struct Stream {
    fd: RawFd,
    mode: Mode,
    limit: Mutex<Limit>,
}

struct Limit {
    deadline: Option<Instant>,
    /// The wait under way, which a new deadline reaches.
    waiting: Option<Arc<Descriptor<OwnedFd>>>,
}

pub(super) static STDIN: Stream = Stream::new(libc::STDIN_FILENO, Mode::Read);
pub(super) static STDOUT: Stream = Stream::new(libc::STDOUT_FILENO, Mode::Write);
pub(super) static STDERR: Stream = Stream::new(libc::STDERR_FILENO, Mode::Write);

impl Stream {
    const fn new(fd: RawFd, mode: Mode) -> Self {
        Stream {
            fd,
            mode,
            limit: Mutex::new(Limit {
                deadline: None,
                waiting: None,
            }),
        }
    }

    /// The descriptor. As `std` does, this crate relies on the program to keep the three standard
    /// descriptors for these streams.
    pub(super) fn as_fd(&self) -> BorrowedFd<'static> {
        // SAFETY: as for the streams of `std`.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }

    fn borrow(&self) -> Borrowed<'static> {
        // SAFETY: as in `as_fd`. A number that is not open is an error of each call.
        unsafe { Borrowed::new(self.fd) }
    }

    fn limit(&self) -> MutexGuard<'_, Limit> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_deadline(&self, when: Option<Instant>) -> Result<()> {
        let mut limit = self.limit();
        limit.deadline = when;
        match &limit.waiting {
            Some(waiting) => waiting.set_deadline(when),
            None => Ok(()),
        }
    }

    /// Repeats `call` until it does not block. Waits before each call until the file is ready.
    fn operate(&self, mut call: impl FnMut(StreamKind) -> Outcome<usize>) -> Result<usize> {
        let kind = match kind(self.borrow()) {
            Ok(kind) => kind,
            Err(errno) => return system_error(errno),
        };
        loop {
            self.wait(kind)?;
            match call(kind) {
                Outcome::Done(n) => return Ok(n),
                Outcome::Failed(errno) => return system_error(errno),
                // Another reader or writer of the file was faster.
                Outcome::WouldBlock => yield_now(),
                Outcome::Interrupted => {}
            }
        }
    }

    fn wait(&self, kind: StreamKind) -> Result<()> {
        if kind == StreamKind::File {
            return Ok(());
        }
        let past = |when: Instant| when <= Instant::now();
        if self.limit().deadline.is_some_and(past) {
            return Err(io_error(FdError::Poll(PollError::Timeout)));
        }
        if sys::is_ready(self.borrow(), self.mode) {
            return Ok(());
        }
        let descriptor = Arc::new(Descriptor::new(duplicate(self.as_fd())?)?);
        {
            let mut limit = self.limit();
            descriptor.set_deadline(limit.deadline)?;
            limit.waiting = Some(descriptor.clone());
        }
        let _end = EndOfWait(self);
        match self.mode {
            Mode::Read => descriptor.readable(),
            Mode::Write => descriptor.writable(),
        }
    }

    /// As `std`, it reads the end of the input if the descriptor is closed.
    fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        let len = buffer.len().min(MAX_RW);
        let buffer = &mut buffer[..len];
        self.operate(|kind| match kind {
            StreamKind::File => on_pool(|| sys::read(self.borrow(), buffer)),
            StreamKind::Socket => sys::recv(self.borrow(), buffer),
            _ => sys::read(self.borrow(), buffer),
        })
        .or_else(|error| match error.raw_os_error() {
            Some(libc::EBADF) => Ok(0),
            _ => Err(error),
        })
    }

    /// As `std`, it discards the output if the descriptor is closed.
    fn write(&self, buffer: &[u8]) -> Result<usize> {
        let piece = |len: usize| &buffer[..buffer.len().min(len)];
        if EXITING.load(Ordering::Relaxed) {
            return self.write_at_exit(piece(MAX_RW));
        }
        self.operate(|kind| match kind {
            // As much as the page cache takes at once.
            StreamKind::File if buffer.len() <= IN_PLACE => sys::write(self.borrow(), buffer),
            StreamKind::File => on_pool(|| sys::write(self.borrow(), piece(MAX_RW))),
            StreamKind::Terminal => on_pool(|| sys::write(self.borrow(), piece(CHUNK))),
            StreamKind::Socket => sys::send(self.borrow(), piece(MAX_RW)),
            StreamKind::Pipe | StreamKind::Other => sys::write(self.borrow(), piece(CHUNK)),
        })
        .or_else(|error| match error.raw_os_error() {
            Some(libc::EBADF) => Ok(buffer.len()),
            _ => Err(error),
        })
    }

    fn write_at_exit(&self, buffer: &[u8]) -> Result<usize> {
        loop {
            match sys::write(self.borrow(), buffer) {
                Outcome::Done(n) => return Ok(n),
                Outcome::Failed(errno) => return system_error(errno),
                Outcome::WouldBlock => return Err(ErrorKind::WouldBlock.into()),
                Outcome::Interrupted => {}
            }
        }
    }
}

/// Ends the wait of a stream, also when the goroutine unwinds.
struct EndOfWait<'a>(&'a Stream);

impl Drop for EndOfWait<'_> {
    fn drop(&mut self) {
        let ended = self.0.limit().waiting.take();
        // Outside the lock: its descriptor is closed.
        drop(ended);
    }
}

/// Never inlined: it reads errno. See `Socket::with`.
#[inline(never)]
fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned()
}

/// Runs `call` on a thread of the pool, or here if no runtime runs.
fn on_pool(call: impl FnOnce() -> Outcome<usize> + Send) -> Outcome<usize> {
    match sched_if_running() {
        Some(_) => blocking(call),
        None => call(),
    }
}

fn system_error(errno: Errno) -> Result<usize> {
    Err(io_error(FdError::Os(errno)))
}

impl Read for &Stream {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        Stream::read(self, buf)
    }
}

impl Write for &Stream {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        Stream::write(self, buf)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
