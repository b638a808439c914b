//! The scheduler: the only code that decides who runs.
//!
//! The goal is Go's: a goroutine is cheap, blocks like a thread, and as many run at once as there are Ps. Every P is held by an M, a
//! thread that takes a goroutine from the queues and runs it until it parks, yields or returns.
//!
//! # Sticky and migrating
//!
//! Go moves a started goroutine to whichever thread is free. In Rust that is unsound for ordinary code: an `Rc` or a lock guard on
//! the goroutine's stack would change threads, and compilers keep the address of a thread-local across a call that parks. So:
//!
//! | goroutine | may run on | is queued in |
//! |---|---|---|
//! | not started | any M | a P's ring (stealable), or the global queue |
//! | started, sticky | the M that started it: its *home* | that M's home queue; through its inbox if readied elsewhere |
//! | started, in a migrating scheduler | any M | a P's ring, or the global queue |
//!
//! One scheduler holds both kinds, and `G::home` is the whole difference.
//!
//! # Who wakes whom
//!
//! A goroutine readied at home needs its M (`M::wake`). One that may run anywhere needs *some* M: if some sleep and none is looking,
//! one is recruited, and it recruits the next when it finds work (`wake`, `idle`). An idle M sleeps in its poller, so that events
//! wake it as well as calls do, or on its futex if another M sleeps there (`find`).
//!
//! # Where a fresh goroutine starts
//!
//! Any M may start it, and then it stays there. An M with clearly more goroutines at home leaves it to
//! one that runs none (`placement`).
//!
//! # Who holds a P
//!
//! A goroutine that computes or blocks in the system keeps its M, but not the P: `sysmon` notices and gives the P to another M (`handoff`).
//! So there may be more Ms than Ps, and goroutines at home on an M without a P wait until a holder gives way.
#![allow(
    unsafe_code,
    reason = "Here is made from the fact of which thread runs"
)]

mod find;
mod fork;
mod handoff;
mod hooks;
mod idle;
mod metrics;
mod park;
mod placement;
mod pool;
mod quiescence;
mod ready;
mod run;
mod stall;
mod sysmon;
mod threads;
mod trace;
mod unwinding;
mod wake;
mod watchers;

#[cfg(all(test, loom))]
#[path = "../models/sched.rs"]
mod models;
#[cfg(all(test, loom))]
pub(crate) use threads::Start;

pub use fork::FORKED;
pub(crate) use stall::{STILL, Walks};
pub use sysmon::Monitor;
pub(crate) use watchers::Schedule;
pub use watchers::{Deadlocks, Every, Report, SchedTrace, Shrink, StallReport, Stalls};

use crate::counter::{CoarseClock, UnmodeledCount};
use crate::g::{G, GRef};
use crate::m::{M, Ms, Visit};
use crate::must::Must;
use crate::os::{Errno, Nanos, Netpoll, Os};
use crate::p::P;
use crate::polldesc::PollCache;
use crate::poller::Poller;
use crate::runq::Global;
use crate::stack::{self, Exhausted, Stacks};
use crate::sync::{self, AtomicBool, AtomicI64, AtomicU32, AtomicU64, Once, Ordering, unmodeled};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::ptr;
use handoff::IdleMs;
use idle::Idlers;
use metrics::Totals;
use pool::PoolCounts;
use sysmon::Sysmon;
use trace::Tracing;

