//! What a goroutine waits for, since when, and where on its stack it stopped: for watchers only.
//! The scheduler decides nothing by it.
//!
//! # Reading
//!
//! A goroutine writes its [`WaitInfo`] before it stops, and a watcher reads it at any time, as with
//! a sequence lock. The M that resumes the goroutine first increments [`ResumeSeq`]. A watcher
//! loads the sequence number, checks that the goroutine is stopped, reads, and compares the number.
//! If it is the same, the goroutine was stopped all the time, and what the watcher read belongs
//! together. The same check covers whatever else stays as it is while a goroutine is stopped, such
//! as its stack.
//!
//! # Holding
//!
//! A watcher that changes something of a stopped goroutine must keep it from being resumed: it
//! *holds* the goroutine. An M resumes goroutines far more often than a watcher holds one, so the M
//! only stores and loads, and the watcher has the system run a barrier on every thread
//! (`Os::barrier`), as `Retake::take` does:
//!
//! - the M increments the sequence number, then loads `held`;
//! - the watcher stores `held`, runs the barrier, then loads the sequence number.
//!
//! At least one of them sees what the other wrote. Either the M waits until the watcher releases
//! the goroutine, or the watcher finds a new number and changes nothing.
#![allow(unsafe_code, reason = "reads the registers that say where it is")]

use crate::os::{Mode, Nanos};
use crate::sync::unmodeled::{self, AtomicI64, AtomicUsize};
use crate::sync::{AtomicBool, AtomicU8, AtomicU32, Ordering, fence, light_barrier};
use core::fmt;

/// What a goroutine waits for: Go's `waitReason`, with what it is about.
///
/// `D` stands for the poll descriptor: its address while the goroutine waits, a [`Descriptor`] in a
/// snapshot.
///
/// A new reason is a variant here and a line in each of `encode`, `decode` and `reason`, which
/// follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Wait<D = Descriptor> {
    /// A descriptor becomes readable.
    Read(D),
    /// A descriptor becomes writable.
    Write(D),
    /// The monotonic clock shows this time.
    Sleep(Nanos),
    /// The goroutine with this number returns.
    Join(u64),
    /// A semaphore has a permit. One is behind the lock of each descriptor.
    Semaphore,
    /// A thread of a pool has done what the goroutine gave it.
    Blocking,
    /// A channel has a value, or is closed.
    ChanReceive,
    /// A channel takes a value, or is closed.
    ChanSend,
    /// One of several events comes.
    Select,
    /// A mutex is unlocked. In a snapshot: by the goroutine with this number, or by an ordinary
    /// thread if it is 0. While the goroutine waits: the address of the word that says so.
    Mutex(u64),
    /// A read-write lock can be locked for reading.
    RwLockRead,
    /// A read-write lock can be locked for writing.
    RwLockWrite,
    /// A condition variable is notified.
    Condvar,
    /// All members of a group are done.
    WaitGroup,
    /// Another goroutine or thread has run an initializer.
    Once,
    /// A `Notify` is notified.
    Notify,
    /// The goroutine is unparked.
    Park,
    /// All goroutines of a scope have returned.
    Scope,
    /// A lock of `std`, or another futex that the goroutine parks on, at this address.
    StdLock(u64),
}

/// A [`Wait`] as [`WaitInfo`] keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WaitWords {
    kind: u8,
    argument: i64,
}

impl Wait<usize> {
    /// The words for a watcher. Call it with a constant reason: the compiler then leaves two
    /// stores.
    #[inline(always)]
    pub(crate) fn encode(self) -> WaitWords {
        let (kind, argument) = match self {
            Wait::Read(address) => (0, address as i64),
            Wait::Write(address) => (1, address as i64),
            Wait::Sleep(until) => (2, until),
            Wait::Join(id) => (3, id as i64),
            Wait::Semaphore => (4, 0),
            Wait::Blocking => (5, 0),
            Wait::ChanReceive => (6, 0),
            Wait::ChanSend => (7, 0),
            Wait::Select => (8, 0),
            Wait::Mutex(holder) => (9, holder as i64),
            Wait::RwLockRead => (10, 0),
            Wait::RwLockWrite => (11, 0),
            Wait::Condvar => (12, 0),
            Wait::WaitGroup => (13, 0),
            Wait::Once => (14, 0),
            Wait::Notify => (15, 0),
            Wait::Park => (16, 0),
            Wait::Scope => (17, 0),
            Wait::StdLock(address) => (18, address as i64),
        };
        WaitWords { kind, argument }
    }
}

