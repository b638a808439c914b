//! Files and directories: [`std::fs`], whose operations park the goroutine instead of blocking its
//! thread.
//!
//! Names and meanings are those of [`std::fs`], so replacing `use std::fs` by `use gopark::fs` is
//! most of a port. Linux has no readiness of files: an operation blocks its thread until the disk
//! or the server has answered. So each one runs on a thread of the pool of
//! [`blocking`] while the goroutine is parked, in one hand-over. This costs some
//! ten microseconds, and [`read`], [`read_to_string`], [`write`](write()), [`copy`] and
//! [`remove_dir_all`] are one operation. On ordinary threads everything runs in place.
//!
//! **Reads from the page cache do not leave the thread.** [`File`]'s `read` and `read_at` first ask
//! for what is in memory (`preadv2` with `RWF_NOWAIT`), and hand over only if nothing is. Not all
//! file systems support this: ext4, XFS and Btrfs do, tmpfs and `/proc` do not, nor do files open
//! with `O_DIRECT`. Writes are always handed over, because few file systems write without the
//! permission to wait.
//!
//! # Cancels
//!
//! A [cancel](crate::sync::Cancel) of the goroutine makes these functions fail with
//! [`PollError::Cancelled`], kind `Other`.
//!
//! - **Functions that take paths, and opening a file**: at once. The system cannot be told to stop,
//!   so the work is left behind, as by [`try_blocking`]: it goes on on its
//!   thread of the pool, and may succeed after the error. [`write()`] is as those below.
//! - **Methods of an open [`File`], and [`ReadDir`]**: before they begin. An operation in progress
//!   is not interrupted, because it uses the caller's buffer, and nothing that was read is lost.
//!
//! There are no deadlines, as Go has none for regular files.
//!
//! # FIFOs, terminals and devices
//!
//! Opening a FIFO waits for its other end, and a read of a FIFO, of a terminal or of a device waits
//! for data, each on a thread of the pool, which has
//! [`Builder::max_threads`](crate::Builder::max_threads) at most. Use [`File`] for one or two of
//! them. For more, or to have deadlines and `close`, open them with
//! [`custom_flags`](std::os::unix::fs::OpenOptionsExt::custom_flags) of `O_NONBLOCK` and wait for
//! them in the poller: `gopark::net::Descriptor`.
//!
//! # Closing
//!
//! Dropping a [`File`] closes it on the goroutine's thread. On a network file system this can wait
//! for the server: call [`File::sync_all`] before.

mod dir;
mod file;
mod options;

pub use dir::{DirBuilder, DirEntry, ReadDir};
pub use file::File;
pub use options::OpenOptions;
pub use std::fs::{FileTimes, FileType, Metadata, Permissions};

use crate::cancel::{Cancelled, check_cancel};
use crate::error::io_error;
use crate::goroutine::blocking;
use crate::pool::try_blocking;
use gopark_core::fd::FdError;
use gopark_core::polldesc::PollError;
use std::fs;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};

/// Runs `work` on the pool. A cancel leaves it behind.
fn hop<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    try_blocking(|| in_place(work)).map_err(cancelled)?
}

/// Runs `work`, which borrows, on the pool, unless the caller is cancelled.
fn hop_and_wait<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    check_cancel().map_err(cancelled)?;
    blocking(|| in_place(work))
}

/// Never inlined: `std` reads errno, also on the goroutine's thread if that unwinds. When
/// goroutines migrate, a caller may park between two such reads and resume on another thread.
#[inline(never)]
fn in_place<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    work()
}

fn cancelled(_: Cancelled) -> Error {
    io_error(FdError::Poll(PollError::Cancelled))
}

/// Reads a whole file: [`std::fs::read`], Go's `os.ReadFile`. One operation.
///
/// ```
/// # use gopark::fs;
/// # let dir = std::env::temp_dir().join(format!("doc-{}-read", std::process::id()));
/// # fs::create_dir_all(&dir)?;
/// fs::write(dir.join("a"), b"text")?;
/// assert_eq!(fs::read(dir.join("a"))?, b"text");
/// # fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn read<P: AsRef<Path>>(path: P) -> Result<Vec<u8>> {
    let path = path.as_ref().to_owned();
    hop(move || fs::read(&path))
}

