//! [`ReadDir`], [`DirEntry`] and [`DirBuilder`].

use super::{FileType, Metadata, hop, hop_and_wait};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::Result;
use std::os::unix::fs::{DirBuilderExt, DirEntryExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many entries one hand-over fetches. The C library asks for 32 KiB at a time, about as many
/// entries of medium length.
const BATCH: usize = 512;

/// The entries of a directory, from [`read_dir`](super::read_dir): [`std::fs::ReadDir`].
pub struct ReadDir {
    /// `None` after the last entry.
    source: Option<fs::ReadDir>,
    batch: VecDeque<Result<DirEntry>>,
}

impl ReadDir {
    /// Opens the directory and fetches the first entries. Blocks the thread.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut entries = ReadDir {
            source: Some(fs::read_dir(path)?),
            batch: VecDeque::new(),
        };
        entries.fetch();
        Ok(entries)
    }

    /// Fetches a batch. Blocks the thread.
    fn fetch(&mut self) {
        let Some(source) = &mut self.source else {
            return;
        };
        let before = self.batch.len();
        let entries = source.take(BATCH);
        self.batch
            .extend(entries.map(|entry| entry.map(DirEntry::new)));
        if self.batch.len() - before < BATCH {
            self.source = None;
        }
    }
}

/// After an error of the [cancel](super#cancels), no entry is lost.
impl Iterator for ReadDir {
    type Item = Result<DirEntry>;

    fn next(&mut self) -> Option<Result<DirEntry>> {
        if self.batch.is_empty() && self.source.is_some() {
            let fetched = hop_and_wait(|| {
                self.fetch();
                Ok(())
            });
            if let Err(error) = fetched {
                return Some(Err(error));
            }
        }
        self.batch.pop_front()
    }
}

impl fmt::Debug for ReadDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadDir").finish_non_exhaustive()
    }
}

/// An entry of a directory: [`std::fs::DirEntry`].
pub struct DirEntry {
    entry: Arc<fs::DirEntry>,
    /// What the directory says. `None` if that has failed.
    file_type: Option<FileType>,
}

impl DirEntry {
    /// Blocks the thread if the directory does not know the type of the entry.
    fn new(entry: fs::DirEntry) -> Self {
        DirEntry {
            file_type: entry.file_type().ok(),
            entry: Arc::new(entry),
        }
    }

    /// Returns the path of the directory as given to `read_dir`, with the name.
    ///
    /// ```
    /// for entry in gopark::fs::read_dir("/dev")? {
    ///     assert!(entry?.path().starts_with("/dev"));
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn path(&self) -> PathBuf {
        self.entry.path()
    }

    /// Returns the name.
    ///
    /// ```
    /// let mut entries = gopark::fs::read_dir("/dev")?;
    /// assert!(entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() == "null")));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn file_name(&self) -> OsString {
        self.entry.file_name()
    }

    /// Returns what is known about the entry, without following a symbolic link. One operation.
    ///
    /// ```
    /// for entry in gopark::fs::read_dir("/proc/self/task")? {
    ///     assert!(entry?.metadata()?.is_dir());
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn metadata(&self) -> Result<Metadata> {
        let entry = self.entry.clone();
        hop(move || entry.metadata())
    }

    /// Returns the type of the entry, without following a symbolic link. Makes no system call: it
    /// came with the name.
    ///
    /// ```
    /// for entry in gopark::fs::read_dir("/proc/self/task")? {
    ///     assert!(entry?.file_type()?.is_dir());
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn file_type(&self) -> Result<FileType> {
        if let Some(known) = self.file_type {
            return Ok(known);
        }
        let entry = self.entry.clone();
        hop(move || entry.file_type())
    }
}

impl DirEntryExt for DirEntry {
    fn ino(&self) -> u64 {
        self.entry.ino()
    }
}

impl fmt::Debug for DirEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DirEntry").field(&self.path()).finish()
    }
}

/// Makes directories: [`std::fs::DirBuilder`]. [`DirBuilderExt`] sets the mode.
///
/// ```
/// use std::os::unix::fs::DirBuilderExt;
///
/// # let dir = std::env::temp_dir().join(format!("doc-{}-builder", std::process::id()));
/// gopark::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir.join("a/b"))?;
/// # gopark::fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct DirBuilder {
    recursive: bool,
    mode: u32,
}

impl DirBuilder {
    /// Makes one directory, with the mode 0777 without the bits of the umask.
    ///
    /// ```
    /// assert!(gopark::fs::DirBuilder::new().create("/dev/missing/a").is_err());
    /// ```
    #[expect(clippy::new_without_default, reason = "std has none")]
    pub fn new() -> Self {
        DirBuilder {
            recursive: false,
            mode: 0o777,
        }
    }

    /// Sets whether to make the directories that it is in, too. It is then no error if it exists.
    ///
    /// ```
    /// gopark::fs::DirBuilder::new().recursive(true).create(std::env::temp_dir())?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn recursive(&mut self, recursive: bool) -> &mut Self {
        self.recursive = recursive;
        self
    }

    /// Makes the directory.
    ///
    /// ```
    /// assert!(gopark::fs::DirBuilder::new().create("/dev").is_err());
    /// ```
    #[track_caller]
    pub fn create<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(self.recursive).mode(self.mode);
        let path = path.as_ref().to_owned();
        hop(move || builder.create(&path))
    }
}

impl DirBuilderExt for DirBuilder {
    fn mode(&mut self, mode: u32) -> &mut Self {
        self.mode = mode;
        self
    }
}