/// What a scheduler is made of.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How many goroutines run at once: at least 1.
    pub procs: usize,
    /// How many pollers they share: 1 to `procs`.
    pub pollers: usize,
    /// Bytes of address space of a goroutine's stack: a power of two from [`stack::MIN_STACK`] to [`stack::MAX_STACK`].
    pub stack_size: usize,
    /// Bytes at the low end of each stack that fault when they are touched, rounded up to whole
    /// pages: at most a quarter of `stack_size`. `None`: [`stack::GUARD`], or that quarter if it is
    /// less.
    pub guard_size: Option<usize>,
    /// Whether started goroutines move between threads. [`Sched::start`] says what that asks for.
    pub migrate: bool,
    /// The most threads that run goroutines, `procs` to [`MAX_THREADS`]: each that is kept busy by one goroutine may be replaced by another.
    pub max_threads: usize,
    /// The thread that watches over the others. `None`: a goroutine that does not block keeps its P and
    /// its turn, nothing is reported, and the program is linked without what would watch.
    pub sysmon: Option<Monitor>,
    /// How it is found out, and reported, that nobody will ever run again. `None`: not at all.
    pub deadlocks: Option<Deadlocks>,
    /// Which goroutines that keep their threads are reported. `None`: none.
    pub stalls: Option<Stalls>,
    /// How often sysmon reports what the scheduler is doing. `None`: never.
    pub schedtrace: Option<Every>,
    /// When the stacks of goroutines that wait give memory back. `None`: never.
    pub shrink: Option<Shrink>,
    /// Whether the calling thread is in a panic: `std::thread::panicking`.
    pub unwinding: fn() -> bool,
    /// What sysmon calls with what it has seen. It is to return soon: nobody watches meanwhile.
    pub report: fn(&'static Sched, Report<'_>),
}

impl Config {
    /// For `procs` Ps: a poller each, stacks of 256 KiB, 256 threads more than Ps, with sysmon, which keeps to itself what it sees.
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
            unwinding: || false,
            report: |_, _| (),
        }
    }
}

/// What a scheduler could not get from the system.
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
    /// What the system said.
    pub fn errno(self) -> Errno {
        match self {
            StartError::Stacks(errno)
            | StartError::Poller(errno)
            | StartError::Thread(_, errno) => errno,
        }
    }
}

/// The limits for which a system refuses a thread with EAGAIN: of their number, and of the address
/// space, which their stacks take.
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

/// A scheduler with its threads, pollers and goroutines. It lives until the process ends.
pub struct Sched {
    os: &'static dyn Os,
    config: Config,
    arena: Stacks,
    ms: Ms,
    ps: Vec<P>,
    pollers: Vec<Poller>,
    global: Global,
    idlers: Idlers,
    exchange: IdleMs,
    sysmon: Sysmon,
    /// Whether the last attempt to start an M failed and was reported.
    reported_no_thread: AtomicBool,
    coarse_clock: CoarseClock,
    descs: PollCache,
    next_id: AtomicU64,
    /// What ordinary threads count, where goroutines use their P's counters.
    ordinary: OrdinaryThreads,
    /// There once somebody wants it.
    trace: Once<Tracing>,
    totals: Totals,
    /// Not null in a child process. Written while that has one thread.
    forked: unmodeled::AtomicPtr<fork::Refusals>,
    pool: PoolCounts,
}

#[derive(Default)]
struct OrdinaryThreads {
    spawned: UnmodeledCount,
    poll_waiting: AtomicI64,
    /// Threads that sleep until somebody in this process wakes them. Whoever wakes one counts it out first.
    dormant: AtomicI64,
    /// Spreads ordinary threads' descriptors over the pollers.
    turn: AtomicU32,
}

fn require(setting: fmt::Arguments<'_>, value: usize, least: usize, most: usize) {
    assert!(
        (least..=most).contains(&value),
        "{setting}: {value} is not in {least}..={most}"
    );
}

impl OrdinaryThreads {
    /// One of so many, in turn.
    fn round_robin(&self, among: usize) -> usize {
        (self.turn.fetch_add(1, Ordering::Relaxed) as usize)
            .checked_rem(among)
            .unwrap_or(0)
    }
}

