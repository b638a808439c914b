//! PollDesc: the poll state of one descriptor, Go's `pollDesc`.
//!
//! Readiness comes from the kernel, deadlines from timers, closing from other goroutines, and at
//! most one goroutine waits in each direction. They meet in three kinds of state:
//!
//! | state | written by | holds |
//! |---|---|---|
//! | `rg`, `wg` (`waiter`) | all parties, by read-modify-write | the waiter of each direction |
//! | `info` (`polldesc/info.rs`) | the lock's holder; events | what a waiter checks unlocked |
//! | `state` | the lock's holder | deadlines, sequence numbers of timers, closing |
//!
//! The rule: a deadline or a close changes `state`, publishes `info`, and only then takes the
//! waiters out of the slots. A waiter announces itself in its slot, and only then reads `info`. So
//! one of the two sees the other, and no goroutine parks on an error that was already delivered.
//! `waiter` has the race and its orderings.
//!
//! The kernel may hold a token for longer than the descriptor lives, so a PollDesc is never freed.
//! It goes back to the cache, and its sequence number (`fdseq`) changes, which exposes events and
//! timers of the earlier use. Nothing here schedules: waiters to be woken go on a list.
#![allow(unsafe_code, reason = "tokens become references")]

mod cache;
mod deadline;
mod info;
mod watchers;

pub(crate) use cache::{FreeDescs, PollCache};
pub use deadline::Deadline;
use info::Info;
pub(crate) use watchers::Watchers;

use crate::counter::Count;
use crate::os::{Delay, Event, Events, Mode, Nanos, Ready};
use crate::poller::Poller;
use crate::sync::{AtomicI32, AtomicPtr, AtomicU32, Lock, Ordering};
use crate::tagptr::{self, TaggedPtr};
use crate::timer::Heap;
use crate::waiter::{WaitSlot, WaiterList};
use core::fmt;
use core::ptr;

/// Why an operation on a descriptor cannot wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PollError {
    /// The descriptor was closed.
    Closing,
    /// The deadline of this direction has passed.
    Timeout,
    /// The system cannot tell when the descriptor is ready.
    NotPollable,
    /// The goroutine is cancelled.
    Cancelled,
    /// The operation would have to wait in a destructor that runs during a panic. Other goroutines
    /// of the thread would then appear to be panicking.
    Unwinding,
}

impl fmt::Display for PollError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PollError::Closing => "use of closed network connection",
            PollError::Timeout => "i/o timeout",
            PollError::NotPollable => "not pollable",
            PollError::Cancelled => "the goroutine is cancelled",
            PollError::Unwinding => "a goroutine that unwinds cannot wait",
        })
    }
}

impl core::error::Error for PollError {}

/// The poll state of one descriptor. Its alignment leaves room for the tag in a token.
#[repr(C, align(128))]
#[doc(alias = "pollDesc")]
pub(crate) struct PollDesc {
    rg: WaitSlot,
    wg: WaitSlot,
    /// Counts the uses of this PollDesc, which exposes the tokens of earlier uses. Never 0. Written
    /// by `free`, under the lock.
    fdseq: AtomicU32,
    info: Info,
    /// The descriptor of this use. Constant during a use.
    fd: AtomicI32,
    /// The poller that watches the descriptor. Null before the first wait; `JOINING` or `AWAITED`
    /// while an operation registers it.
    poller: AtomicPtr<Poller>,
    state: Lock<State>,
    /// The timers of its deadlines.
    timers: deadline::Timers,
    /// The next free PollDesc. Owned by the cache, while this one is free.
    link: AtomicPtr<PollDesc>,
    /// The selects that wait for readiness. Made by the first one.
    watchers: Watchers,
}

static_assertions::const_assert_eq!(align_of::<PollDesc>(), tagptr::ALIGN);
static_assertions::const_assert!(size_of::<PollDesc>() == 128 || cfg!(loom));
static_assertions::assert_impl_all!(PollDesc: Send, Sync);

/// An operation is registering the descriptor.
const JOINING: *mut Poller = ptr::without_provenance_mut(1);
/// An operation is registering the descriptor, and another one relies on that.
const AWAITED: *mut Poller = ptr::without_provenance_mut(2);

static_assertions::const_assert!(align_of::<Poller>() > 2);

struct State {
    closing: bool,
    read: deadline::DeadlineState,
    write: deadline::DeadlineState,
}

impl PollDesc {
    fn new() -> Self {
        PollDesc {
            rg: WaitSlot::new(),
            wg: WaitSlot::new(),
            fdseq: AtomicU32::new(1),
            info: Info::new(),
            fd: AtomicI32::new(-1),
            poller: AtomicPtr::new(ptr::null_mut()),
            state: Lock::new(State {
                closing: false,
                read: deadline::DeadlineState::new(),
                write: deadline::DeadlineState::new(),
            }),
            timers: deadline::Timers::new(),
            link: AtomicPtr::new(ptr::null_mut()),
            watchers: Watchers::new(),
        }
    }

