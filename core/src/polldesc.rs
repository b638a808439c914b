//! PollDesc: what the poller knows about one descriptor, Go's `pollDesc`.
//!
//! Readiness comes from the kernel, deadlines from timers, closing from other goroutines, and at most one goroutine waits in each
//! direction. They meet in three kinds of state:
//!
//! | state | written by | protects |
//! |---|---|---|
//! | `rg`, `wg` (`waiter`) | everybody, by read-modify-write | the waiter of each direction |
//! | `info` (`polldesc/info.rs`) | the lock's holder; events, in bits of their own | what a waiter must know, readable without the lock |
//! | `state` | the lock's holder | deadlines, timers' sequence numbers, closing |
//!
//! The rule: whoever has bad news changes `state`, publishes `info`, and only then takes waiters out of the slots. A waiter announces
//! itself in its slot, and only then reads `info`. So one of the two sees the other, and nobody parks on a descriptor whose news
//! has already been delivered.
//!
//! A PollDesc is never freed, since the kernel may still hold its token: it goes back to the cache, and its sequence number (`fdseq`)
//! moves on, so that events and timers of its last use are recognised. Nothing here schedules: goroutines to be woken are put on a list.
#![allow(
    unsafe_code,
    reason = "timers get the address of their PollDesc, tokens become references"
)]

mod cache;
mod deadline;
mod info;

pub(crate) use cache::PollCache;
pub use deadline::Deadline;
use info::Info;

use crate::counter::Count;
use crate::os::{Delay, Errno, Event, Events, Mode, Nanos, Netpoll, Ready};
use crate::sync::{AtomicI32, AtomicPtr, AtomicU32, Lock, Ordering};
use crate::tagptr::{self, TaggedPtr};
use crate::timer::{Heap, Timer};
use crate::waiter::{WaitSlot, WaiterList};
use alloc::boxed::Box;
use core::fmt;
use core::ptr::{self, NonNull};

/// Why an operation on a descriptor cannot wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PollError {
    /// The descriptor was closed, by this or another goroutine.
    Closing,
    /// The deadline of this direction has passed.
    Timeout,
    /// The system cannot tell when the descriptor is ready.
    NotPollable,
    /// The operation would have to wait, in a destructor that a panic runs: other goroutines of the
    /// thread would see the panic as theirs.
    Unwinding,
}

impl fmt::Display for PollError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PollError::Closing => "use of closed network connection",
            PollError::Timeout => "i/o timeout",
            PollError::NotPollable => "not pollable",
            PollError::Unwinding => "a goroutine that unwinds cannot wait",
        })
    }
}

impl core::error::Error for PollError {}

/// A poller of the scheduler: a backend, and how many descriptors it watches.
pub(crate) struct Poller {
    pub(crate) backend: Box<dyn Netpoll>,
    pub(crate) watched: AtomicU32,
}

impl Poller {
    /// Registers the descriptor of `desc`, which has joined this poller.
    pub(crate) fn watch(&self, desc: &PollDesc) -> Result<(), Errno> {
        // Release pairs with the Acquire in `poll`.
        self.watched.fetch_add(1, Ordering::Release);
        self.backend.open(desc.fd(), desc.token()).inspect_err(|_| {
            self.watched.fetch_sub(1, Ordering::Relaxed);
        })
    }

    /// Collects events, which are added to `count`, and those whom they wake.
    #[inline]
    pub(crate) fn poll(&self, delay: Delay, count: &Count) -> WaiterList {
        let mut events = Events::new();
        self.backend.poll(delay, &mut events);
        count.add(events.len() as u64);
        // What was written before a descriptor was watched, its PollDesc to begin with, is seen where its token arrives. The way of a token
        // through the system gives the same order, but outside of the language's memory model.
        self.watched.load(Ordering::Acquire);
        let mut woken = WaiterList::new();
        // SAFETY: the backends are `unsafe impl Netpoll`, which promises that tokens are ours.
        unsafe { deliver(&events, &mut woken) };
        woken
    }
}

