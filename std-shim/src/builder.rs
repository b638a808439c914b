//! The settings of the runtime, and its start.
#![allow(
    unsafe_code,
    reason = "core's start has a contract, which `migrate` passes on to its caller"
)]

mod hooks;
mod std_locks;

use crate::leak::{self, OnLeak};
use crate::poller::Choice;
use crate::report::{self, OnStall};
use crate::runtime::{self, LINUX, Runtime, duration_nanos, running, thread_member};
use crate::signals::{self, Handlers};
use crate::std_locks::{StdLocks, install, learn_park_word, rescue};
use crate::switches::{self, OnSwitch};
use crate::{environment, error, fork, overflow, panics, schedtrace, trace};
use gopark_backends::Poller;
use gopark_backends::linux;
use gopark_core::blocking::Pool;
use gopark_core::os::{Nanos, Os};
use gopark_core::polldesc::Deadline;
use gopark_core::sched::{
    Config, Deadlocks, MAX_PROCS, MAX_THREADS, Monitor, Sched, SchedTraceInterval, Shrink, Stalls,
    StartError,
};
use gopark_core::stack::{MAX_STACK, MIN_STACK};
use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The settings of the runtime, for a program that wants other settings than the defaults: tokio's
/// `runtime::Builder`.
///
/// [`start`](Self::start) must come before the first use of anything else in this crate, which
/// starts the runtime with the defaults.
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
    on_leak: Option<OnLeak>,
    on_switch: Option<OnSwitch>,
    dump_on: Option<i32>,
    std_locks: Option<StdLocks>,
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
            on_leak: _,
            on_switch: _,
            dump_on,
            std_locks,
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
            .field("std_locks", std_locks)
            .finish_non_exhaustive()
    }
}

/// Bytes of a goroutine's stack with its guard. Enough for a panic with a backtrace, but not for
/// deep recursion. Only pages that are touched cost memory.
const DEFAULT_STACK: usize = 256 * 1024;

/// An additional remedy if the system refuses a mapping or a thread with EAGAIN: RLIMIT_MEMLOCK may
/// be the limit.
const MLOCK_REMEDY: &str = "; after mlockall(MCL_FUTURE): raise `ulimit -l`";

/// The error for settings that only sysmon would serve.
const NEEDS_SYSMON: &str = "stall_after, on_stall, shrink_stacks and StdLocks::Rescue need sysmon, \
                            which Builder::sysmon(false) turns off";

/// Threads beside one per proc: room for goroutines that keep their threads busy. A thread costs
/// little until it is started.
const DEFAULT_SPARE_THREADS: usize = 256;

impl Builder {
    /// Returns the defaults.
    ///
    /// ```
    /// gopark::Builder::new().start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how many goroutines run at once, 1 to 1024: the number of Ps, Go's `GOMAXPROCS`.
    ///
    /// Default: `GOPARK_MAXPROCS` from the environment, or else the number of CPUs that the
    /// thread's affinity and its cgroup's quota allow, as in Go.
    ///
    /// ```
    /// gopark::Builder::new().max_procs(2).start()?;
    /// assert_eq!(gopark::max_procs(), 2);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "GOMAXPROCS")]
    pub fn max_procs(mut self, n: usize) -> Self {
        self.max_procs = Some(n);
        self
    }

    /// Sets the poller: how the runtime waits for sockets.
    ///
    /// Default: `GOPARK_POLLER` from the environment (the name of a feature), or else the first of
    /// epoll, io-uring, epoll-level and poll that is compiled in and that the system permits.
    /// [`poller()`](crate::poller()) returns the poller in use; a line on stderr says if a better
    /// one was refused ([`reports`](Self::reports)). `{}` prints the name of its feature, `{:?}`
    /// that of the variant.
    ///
    /// If the system refuses a poller that is set here or in the environment,
    /// [`start`](Self::start) fails. `docs/backends.md` in the repository compares the pollers.
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

