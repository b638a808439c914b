//! `Builder`.

use crate::builder::sched;
use crate::goroutine::{JoinHandle, reporting};
use gopark_core::join::Options;
use gopark_core::stack::MAX_STACK;
use std::io;
use std::panic::Location;

/// The settings of one goroutine, its name and stack size: [`std::thread::Builder`].
///
/// ```
/// let settings = gopark::thread::Builder::new().name("parser".into()).stack_size(8 << 20);
/// let goroutine = settings.spawn(|| 6 * 7)?;
/// assert_eq!(goroutine.join().unwrap(), 42);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "settings do nothing until `spawn`"]
pub struct Builder {
    name: Option<String>,
    stack_size: usize,
}

impl Builder {
    /// Returns the settings of [`go`](crate::go): no name, and the stack size of
    /// [`gopark::Builder::stack_size`](crate::Builder::stack_size).
    ///
    /// ```
    /// let goroutine = gopark::thread::Builder::new().spawn(|| 6 * 7)?;
    /// assert_eq!(goroutine.join().unwrap(), 42);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the goroutine in dumps, reports and traces, as [`set_name`](crate::set_name) does.
    ///
    /// ```
    /// gopark::thread::Builder::new().name("importer".into()).spawn(|| ())?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn name(mut self, name: String) -> Self {
        self.name = Some(name);
        self
    }

    /// Sets how many bytes of stack the goroutine can use at least, up to 1 GiB.
    ///
    /// The guard is not included, in contrast to
    /// [`gopark::Builder::stack_size`](crate::Builder::stack_size). A request that an ordinary
    /// stack meets, 190 KiB by default, gets an ordinary stack. A larger one is rounded up to a
    /// power of two, at least 1 MiB.
    ///
    /// The stack is address space. The kernel backs a page with memory when it is first touched,
    /// and takes the memory back after the goroutine has returned. A goroutine that needs more
    /// stack ends the process; its number, spawn site and stack size are then printed to stderr.
    ///
    /// ```
    /// let large = gopark::thread::Builder::new().stack_size(4 << 20);
    /// let goroutine = large.spawn(|| [0u8; 2 << 20].len())?;
    /// assert_eq!(goroutine.join().unwrap(), 2 << 20);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = bytes;
        self
    }

    pub(super) fn options(self) -> io::Result<Options> {
        let Builder { name, stack_size } = self;
        if stack_size > MAX_STACK {
            let text = format!("stack_size: {stack_size} bytes is more than {MAX_STACK}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Options {
            name: name.map(Into::into),
            stack_size,
        })
    }

    /// Starts a goroutine that runs `f`, as [`go`](crate::go) does.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a stack of more than 1 GiB. `OutOfMemory` if no such stack is available,
    /// as in [`try_go`](crate::try_go).
    ///
    /// # Panics
    ///
    /// If the runtime is not running and cannot be started.
    ///
    /// ```
    /// let goroutine = gopark::thread::Builder::new().name("adder".into()).spawn(|| 1 + 1)?;
    /// assert_eq!(goroutine.join().unwrap(), 2);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn spawn<F, T>(self, f: F) -> io::Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let options = self.options()?;
        match sched().go_with(options, reporting(f), Location::caller()) {
            Ok(join) => Ok(JoinHandle::new(join)),
            Err(exhausted) => Err(io::Error::new(io::ErrorKind::OutOfMemory, exhausted)),
        }
    }
}
