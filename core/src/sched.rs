//! The scheduler: it decides which goroutine runs on which thread.
//!
//! The goal is Go's: a goroutine is cheap and blocks like a thread, and as many run at once as
//! there are Ps. Each P is held by an M, a thread that takes a goroutine from the queues and runs
//! it until it parks, yields or returns.
//!
//! # Sticky and migrating
//!
//! Go moves a started goroutine to any thread that is free. In Rust that is unsound for ordinary
//! code: an `Rc` or a lock guard on the goroutine's stack would change threads, and compilers keep
//! the address of a thread-local across a call that parks. So:
//!
//! | goroutine | may run on | is queued in |
//! |---|---|---|
//! | not started | any M | a P's ring, from which others steal, or the global queue |
//! | started, sticky | the M that started it: its *home* | that M's home queue or inbox |
//! | started, migrating | any M | a P's ring, or the global queue |
//!
//! One scheduler holds both kinds; `G::home` is the only difference.
//!
//! # Which M is woken
//!
//! For a goroutine that is readied at home, its M is notified. For one that any M may run, an idle
//! M is woken, unless one spins already (`idle`). An idle M sleeps in its poller, so that events
//! and other threads can wake it, or on its futex if another M sleeps in that poller.
//!
//! # Where a fresh goroutine starts
//!
//! Any M may start it, and then it stays there. An M with clearly more goroutines at home offers it
//! to an M that runs none (`placement`).
//!
//! # Which M holds a P
//!
//! A goroutine that computes or blocks in the system keeps its M, but not the P: sysmon gives the P
//! to another M (`handoff`). So there may be more Ms than Ps, and goroutines at home on an M
//! without a P wait until a holder gives way.
//!
//! # The modules
//!
//! A module imports the rows above its own, and in its row what stands to its left. Methods of
//! [`Sched`] call each other across rows: an M that parks polls, what it polls is readied, and that
//! wakes Ms.
//!
//! | row | modules | what they do |
//! |---|---|---|
//! | 0 | `trace`, `metrics`, `hooks` | count, measure, trace and tell what the others do |
//! | 1 | `fork`, `unwinding`, `wake`, `idle`, `ready`, `park`, `stackless` | stops and wake-ups |
//! | 2 | `placement`, `find`, `handoff`, `run` | an M's turns: which goroutine, with which P |
//! | 3 | `watchers`, `pool`, `stall`, `quiescence`, `sysmon` | what sysmon looks at |
//! | 4 | `config`, `threads` | how a scheduler and its threads start |
#![allow(unsafe_code, reason = "a `Here` asserts that its M runs the caller")]

mod config;
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
mod stackless;
mod stall;
mod sysmon;
mod threads;
mod trace;
mod unwinding;
mod wake;
mod watchers;

#[cfg(all(test, loom))]
#[path = "../models/sched.rs"]
pub(crate) mod models;
#[cfg(all(test, loom))]
pub(crate) use threads::Start;

pub(crate) use config::THREAD_LIMITS;
pub use config::{Config, MAX_PROCS, MAX_THREADS, StartError};
pub use fork::FORKED;
pub(crate) use park::{Ended, Parker};
pub use sysmon::Monitor;
pub use trace::Switch;
pub use watchers::{
    Deadlocks, Report, Rescue, SchedTrace, SchedTraceInterval, Shrink, StallReport, Stalls,
};
pub(crate) use watchers::{STILL, SchedTraceTimer, Walks};

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
use crate::sync::{self, AtomicBool, AtomicI64, AtomicU32, CachePadded, Once, Ordering, unmodeled};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr;
use handoff::MsWithoutP;
use idle::Idlers;
use metrics::Totals;
use pool::PoolCounts;
use stackless::Stackless;
use sysmon::Sysmon;
use trace::Observers;

/// A scheduler with its threads, pollers and goroutines. It lives until the process ends.
pub struct Sched {
    os: &'static dyn Os,
    config: Config,
    /// The stacks.
    arena: Stacks,
    ms: Ms,
    ps: Vec<P>,
    pollers: Vec<CachePadded<Poller>>,
    /// Goroutines that any M may run and that lie in no P's ring.
    global: Global,
    /// How many Ms with a P are parked, and how many spin.
    idlers: Idlers,
    /// The Ms without a P.
    without_p: MsWithoutP,
    sysmon: Sysmon,
    /// Whether the last attempt to start an M failed and was reported. Written by sysmon.
    reported_no_thread: AtomicBool,
    /// The time of sysmon's last look.
    coarse_clock: CoarseClock,
    descs: PollCache,
    /// The number of the next goroutine that is in no block of an M.
    next_id: UnmodeledCount,
    ordinary: OrdinaryThreads,
    /// Made when a program asks for a trace or for switches.
    observers: Once<Observers>,
    totals: Totals,
    /// Not null in a child process. Written while the child has one thread.
    forked: unmodeled::AtomicPtr<fork::Refusals>,
    pool: PoolCounts,
    /// Made when the program first lets a goroutine wait without a stack.
    stackless: Once<Stackless>,
    /// The random sequence of selects. Written by any thread.
    pub(crate) picks: CachePadded<unmodeled::AtomicU32>,
}