    /// Sets how many pollers the runtime has, 1 to [`max_procs`](Self::max_procs).
    ///
    /// Default: one per P, which delivers a connection's events on the thread of its goroutine.
    /// With [`migrate`](Self::migrate) one for all, as in Go.
    ///
    /// ```
    /// gopark::Builder::new().max_procs(4).pollers(1).start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn pollers(mut self, n: usize) -> Self {
        self.pollers = Some(n);
        self
    }

    /// Sets the bytes of address space of each goroutine's stack *including its guard*, rounded up
    /// to a power of two: 16 KiB to 1 GiB, default 256 KiB.
    ///
    /// A goroutine can use all of it except the guard ([`guard_size`](Self::guard_size)) and up to
    /// 2 KiB at the top: 190 KiB of 256 KiB. A thread of `std` has 2 MiB. The kernel backs a page
    /// with memory when it is first touched.
    ///
    /// A goroutine that needs more stack ends the process, with its number and spawn site on
    /// stderr. For a single goroutine with a larger stack, use
    /// [`thread::Builder::stack_size`](crate::thread::Builder::stack_size), which, as in `std`, is
    /// the size that the goroutine can use.
    ///
    /// ```
    /// gopark::Builder::new().stack_size(1 << 20).start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stack_size(mut self, bytes: usize) -> Self {
        self.stack_size = Some(bytes);
        self
    }

    /// Sets the bytes of the guard at the low end of each stack, rounded up to whole pages: 1 to a
    /// quarter of [`stack_size`](Self::stack_size). Default: 64 KiB, or that quarter if it is less.
    ///
    /// Touching the guard ends the process. It takes address space, but no memory.
    ///
    /// Code compiled from Rust touches its stack page by page, so a guard of any size stops it. C
    /// code does not: a function whose frame is larger than the guard can step over it into another
    /// goroutine's stack. The largest frames of glibc have 33 KiB. If a program calls C code with
    /// larger frames, raise this and `stack_size`.
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

    /// Sets the most threads that run goroutines, [`max_procs`](Self::max_procs) to 10 000.
    /// Default: `max_procs` + 256. [`blocking`](crate::blocking) has as many threads of its own.
    ///
    /// When a goroutine computes for long or makes a system call that blocks, another thread takes
    /// over its P with the other goroutines, except those that have started on the busy thread,
    /// which wait. When no thread is left, all of them wait.
    ///
    /// ```
    /// gopark::Builder::new().max_procs(2).max_threads(16).start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "SetMaxThreads")]
    pub fn max_threads(mut self, n: usize) -> Self {
        self.max_threads = Some(n);
        self
    }

    /// Sets whether the runtime has a thread that watches the others, Go's sysmon. Default: true.
    ///
    /// Without it, no other thread takes over when a goroutine keeps its thread busy, and deadlocks
    /// are not reported. Settings that need it ([`stall_after`](Self::stall_after),
    /// [`on_stall`](Self::on_stall), [`dump_on`](Self::dump_on),
    /// [`shrink_stacks`](Self::shrink_stacks), `GOPARK_SCHEDTRACE`) are then errors of
    /// [`start`](Self::start).
    ///
    /// ```
    /// gopark::Builder::new().sysmon(false).start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn sysmon(mut self, on: bool) -> Self {
        self.no_sysmon = !on;
        self
    }

    /// Reports each goroutine that keeps its thread for longer than `limit`, whether it computes or
    /// is blocked in a system call.
    ///
    /// Each stall is reported once, to [`on_stall`](Self::on_stall) if that is set, or else on
    /// stderr. sysmon looks at least every 10 ms while goroutines run, so a report comes up to
    /// 10 ms after `limit`. Needs [`sysmon`](Self::sysmon).
    ///
    /// Default: a goroutine is reported if it is blocked for a second while goroutines that can run
    /// on that thread only are ready. stderr then gets one report per spawn site, and at most five
    /// per minute; [`reports`](Self::reports) turns them off.
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

    /// Sets whether the runtime writes unrequested reports to stderr. Default: `GOPARK_REPORTS`
    /// (`on` or `off`) from the environment, or else true.
    ///
    /// They report goroutines that are blocked for a second while others wait for their thread,
    /// that all threads are in use, and, at the start, pollers that the system refuses and what it
    /// does not permit the runtime to observe. The reports of [`stall_after`](Self::stall_after),
    /// and that of a deadlock, which ends the process, are written in any case.
    ///
    /// ```
    /// gopark::Builder::new().reports(false).start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn reports(mut self, on: bool) -> Self {
        self.reports = Some(on);
        self
    }

    /// Writes a [`dump`](crate::dump()) to stderr whenever the process gets `signal`, such as
    /// `libc::SIGUSR1`. `GOPARK_DUMP=USR1` in the environment does the same without code.
    ///
    /// The handler replaces any other handler of that signal. Needs [`sysmon`](Self::sysmon).
    ///
    /// [`start`](Self::start) fails for a signal that cannot be caught (`SIGKILL`, `SIGSTOP`), that
    /// faults raise (`SIGSEGV`, `SIGBUS`, `SIGILL`, `SIGFPE`, `SIGTRAP`, `SIGSYS`), that writing
    /// the dump could raise (`SIGPIPE`, `SIGTTOU`, `SIGXFSZ`), or that libc uses.
    ///
    /// ```
    /// gopark::Builder::new().dump_on(libc::SIGUSR1).start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn dump_on(mut self, signal: i32) -> Self {
        self.dump_on = Some(signal);
        self
    }

    /// Returns unused stack memory to the system: the memory below the stack pointer of goroutines
    /// that have waited for `after`, and that of free stacks. Off by default.
    ///
    /// Without it, the runtime keeps the memory that a deep call or a burst of goroutines has
    /// touched. sysmon looks for such stacks at intervals of `every`, which takes a few
    /// milliseconds for a hundred thousand stacks. Needs [`sysmon`](Self::sysmon), and a kernel
    /// with `membarrier`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let (after, every) = (Duration::from_secs(60), Duration::from_secs(10));
    /// gopark::Builder::new().shrink_stacks(after, every).start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "shrinkstack")]
    pub fn shrink_stacks(mut self, after: Duration, every: Duration) -> Self {
        self.shrink = Some((after, every));
        self
    }

    /// Lets started goroutines move between threads, as in Go: an idle thread takes any goroutine
    /// that is ready.
    ///
    /// # Safety
    ///
    /// After the start, each function of this crate that may park can return on another thread. All
    /// code that runs in goroutines must permit this:
    ///
    /// - It holds nothing that is bound to a thread across such a call: no value that is not `Send`
    ///   (an `Rc`, a `MutexGuard`), and no reference into a thread-local.
    /// - No function uses the same thread-local both before and after such a call, not even through
    ///   inlined code of libraries. A compiler may keep the *address* of a thread-local across a
    ///   call.
    ///
    /// ```
    /// // SAFETY: the goroutines of this program use no thread-locals and share only Send values.
    /// unsafe { gopark::Builder::new().migrate() }.start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub unsafe fn migrate(mut self) -> Self {
        self.migrate = true;
        self
    }

    /// Starts the runtime with these settings. It runs until the process ends.
    ///
    /// # Errors
    ///
    /// - `AlreadyExists` if the runtime is running. The first use of a function of this crate that
    ///   needs the runtime starts it with the defaults.
    /// - `InvalidInput` if a setting or a `GOPARK_…` variable is out of its range.
    /// - `Unsupported` if the poller of [`poller`](Self::poller) or `GOPARK_POLLER` is not compiled
    ///   in, if no poller is, and in a child made by `fork` from a process whose runtime is running
    ///   (`docs/fork.md`).
    /// - The error of the system if it refuses threads, memory, a poller or the file of
    ///   `GOPARK_TRACE`. For threads, memory and pollers the text has the remedy, the kind is that
    ///   of the system's error, and [`source`](std::error::Error::source) is that error, an
    ///   [`io::Error`] with its `raw_os_error`. `EMFILE`, for example, has no kind of its own.
    ///
    /// A start that fails leaves no thread, signal handler or file behind, and may be repeated.
    ///
    /// ```
    /// gopark::Builder::new().start()?;
    /// let error = gopark::Builder::new().start().unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn start(self) -> io::Result<()> {
        static STARTING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        fork::refuse_in_child()?;
        if running().is_some() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the gopark runtime is already running: call Builder::start once, before the \
                 first use of gopark (go, run, a socket or another function that needs the runtime \
                 starts it with the defaults)",
            ));
        }
        let default_reports = report::are_enabled(self.reports)?;
        let locks = self.std_locks_in_effect()?;
        let config = self.config(default_reports, locks)?;
        let mut pollers = Choice::new(self.poller)?;
        let signals = signals::requested(self.dump_on)?;
        if self.no_sysmon && !signals.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a dump on a signal (dump_on, GOPARK_DUMP) needs sysmon, which is off",
            ));
        }
        fork::install(runtime::in_child)?;
        // The scheduler never ends, so all other steps that can fail come before it. If a later
        // step fails, the drop of these two values undoes the earlier ones.
        let handlers = Handlers::install(&signals)?;
        let trace = trace::Request::from_environment()?;
        // SAFETY: `migrate` is set only by `Builder::migrate`, which has the same contract.
        let started = unsafe { Sched::start(&LINUX, config, || pollers.make()) };
        let sched = started.map_err(|error| match error {
            StartError::Poller(_) => pollers.error(config.pollers),
            error => start_error(error),
        })?;
        // No step after this one fails.
        handlers.keep();
        install(locks);
        // No goroutine exists before `RUNTIME` is set, so sysmon has no stall to report yet.
        _ = report::SETTINGS.set(report::Settings {
            default_reports,
            default_stalls: self.stall_after.is_none(),
            on_stall: self.on_stall,
        });
        if let Some(on_leak) = self.on_leak {
            leak::install(on_leak);
        }
        if let Some(on_switch) = self.on_switch {
            switches::install(sched, on_switch);
        }
        if default_reports {
            if let Some(text) = pollers.passed_over() {
                report::report_passed_over(&text);
            }
            if config.sysmon.is_some() {
                report::report_restrictions();
            }
            std_locks::report_if_foreign(self.std_locks);
        }
        if let Some(trace) = trace {
            trace.begin(sched);
        }
        overflow::install(sched);
        panics::install();
        let runtime = Runtime {
            sched,
            pool: Pool::new(config.max_threads),
            poller: pollers.made(),
            epoch: runtime::epoch(),
        };
        runtime.publish();
        Ok(())
    }

    fn needs_sysmon(&self) -> bool {
        self.stall_after.is_some() || self.on_stall.is_some() || self.shrink.is_some()
    }

    fn config(&self, default_reports: bool, locks: StdLocks) -> io::Result<Config> {
        let procs = match self.max_procs {
            Some(n) => n,
            None => default_procs()?,
        };
        let pollers = self.pollers.unwrap_or(if self.migrate { 1 } else { procs });
        let stack_size = self.stack_size.unwrap_or(DEFAULT_STACK);
        let invalid = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        if !(1..=MAX_PROCS).contains(&procs) {
            return invalid(format!("max_procs is {procs}: set it to 1 to {MAX_PROCS}"));
        }
        if !(1..=procs).contains(&pollers) {
            return invalid(format!(
                "pollers is {pollers}: set it to 1 to {procs} (max_procs)"
            ));
        }
        let least = MIN_STACK.max(4 * LINUX.page_size());
        if !(least..=MAX_STACK).contains(&stack_size) {
            return invalid(format!(
                "stack_size is {stack_size} bytes: set it to {least} to {MAX_STACK}"
            ));
        }
        let stack_size = stack_size.next_power_of_two();
        let most = stack_size / 4;
        if let Some(guard_size) = self
            .guard_size
            .filter(|guard_size| !(1..=most).contains(guard_size))
        {
            return invalid(format!(
                "guard_size is {guard_size} bytes: set it to 1 to {most} (a quarter of stack_size)"
            ));
        }
        let max_threads = self.max_threads.unwrap_or(procs + DEFAULT_SPARE_THREADS);
        if !(procs..=MAX_THREADS).contains(&max_threads) {
            return invalid(format!(
                "max_threads is {max_threads}: set it to {procs} (max_procs) to {MAX_THREADS}"
            ));
        }
        if self.no_sysmon && self.needs_sysmon() {
            return invalid(NEEDS_SYSMON.into());
        }
        let guard_size = self.guard_size;
        let shrink = self
            .shrink
            .map(|(after, every)| Shrink::new(duration_nanos(after), duration_nanos(every)));
        let schedtrace = schedtrace::interval(!self.no_sysmon)?.map(SchedTraceInterval::new);
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
            stalls: self.stalls(default_reports),
            schedtrace,
            shrink,
            rescue: (locks == StdLocks::Rescue).then_some(rescue),
            thread_started: learn_park_word,
            unwinding: thread::panicking,
            thread_member,
            report: report::report,
            ..config
        })
    }

    /// Which goroutines that keep their threads are reported.
    fn stalls(&self, default_reports: bool) -> Option<Stalls> {
        let lock = libc::SYS_futex as u32;
        match self.stall_after {
            Some(limit) => Some(Stalls::after(duration_nanos(limit))),
            None => (default_reports || self.on_stall.is_some())
                .then(|| Stalls::blocked(duration_nanos(report::BLOCKED_FOR), lock)),
        }
    }
}

