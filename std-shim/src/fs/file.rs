//! [`File`].
#![allow(unsafe_code, reason = "a descriptor is lent to a system call")]

use super::{FileTimes, Metadata, OpenOptions, Permissions, cancelled, hop_and_wait};
use crate::builder::sched_if_running;
use crate::cancel::check_cancel;
use crate::goroutine::blocking;
use gopark_backends::linux::file::{is_direct, read_cached};
use gopark_core::os::{Borrowed, Outcome};
use std::fmt;
use std::fs;
use std::io::{Read, Result, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

/// An open file: [`std::fs::File`], Go's `os.File`.
///
/// Each operation is done on a thread of the pool while the goroutine is parked, except reads from
/// the page cache, which do not leave the thread. The [module](super) has the details.
///
/// `read_at` and `write_at` are methods of [`FileExt`].
///
/// ```
/// use gopark::fs::File;
/// use std::io::{Read, Write};
/// use std::os::unix::fs::FileExt;
///
/// # fn main() -> std::io::Result<()> {
/// # let path = std::env::temp_dir().join(format!("doc-{}-file", std::process::id()));
/// gopark::run(|| {
///     File::create(&path)?.write_all(b"some text")?;
///
///     let mut file = File::open(&path)?;
///     let mut text = String::new();
///     file.read_to_string(&mut text)?;
///     assert_eq!(text, "some text");
///
///     let mut word = [0; 4];
///     file.read_exact_at(&mut word, 5)?;
///     assert_eq!(&word, b"text");
/// #   gopark::fs::remove_file(&path)?;
///     Ok(())
/// })
/// # }
/// ```
#[doc(alias = "os.File")]
pub struct File {
    file: fs::File,
    /// The file system has refused to read from the page cache without a wait, or the file does not
    /// use it.
    refuses_cached: AtomicBool,
    /// Operations on the pool that hold the lock of the file's position. An operation in place
    /// would wait for that lock, and block its thread.
    moving: AtomicUsize,
}

static_assertions::assert_impl_all!(File: Send, Sync, std::panic::UnwindSafe);

impl File {
    /// Opens a file to read: [`std::fs::File::open`]. A FIFO waits for a writer, on a thread of the
    /// pool.
    ///
    /// ```
    /// let file = gopark::fs::File::open("/dev/null")?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn open<P: AsRef<Path>>(path: P) -> Result<File> {
        OpenOptions::new().read(true).open(path)
    }

    /// Opens a file to write, and makes it, or makes it empty: [`std::fs::File::create`].
    ///
    /// ```
    /// let file = gopark::fs::File::create("/dev/null")?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn create<P: AsRef<Path>>(path: P) -> Result<File> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
    }

    /// Makes a file, to read and write: [`std::fs::File::create_new`].
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if it exists.
    ///
    /// ```
    /// assert!(gopark::fs::File::create_new("/dev/null").is_err());
    /// ```
    #[track_caller]
    pub fn create_new<P: AsRef<Path>>(path: P) -> Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
    }

    /// Returns [`OpenOptions::new`], as [`std::fs::File::options`] does.
    ///
    /// ```
    /// let file = gopark::fs::File::options().read(true).open("/dev/null")?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn options() -> OpenOptions {
        OpenOptions::new()
    }

    /// Waits until the disk has the data and the metadata: [`std::fs::File::sync_all`],
    /// `fsync(2)`.
    ///
    /// ```
    /// # use gopark::fs::{self, File};
    /// # let path = std::env::temp_dir().join(format!("doc-{}-sync", std::process::id()));
    /// File::create(&path)?.sync_all()?;
    /// # fs::remove_file(&path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "fsync")]
    #[track_caller]
    pub fn sync_all(&self) -> Result<()> {
        hop_and_wait(|| self.file.sync_all())
    }

    /// Waits until the disk has the data: [`std::fs::File::sync_data`], `fdatasync(2)`.
    ///
    /// ```
    /// # use gopark::fs::{self, File};
    /// # let path = std::env::temp_dir().join(format!("doc-{}-data", std::process::id()));
    /// File::create(&path)?.sync_data()?;
    /// # fs::remove_file(&path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "fdatasync")]
    #[track_caller]
    pub fn sync_data(&self) -> Result<()> {
        hop_and_wait(|| self.file.sync_data())
    }

    /// Cuts the file to `size` bytes, or fills it up with zeroes: [`std::fs::File::set_len`].
    ///
    /// ```
    /// # use gopark::fs::{self, File};
    /// # let path = std::env::temp_dir().join(format!("doc-{}-len", std::process::id()));
    /// let file = File::create(&path)?;
    /// file.set_len(100)?;
    /// assert_eq!(file.metadata()?.len(), 100);
    /// # fs::remove_file(&path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "ftruncate")]
    #[track_caller]
    pub fn set_len(&self, size: u64) -> Result<()> {
        hop_and_wait(|| self.file.set_len(size))
    }

    /// Returns what is known about the file: [`std::fs::File::metadata`].
    ///
    /// ```
    /// let file = gopark::fs::File::open("/dev/null")?;
    /// assert!(!file.metadata()?.is_dir());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "fstat")]
    #[track_caller]
    pub fn metadata(&self) -> Result<Metadata> {
        hop_and_wait(|| self.file.metadata())
    }

    /// Changes the permissions of the file: [`std::fs::File::set_permissions`].
    ///
    /// ```
    /// # use gopark::fs::{self, File};
    /// # let path = std::env::temp_dir().join(format!("doc-{}-perm", std::process::id()));
    /// let file = File::create(&path)?;
    /// let mut permissions = file.metadata()?.permissions();
    /// permissions.set_readonly(true);
    /// file.set_permissions(permissions)?;
    /// # fs::remove_file(&path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "fchmod")]
    #[track_caller]
    pub fn set_permissions(&self, permissions: Permissions) -> Result<()> {
        hop_and_wait(|| self.file.set_permissions(permissions))
    }

    /// Changes the times of the file: [`std::fs::File::set_times`].
    ///
    /// ```
    /// # use gopark::fs::{self, File, FileTimes};
    /// # let path = std::env::temp_dir().join(format!("doc-{}-times", std::process::id()));
    /// let file = File::create(&path)?;
    /// file.set_times(FileTimes::new().set_accessed(std::time::UNIX_EPOCH))?;
    /// # fs::remove_file(&path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn set_times(&self, times: FileTimes) -> Result<()> {
        hop_and_wait(|| self.file.set_times(times))
    }

    /// Changes when the file was changed last: [`std::fs::File::set_modified`].
    ///
    /// ```
    /// # use gopark::fs::{self, File};
    /// # let path = std::env::temp_dir().join(format!("doc-{}-changed", std::process::id()));
    /// let file = File::create(&path)?;
    /// file.set_modified(std::time::UNIX_EPOCH)?;
    /// assert_eq!(file.metadata()?.modified()?, std::time::UNIX_EPOCH);
    /// # fs::remove_file(&path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn set_modified(&self, time: SystemTime) -> Result<()> {
        self.set_times(FileTimes::new().set_modified(time))
    }

    /// Returns another handle with a descriptor of its own, and the same position:
    /// [`std::fs::File::try_clone`].
    ///
    /// ```
    /// let file = gopark::fs::File::open("/dev/null")?;
    /// let other = file.try_clone()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline(never)]
    pub fn try_clone(&self) -> Result<File> {
        self.file.try_clone().map(File::from)
    }

    /// Reads at `offset`, or with `None` at the position.
    fn read_some(&self, buffer: &mut [u8], offset: Option<u64>) -> Result<usize> {
        check_cancel().map_err(cancelled)?;
        if let Some(n) = self.read_in_place(buffer, offset) {
            return Ok(n);
        }
        match offset {
            Some(offset) => hop_and_wait(|| self.file.read_at(buffer, offset)),
            None => self.moving(|mut file| file.read(buffer)),
        }
    }

    /// Reads from the page cache. `None` if that has nothing, or is not asked.
    fn read_in_place(&self, buffer: &mut [u8], offset: Option<u64>) -> Option<usize> {
        // Without a runtime there is no goroutine to park.
        let sched = sched_if_running()?;
        let locked = offset.is_none() && self.moving.load(Ordering::Relaxed) != 0;
        // The kernel takes the greatest offset for "at the position".
        if locked || offset == Some(u64::MAX) || self.refuses_cached.load(Ordering::Relaxed) {
            return None;
        }
        match read_cached(self.borrow(), buffer, offset) {
            // 0 is not the end of the file on all kernels: the pool asks again.
            Outcome::Done(n) if n > 0 => {
                sched.spend(1);
                return Some(n);
            }
            Outcome::Failed(_) => self.refuses_cached.store(true, Ordering::Relaxed),
            _ => {}
        }
        None
    }

    /// Calls `operation` with the descriptor: in place if the next `len` bytes are probably in the
    /// page cache, and else on the pool. It uses the position.
    pub(crate) fn with_next(
        &self,
        len: u64,
        operation: impl Fn(Borrowed<'_>) -> Outcome<usize> + Sync,
    ) -> Outcome<usize> {
        match self.next_are_cached(len) {
            true => operation(self.borrow()),
            false => self.with_on_pool(operation),
        }
    }

    /// Calls `operation` with the descriptor on the pool. It uses the position.
    pub(crate) fn with_on_pool(
        &self,
        operation: impl Fn(Borrowed<'_>) -> Outcome<usize> + Sync,
    ) -> Outcome<usize> {
        let _moving = Moving::new(&self.moving);
        blocking(|| operation(self.borrow()))
    }

    /// Calls `operation` with the descriptor.
    pub(crate) fn with_in_place<T>(&self, operation: impl FnOnce(Borrowed<'_>) -> T) -> T {
        operation(self.borrow())
    }

    /// The position. `None` if the file has none, as a FIFO.
    pub(crate) fn position(&self) -> Option<u64> {
        super::in_place(|| (&self.file).stream_position()).ok()
    }

    /// Whether the first and the last of the next `len` bytes are in the page cache.
    fn next_are_cached(&self, len: u64) -> bool {
        if self.moving.load(Ordering::Relaxed) != 0 || self.refuses_cached.load(Ordering::Relaxed) {
            return false;
        }
        let Some(position) = self.position() else {
            return false;
        };
        [position, position + (len - 1)].into_iter().all(|offset| {
            // 0: it is behind the end.
            matches!(
                read_cached(self.borrow(), &mut [0], Some(offset)),
                Outcome::Done(_)
            )
        })
    }

    fn borrow(&self) -> Borrowed<'_> {
        // SAFETY: the file stays open while it is borrowed.
        unsafe { Borrowed::new(self.file.as_raw_fd()) }
    }

    /// Runs an operation that uses the position on the pool.
    fn moving<T: Send>(&self, work: impl FnOnce(&fs::File) -> Result<T> + Send) -> Result<T> {
        hop_and_wait(|| {
            let _moving = Moving::new(&self.moving);
            work(&self.file)
        })
    }
}

/// Counts an operation that holds the lock of the position.
struct Moving<'a>(&'a AtomicUsize);

