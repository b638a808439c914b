//! The contract of a port: what the scheduler asks of an operating system ([`Os`]) and of a readiness poller ([`Netpoll`]).
//!
//! Core makes no system call. A port supplies one `Os` (threads, a futex, a clock, address space) and one `Netpoll` type; the
//! scheduler owns the pollers and is the only caller of both. Everything that crosses this boundary is plain data: a
//! descriptor number, a [`TaggedPtr`] that the backend stores and hands back, never a reference into core.
//!
//! | a port gives | Linux | used for |
//! |---|---|---|
//! | `now` | `clock_gettime(CLOCK_MONOTONIC)` | timers, deadlines |
//! | `futex_wait`, `futex_wake` | `futex(2)` | idle Ms, blocked ordinary threads |
//! | `spawn` | `pthread_create` | one thread for each M, sysmon, threads for work that blocks |
//! | `thread`, `doing`, `cpu_time`, `barrier` | `gettid`, `/proc`, CPU clocks, `membarrier` | threads that do not come back |
//! | `reserve`, `open`, `guard`, `discard`, `address_space` | `mmap`, `mprotect`, `madvise`, `getrlimit` | goroutine stacks |
//! | `Netpoll` | `epoll(7)` | descriptors |
//! | [`Observe`] | `/proc`, `process_vm_readv`, `mincore` | deadlocks, dumps, metrics; may be missing |
#![allow(unsafe_code, reason = "both traits promise what safe code relies on")]

use crate::tagptr::TaggedPtr;
use core::fmt;
use core::marker::PhantomData;
use core::num::NonZeroI32;
use core::ptr::NonNull;
#[cfg(not(loom))]
use core::sync::atomic::AtomicU32;
#[cfg(loom)]
use loom::sync::atomic::AtomicU32;

/// A Linux error number, as a system call reports it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(NonZeroI32);

impl Errno {
    /// The error with number `raw`, which is positive (`EPERM` is 1). Zero, which no failed call reports, counts as `EIO`.
    pub const fn new(raw: i32) -> Self {
        const EIO: NonZeroI32 = NonZeroI32::new(5).unwrap();
        match NonZeroI32::new(raw) {
            Some(raw) => Errno(raw),
            None => Errno(EIO),
        }
    }

    /// The number.
    pub const fn raw(self) -> i32 {
        self.0.get()
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As a `usize`, whose formatting every panic message about an index brings along.
        write!(f, "errno {}", self.raw().unsigned_abs() as usize)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl core::error::Error for Errno {}

/// Nanoseconds on the monotonic clock. Positive, so that zero can mean "none" and a negative value "passed".
pub type Nanos = i64;

/// What a thread is doing, as far as the system tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ThreadState {
    /// It runs, or would if a CPU were free.
    Running,
    /// It waits in the system: inside the call of this number. `None` if the system does not say
    /// which, or it waits elsewhere, as for a page.
    Blocked(Option<u32>),
    /// The system does not say.
    Unknown,
}

/// The operating system under a scheduler.
///
/// # Safety
///
/// An implementor promises what safe code then relies on:
///
/// - `now` never goes back and is positive;
/// - `futex_wait` returns only after a wake, a timeout, a changed word, or spuriously, and `futex_wake` wakes a thread that sleeps on that word;
/// - `reserve` returns address space that is page-aligned, and no one else's for the rest of the
///   process;
/// - after `open(p, len)` succeeded, that range of a reservation is readable and writable, and was
///   zeroed when it was first opened;
/// - after `guard(p, len)` succeeded, every access to that range faults;
/// - `spawn` runs `entry(arg)` exactly once, on a new thread;
/// - if `barrier` returns true, every thread of the process has passed a full memory barrier since the call began.
pub unsafe trait Os: Sync {
    /// The monotonic clock.
    #[doc(alias = "nanotime")]
    fn now(&self) -> Nanos;

    /// Sleeps while `*word == expected`, at most `timeout` nanoseconds (`None`: no limit). May return early without a reason.
    #[doc(alias = "futexsleep")]
    fn futex_wait(&self, word: &AtomicU32, expected: u32, timeout: Option<Nanos>);

    /// Wakes one thread that sleeps on `word`. The word may be gone by the time of the call (its owner saw the new value and went
    /// on), so the address is only a name here and is never read.
    #[doc(alias = "futexwakeup")]
    fn futex_wake(&self, word: *const AtomicU32);

