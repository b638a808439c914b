//! The contract of a port: what the scheduler asks of an operating system ([`Os`]) and of a
//! readiness poller ([`Netpoll`]).
//!
//! Core makes no system call. A port supplies one `Os` (threads, a futex, a clock, address space)
//! and one or more `Netpoll` types. The scheduler owns the pollers, and only core calls them and
//! the `Os`. A poller keeps only plain data: a descriptor number, and a [`TaggedPtr`] that it hands
//! back. It keeps no reference into core.
//!
//! | a port gives | Linux | used for |
//! |---|---|---|
//! | `now` | `clock_gettime(CLOCK_MONOTONIC)` | timers, deadlines |
//! | `futex_wait`, `futex_wake` | `futex(2)` | idle Ms, blocked ordinary threads |
//! | `spawn` | `pthread_create` | a thread for each M, sysmon, the pool of `blocking` |
//! | `thread_id`, `thread_state`, `cpu_time` | `gettid`, `/proc`, CPU clocks | finding blocked Ms |
//! | `barrier` | `membarrier(2)` | retaking the P of a blocked M |
//! | `reserve`, `open`, `guard`, `discard` | `mmap`, `mprotect`, `madvise` | goroutine stacks |
//! | `Netpoll` | `epoll(7)` | readiness of descriptors |
//! | [`Observe`] | `/proc`, `process_vm_readv`, `mincore` | deadlocks, dumps, metrics; optional |
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
    /// What `epoll_ctl(2)` returns for a file that is always ready.
    pub const EPERM: Errno = Errno::new(1);
    /// An error without a better name.
    pub const EIO: Errno = Errno::new(5);
    /// No thread, for lack of a resource.
    pub const EAGAIN: Errno = Errno::new(11);
    /// No memory or address space.
    pub const ENOMEM: Errno = Errno::new(12);
    /// Another operation uses the descriptor.
    pub const EBUSY: Errno = Errno::new(16);

    /// The error with number `raw`, which is positive (`EPERM` is 1). A `raw` of zero, which no
    /// failed call reports, becomes `EIO`.
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
        // Formatted as a `usize`: the index panics of core already link that formatter, so it costs
        // a small program nothing.
        write!(f, "errno {}", self.raw().unsigned_abs() as usize)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl core::error::Error for Errno {}

/// Nanoseconds on the monotonic clock, always positive. So 0 can mean "none", and a negative value
/// "passed".
pub type Nanos = i64;

/// What a thread is doing, as the system reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ThreadState {
    /// Running, or ready to run when a CPU is free.
    Running,
    /// Blocked in the kernel, in the system call of this number. `None` if the system does not
    /// report the number, or if the thread waits outside a call (on a page fault).
    Blocked(Option<u32>),
    /// The system does not report it.
    Unknown,
}

/// The operating system under a scheduler.
///
/// # Safety
///
/// An implementor promises the following, on which safe code relies:
///
/// - `now` never goes back and is positive;
/// - `futex_wait` returns only after a wake, a timeout, a changed word, or spuriously, and
///   `futex_wake` wakes a thread that sleeps on that word;
/// - `reserve` returns page-aligned address space that nothing else uses for the rest of the
///   process;
/// - after `open(p, len)` succeeded, that range of a reservation is readable and writable, and was
///   zeroed when it was first opened;
/// - after `guard(p, len)` succeeded, every access to that range faults;
/// - `spawn` runs `entry(arg)` exactly once, on a new thread;
/// - if `barrier` returns true, every thread of the process has passed a full memory barrier since
///   the call began.
pub unsafe trait Os: Sync {
    /// The time on the monotonic clock.
    #[doc(alias = "nanotime")]
    fn now(&self) -> Nanos;

    /// Sleeps while `*word == expected`, at most `timeout` nanoseconds (`None`: no limit). May
    /// return spuriously.
    #[doc(alias = "futexsleep")]
    fn futex_wait(&self, word: &AtomicU32, expected: u32, timeout: Option<Nanos>);

