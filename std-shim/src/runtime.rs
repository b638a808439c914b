//! The one runtime of a process: its settings, its start, and its clock.
#![allow(
    unsafe_code,
    reason = "core's start has a contract that `migrate` passes on"
)]

use crate::goroutine::catching;
use crate::poller::Choice;
use crate::report::{self, OnStall, Stall};
use crate::signals::{self, Handlers};
use crate::{environment, fork, metrics, overflow, panics, trace};
use gopark_backends::Poller;
use gopark_backends::linux::{self, Linux};
use gopark_core::blocking::Pool;
use gopark_core::os::{Nanos, Os};
use gopark_core::polldesc::Deadline;
use gopark_core::sched::{
    Config, Deadlocks, Every, MAX_PROCS, MAX_THREADS, Monitor, Sched, Shrink, Stalls, StartError,
};
use gopark_core::stack::{MAX_STACK, MIN_STACK};
use std::fmt;
use std::io;
use std::panic;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) static LINUX: Linux = Linux::new().with_signal_stacks().with_limits();
/// Null before the start, and in a child process, which has none of the runtime's threads. What it points to is never freed.
static RUNTIME: AtomicPtr<Runtime> = AtomicPtr::new(ptr::null_mut());

struct Runtime {
    sched: &'static Sched,
    pool: Pool,
    poller: Poller,
    /// The same moment on both clocks. The second was read later, so a converted time is never early.
    epoch: (Instant, Nanos),
}

/// Settings of the runtime, for programs that want others than the defaults.
///
/// ```
/// gopark::Builder::new().max_procs(2).stack_size(64 * 1024).start()?;
/// assert_eq!(gopark::max_procs(), 2);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Default)]
#[must_use = "settings do nothing until `start`"]
pub struct Builder {
    max_procs: Option<usize>,
    poller: Option<Poller>,
    pollers: Option<usize>,
    stack_size: Option<usize>,
    guard_size: Option<usize>,
    max_threads: Option<usize>,
    no_sysmon: bool,
    migrate: bool,
    stall_after: Option<Duration>,
    reports: Option<bool>,
    shrink: Option<(Duration, Duration)>,
    on_stall: Option<OnStall>,
    dump_on: Option<i32>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Builder {
            max_procs,
            poller,
            pollers,
            stack_size,
            guard_size,
            max_threads,
            no_sysmon,
            migrate,
            stall_after,
            reports,
            shrink,
            on_stall: _,
            dump_on,
        } = self;
        f.debug_struct("Builder")
            .field("max_procs", max_procs)
            .field("poller", poller)
            .field("pollers", pollers)
            .field("stack_size", stack_size)
            .field("guard_size", guard_size)
            .field("max_threads", max_threads)
            .field("sysmon", &!no_sysmon)
            .field("migrate", migrate)
            .field("stall_after", stall_after)
            .field("reports", reports)
            .field("shrink_stacks", shrink)
            .field("dump_on", dump_on)
            .finish_non_exhaustive()
    }
}

/// Enough for a panic with a backtrace, deep recursion apart; only touched pages cost memory.
const DEFAULT_STACK: usize = 256 * 1024;

/// What else to do about a mapping or a thread that the system refuses with EAGAIN: RLIMIT_MEMLOCK
/// may be the limit.
const LOCKED: &str = "; after mlockall(MCL_FUTURE): raise `ulimit -l`";

/// Threads beside one for each proc. Each costs little until it is started.
const DEFAULT_SPARE_THREADS: usize = 256;

impl Builder {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many goroutines run at once, 1 to 1024. Default: `GOPARK_MAXPROCS` from the environment, or else the CPUs that the thread's affinity
    /// and its cgroup's quota allow, as in Go.
    #[doc(alias = "GOMAXPROCS")]
    pub fn max_procs(mut self, n: usize) -> Self {
        self.max_procs = Some(n);
        self
    }

