//! Goroutines that borrow from their caller.
#![allow(
    unsafe_code,
    reason = "goroutines borrow from a frame that waits for them"
)]

use super::Builder;
use crate::cancel::inherit;
use crate::goroutine::catching;
use crate::group::{Group, Handle};
use crate::park::Thread;
use gopark_core::join::Options;
use gopark_core::select::Case;
use gopark_core::stack::Exhausted;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::panic::{self, AssertUnwindSafe, Location};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Where goroutines start that may borrow: [`std::thread::Scope`]. [`scope`] makes one.
pub struct Scope<'scope, 'env: 'scope> {
    group: Group,
    panicked: Arc<AtomicBool>,
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

/// Calls `f` with a scope, and waits until all goroutines that were started in the scope have
/// returned: [`std::thread::scope`]. Returns what `f` returns.
///
/// In a goroutine it parks; on an ordinary thread it blocks the thread. A
/// [cancel](crate::sync::Cancel) of the caller reaches the goroutines of the scope.
///
/// # Panics
///
/// If a goroutine of the scope panicked and was not joined. With the panic of `f`.
///
/// ```
/// use gopark::thread;
///
/// let names = vec!["a", "b"];
/// let mut count = 0;
/// thread::scope(|s| {
///     s.spawn(|| assert_eq!(names.len(), 2));
///     s.spawn(|| count += names.len());
/// });
/// assert_eq!(count, 2);
/// ```
#[track_caller]
pub fn scope<'env, F, T>(f: F) -> T
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
{
    let scope = Scope {
        group: Group::new(),
        panicked: Arc::new(AtomicBool::new(false)),
        scope: PhantomData,
        env: PhantomData,
    };
    // The goroutines may borrow what a panic of `f` would free.
    let result = panic::catch_unwind(AssertUnwindSafe(|| f(&scope)));
    scope.group.wait();
    match result {
        Err(payload) => panic::resume_unwind(payload),
        Ok(_) if scope.panicked.load(Ordering::Relaxed) => {
            panic!("a goroutine of the scope has panicked")
        }
        Ok(result) => result,
    }
}

impl<'scope> Scope<'scope, '_> {
    /// Starts a goroutine that runs `f`, which may borrow what outlives the scope.
    ///
    /// # Panics
    ///
    /// If no stack is available, as in [`go`](crate::go()).
    ///
    /// ```
    /// use gopark::thread;
    ///
    /// let text = String::from("borrowed");
    /// let length = thread::scope(|s| s.spawn(|| text.len()).join().unwrap());
    /// assert_eq!(length, 8);
    /// ```
    #[track_caller]
    pub fn spawn<F, T>(&'scope self, f: F) -> ScopedJoinHandle<'scope, T>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        match self.start(Options::default(), f, Location::caller()) {
            Ok(handle) => handle,
            Err(exhausted) => panic!("gopark::thread::scope: {exhausted}"),
        }
    }

    fn start<F, T>(
        &'scope self,
        options: Options,
        f: F,
        site: &'static Location<'static>,
    ) -> Result<ScopedJoinHandle<'scope, T>, Exhausted>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        let panicked = self.panicked.clone();
        let run = catching(inherit(f));
        let body = move || Ended {
            result: Some(run()),
            panicked,
        };
        // SAFETY: `scope` calls `wait` before it returns or unwinds, and `'scope` ends after that.
        unsafe { self.group.start(options, body, site) }.map(ScopedJoinHandle)
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("running", &self.group.count())
            .finish_non_exhaustive()
    }
}

/// How a goroutine ended. A panic that is dropped here was returned by no join and no select.
struct Ended<T> {
    result: Option<thread::Result<T>>,
    panicked: Arc<AtomicBool>,
}

impl<T> Ended<T> {
    fn read(mut self) -> thread::Result<T> {
        self.result.take().expect("a result is taken once")
    }
}

impl<T> Drop for Ended<T> {
    fn drop(&mut self) {
        if matches!(self.result, Some(Err(_))) {
            self.panicked.store(true, Ordering::Relaxed);
        }
    }
}

/// A handle to a goroutine of a [`Scope`]: [`std::thread::ScopedJoinHandle`].
///
/// Dropping it detaches nothing: the scope still waits for the goroutine.
pub struct ScopedJoinHandle<'scope, T>(Handle<'scope, Ended<T>>);

impl<T> ScopedJoinHandle<'_, T> {
    /// Waits until the goroutine has returned. Returns its result.
    ///
    /// # Errors
    ///
    /// The payload of the panic if the goroutine panicked. Its scope then does not panic for it.
    ///
    /// ```
    /// use gopark::thread;
    ///
    /// let failed = thread::scope(|s| s.spawn(|| -> u8 { panic!("no luck") }).join());
    /// assert_eq!(failed.unwrap_err().downcast_ref(), Some(&"no luck"));
    /// ```
    #[track_caller]
    pub fn join(self) -> thread::Result<T> {
        self.0.join.join().read()
    }

    /// The return of the goroutine, for a select.
    pub(crate) fn case(&self) -> Case<'_> {
        self.0.join.case()
    }

    /// Takes the result after a select has claimed it.
    pub(crate) fn take(&self) -> Option<thread::Result<T>>
    where
        T: Send,
    {
        self.0.join.take().map(Ended::read)
    }

    /// Returns whether the goroutine has returned. If so, [`join`](Self::join) does not wait.
    ///
    /// ```
    /// use gopark::thread;
    ///
    /// thread::scope(|s| {
    ///     let goroutine = s.spawn(|| ());
    ///     while !goroutine.is_finished() {
    ///         thread::yield_now();
    ///     }
    /// });
    /// ```
    pub fn is_finished(&self) -> bool {
        self.0.join.is_finished()
    }

    /// The goroutine's handle, to unpark it.
    ///
    /// ```
    /// use gopark::thread;
    ///
    /// thread::scope(|s| s.spawn(|| thread::park()).thread().unpark());
    /// ```
    pub fn thread(&self) -> &Thread {
        self.0.thread()
    }

    /// Returns the goroutine's number, as [`JoinHandle::id`](super::JoinHandle::id) does.
    ///
    /// ```
    /// gopark::thread::scope(|s| assert_ne!(s.spawn(|| ()).id(), s.spawn(|| ()).id()));
    /// ```
    pub fn id(&self) -> u64 {
        self.0.join.id()
    }
}

impl<T> fmt::Debug for ScopedJoinHandle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedJoinHandle")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Starts a goroutine in `scope`, as [`Scope::spawn`] does.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    ///
    /// ```
    /// use gopark::thread;
    ///
    /// let text = String::from("borrowed");
    /// thread::scope(|s| {
    ///     let named = thread::Builder::new().name("reader".into());
    ///     let length = named.spawn_scoped(s, || text.len())?;
    ///     assert_eq!(length.join().unwrap(), 8);
    ///     Ok::<(), std::io::Error>(())
    /// })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn spawn_scoped<'scope, F, T>(
        self,
        scope: &'scope Scope<'scope, '_>,
        f: F,
    ) -> io::Result<ScopedJoinHandle<'scope, T>>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        scope
            .start(self.options()?, f, Location::caller())
            .map_err(|exhausted| io::Error::new(io::ErrorKind::OutOfMemory, exhausted))
    }
}
