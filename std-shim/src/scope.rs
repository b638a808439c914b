//! Goroutines that borrow from their caller, are cancelled together, and end before it goes on.
#![allow(
    unsafe_code,
    reason = "goroutines borrow from a frame that waits for them"
)]

use crate::cancel::{Cancel, inherit};
use crate::goroutine::catching;
use crate::group::{Group, Handle};
use crate::park::Thread;
use gopark_core::join::Options;
use gopark_core::select::Case;
use gopark_core::stack::Exhausted;
use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{self, AssertUnwindSafe, Location};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

type Payload = Box<dyn Any + Send>;

/// Where goroutines start that may borrow, and that are cancelled together. [`scope`] makes one.
pub struct Scope<'scope, 'env: 'scope> {
    group: Group,
    shared: Arc<Shared>,
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

struct Shared {
    cancel: Cancel,
    /// The panic that came first.
    panic: Mutex<Option<Payload>>,
}

impl Shared {
    fn panicked(&self, payload: Payload) {
        let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(payload);
        drop(first);
        self.cancel.0.fail();
    }
}

/// Calls `f` with a scope, and waits until all goroutines that were started in the scope have
/// returned. Returns what `f` returns.
///
/// The goroutines may borrow what outlives the scope. They and `f` are members of the scope's
/// [`Cancel`]: [`Scope::cancel`] ends their waits, and so does a cancel of the caller, and a panic
/// of one of them.
///
/// It is Trio's nursery, and [`thread::scope`](crate::thread::scope()) with cancelling. In a
/// goroutine it parks; on an ordinary thread it blocks the thread.
///
/// # Panics
///
/// With the panic of a goroutine of the scope or of `f`: the first one, after all have returned.
///
/// ```
/// use gopark::chan;
///
/// let words = ["one", "two", "three"];
/// let total = gopark::scope(|s| {
///     let lengths = words.map(|word| s.go(move || word.len()));
///     s.go(|| chan::never::<()>().recv()); // Waits until it is cancelled.
///     let total: usize = lengths.map(|length| length.join().unwrap()).iter().sum();
///     s.cancel();
///     total
/// });
/// assert_eq!(total, 11);
/// ```
#[track_caller]
pub fn scope<'env, R>(f: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R) -> R {
    let scope = Scope::new();
    scope.enter(|| f(&scope))
}

impl Scope<'_, '_> {
    #[track_caller]
    fn new() -> Self {
        let cancel = Cancel::below_current();
        let panic = Mutex::new(None);
        Scope {
            group: Group::new(),
            shared: Arc::new(Shared { cancel, panic }),
            scope: PhantomData,
            env: PhantomData,
        }
    }

    /// Calls `f` as a member of the scope, and waits until all goroutines of the scope have
    /// returned. Called once, by the function that has made the scope.
    #[track_caller]
    fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        let shared = &self.shared;
        let run = || shared.cancel.run(f);
        // The goroutines may borrow what a panic of `f` would free.
        let result = panic::catch_unwind(AssertUnwindSafe(run));
        let result = result.map_err(|payload| shared.panicked(payload));
        self.group.wait();
        let first = shared
            .panic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match (result, first) {
            (_, Some(payload)) => panic::resume_unwind(payload),
            (Ok(result), None) => result,
            (Err(()), None) => unreachable!("a panic was kept"),
        }
    }
}

