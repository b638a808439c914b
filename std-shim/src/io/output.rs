//! Standard output and error.
#![allow(unsafe_code, reason = "the C library is given a function to call")]

use super::stream::{EXITING, STDERR, STDOUT, Stream};
use crate::sync::{Mutex, MutexGuard};
use std::fmt::{self, Arguments};
use std::io::{IoSlice, LineWriter, Result, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{OnceLock, PoisonError};
use std::time::Instant;

type Buffer = Mutex<LineWriter<&'static Stream>>;

static BUFFER: OnceLock<Buffer> = OnceLock::new();

static UNBUFFERED: Mutex<&'static Stream> = Mutex::new(&STDERR);

/// Returns the standard output of the process.
///
/// ```
/// use std::io::Write;
///
/// writeln!(gopark::io::stdout(), "hello")?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn stdout() -> Stdout {
    let first = || {
        // SAFETY: `flush_at_exit` exists for the life of the process, and does not unwind. If it is
        // not registered, the rest of the buffer is lost, as in a process that is killed.
        unsafe { libc::atexit(flush_at_exit) };
        Mutex::new(LineWriter::new(&STDOUT))
    };
    Stdout {
        buffer: BUFFER.get_or_init(first),
    }
}

/// Writes what is left in the buffer, unless a goroutine or thread has the output locked.
extern "C" fn flush_at_exit() {
    EXITING.store(true, Ordering::Relaxed);
    if let Some(Ok(mut buffer)) = BUFFER.get().map(Mutex::try_lock) {
        let _ = buffer.flush();
    }
}

/// Returns the standard error of the process. It is not buffered.
///
/// ```
/// use std::io::Write;
///
/// writeln!(gopark::io::stderr(), "warning")?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn stderr() -> Stderr {
    Stderr {
        buffer: &UNBUFFERED,
    }
}

macro_rules! output {
    (
        $(#[$doc:meta])* $name:ident, $(#[$lock_doc:meta])* $lock:ident,
        $inner:ty, $stream:ident, $number:literal, $function:literal
    ) => {
        $(#[$doc])*
        pub struct $name {
            buffer: &'static Mutex<$inner>,
        }

        static_assertions::assert_impl_all!($name: Send, Sync);

        $(#[$lock_doc])*
        pub struct $lock<'a> {
            buffer: MutexGuard<'a, $inner>,
        }

        impl $name {
            /// Locks it for several operations. Waits while another goroutine or thread has it
            /// locked.
            ///
            /// ```
            /// use std::io::Write;
            ///
            #[doc = concat!("let mut out = gopark::io::", $function, "().lock();")]
            /// writeln!(out, "two lines")?;
            /// writeln!(out, "that stay together")?;
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn lock(&self) -> $lock<'static> {
                $lock {
                    buffer: self.buffer.lock().unwrap_or_else(PoisonError::into_inner),
                }
            }

            /// Sets the time at which writes that wait for room fail, those under way and all later
            /// ones. `None` removes it. Writes to a regular file do not fail by it.
            ///
            /// # Errors
            ///
            /// None at present.
            ///
            /// ```
            /// use std::time::{Duration, Instant};
            ///
            /// let soon = Instant::now() + Duration::from_secs(1);
            #[doc = concat!("gopark::io::", $function, "().set_write_deadline(Some(soon))?;")]
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn set_write_deadline(&self, when: Option<Instant>) -> Result<()> {
                $stream.set_deadline(when)
            }
        }

        /// `write_all` and `write!` write everything without bytes of other goroutines in between.
        impl Write for &$name {
            fn write(&mut self, buf: &[u8]) -> Result<usize> {
                self.lock().write(buf)
            }

            fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> Result<usize> {
                self.lock().write_vectored(bufs)
            }

            fn write_all(&mut self, buf: &[u8]) -> Result<()> {
                self.lock().write_all(buf)
            }

            fn write_fmt(&mut self, text: Arguments<'_>) -> Result<()> {
                self.lock().write_fmt(text)
            }

            fn flush(&mut self) -> Result<()> {
                self.lock().flush()
            }
        }

        #[doc = concat!("As for `&", stringify!($name), "`.")]
        impl Write for $name {
            fn write(&mut self, buf: &[u8]) -> Result<usize> {
                (&*self).write(buf)
            }

            fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> Result<usize> {
                (&*self).write_vectored(bufs)
            }

            fn write_all(&mut self, buf: &[u8]) -> Result<()> {
                (&*self).write_all(buf)
            }

            fn write_fmt(&mut self, text: Arguments<'_>) -> Result<()> {
                (&*self).write_fmt(text)
            }

            fn flush(&mut self) -> Result<()> {
                (&*self).flush()
            }
        }

        impl Write for $lock<'_> {
            fn write(&mut self, buf: &[u8]) -> Result<usize> {
                self.buffer.write(buf)
            }

            fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> Result<usize> {
                self.buffer.write_vectored(bufs)
            }

            fn write_all(&mut self, buf: &[u8]) -> Result<()> {
                self.buffer.write_all(buf)
            }

            fn flush(&mut self) -> Result<()> {
                self.buffer.flush()
            }
        }

        #[doc = concat!("Descriptor ", $number, ".")]
        impl AsFd for $name {
            fn as_fd(&self) -> BorrowedFd<'_> {
                $stream.as_fd()
            }
        }

        #[doc = concat!("Descriptor ", $number, ".")]
        impl AsRawFd for $name {
            fn as_raw_fd(&self) -> RawFd {
                $stream.as_fd().as_raw_fd()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }

        impl fmt::Debug for $lock<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($lock)).finish_non_exhaustive()
            }
        }
    };
}

output! {
    /// Standard output: [`std::io::Stdout`]. All handles share one buffer, which is written at the
    /// end of each line.
    Stdout,
    /// Standard output, locked: [`std::io::StdoutLock`].
    StdoutLock, LineWriter<&'static Stream>, STDOUT, "1", "stdout"
}

output! {
    /// Standard error: [`std::io::Stderr`].
    Stderr,
    /// Standard error, locked: [`std::io::StderrLock`].
    StderrLock, &'static Stream, STDERR, "2", "stderr"
}
