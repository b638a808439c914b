//! [`copy()`].

use crate::cancel::{Cancelled, check_cancel};
use crate::error::io_error;
use crate::fs::File;
use crate::net::splice::{Moved, Spliced, copy_through_buffer, is_unsupported, relay, write_whole};
use crate::net::{Pipe, TcpStream, UnixStream};
use crate::process::{ChildStderr, ChildStdin, ChildStdout};
use gopark_backends::linux::file::{copy_file_range, sendfile, splice};
use gopark_core::fd::{Fd, FdError};
use gopark_core::os::{Mode, Outcome};
use gopark_core::polldesc::PollError;
use std::error;
use std::fmt;
use std::io::{self, Error, Read, Write};
use std::sync::Arc;

/// The most bytes that one `sendfile` moves: about what a socket takes at once.
const SENDFILE: usize = 256 << 10;

/// The most bytes that one `copy_file_range` moves. A cancel waits for it.
const FILE_RANGE: usize = 16 << 20;

/// What [`copy()`] reads from: a [`TcpStream`], a [`UnixStream`], a [`File`], a [`Pipe`], the
/// output of a child, or a reference to one.
///
/// The trait is sealed.
pub trait CopyFrom: sealed::SealedFrom {}

/// What [`copy()`] writes to: a [`TcpStream`], a [`UnixStream`], a [`File`], a [`Pipe`], the input
/// of a child, or a reference to one.
///
/// The trait is sealed.
pub trait CopyTo: sealed::SealedTo {}

mod sealed {
    use super::{Kind, io};

    pub trait SealedFrom {
        #[doc(hidden)]
        fn kind(&self) -> Kind<'_>;

        #[doc(hidden)]
        fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;
    }

    pub trait SealedTo {
        #[doc(hidden)]
        fn kind(&self) -> Kind<'_>;

        #[doc(hidden)]
        fn write(&self, data: &[u8]) -> io::Result<usize>;
    }
}

/// What the kernel can do with it.
#[doc(hidden)]
pub enum Kind<'a> {
    Socket(&'a Fd),
    File(&'a File),
    /// Nothing.
    Other,
}

macro_rules! ends {
    ($($type:ty: |$value:ident| $kind:expr;)*) => {$(
        ends!(CopyFrom, SealedFrom, read, &mut [u8], Read: $type, |$value| $kind);
        ends!(CopyTo, SealedTo, write, &[u8], Write: $type, |$value| $kind);
    )*};
    (
        $end:ident, $sealed:ident, $method:ident, $buffer:ty, $std:ident:
        $type:ty, |$value:ident| $kind:expr
    ) => {
        impl sealed::$sealed for $type {
            fn kind(&self) -> Kind<'_> {
                let $value = self;
                $kind
            }

            fn $method(&self, buffer: $buffer) -> io::Result<usize> {
                $std::$method(&mut &*self, buffer)
            }
        }
        impl $end for $type {}
    };
}

ends! {
    TcpStream: |stream| Kind::Socket(stream.fd());
    File: |file| Kind::File(file);
    Pipe: |_pipe| Kind::Other;
    UnixStream: |stream| Kind::Socket(stream.fd());
}

ends!(CopyFrom, SealedFrom, read, &mut [u8], Read: ChildStdout, |_pipe| Kind::Other);
ends!(CopyFrom, SealedFrom, read, &mut [u8], Read: ChildStderr, |_pipe| Kind::Other);
ends!(CopyTo, SealedTo, write, &[u8], Write: ChildStdin, |_pipe| Kind::Other);

macro_rules! references {
    ($($end:ident, $sealed:ident, $method:ident, $buffer:ty: $reference:ty;)*) => {$(
        impl<T: $end> sealed::$sealed for $reference {
            fn kind(&self) -> Kind<'_> {
                T::kind(self)
            }

            fn $method(&self, buffer: $buffer) -> io::Result<usize> {
                T::$method(self, buffer)
            }
        }
        impl<T: $end> $end for $reference {}
    )*};
}

references! {
    CopyFrom, SealedFrom, read, &mut [u8]: &T;
    CopyFrom, SealedFrom, read, &mut [u8]: Arc<T>;
    CopyTo, SealedTo, write, &[u8]: &T;
    CopyTo, SealedTo, write, &[u8]: Arc<T>;
}

/// An error of [`copy()`], and how many bytes had arrived before it.
///
/// `?` turns it into the [`io::Error`] in a function that returns an [`io::Result`].
#[derive(Debug)]
pub struct CopyError {
    copied: u64,
    error: Error,
}