impl<'a> Moving<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Moving(count)
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `read` may return fewer bytes than `buf` has room for also before the end of the file: those
/// that are in memory. `read_to_end` and `read_to_string` are one operation on the pool.
impl Read for &File {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.read_some(buf, None)
    }

    fn read_to_end(&mut self, buf: &mut Vec<u8>) -> Result<usize> {
        self.moving(|mut file| file.read_to_end(buf))
    }

    fn read_to_string(&mut self, buf: &mut String) -> Result<usize> {
        self.moving(|mut file| file.read_to_string(buf))
    }
}

/// Each write is handed over to the pool: write large blocks, or through a
/// [`BufWriter`](std::io::BufWriter). `write_all` is one operation. `flush` does nothing.
impl Write for &File {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        self.moving(|mut file| file.write(buf))
    }

    fn write_all(&mut self, buf: &[u8]) -> Result<()> {
        self.moving(|mut file| file.write_all(buf))
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A seek from the end asks the file system, on the pool. The others do not leave the thread.
impl Seek for &File {
    fn seek(&mut self, pos: SeekFrom) -> Result<u64> {
        let in_place = !matches!(pos, SeekFrom::End(_)) && self.moving.load(Ordering::Relaxed) == 0;
        match in_place {
            true => super::in_place(|| (&self.file).seek(pos)),
            false => self.moving(|mut file| file.seek(pos)),
        }
    }
}

/// As for `&File`.
impl Read for File {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        (&*self).read(buf)
    }

    fn read_to_end(&mut self, buf: &mut Vec<u8>) -> Result<usize> {
        (&*self).read_to_end(buf)
    }

    fn read_to_string(&mut self, buf: &mut String) -> Result<usize> {
        (&*self).read_to_string(buf)
    }
}