impl<'scope> Scope<'scope, '_> {
    /// Starts a goroutine that runs `f`, which may borrow what outlives the scope.
    ///
    /// If `f` panics, the scope is cancelled. Under a [`limit`](Self::limit), the caller first
    /// waits for a place. A cancel does not end this wait.
    ///
    /// # Panics
    ///
    /// If no stack is available, as in [`go`](crate::go()).
    ///
    /// ```
    /// let text = String::from("borrowed");
    /// let length = gopark::scope(|s| s.go(|| text.len()).join().unwrap());
    /// assert_eq!(length, 8);
    /// ```
    #[track_caller]
    pub fn go<F, T>(&'scope self, f: F) -> ScopedHandle<'scope, T>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        match self.start(Options::default(), f, Location::caller()) {
            Ok(handle) => handle,
            Err(exhausted) => panic!("gopark::scope: {exhausted}"),
        }
    }

    /// As [`go`](Self::go), with a name for dumps and reports.
    ///
    /// ```
    /// gopark::scope(|s| {
    ///     let named = s.go_named("importer", || gopark::thread::current());
    ///     assert_eq!(named.join().unwrap().name(), Some("importer"));
    /// });
    /// ```
    #[track_caller]
    pub fn go_named<F, T>(&'scope self, name: &str, f: F) -> ScopedHandle<'scope, T>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        let options = Options {
            name: Some(name.into()),
            ..Options::default()
        };
        match self.start(options, f, Location::caller()) {
            Ok(handle) => handle,
            Err(exhausted) => panic!("gopark::scope: {exhausted}"),
        }
    }

    /// Starts a goroutine on the current thread, so that `f` need not be `Send`, as
    /// [`go_local`](crate::go_local) does. `f` may borrow what outlives the scope.
    ///
    /// # Panics
    ///
    /// On an ordinary thread, which does not run goroutines. If no stack is available, as in
    /// [`go`](crate::go()).
    ///
    /// ```
    /// use std::cell::Cell;
    ///
    /// gopark::run(|| {
    ///     let count = Cell::new(0);
    ///     gopark::scope(|s| {
    ///         for _ in 0..3 {
    ///             s.go_local(|| count.set(count.get() + 1));
    ///         }
    ///     });
    ///     assert_eq!(count.get(), 3);
    /// });
    /// ```
    #[track_caller]
    pub fn go_local<F, T>(&'scope self, f: F) -> ScopedHandle<'scope, T>
    where
        F: FnOnce() -> T + 'scope,
        T: 'scope,
    {
        // SAFETY: as in `start`.
        match unsafe { self.group.start_local(self.body(f), Location::caller()) } {
            Ok(handle) => ScopedHandle(handle),
            Err(exhausted) => panic!("gopark::scope: {exhausted}"),
        }
    }

    pub(crate) fn start<F, T>(
        &'scope self,
        options: Options,
        f: F,
        site: &'static Location<'static>,
    ) -> Result<ScopedHandle<'scope, T>, Exhausted>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        // SAFETY: `enter` calls `wait` before it returns or unwinds, and `'scope` ends after that.
        unsafe { self.group.start(options, self.body(f), site) }.map(ScopedHandle)
    }

    /// What a goroutine of the scope runs.
    fn body<T>(&self, f: impl FnOnce() -> T) -> impl FnOnce() -> Option<T> {
        let shared = self.shared.clone();
        move || {
            let result = shared.cancel.run(catching(f));
            result.map_err(|payload| shared.panicked(payload)).ok()
        }
    }

    /// Cancels the goroutines of the scope and its closure. Those that are started later are
    /// cancelled from the start. Returns false if the scope was cancelled before.
    ///
    /// ```
    /// gopark::scope(|s| {
    ///     s.go(|| gopark::sleep(std::time::Duration::from_secs(3600)));
    ///     s.cancel();
    /// });
    /// ```
    #[track_caller]
    pub fn cancel(&self) -> bool {
        self.shared.cancel.cancel()
    }

    /// Returns the scope's [`Cancel`].
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// gopark::scope(|s| {
    ///     s.token().set_timeout(Duration::from_millis(2));
    ///     s.go(|| gopark::sleep(Duration::from_secs(3600)));
    /// });
    /// ```
    pub fn token(&self) -> &Cancel {
        &self.shared.cancel
    }

    /// Lets at most `n` goroutines of the scope run at the same time: [`go`](Self::go) then waits
    /// until one has returned. Go's `errgroup.SetLimit`.
    ///
    /// Call `go` from the scope's closure then. If all `n` goroutines call it, each waits for
    /// another to return.
    ///
    /// # Panics
    ///
    /// If `n` is 0, if the scope has a limit, or if goroutines of the scope run.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicUsize, Ordering};
    ///
    /// let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    /// gopark::scope(|s| {
    ///     s.limit(3);
    ///     for _ in 0..20 {
    ///         s.go(|| {
    ///             most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    ///             gopark::yield_now();
    ///             running.fetch_sub(1, Ordering::SeqCst);
    ///         });
    ///     }
    /// });
    /// assert!(most.into_inner() <= 3);
    /// ```
    #[track_caller]
    pub fn limit(&self, n: usize) {
        assert!(n > 0, "a scope whose limit is 0 could start no goroutine");
        let running = self.group.count();
        assert!(
            running == 0,
            "goroutines of the scope run: set its limit before"
        );
        assert!(self.group.limit(n), "the scope has a limit");
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("running", &self.group.count())
            .field("cancel", &self.shared.cancel)
            .finish_non_exhaustive()
    }
}