/// One descriptor's poll state. Its alignment is what leaves room for the tag in a token.
#[repr(C, align(256))]
#[doc(alias = "pollDesc")]
pub(crate) struct PollDesc {
    rg: WaitSlot,
    wg: WaitSlot,
    /// Counts the uses of this PollDesc, so that a token of an earlier use is told apart. Never 0. Changes only in the cache.
    fdseq: AtomicU32,
    info: Info,
    /// The descriptor of this use. Constant while it is in use.
    fd: AtomicI32,
    /// Where the descriptor is registered. Null before its first wait; `JOINING` or `AWAITED` while one operation registers it.
    poller: AtomicPtr<Poller>,
    state: Lock<State>,
    rt: Timer,
    wt: Timer,
    /// The next free one, while in the cache.
    link: AtomicPtr<PollDesc>,
}

static_assertions::const_assert_eq!(align_of::<PollDesc>(), tagptr::ALIGN);
static_assertions::const_assert!(size_of::<PollDesc>() == 256 || cfg!(loom));
static_assertions::assert_impl_all!(PollDesc: Send, Sync);

/// An operation registers the descriptor.
const JOINING: *mut Poller = ptr::without_provenance_mut(1);
/// And another one has come meanwhile, which relies on that.
const AWAITED: *mut Poller = ptr::without_provenance_mut(2);

static_assertions::const_assert!(align_of::<Poller>() > 2);

struct State {
    closing: bool,
    read: deadline::DeadlineState,
    write: deadline::DeadlineState,
}

