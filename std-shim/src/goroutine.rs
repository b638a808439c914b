//! Goroutines: spawn, join, sleep, yield, and work that blocks a thread.

use crate::builder::{nanos, pool, sched, sched_if_running};
use crate::leak::Finished;
use crate::local::drop_values;
use crate::panics;
use crate::park::{Thread, attachment};
use crate::runtime::duration_nanos;
use gopark_core::join::Join;
use gopark_core::sched::Sched;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe, Location};
use std::thread;
use std::time::{Duration, Instant};

/// Starts a goroutine that runs `f`, like Go's `go` statement and
/// [`std::thread::spawn`](std::thread::spawn()).
///
/// It can be called in goroutines and on ordinary threads. The first call starts the runtime with
/// the defaults if it is not running.
///
/// **Thread.** A goroutine starts on any thread of the runtime and stays on it, unless
/// [`Builder::migrate`](crate::Builder::migrate) is set. Goroutines of one thread take turns when
/// one of them parks. Two patterns of safe code are unsound under this: scoped thread-locals, and a
/// `thread_local!` whose initializer parks ([details](crate#what-is-unsound-under-goroutines)).
///
/// **Stack.** A goroutine can use 190 KiB of stack by default; a thread of `std` has 2 MiB. A
/// goroutine that needs more ends the process. [`Builder::stack_size`](crate::Builder::stack_size)
/// sets the size for all goroutines, [`thread::Builder`](crate::thread::Builder) for a single one.
///
/// **Locks.** A lock or channel of `std::sync` blocks the thread, and with it all goroutines that
/// have started there. If one of these is to unlock or send, both wait without end. See
/// [what works](crate#locks-and-channels-of-std).
///
/// **Panics.** A panic in `f` ends this goroutine only and is the error of [`JoinHandle::join`].
/// Whether or not the goroutine is joined, it is reported on stderr:
///
/// ```text
/// goroutine 7 "importer" (spawned at src/main.rs:20:5) panicked at src/import.rs:3:9:
/// no such column
/// ```
///
/// A panic hook writes this report. The runtime sets it when it starts, unless the program has set
/// its own ([`std::panic::set_hook`]). A program's own hook runs on the goroutine and must not
/// park: `std` counts the thread as panicking until the hook returns, which other goroutines of the
/// thread would observe.
///
/// **Unread results.** If the handle is dropped, the goroutine's result is lost.
/// [`Builder::on_leak`](crate::Builder::on_leak) gets its panics and errors. A program that is
/// compiled with `debug_assertions` prints some of these errors.
///
/// # Panics
///
/// If no stack is available: all reserved address space is in use, or the system refuses memory.
/// [`try_go`] returns this as an error. If the runtime is not running and cannot be started.
///
/// ```
/// let answer = gopark::go(|| 6 * 7);
/// assert_eq!(answer.join().unwrap(), 42);
/// ```
#[track_caller]
#[doc(alias = "newproc")]
pub fn go<F, T>(f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    match sched().go(reporting(f), Location::caller()) {
        Ok(join) => JoinHandle::new(join),
        Err(exhausted) => panic!("gopark::go: {exhausted}"),
    }
}

/// Starts a goroutine that runs `f`, as [`go`] does, but returns an error if there is no stack.
///
/// # Errors
///
/// `OutOfMemory` if no stack is available: all reserved address space is in use, or the system
/// refuses memory. The text names the limit and the setting that raises it.
///
/// # Panics
///
/// If the runtime is not running and cannot be started.
///
/// ```
/// let answer = gopark::try_go(|| 6 * 7)?;
/// assert_eq!(answer.join().unwrap(), 42);
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn try_go<F, T>(f: F) -> io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    match sched().go(reporting(f), Location::caller()) {
        Ok(join) => Ok(JoinHandle::new(join)),
        Err(exhausted) => Err(io::Error::new(io::ErrorKind::OutOfMemory, exhausted)),
    }
}

/// Starts a goroutine on the current thread, so that `f` need not be `Send`.
///
/// The goroutine can share values such as an `Rc` with the caller, as with tokio's `spawn_local`.
///
/// # Panics
///
/// On an ordinary thread, which does not run goroutines: call it within [`run`](crate::run). If no
/// stack is available, as in [`go`].
///
/// ```
/// use std::{cell::Cell, rc::Rc};
///
/// gopark::run(|| {
///     let count = Rc::new(Cell::new(0));
///     let shared = count.clone();
///     gopark::go_local(move || shared.set(shared.get() + 1)).join().unwrap();
///     assert_eq!(count.get(), 1);
/// });
/// ```
#[track_caller]
#[doc(alias = "LockOSThread")]
pub fn go_local<F, T>(f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    let Some(sched) = sched_if_running() else {
        panic!("go_local: an ordinary thread runs no goroutines; call it in one, or use go");
    };
    match sched.go_local(reporting(f), Location::caller()) {
        Ok(join) => JoinHandle::new(join),
        Err(exhausted) => panic!("gopark::go_local: {exhausted}"),
    }
}

