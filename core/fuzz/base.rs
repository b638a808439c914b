//! The base of the fuzz targets: goroutines that are never run, and an operating system whose futex
//! wait is a function of the target.
#![allow(
    unsafe_code,
    reason = "Os is an unsafe trait, and goroutines are kept by address"
)]

use crate::fuzz::poller::FuzzPoller;
use crate::g::{self, G, GRef, Status};
use crate::os::{Errno, Nanos, Os, idle};
use crate::sched::{Config, Sched};
use crate::stack::MIN_STACK;
use crate::sync::AtomicU32;
use core::cell::Cell;
use core::fmt;
use core::ptr::{self, NonNull};
use std::boxed::Box;
use std::vec::Vec;

/// Goroutines that are made once and used by every input, by number. `take` and `give` panic if a
/// goroutine is handed out twice or comes back twice.
pub(crate) struct Goroutines {
    all: Vec<NonNull<G>>,
    out: Vec<bool>,
}

impl Goroutines {
    pub(crate) fn new(count: usize) -> Self {
        let all = (0..count)
            .map(|id| g::idle::goroutine(id as u64).into_raw())
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

    /// Takes a goroutine back, and returns its number.
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
        // SAFETY: as in `take`. The status is atomic.
        unsafe { self.all[id].as_ref() }.set_status(status);
    }

    pub(crate) fn status(&self, id: usize) -> Status {
        // SAFETY: as in `take`.
        unsafe { self.all[id].as_ref() }.status()
    }
}

std::thread_local! {
    /// The function that `futex_wait` calls.
    static SLEEP: Cell<fn(&AtomicU32)> = const { Cell::new(panic_on_sleep) };
    /// The address of the word of the last `futex_wake`, or 0.
    static WOKEN: Cell<usize> = const { Cell::new(0) };
    /// What the clock shows.
    static NOW: Cell<Nanos> = const { Cell::new(1) };
    /// The word of the thread for its innermost membership of a cancel.
    static MEMBER: Cell<*mut ()> = const { Cell::new(ptr::null_mut()) };
}

fn panic_on_sleep(_: &AtomicU32) {
    panic!("a thread sleeps although it was woken");
}

/// An operating system with one thread: the caller's.
pub(crate) struct FuzzOs;

impl FuzzOs {
    /// Makes `futex_wait` on this thread call `sleep`.
    pub(crate) fn on_sleep(sleep: fn(&AtomicU32)) {
        SLEEP.set(sleep);
    }

    /// Returns the address of the word that was woken since the last call, or 0.
    pub(crate) fn take_woken() -> usize {
        WOKEN.replace(0)
    }

    /// Sets this thread's clock, which shows 1 at first.
    pub(crate) fn set_now(now: Nanos) {
        NOW.set(now);
    }
}

// SAFETY: a futex wait may return without a wake. The reservation is never accessed, since no
// goroutine runs.
unsafe impl Os for FuzzOs {
    idle::os_methods!();

    fn now(&self) -> Nanos {
        NOW.get()
    }

    fn futex_wait(&self, word: &AtomicU32, _: u32, _: Option<Nanos>) {
        SLEEP.get()(word);
    }

    fn futex_wake(&self, word: *const AtomicU32) {
        WOKEN.set(word as usize);
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
        Ok(idle::reservation())
    }
}

/// Returns this thread's scheduler. It has no Ms: all callers here are ordinary threads. Its poller
/// is never used.
pub(crate) fn sched() -> &'static Sched {
    std::thread_local! {
        static SCHED: &'static Sched = start();
    }
    SCHED.with(|sched| *sched)
}

fn start() -> &'static Sched {
    let config = Config {
        stack_size: MIN_STACK,
        max_threads: 1,
        sysmon: None,
        thread_member: |new| match new {
            Some(new) => MEMBER.replace(new),
            None => MEMBER.get(),
        },
        ..Config::new(1)
    };
    // SAFETY: no goroutine runs, so none migrates.
    let sched = unsafe { Sched::start(&FuzzOs, config, || Ok(Box::new(FuzzPoller))) }
        .expect("nothing is refused");
    // The start has woken the Ms, which do not exist.
    FuzzOs::take_woken();
    sched
}