impl Sched {
    /// Starts a scheduler: makes pollers, starts one M for each P, reserves stacks.
    ///
    /// # Errors
    ///
    /// If the system refuses a poller, a thread or address space, in this order. Threads started before that end, and pollers are closed.
    ///
    /// # Panics
    ///
    /// If a number in `config` is out of its range.
    ///
    /// # Safety
    ///
    /// With `config.migrate`, a goroutine may go on on another thread whenever it has called something that parks. All code that runs in
    /// goroutines must stand that: nothing that is bound to a thread (a `!Send` value, a `MutexGuard`, a reference into a thread-local,
    /// `errno`) may be kept across such a call. Without `migrate` there is nothing to promise.
    pub unsafe fn start(
        os: &'static dyn Os,
        config: Config,
        mut poller: impl FnMut() -> Result<Box<dyn Netpoll>, Errno>,
    ) -> Result<&'static Self, StartError> {
        let Config {
            procs,
            pollers,
            stack_size,
            max_threads,
            ..
        } = config;
        require(format_args!("procs"), procs, 1, MAX_PROCS);
        require(format_args!("pollers"), pollers, 1, procs);
        require(format_args!("max_threads"), max_threads, procs, MAX_THREADS);
        require(
            format_args!("stack_size"),
            stack_size,
            stack::MIN_STACK.max(4 * os.page_size()),
            stack::MAX_STACK,
        );
        assert!(
            stack_size.is_power_of_two(),
            "stack_size: it is no power of two"
        );

        let page = os.page_size();
        let guard_size = config
            .guard_size
            .unwrap_or(stack::GUARD.min(stack_size / 4));
        require(format_args!("guard_size"), guard_size, 1, stack_size / 4);

