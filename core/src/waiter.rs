//! Waiters, and the word on which one of them waits.
//!
//! A [`Waiter`] is a parked goroutine or a blocked ordinary thread, in one word. A [`WaitSlot`] is
//! Go's `rg`/`wg`: a binary semaphore for one waiter, on which readiness latches. Poll descriptors
//! and joins each wait on one. A wait for one of several events has a `Choice`.
//!
//! The rule: the waiter announces itself, looks for a reason not to wait (a published error), and
//! only then parks. The other side publishes the reason, and only then looks for a waiter.
//!
//! ```text
//!             announce                 commit
//!   NIL ──────────────────▶ WAIT ──────────────────▶ waiter
//!    ▲ │                     │ │                       │ │
//!    │ │ notify       cancel │ │ notify         cancel │ │ notify: returns the waiter
//!    │ ▼                     │ ▼                       │ ▼
//!    │ READY ◀───────────────┼─┴───────────────────────┼─┘
//!    │   │ announce, settle, │ settle                  │
//!    │   │ reset             │                         │
//!    └───┴───────────────────┴─────────────────────────┘   cancel: returns the waiter
//! ```
//!
//! | method | caller | from → to |
//! |---|---|---|
//! | `announce` | the waiter | NIL → WAIT: look, then park. READY → NIL: go on at once |
//! | `commit` | the waiter's M, once the waiter has stopped | WAIT → waiter, else the park fails |
//! | `settle` | the waiter, running again | NIL, WAIT, READY → NIL; returns whether it was READY |
//! | `notify` | the poller, a returning goroutine, a timer | any → READY |
//! | `cancel` | a deadline or a close | WAIT, waiter → NIL; readiness (READY) is never destroyed |
//! | `reset` | the waiter, before an operation | NIL, READY → NIL |
//!
//! The race: each side writes one word and then reads the other's, so a lost order would park a
//! waiter that no event wakes. `announce` and `cancel` are read-modify-writes of this slot even if
//! they change nothing, so one of them comes first. A later `cancel` finds the waiter. A later
//! `announce` synchronizes with the `cancel`, so the look that follows it sees the reason.
#![allow(unsafe_code, reason = "a waiter is stored as an address")]

use crate::g::{G, GRef};
use crate::must::Must;
use crate::os::Os;
use crate::sync::{self, AtomicU32, AtomicUsize, Ordering};
use core::ptr::NonNull;

/// A parked goroutine or a blocked thread. Its holder must make it run again.
#[must_use = "a dropped waiter never runs again"]
pub(crate) enum Waiter {
    /// A goroutine, whose status is waiting.
    G(GRef),
    /// An ordinary thread.
    Thread(Blocked),
}

/// The right to wake one blocked thread, once.
pub(crate) struct Blocked(NonNull<Thread>);

// SAFETY: `Thread` consists of atomics, and stays alive until the holder of the `Blocked` has woken
// it.
unsafe impl Send for Blocked {}

/// Tags the word of a thread. Both types are aligned to more than this.
const THREAD: usize = 0b1000;

static_assertions::const_assert!(align_of::<G>() > THREAD && align_of::<Thread>() > THREAD);

impl Waiter {
    pub(crate) fn into_word(self) -> usize {
        match self {
            Waiter::G(g) => g.into_raw().as_ptr() as usize,
            Waiter::Thread(thread) => thread.0.as_ptr() as usize | THREAD,
        }
    }

    /// Takes back what `into_word` gave.
    ///
    /// # Safety
    ///
    /// `word` came from `into_word` and is used once.
    #[inline]
    pub(crate) unsafe fn from_word(word: usize) -> Self {
        let pointer =
            NonNull::new((word & !THREAD) as *mut ()).must("the word of a waiter is null");
        if word & THREAD == 0 {
            // SAFETY: `into_word` gave up the only GRef.
            Waiter::G(unsafe { GRef::from_raw(pointer.cast()) })
        } else {
            Waiter::Thread(Blocked(pointer.cast()))
        }
    }

    fn link(&self) -> &AtomicUsize {
        match self {
            Waiter::G(g) => &g.link,
            // SAFETY: the thread is blocked, so its `Thread` is alive.
            Waiter::Thread(thread) => unsafe { &thread.0.as_ref().link },
        }
    }
}

/// The state of an ordinary thread that blocks, on that thread's stack.
#[repr(align(16))]
pub(crate) struct Thread {
    link: AtomicUsize,
    woken: AtomicU32,
}

impl Thread {
    pub(crate) fn new() -> Self {
        Thread {
            link: AtomicUsize::new(0),
            woken: AtomicU32::new(0),
        }
    }

    /// The waiter for this thread. The thread must `block` if another thread has taken the waiter.
    pub(crate) fn waiter(&self) -> Waiter {
        Waiter::Thread(Blocked(NonNull::from(self)))
    }

