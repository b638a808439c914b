//! Trail: what a goroutine leaves for those who watch it: why it waits, since when, and where on its stack it stopped. The scheduler decides
//! nothing by it.
//!
//! The goroutine writes before it stops, a watcher reads at any time, and the M that resumes the goroutine first counts a run: so what was
//! read holds together if the goroutine was stopped in between and its count of runs was the same before and after (a sequence lock). That
//! covers whatever else does not change while it waits, too: its stack.
//!
//! A watcher that wants to change something must keep the goroutine where it is ([`ResumeSeq::hold`]). Resuming is far more frequent, so the M that
//! does it stores and loads, and the watcher pays for both sides' barrier, as the taker of a `Retake` does: the M counts the run and then looks
//! whether the goroutine is held; the watcher says that it is, has every thread pass a barrier, and then looks at the count. Not both miss
//! the other's word: either the M waits, or the watcher knows that it came too late.
#![allow(unsafe_code, reason = "reads the registers that say where it is")]

use crate::os::Nanos;
use crate::sync::unmodeled::{self, AtomicI64, AtomicUsize};
use crate::sync::{AtomicBool, AtomicU8, AtomicU32, Ordering, fence, light_barrier};

/// Why a goroutine waits. What the number with it means stands in brackets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Reason {
    /// For a descriptor to become readable (the address of its `PollDesc`).
    Read,
    /// For a descriptor to become writable (the same).
    Write,
    /// Until a time (which).
    Sleep,
    /// For another goroutine (its number).
    Join,
    /// For a permit of a semaphore (0).
    Sema,
    /// For work on a thread of a pool (0).
    Blocking,
}

impl Reason {
    fn of(byte: u8) -> Reason {
        use Reason::*;
        [Read, Write, Sleep, Join, Sema, Blocking][byte as usize]
    }

    /// Go's words where Go has some.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Reason::Read | Reason::Write => "IO wait",
            Reason::Sleep => "sleep",
            Reason::Join => "join",
            Reason::Sema => "semacquire",
            Reason::Blocking => "blocking",
        }
    }
}

/// A point in a function's body, from which a debugger could walk up the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The instruction.
    pub ip: usize,
    /// The stack pointer.
    pub sp: usize,
    /// The frame pointer, or whatever is in its register.
    pub fp: usize,
}

impl Place {
    /// Where this is called. Zeros on an architecture that nobody unwinds.
    #[inline(always)]
    pub(crate) fn here() -> Place {
        let (ip, sp, fp): (usize, usize, usize);
        cfg_if::cfg_if! {
            if #[cfg(target_arch = "x86_64")] {
                // SAFETY: reads registers.
                unsafe {
                    core::arch::asm!("lea {}, [rip]", "mov {}, rsp", "mov {}, rbp", out(reg) ip, out(reg) sp, out(reg) fp,
                        options(nomem, nostack, preserves_flags));
                }
            } else if #[cfg(target_arch = "aarch64")] {
                // SAFETY: reads registers.
                unsafe {
                    core::arch::asm!("adr {}, .", "mov {}, sp", "mov {}, x29", out(reg) ip, out(reg) sp, out(reg) fp,
                        options(nomem, nostack, preserves_flags));
                }
            } else {
                (ip, sp, fp) = (0, crate::stack::stack_pointer(), 0);
            }
        }
        Place { ip, sp, fp }
    }
}

/// How many times a goroutine was resumed, and whether it may be.
pub(crate) struct ResumeSeq {
    count: AtomicU32,
    held: AtomicBool,
}

impl ResumeSeq {
    pub(crate) fn new() -> Self {
        ResumeSeq {
            count: AtomicU32::new(0),
            held: AtomicBool::new(false),
        }
    }

    /// The goroutine is about to go on, and its status says so. `wait` lets a moment pass.
    #[inline]
    pub(crate) fn begin(&self, wait: impl Fn()) {
        // Release: whoever sees this count sees that the goroutine no longer waits.
        self.count.store(
            self.count.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Release,
        );
        // Before all that the goroutine will write.
        fence(Ordering::Release);
        light_barrier();
        // Acquire: what the holder did comes before what the goroutine does.
        while self.held.load(Ordering::Acquire) {
            wait();
        }
    }

    /// The count. What is read between this and [`validate`](Self::still) holds together if the goroutine was seen to be stopped in between.
    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Whether it was not resumed since.
    pub(crate) fn validate(&self, count: u32) -> bool {
        fence(Ordering::Acquire);
        self.count.load(Ordering::Relaxed) == count
    }

    /// Keeps the goroutine from being resumed, if after this every thread passes a barrier and then it is found to be stopped and not resumed since
    /// before it was seen so. One watcher at a time.
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::Relaxed);
    }

    pub(crate) fn release(&self) {
        self.held.store(false, Ordering::Release);
    }
}

/// See the module's head. Its own words are hints.
pub(crate) struct Trail {
    pub(crate) resumes: ResumeSeq,
    /// A `g::Status`, which comes before the trail it is to be believed with.
    pub(crate) status: AtomicU8,
    /// The count of runs at which its stack was last given back.
    shrunk: unmodeled::AtomicU32,
    reason: unmodeled::AtomicU8,
    about: AtomicI64,
    since: AtomicI64,
    place: [AtomicUsize; 3],
}

/// What a watcher has read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Traces {
    pub(crate) reason: Reason,
    pub(crate) about: i64,
    /// Since when it waits, for what it waits for or for its turn. Roughly; 0 without sysmon, which
    /// keeps the time.
    pub(crate) since: Nanos,
    pub(crate) place: Place,
}

impl Trail {
    pub(crate) fn new() -> Self {
        let word = || AtomicUsize::new(0);
        Trail {
            resumes: ResumeSeq::new(),
            status: AtomicU8::new(0),
            shrunk: unmodeled::AtomicU32::new(u32::MAX),
            reason: unmodeled::AtomicU8::new(Reason::Sema as u8),
            about: AtomicI64::new(0),
            since: AtomicI64::new(0),
            place: [word(), word(), word()],
        }
    }

    /// The goroutine is about to wait.
    #[inline]
    pub(crate) fn waits(&self, reason: Reason, about: i64, since: Nanos) {
        self.reason.store(reason as u8, Ordering::Relaxed);
        self.about.store(about, Ordering::Relaxed);
        self.since.store(since, Ordering::Relaxed);
    }

    /// Another thread readies the goroutine: it waits for its turn from now on.
    #[inline]
    pub(crate) fn readied(&self, now: Nanos) {
        self.since.store(now, Ordering::Relaxed);
    }

    /// The goroutine is about to stop at `place`.
    #[inline]
    pub(crate) fn stops(&self, place: Place) {
        self.place[0].store(place.ip, Ordering::Relaxed);
        self.place[1].store(place.sp, Ordering::Relaxed);
        self.place[2].store(place.fp, Ordering::Relaxed);
    }

    /// Whether its stack was given back since it last ran.
    pub(crate) fn is_shrunk(&self, count: u32) -> bool {
        self.shrunk.load(Ordering::Relaxed) == count
    }

    pub(crate) fn shrinks(&self, count: u32) {
        self.shrunk.store(count, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Traces {
        let [ip, sp, fp] = [0, 1, 2].map(|i| self.place[i].load(Ordering::Relaxed));
        Traces {
            reason: Reason::of(self.reason.load(Ordering::Relaxed)),
            about: self.about.load(Ordering::Relaxed),
            since: self.since.load(Ordering::Relaxed),
            place: Place { ip, sp, fp },
        }
    }
}

#[cfg(all(test, loom))]
#[path = "../models/trail.rs"]
mod models;