/// Returns the error of a start to which the system has refused threads or memory: what it refused,
/// its error, and the remedies. The error of the system is its source.
fn start_error(error: StartError) -> io::Error {
    let cause = io::Error::from_raw_os_error(error.errno().raw());
    let mlock = if cause.kind() == io::ErrorKind::WouldBlock {
        MLOCK_REMEDY
    } else {
        ""
    };
    let text = match error {
        StartError::Thread(started, errno) => {
            let remedy = match errno.raw() {
                libc::EPERM | libc::EACCES | libc::ENOSYS => "permit clone and clone3",
                libc::ENOMEM => "raise `ulimit -v` or the cgroup's memory.max",
                _ => "raise `ulimit -u`, `ulimit -v` or the cgroup's pids.max",
            };
            let number = started + 1;
            format!("the system refused thread number {number}: {cause}: {remedy}{mlock}")
        }
        error => format!("{error} ({cause}{mlock})"),
    };
    error::with_cause(cause, text)
}

/// Returns `GOPARK_MAXPROCS`, or else the number of available CPUs.
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

/// Returns the runtime. Starts it with the defaults if it is not running. In a child made by `fork`
/// the pointer is null, so this one load also detects that case.
#[inline]
#[track_caller]
fn running_or_started() -> &'static Runtime {
    match running() {
        Some(runtime) => runtime,
        None => start_with_defaults(),
    }
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