    /// Sleeps until `wake` is called.
    pub(crate) fn block(&self, os: &dyn Os) {
        // Acquire pairs with the Release in `wake`: the thread sees what its waker wrote before.
        while self.woken.load(Ordering::Acquire) == 0 {
            os.futex_wait(&self.woken, 0, None);
        }
    }
}

impl Blocked {
    /// Makes the thread run again.
    pub(crate) fn wake(self, os: &dyn Os) {
        // SAFETY: the thread's `Thread` stays alive until it sees the store below, and this
        // function does not read it after the store.
        let woken = unsafe { &raw const (*self.0.as_ptr()).woken };
        // SAFETY: as above.
        unsafe { &*woken }.store(1, Ordering::Release);
        os.futex_wake(woken.cast());
    }
}

const NIL: usize = 0;
const READY: usize = 1;
const WAIT: usize = 2;

/// A word on which one goroutine or thread waits. See the module's head.
#[doc(alias = "rg")]
#[doc(alias = "wg")]
pub(crate) struct WaitSlot(AtomicUsize);

/// What `announce` found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Announced {
    /// Readiness was latched and is consumed: do not wait.
    Ready,
    /// The slot expects a waiter: look for a reason not to wait, then `commit`, then `settle`.
    Waiting,
}

impl Default for WaitSlot {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitSlot {
    /// An empty slot.
    pub(crate) fn new() -> Self {
        WaitSlot(AtomicUsize::new(NIL))
    }

    /// Announces a waiter, or consumes latched readiness.
    ///
    /// # Panics
    ///
    /// If another waiter is there ("double wait"): the caller did not hold the lock of this
    /// direction.
    pub(crate) fn announce(&self) -> Announced {
        // SeqCst: the waiter's half of the race in the module's head. `cancel` is the other.
        let seen = self
            .0
            .compare_exchange(NIL, WAIT, Ordering::SeqCst, Ordering::SeqCst);
        match seen {
            Ok(_) => Announced::Waiting,
            // Only the waiter takes READY away. The swap acquires what the notifier wrote.
            Err(READY) => {
                self.0.swap(NIL, Ordering::SeqCst);
                Announced::Ready
            }
            Err(_) => panic!("double wait: two goroutines wait in one direction"),
        }
    }

    /// Stores the waiter, which has stopped running. Gives it back if a `notify` or `cancel` came
    /// first: it must run again at once.
    ///
    /// After success the waiter may already run elsewhere, and this slot may be freed.
    pub(crate) fn commit(&self, waiter: Waiter) -> Result<(), Waiter> {
        let word = waiter.into_word();
        match self
            .0
            .compare_exchange(WAIT, word, Ordering::SeqCst, Ordering::SeqCst)
        {
            Ok(_) => Ok(()),
            // SAFETY: the word was not stored anywhere.
            Err(_) => Err(unsafe { Waiter::from_word(word) }),
        }
    }

    /// Ends a wait. True if the slot was notified, even if a deadline woke the waiter first.
    pub(crate) fn settle(&self) -> bool {
        match self.0.swap(NIL, Ordering::SeqCst) {
            READY => true,
            NIL | WAIT => false,
            word => sync::corrupt(format_args!(
                "gopark: corrupted wait slot: {word} after the wait"
            )),
        }
    }

    /// Latches readiness and returns the waiter, if one is parked.
    #[doc(alias = "netpollunblock")]
    pub(crate) fn notify(&self) -> Option<Waiter> {
        Self::parked(self.0.swap(READY, Ordering::SeqCst))
    }

    /// Returns the waiter, if one is parked, and makes the `commit` of an announced one fail.
    pub(crate) fn cancel(&self) -> Option<Waiter> {
        // An RMW even if the value is unchanged: it synchronizes with a later `announce`, which
        // then sees the published error.
        let next = |word| Some(if word == READY { READY } else { NIL });
        self.0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, next)
            .map_or(None, Self::parked)
    }

    /// Forgets latched readiness, before an operation that asks the system itself.
    ///
    /// # Panics
    ///
    /// If a waiter is there: the caller did not hold the lock of this direction.
    #[inline]
    pub(crate) fn reset(&self) {
        // There is usually nothing to forget. If this load misses a READY, that one stays latched
        // and costs one useless try later.
        if self.0.load(Ordering::Relaxed) == NIL {
            return;
        }
        match self.0.swap(NIL, Ordering::SeqCst) {
            NIL | READY => {}
            _ => panic!("reset while a goroutine waits"),
        }
    }

    /// Whether readiness is latched.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire) == READY
    }

    fn parked(word: usize) -> Option<Waiter> {
        // SAFETY: the caller swapped the word out, so it alone has this waiter.
        (word > WAIT).then(|| unsafe { Waiter::from_word(word) })
    }
}

/// A FIFO list of waiters, linked through the waiters themselves, so that it never allocates.
#[derive(Default)]
pub(crate) struct WaiterList {
    head: usize,
    tail: usize,
}