    /// Starts a thread that runs `entry(arg)`. `name` is at most 8 bytes: `m3`, `sysmon`.
    #[doc(alias = "newosproc")]
    fn spawn(&self, name: fmt::Arguments<'_>, entry: fn(usize), arg: usize) -> Result<(), Errno>;

    /// A name for the calling thread, for [`doing`](Self::doing).
    fn thread(&self) -> u32;

    /// What a thread of this process is doing.
    fn doing(&self, thread: u32) -> ThreadState;

    /// How many nanoseconds a thread of this process has run on a CPU. 0 if the system does not say.
    fn cpu_time(&self, thread: u32) -> Nanos;

    /// Has every running thread of the process pass a memory barrier before it returns. False if the system cannot do that; it can always or never.
    fn barrier(&self) -> bool;

    /// Lets another thread of this CPU run.
    #[doc(alias = "osyield")]
    fn yield_thread(&self);

    /// Reserves `len` bytes of address space for stacks. Until a part is [opened](Self::open), it
    /// should count against no limit but that of address space, and stand in no core dump.
    fn reserve(&self, len: usize) -> Result<NonNull<u8>, Errno>;

    /// Makes `len` bytes at `start`, page-aligned, readable and writable. Pages are committed on
    /// first touch and never merged into huge pages. What is open already keeps its contents. A
    /// scheduler opens neighbours one after another, which should remain one mapping.
    ///
    /// # Safety
    ///
    /// The bytes lie in a reservation, and no guard is among them.
    unsafe fn open(&self, start: NonNull<u8>, len: usize) -> Result<(), Errno>;

    /// How many bytes of address space the process may have in all. `usize::MAX` if there is no
    /// limit. The scheduler leaves most of them to the program.
    fn address_space(&self) -> usize {
        usize::MAX
    }

    /// Makes `len` bytes at `start`, page-aligned, fault on access.
    ///
    /// # Safety
    ///
    /// The bytes lie in a reservation, are open, and no code uses them.
    unsafe fn guard(&self, start: NonNull<u8>, len: usize) -> Result<(), Errno>;

    /// Gives the memory behind `len` bytes at `start`, page-aligned, back to the system. They read as zeros afterwards, or as before if the system
    /// does not do that.
    ///
    /// # Safety
    ///
    /// The bytes lie in a reservation, and nobody uses them meanwhile, nor relies on what was in them.
    unsafe fn discard(&self, _start: NonNull<u8>, _len: usize) {}

    /// Closes descriptor `fd`. Errors are ignored: the number is released whatever `close(2)` says.
    ///
    /// # Safety
    ///
    /// The caller owns `fd`, and nobody uses it afterwards.
    unsafe fn close(&self, fd: i32);

    /// Whether `fd` is a socket. A poller may report an error of one that no operation meets: what
    /// lies in the socket's error queue (timestamps, completions of zero-copy sends). Readiness will
    /// come all the same. Of anything else, such an error is the last that is heard.
    fn is_socket(&self, _fd: Borrowed<'_>) -> bool {
        false
    }

    /// The size of a page in bytes, a power of two.
    fn page_size(&self) -> usize;

    /// Prints `message` where an operator sees it and ends the process. For broken invariants only.
    fn abort(&self, message: fmt::Arguments<'_>) -> !;
}

/// What the system says of a process to those who watch it. The scheduler runs without it: whoever asks for what needs it brings it along.
pub trait Observe: Sync {
    /// How many threads the process has. `None` if the system does not say: then no deadlock is found.
    fn threads(&self) -> Option<usize>;

    /// Copies memory of this process that other threads may be writing to, from `start` on. How many bytes it could: none if the system does
    /// not do that.
    fn copy(&self, start: usize, to: &mut [u8]) -> usize;

    /// How many of `len` bytes at `start`, which lie in a reservation, have memory behind them. `None` if the system does not say.
    fn resident(&self, start: NonNull<u8>, len: usize) -> Option<usize>;
}

/// An open descriptor that is lent: its number, which means this descriptor for as long as `'fd` lasts.
///
/// It is std's `BorrowedFd` for programs without std. An operation of [`Fd`](crate::fd::Fd) gets one, and may use it while the operation lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Borrowed<'fd>(i32, PhantomData<&'fd ()>);

impl Borrowed<'_> {
    /// Lends descriptor `raw`.
    ///
    /// # Safety
    ///
    /// Its owner permits what the holder does with it, and does not close it while the value is in use.
    #[inline]
    pub const unsafe fn new(raw: i32) -> Self {
        Borrowed(raw, PhantomData)
    }

    /// The number.
    #[inline]
    pub const fn raw(self) -> i32 {
        self.0
    }
}

/// What one non-blocking system call did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome<T> {
    /// It finished.
    Done(T),
    /// `EAGAIN`: the descriptor is not ready.
    WouldBlock,
    /// `EINTR`: a signal came first; nothing happened.
    Interrupted,
    /// Any other error.
    Failed(Errno),
}

/// The direction of an operation, and of readiness.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Mode {
    /// Data, a connection or an end of stream can be read.
    Read,
    /// Room for data, or the outcome of a connect.
    Write,
}