/// Reads a whole file as text: [`std::fs::read_to_string`]. One operation.
///
/// # Errors
///
/// `InvalidData` if it is not UTF-8.
///
/// ```
/// # use gopark::fs;
/// # let dir = std::env::temp_dir().join(format!("doc-{}-read_to_string", std::process::id()));
/// # fs::create_dir_all(&dir)?;
/// fs::write(dir.join("a"), "text")?;
/// assert_eq!(fs::read_to_string(dir.join("a"))?, "text");
/// # fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn read_to_string<P: AsRef<Path>>(path: P) -> Result<String> {
    let path = path.as_ref().to_owned();
    hop(move || fs::read_to_string(&path))
}

/// Writes a whole file, which is made or replaced: [`std::fs::write`], Go's `os.WriteFile`. One
/// operation, which a cancel does not interrupt.
///
/// ```
/// # use gopark::fs;
/// # let file = std::env::temp_dir().join(format!("doc-{}-write", std::process::id()));
/// fs::write(&file, "text")?;
/// assert_eq!(fs::metadata(&file)?.len(), 4);
/// # fs::remove_file(&file)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn write<P: AsRef<Path>, C: AsRef<[u8]>>(path: P, contents: C) -> Result<()> {
    let (path, contents) = (path.as_ref(), contents.as_ref());
    hop_and_wait(|| fs::write(path, contents))
}

/// Returns what is known about a file, after following symbolic links: [`std::fs::metadata`], Go's
/// `os.Stat`.
///
/// ```
/// # use gopark::fs;
/// # let dir = std::env::temp_dir().join(format!("doc-{}-metadata", std::process::id()));
/// # fs::create_dir_all(&dir)?;
/// assert!(fs::metadata(&dir)?.is_dir());
/// # fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn metadata<P: AsRef<Path>>(path: P) -> Result<Metadata> {
    let path = path.as_ref().to_owned();
    hop(move || fs::metadata(&path))
}

/// Returns what is known about a file or symbolic link: [`std::fs::symlink_metadata`], Go's
/// `os.Lstat`.
///
/// ```
/// # use gopark::fs;
/// # let dir = std::env::temp_dir().join(format!("doc-{}-symlink_metadata", std::process::id()));
/// # fs::create_dir_all(&dir)?;
/// std::os::unix::fs::symlink("target", dir.join("link"))?;
/// assert!(fs::symlink_metadata(dir.join("link"))?.is_symlink());
/// # fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn symlink_metadata<P: AsRef<Path>>(path: P) -> Result<Metadata> {
    let path = path.as_ref().to_owned();
    hop(move || fs::symlink_metadata(&path))
}

/// Returns whether a file exists: [`std::fs::exists`].
///
/// # Errors
///
/// If that cannot be found out.
///
/// ```
/// # use gopark::fs;
/// # let dir = std::env::temp_dir().join(format!("doc-{}-exists", std::process::id()));
/// # fs::create_dir_all(&dir)?;
/// assert!(fs::exists(&dir)?);
/// assert!(!fs::exists(dir.join("missing"))?);
/// # fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn exists<P: AsRef<Path>>(path: P) -> Result<bool> {
    let path = path.as_ref().to_owned();
    hop(move || fs::exists(&path))
}

/// Makes a directory: [`std::fs::create_dir`], Go's `os.Mkdir`.
///
/// # Errors
///
/// `AlreadyExists` if there is such a file or directory.
///
/// ```
/// # use gopark::fs;
/// # let dir = std::env::temp_dir().join(format!("doc-{}-create_dir", std::process::id()));
/// # fs::create_dir_all(&dir)?;
/// fs::create_dir(dir.join("a"))?;
/// assert!(fs::create_dir(dir.join("a")).is_err());
/// # fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn create_dir<P: AsRef<Path>>(path: P) -> Result<()> {
    let path = path.as_ref().to_owned();
    hop(move || fs::create_dir(&path))
}

