//! The settings of a scheduler, their limits, and why a start fails.

use super::{Deadlocks, Monitor, Report, Rescue, Sched, SchedTraceInterval, Shrink, Stalls};
use crate::os::Errno;
use crate::stack;
use core::{fmt, ptr};

/// The settings of a scheduler.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How many goroutines run at once: 1 to [`MAX_PROCS`].
    pub procs: usize,
    /// How many pollers the Ps share: 1 to `procs`.
    pub pollers: usize,
    /// Bytes of address space of a goroutine's stack: a power of two from [`stack::MIN_STACK`], and
    /// four pages at least, to [`stack::MAX_STACK`].
    pub stack_size: usize,
    /// Bytes at the low end of each stack that fault when they are touched, rounded up to whole
    /// pages: at most a quarter of `stack_size`. `None`: [`stack::GUARD`], or that quarter if it is
    /// less.
    pub guard_size: Option<usize>,
    /// Whether started goroutines move between threads. [`Sched::start`] says what that requires.
    pub migrate: bool,
    /// The most threads that run goroutines: `procs` to [`MAX_THREADS`]. sysmon starts one more for
    /// each thread that a goroutine keeps, up to this number.
    pub max_threads: usize,
    /// The thread that looks after the others. `None`: a goroutine that computes or blocks in a
    /// system call keeps its P until it parks, yields or returns. Nothing is reported, and the
    /// program is linked without sysmon.
    pub sysmon: Option<Monitor>,
    /// How sysmon finds that no goroutine will ever run again. `None`: not at all.
    pub deadlocks: Option<Deadlocks>,
    /// Which goroutines that keep their threads are reported. `None`: none.
    pub stalls: Option<Stalls>,
    /// How often sysmon reports what the scheduler is doing. `None`: never.
    pub schedtrace: Option<SchedTraceInterval>,
    /// When the stacks of goroutines that wait return memory to the system. `None`: never.
    pub shrink: Option<Shrink>,
    /// How goroutines that block their threads in a lock of `std` are made to park. `None`: they go
    /// on blocking them.
    pub rescue: Option<Rescue>,
    /// Called once on the thread of each M, before it runs a goroutine.
    pub thread_started: fn(),
    /// Whether the calling thread is in a panic: `std::thread::panicking`.
    pub unwinding: fn() -> bool,
    /// A word of the calling ordinary thread, at first null: stores the argument, if there is one,
    /// and returns what was there before. If it always returns null, no cancel reaches ordinary
    /// threads.
    pub thread_member: fn(Option<*mut ()>) -> *mut (),
    /// What sysmon calls for each report. It should return soon: sysmon does nothing else until
    /// then.
    pub report: fn(&'static Sched, Report<'_>),
}

impl Config {
    /// Settings for `procs` Ps: a poller for each, stacks of 256 KiB, 256 threads more than Ps, and
    /// sysmon, whose reports are dropped.
    pub fn new(procs: usize) -> Self {
        Config {
            procs,
            pollers: procs,
            stack_size: 256 * 1024,
            guard_size: None,
            migrate: false,
            max_threads: (procs + 256).min(MAX_THREADS),
            sysmon: Some(Monitor::new()),
            deadlocks: None,
            stalls: None,
            schedtrace: None,
            shrink: None,
            rescue: None,
            thread_started: || (),
            unwinding: || false,
            thread_member: |_| ptr::null_mut(),
            report: |_, _| (),
        }
    }

    /// Checks all numbers. Returns the size of the guard in bytes, in whole pages of `page` bytes.
    pub(super) fn check(&self, page: usize) -> usize {
        let stack_size = self.stack_size;
        let least_stack = stack::MIN_STACK.max(4 * page);
        require("procs", self.procs, 1, MAX_PROCS);
        require("pollers", self.pollers, 1, self.procs);
        require("max_threads", self.max_threads, self.procs, MAX_THREADS);
        require("stack_size", stack_size, least_stack, stack::MAX_STACK);
        assert!(
            stack_size.is_power_of_two(),
            "Config::stack_size is {stack_size}: set it to a power of two"
        );
        let default_guard = stack::GUARD.min(stack_size / 4);
        let guard_size = self.guard_size.unwrap_or(default_guard);
        require("guard_size", guard_size, 1, stack_size / 4);
        (guard_size + page - 1) & !(page - 1)
    }
}

/// What the system has refused to a scheduler that starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// Address space for stacks.
    Stacks(Errno),
    /// A poller.
    Poller(Errno),
    /// A thread, after this many were started.
    Thread(usize, Errno),
}

impl StartError {
    /// The error of the system.
    pub fn errno(self) -> Errno {
        match self {
            StartError::Stacks(errno)
            | StartError::Poller(errno)
            | StartError::Thread(_, errno) => errno,
        }
    }
}

/// The limits that make a system refuse a thread with EAGAIN: those of the number of threads, and
/// of the address space that their stacks take.
pub(crate) const THREAD_LIMITS: &str = "`ulimit -u`, `ulimit -v` or the cgroup's pids.max";

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Stacks(_) => f.write_str(
                "no address space for stacks: raise `ulimit -v` or lower the stack size",
            ),
            StartError::Poller(_) => {
                f.write_str("no poller: raise `ulimit -n`, or the system forbids this kind")
            }
            StartError::Thread(started, _) => {
                write!(f, "no thread after {started}: raise {THREAD_LIMITS}")
            }
        }
    }
}

impl core::error::Error for StartError {}

/// The most Ps a scheduler has.
pub const MAX_PROCS: usize = 1024;

/// The most threads a scheduler has: Go's default limit.
pub const MAX_THREADS: usize = 10_000;

fn require(setting: &str, value: usize, least: usize, most: usize) {
    assert!(
        (least..=most).contains(&value),
        "Config::{setting} is {value}: set it to {least} to {most}"
    );
}