bitflags::bitflags! {
    /// What a poller says about one descriptor.
    ///
    /// `READ` and `WRITE` wake the waiters of that direction; the other bits qualify them. A backend maps its own events:
    ///
    /// | epoll | bits |
    /// |---|---|
    /// | `IN` | `READ` |
    /// | `RDHUP` | `READ`, `HANGUP` |
    /// | `PRI` | `READ`, `HANGUP` (data stops at an urgent mark: a short read no longer means "empty") |
    /// | `OUT` | `WRITE` |
    /// | `HUP` | `READ`, `WRITE`, `HANGUP` |
    /// | `ERR` | `READ`, `WRITE`, `HANGUP`; `ERROR` as well if `ERR` is all there is |
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Ready: u8 {
        /// Readable.
        const READ = 1;
        /// Writable.
        const WRITE = 2;
        /// Nothing but an error condition: a descriptor that is no socket cannot be polled usefully.
        const ERROR = 4;
        /// An end or an error was seen. It stays seen until the descriptor is closed.
        const HANGUP = 8;
    }
}

/// One readiness event: the token the descriptor was opened with, and what it is ready for.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The token given to [`Netpoll::open`]. It is a claim, not a reference: core compares its tag before it believes it.
    pub token: TaggedPtr,
    /// What happened.
    pub ready: Ready,
}

/// How many events one [`Netpoll::poll`] hands over at most; further ones stay in the kernel for the next call. Go's number.
pub const EVENT_BATCH: usize = 128;

/// A batch of events.
pub type Events = heapless::Vec<Event, EVENT_BATCH>;

/// How long a poll may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delay {
    /// Not at all. Such a poll leaves a pending wake in place for the thread that sleeps.
    None,
    /// At most this many nanoseconds; more than zero.
    AtMost(Nanos),
    /// Until an event or a wake.
    Forever,
}

/// A readiness poller, such as an epoll instance.
///
/// Its methods take numbers and are safe to call: a poller asks when a descriptor is ready, but neither reads, writes nor closes it. With a number that is not
/// the caller's, it reports the readiness of a stranger's file or fails.
///
/// The names are those of Go's `netpollinit` … `netpollBreak`. One thread at a time calls `poll` with a delay; `poll` without one, and
/// all other methods, may run on any thread at the same time.
///
/// # Safety
///
/// The tokens in events are tokens that `open` was given, for core takes them for addresses. A token may come late: after `close`, too.
pub unsafe trait Netpoll: Send + Sync {
    /// Creates a poller with its own wake-up descriptor.
    #[doc(alias = "netpollinit")]
    fn init() -> Result<Self, Errno>
    where
        Self: Sized;

    /// Starts watching `fd` in both directions until [`close`](Self::close); events carry `token`. Readiness that exists now is reported too.
    /// `EPERM` means that this kind of file is always ready and cannot be polled.
    #[doc(alias = "netpollopen")]
    fn open(&self, fd: i32, token: TaggedPtr) -> Result<(), Errno>;

    /// Stops watching `fd`, before it is closed. Events already fetched may still arrive; their token is stale by then.
    #[doc(alias = "netpollclose")]
    fn close(&self, fd: i32);

    /// Asks for the next readiness of `fd` in direction `mode`. Called before every wait. Edge-triggered backends need nothing here.
    #[doc(alias = "netpollarm")]
    fn arm(&self, _fd: i32, _token: TaggedPtr, _mode: Mode) {}

    /// Collects ready descriptors into `events`, which is empty on entry.
    ///
    /// - A delay is rounded so that the call never returns early for lack of resolution, except that an interrupting signal may end a timed wait
    ///   (the caller computes the rest anew); it never ends a `Delay::None` or `Delay::Forever` call.
    /// - [`wake`](Self::wake) ends a waiting call, now or next time, once. A `Delay::None` call does not consume it.
    #[doc(alias = "netpoll")]
    fn poll(&self, delay: Delay, events: &mut Events);

    /// Makes the waiting `poll`, or the next one that would wait, return. Wakes that nobody has consumed yet count as one. What a thread wrote
    /// before a `wake` is visible after the `poll` that returns because of it.
    #[doc(alias = "netpollBreak")]
    fn wake(&self);
}