/// As for `&File`.
impl Write for File {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        (&*self).write(buf)
    }

    fn write_all(&mut self, buf: &[u8]) -> Result<()> {
        (&*self).write_all(buf)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// As for `&File`.
impl Seek for File {
    fn seek(&mut self, pos: SeekFrom) -> Result<u64> {
        (&*self).seek(pos)
    }
}

/// `pread(2)` and `pwrite(2)`: the position stays. `write_all_at` is one operation.
impl FileExt for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.read_some(buf, Some(offset))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<usize> {
        hop_and_wait(|| self.file.write_at(buf, offset))
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        hop_and_wait(|| self.file.write_all_at(buf, offset))
    }
}

/// Takes over a file of `std`.
impl From<fs::File> for File {
    fn from(file: fs::File) -> Self {
        let file = File {
            file,
            refuses_cached: AtomicBool::new(false),
            moving: AtomicUsize::new(0),
        };
        file.refuses_cached
            .store(is_direct(file.borrow()), Ordering::Relaxed);
        file
    }
}

/// Takes over an open descriptor.
impl From<OwnedFd> for File {
    fn from(fd: OwnedFd) -> Self {
        fs::File::from(fd).into()
    }
}

/// The file of `std`.
impl From<File> for fs::File {
    fn from(file: File) -> Self {
        file.file
    }
}

/// The descriptor.
impl From<File> for OwnedFd {
    fn from(file: File) -> Self {
        file.file.into()
    }
}

/// A stream of a child process.
impl From<File> for Stdio {
    fn from(file: File) -> Self {
        file.file.into()
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for File {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl IntoRawFd for File {
    fn into_raw_fd(self) -> RawFd {
        self.file.into_raw_fd()
    }
}

/// Takes over an open descriptor.
impl FromRawFd for File {
    unsafe fn from_raw_fd(fd: RawFd) -> Self {
        // SAFETY: the caller owns the descriptor and gives it up.
        unsafe { fs::File::from_raw_fd(fd) }.into()
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}