/// Makes a directory and those that it is in: [`std::fs::create_dir_all`], Go's `os.MkdirAll`.
///
/// ```
/// # use gopark::fs;
/// # let dir = std::env::temp_dir().join(format!("doc-{}-create_dir_all", std::process::id()));
/// # fs::create_dir_all(&dir)?;
/// fs::create_dir_all(dir.join("a/b/c"))?;
/// assert!(fs::metadata(dir.join("a/b/c"))?.is_dir());
/// # fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn create_dir_all<P: AsRef<Path>>(path: P) -> Result<()> {
    let path = path.as_ref().to_owned();
    hop(move || fs::create_dir_all(&path))
}

/// Removes a file: [`std::fs::remove_file`], Go's `os.Remove`.
///
/// ```
/// # use gopark::fs;
/// # let dir = std::env::temp_dir().join(format!("doc-{}-remove_file", std::process::id()));
/// # fs::create_dir_all(&dir)?;
/// fs::write(dir.join("a"), "text")?;
/// fs::remove_file(dir.join("a"))?;
/// assert!(!fs::exists(dir.join("a"))?);
/// # fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn remove_file<P: AsRef<Path>>(path: P) -> Result<()> {
    let path = path.as_ref().to_owned();
    hop(move || fs::remove_file(&path))
}

/// Removes an empty directory: [`std::fs::remove_dir`].
///
/// ```
/// # use gopark::fs;
/// # let dir = std::env::temp_dir().join(format!("doc-{}-remove_dir", std::process::id()));
/// # fs::create_dir_all(&dir)?;
/// fs::create_dir(dir.join("a"))?;
/// fs::remove_dir(dir.join("a"))?;
/// assert!(!fs::exists(dir.join("a"))?);
/// # fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn remove_dir<P: AsRef<Path>>(path: P) -> Result<()> {
    let path = path.as_ref().to_owned();
    hop(move || fs::remove_dir(&path))
}

/// Removes a directory with all that is in it: [`std::fs::remove_dir_all`], Go's `os.RemoveAll`.
/// One operation, which goes on after a cancel.
///
/// ```
/// # use gopark::fs;
/// # let dir = std::env::temp_dir().join(format!("doc-{}-remove_dir_all", std::process::id()));
/// # fs::create_dir_all(&dir)?;
/// fs::create_dir_all(dir.join("a/b/c"))?;
/// fs::remove_dir_all(dir.join("a"))?;
/// assert!(!fs::exists(dir.join("a"))?);
/// # fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn remove_dir_all<P: AsRef<Path>>(path: P) -> Result<()> {
    let path = path.as_ref().to_owned();
    hop(move || fs::remove_dir_all(&path))
}

/// Renames a file or directory, and replaces a file of the new name: [`std::fs::rename`].
///
/// ```
/// # use gopark::fs;
/// # let dir = std::env::temp_dir().join(format!("doc-{}-rename", std::process::id()));
/// # fs::create_dir_all(&dir)?;
/// fs::write(dir.join("a"), "text")?;
/// fs::rename(dir.join("a"), dir.join("b"))?;
/// assert_eq!(fs::read(dir.join("b"))?, b"text");
/// # fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn rename<P: AsRef<Path>, Q: AsRef<Path>>(from: P, to: Q) -> Result<()> {
    let from = from.as_ref().to_owned();
    let to = to.as_ref().to_owned();
    hop(move || fs::rename(&from, &to))
}

/// Copies a file and its permissions, and returns its length in bytes: [`std::fs::copy`]. One
/// operation, which goes on after a cancel.
///
/// ```
/// # use gopark::fs;
/// # let dir = std::env::temp_dir().join(format!("doc-{}-copy", std::process::id()));
/// # fs::create_dir_all(&dir)?;
/// fs::write(dir.join("a"), "text")?;
/// assert_eq!(fs::copy(dir.join("a"), dir.join("b"))?, 4);
/// # fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn copy<P: AsRef<Path>, Q: AsRef<Path>>(from: P, to: Q) -> Result<u64> {
    let from = from.as_ref().to_owned();
    let to = to.as_ref().to_owned();
    hop(move || fs::copy(&from, &to))
}

