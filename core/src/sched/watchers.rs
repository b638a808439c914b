//! What sysmon runs for the program and what it reports.
//!
//! The watchers are in `watch`, a row above: they read the scheduler, which decides nothing by
//! them. sysmon reaches each through a function pointer in an option of [`Config`](super::Config).
//! Only a constructor of the option names the function, so a program that makes no such option is
//! linked without the watcher.
//!
//! | option | sysmon runs it |
//! |---|---|
//! | [`Stalls`] | for a goroutine that keeps its thread, once it has done so for long enough |
//! | [`Deadlocks`] | before it sleeps because all Ms sleep |
//! | [`Every`] | when a line is due |
//! | [`Shrink`] | once a period |
//! | [`Rescue`] | at each look |

use super::Sched;
use crate::g::GRef;
use crate::lock_wait::LockKind;
use crate::m::M;
use crate::os::{Errno, Nanos, Observe, ThreadState};
use crate::timer::NEVER;
use crate::trace::Identity;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::iter;
use core::panic::Location;
use core::time::Duration;

/// Which stalls are reported.
#[derive(Clone, Copy, Debug)]
pub struct Stalls {
    /// How long a goroutine keeps its thread before sysmon runs `tell`.
    pub(crate) after: Nanos,
    /// The number of the system call in which a thread waits for a lock. In any other call, a
    /// goroutine cannot depend on one that joins it.
    pub(crate) lock: Option<u32>,
    /// Reports the goroutine on the M if it is to be reported. Gets how long it has kept the
    /// thread, and whether it still does. Returns whether it is done with this stall.
    pub(crate) tell: fn(&'static Sched, &M, Nanos, &mut Walks, &dyn Fn() -> bool) -> bool,
}

/// How deadlocks are detected.
#[derive(Clone, Copy)]
pub struct Deadlocks {
    pub(crate) system: &'static dyn Observe,
    /// Reports a deadlock if there is one. Returns whether one is possible, for all that the
    /// scheduler knows.
    pub(crate) look: fn(&'static Sched, &'static dyn Observe) -> bool,
}

impl fmt::Debug for Deadlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deadlocks")
    }
}

