//! [`UnixListener`], and the file of a listener.

use super::handle::{accept_deadline, descriptor};
use super::incoming::Retry;
use super::socket::Socket;
use super::unix;
use super::{UnixAddr, UnixStream};
use crate::builder::sched;
use gopark_backends::linux::socket::local_address;
use std::fs;
use std::io::Result;
use std::iter::FusedIterator;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fmt, path};

/// A Unix socket that accepts connections: [`std::os::unix::net::UnixListener`], Go's
/// `net.UnixListener`.
///
/// Any number of goroutines may accept from one listener. Dropping the last handle closes the
/// listener.
///
/// **Its file.** As in Go, a listener that has made its file removes it when it is closed: see
/// [`set_unlink_on_close`](Self::set_unlink_on_close). (That of `std` leaves it, and the next bind
/// fails.)
///
/// ```
/// use gopark::net::{UnixListener, UnixStream};
/// use std::io::{self, Write};
///
/// # fn main() -> io::Result<()> {
/// # let path = std::env::temp_dir().join(format!("gopark-doc-listener-{}", std::process::id()));
/// gopark::run(|| {
///     let listener = UnixListener::bind(&path)?;
///     gopark::go(move || {
///         for stream in listener.incoming() {
///             stream?.write_all(b"hello")?;
///         }
///         io::Result::Ok(())
///     });
///     assert_eq!(io::read_to_string(UnixStream::connect(&path)?)?, "hello");
///     Ok(())
/// })
/// # }
/// ```
pub struct UnixListener {
    /// Dropped before the socket: a client then finds no file, instead of a file that refuses.
    file: Option<Arc<SocketFile>>,
    pub(super) socket: Socket,
}

static_assertions::assert_impl_all!(UnixListener: Send, Sync, UnwindSafe, RefUnwindSafe);

impl UnixListener {
    /// Listens at `path`, and makes a file there.
    ///
    /// The kernel queues up to `net.core.somaxconn` connections that have not been accepted. Starts
    /// the runtime with the defaults if it is not running.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if there is a file at `path`, even if no socket listens there any more: a
    /// program that was killed leaves its file. Remove it, after a
    /// [`connect`](UnixStream::connect) that was refused. `InvalidInput` if `path` has more than
    /// 107 bytes.
    ///
    /// # Panics
    ///
    /// If the runtime is not running and cannot be started.
    ///
    /// ```
    /// # use gopark::net::UnixListener;
    /// # let path = std::env::temp_dir().join(format!("gopark-doc-bind-{}", std::process::id()));
    /// let listener = UnixListener::bind(&path)?;
    /// assert!(path.exists());
    /// drop(listener);
    /// assert!(!path.exists());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "ListenUnix")]
    #[track_caller]
    pub fn bind<P: AsRef<Path>>(path: P) -> Result<UnixListener> {
        sched();
        Self::bind_addr(&unix::of_path(path.as_ref())?)
    }