impl<D> Wait<D> {
    /// What `words` say. `descriptor` looks up the poll descriptor by its address and direction, if
    /// the wait is for one, and `holder` the goroutine that holds a mutex, by the address of its
    /// word.
    pub(crate) fn decode(
        words: WaitWords,
        descriptor: impl FnOnce(usize, Mode) -> D,
        holder: impl FnOnce(usize) -> u64,
    ) -> Self {
        let WaitWords { kind, argument } = words;
        match kind {
            0 => Wait::Read(descriptor(argument as usize, Mode::Read)),
            1 => Wait::Write(descriptor(argument as usize, Mode::Write)),
            2 => Wait::Sleep(argument),
            3 => Wait::Join(argument as u64),
            4 => Wait::Semaphore,
            5 => Wait::Blocking,
            6 => Wait::ChanReceive,
            7 => Wait::ChanSend,
            8 => Wait::Select,
            9 => Wait::Mutex(holder(argument as usize)),
            10 => Wait::RwLockRead,
            11 => Wait::RwLockWrite,
            12 => Wait::Condvar,
            13 => Wait::WaitGroup,
            14 => Wait::Once,
            15 => Wait::Notify,
            16 => Wait::Park,
            17 => Wait::Scope,
            18 => Wait::StdLock(argument as u64),
            _ => panic!("no reason to wait has number {kind}"),
        }
    }

    /// The reason alone, in Go's words (`waitReason`) where Go has one.
    pub fn reason(&self) -> &'static str {
        match self {
            Wait::Read(_) | Wait::Write(_) => "IO wait",
            Wait::Sleep(_) => "sleep",
            Wait::Join(_) => "join",
            Wait::Semaphore => "semacquire",
            Wait::Blocking => "blocking",
            Wait::ChanReceive => "chan receive",
            Wait::ChanSend => "chan send",
            Wait::Select => "select",
            Wait::Mutex(_) => "sync.Mutex.Lock",
            Wait::RwLockRead => "sync.RWMutex.RLock",
            Wait::RwLockWrite => "sync.RWMutex.Lock",
            Wait::Condvar => "sync.Cond.Wait",
            Wait::WaitGroup => "sync.WaitGroup.Wait",
            Wait::Once => "sync.Once.Do",
            Wait::Notify => "notify",
            Wait::Park => "park",
            Wait::Scope => "scope",
            Wait::StdLock(_) => "std lock",
        }
    }
}

/// Writes the [`reason`](Wait::reason).
impl<D> fmt::Display for Wait<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

/// The descriptor that a goroutine waits for, as a snapshot shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// Its number.
    pub fd: i32,
    /// When the wait ends at the latest. `None`: never.
    pub deadline: Option<Nanos>,
}

/// A point in a function's body, from which a debugger could walk up the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The instruction pointer.
    pub ip: usize,
    /// The stack pointer.
    pub sp: usize,
    /// The content of the register that is the frame pointer, if the program keeps one.
    pub fp: usize,
}

impl Place {
    /// Where this is called. On an architecture without backtraces, only `sp` is not 0.
    #[inline(always)]
    pub(crate) fn here() -> Place {
        let (ip, sp, fp): (usize, usize, usize);
        cfg_if::cfg_if! {
            if #[cfg(target_arch = "x86_64")] {
                // SAFETY: reads registers.
                unsafe {
                    core::arch::asm!(
                        "lea {}, [rip]", "mov {}, rsp", "mov {}, rbp",
                        out(reg) ip, out(reg) sp, out(reg) fp,
                        options(nomem, nostack, preserves_flags),
                    );
                }
            } else if #[cfg(target_arch = "aarch64")] {
                // SAFETY: reads registers.
                unsafe {
                    core::arch::asm!(
                        "adr {}, .", "mov {}, sp", "mov {}, x29",
                        out(reg) ip, out(reg) sp, out(reg) fp,
                        options(nomem, nostack, preserves_flags),
                    );
                }
            } else {
                (ip, sp, fp) = (0, crate::stack::stack_pointer(), 0);
            }
        }
        Place { ip, sp, fp }
    }
}

/// How many times a goroutine was resumed, and whether a watcher holds it.
pub(crate) struct ResumeSeq {
    /// Written by the M that resumes the goroutine.
    count: AtomicU32,
    /// Written by the watcher.
    held: AtomicBool,
}

impl ResumeSeq {
    pub(crate) fn new() -> Self {
        ResumeSeq {
            count: AtomicU32::new(0),
            held: AtomicBool::new(false),
        }
    }

    /// Announces that the goroutine goes on, and calls `wait` until no watcher holds it. The caller
    /// has set its status to `Running`.
    #[inline]
    pub(crate) fn begin(&self, wait: impl Fn()) {
        // Release pairs with the Acquire in `count`: a watcher that sees this count also sees the
        // status `Running`.
        self.count.store(
            self.count.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Release,
        );
        // Pairs with the fence in `validate`: a watcher that reads something the goroutine writes
        // after this also sees the new count.
        fence(Ordering::Release);
        light_barrier();
        // Acquire pairs with `release`: the goroutine sees what the watcher did to it.
        while self.held.load(Ordering::Acquire) {
            wait();
        }
    }

    /// The sequence number, for [`validate`](Self::validate).
    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Whether the goroutine was not resumed since [`count`](Self::count) returned `count`.
    pub(crate) fn validate(&self, count: u32) -> bool {
        fence(Ordering::Acquire);
        self.count.load(Ordering::Relaxed) == count
    }

