//! [`OpenOptions`].

use super::{File, hop};
use std::fs;
use std::io::Result;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// How to open a file: [`std::fs::OpenOptions`], with the same setters. Those of
/// [`OpenOptionsExt`] set the mode and the flags.
///
/// ```
/// use gopark::fs::OpenOptions;
/// use std::io::Write;
///
/// # let path = std::env::temp_dir().join(format!("doc-{}-options", std::process::id()));
/// let mut log = OpenOptions::new().append(true).create(true).open(&path)?;
/// log.write_all(b"one line\n")?;
/// # gopark::fs::remove_file(&path)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[doc(alias = "OpenFile")]
pub struct OpenOptions(fs::OpenOptions);

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident,)*) => {$(
        $(#[$doc])*
        ///
        /// ```
        #[doc = concat!("let mut options = gopark::fs::OpenOptions::new();")]
        #[doc = concat!("options.", stringify!($name), "(true);")]
        /// ```
        pub fn $name(&mut self, $name: bool) -> &mut Self {
            self.0.$name($name);
            self
        }
    )*};
}

impl OpenOptions {
    /// All options are off.
    ///
    /// ```
    /// assert!(gopark::fs::OpenOptions::new().open("/dev/null").is_err());
    /// ```
    #[expect(clippy::new_without_default, reason = "std has none")]
    pub fn new() -> Self {
        OpenOptions(fs::OpenOptions::new())
    }

    setters! {
        /// Sets whether to read.
        read,
        /// Sets whether to write, from the beginning.
        write,
        /// Sets whether each write goes to the end.
        append,
        /// Sets whether to make the file empty.
        truncate,
        /// Sets whether to make the file if it does not exist.
        create,
        /// Sets whether to make the file, and to fail with `AlreadyExists` if it exists.
        create_new,
    }

    /// Opens `path`. A FIFO waits for its other end, on a thread of the pool. A cancel ends the
    /// wait, and leaves the work behind: if that opens the file, it closes it, too.
    ///
    /// ```
    /// # use gopark::fs::OpenOptions;
    /// let file = OpenOptions::new().read(true).open("/dev/null")?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn open<P: AsRef<Path>>(&self, path: P) -> Result<File> {
        let (options, path) = (self.0.clone(), path.as_ref().to_owned());
        hop(move || options.open(&path)).map(File::from)
    }
}

impl OpenOptionsExt for OpenOptions {
    fn mode(&mut self, mode: u32) -> &mut Self {
        self.0.mode(mode);
        self
    }

    fn custom_flags(&mut self, flags: i32) -> &mut Self {
        self.0.custom_flags(flags);
        self
    }
}
