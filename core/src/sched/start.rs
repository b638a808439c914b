//! Threads that wait at a gate until there is a scheduler: of those that it starts with, all run or none.
#![allow(
    unsafe_code,
    reason = "a thread's start and the scheduler travel as addresses"
)]

use super::{Config, Monitor, Sched, StartError};
use crate::m::M;
use crate::os::{Errno, Os};
use crate::stack::Exhausted;
use crate::sync::{AtomicPtr, AtomicU32, Ordering};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr;

/// What a thread begins with.
pub(crate) struct Start {
    os: &'static dyn Os,
    gate: Arc<Gate>,
    role: Role,
}

#[derive(Clone, Copy)]
enum Role {
    /// To be the M of this index.
    M(usize),
    Sysmon(Monitor),
}

const SHUT: u32 = 0;
const OPEN: u32 = 1;

pub(super) struct Gate {
    state: AtomicU32,
    /// Null once it is open: the threads are not wanted, and end.
    sched: AtomicPtr<Sched>,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Gate {
            state: AtomicU32::new(SHUT),
            sched: AtomicPtr::new(ptr::null_mut()),
        })
    }

    /// Waits until it is open.
    fn pass(&self, os: &dyn Os) -> Option<&'static Sched> {
        while self.state.load(Ordering::Acquire) == SHUT {
            os.futex_wait(&self.state, SHUT, None);
        }
        // SAFETY: null, or what `open` has stored before it opened the gate.
        unsafe { self.sched.load(Ordering::Relaxed).as_ref() }
    }

    /// Lets all threads of a start go, of which nothing comes.
    pub(super) fn dismiss(&self, os: &dyn Os, config: &Config) {
        self.open(os, None, config.procs + 1);
    }

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

/// Starts a thread for the M of each P, and for sysmon. All of them, or none.
pub(super) fn start_threads(os: &'static dyn Os, config: &Config) -> Result<Arc<Gate>, StartError> {
    let gate = Gate::new();
    let tasks = (0..config.procs)
        .map(Role::M)
        .chain(config.sysmon.map(Role::Sysmon));
    for (before, role) in tasks.enumerate() {
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
        // SAFETY: no thread has it.
        drop(unsafe { Box::from_raw(start) });
    })
}

impl Sched {
    /// Lets the threads in that it starts with.
    pub(super) fn open(&'static self, gate: &Gate) {
        if self.config.sysmon.is_some() {
            self.coarse_clock.set(self.os.now());
        }
        for index in 0..self.config.procs {
            self.grant(index, self.ms.add(index));
        }
        gate.open(self.os, Some(self), self.config.procs + 1);
    }

    /// Starts another M. It waits for a P, and is in no list. Called by one thread at a time.
    pub(super) fn start_m(&'static self) -> Result<&'static M, Errno> {
        let index = self.ms().count();
        if index == self.ms.most() {
            return Err(Errno::new(EAGAIN));
        }
        // The slot of a goroutine that has given up its promise and is about to return. The first Ms have theirs in the arena's margin.
        self.arena.reserve_stacks(1).map_err(Exhausted::errno)?;
        let gate = Gate::new();
        spawn(self.os, &gate, Role::M(index)).inspect_err(|_| self.arena.release(1))?;
        let m = self.ms.add(index);
        gate.open(self.os, Some(self), 1);
        Ok(m)
    }
}

const EAGAIN: i32 = 11;

/// A thread of the scheduler.
fn run(arg: usize) {
    // SAFETY: `spawn` boxed this for this call.
    let Start { os, gate, role } = *unsafe { Box::from_raw(arg as *mut Start) };
    let sched = gate.pass(os);
    drop(gate);
    match (sched, role) {
        (None, _) => {}
        (Some(sched), Role::M(index)) => sched.be_m(sched.m(index)),
        (Some(sched), Role::Sysmon(monitor)) => monitor.watch(sched),
    }
}
