//! Who waits, and the word that everybody meets at.
//!
//! A [`Waiter`] is a parked goroutine or a blocked ordinary thread, in one word. A [`WaitSlot`] is Go's `rg`/`wg`: a binary semaphore
//! for one waiter, on which readiness latches. Poll descriptors, joins and sleeps all wait on one.
//!
//! ```text
//!             announce                 commit
//!   NIL ──────────────────▶ WAIT ──────────────────▶ waiter
//!    ▲ │                     │ │                       │ │
//!    │ │ notify       cancel │ │ notify         cancel │ │ notify: hands the waiter out
//!    │ ▼                     │ ▼                       │ ▼
//!    │ READY ◀───────────────┼─┴───────────────────────┼─┘
//!    │   │ announce, settle  │                         │
//!    └───┴───────────────────┴─────────────────────────┘   cancel: hands the waiter out
//! ```
//!
//! | step | who | from → to |
//! |---|---|---|
//! | `announce` | the waiter | READY → NIL: goes on at once. NIL → WAIT |
//! | `commit` | the waiter's M, once the waiter no longer runs | WAIT → waiter; anything else: the park is off |
//! | `settle` | the waiter, running again | any but a waiter → NIL; was it READY? |
//! | `notify` | whoever has good news | any → READY |
//! | `cancel` | a deadline or a close | WAIT, waiter → NIL; NIL and READY stay: readiness is never destroyed by bad news |
//! | `reset` | the waiter, before an operation | NIL, READY → NIL |
//!
//! The race that makes it hard: the waiter looks for a reason not to wait (a published error), then parks; the other side publishes
//! the reason, then looks for a waiter. Each writes one word and reads the other's. Both `announce` and `cancel` are read-modify-writes of
//! this word, whatever they find, so one comes after the other: a later `cancel` finds the waiter, a later `announce` has acquired the
//! reason, and the look that follows sees it.
#![allow(unsafe_code, reason = "a waiter is stored as an address")]

use crate::g::{G, GRef};
use crate::os::Os;
use crate::sync::{self, AtomicU32, AtomicUsize, Ordering};
use core::ptr::NonNull;

/// A parked goroutine or a blocked thread. Whoever holds it must make it run again.
#[must_use = "a dropped waiter sleeps for ever"]
pub(crate) enum Waiter {
    /// A goroutine, in status waiting.
    G(GRef),
    /// An ordinary thread.
    Thread(Blocked),
}

/// The right to wake one blocked thread, once.
pub(crate) struct Blocked(NonNull<Thread>);

// SAFETY: `Thread` consists of atomics, and it stays alive until the holder of the `Blocked` has woken it.
unsafe impl Send for Blocked {}

/// Tells a thread from a goroutine in a word. Both are aligned to more than this.
const THREAD: usize = 0b1000;

static_assertions::const_assert!(align_of::<G>() > THREAD && align_of::<Thread>() > THREAD);

impl Waiter {
    fn into_word(self) -> usize {
        match self {
            Waiter::G(g) => g.into_raw().as_ptr() as usize,
            Waiter::Thread(thread) => thread.0.as_ptr() as usize | THREAD,
        }
    }

    /// # Safety
    ///
    /// `word` came from `into_word` and is used once.
    unsafe fn from_word(word: usize) -> Self {
        let pointer = NonNull::new((word & !THREAD) as *mut ())
            .unwrap_or_else(|| panic!("a waiter's word is not null"));
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

/// An ordinary thread that blocks. It lives on that thread's stack.
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

    /// The right to wake this thread, which must then `block` if somebody took it.
    pub(crate) fn waiter(&self) -> Waiter {
        Waiter::Thread(Blocked(NonNull::from(self)))
    }

    /// Sleeps until it is woken.
    pub(crate) fn block(&self, os: &dyn Os) {
        // Acquire pairs with the Release in `wake`: what the waker did before is seen.
        while self.woken.load(Ordering::Acquire) == 0 {
            os.futex_wait(&self.woken, 0, None);
        }
    }
}

impl Blocked {
    /// Lets the thread run again.
    pub(crate) fn wake(self, os: &dyn Os) {
        // SAFETY: the thread sleeps until it sees this store, so its `Thread` is alive up to the store, and not touched after it.
        let woken = unsafe { &raw const (*self.0.as_ptr()).woken };
        // SAFETY: as above.
        unsafe { &*woken }.store(1, Ordering::Release);
        os.futex_wake(woken.cast());
    }
}

const NIL: usize = 0;
const READY: usize = 1;
const WAIT: usize = 2;

/// A word on which one goroutine or thread waits.
#[doc(alias = "rg")]
#[doc(alias = "wg")]
pub(crate) struct WaitSlot(AtomicUsize);

/// What `announce` found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Announced {
    /// Readiness was latched, and is consumed: do not wait.
    Ready,
    /// The slot expects a waiter: look for a reason not to wait, then park with `commit`, then `settle`.
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