    /// Listens as [`bind`](Self::bind) does, at an address. An abstract name is no file. For an
    /// unnamed address the kernel chooses an abstract name.
    ///
    /// ```
    /// # use gopark::net::{UnixAddr, UnixListener};
    /// use std::os::linux::net::SocketAddrExt;
    ///
    /// let unnamed = UnixAddr::from_pathname("")?;
    /// let listener = UnixListener::bind_addr(&unnamed)?;
    /// assert!(listener.local_addr()?.as_abstract_name().is_some());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn bind_addr(addr: &UnixAddr) -> Result<UnixListener> {
        sched();
        let (socket, file) = unix::listening(libc::SOCK_STREAM, addr)?;
        Ok(UnixListener { file, socket })
    }

    /// Waits for a connection. Returns it with the address of its peer, which usually has none.
    ///
    /// # Errors
    ///
    /// - [`PollError::Timeout`](crate::PollError::Timeout) when the deadline of
    ///   [`set_deadline`](Self::set_deadline) has passed.
    /// - [`PollError::Closing`](crate::PollError::Closing) when the listener is closed with
    ///   [`close`](Self::close).
    /// - `EMFILE` or `ENFILE` when the process or the system has no free descriptor. The connection
    ///   stays in the queue: try again after closing others.
    ///
    /// ```
    /// # use gopark::net::{UnixListener, UnixStream};
    /// # let path = std::env::temp_dir().join(format!("gopark-doc-accept-{}", std::process::id()));
    /// let listener = UnixListener::bind(&path)?;
    /// let client = UnixStream::connect(&path)?;
    /// let (server, peer) = listener.accept()?;
    /// assert!(peer.is_unnamed());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn accept(&self) -> Result<(UnixStream, UnixAddr)> {
        let (socket, peer) = self.socket.accept()?;
        Ok((UnixStream { socket }, unix::from_kernel(&peer)?))
    }

    /// Returns an iterator that accepts connections, as [`TcpListener::incoming`] does: it ends
    /// when the listener is closed or the caller is cancelled, and pauses after errors of the
    /// system.
    ///
    /// ```
    /// # use gopark::net::{UnixListener, UnixStream};
    /// # let path = std::env::temp_dir().join(format!("gopark-doc-in-{}", std::process::id()));
    /// let listener = UnixListener::bind(&path)?;
    /// let client = UnixStream::connect(&path)?;
    /// for stream in listener.incoming() {
    ///     assert!(stream?.peer_addr()?.is_unnamed());
    ///     listener.close()?;
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// [`TcpListener::incoming`]: super::TcpListener::incoming
    pub fn incoming(&self) -> UnixIncoming<'_> {
        UnixIncoming {
            listener: self,
            retry: Retry::new(),
        }
    }

    /// Returns the address that it listens on: `getsockname(2)`.
    ///
    /// ```
    /// # use gopark::net::UnixListener;
    /// # let path = std::env::temp_dir().join(format!("gopark-doc-addr-{}", std::process::id()));
    /// let listener = UnixListener::bind(&path)?;
    /// assert_eq!(listener.local_addr()?.as_pathname(), Some(path.as_path()));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn local_addr(&self) -> Result<UnixAddr> {
        unix::from_kernel(&self.socket.ask(local_address)?)
    }

    /// Sets whether closing the listener removes its file. On for a listener that has made the file
    /// with [`bind`](Self::bind); a listener made from a descriptor leaves the file. As Go's
    /// `SetUnlinkOnClose`.
    ///
    /// The file is removed once, before the socket is closed, and only if it is still the file that
    /// the listener has made: a new server may have put its own in its place. Turn it off before
    /// the listener is handed to another process.
    ///
    /// ```
    /// # use gopark::net::UnixListener;
    /// # let path = std::env::temp_dir().join(format!("gopark-doc-unlink-{}", std::process::id()));
    /// let listener = UnixListener::bind(&path)?;
    /// listener.set_unlink_on_close(false);
    /// drop(listener);
    /// assert!(path.exists());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "SetUnlinkOnClose")]
    pub fn set_unlink_on_close(&self, unlink: bool) {
        if let Some(file) = &self.file {
            file.set_unlink(unlink);
        }
    }

    /// Returns another handle of this listener, with the same descriptor and the same deadline. It
    /// never fails.
    ///
    /// ```
    /// # use gopark::net::UnixListener;
    /// # let path = std::env::temp_dir().join(format!("gopark-doc-clone-{}", std::process::id()));
    /// let listener = UnixListener::bind(&path)?;
    /// drop(listener.try_clone()?);
    /// assert!(path.exists());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_clone(&self) -> Result<UnixListener> {
        Ok(UnixListener {
            file: self.file.clone(),
            socket: self.socket.clone(),
        })
    }

    /// Closes the listener under all its handles, after removing its file if
    /// [`set_unlink_on_close`](Self::set_unlink_on_close) says so.
    ///
    /// Calls of [`accept`](Self::accept) in progress, and all later operations, fail with
    /// [`PollError::Closing`](crate::PollError::Closing).
    ///
    /// # Errors
    ///
    /// [`PollError::Closing`](crate::PollError::Closing) if the listener is already closed.
    ///
    /// ```
    /// # use gopark::net::UnixListener;
    /// # let path = std::env::temp_dir().join(format!("gopark-doc-close-{}", std::process::id()));
    /// let listener = UnixListener::bind(&path)?;
    /// listener.close()?;
    /// assert!(!path.exists());
    /// assert!(listener.accept().is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn close(&self) -> Result<()> {
        if let Some(file) = &self.file {
            file.remove();
        }
        self.socket.close()
    }

    /// Takes the listener out of the runtime and returns it as a blocking listener of `std`,
    /// without its deadline. Its file stays.
    ///
    /// # Errors
    ///
    /// `ResourceBusy` if other handles from [`try_clone`](Self::try_clone) exist.
    /// [`PollError::Closing`](crate::PollError::Closing) if the listener is closed. This handle is
    /// dropped even on an error.
    ///
    /// ```
    /// # use gopark::net::UnixListener;
    /// # let path = std::env::temp_dir().join(format!("gopark-doc-std-{}", std::process::id()));
    /// let listener = UnixListener::bind(&path)?;
    /// let listener: std::os::unix::net::UnixListener = listener.into_std()?;
    /// assert!(path.exists());
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_std(self) -> Result<net::UnixListener> {
        self.set_unlink_on_close(false);
        self.socket.into_blocking().map(net::UnixListener::from)
    }

    fn adopt(fd: OwnedFd) -> Self {
        UnixListener {
            file: None,
            socket: Socket::adopt(fd),
        }
    }

    fn into_fd(self) -> OwnedFd {
        self.set_unlink_on_close(false);
        self.socket.into_fd()
    }
}