    /// Which poller the runtime has. Default: `GOPARK_POLLER` from the environment (the name of a
    /// feature), or else the first of these that is compiled in and that the system permits: epoll,
    /// io-uring, epoll-level, poll. [`poller()`](crate::poller()) says which one it is.
    ///
    /// A poller that is chosen here or by the environment is used or is an error: no other one takes
    /// its place. `docs/backends.md` in the repository says what each costs.
    ///
    /// ```
    /// use gopark::Poller;
    ///
    /// gopark::Builder::new().poller(Poller::Poll).start()?;
    /// assert_eq!(gopark::poller(), Poller::Poll);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn poller(mut self, poller: Poller) -> Self {
        self.poller = Some(poller);
        self
    }

    /// How many pollers the runtime has, 1 to `max_procs`. Default: one for each proc, which keeps a connection's events on the thread
    /// of its goroutine; with [`migrate`](Self::migrate) one for all, which is Go's arrangement.
    pub fn pollers(mut self, n: usize) -> Self {
        self.pollers = Some(n);
        self
    }

    /// Bytes of address space of each goroutine's stack *with its guard*, rounded up to a power of
    /// two: 16 KiB to 1 GiB, default 256 KiB. Of these a goroutine can use all but the guard
    /// ([`guard_size`](Self::guard_size)) and up to 2 KiB at the top: 190 KiB of 256, where a
    /// thread of std has 2 MiB. Memory is committed page by page as it is touched.
    ///
    /// [`thread::Builder::stack_size`](crate::thread::Builder::stack_size) is different: as in std,
    /// it is what the goroutine can use.
    ///
    /// A goroutine that needs more ends the process, with its number and spawn site on stderr. One that
    /// needs more than all others is spawned by [`thread::Builder`](crate::thread::Builder).
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// Bytes at the low end of each stack that end the process when they are touched, rounded up to
    /// whole pages: 1 to a quarter of [`stack_size`](Self::stack_size), default 64 KiB or that
    /// quarter if it is less. They are address space only.
    ///
    /// Code of Rust touches its stack page by page, so any guard stops it. Code of C does not: a
    /// function whose frame is larger than the guard may step over it into another goroutine's
    /// stack. The largest frames of glibc have 33 KiB. A program that calls C code with larger ones
    /// raises this and `stack_size`.
    ///
    /// ```
    /// gopark::Builder::new().stack_size(1 << 20).guard_size(256 << 10).start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "guardsize")]
    pub fn guard_size(mut self, bytes: usize) -> Self {
        self.guard_size = Some(bytes);
        self
    }

    /// The most threads that run goroutines, `max_procs` to 10 000; default `max_procs` + 256. A goroutine that keeps its thread busy for long (it
    /// computes, or makes a system call that blocks) is left alone with it, and the other goroutines move to another thread, at most so many, except those that have started on this one: they wait.
    /// [`blocking`](crate::blocking) has as many threads of its own.
    #[doc(alias = "SetMaxThreads")]
    pub fn max_threads(mut self, n: usize) -> Self {
        self.max_threads = Some(n);
        self
    }

    /// Whether a thread watches over the others; on by default. Without it nobody notices a goroutine that keeps its thread for itself, and there
    /// is nobody to print the lines of `GOPARK_SCHEDTRACE` (see [`metrics`](crate::metrics())): setting both is an error.
    pub fn sysmon(mut self, on: bool) -> Self {
        self.no_sysmon = !on;
        self
    }

    /// Reports every goroutine that keeps its thread for longer than this, whether it computes or is
    /// blocked in the system: once each time, to [`on_stall`](Self::on_stall), or else as a line on
    /// stderr. Seen to about a millisecond, from 10 ms on. Needs [`sysmon`](Self::sysmon).
    ///
    /// Default: what is blocked for a second while goroutines that can run on that thread only are
    /// ready. Stderr then gets one line for each spawn site, and at most five a minute;
    /// [`reports`](Self::reports) turns them off.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// gopark::Builder::new().stall_after(Duration::from_millis(100)).start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stall_after(mut self, limit: Duration) -> Self {
        self.stall_after = Some(limit);
        self
    }

    /// Whether stderr gets what the program has not asked for: goroutines that are blocked for a second
    /// while others wait, threads that are used up, and, at the start, what the system refuses to tell.
    /// Default: `GOPARK_REPORTS` (`on` or `off`) from the environment, or else on. What
    /// [`stall_after`](Self::stall_after) asks for is reported in any case, as is a deadlock, which ends
    /// the process.
    ///
    /// ```
    /// gopark::Builder::new().reports(false).start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn reports(mut self, on: bool) -> Self {
        self.reports = Some(on);
        self
    }

    /// Is called with each stall, in place of a line on stderr, also with [`reports(false)`](Self::reports).
    /// It runs on the thread that watches over the others, so it must return soon and must not wait for
    /// a lock that goroutines hold, such as that of standard error, which `eprintln!` takes: send the
    /// stall to another thread. Needs [`sysmon`](Self::sysmon).
    ///
    /// ```
    /// use std::sync::mpsc;
    ///
    /// let (sender, stalls) = mpsc::channel();
    /// std::thread::spawn(move || stalls.iter().for_each(|stall: gopark::Stall| eprintln!("{stall}")));
    /// gopark::Builder::new().on_stall(move |stall| _ = sender.send(stall.clone())).start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn on_stall(mut self, tell: impl Fn(&Stall) + Send + Sync + 'static) -> Self {
        self.on_stall = Some(Arc::new(tell));
        self
    }

    /// Has the process write a [`dump`](crate::dump()) to stderr whenever it gets `signal`, such as
    /// `libc::SIGUSR1`. Needs [`sysmon`](Self::sysmon). The handler replaces any other handler of that
    /// signal. `GOPARK_DUMP=USR1` in the environment does the same without code.
    ///
    /// [`start`](Self::start) refuses signals that cannot be caught (`SIGKILL`, `SIGSTOP`), that faults
    /// raise (`SIGSEGV`, `SIGBUS`, `SIGILL`, `SIGFPE`, `SIGTRAP`, `SIGSYS`), that writing the dump could
    /// raise (`SIGPIPE`, `SIGTTOU`, `SIGXFSZ`), and those that libc uses itself.
    pub fn dump_on(mut self, signal: i32) -> Self {
        self.dump_on = Some(signal);
        self
    }

    /// Gives the memory below the stack pointer of goroutines that have waited for `after` back to the system, and that of stacks that nobody uses:
    /// what a deep call or a burst has touched is not kept. Every so often (`every`) the thread that watches over the others looks for
    /// such stacks: a few milliseconds for a hundred thousand. Off by default. Needs [`sysmon`](Self::sysmon), and a kernel with `membarrier`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// gopark::Builder::new().shrink_stacks(Duration::from_secs(60), Duration::from_secs(10)).start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "shrinkstack")]
    pub fn shrink_stacks(mut self, after: Duration, every: Duration) -> Self {
        self.shrink = Some((after, every));
        self
    }

    /// Lets started goroutines move between threads, as in Go: a thread that is free takes over any goroutine that is ready.
    ///
    /// # Safety
    ///
    /// From here on, everything in this crate that may park may return on another thread. All code that runs in goroutines must stand
    /// that: across such a call it must not keep anything that is bound to a thread: a value that is not `Send` (`Rc`, a
    /// `MutexGuard`), a reference into a thread-local. Compilers are free to keep the *address* of a thread-local across a call, so a function
    /// must not use one thread-local both before and after such a call either, not even through inlined code of libraries.
    pub unsafe fn migrate(mut self) -> Self {
        self.migrate = true;
        self
    }

    /// Starts the runtime. It runs until the process ends.
    ///
    /// # Errors
    ///
    /// `Unsupported` in a child made by `fork` from a process whose runtime is running (`docs/fork.md`),
    /// and for a [`poller`](Self::poller) that is not compiled in.
    /// `InvalidInput` for a setting or a `GOPARK_…` variable out of its range, `AlreadyExists` if it is running (the first use of anything in this crate starts it
    /// with the defaults), whatever `GOPARK_TRACE` makes impossible, and whatever the system says when it refuses threads, memory or a poller.
    /// A start that fails leaves no thread, signal handler or file, and the next one may succeed.
    pub fn start(self) -> io::Result<()> {
        static STARTING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        fork::refuse_in_child()?;
        if running().is_some() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the gopark runtime is already running",
            ));
        }
        let unasked = report::are_wanted(self.reports)?;
        let config = self.config(unasked)?;
        let mut pollers = Choice::new(self.poller)?;
        let signals = signals::requested(self.dump_on)?;
        if self.no_sysmon && !signals.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a dump on a signal (dump_on, GOPARK_DUMP) needs sysmon, which is off",
            ));
        }
        fork::watch(in_child)?;
        // What can fail comes before the scheduler, which never ends. If a later step fails, the drop
        // of these takes back what they did.
        let handlers = Handlers::install(&signals)?;
        let trace = trace::Request::from_environment()?;
        // SAFETY: `migrate` is set only through `Builder::migrate`, whose contract is this one's.
        let started = unsafe { Sched::start(&LINUX, config, || pollers.make()) };
        let sched = started.map_err(|error| {
            let cause = io::Error::from_raw_os_error(error.errno().raw());
            let remedy = match error {
                StartError::Poller(_) => return pollers.error(),
                StartError::Stacks(_) | StartError::Thread(..)
                    if cause.kind() == io::ErrorKind::WouldBlock =>
                {
                    LOCKED
                }
                _ => "",
            };
            io::Error::new(cause.kind(), format!("{error} ({cause}{remedy})"))
        })?;
        // From here on nothing fails.
        handlers.keep();
        // No goroutine can stall before `RUNTIME` is set.
        let on_stall = self.on_stall.clone();
        _ = report::SETTINGS.set(report::Settings {
            unasked,
            unasked_stalls: self.stall_after.is_none(),
            on_stall,
        });
        if unasked && config.sysmon.is_some() {
            report::report_restrictions();
        }
        if let Some(trace) = trace {
            trace.begin(sched);
        }
        // The closest of a few pairs: the thread may be interrupted between the two clocks.
        let epochs = (0..5).map(|_| (Instant::now(), LINUX.now(), Instant::now()));
        let (instant, nanos, _) = epochs
            .min_by_key(|&(before, _, after)| after - before)
            .expect("a few");
        overflow::install(sched);
        panics::install();
        let pool = Pool::new(config.max_threads);
        RUNTIME.store(
            Box::into_raw(Box::new(Runtime {
                sched,
                pool,
                poller: pollers.made(),
                epoch: (instant, nanos),
            })),
            Ordering::Release,
        );
        Ok(())
    }

    fn config(&self, unasked: bool) -> io::Result<Config> {
        let procs = match self.max_procs {
            Some(n) => n,
            None => default_procs()?,
        };
        let pollers = self.pollers.unwrap_or(if self.migrate { 1 } else { procs });
        let stack_size = self.stack_size.unwrap_or(DEFAULT_STACK);
        let invalid = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        if !(1..=MAX_PROCS).contains(&procs) {
            return invalid(format!("max_procs: {procs} is not in 1..={MAX_PROCS}"));
        }
        if !(1..=procs).contains(&pollers) {
            return invalid(format!(
                "pollers: {pollers} is not in 1..={procs} (max_procs)"
            ));
        }
        let least = MIN_STACK.max(4 * LINUX.page_size());
        if !(least..=MAX_STACK).contains(&stack_size) {
            return invalid(format!(
                "stack_size: {stack_size} bytes is not in {least}..={MAX_STACK}"
            ));
        }
        let stack_size = stack_size.next_power_of_two();
        let most = stack_size / 4;
        if let Some(guard_size) = self
            .guard_size
            .filter(|guard_size| !(1..=most).contains(guard_size))
        {
            return invalid(format!(
                "guard_size: {guard_size} bytes is not in 1..={most} (a quarter of stack_size)"
            ));
        }
        let max_threads = self.max_threads.unwrap_or(procs + DEFAULT_SPARE_THREADS);
        if !(procs..=MAX_THREADS).contains(&max_threads) {
            return invalid(format!(
                "max_threads: {max_threads} is not in {procs} (max_procs)..={MAX_THREADS}"
            ));
        }
        if self.no_sysmon && (self.stall_after.is_some() || self.shrink.is_some()) {
            return invalid("stall_after and shrink_stacks need sysmon, which is off".into());
        }
        let guard_size = self.guard_size;
        let stalls = match self.stall_after {
            Some(limit) => Some(Stalls::after(duration_nanos(limit))),
            None if unasked || self.on_stall.is_some() => Some(Stalls::blocked(
                duration_nanos(report::BLOCKED_FOR),
                libc::SYS_futex as u32,
            )),
            None => None,
        };
        let shrink = self
            .shrink
            .map(|(after, every)| Shrink::new(duration_nanos(after), duration_nanos(every)));
        let schedtrace = metrics::schedtrace(!self.no_sysmon)?.map(Every::nanos);
        let config = Config {
            pollers,
            stack_size,
            guard_size,
            migrate: self.migrate,
            max_threads,
            sysmon: (!self.no_sysmon).then(Monitor::new),
            ..Config::new(procs)
        };
        Ok(Config {
            deadlocks: Some(Deadlocks::new(&LINUX)),
            stalls,
            schedtrace,
            shrink,
            unwinding: thread::panicking,
            report: report::report,
            ..config
        })
    }
}

