//! The scheduler's threads: sysmon, and one thread for each M.
//!
//! A scheduler starts with the Ms of all its Ps and sysmon, or not at all. So its threads wait at a
//! gate until everything else is there; if something fails, the gate lets them end. An M that is
//! started later, to take the P of a blocked M, passes a gate of its own.
#![allow(
    unsafe_code,
    reason = "a thread's start and the scheduler travel as addresses"
)]

use super::{Config, Monitor, Report, Sched, StartError};
use crate::m::M;
use crate::os::{Errno, Os};
use crate::stack::Exhausted;
use crate::sync::{AtomicPtr, AtomicU32, Ordering};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr;

/// What a new thread gets from the thread that spawned it.
pub(crate) struct Start {
    os: &'static dyn Os,
    gate: Arc<Gate>,
    role: Role,
}

#[derive(Clone, Copy)]
enum Role {
    /// The M of this index.
    M(usize),
    Sysmon(Monitor),
}

const SHUT: u32 = 0;
const OPEN: u32 = 1;

/// Where new threads wait for their scheduler.
pub(super) struct Gate {
    /// `SHUT` or `OPEN`: a futex.
    state: AtomicU32,
    /// Written before the gate opens. Null: the start has failed, and the threads end.
    sched: AtomicPtr<Sched>,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Gate {
            state: AtomicU32::new(SHUT),
            sched: AtomicPtr::new(ptr::null_mut()),
        })
    }

    /// Waits until the gate is open. Returns the scheduler, or `None` if the start has failed.
    fn pass(&self, os: &dyn Os) -> Option<&'static Sched> {
        // Acquire pairs with the Release in `open`.
        while self.state.load(Ordering::Acquire) == SHUT {
            os.futex_wait(&self.state, SHUT, None);
        }
        // SAFETY: null, or the `&'static Sched` that `open` has stored.
        unsafe { self.sched.load(Ordering::Relaxed).as_ref() }
    }

    /// Ends all threads of a start that has failed.
    pub(super) fn dismiss(&self, os: &dyn Os, config: &Config) {
        self.open(os, None, config.procs + 1);
    }

    /// Opens the gate for `threads` threads.
    fn open(&self, os: &dyn Os, sched: Option<&'static Sched>, threads: usize) {
        self.sched.store(
            sched.map_or(ptr::null_mut(), |sched| ptr::from_ref(sched).cast_mut()),
            Ordering::Relaxed,
        );
        self.state.store(OPEN, Ordering::Release);
        for _ in 0..threads {
            os.futex_wake(ptr::from_ref(&self.state).cast());
        }
    }
}

/// Spawns a thread for the M of each P, and for sysmon. If one is refused, ends the others.
pub(super) fn start_threads(os: &'static dyn Os, config: &Config) -> Result<Arc<Gate>, StartError> {
    let gate = Gate::new();
    let roles = (0..config.procs)
        .map(Role::M)
        .chain(config.sysmon.map(Role::Sysmon));
    for (before, role) in roles.enumerate() {
        if let Err(errno) = spawn(os, &gate, role) {
            gate.open(os, None, before);
            return Err(StartError::Thread(before, errno));
        }
    }
    Ok(gate)
}

fn spawn(os: &'static dyn Os, gate: &Arc<Gate>, role: Role) -> Result<(), Errno> {
    let start = Box::into_raw(Box::new(Start {
        os,
        gate: gate.clone(),
        role,
    }));
    let arg = start as usize;
    let spawned = match role {
        Role::M(index) => os.spawn(format_args!("m{index}"), run, arg),
        Role::Sysmon(_) => os.spawn(format_args!("sysmon"), run, arg),
    };
    spawned.inspect_err(|_| {
        // SAFETY: no thread was started, so this is the only pointer to the box.
        drop(unsafe { Box::from_raw(start) });
    })
}

/// The main function of a thread.
fn run(arg: usize) {
    // SAFETY: `spawn` boxed this for this call.
    let Start { os, gate, role } = *unsafe { Box::from_raw(arg as *mut Start) };
    let sched = gate.pass(os);
    drop(gate);
    match (sched, role) {
        (None, _) => {}
        (Some(sched), Role::M(index)) => sched.be_m(sched.m(index)),
        (Some(sched), Role::Sysmon(monitor)) => monitor.run(sched),
    }
}

impl Sched {
    /// Grants each P to the M of its index, and lets the threads in that `gate` holds.
    pub(super) fn open(&'static self, gate: &Gate) {
        if self.config.sysmon.is_some() {
            self.coarse_clock.set(self.os.now());
        }
        for index in 0..self.config.procs {
            self.grant(index, self.ms.add(index));
        }
        gate.open(self.os, Some(self), self.config.procs + 1);
    }

    /// The life of an M, on its own thread.
    #[doc(alias = "mstart")]
    fn be_m(&'static self, m: &'static M) -> ! {
        m.thread.store(self.os.thread_id(), Ordering::Relaxed);
        (self.config.thread_started)();
        let here = self.await_grant(m);
        self.run(here)
    }

    /// Starts another M. It waits for a P and is in no list. One thread at a time may call this.
    #[doc(alias = "newm")]
    pub(super) fn start_m(&'static self) -> Result<&'static M, Errno> {
        let index = self.ms().count();
        if index == self.ms.most() {
            return Err(Errno::EAGAIN);
        }
        // A goroutine releases its stack credit shortly before its stack is free. Each M may have
        // one such goroutine, so each M reserves a stack. The arena's slack has those of the first
        // Ms.
        self.arena.reserve_stacks(1).map_err(Exhausted::errno)?;
        let gate = Gate::new();
        spawn(self.os, &gate, Role::M(index)).inspect_err(|_| self.arena.release(1))?;
        let m = self.ms.add(index);
        gate.open(self.os, Some(self), 1);
        Ok(m)
    }

    /// Starts another M for a P whose M does not come back. If none can be started, reports that,
    /// once until one can be.
    pub(super) fn another_m(&'static self) -> Option<&'static M> {
        let started = self.start_m();
        let reported = self
            .reported_no_thread
            .swap(started.is_err(), Ordering::Relaxed);
        started
            .inspect_err(|&refused| {
                let threads = self.ms().count();
                let refused = (threads < self.config.max_threads).then_some(refused);
                if !reported {
                    (self.config.report)(self, Report::NoThread { threads, refused });
                }
            })
            .ok()
    }
}