    /// Wakes one thread that sleeps on `word`. The word may be freed by the time of the call, since
    /// its owner may have seen the new value and gone on: the address identifies the sleepers and
    /// is never read.
    #[doc(alias = "futexwakeup")]
    fn futex_wake(&self, word: *const AtomicU32);

    /// Starts a thread that runs `entry(arg)`. `name` is at most 8 bytes: `m3`, `sysmon`.
    #[doc(alias = "newosproc")]
    fn spawn(&self, name: fmt::Arguments<'_>, entry: fn(usize), arg: usize) -> Result<(), Errno>;

    /// The system's number for the calling thread, which [`thread_state`](Self::thread_state) and
    /// [`cpu_time`](Self::cpu_time) take.
    fn thread_id(&self) -> u32;

    /// The state of a thread of this process.
    fn thread_state(&self, thread: u32) -> ThreadState;

    /// How many nanoseconds a thread of this process has run on a CPU. 0 if the system does not
    /// report it.
    fn cpu_time(&self, thread: u32) -> Nanos;

    /// Makes every running thread of the process pass a memory barrier, then returns true. False if
    /// the system cannot; the answer is the same for the life of the process.
    fn barrier(&self) -> bool;

    /// Yields the CPU to another thread.
    #[doc(alias = "osyield")]
    fn yield_thread(&self);

    /// Reserves `len` bytes of address space for stacks. A part that is not yet [open](Self::open)
    /// should count only against the limit on address space and appear in no core dump.
    fn reserve(&self, len: usize) -> Result<NonNull<u8>, Errno>;

    /// Makes `len` bytes at `start`, page-aligned, readable and writable. Pages are committed on
    /// first touch and never merged into huge pages. Bytes that are already open keep their
    /// contents. The scheduler opens neighbouring ranges one after another; they should remain one
    /// mapping.
    ///
    /// # Safety
    ///
    /// The bytes lie in a reservation, and no guard is among them.
    unsafe fn open(&self, start: NonNull<u8>, len: usize) -> Result<(), Errno>;

    /// The limit on the address space of the process in bytes, or `usize::MAX` if there is none.
    /// The scheduler leaves most of it to the program.
    fn address_space(&self) -> usize {
        usize::MAX
    }

    /// Makes `len` bytes at `start`, page-aligned, fault on access.
    ///
    /// # Safety
    ///
    /// The bytes lie in a reservation, are open, and no code uses them.
    unsafe fn guard(&self, start: NonNull<u8>, len: usize) -> Result<(), Errno>;

    /// Returns the memory behind `len` bytes at `start`, page-aligned, to the system. The bytes
    /// then read as zeros, or as before if the system cannot do this.
    ///
    /// # Safety
    ///
    /// The bytes lie in a reservation. No code uses them during the call, or relies on their
    /// contents afterwards.
    unsafe fn discard(&self, start: NonNull<u8>, len: usize);

    /// Closes descriptor `fd`. Errors are ignored: `close(2)` releases the number even if it fails.
    ///
    /// # Safety
    ///
    /// The caller owns `fd`, and no code uses it afterwards.
    unsafe fn close(&self, fd: i32);

    /// Whether `fd` is a socket. The error queue of a socket (timestamps, completions of zero-copy
    /// sends) makes a poller report an error that no operation meets, and readiness still follows.
    /// On any other file, such an error is the last event.
    fn is_socket(&self, _fd: Borrowed<'_>) -> bool {
        false
    }

    /// The size of a page in bytes, a power of two.
    fn page_size(&self) -> usize;

    /// Prints `message` for the operator and ends the process. Called for broken invariants only.
    fn abort(&self, message: fmt::Arguments<'_>) -> !;
}

/// What diagnostics ask of the system: deadlock detection, dumps and metrics. The scheduler runs
/// without it; a feature that needs an `Observe` is given one.
pub trait Observe: Sync {
    /// How many threads the process has. `None` if the system does not report it, which disables
    /// deadlock detection.
    fn threads(&self) -> Option<usize>;

    /// Copies memory of this process from address `start` to `to`, while other threads may write to
    /// it. Returns the number of bytes copied, 0 if the system cannot do this.
    fn copy(&self, start: usize, to: &mut [u8]) -> usize;

    /// How many of `len` bytes at `start`, which lie in a reservation, have memory behind them.
    /// `None` if the system does not report it.
    fn resident(&self, start: NonNull<u8>, len: usize) -> Option<usize>;
}

/// A borrowed descriptor: a number that means this open descriptor for as long as `'fd` lasts.
///
/// It is std's `BorrowedFd` for programs without std. Each operation of [`Fd`](crate::fd::Fd) gets
/// one, valid during the operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Borrowed<'fd>(i32, PhantomData<&'fd ()>);

impl Borrowed<'_> {
    /// Borrows descriptor `raw`.
    ///
    /// # Safety
    ///
    /// The owner of `raw` permits what the holder does with it, and does not close it while the
    /// value is in use.
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

/// The outcome of one non-blocking system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome<T> {
    /// It finished.
    Done(T),
    /// `EAGAIN`: the descriptor is not ready.
    WouldBlock,
    /// `EINTR`: a signal interrupted the call before it did anything.
    Interrupted,
    /// Any other error.
    Failed(Errno),
}

/// The direction of an operation, and of readiness.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Mode {
    /// Reading: data, a connection or an end of stream.
    Read,
    /// Writing: room for data, or the outcome of a connect.
    Write,
}