fn default_procs() -> io::Result<usize> {
    const VARIABLE: &str = "GOPARK_MAXPROCS";
    let Some(value) = environment::nonempty(VARIABLE) else {
        return Ok(linux::available_procs().min(MAX_PROCS));
    };
    let number = value.to_str().and_then(|text| text.parse().ok());
    number
        .filter(|number| (1..=MAX_PROCS).contains(number))
        .ok_or_else(|| {
            environment::invalid(
                VARIABLE,
                &value,
                format_args!("a number from 1 to {MAX_PROCS}"),
            )
        })
}

#[inline]
fn running() -> Option<&'static Runtime> {
    // SAFETY: null, or from the box that `start` has leaked. Acquire pairs with its Release.
    unsafe { RUNTIME.load(Ordering::Acquire).as_ref() }
}

/// Where each use of this crate comes in. A child process is told by the pointer that is looked at anyway.
#[inline]
#[track_caller]
fn runtime() -> &'static Runtime {
    match running() {
        Some(runtime) => runtime,
        None => start_with_defaults(),
    }
}

/// On the only thread of a child process, before fork returns there.
fn in_child() -> bool {
    let before = running();
    RUNTIME.store(ptr::null_mut(), Ordering::Release);
    if let Some(runtime) = before {
        runtime.sched.forked();
    }
    before.is_some()
}