/// How often sysmon reports a [`SchedTrace`].
#[derive(Clone, Copy, Debug)]
pub struct SchedTraceInterval {
    pub(crate) period: Nanos,
    /// Reports a line if one is due.
    pub(crate) look: fn(&'static Sched, &mut SchedTraceTimer, Nanos),
}

/// When the stacks of goroutines that wait give memory back.
#[derive(Clone, Copy, Debug)]
pub struct Shrink {
    /// How long a goroutine waits before its stack is shrunk.
    pub(crate) after: Nanos,
    /// The time between two rounds.
    pub(crate) every: Nanos,
    /// Does one round. Gets `after` and the time. Returns whether a later round may find more
    /// although no goroutine runs in between.
    pub(crate) round: fn(&'static Sched, Nanos, Nanos) -> bool,
}

/// What sysmon runs at each look, with the time: [`watch::rescue`](crate::watch::rescue) for the
/// program's table of futexes. Returns whether there was something to do.
pub type Rescue = fn(&'static Sched, Nanos) -> bool;

/// When the lines of one scheduler are due. Belongs to sysmon.
pub(crate) struct SchedTraceTimer {
    pub(crate) every: Option<SchedTraceInterval>,
    pub(crate) start: Nanos,
    pub(crate) next: Nanos,
}

impl SchedTraceTimer {
    /// The first line is due at once, as in Go.
    pub(super) fn new(every: Option<SchedTraceInterval>, now: Nanos) -> Self {
        SchedTraceTimer {
            every,
            start: now,
            next: now,
        }
    }

    /// The time until the next line.
    pub(super) fn until_next(&self, now: Nanos) -> Nanos {
        self.every.map_or(NEVER, |_| (self.next - now).max(0))
    }
}

/// In nanoseconds. Where the system does not say whether a thread is blocked, its CPU clock tells:
/// one that stands still for this long belongs to a blocked thread. Longer than the turns of other
/// threads for which a thread waits for a CPU, as a rule.
pub(crate) const STILL: Nanos = 4_000_000;

/// When the next walk over all stacks may begin. All walks together take a small part of sysmon's
/// time, for any number of Ms.
#[derive(Default)]
pub(crate) struct Walks(Nanos);

impl Walks {
    /// A walk is followed by a pause of so many times its length.
    const PAUSE: Nanos = 20;

    pub(super) fn allowed(&self, now: Nanos) -> bool {
        now >= self.0
    }

    pub(crate) fn ended(&mut self, began: Nanos, now: Nanos) {
        self.0 = now.saturating_add((now - began).saturating_mul(Self::PAUSE));
    }
}

/// What sysmon tells the program, on sysmon's thread. Each is worth a line; its `Display` is that
/// line.
#[derive(Debug)]
#[non_exhaustive]
pub enum Report<'a> {
    /// A goroutine keeps its thread, as [`Config::stalls`](super::Config::stalls) says. Reported
    /// once.
    Stall(&'a StallReport),
    /// A thread or a signal handler has called [`Sched::ask`].
    Asked,
    /// Nothing will ever wake a goroutine or a thread of this process again.
    Deadlock,
    /// For the first time, a wait for a lock of `std` was ended because it kept a thread from other
    /// goroutines. Reported once it has come to its end.
    Rescue {
        /// The goroutine that waited.
        waiter: &'a Identity,
        /// The goroutine that woke it. `None`: an ordinary thread.
        waker: Option<&'a Identity>,
    },
    /// Goroutines keep all threads that there are, so a P stays with one that keeps its thread.
    /// Reported once until there is a thread again.
    NoThread {
        /// How many there are.
        threads: usize,
        /// The system's refusal. `None` if the limit is
        /// [`Config::max_threads`](super::Config::max_threads).
        refused: Option<Errno>,
    },
    /// The pool of `blocking` is full: reported once when jobs have waited for a second, until half
    /// of its threads are free again, and once when the system refuses it a thread, until it grants
    /// one.
    PoolFull {
        /// How many threads it has.
        threads: usize,
        /// How many jobs wait for a thread.
        waiting: usize,
        /// The system's refusal. `None` if the limit is the pool's own.
        refused: Option<Errno>,
    },
    /// What the scheduler is doing. Reported as often as
    /// [`Config::schedtrace`](super::Config::schedtrace) says.
    Trace(&'a SchedTrace),
}

/// A goroutine that keeps its thread.
#[derive(Clone, Debug)]
pub struct StallReport {
    /// Its number.
    pub id: u64,
    /// The name it was given.
    pub name: Option<Arc<str>>,
    /// Where it was spawned.
    pub site: &'static Location<'static>,
    /// For how long it has kept its thread, in nanoseconds.
    pub lasts: Nanos,
    /// What its thread does.
    pub doing: ThreadState,
    /// The kind of lock that its thread waits for, if the wait was made through a
    /// [`FutexTable`](crate::futex::FutexTable).
    pub lock: Option<LockKind>,
    /// How many goroutines are ready and can run on that thread only. With [`Stalls::blocked`] and
    /// a thread that waits for a lock, those at home there that join this goroutine count too.
    pub waiting: usize,
}

/// What a scheduler is doing at one moment. Its `Display` is the line that Go prints for
/// `GODEBUG=schedtrace=…`.
///
/// Two numbers differ from Go's. A proc without work keeps its thread here, which therefore counts
/// among `idlethreads`. And there is no `needspinning`, which is always 0.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SchedTrace {
    /// Time since the start.
    pub elapsed: Duration,
    /// How many goroutines run at once.
    pub max_procs: usize,
    /// Procs that have nothing to run.
    pub idle_procs: usize,
    /// Threads that run goroutines, and sysmon.
    pub threads: usize,
    /// Threads that look for goroutines to run.
    pub spinning_threads: usize,
    /// Threads that sleep because there is nothing to run.
    pub idle_threads: usize,
    /// Length of the queue that all procs share.
    pub global_queue: usize,
    /// Lengths of the procs' own queues.
    pub local_queues: Vec<u64>,
    /// How often each proc looked for a goroutine to run.
    pub ticks: Vec<u64>,
}

impl Sched {
    /// Tells the program.
    pub(crate) fn report(&'static self, report: Report<'_>) {
        (self.config.report)(self, report);
    }

    /// What the scheduler is doing, `elapsed` after its start.
    pub(crate) fn sched_trace(&self, elapsed: Duration) -> SchedTrace {
        let (idle_procs, spinning_threads) = self.idlers.count();
        SchedTrace {
            elapsed,
            max_procs: self.config.procs,
            idle_procs,
            threads: self.ms().count() + 1,
            spinning_threads,
            idle_threads: idle_procs + self.without_p.spares(),
            global_queue: self.global.len(),
            local_queues: self.ps.iter().map(|p| self.queue_len(p)).collect(),
            ticks: self.ps.iter().map(|p| p.tick.get()).collect(),
        }
    }

    /// Takes every goroutine out of the global queue and the Ps' rings, calls `see` with each, and
    /// appends them to the global queue.
    pub(crate) fn each_queued(&'static self, see: impl FnMut(&GRef)) {
        let mut global = self.global.take_all();
        let global = iter::from_fn(|| global.pop_front());
        let rings = self
            .ps
            .iter()
            .flat_map(|p| iter::from_fn(|| p.ring.steal_one()));
        let mut see = see;
        let all: Vec<_> = global.chain(rings).inspect(|g| see(g)).collect();
        if !all.is_empty() {
            self.global.extend(all.into_iter());
            self.wake_idle();
        }
    }

    /// Reports a line of the scheduler trace if one is due. Called by sysmon.
    pub(super) fn trace_if_due(&'static self, schedule: &mut SchedTraceTimer, now: Nanos) {
        if let Some(every) = schedule.every {
            (every.look)(self, schedule, now);
        }
    }

    /// Reports a deadlock if there is one. Returns whether one is possible. Called by sysmon.
    pub(super) fn doubts(&'static self) -> bool {
        self.config
            .deadlocks
            .is_some_and(|Deadlocks { system, look }| look(self, system))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_walk_is_followed_by_a_pause_of_twenty_times_as_long() {
        let mut walks = Walks::default();
        assert!(walks.allowed(0));
        walks.ended(100, 110);
        assert!(!walks.allowed(309));
        assert!(walks.allowed(310));
    }
}