/// Wraps `f` so that it returns its panic as an error. `f` need not be `UnwindSafe`: the caller of
/// `join` gets the panic and must judge whether the data shared with `f` is still consistent.
pub(crate) fn catching<T>(f: impl FnOnce() -> T) -> impl FnOnce() -> thread::Result<T> {
    || {
        let result = panic::catch_unwind(AssertUnwindSafe(|| __rust_begin_short_backtrace(f)));
        drop_values();
        result
    }
}

/// As [`catching`], for a goroutine with a [`JoinHandle`].
pub(crate) fn reporting<T: 'static>(f: impl FnOnce() -> T) -> impl FnOnce() -> Finished<T> {
    || Finished::new(catching(f)())
}

/// Marks where a goroutine's own code begins. Short backtraces, those of `std` included, omit the
/// function of this name and its callers.
#[inline(never)]
fn __rust_begin_short_backtrace<T>(f: impl FnOnce() -> T) -> T {
    let result = f();
    // Prevents a tail call of `f`, which would remove this frame.
    std::hint::black_box(());
    result
}

/// A handle to wait for a goroutine and take its result: [`std::thread::JoinHandle`].
///
/// Dropping the handle detaches the goroutine: it continues to run, and its result is lost unless
/// [`Builder::on_leak`](crate::Builder::on_leak) gets it. Goroutines of a
/// [`scope`](crate::scope()), and members of a [`Cancel`](crate::sync::Cancel), can be cancelled.
///
/// ```
/// let failed = gopark::go(|| -> () { panic!("no luck") });
/// assert_eq!(failed.join().unwrap_err().downcast_ref(), Some(&"no luck"));
/// ```
pub struct JoinHandle<T> {
    pub(crate) join: Join<Finished<T>>,
}

static_assertions::assert_impl_all!(JoinHandle<u8>: Send, Sync);
static_assertions::assert_not_impl_any!(JoinHandle<std::rc::Rc<u8>>: Send);

impl<T> JoinHandle<T> {
    pub(crate) fn new(join: Join<Finished<T>>) -> Self {
        JoinHandle { join }
    }

    /// Waits until the goroutine has returned. Returns its result.
    ///
    /// In a goroutine it parks; on an ordinary thread it blocks the thread. It does not wait if the
    /// goroutine has already returned.
    ///
    /// # Errors
    ///
    /// The payload of the panic if the goroutine panicked, as in [`std::thread::JoinHandle::join`].
    /// A [`Cancelled`](crate::Cancelled) if the caller is cancelled before the goroutine returns,
    /// which then goes on, detached.
    ///
    /// ```
    /// let goroutine = gopark::go(|| "done");
    /// assert_eq!(goroutine.join().unwrap(), "done");
    /// ```
    ///
    /// To tell a cancel of the caller from a panic of the goroutine:
    ///
    /// ```
    /// use gopark::{Cancelled, JoinHandle, sync::Cancel};
    /// use std::panic::resume_unwind;
    ///
    /// fn result_of<T>(goroutine: JoinHandle<T>) -> Result<T, Cancelled> {
    ///     match goroutine.join() {
    ///         Ok(value) => Ok(value),
    ///         Err(payload) if payload.is::<Cancelled>() => Err(Cancelled),
    ///         Err(panic) => resume_unwind(panic),
    ///     }
    /// }
    ///
    /// let cancel = Cancel::new();
    /// cancel.cancel();
    /// let forever = gopark::go(|| gopark::chan::never::<()>().recv());
    /// assert_eq!(cancel.run(|| result_of(forever)), Err(Cancelled));
    /// ```
    #[track_caller]
    pub fn join(self) -> thread::Result<T> {
        match self.join.join_or_cancel() {
            Ok(finished) => finished.read(),
            Err(cancelled) => Err(Box::new(cancelled)),
        }
    }

    /// Returns whether the goroutine has returned. If so, [`join`](Self::join) does not wait.
    ///
    /// ```
    /// gopark::run(|| {
    ///     let goroutine = gopark::go_local(|| ());
    ///     assert!(!goroutine.is_finished()); // It needs this thread, which is busy.
    ///     while !goroutine.is_finished() {
    ///         gopark::yield_now();
    ///     }
    /// });
    /// ```
    pub fn is_finished(&self) -> bool {
        self.join.is_finished()
    }

    /// Returns the goroutine's number, which dumps and reports print. It is unique in the process.
    ///
    /// ```
    /// let (a, b) = (gopark::go(|| ()), gopark::go(|| ()));
    /// assert_ne!(a.id(), b.id());
    /// ```
    pub fn id(&self) -> u64 {
        self.join.id()
    }