#[cold]
#[track_caller]
fn start_with_defaults() -> &'static Runtime {
    match Builder::new().start() {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            panic!("cannot start the gopark runtime: {error}")
        }
        _ => running().expect("started"),
    }
}

/// The scheduler, if it is running. May be called in a signal handler.
pub(crate) fn started() -> Option<&'static Sched> {
    running().map(|runtime| runtime.sched)
}

/// The scheduler, started with the defaults if it is not running.
#[inline]
#[track_caller]
pub(crate) fn sched() -> &'static Sched {
    runtime().sched
}

/// The scheduler beneath, for tests of what is not built on it yet.
#[doc(hidden)]
pub fn scheduler() -> &'static Sched {
    sched()
}

/// An instant on the scheduler's clock. Far ones count as never.
pub(crate) fn nanos(instant: Instant) -> Nanos {
    let (epoch, base) = runtime().epoch;
    match instant.checked_duration_since(epoch) {
        Some(after) => base.saturating_add(duration_nanos(after)),
        None => base.saturating_sub(duration_nanos(epoch - instant)),
    }
}

/// Long ones count as endless.
pub(crate) fn duration_nanos(duration: Duration) -> Nanos {
    let seconds = Nanos::try_from(duration.as_secs()).unwrap_or(Nanos::MAX);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(duration.subsec_nanos().into())
}