    /// The slot on which an operation in direction `mode` waits.
    #[inline]
    pub(crate) fn slot(&self, mode: Mode) -> &WaitSlot {
        match mode {
            Mode::Read => &self.rg,
            Mode::Write => &self.wg,
        }
    }

    /// Whether an operation in direction `mode` may ask the system. A close takes precedence over a
    /// deadline.
    #[inline]
    pub(crate) fn may_try(&self, mode: Mode) -> Result<(), PollError> {
        self.info.check(mode, false)
    }

    /// Whether an operation in direction `mode` may wait: as [`may_try`](Self::may_try), and for a
    /// read, the last event was not merely an error, after which no other event need come. Such an
    /// event may also be the first sign of a reset, so the refused read asks the system once more.
    /// A write may wait: its next system call returns the error.
    #[doc(alias = "netpollcheckerr")]
    pub(crate) fn may_wait(&self, mode: Mode) -> Result<(), PollError> {
        self.info.check(mode, true)
    }

    /// Forgets that the last event was an error: it came from the error queue of a socket, and more
    /// events follow. Another such event has latched its readiness in the slots, so it is not lost
    /// here.
    pub(crate) fn forget_error(&self) {
        self.info.forget_error();
    }

    /// Whether the kernel has reported an end or an error in this use. From then on an edge may
    /// have been the last one, and only a system call tells whether there is more.
    #[inline]
    pub(crate) fn hung_up(&self) -> bool {
        self.info.hung_up()
    }

    /// The token of this use.
    pub(crate) fn token(&self) -> TaggedPtr {
        TaggedPtr::pack(
            ptr::from_ref(self) as usize,
            self.fdseq.load(Ordering::Relaxed),
        )
    }

    /// The address of the PollDesc, for [`at`](Self::at).
    pub(crate) fn expose_address(&'static self) -> usize {
        ptr::from_ref(self).expose_provenance()
    }

