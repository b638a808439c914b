//! What the targets stand on: goroutines that are never run, and a system under them whose sleep is whatever the target makes of it.
#![allow(
    unsafe_code,
    reason = "it promises what an operating system does, and hands out goroutines by address"
)]

use crate::g::{G, GRef, Status, idle};
use crate::os::{Errno, Nanos, Os, ThreadState};
use crate::sync::AtomicU32;
use core::cell::Cell;
use core::fmt;
use core::ptr::NonNull;
use std::vec::Vec;

/// Goroutines made once and used by every input, by number. The type counts who is out: nobody is handed out, or comes back, twice.
pub(crate) struct Goroutines {
    all: Vec<NonNull<G>>,
    out: Vec<bool>,
}

impl Goroutines {
    pub(crate) fn new(count: usize) -> Self {
        let all = (0..count)
            .map(|id| idle::goroutine(id as u64).into_raw())
            .collect();
        Goroutines {
            all,
            out: Vec::from_iter((0..count).map(|_| false)),
        }
    }

    pub(crate) fn take(&mut self, id: usize) -> GRef {
        assert!(!self.out[id], "goroutine {id} exists twice");
        self.out[id] = true;
        // SAFETY: goroutines are leaked, and this one's GRef is here.
        unsafe { GRef::from_raw(self.all[id]) }
    }

    /// The number of a goroutine that comes back.
    pub(crate) fn give(&mut self, g: GRef) -> usize {
        let id = g.id() as usize;
        assert!(self.out[id], "goroutine {id} comes back twice");
        self.out[id] = false;
        assert_eq!(
            g.into_raw(),
            self.all[id],
            "goroutine {id} has another address"
        );
        id
    }

    pub(crate) fn set_status(&self, id: usize, status: Status) {
        // SAFETY: as in `take`; the status may be written by anyone.
        unsafe { self.all[id].as_ref() }.set_status(status);
    }

    pub(crate) fn status(&self, id: usize) -> Status {
        // SAFETY: as in `take`.
        unsafe { self.all[id].as_ref() }.status()
    }
}

std::thread_local! {
    /// What a thread does when it would sleep on a futex.
    static SLEEP: Cell<fn(&AtomicU32)> = const { Cell::new(panic_on_sleep) };
    /// The word on which somebody was woken last.
    static WOKEN: Cell<usize> = const { Cell::new(0) };
}

fn panic_on_sleep(_: &AtomicU32) {
    panic!("a thread sleeps that was woken");
}

/// A system with one thread, this one, and nothing else.
pub(crate) struct System;

pub(crate) static SYSTEM: System = System;

impl System {
    /// From now on a sleep is a call of `sleep`.
    pub(crate) fn on_sleep(sleep: fn(&AtomicU32)) {
        SLEEP.set(sleep);
    }

    /// The address of the word that was woken since the last look, or 0.
    pub(crate) fn take_woken() -> usize {
        WOKEN.replace(0)
    }
}

// SAFETY: a sleep may end early without a reason. The reservation is never touched, since no goroutine runs.
unsafe impl Os for System {
    fn now(&self) -> Nanos {
        1
    }

    fn futex_wait(&self, word: &AtomicU32, _: u32, _: Option<Nanos>) {
        SLEEP.get()(word);
    }

    fn futex_wake(&self, word: *const AtomicU32) {
        WOKEN.set(word as usize);
    }

    fn thread_id(&self) -> u32 {
        0
    }

    fn thread_state(&self, _: u32) -> ThreadState {
        ThreadState::Unknown
    }

    fn cpu_time(&self, _: u32) -> Nanos {
        0
    }

    fn barrier(&self) -> bool {
        false
    }

    fn spawn(&self, _: fmt::Arguments<'_>, _: fn(usize), _: usize) -> Result<(), Errno> {
        Ok(())
    }

    fn yield_thread(&self) {
        std::thread::yield_now();
    }

    fn reserve(&self, _: usize) -> Result<NonNull<u8>, Errno> {
        // No stack pointer lies here, so this thread is an ordinary one.
        Ok(NonNull::new(core::ptr::without_provenance_mut(1 << 60)).expect("not null"))
    }

    unsafe fn open(&self, _: NonNull<u8>, _: usize) -> Result<(), Errno> {
        Ok(())
    }

    unsafe fn guard(&self, _: NonNull<u8>, _: usize) -> Result<(), Errno> {
        Ok(())
    }

    unsafe fn discard(&self, _: NonNull<u8>, _: usize) {}

    unsafe fn close(&self, _: i32) {}

    fn page_size(&self) -> usize {
        4096
    }

    fn abort(&self, message: fmt::Arguments<'_>) -> ! {
        panic!("{message}")
    }
}