/// A deadline as core wants it: passed ones are told apart here.
pub(crate) fn deadline(instant: Option<Instant>) -> Deadline {
    match instant {
        None => Deadline::None,
        Some(instant) if instant <= Instant::now() => Deadline::Passed,
        Some(instant) => Deadline::At(nanos(instant)),
    }
}

/// The threads for work that blocks.
pub(crate) fn pool() -> &'static Pool {
    &runtime().pool
}

/// How many goroutines run at once. Starts the runtime if it is not running.
///
/// ```
/// assert!(gopark::max_procs() >= 1);
/// ```
#[doc(alias = "GOMAXPROCS")]
#[track_caller]
pub fn max_procs() -> usize {
    sched().config().procs
}

/// The poller that the runtime has. Starts it if it is not running.
///
/// ```
/// println!("sockets wait in {}", gopark::poller());
/// ```
#[track_caller]
pub fn poller() -> Poller {
    runtime().poller
}

/// Runs `main` in a goroutine and returns what it returns, starting the runtime if it is not running.
///
/// Goroutines that `main` has started and not joined are not waited for; they run on for as long as the process lives. Called in a
/// goroutine, it runs `main` in another one.
///
/// # Panics
///
/// With the panic of `main`; if the runtime cannot be started; if there is no stack for another goroutine.
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
    let mut result = None;
    let place = &mut result;
    let main: Box<dyn FnOnce() + Send + '_> = Box::new(move || *place = Some(catching(main)()));
    // SAFETY: only the lifetime changes. The closure is called or dropped before `join` returns, or dropped by a failed `go`: both within
    // this function, which holds what it borrows.
    let main: Box<dyn FnOnce() + Send + 'static> = unsafe { std::mem::transmute(main) };
    match sched().go(main, panic::Location::caller()) {
        Ok(goroutine) => goroutine.join(),
        Err(exhausted) => panic!("gopark::run: {exhausted}"),
    }
    match result.expect("main has returned") {
        Ok(value) => value,
        Err(payload) => panic::resume_unwind(payload),
    }
}