descriptor!(
    UnixListener,
    ["let socket = UnixListener::bind_addr(&UnixAddr::from_pathname(\"\")?)?;"],
    "socket.accept()"
);
accept_deadline!(
    UnixListener,
    ["let socket = UnixListener::bind_addr(&UnixAddr::from_pathname(\"\")?)?;"]
);

/// Takes a listener of `std` into the runtime and makes it non-blocking. Its file stays when it is
/// closed.
///
/// # Panics
///
/// If the runtime is not running and cannot be started.
impl From<net::UnixListener> for UnixListener {
    fn from(listener: net::UnixListener) -> Self {
        Self::adopt(listener.into())
    }
}

impl fmt::Debug for UnixListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("UnixListener");
        if let Ok(addr) = self.local_addr() {
            debug.field("addr", &addr);
        }
        debug.field("fd", &self.socket.raw()).finish()
    }
}

/// The file that a bind has made. The last handle removes it.
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode. `None` if they could not be read.
    id: Option<(u64, u64)>,
    unlink: AtomicBool,
}

impl SocketFile {
    pub(super) fn new(path: &Path) -> Arc<Self> {
        Arc::new(SocketFile {
            id: id(path),
            // The program may change its directory.
            path: path::absolute(path).unwrap_or_else(|_| path.into()),
            unlink: AtomicBool::new(true),
        })
    }

    pub(super) fn set_unlink(&self, unlink: bool) {
        self.unlink.store(unlink, Ordering::Relaxed);
    }

    /// Removes the file, unless it was removed or replaced, or is to stay.
    pub(super) fn remove(&self) {
        if self.unlink.swap(false, Ordering::Relaxed)
            && self.id.is_some()
            && id(&self.path) == self.id
        {
            // An error leaves the file, and the next bind reports it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Never inlined, because it reads errno, and its callers may be in a goroutine that migrates.
#[inline(never)]
fn id(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// An iterator over the connections of a listener, returned by [`UnixListener::incoming`].
///
/// ```
/// # use gopark::net::{UnixListener, UnixStream};
/// # let path = std::env::temp_dir().join(format!("gopark-doc-iter-{}", std::process::id()));
/// let listener = UnixListener::bind(&path)?;
/// let clients = [(); 3].map(|()| UnixStream::connect(&path));
/// assert_eq!(listener.incoming().take(3).filter(Result::is_ok).count(), clients.len());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct UnixIncoming<'a> {
    listener: &'a UnixListener,
    retry: Retry,
}

impl Iterator for UnixIncoming<'_> {
    type Item = Result<UnixStream>;

    fn next(&mut self) -> Option<Self::Item> {
        self.retry
            .next(|| self.listener.accept().map(|(stream, _)| stream))
    }
}

impl FusedIterator for UnixIncoming<'_> {}