    /// Says that a waiter is coming.
    ///
    /// # Panics
    ///
    /// If another one is there ("double wait"): the caller did not hold the lock of this direction.
    pub(crate) fn announce(&self) -> Announced {
        // SeqCst: half of the race in the module's head.
        let seen = self
            .0
            .compare_exchange(NIL, WAIT, Ordering::SeqCst, Ordering::SeqCst);
        match seen {
            Ok(_) => Announced::Waiting,
            // Only the waiter takes READY away; the swap acquires what came with it.
            Err(READY) => {
                self.0.swap(NIL, Ordering::SeqCst);
                Announced::Ready
            }
            Err(_) => panic!("double wait: two goroutines wait in one direction"),
        }
    }

    /// Stores the waiter, who no longer runs. Handed back if news came first: it must run again at once.
    ///
    /// After success the waiter may already be running elsewhere, and this slot may be gone.
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

    /// Ends a wait. Whether there was good news: readiness that came while a deadline woke the waiter counts.
    pub(crate) fn settle(&self) -> bool {
        match self.0.swap(NIL, Ordering::SeqCst) {
            READY => true,
            NIL | WAIT => false,
            word => sync::corrupt(format_args!(
                "gopark: corrupted wait slot: {word} after the wait"
            )),
        }
    }

    /// Good news: latches readiness and hands out the waiter, if one is parked.
    #[doc(alias = "netpollunblock")]
    pub(crate) fn notify(&self) -> Option<Waiter> {
        Self::parked(self.0.swap(READY, Ordering::SeqCst))
    }

    /// Bad news: hands out the waiter, if one is parked, and stops one that is about to.
    pub(crate) fn cancel(&self) -> Option<Waiter> {
        // A read-modify-write even where nothing changes: whoever announces itself after it has acquired the reason.
        let next = |word| Some(if word == READY { READY } else { NIL });
        self.0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, next)
            .map_or(None, Self::parked)
    }

    /// Forgets latched readiness, before an operation that will ask the system itself.
    ///
    /// # Panics
    ///
    /// If somebody waits here: the caller did not hold the lock of this direction.
    #[inline]
    pub(crate) fn reset(&self) {
        // Usually there is nothing to forget. Readiness that this load misses and that stays is one useless try later on, no more.
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
        // SAFETY: the word was swapped out, so nobody else gets this waiter.
        (word > WAIT).then(|| unsafe { Waiter::from_word(word) })
    }
}

/// A FIFO list of waiters, linked through themselves: no allocation.
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

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.head == 0
    }

    /// Appends one.
    pub(crate) fn push(&mut self, waiter: Waiter) {
        waiter.link().store(0, Ordering::Relaxed);
        let word = waiter.into_word();
        if self.head == 0 {
            self.head = word;
        } else {
            // SAFETY: the tail's waiter is owned by this list, and only looked at.
            let tail = core::mem::ManuallyDrop::new(unsafe { Waiter::from_word(self.tail) });
            tail.link().store(word, Ordering::Relaxed);
        }
        self.tail = word;
    }

    /// Appends one, if there is one.
    pub(crate) fn extend(&mut self, waiter: Option<Waiter>) {
        if let Some(waiter) = waiter {
            self.push(waiter);
        }
    }

    /// Takes the first.
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

    /// Names a waiter that is never woken in these tests.
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
    fn news_between_announce_and_commit_calls_the_park_off() {
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
    fn a_parked_waiter_is_handed_out_once() {
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
    fn bad_news_never_destroys_readiness() {
        let slot = WaitSlot::new();
        assert!(slot.notify().is_none());
        assert!(slot.cancel().is_none());
        assert_eq!(slot.announce(), Announced::Ready);
    }

    #[test]
    fn readiness_after_bad_news_still_counts() {
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
    fn a_second_waiter_is_refused() {
        let slot = WaitSlot::new();
        assert_eq!(slot.announce(), Announced::Waiting);
        let _ = slot.announce();
    }

    #[test]
    #[should_panic(expected = "reset while a goroutine waits")]
    fn a_reset_under_a_waiter_is_refused() {
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