    /// The PollDesc at `address`.
    ///
    /// # Safety
    ///
    /// `address` came from [`expose_address`](Self::expose_address).
    pub(crate) unsafe fn at(address: usize) -> &'static PollDesc {
        // SAFETY: the caller's promise; a PollDesc is never freed.
        unsafe { &*ptr::with_exposed_provenance(address) }
    }

    pub(crate) fn poller(&self) -> Option<&Poller> {
        let poller = self.poller.load(Ordering::Acquire);
        if poller == JOINING || poller == AWAITED {
            return None;
        }
        // SAFETY: pollers live as long as their scheduler, which is never freed.
        unsafe { poller.as_ref() }
    }

    /// Tells the poller that an operation in direction `mode` is going to wait.
    #[inline]
    pub(crate) fn arm(&self, mode: Mode) {
        if let Some(poller) = self.poller() {
            poller.arm(self.fd(), self.token(), mode);
        }
    }

    /// True if the caller must register the descriptor and then call `joined` or `leave_poller`.
    /// False if another operation has registered it, or is doing so.
    pub(crate) fn join_poller(&self) -> bool {
        let next = |poller: *mut Poller| match poller {
            _ if poller.is_null() => Some(JOINING),
            // A write even if the value stays: `joined` and `leave_poller` then see the node that a
            // select has queued before.
            _ if poller == JOINING || poller == AWAITED => Some(AWAITED),
            _ => None,
        };
        let before = self
            .poller
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        before.is_ok_and(|before| before.is_null())
    }

    /// Ends a registration. An operation or a select that came during it could not arm its
    /// direction, so it is woken to try again.
    pub(crate) fn joined(&self, poller: &'static Poller, woken: &mut WaiterList) {
        let before = self
            .poller
            .swap(ptr::from_ref(poller).cast_mut(), Ordering::AcqRel);
        if before == AWAITED {
            self.retry(woken);
        }
    }

    /// Ends a failed registration. An operation that relied on it is woken to register the
    /// descriptor itself.
    pub(crate) fn leave_poller(&self, woken: &mut WaiterList) {
        // A swap: loom may reorder a plain store before an earlier `join_poller` of another
        // operation.
        self.poller.swap(ptr::null_mut(), Ordering::AcqRel);
        self.retry(woken);
    }

    /// Wakes the waiters of both directions, as if the descriptor were ready.
    fn retry(&self, woken: &mut WaiterList) {
        for slot in [&self.rg, &self.wg] {
            woken.extend(slot.notify());
        }
        self.watchers.wake(Ready::READ | Ready::WRITE, woken);
    }

    /// Starts a use for descriptor `fd`.
    fn open(&self, fd: i32) {
        let mut state = self.state.lock();
        self.rg.reset();
        self.wg.reset();
        self.fd.store(fd, Ordering::Relaxed);
        state.closing = false;
        state.read.open();
        state.write.open();
        self.info.open(self.fdseq.load(Ordering::Relaxed));
        self.publish(&state);
    }

    /// Wakes both waiters. Every operation from now on fails with [`PollError::Closing`].
    ///
    /// # Panics
    ///
    /// If it was called before in this use.
    #[doc(alias = "pollUnblock")]
    pub(crate) fn unblock(&self, woken: &mut WaiterList) {
        let mut state = self.state.lock();
        assert!(!state.closing, "a descriptor is unblocked twice");
        state.closing = true;
        if let Some([rt, wt]) = self.timers.get() {
            state.read.abandon(rt);
            state.write.abandon(wt);
        }
        self.publish(&state);
        for slot in [&self.rg, &self.wg] {
            woken.extend(slot.cancel());
        }
        drop(state);
        self.watchers.close(woken);
    }

    /// Delivers a kernel event: adds the waiters that it wakes to `woken`. An event of an earlier
    /// use is dropped.
    #[doc(alias = "netpollready")]
    #[inline]
    fn deliver(&self, tag: u32, ready: Ready, woken: &mut WaiterList) {
        // Acquire pairs with the Release in `free`. If a use begins after this check, it gets a
        // spurious wake-up at worst, and its operation asks the system again.
        if self.fdseq.load(Ordering::Acquire) != tag {
            return;
        }
        self.info.note_event(ready, tag);
        for (bit, slot) in [(Ready::READ, &self.rg), (Ready::WRITE, &self.wg)] {
            if ready.contains(bit) {
                woken.extend(slot.notify());
            }
        }
        self.watchers.wake(ready, woken);
    }

    /// The selects that wait for readiness.
    pub(crate) fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    /// Ends a use, after the descriptor has left its poller. All tokens given out so far become
    /// stale.
    fn free(&self) {
        let state = self.state.lock();
        assert!(state.closing, "a descriptor is freed but was not unblocked");
        self.rg.reset();
        self.wg.reset();
        self.fd.store(-1, Ordering::Relaxed);
        let seq = self.fdseq.load(Ordering::Relaxed).wrapping_add(1) & TAG_MASK;
        self.fdseq.store(seq.max(1), Ordering::Release);
        self.poller.store(ptr::null_mut(), Ordering::Relaxed);
        self.publish(&state);
    }

    /// Publishes the state to threads that do not take the lock. Called after a change and before
    /// the waiters are taken out.
    fn publish(&self, state: &State) {
        self.info.publish(
            state.closing,
            state.read.expired(),
            state.write.expired(),
            self.fdseq.load(Ordering::Relaxed),
        );
    }

    /// When operations in direction `mode` time out. `None`: never, or they already do. For
    /// watchers.
    pub(crate) fn deadline(&self, mode: Mode) -> Option<Nanos> {
        let state = self.state.lock();
        match mode {
            Mode::Read => state.read.when(),
            Mode::Write => state.write.when(),
        }
    }

    /// The descriptor number of this use.
    pub(crate) fn fd(&self) -> i32 {
        self.fd.load(Ordering::Relaxed)
    }
}

const TAG_MASK: u32 = ((1u64 << tagptr::TAG_BITS) - 1) as u32;

/// Asks `poller` for events, adds their number to `count`, and returns the waiters that they wake.
#[doc(alias = "netpoll")]
#[inline]
pub(crate) fn poll(poller: &Poller, delay: Delay, count: &Count) -> WaiterList {
    let mut events = Events::new();
    poller.poll(delay, &mut events);
    count.add(events.len() as u64);
    let mut woken = WaiterList::new();
    // SAFETY: `Netpoll` is an unsafe trait whose implementor promises that tokens are ones that
    // `open` was given.
    unsafe { deliver(&events, &mut woken) };
    woken
}

/// Delivers a batch of events. Only here does a token become a reference to a PollDesc.
///
/// # Safety
///
/// Every token came from [`PollDesc::token`], in this or an earlier use.
#[inline]
pub(crate) unsafe fn deliver(events: &[Event], woken: &mut WaiterList) {
    for event in events {
        // SAFETY: a token's address is that of a PollDesc, which is never freed.
        let desc = unsafe { &*(event.token.addr() as *const PollDesc) };
        desc.deliver(event.token.tag(), event.ready, woken);
    }
}

/// The timer heaps whose Ms must look again. The two timers of a descriptor may be in different
/// ones.
pub(crate) type Moved = [Option<&'static Heap>; 2];

#[cfg(any(test, fuzzing))]
#[path = "../fuzz/polldesc.rs"]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests;