/// A handle to a goroutine of a [`Scope`]. Without it, the scope waits all the same.
pub struct ScopedHandle<'scope, T>(Handle<'scope, Option<T>>);

/// A goroutine of the scope has panicked. Its panic comes out of the scope.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ScopePanicked;

impl fmt::Display for ScopePanicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the goroutine has panicked")
    }
}

impl std::error::Error for ScopePanicked {}

/// The result of a goroutine of a scope, which is `None` after a panic.
fn returned<T>(result: Option<T>) -> thread::Result<T> {
    result.ok_or_else(|| Box::new(ScopePanicked) as _)
}

impl<T> ScopedHandle<'_, T> {
    /// Waits until the goroutine has returned. Returns its result.
    ///
    /// # Errors
    ///
    /// A [`Cancelled`](crate::Cancelled) if the caller is cancelled before the goroutine returns;
    /// the scope still waits for it. A [`ScopePanicked`] if the goroutine panicked: its panic comes
    /// out of the scope.
    ///
    /// ```
    /// let sum = gopark::scope(|s| s.go(|| 1 + 1).join().unwrap());
    /// assert_eq!(sum, 2);
    /// ```
    #[track_caller]
    pub fn join(self) -> thread::Result<T> {
        match self.0.join.join_or_cancel() {
            Ok(result) => returned(result),
            Err(cancelled) => Err(Box::new(cancelled)),
        }
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
        self.0.join.take().map(returned)
    }

    /// Returns whether the goroutine has returned.
    ///
    /// ```
    /// gopark::scope(|s| {
    ///     let goroutine = s.go(|| ());
    ///     while !goroutine.is_finished() {
    ///         gopark::yield_now();
    ///     }
    /// });
    /// ```
    pub fn is_finished(&self) -> bool {
        self.0.join.is_finished()
    }

    /// Returns the goroutine's number, which dumps and reports print.
    ///
    /// ```
    /// gopark::scope(|s| assert_ne!(s.go(|| ()).id(), s.go(|| ()).id()));
    /// ```
    pub fn id(&self) -> u64 {
        self.0.join.id()
    }

    /// Returns a handle to the goroutine, to unpark it.
    ///
    /// ```
    /// gopark::scope(|s| s.go(|| gopark::thread::park()).thread().unpark());
    /// ```
    pub fn thread(&self) -> &Thread {
        self.0.thread()
    }
}

impl<T> fmt::Debug for ScopedHandle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedHandle")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

/// A [`Scope`] whose goroutines can fail. [`try_scope`] makes one.
//
// Without `E: 'static`, an `E` with a lifetime, as `&'static str`, bounds `'scope` beside `'env`,
// and the compiler then requires of all that the goroutines borrow that it is `'static`.
pub struct TryScope<'scope, 'env: 'scope, E: 'static> {
    scope: Scope<'scope, 'env>,
    /// The error that came first.
    error: Mutex<Option<E>>,
}