/// Gives a file a second name: [`std::fs::hard_link`], Go's `os.Link`.
///
/// ```
/// # use gopark::fs;
/// # let dir = std::env::temp_dir().join(format!("doc-{}-hard_link", std::process::id()));
/// # fs::create_dir_all(&dir)?;
/// fs::write(dir.join("a"), "text")?;
/// fs::hard_link(dir.join("a"), dir.join("b"))?;
/// assert_eq!(fs::read(dir.join("b"))?, b"text");
/// # fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn hard_link<P: AsRef<Path>, Q: AsRef<Path>>(original: P, link: Q) -> Result<()> {
    let original = original.as_ref().to_owned();
    let link = link.as_ref().to_owned();
    hop(move || fs::hard_link(&original, &link))
}

/// Makes a symbolic link to `original`: [`std::os::unix::fs::symlink`], Go's `os.Symlink`.
///
/// ```
/// # use gopark::fs;
/// # let dir = std::env::temp_dir().join(format!("doc-{}-symlink", std::process::id()));
/// # fs::create_dir_all(&dir)?;
/// fs::symlink("target", dir.join("link"))?;
/// assert_eq!(fs::read_link(dir.join("link"))?.to_str(), Some("target"));
/// # fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn symlink<P: AsRef<Path>, Q: AsRef<Path>>(original: P, link: Q) -> Result<()> {
    let original = original.as_ref().to_owned();
    let link = link.as_ref().to_owned();
    hop(move || std::os::unix::fs::symlink(&original, &link))
}

/// Returns the target of a symbolic link: [`std::fs::read_link`], Go's `os.Readlink`.
///
/// ```
/// # use gopark::fs;
/// # let dir = std::env::temp_dir().join(format!("doc-{}-read_link", std::process::id()));
/// # fs::create_dir_all(&dir)?;
/// fs::symlink("target", dir.join("link"))?;
/// assert_eq!(fs::read_link(dir.join("link"))?.to_str(), Some("target"));
/// # fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn read_link<P: AsRef<Path>>(path: P) -> Result<PathBuf> {
    let path = path.as_ref().to_owned();
    hop(move || fs::read_link(&path))
}

/// Returns the absolute path without symbolic links and dots: [`std::fs::canonicalize`].
///
/// ```
/// # use gopark::fs;
/// # let dir = std::env::temp_dir().join(format!("doc-{}-canonicalize", std::process::id()));
/// # fs::create_dir_all(&dir)?;
/// assert_eq!(fs::canonicalize(dir.join("."))?, fs::canonicalize(&dir)?);
/// # fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn canonicalize<P: AsRef<Path>>(path: P) -> Result<PathBuf> {
    let path = path.as_ref().to_owned();
    hop(move || fs::canonicalize(&path))
}

/// Changes the permissions of a file: [`std::fs::set_permissions`], Go's `os.Chmod`.
///
/// ```
/// # use gopark::fs;
/// # let file = std::env::temp_dir().join(format!("doc-{}-mode", std::process::id()));
/// fs::write(&file, "text")?;
/// let mut permissions = fs::metadata(&file)?.permissions();
/// permissions.set_readonly(true);
/// fs::set_permissions(&file, permissions)?;
/// assert!(fs::metadata(&file)?.permissions().readonly());
/// # fs::remove_file(&file)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn set_permissions<P: AsRef<Path>>(path: P, permissions: Permissions) -> Result<()> {
    let path = path.as_ref().to_owned();
    hop(move || fs::set_permissions(&path, permissions))
}

/// Lists a directory: [`std::fs::read_dir`], Go's `os.ReadDir`, without an order.
///
/// The iterator fetches entries in batches, so most calls of `next` make no system call.
///
/// ```
/// # use gopark::fs;
/// # let dir = std::env::temp_dir().join(format!("doc-{}-list", std::process::id()));
/// fs::create_dir_all(dir.join("a"))?;
/// for entry in fs::read_dir(&dir)? {
///     let entry = entry?;
///     assert_eq!(entry.file_name(), "a");
///     assert!(entry.file_type()?.is_dir());
/// }
/// # fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn read_dir<P: AsRef<Path>>(path: P) -> Result<ReadDir> {
    let path = path.as_ref().to_owned();
    hop(move || ReadDir::open(&path))
}