bitflags::bitflags! {
    /// What a poller reports about one descriptor.
    ///
    /// `READ` and `WRITE` wake the waiters of that direction; the other bits qualify them. A
    /// backend maps its own events:
    ///
    /// | epoll | bits |
    /// |---|---|
    /// | `IN` | `READ` |
    /// | `RDHUP` | `READ`, `HANGUP` |
    /// | `PRI` | `READ`, `HANGUP`: a read stops at the urgent mark, short but not "empty" |
    /// | `OUT` | `WRITE` |
    /// | `HUP` | `READ`, `WRITE`, `HANGUP` |
    /// | `ERR` | `READ`, `WRITE`, `HANGUP`; also `ERROR` if `ERR` is the only event |
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Ready: u8 {
        /// Readable.
        const READ = 1;
        /// Writable.
        const WRITE = 2;
        /// The event is an error condition only. Unless the descriptor is a socket, no further
        /// event need follow.
        const ERROR = 4;
        /// The poller saw an end of stream or an error. Core keeps this until the descriptor is
        /// closed.
        const HANGUP = 8;
    }
}

/// A readiness event: the token of the descriptor, and what it is ready for.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The token given to [`Netpoll::open`]. It is a claim, not a reference: core compares its tag
    /// with the descriptor's before it uses it.
    pub token: TaggedPtr,
    /// What the descriptor is ready for.
    pub ready: Ready,
}

/// How many events one [`Netpoll::poll`] returns at most; the kernel keeps the others for the next
/// call. Go's number.
pub const EVENT_BATCH: usize = 128;

/// A batch of events.
pub type Events = heapless::Vec<Event, EVENT_BATCH>;

/// How long a poll may wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delay {
    /// It returns at once, and leaves a pending wake for the thread that waits.
    None,
    /// At most this many nanoseconds; more than zero.
    AtMost(Nanos),
    /// Until an event or a wake.
    Forever,
}