/// What is counted of threads that are no Ms. Written by any thread.
#[derive(Default)]
struct OrdinaryThreads {
    /// Goroutines that they have spawned.
    spawned: UnmodeledCount,
    /// Those of `spawned` that were to wait without a stack.
    stackless: UnmodeledCount,
    /// Those that wait for a descriptor.
    poll_waiting: AtomicI64,
    /// Those that are parked. The thread that wakes one counts it out first.
    dormant: AtomicI64,
    /// Spreads what they do over the pollers and Ps.
    turn: AtomicU32,
}

impl OrdinaryThreads {
    /// A number below `among`, the next one each time. 0 if `among` is 0.
    fn round_robin(&self, among: usize) -> usize {
        (self.turn.fetch_add(1, Ordering::Relaxed) as usize)
            .checked_rem(among)
            .unwrap_or(0)
    }
}

impl Sched {
    /// Starts a scheduler: makes the pollers, starts an M for each P and sysmon, reserves the
    /// address space of stacks.
    ///
    /// # Errors
    ///
    /// If the system refuses a poller, a thread or address space, in this order. Then the threads
    /// started before end, and the pollers are closed.
    ///
    /// # Panics
    ///
    /// If a number in `config` is out of its range.
    ///
    /// # Safety
    ///
    /// With `config.migrate`, a goroutine may continue on another thread after each call that
    /// parks. No code that runs in goroutines may keep what is bound to a thread (a `!Send` value,
    /// a `MutexGuard`, a reference into a thread-local, `errno`) across such a call. Without
    /// `migrate` there is nothing to promise.
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
        let guard_size = config.check(os.page_size());
        let mut shared = Vec::with_capacity(pollers);
        for _ in 0..pollers {
            let poller = Poller::new(poller().map_err(StartError::Poller)?);
            shared.push(CachePadded::new(poller));
        }
        let gate = threads::start_threads(os, &config)?;
        // Last, because an `Os` cannot undo a reservation: nothing after it may fail.
        let arena = Stacks::reserve(os, stack_size, guard_size, procs).map_err(|errno| {
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
            without_p: MsWithoutP::new(),
            sysmon: Sysmon::new(),
            reported_no_thread: AtomicBool::new(false),
            coarse_clock: CoarseClock::new(),
            descs: PollCache::new(),
            next_id: UnmodeledCount::new(1),
            ordinary: OrdinaryThreads::default(),
            observers: Once::new(),
            totals: Totals::new(),
            forked: unmodeled::AtomicPtr::new(ptr::null_mut()),
            pool: PoolCounts::default(),
            stackless: Once::new(),
            picks: CachePadded::default(),
        }));
        sync::set_os(&sched.os);
        sched.open(&gate);
        Ok(sched)
    }

    /// The port to the operating system.
    pub fn os(&self) -> &'static dyn Os {
        self.os
    }

    /// The settings.
    pub fn config(&self) -> Config {
        self.config
    }

    /// The stacks of the goroutines.
    pub fn arena(&self) -> &Stacks {
        &self.arena
    }

    pub(crate) fn pool(&self) -> &PoolCounts {
        &self.pool
    }

    pub(crate) fn descs(&self) -> &PollCache {
        &self.descs
    }

    /// Returns how many Ms are idle, and how many spin. Exact only while no M runs a goroutine. For
    /// tests.
    #[doc(hidden)]
    pub fn num_idle(&self) -> (usize, usize) {
        self.idlers.count()
    }

    /// The goroutine on whose stack this code runs. `None` on an ordinary thread, on an M's own
    /// stack, and on a stack that the program has switched to itself.
    #[inline]
    pub(crate) fn current(&self) -> Option<&G> {
        let g = self
            .arena
            .owner_at(stack::stack_pointer())?
            .current()
            .cast::<G>();
        // SAFETY: this code runs on the stack, so its owner word names the live G that was bound to
        // it.
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

    /// The P that the calling goroutine runs on, until it parks. `None` on an ordinary thread.
    pub(crate) fn p_here(&self) -> Option<&P> {
        Some(self.p_of(self.m_of(self.current()?)))
    }

    /// The poller that a descriptor joins when the calling thread waits for it first.
    pub(crate) fn poller_here(&'static self) -> &'static Poller {
        let index = match self.p_here() {
            Some(p) => p.poller,
            None => self.ordinary.round_robin(self.pollers.len()),
        };
        self.poller(index)
    }

    /// The number for a new goroutine.
    pub(crate) fn next_id(&self) -> u64 {
        match self.current() {
            Some(g) => self.m_of(g).ids.take(&self.next_id),
            None => self.next_id.fetch_add(1, Ordering::Relaxed),
        }
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

    /// Called by a goroutine that is about to return: releases its reservation of a stack.
    pub(crate) fn release_stack(&'static self) {
        let g = self.current().must("only a goroutine gives up its stack");
        self.stops(g);
        let m = self.m_of(g);
        m.stack_credit.release(&self.arena);
        self.on_exit(m);
    }

    /// Queues a new goroutine that any M may start. Any thread may call this.
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

    /// Queues a new goroutine that only the current M may start. On an ordinary thread, hands it
    /// back.
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
            // The M drains its inbox when it has a P again.
            None => _ = m.inbox.push(g),
        }
        Ok(())
    }

    /// The monotonic clock.
    pub fn now(&self) -> Nanos {
        self.os.now()
    }
}