/// Returns the scheduler. Starts the runtime with the defaults if it is not running.
#[inline]
#[track_caller]
pub(crate) fn sched() -> &'static Sched {
    running_or_started().sched
}

/// Returns the scheduler if the runtime is running. Starts nothing.
///
/// # Panics
///
/// In a child made by `fork` from a process whose runtime was running.
#[inline]
#[track_caller]
pub(crate) fn sched_if_running() -> Option<&'static Sched> {
    match running() {
        Some(runtime) => Some(runtime.sched),
        None => {
            if let Err(error) = fork::refuse_in_child() {
                panic!("cannot start the gopark runtime: {error}");
            }
            None
        }
    }
}

/// Returns the scheduler beneath, for tests.
#[doc(hidden)]
pub fn scheduler() -> &'static Sched {
    sched()
}

/// Converts an instant to the scheduler's clock. An instant too far away becomes the last one.
#[track_caller]
pub(crate) fn nanos(instant: Instant) -> Nanos {
    running_or_started().nanos(instant)
}

/// Converts a deadline for core, where one that has passed has its own variant.
pub(crate) fn deadline(instant: Option<Instant>) -> Deadline {
    match instant {
        None => Deadline::None,
        Some(instant) if instant <= Instant::now() => Deadline::Passed,
        Some(instant) => Deadline::At(nanos(instant)),
    }
}

/// Returns the threads of [`blocking`](crate::blocking).
pub(crate) fn pool() -> &'static Pool {
    &running_or_started().pool
}

/// Returns how many goroutines run at once: the number of Ps, Go's `GOMAXPROCS`. Starts the runtime
/// with the defaults if it is not running. [`Builder::max_procs`] sets it.
///
/// # Panics
///
/// If the runtime is not running and cannot be started.
///
/// ```
/// assert!(gopark::max_procs() >= 1);
/// ```
#[doc(alias = "GOMAXPROCS")]
#[track_caller]
pub fn max_procs() -> usize {
    sched().config().procs
}

/// Returns the poller of the runtime. Starts the runtime with the defaults if it is not running.
/// [`Builder::poller`] sets it. `{}` prints the name of its feature, such as `io-uring`, and `{:?}`
/// that of the variant.
///
/// # Panics
///
/// If the runtime is not running and cannot be started.
///
/// ```
/// println!("sockets wait in {}", gopark::poller());
/// ```
#[track_caller]
pub fn poller() -> Poller {
    running_or_started().poller
}