    /// Returns a handle to the goroutine, to unpark it.
    ///
    /// ```
    /// use gopark::thread;
    ///
    /// let sleeper = thread::spawn(|| thread::park());
    /// sleeper.thread().unpark();
    /// sleeper.join().unwrap();
    /// ```
    pub fn thread(&self) -> &Thread {
        self.join.attached(attachment)
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

/// Lets other goroutines run: moves the calling goroutine to the end of the run queue, as Go's
/// `runtime.Gosched` does. On an ordinary thread, calls [`std::thread::yield_now`].
///
/// A goroutine that computes for long should call it now and then: the runtime does not preempt
/// goroutines.
///
/// ```
/// use std::{cell::Cell, rc::Rc};
///
/// gopark::run(|| {
///     let done = Rc::new(Cell::new(false));
///     let shared = done.clone();
///     gopark::go_local(move || shared.set(true));
///     while !done.get() {
///         gopark::yield_now();
///     }
/// });
/// ```
#[doc(alias = "Gosched")]
#[track_caller]
pub fn yield_now() {
    let Some(sched) = sched_if_running() else {
        return thread::yield_now();
    };
    if thread::panicking() {
        sched.stops_unwinding();
    }
    sched.yield_now();
}

/// Sleeps for at least `duration`, as Go's `time.Sleep` does. Returns at once if it is zero.
///
/// In a goroutine it parks; on an ordinary thread the thread sleeps. A
/// [cancel](crate::sync::Cancel) ends the sleep early.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// let start = Instant::now();
/// gopark::run(|| gopark::sleep(Duration::from_millis(2)));
/// assert!(start.elapsed() >= Duration::from_millis(2));
/// ```
#[track_caller]
pub fn sleep(duration: Duration) {
    if duration.is_zero() {
        return;
    }
    match sched_if_running() {
        Some(sched) => {
            sched.sleep_until(sched.now().saturating_add(duration_nanos(duration)));
        }
        None => thread::sleep(duration),
    }
}

/// Sleeps until `deadline`. Returns at once if it has passed.
///
/// In a goroutine it parks; on an ordinary thread the thread sleeps. A
/// [cancel](crate::sync::Cancel) ends the sleep early.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// let soon = Instant::now() + Duration::from_millis(2);
/// gopark::run(move || gopark::sleep_until(soon));
/// assert!(Instant::now() >= soon);
/// ```
#[track_caller]
pub fn sleep_until(deadline: Instant) {
    let now = Instant::now();
    if deadline <= now {
        return;
    }
    match sched_if_running() {
        Some(sched) => sched.sleep_until(nanos(deadline)),
        None => thread::sleep(deadline - now),
    }
}

/// Runs `work` on a thread of a pool while the goroutine is parked. Returns what `work` returns.
///
/// Use it for work that blocks its thread or computes for long: file operations, name lookups,
/// locks and channels of `std::sync`, compression. Other goroutines of the thread continue. It is
/// tokio's `spawn_blocking` with the wait included, so `work` may borrow from the caller. On an
/// ordinary thread, `work` runs on that thread.
///
/// To wait for a lock of `std::sync`, lock, use and unlock it within `work`; the guard cannot leave
/// the closure.
///
/// The hand-over costs some ten microseconds, so shorter work does not gain from it. Without it,
/// the runtime notices a blocked thread after 1 ms, and a goroutine that computes after 3 ms. It
/// then moves the other goroutines to another thread, except those that have started on this one,
/// which wait.
///
/// The pool has at most [`Builder::max_threads`](crate::Builder::max_threads) threads. While all
/// are busy, further work is queued. A line on stderr reports work that has been queued for a
/// second, and a thread that the system refuses to the pool. A cancel does not end `work`, and the
/// caller waits for it. The caller of [`try_blocking`](crate::try_blocking) does not.
///
/// # Panics
///
/// With the panic of `work`.
///
/// ```
/// gopark::run(|| {
///     let path = String::from("/proc/self/comm");
///     let name = gopark::blocking(|| std::fs::read_to_string(&path))?;
///     assert!(!name.is_empty());
///     Ok::<(), std::io::Error>(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "entersyscall")]
#[track_caller]
pub fn blocking<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let Some(sched) = sched_if_running() else {
        return work();
    };
    // `work` need not be UnwindSafe: its panic continues in the caller, which then cannot observe
    // inconsistent data either.
    let caller = sched.identity();
    match pool().run(sched, move || {
        panics::on_behalf_of(caller, || panic::catch_unwind(AssertUnwindSafe(work)))
    }) {
        Ok(value) => value,
        Err(payload) => panic::resume_unwind(payload),
    }
}

/// Names the calling goroutine in dumps, reports and traces. On an ordinary thread it does nothing.
///
/// ```
/// gopark::run(|| {
///     gopark::set_name("importer");
///     let mut text = Vec::new();
///     gopark::dump(&mut text)?;
///     assert!(String::from_utf8_lossy(&text).contains("importer"));
///     Ok::<(), std::io::Error>(())
/// })?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn set_name(name: &str) {
    if let Some(sched) = sched_if_running() {
        sched.set_name(name.into());
    }
}

/// Returns how many goroutines exist: those that were started and have not returned, as Go's
/// `runtime.NumGoroutine` does. Returns 0 if the runtime is not running, and does not start it.
///
/// ```
/// gopark::run(|| assert!(gopark::num_goroutines() >= 1));
/// ```
#[doc(alias = "NumGoroutine")]
#[track_caller]
pub fn num_goroutines() -> usize {
    sched_if_running().map_or(0, Sched::num_goroutines)
}
