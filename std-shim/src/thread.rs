//! Goroutines with settings of their own, under the names that `std::thread` has for threads.

use crate::goroutine::{JoinHandle, catching};
use crate::runtime::sched;
use gopark_core::join::Options;
use gopark_core::stack::MAX_STACK;
use std::io;
use std::panic::Location;

/// Settings of one goroutine: its name and the size of its stack.
///
/// ```
/// let deep = gopark::thread::Builder::new().name("deep".into()).stack_size(8 << 20).spawn(|| 6 * 7)?;
/// assert_eq!(deep.join().unwrap(), 42);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "settings do nothing until `spawn`"]
pub struct Builder {
    name: Option<String>,
    stack_size: usize,
}

impl Builder {
    /// The settings of [`go`](crate::go): no name, and a stack of the size that
    /// [`gopark::Builder::stack_size`](crate::Builder::stack_size) says.
    pub fn new() -> Self {
        Self::default()
    }

    /// A name, for dumps and reports, as [`set_name`](crate::set_name) gives it.
    pub fn name(mut self, name: String) -> Self {
        self.name = Some(name);
        self
    }

    /// Bytes of stack that the goroutine can use at least, up to 1 GiB. The guard is not counted;
    /// [`gopark::Builder::stack_size`](crate::Builder::stack_size), the size of ordinary stacks,
    /// counts it. What ordinary stacks have (190
    /// KiB by default) is an ordinary stack; more is rounded up to a power of two, and to 1 MiB at
    /// least. It is address space: pages become memory when they are touched, and are given back when
    /// the goroutine has returned.
    ///
    /// A goroutine that needs more ends the process, with its number, spawn site and stack size on
    /// stderr.
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = bytes;
        self
    }

    /// Starts a goroutine that runs `f`, as [`go`](crate::go) does.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a stack of more than 1 GiB. `OutOfMemory` if there is no such stack, with a
    /// text that names the limit.
    ///
    /// # Panics
    ///
    /// If the runtime is not running and cannot be started.
    #[track_caller]
    pub fn spawn<F, T>(self, f: F) -> io::Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let Builder { name, stack_size } = self;
        if stack_size > MAX_STACK {
            let text = format!("stack_size: {stack_size} bytes is more than {MAX_STACK}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let options = Options {
            name: name.map(Into::into),
            stack_size,
        };
        match sched().go_with(options, catching(f), Location::caller()) {
            Ok(join) => Ok(JoinHandle(join)),
            Err(exhausted) => Err(io::Error::new(io::ErrorKind::OutOfMemory, exhausted)),
        }
    }
}