impl WaiterList {
    /// An empty list.
    pub(crate) const fn new() -> Self {
        WaiterList { head: 0, tail: 0 }
    }

    /// Whether the list is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.head == 0
    }

    /// Appends a waiter.
    pub(crate) fn push(&mut self, waiter: Waiter) {
        waiter.link().store(0, Ordering::Relaxed);
        let word = waiter.into_word();
        if self.head == 0 {
            self.head = word;
        } else {
            // SAFETY: the list owns the tail's waiter. `ManuallyDrop` keeps it.
            let tail = core::mem::ManuallyDrop::new(unsafe { Waiter::from_word(self.tail) });
            tail.link().store(word, Ordering::Relaxed);
        }
        self.tail = word;
    }

    /// Appends a waiter, if there is one.
    pub(crate) fn extend(&mut self, waiter: Option<Waiter>) {
        if let Some(waiter) = waiter {
            self.push(waiter);
        }
    }

    /// Takes the first waiter.
    pub(crate) fn pop(&mut self) -> Option<Waiter> {
        if self.head == 0 {
            return None;
        }
        // SAFETY: the word leaves the list.
        let waiter = unsafe { Waiter::from_word(self.head) };
        self.head = waiter.link().load(Ordering::Relaxed);
        Some(waiter)
    }
}

#[cfg(any(test, fuzzing))]
#[path = "../fuzz/waiter.rs"]
pub(crate) mod fuzz;

#[cfg(all(test, loom))]
#[path = "../models/waiter.rs"]
mod models;

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// A thread that is never woken, and the word of its waiter.
    fn thread() -> (&'static Thread, usize) {
        let thread: &'static Thread = std::boxed::Box::leak(std::boxed::Box::new(Thread::new()));
        (thread, thread.waiter().into_word())
    }

    fn word(waiter: Option<Waiter>) -> Option<usize> {
        waiter.map(Waiter::into_word)
    }

    #[test]
    fn readiness_latches_until_the_next_wait() {
        let slot = WaitSlot::new();
        assert!(slot.notify().is_none());
        assert_eq!(slot.announce(), Announced::Ready);
        assert_eq!(slot.announce(), Announced::Waiting);
    }

    #[test]
    fn a_notify_or_cancel_between_announce_and_commit_makes_the_park_fail() {
        let (thread, _) = thread();
        for good in [true, false] {
            let slot = WaitSlot::new();
            assert_eq!(slot.announce(), Announced::Waiting);
            assert!(if good { slot.notify() } else { slot.cancel() }.is_none());
            assert!(slot.commit(thread.waiter()).is_err());
            assert_eq!(slot.settle(), good);
        }
    }

    #[test]
    fn a_parked_waiter_is_returned_once() {
        let (thread, expected) = thread();
        for good in [true, false] {
            let slot = WaitSlot::new();
            assert_eq!(slot.announce(), Announced::Waiting);
            assert!(slot.commit(thread.waiter()).is_ok());
            assert_eq!(
                word(if good { slot.notify() } else { slot.cancel() }),
                Some(expected)
            );
            assert!(slot.cancel().is_none());
            assert_eq!(slot.settle(), good);
        }
    }

    #[test]
    fn a_cancel_never_destroys_readiness() {
        let slot = WaitSlot::new();
        assert!(slot.notify().is_none());
        assert!(slot.cancel().is_none());
        assert_eq!(slot.announce(), Announced::Ready);
    }

    #[test]
    fn readiness_after_a_cancel_still_counts() {
        let (thread, expected) = thread();
        let slot = WaitSlot::new();
        assert_eq!(slot.announce(), Announced::Waiting);
        assert!(slot.commit(thread.waiter()).is_ok());
        assert_eq!(word(slot.cancel()), Some(expected));
        assert!(slot.notify().is_none());
        assert!(slot.settle());
    }

    #[test]
    #[should_panic(expected = "double wait")]
    fn a_second_waiter_panics() {
        let slot = WaitSlot::new();
        assert_eq!(slot.announce(), Announced::Waiting);
        let _ = slot.announce();
    }

    #[test]
    #[should_panic(expected = "reset while a goroutine waits")]
    fn a_reset_under_a_waiter_panics() {
        let slot = WaitSlot::new();
        assert_eq!(slot.announce(), Announced::Waiting);
        slot.reset();
    }

    #[test]
    fn a_list_hands_waiters_out_in_order() {
        let all: Vec<_> = (0..5).map(|_| thread()).collect();
        let mut list = WaiterList::new();
        for (thread, _) in &all[..3] {
            list.push(thread.waiter());
        }
        assert_eq!(word(list.pop()), Some(all[0].1));
        for (thread, _) in &all[3..] {
            list.push(thread.waiter());
        }
        for (_, expected) in &all[1..] {
            assert_eq!(word(list.pop()), Some(*expected));
        }
        assert!(list.pop().is_none() && list.is_empty());
    }
}