impl PollDesc {
    /// # Safety
    ///
    /// `this` is where the value will be written, and stays for ever.
    unsafe fn new(this: NonNull<PollDesc>) -> Self {
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
            rt: Timer::new(this.cast()),
            wt: Timer::new(this.cast()),
            link: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// The slot on which an operation in direction `mode` waits.
    pub(crate) fn slot(&self, mode: Mode) -> &WaitSlot {
        match mode {
            Mode::Read => &self.rg,
            Mode::Write => &self.wg,
        }
    }

    /// Whether an operation in direction `mode` may ask the system: closing comes before a deadline.
    pub(crate) fn may_try(&self, mode: Mode) -> Result<(), PollError> {
        self.info.check(mode, false)
    }

    /// Whether an operation in direction `mode` may wait: as [`may_try`](Self::may_try), and the last event was not merely an error, after which
    /// no other need come. Such an event can also be the first sight of a reset, so whoever is refused for it asks the system once more.
    #[doc(alias = "netpollcheckerr")]
    pub(crate) fn may_wait(&self, mode: Mode) -> Result<(), PollError> {
        self.info.check(mode, true)
    }

    /// The error that the last event was lies in a queue, and more events will come. Another such
    /// event has latched its readiness in the slots, so it is not lost here.
    pub(crate) fn forget_error(&self) {
        self.info.forget_error();
    }

    /// Whether the kernel has reported an end or an error in this use. From then on an edge may have been the last one, and only a
    /// system call tells whether there is more.
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

    /// Its address, for [`at`](Self::at).
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

    /// Tells the poller that somebody is going to wait.
    pub(crate) fn arm(&self, mode: Mode) {
        if let Some(poller) = self.poller() {
            poller.backend.arm(self.fd(), self.token(), mode);
        }
    }

    /// True if the caller must register the descriptor, and then call `joined` or `leave_poller`. Otherwise another operation has, or does.
    pub(crate) fn join_poller(&self) -> bool {
        let next = |poller: *mut Poller| match poller {
            _ if poller.is_null() => Some(JOINING),
            _ if poller == JOINING => Some(AWAITED),
            _ => None,
        };
        let before = self
            .poller
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        before.is_ok_and(|before| before.is_null())
    }

    /// The descriptor is registered. Whoever came in between could not arm it, and is woken to try again.
    pub(crate) fn joined(&self, poller: &'static Poller, woken: &mut WaiterList) {
        let before = self
            .poller
            .swap(ptr::from_ref(poller).cast_mut(), Ordering::AcqRel);
        if before == AWAITED {
            for slot in [&self.rg, &self.wg] {
                woken.extend(slot.notify());
            }
        }
    }

    /// Undoes `join_poller` after a failed registration. Whoever waits, counting on it, is woken to find out for itself.
    pub(crate) fn leave_poller(&self, woken: &mut WaiterList) {
        // A swap, because loom may let a plain store come before an earlier `join_poller` of somebody else.
        self.poller.swap(ptr::null_mut(), Ordering::AcqRel);
        for slot in [&self.rg, &self.wg] {
            woken.extend(slot.notify());
        }
    }

    /// Starts a use of the PollDesc for descriptor `fd`.
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

    /// Ends the use's waits: every operation from now on fails with [`PollError::Closing`].
    ///
    /// # Panics
    ///
    /// If it was called before in this use.
    #[doc(alias = "pollUnblock")]
    pub(crate) fn unblock(&self, woken: &mut WaiterList) {
        let mut state = self.state.lock();
        assert!(!state.closing, "evict: already closing");
        state.closing = true;
        state.read.abandon(&self.rt);
        state.write.abandon(&self.wt);
        self.publish(&state);
        for slot in [&self.rg, &self.wg] {
            woken.extend(slot.cancel());
        }
    }

    /// Delivers a kernel event, if it belongs to this use.
    #[doc(alias = "netpollready")]
    fn deliver(&self, tag: u32, ready: Ready, woken: &mut WaiterList) {
        // Acquire pairs with the Release in `free`. A use that begins after this look gets at worst a spurious wake-up: every
        // operation asks the system again.
        if self.fdseq.load(Ordering::Acquire) != tag {
            return;
        }
        self.info.note_event(ready, tag);
        for (bit, slot) in [(Ready::READ, &self.rg), (Ready::WRITE, &self.wg)] {
            if ready.contains(bit) {
                woken.extend(slot.notify());
            }
        }
    }

    /// Ends a use, after the descriptor has left its poller: tokens given out so far are stale from here.
    fn free(&self) {
        let state = self.state.lock();
        assert!(state.closing, "a descriptor is freed without eviction");
        self.rg.reset();
        self.wg.reset();
        self.fd.store(-1, Ordering::Relaxed);
        let seq = self.fdseq.load(Ordering::Relaxed).wrapping_add(1) & TAG_MASK;
        self.fdseq.store(seq.max(1), Ordering::Release);
        self.poller.store(ptr::null_mut(), Ordering::Relaxed);
        self.publish(&state);
    }

    /// Makes the state visible to those who do not take the lock. Comes after the change and before anyone is woken for it.
    fn publish(&self, state: &State) {
        self.info.publish(
            state.closing,
            state.read.expired(),
            state.write.expired(),
            self.fdseq.load(Ordering::Relaxed),
        );
    }

    /// When operations in direction `mode` give up. `None`: never, or they already do. For watchers.
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

/// Delivers a batch of events: the one door from tokens to poll descriptors.
///
/// # Safety
///
/// Every token came from [`PollDesc::token`], in this or an earlier use.
pub(crate) unsafe fn deliver(events: &[Event], woken: &mut WaiterList) {
    for event in events {
        // SAFETY: a token's address is that of a PollDesc, and those are never freed.
        let desc = unsafe { &*(event.token.addr() as *const PollDesc) };
        desc.deliver(event.token.tag(), event.ready, woken);
    }
}

/// The timer heaps that Ms sleeping for them must look at again: the two timers of a descriptor may lie in different ones.
pub(crate) type Moved = [Option<&'static Heap>; 2];

#[cfg(any(test, fuzzing))]
#[path = "../fuzz/polldesc.rs"]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests;