        let mut shared = Vec::with_capacity(pollers);
        for _ in 0..pollers {
            shared.push(Poller::new(poller().map_err(StartError::Poller)?));
        }
        let gate = threads::start_threads(os, &config)?;
        // Last: an `Os` takes no reservation back, so nothing may fail behind it.
        let arena = Stacks::reserve(os, stack_size, (guard_size + page - 1) & !(page - 1), procs)
            .map_err(|errno| {
            gate.dismiss(os, &config);
            StartError::Stacks(errno)
        })?;
        let sched = Box::leak(Box::new(Sched {
            os,
            config,
            arena,
            ms: Ms::new(max_threads),
            ps: (0..procs)
                .map(|index| P::new(index, index % pollers))
                .collect(),
            pollers: shared,
            global: Global::new(),
            idlers: Idlers::new(),
            exchange: IdleMs::new(),
            sysmon: Sysmon::new(),
            reported_no_thread: AtomicBool::new(false),
            coarse_clock: CoarseClock::new(),
            descs: PollCache::new(),
            next_id: AtomicU64::new(1),
            ordinary: OrdinaryThreads::default(),
            trace: Once::new(),
            totals: Totals::new(),
            forked: unmodeled::AtomicPtr::new(ptr::null_mut()),
            pool: PoolCounts::default(),
        }));
        sync::set_os(&sched.os);
        sched.open(&gate);
        Ok(sched)
    }

    /// The operating system it runs on.
    pub fn os(&self) -> &'static dyn Os {
        self.os
    }

    /// Its settings.
    pub fn config(&self) -> Config {
        self.config
    }

    /// The stacks of its goroutines.
    pub fn arena(&self) -> &Stacks {
        &self.arena
    }

    pub(crate) fn pool(&self) -> &PoolCounts {
        &self.pool
    }

    pub(crate) fn descs(&self) -> &PollCache {
        &self.descs
    }

    /// How many Ms sleep, and how many look for work. For tests that know when nobody runs.
    #[doc(hidden)]
    pub fn num_idle(&self) -> (usize, usize) {
        self.idlers.count()
    }

    /// The goroutine whose stack this code runs on; `None` on an ordinary thread, an M's own stack, or a stack that somebody else switched to.
    #[inline]
    pub(crate) fn current(&self) -> Option<&G> {
        let g = self
            .arena
            .owner_at(stack::stack_pointer())?
            .current()
            .cast::<G>();
        // SAFETY: the stack is in use, by this very code, so its anchor names the live G that it was bound to.
        unsafe { g.as_ref() }
    }

    /// The Ms that have been started, in the order of their start.
    pub(crate) fn ms(&self) -> impl Iterator<Item = &M> {
        self.ms.iter()
    }

    /// The M of an index that `P::holder`, `G::home` or the order of starts names.
    pub(crate) fn m(&self, index: usize) -> &M {
        self.ms
            .get(index)
            .unwrap_or_else(|| panic!("no M {index} was started"))
    }

    /// The M that a running goroutine is on.
    #[inline]
    pub(crate) fn m_of(&self, g: &G) -> &'static M {
        // SAFETY: `execute` resumes goroutines with the address of their M, and Ms are never freed.
        unsafe { &*g.m().cast::<M>() }
    }

    #[inline]
    fn p(&self, index: usize) -> &P {
        &self.ps[index]
    }

    /// The P that an M held when it resumed the goroutine that runs on it.
    #[inline]
    fn p_of(&self, m: &M) -> &P {
        self.p(m
            .p()
            .unwrap_or_else(|| panic!("M {} runs a goroutine and has never held a P", m.index)))
    }

    #[inline]
    fn poller(&self, index: usize) -> &Poller {
        &self.pollers[index]
    }

    /// The M and P that the calling goroutine runs on. `None` on an ordinary thread, and if sysmon
    /// has taken the P because the goroutine keeps its thread.
    #[inline]
    fn here(&'static self) -> Option<Visit> {
        let m = self.m_of(self.current()?);
        let p = self.p_of(m);
        // SAFETY: a running goroutine is on its M's thread, and the callers of this function do not
        // park while they use it.
        unsafe { Visit::new(m, p) }
    }

    /// The poller that a descriptor joins when the caller has to wait for it.
    pub(crate) fn poller_here(&'static self) -> &'static Poller {
        let index = match self.current() {
            Some(g) => self.p_of(self.m_of(g)).poller,
            None => self.ordinary.round_robin(self.pollers.len()),
        };
        self.poller(index)
    }

    /// The number for a new goroutine.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Reserves a stack for a goroutine that is about to be made.
    pub(crate) fn reserve_stack(&'static self) -> Result<(), Exhausted> {
        let Some(g) = self.current() else {
            self.arena.reserve_stacks(1)?;
            return Ok(());
        };
        self.m_of(g).stack_credit.reserve(&self.arena)?;
        Ok(())
    }

    /// Counts the calling goroutine out: its work is done, and its stack promised to another.
    pub(crate) fn release_stack(&'static self) {
        let g = self.current().must("only a goroutine gives up its stack");
        let m = self.m_of(g);
        m.stack_credit.release(&self.arena);
        self.on_exit(m);
    }

    /// Queues a goroutine that has not run, to run on any M. On an ordinary thread or in a goroutine alike.
    #[doc(alias = "newproc")]
    pub(crate) fn submit(&'static self, g: GRef) {
        let here = self.here();
        self.on_spawn(&g, here.as_deref());
        match here {
            Some(here) => self.push_anywhere(&here, g),
            None => self.global.push(g),
        }
        self.wake_idle();
    }

    /// Queues a goroutine that has not run, to run on the current M only. Handed back on an ordinary thread.
    pub(crate) fn submit_here(&'static self, g: GRef) -> Result<(), GRef> {
        let Some(current) = self.current() else {
            return Err(g);
        };
        let m = self.m_of(current);
        g.set_home(m.index);
        m.counts.unstarted.bump();
        let here = self.here();
        self.on_spawn(&g, here.as_deref());
        match here {
            Some(here) => here.home(|home| home.queue.push_back(g)),
            // The M looks there when it has a P again.
            None => _ = m.inbox.push(g),
        }
        Ok(())
    }

    /// The monotonic clock.
    pub fn now(&self) -> Nanos {
        self.os.now()
    }
}