/// As [`scope`], for goroutines that return a `Result`: the first error cancels the others, and is
/// returned. Go's `errgroup`.
///
/// # Errors
///
/// The first error of a goroutine or of `f`.
///
/// # Panics
///
/// As [`scope`].
///
/// ```
/// use gopark::net::TcpStream;
/// use std::io::ErrorKind;
///
/// let addresses = ["127.0.0.1:1", "127.0.0.1:2"];
/// let outcome = gopark::try_scope(|s| {
///     for address in addresses {
///         s.go(move || TcpStream::connect(address).map(drop));
///     }
///     Ok(())
/// });
/// assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionRefused);
/// ```
///
/// The goroutines can start others, such as one for each connection:
///
/// ```
/// use gopark::net::{TcpListener, TcpStream};
/// use std::io::{self, Read, Write};
///
/// # fn main() -> io::Result<()> {
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let replies = gopark::try_scope(|s| {
///     s.go(|| {
///         for stream in listener.incoming().take(2) {
///             let mut stream = stream?;
///             s.go(move || stream.write_all(b"hello"));
///         }
///         Ok(())
///     });
///     let mut replies = String::new();
///     for _ in 0..2 {
///         TcpStream::connect(listener.local_addr()?)?.read_to_string(&mut replies)?;
///     }
///     Ok::<_, io::Error>(replies)
/// })?;
/// assert_eq!(replies, "hellohello");
/// # Ok(())
/// # }
/// ```
#[track_caller]
pub fn try_scope<'env, R, E: Send + 'static>(
    f: impl for<'scope> FnOnce(&'scope TryScope<'scope, 'env, E>) -> Result<R, E>,
) -> Result<R, E> {
    let scope = TryScope {
        scope: Scope::new(),
        error: Mutex::new(None),
    };
    let result = scope
        .scope
        .enter(|| f(&scope).map_err(|error| scope.fail(error)));
    let first = scope
        .error
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    match (result, first) {
        (_, Some(error)) => Err(error),
        (Ok(result), None) => Ok(result),
        (Err(()), None) => unreachable!("an error was kept"),
    }
}

impl<'scope, 'env, E: Send + 'static> TryScope<'scope, 'env, E> {
    /// Starts a goroutine that runs `f`. If `f` returns an error, the scope is cancelled.
    ///
    /// The handle's `join` returns `None` after an error.
    ///
    /// # Panics
    ///
    /// As [`Scope::go`].
    ///
    /// ```
    /// let sum = gopark::try_scope(|s| {
    ///     let parts = ["1", "2", "x"].map(|text| s.go(move || text.parse::<i32>()));
    ///     Ok(parts.map(|part| part.join().unwrap_or(None)).iter().flatten().sum::<i32>())
    /// });
    /// assert!(sum.is_err());
    /// ```
    #[track_caller]
    pub fn go<F, T>(&'scope self, f: F) -> ScopedHandle<'scope, Option<T>>
    where
        F: FnOnce() -> Result<T, E> + Send + 'scope,
        T: Send + 'scope,
    {
        self.scope
            .go(move || f().map_err(|error| self.fail(error)).ok())
    }

    /// Keeps the first error, and cancels the scope.
    fn fail(&self, error: E) {
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        let late = match &mut *first {
            Some(_) => Some(error),
            none => {
                *none = Some(error);
                None
            }
        };
        drop(first);
        self.scope.shared.cancel.0.fail();
        drop(late);
    }

    /// Returns the scope, to cancel it, to limit it, or to start goroutines that cannot fail.
    ///
    /// ```
    /// gopark::try_scope(|s| {
    ///     s.scope().limit(2);
    ///     s.go(|| Ok::<(), std::io::Error>(()));
    ///     Ok(())
    /// })
    /// # .unwrap();
    /// ```
    pub fn scope(&'scope self) -> &'scope Scope<'scope, 'env> {
        &self.scope
    }
}

impl<E> fmt::Debug for TryScope<'_, '_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.scope.fmt(f)
    }
}

/// Runs `main` in a goroutine, waits until it has returned, and returns its result. Starts the
/// runtime with the defaults if it is not running.
///
/// `main` may borrow from the caller. `run` does not wait for other goroutines that `main` has
/// started: they continue until the process ends. Within a goroutine, `run` starts another one and
/// parks; a [cancel](crate::sync::Cancel) of the caller reaches it.
///
/// # Panics
///
/// With the panic of `main`. If the runtime is not running and cannot be started. If no stack is
/// available, as in [`go`](crate::go).
///
/// ```
/// let mut numbers = vec![1, 2, 3];
/// let sum = gopark::run(|| {
///     numbers.push(4);
///     numbers.iter().sum::<i32>()
/// });
/// assert_eq!(sum, 10);
/// ```
#[track_caller]
pub fn run<T: Send>(main: impl FnOnce() -> T + Send) -> T {
    let group = Group::new();
    let body = catching(inherit(main));
    // SAFETY: the group is waited for before this function returns. Nothing unwinds before that.
    let result = match unsafe { group.start(Options::default(), body, Location::caller()) } {
        Ok(handle) => handle.join.join(),
        Err(exhausted) => panic!("gopark::run: {exhausted}"),
    };
    group.wait();
    match result {
        Ok(value) => value,
        Err(payload) => panic::resume_unwind(payload),
    }
}
