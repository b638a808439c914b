//! Goroutines: starting them, joining them, sleeping and yielding in them.

use crate::panics;
use crate::runtime::{duration_nanos, nanos, pool, sched};
use gopark_core::join::Join;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe, Location};
use std::thread;
use std::time::{Duration, Instant};

/// Starts a goroutine that runs `f`.
///
/// Its stack is small: 256 KiB of address space, of which it can use 190, where a thread of std has 2
/// MiB. [`Builder::stack_size`](crate::Builder::stack_size) sets it for all goroutines, and
/// [`thread::Builder`](crate::thread::Builder) gives one a larger stack.
///
/// It may start on any thread of the runtime, and then stays there. Goroutines of one thread take
/// turns where one parks, which two patterns of safe code do not stand:
/// scoped thread-locals, and a `thread_local!` whose initialiser parks (see the crate's
/// documentation).
///
/// Works in goroutines and on ordinary
/// threads alike.
///
/// Locks and channels of `std::sync` block the thread, and with it all goroutines that have started there:
/// one that waits for what a neighbour holds or would send waits for ever. The crate's documentation
/// says [what works](crate#locks-and-channels-of-std).
///
/// A panic in `f` ends this goroutine only, and comes out of [`JoinHandle::join`]. It is reported on stderr, whether or not the goroutine is
/// ever joined, as `std` reports that of a thread:
///
/// ```text
/// goroutine 7 "importer" (spawned at src/main.rs:20:5) panicked at src/import.rs:3:9:
/// no such column
/// ```
///
/// That is the work of a panic hook, which the runtime sets when it starts if the program has none ([`std::panic::set_hook`]). A program's own
/// hook runs on the goroutine and must not park there: no channel, lock, socket or sleep of a goroutine, since the thread counts as
/// panicking until the hook returns, and its other goroutines would see that.
///
/// # Panics
///
/// If there is no stack for another goroutine; [`try_go`] returns that as an error. If the runtime is not running and cannot be started.
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
    match sched().go(catching(f), Location::caller()) {
        Ok(join) => JoinHandle(join),
        Err(exhausted) => panic!("gopark::go: {exhausted}"),
    }
}

/// As [`go`], but running out of stacks is an error: `OutOfMemory`, with a text that names the limit.
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
    match sched().go(catching(f), Location::caller()) {
        Ok(join) => Ok(JoinHandle(join)),
        Err(exhausted) => Err(io::Error::new(io::ErrorKind::OutOfMemory, exhausted)),
    }
}

/// Starts a goroutine on the current thread only, so that `f` need not be `Send`. It shares `Rc`s with its maker, say.
///
/// # Panics
///
/// On an ordinary thread, which runs no goroutines. If there is no stack for another goroutine.
///
/// ```
/// use std::{cell::Cell, rc::Rc};
///
/// gopark::run(|| {
///     let count = Rc::new(Cell::new(0));
///     let theirs = count.clone();
///     gopark::go_local(move || theirs.set(theirs.get() + 1)).join().unwrap();
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
    match sched().go_local(catching(f), Location::caller()) {
        Ok(join) => JoinHandle(join),
        Err(exhausted) => panic!("gopark::go_local: {exhausted}"),
    }
}

/// The panic goes to the caller of `join`, which can tell whether what `f` shared with others is still consistent.
pub(crate) fn catching<T>(f: impl FnOnce() -> T) -> impl FnOnce() -> thread::Result<T> {
    || panic::catch_unwind(AssertUnwindSafe(|| __rust_begin_short_backtrace(f)))
}

/// Short backtraces, also those of `std`, leave out this function and its callers: they know it by its name.
#[inline(never)]
fn __rust_begin_short_backtrace<T>(f: impl FnOnce() -> T) -> T {
    let result = f();
    // The call is none in the tail, which would leave no frame.
    std::hint::black_box(());
    result
}

/// The right to wait for a goroutine and take its result. Dropping it detaches the goroutine, which runs on.
///
/// ```
/// let failed = gopark::go(|| -> () { panic!("no luck") });
/// assert_eq!(failed.join().unwrap_err().downcast_ref(), Some(&"no luck"));
/// ```
pub struct JoinHandle<T>(pub(crate) Join<thread::Result<T>>);

static_assertions::assert_impl_all!(JoinHandle<u8>: Send, Sync);
static_assertions::assert_not_impl_any!(JoinHandle<std::rc::Rc<u8>>: Send);

impl<T> JoinHandle<T> {
    /// Waits until the goroutine has returned, and returns its result, or the payload of its panic.
    pub fn join(self) -> thread::Result<T> {
        self.0.join()
    }

    /// Whether the goroutine has returned. Then [`join`](Self::join) does not wait.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// The goroutine's number. No other goroutine of this process gets the same.
    pub fn id(&self) -> u64 {
        self.0.id()
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

/// Lets other goroutines run, and goes to the end of the queue. On an ordinary thread, lets other threads run.
///
/// ```
/// gopark::run(|| gopark::yield_now());
/// ```
#[doc(alias = "Gosched")]
pub fn yield_now() {
    let sched = sched();
    if thread::panicking() {
        sched.stops_unwinding();
    }
    sched.yield_now();
}

/// Sleeps for at least `duration`; not at all if it is zero. On an ordinary thread, the thread sleeps.
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
    let sched = sched();
    sched.sleep_until(sched.now().saturating_add(duration_nanos(duration)));
}

/// Sleeps until `deadline`; not at all if it has passed. On an ordinary thread, the thread sleeps.
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
    if deadline > Instant::now() {
        sched().sleep_until(nanos(deadline));
    }
}

/// Runs `work`, which may block its thread, on a thread made for that, and parks meanwhile: other goroutines go on. `work` may borrow from the
/// caller. On an ordinary thread it just runs.
///
/// This is also how a goroutine waits for a lock or channel of `std::sync`: the closure locks, uses and
/// unlocks it. A guard cannot leave the closure.
///
/// Worth it for what takes longer than a few ten microseconds: file operations, name lookups, computing. What blocks without it is noticed
/// after a millisecond, and what computes after three, but goroutines that have started on the same thread wait until it is done. There are
/// at most [`Builder::max_threads`](crate::Builder::max_threads) such threads; with all of them busy, the work waits for its turn. If it waits for a
/// second, or the system refuses the pool a thread, a line on stderr says so.
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
    let sched = sched();
    // A payload is Send, and so is the work with whatever it leaves half done: the panic goes on in the caller, who cannot look at that.
    let asks = sched.identity();
    match pool().run(sched, move || {
        panics::on_behalf_of(asks, || panic::catch_unwind(AssertUnwindSafe(work)))
    }) {
        Ok(value) => value,
        Err(payload) => panic::resume_unwind(payload),
    }
}

/// Gives the calling goroutine a name, for dumps and reports. On an ordinary thread it does nothing.
///
/// ```
/// gopark::run(|| gopark::set_name("main"));
/// ```
#[track_caller]
pub fn set_name(name: &str) {
    sched().set_name(name.into());
}

/// How many goroutines exist: started, and not yet returned.
///
/// ```
/// gopark::run(|| assert!(gopark::num_goroutines() >= 1));
/// ```
#[doc(alias = "NumGoroutine")]
#[track_caller]
pub fn num_goroutines() -> usize {
    sched().num_goroutines()
}