impl CopyError {
    /// Returns how many bytes the sink has taken.
    ///
    /// ```
    /// use gopark::io::copy;
    /// use gopark::net::pipe;
    ///
    /// let ((from, _other), (to, _far)) = (pipe(), pipe());
    /// from.set_read_deadline(Some(std::time::Instant::now()))?;
    /// assert_eq!(copy(&from, &to).unwrap_err().copied(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn copied(&self) -> u64 {
        self.copied
    }

    /// Returns the error.
    ///
    /// ```
    /// use gopark::io::copy;
    /// use gopark::net::pipe;
    ///
    /// let ((from, _other), (to, _far)) = (pipe(), pipe());
    /// from.set_read_deadline(Some(std::time::Instant::now()))?;
    /// let error = copy(&from, &to).unwrap_err();
    /// assert_eq!(error.error().kind(), std::io::ErrorKind::TimedOut);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn error(&self) -> &Error {
        &self.error
    }
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (after {} bytes)", self.error, self.copied)
    }
}

impl error::Error for CopyError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<CopyError> for Error {
    fn from(error: CopyError) -> Self {
        error.error
    }
}

/// Moves all bytes of `from` to `to`, until the end of `from`. Returns how many. Go's `io.Copy`.
///
/// If it can, the kernel moves the bytes, and they never come to user space:
///
/// | from | to | by |
/// |---|---|---|
/// | connection | connection | `splice(2)` through a pipe |
/// | file | connection | `sendfile(2)` |
/// | connection | file | `splice(2)` through a pipe |
/// | file | file | `copy_file_range(2)` |
/// | other | | reads and writes through a buffer of 64 KiB |
///
/// A file is read and written from its position on. The pipes are shared, and a copy that waits for
/// data has none. At most 16 pipes stay open for later copies. What the kernel refuses is copied
/// through the buffer. For all other readers and writers use [`std::io::copy`], which works on
/// everything of this crate.
///
/// Other goroutines may write to `to` at the same time; their bytes come between those of the copy.
///
/// # Errors
///
/// Those of reads and writes: deadlines, timeouts and closes of both ends apply to the waits, and a
/// [cancel](crate::sync::Cancel) of the caller ends it. [`CopyError::copied`] says how many bytes
/// `to` has taken. Up to 1 MiB more may have been read from `from`, which are lost, as those in the
/// buffer of [`std::io::copy`] would be.
///
/// A connection whose peer has gone is `BrokenPipe`. `splice` and `sendfile` then also raise the
/// signal `SIGPIPE`, unlike a write to a socket. Programs of Rust ignore it, unless they have
/// changed that.
///
/// ```
/// use gopark::fs::{self, File};
/// use gopark::io::copy;
/// use gopark::net::{TcpListener, TcpStream};
/// use std::io::Read;
///
/// # fn main() -> std::io::Result<()> {
/// # let path = std::env::temp_dir().join(format!("doc-{}-copy", std::process::id()));
/// gopark::run(|| {
///     fs::write(&path, "a page")?;
///     let listener = TcpListener::bind("127.0.0.1:0")?;
///     let mut client = TcpStream::connect(listener.local_addr()?)?;
///     let (server, _) = listener.accept()?;
///     assert_eq!(copy(&File::open(&path)?, &server)?, 6);
///     drop(server);
///
///     let mut page = String::new();
///     client.read_to_string(&mut page)?;
///     assert_eq!(page, "a page");
/// #   fs::remove_file(&path)?;
///     Ok(())
/// })
/// # }
/// ```
#[doc(alias = "ReadFrom")]
#[doc(alias = "splice")]
#[doc(alias = "sendfile")]
pub fn copy<S: CopyFrom + ?Sized, K: CopyTo + ?Sized>(from: &S, to: &K) -> Result<u64, CopyError> {
    copy_n(from, to, u64::MAX)
}