    /// Keeps the goroutine from being resumed until [`release`](Self::release). Takes effect if the
    /// caller then runs a barrier on every thread and [`validate`](Self::validate) still agrees.
    /// One watcher at a time.
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::Relaxed);
    }

    /// Lets the goroutine go on.
    pub(crate) fn release(&self) {
        self.held.store(false, Ordering::Release);
    }
}

/// What a goroutine leaves for watchers when it stops. Written by the goroutine, unless a field
/// says otherwise.
pub(crate) struct WaitInfo {
    pub(crate) resumes: ResumeSeq,
    /// A `g::Status`. Its store comes before what is to be believed with it.
    pub(crate) status: AtomicU8,
    /// Whether the goroutine must not park in a lock of `std`. Used by the goroutine alone: it
    /// stands here because a G has no other room for it.
    pub(crate) unparkable: AtomicBool,
    /// The sequence number at which its stack last gave memory back. Written by the watcher.
    shrunk: unmodeled::AtomicU32,
    kind: unmodeled::AtomicU8,
    argument: AtomicI64,
    /// Also written by a thread that readies the goroutine.
    since: AtomicI64,
    place: [AtomicUsize; 3],
}

/// A [`WaitInfo`] as a watcher has read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LastStop {
    /// Decode them only after [`ResumeSeq::validate`].
    pub(crate) wait: WaitWords,
    /// Since when the goroutine waits, or is runnable, by sysmon's clock, which is up to 10 ms
    /// late. 0 without sysmon.
    pub(crate) since: Nanos,
    /// Where it stopped.
    pub(crate) place: Place,
}

impl WaitInfo {
    #[inline]
    pub(crate) fn new() -> Self {
        let word = || AtomicUsize::new(0);
        let WaitWords { kind, argument } = Wait::Semaphore.encode();
        WaitInfo {
            resumes: ResumeSeq::new(),
            status: AtomicU8::new(0),
            unparkable: AtomicBool::new(false),
            shrunk: unmodeled::AtomicU32::new(u32::MAX),
            kind: unmodeled::AtomicU8::new(kind),
            argument: AtomicI64::new(argument),
            since: AtomicI64::new(0),
            place: [word(), word(), word()],
        }
    }

    /// The goroutine is about to wait.
    #[inline]
    pub(crate) fn set_wait(&self, wait: WaitWords, since: Nanos) {
        self.kind.store(wait.kind, Ordering::Relaxed);
        self.argument.store(wait.argument, Ordering::Relaxed);
        self.since.store(since, Ordering::Relaxed);
    }

    /// Another thread has readied the goroutine.
    #[inline]
    pub(crate) fn set_runnable(&self, since: Nanos) {
        self.since.store(since, Ordering::Relaxed);
    }

    /// The goroutine is about to stop at `place`.
    #[inline]
    pub(crate) fn set_place(&self, place: Place) {
        self.place[0].store(place.ip, Ordering::Relaxed);
        self.place[1].store(place.sp, Ordering::Relaxed);
        self.place[2].store(place.fp, Ordering::Relaxed);
    }

    /// Whether the stack gave memory back at sequence number `count`.
    pub(crate) fn is_shrunk(&self, count: u32) -> bool {
        self.shrunk.load(Ordering::Relaxed) == count
    }

    pub(crate) fn set_shrunk(&self, count: u32) {
        self.shrunk.store(count, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> LastStop {
        let [ip, sp, fp] = [0, 1, 2].map(|i| self.place[i].load(Ordering::Relaxed));
        LastStop {
            wait: WaitWords {
                kind: self.kind.load(Ordering::Relaxed),
                argument: self.argument.load(Ordering::Relaxed),
            },
            since: self.since.load(Ordering::Relaxed),
            place: Place { ip, sp, fp },
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_decodes_what_a_goroutine_encoded() {
        let waits = [
            Wait::Read(0x1000),
            Wait::Write(0x2000),
            Wait::Sleep(-3),
            Wait::Join(u64::MAX),
            Wait::Semaphore,
            Wait::Blocking,
            Wait::ChanReceive,
            Wait::ChanSend,
            Wait::Select,
            Wait::Mutex(7),
            Wait::RwLockRead,
            Wait::RwLockWrite,
            Wait::Condvar,
            Wait::WaitGroup,
            Wait::Once,
            Wait::Notify,
            Wait::Park,
            Wait::Scope,
            Wait::StdLock(0x3000),
        ];
        for (number, wait) in waits.into_iter().enumerate() {
            assert_eq!(wait.encode().kind as usize, number);
            let info = WaitInfo::new();
            info.set_wait(wait.encode(), 5);
            let decoded = Wait::decode(info.read().wait, |address, _| address, |word| word as u64);
            assert_eq!(decoded, wait);
            assert_eq!(info.read().since, 5);
        }
    }
}

#[cfg(all(test, loom))]
#[path = "../models/wait_info.rs"]
mod models;
