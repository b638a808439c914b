//! Standard input.

use super::stream::{STDIN, Stream};
use crate::sync::{Mutex, MutexGuard};
use std::fmt;
use std::io::{BufRead, BufReader, IoSliceMut, Lines, Read, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{OnceLock, PoisonError};
use std::time::Instant;

type Buffer = Mutex<BufReader<&'static Stream>>;

/// Returns the standard input of the process.
///
/// ```no_run
/// # fn main() -> std::io::Result<()> {
/// gopark::run(|| {
///     for line in gopark::io::stdin().lines() {
///         println!("{}", line?.to_uppercase());
///     }
///     Ok(())
/// })
/// # }
/// ```
pub fn stdin() -> Stdin {
    static BUFFER: OnceLock<Buffer> = OnceLock::new();
    Stdin {
        buffer: BUFFER.get_or_init(|| Mutex::new(BufReader::new(&STDIN))),
    }
}

/// Standard input: [`std::io::Stdin`]. All handles share one buffer.
///
/// A goroutine that waits for input has it locked. Each method locks it for one operation.
pub struct Stdin {
    buffer: &'static Buffer,
}

static_assertions::assert_impl_all!(Stdin: Send, Sync);

/// Standard input, locked: [`std::io::StdinLock`].
pub struct StdinLock<'a> {
    buffer: MutexGuard<'a, BufReader<&'static Stream>>,
}

impl Stdin {
    /// Locks standard input for several operations. Waits while another goroutine or thread has it
    /// locked.
    ///
    /// ```no_run
    /// use std::io::BufRead;
    ///
    /// let mut stdin = gopark::io::stdin().lock();
    /// let (mut first, mut second) = (String::new(), String::new());
    /// stdin.read_line(&mut first)?;
    /// stdin.read_line(&mut second)?; // The line after it, even if other goroutines read.
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn lock(&self) -> StdinLock<'static> {
        StdinLock {
            buffer: self.buffer.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Reads a line, with its end, and appends it to `buf`. Returns the number of bytes, 0 at the
    /// end of the input.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the line is not UTF-8. [`PollError::Timeout`](crate::PollError::Timeout)
    /// and [`PollError::Cancelled`](crate::PollError::Cancelled): what was read of the line by then
    /// is in `buf`, if it is UTF-8.
    ///
    /// ```no_run
    /// let mut line = String::new();
    /// gopark::io::stdin().read_line(&mut line)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn read_line(&self, buf: &mut String) -> Result<usize> {
        self.lock().read_line(buf)
    }

    /// Locks standard input and returns its lines, without their ends.
    ///
    /// ```no_run
    /// let count = gopark::io::stdin().lines().count();
    /// ```
    pub fn lines(self) -> Lines<StdinLock<'static>> {
        self.lock().lines()
    }

    /// Sets the time at which reads that wait for input fail, those under way and all later ones.
    /// `None` removes it. Input that is in the buffer is read nevertheless, and so is a regular
    /// file.
    ///
    /// # Errors
    ///
    /// None at present.
    ///
    /// ```no_run
    /// use std::io::ErrorKind;
    /// use std::time::{Duration, Instant};
    ///
    /// let stdin = gopark::io::stdin();
    /// stdin.set_read_deadline(Some(Instant::now() + Duration::from_secs(10)))?;
    /// match stdin.read_line(&mut String::new()) {
    ///     Err(error) if error.kind() == ErrorKind::TimedOut => println!("no answer"),
    ///     result => println!("{result:?}"),
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_read_deadline(&self, when: Option<Instant>) -> Result<()> {
        STDIN.set_deadline(when)
    }
}

impl Read for &Stdin {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.lock().read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> Result<usize> {
        self.lock().read_vectored(bufs)
    }

    fn read_to_end(&mut self, buf: &mut Vec<u8>) -> Result<usize> {
        self.lock().read_to_end(buf)
    }

    fn read_to_string(&mut self, buf: &mut String) -> Result<usize> {
        self.lock().read_to_string(buf)
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> Result<()> {
        self.lock().read_exact(buf)
    }
}

/// As for `&Stdin`.
impl Read for Stdin {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        (&*self).read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> Result<usize> {
        (&*self).read_vectored(bufs)
    }

    fn read_to_end(&mut self, buf: &mut Vec<u8>) -> Result<usize> {
        (&*self).read_to_end(buf)
    }

    fn read_to_string(&mut self, buf: &mut String) -> Result<usize> {
        (&*self).read_to_string(buf)
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> Result<()> {
        (&*self).read_exact(buf)
    }
}

impl Read for StdinLock<'_> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.buffer.read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> Result<usize> {
        self.buffer.read_vectored(bufs)
    }
}

impl BufRead for StdinLock<'_> {
    fn fill_buf(&mut self) -> Result<&[u8]> {
        self.buffer.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.buffer.consume(n);
    }
}

/// Descriptor 0.
impl AsFd for Stdin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        STDIN.as_fd()
    }
}

/// Descriptor 0.
impl AsRawFd for Stdin {
    fn as_raw_fd(&self) -> RawFd {
        STDIN.as_fd().as_raw_fd()
    }
}

impl fmt::Debug for Stdin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stdin").finish_non_exhaustive()
    }
}

impl fmt::Debug for StdinLock<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdinLock").finish_non_exhaustive()
    }
}