/// As [`copy()`], but moves `limit` bytes at most. The rest stays in `from`. Go's `io.CopyN` with
/// `io.LimitedReader`: it is no error if `from` ends before.
///
/// ```
/// use gopark::fs::{self, File};
/// use gopark::io::copy_n;
///
/// # fn main() -> std::io::Result<()> {
/// # let path = |end| std::env::temp_dir().join(format!("doc-{}-{end}", std::process::id()));
/// # let (all, head, tail) = (path("all"), path("head"), path("tail"));
/// fs::write(&all, "headtail")?;
/// let file = File::open(&all)?;
/// assert_eq!(copy_n(&file, &File::create(&head)?, 4)?, 4);
/// assert_eq!(copy_n(&file, &File::create(&tail)?, 100)?, 4);
/// assert_eq!(fs::read_to_string(&tail)?, "tail");
/// # for file in [all, head, tail] { fs::remove_file(file)?; }
/// # Ok(())
/// # }
/// ```
#[doc(alias = "CopyN")]
pub fn copy_n<S: CopyFrom + ?Sized, K: CopyTo + ?Sized>(
    from: &S,
    to: &K,
    limit: u64,
) -> Result<u64, CopyError> {
    let moved = match (from.kind(), to.kind()) {
        (Kind::Socket(from), Kind::Socket(to)) => Some(relay(from, to, limit)),
        (Kind::File(file), Kind::Socket(to)) => send_file(file, to, limit),
        (Kind::Socket(socket), Kind::File(file)) => receive_file(socket, file, to, limit),
        (Kind::File(from), Kind::File(to)) => copy_range(from, to, limit),
        _ => None,
    };
    let moved =
        moved.unwrap_or_else(|| copy_through_buffer(|it| from.read(it), |it| to.write(it), limit));
    match moved {
        (copied, Ok(())) => Ok(copied),
        (copied, Err(error)) => Err(CopyError { copied, error }),
    }
}

/// From file to socket. `None` if the kernel cannot do it; nothing is moved then.
fn send_file(file: &File, to: &Fd, limit: u64) -> Option<Moved> {
    // An empty FIFO could make `sendfile` return EAGAIN, and the socket would be waited for.
    file.position()?;
    let mut done = 0;
    while done < limit {
        let len = (limit - done).min(SENDFILE as u64);
        let sent = to.operate(Mode::Write, |to| {
            file.with_next(len, |file| sendfile(to, file, len as usize))
        });
        match sent {
            Ok(0) => break,
            Ok(n) => done += n as u64,
            Err(FdError::Os(errno)) if done == 0 && is_unsupported(errno) => return None,
            Err(error) => return Some((done, Err(io_error(error)))),
        }
    }
    Some((done, Ok(())))
}

/// From socket to file. `sink` is the file again, for writes where it cannot be spliced to, such as
/// a file that is open to append. `None` if the socket cannot be spliced from; nothing is moved
/// then.
fn receive_file(
    from: &Fd,
    file: &File,
    sink: &(impl CopyTo + ?Sized),
    limit: u64,
) -> Option<Moved> {
    let mut spliced = Spliced::default();
    let mut done = 0;
    let mut can_splice = true;
    while done < limit {
        match spliced.fill(from, limit - done) {
            Ok(0) => break,
            Ok(_) => {}
            Err(FdError::Os(errno)) if done == 0 && is_unsupported(errno) => return None,
            Err(error) => return Some((done, Err(io_error(error)))),
        }
        if can_splice {
            let (n, ended) =
                spliced.drain_with(|pipe, len| file.with_on_pool(|file| splice(pipe, file, len)));
            done += n;
            can_splice = ended.is_ok();
        }
        // Writes go on where the splices have stopped. If the file is at fault, they say why.
        let rest = match spliced.take() {
            Ok(rest) => rest,
            Err(error) => return Some((done, Err(error))),
        };
        let (n, ended) = write_whole(&mut |data| sink.write(data), &rest);
        done += n;
        if ended.is_err() {
            return Some((done, ended));
        }
    }
    Some((done, Ok(())))
}

/// From file to file. `None` if the kernel cannot do it; nothing is moved then.
fn copy_range(from: &File, to: &File, limit: u64) -> Option<Moved> {
    let mut done = 0;
    while done < limit {
        if let Err(Cancelled) = check_cancel() {
            let cancelled = io_error(FdError::Poll(PollError::Cancelled));
            return Some((done, Err(cancelled)));
        }
        let len = (limit - done).min(FILE_RANGE as u64) as usize;
        let copied =
            from.with_on_pool(|from| to.with_in_place(|to| copy_file_range(from, to, len)));
        match copied {
            // Files of /proc have data, but their length is 0: a read is sure.
            Outcome::Done(0) if done == 0 => return None,
            Outcome::Done(0) => break,
            Outcome::Done(n) => done += n as u64,
            Outcome::Interrupted => {}
            Outcome::WouldBlock => return Some((done, Err(io::ErrorKind::WouldBlock.into()))),
            Outcome::Failed(errno) if done == 0 && is_unsupported(errno) => return None,
            Outcome::Failed(errno) => {
                return Some((done, Err(io_error(FdError::Os(errno)))));
            }
        }
    }
    Some((done, Ok(())))
}
