//! Threads that wait at a gate until it is certain that they are wanted: of those that a scheduler starts with, all run or none.
#![allow(unsafe_code, reason = "a thread's start travels as an address")]

use super::{Sched, StartError};
use crate::m::M;
use crate::os::{Errno, Os};
use crate::sync::{AtomicU32, Ordering};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt::Write;
use core::ptr;

/// What a thread begins with. Until it has come through the gate there may be no scheduler any more.
pub(crate) struct Start {
    os: &'static dyn Os,
    gate: Arc<AtomicU32>,
    sched: *const Sched,
    task: Task,
}

#[derive(Clone, Copy)]
enum Task {
    /// To be the M of this index.
    M(usize),
    Sysmon,
}

impl Task {
    fn name(self) -> heapless::String<8> {
        let mut name = heapless::String::new();
        match self {
            Task::M(index) => write!(name, "m{index}"),
            Task::Sysmon => name.write_str("sysmon"),
        }
        .unwrap_or_else(|_| unreachable!("an index has four digits"));
        name
    }
}

const SHUT: u32 = 0;
const OPEN: u32 = 1;
/// The threads are not wanted, and end.
const CLOSED: u32 = 2;

impl Sched {
    /// Starts one M for each P, and sysmon. All of them run, or none.
    pub(super) fn start_threads(&self) -> Result<(), StartError> {
        let procs = self.config.procs;
        let gate = Arc::new(AtomicU32::new(SHUT));
        let ms = (0..procs).map(Task::M);
        let tasks = ms.chain(self.config.sysmon.then_some(Task::Sysmon));
        let started =
            tasks.enumerate().try_for_each(|(before, task)| self.spawn(&gate, task).map_err(|errno| StartError::Thread(before, errno)));
        if started.is_ok() {
            if self.config.sysmon {
                self.lately.set(self.os.now());
            }
            for index in 0..procs {
                self.grant(index, self.add_m(index));
            }
        }
        gate.store(if started.is_ok() { OPEN } else { CLOSED }, Ordering::Release);
        for _ in 0..=procs {
            self.os.futex_wake(ptr::from_ref(&*gate).cast());
        }
        started
    }

    /// Starts another M. It waits for a P, and is in no list. Called by one thread at a time.
    pub(super) fn start_m(&'static self) -> Result<&'static M, Errno> {
        let index = self.ms().count();
        if index == self.ms.len() {
            return Err(Errno::new(EAGAIN));
        }
        // The slot of a goroutine that has given up its promise and is about to return. The first Ms have theirs in the arena's margin.
        self.arena.promise(1).map_err(|exhausted| exhausted.cause.unwrap_or(Errno::new(ENOMEM)))?;
        let gate = Arc::new(AtomicU32::new(SHUT));
        self.spawn(&gate, Task::M(index)).inspect_err(|_| self.arena.release(1))?;
        let m = self.add_m(index);
        gate.store(OPEN, Ordering::Release);
        self.os.futex_wake(ptr::from_ref(&*gate).cast());
        Ok(m)
    }

    fn add_m(&self, index: usize) -> &M {
        self.ms[index].call_once(|| Box::new(M::new(index)))
    }

    fn spawn(&self, gate: &Arc<AtomicU32>, task: Task) -> Result<(), Errno> {
        let start = Box::into_raw(Box::new(Start { os: self.os, gate: gate.clone(), sched: self, task }));
        self.os.spawn(&task.name(), run, start as usize).inspect_err(|_| {
            // SAFETY: no thread has it.
            drop(unsafe { Box::from_raw(start) });
        })
    }
}

const ENOMEM: i32 = 12;
const EAGAIN: i32 = 11;

/// A thread of the scheduler.
fn run(arg: usize) {
    // SAFETY: `spawn` boxed this for this call.
    let Start { os, gate, sched, task } = *unsafe { Box::from_raw(arg as *mut Start) };
    while gate.load(Ordering::Acquire) == SHUT {
        os.futex_wait(&gate, SHUT, None);
    }
    if gate.load(Ordering::Acquire) == CLOSED {
        return;
    }
    drop(gate);
    // SAFETY: it is dropped only if the gate is closed.
    let sched: &'static Sched = unsafe { &*sched };
    match task {
        Task::M(index) => sched.be_m(sched.m(index)),
        Task::Sysmon => sched.watch(),
    }
}