/// A readiness poller, such as an epoll instance. The names are those of Go's `netpollinit` …
/// `netpollBreak`.
///
/// Only one thread at a time calls `poll` with a delay. `poll` without a delay and all other
/// methods may run on any thread, concurrently with that.
///
/// Its methods take descriptor numbers and are safe to call: a poller neither reads, writes nor
/// closes a descriptor. Given a number that the caller does not own, it fails or reports the
/// readiness of an unrelated file.
///
/// # Safety
///
/// Every token in an event is one that `open` was given, since core uses it as an address. A token
/// may arrive late, even after `close`.
pub unsafe trait Netpoll: Send + Sync {
    /// Creates a poller and its wake-up descriptor.
    #[doc(alias = "netpollinit")]
    fn init() -> Result<Self, Errno>
    where
        Self: Sized;

    /// Starts watching `fd` in both directions until [`close`](Self::close); events carry `token`.
    /// Readiness that exists already is reported too. `EPERM` means that this kind of file is
    /// always ready and cannot be polled.
    #[doc(alias = "netpollopen")]
    fn open(&self, fd: i32, token: TaggedPtr) -> Result<(), Errno>;

    /// Stops watching `fd`, before it is closed. Events that were already fetched may still arrive;
    /// core drops them by their stale tag.
    #[doc(alias = "netpollclose")]
    fn close(&self, fd: i32);

    /// Asks for the next readiness of `fd` in direction `mode`. The scheduler calls it before every
    /// wait. A poller of edges may have nothing to do here.
    #[doc(alias = "netpollarm")]
    fn arm(&self, _fd: i32, _token: TaggedPtr, _mode: Mode) {}

    /// Collects ready descriptors into `events`, which is empty on entry.
    ///
    /// - A timed call rounds its delay up, so that it does not return early for lack of resolution.
    ///   A signal may end it early; the caller then computes the remaining time. A signal never
    ///   ends a `Delay::None` or `Delay::Forever` call.
    /// - One [`wake`](Self::wake) ends the call that waits, or the next one that would. A
    ///   `Delay::None` call does not consume it.
    #[doc(alias = "netpoll")]
    fn poll(&self, delay: Delay, events: &mut Events);

    /// Makes the waiting `poll`, or the next one that would wait, return. Wakes that no `poll` has
    /// consumed yet count once. What a thread wrote before `wake` is visible after the `poll` that
    /// returns because of it.
    #[doc(alias = "netpollBreak")]
    fn wake(&self);
}

/// What the systems under loom models and fuzz targets have in common. No goroutine runs on them,
/// so stacks need no memory, and no watcher asks about threads.
#[cfg(any(test, fuzzing))]
pub(crate) mod idle {
    use core::ptr::{NonNull, without_provenance_mut};

    /// The methods of [`Os`](super::Os) that are the same on every such system, for its `impl`.
    macro_rules! os_methods {
        () => {
            fn thread_id(&self) -> u32 {
                0
            }

            fn thread_state(&self, _: u32) -> $crate::os::ThreadState {
                $crate::os::ThreadState::Unknown
            }

            fn cpu_time(&self, _: u32) -> $crate::os::Nanos {
                0
            }

            unsafe fn open(
                &self,
                _: core::ptr::NonNull<u8>,
                _: usize,
            ) -> Result<(), $crate::os::Errno> {
                Ok(())
            }

            unsafe fn guard(
                &self,
                _: core::ptr::NonNull<u8>,
                _: usize,
            ) -> Result<(), $crate::os::Errno> {
                Ok(())
            }

            unsafe fn discard(&self, _: core::ptr::NonNull<u8>, _: usize) {}

            unsafe fn close(&self, _: i32) {}

            fn page_size(&self) -> usize {
                4096
            }

            fn abort(&self, message: core::fmt::Arguments<'_>) -> ! {
                panic!("{message}")
            }
        };
    }
    pub(crate) use os_methods;

    /// Address space for stacks that are never accessed. No thread's stack is at this address, so
    /// core takes none for a goroutine's.
    pub(crate) fn reservation() -> NonNull<u8> {
        NonNull::new(without_provenance_mut(1 << 60)).expect("not null")
    }
}
