//! M: an operating system thread that runs goroutines while it holds a P.
//!
//! # The wake word
//!
//! An M without work sleeps in its poller or on its futex until another thread has work for it. The
//! two meet in one word, so its modification order decides every race:
//!
//! | bit | set by | means |
//! |---|---|---|
//! | `NOTIFIED` | any thread (`notify`, `notify_idle`) | the M looks again before it sleeps |
//! | `SPIN` | `notify_idle` | the M is counted as spinning already |
//! | `ON_FUTEX`, `IN_POLLER`, `WITHOUT_P` | the M (`prepare`) | the M sleeps there, or soon will |
//!
//! A thread that sets `NOTIFIED` while the M sleeps must also wake it by a system call.
//!
//! The M clears the word (`awake`), *then* looks for work, and sleeps only if it can move the word
//! from 0 to a sleep. For work that was published before a `notify`, there are three cases: the
//! look finds it, or `NOTIFIED` makes `prepare` fail, or the notifier finds the M asleep and wakes
//! it.
#![allow(unsafe_code, reason = "the home queue belongs to the M's own thread")]

use crate::counter::{CoarseClock, Numbers};
use crate::g::GRef;
use crate::lock_wait::LockWait;
use crate::metrics::{Counts, Latencies};
use crate::p::P;
use crate::retake::Retake;
use crate::runq::{GList, Inbox};
use crate::stack::Credit;
use crate::sync::{
    AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, CachePadded, Ordering, UnsafeCell,
};
use crate::trace::Turn;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr;

/// How many goroutines in a row may run because the one before has readied them. Two that ready
/// each other would keep all others waiting.
const NEXT_BUDGET: u32 = 16;

/// An M. Other threads use it through a shared reference; what is not an atomic or a lock is
/// reached through [`Here`], on the M's own thread.
pub(crate) struct M {
    /// Its place in the order of starts, from 0.
    pub(crate) index: usize,
    pub(crate) wake: CachePadded<WakeWord>,
    /// Goroutines at home here that other threads have readied.
    pub(crate) inbox: CachePadded<Inbox>,
    /// The protocol by which sysmon takes the P.
    pub(crate) retake: Retake,
    /// The index of the P that it holds, or `NO_P`. Written by the M, on its own thread.
    p: AtomicU32,
    /// A P that another thread has granted and the M has not taken up yet.
    pub(crate) grant: Grant,
    /// Operations that do not block and that its goroutine may do before it yields. Written by the
    /// M's thread; sysmon sets it to 0 after a time slice.
    pub(crate) allowance: AtomicU32,
    /// The number of the goroutine that was the first to stop here in a panic, while the thread is
    /// in a panic, else 0. Written by the M's thread. See `sched/unwinding`.
    pub(crate) panicker: AtomicU64,
    /// The number of the goroutine that runs, if the program was told of its turn, else 0. Written
    /// by the M's thread.
    pub(crate) turn_of: AtomicU64,
    /// Whether it holds a P and has found no goroutine to run: it looks for one, or sleeps. Written
    /// by the M's thread.
    pub(crate) searches: AtomicBool,
    /// The system's number for its thread. Written once, by that thread.
    pub(crate) thread: AtomicU32,
    /// Since when one goroutine keeps the thread, if that is longer than a time slice, else 0.
    /// Written by sysmon.
    pub(crate) kept: CoarseClock,
    /// The wait for a lock of the system that blocks its thread, if there is one.
    pub(crate) lock_wait: LockWait,
    /// When its P was last taken, if there is a trace. Written by the thread that takes it.
    pub(crate) p_taken: AtomicI64,
    pub(crate) stack_credit: Credit,
    /// Numbers for the goroutines that are spawned here. Used by the M's thread.
    pub(crate) ids: Numbers,
    /// What the hooks count. Written by the M's thread.
    pub(crate) counts: Counts,
    /// How long goroutines waited for a turn on this M. Written by the M's thread.
    pub(crate) latencies: Latencies,
    home: UnsafeCell<Home>,
    /// The next M in a list of [`MsWithoutP`](crate::sched). Owned by the lock of those lists.
    pub(crate) link: UnsafeCell<Option<&'static M>>,
}

// SAFETY: `home` is reached through `Here`, which exists on the M's own thread only, and `link`
// under the lock of the lists; all other fields are atomics or do not change.
unsafe impl Sync for M {}

/// What only the M's own thread uses: runnable goroutines that have started here and stay, and
/// where its search stands.
pub(crate) struct Home {
    /// Runs next: the goroutine that runs has readied it, and their common data is in the cache.
    pub(crate) next: Option<GRef>,
    /// Run in this order.
    pub(crate) queue: GList,
    /// How many times in a row `next` may still come before the queues.
    pub(crate) budget: u32,
    /// Whether the ring of the P was asked before the home queue the last time. They take turns.
    pub(crate) ring_first: bool,
    /// How many times this M parks without a yield before it.
    pub(crate) skip_yields: u32,
    /// How many times it does so if the next yield brings nothing, about twice.
    pub(crate) vain_pause: u32,
    /// How many more times a wake-up by another thread must end a park before this M lingers.
    pub(crate) skip_lingers: u32,
    /// Whether this M is counted as spinning.
    pub(crate) spinning: bool,
    /// Set when this M gave up spinning, or was woken on its futex, perhaps to take over the
    /// poller. If it then finds work, it must wake another M. See `sched/idle`.
    pub(crate) must_wake_another: bool,
    /// The goroutine that runs, while there is a trace.
    pub(crate) running: Option<Turn>,
}

impl M {
    pub(crate) fn new(index: usize) -> Self {
        M {
            index,
            wake: CachePadded::new(WakeWord(AtomicU32::new(0))),
            inbox: CachePadded::new(Inbox::new()),
            retake: Retake::new(),
            p: AtomicU32::new(NO_P),
            grant: Grant(AtomicU32::new(NO_P)),
            allowance: AtomicU32::new(0),
            panicker: AtomicU64::new(0),
            turn_of: AtomicU64::new(0),
            searches: AtomicBool::new(false),
            thread: AtomicU32::new(0),
            kept: CoarseClock::new(),
            lock_wait: LockWait::new(),
            p_taken: AtomicI64::new(0),
            stack_credit: Credit::default(),
            ids: Numbers::default(),
            counts: Counts::default(),
            latencies: Latencies::new(),
            home: UnsafeCell::new(Home {
                next: None,
                queue: GList::new(),
                budget: 0,
                ring_first: false,
                skip_yields: 0,
                vain_pause: 0,
                skip_lingers: 1,
                spinning: false,
                must_wake_another: false,
                running: None,
            }),
            link: UnsafeCell::new(None),
        }
    }
}

/// The Ms of a scheduler, in the order of their start. None is ever removed.
pub(crate) struct Ms(Vec<AtomicPtr<M>>);

impl Ms {
    /// Room for `most` Ms.
    pub(crate) fn new(most: usize) -> Self {
        Ms((0..most).map(|_| AtomicPtr::new(ptr::null_mut())).collect())
    }

    /// How many Ms there may be.
    pub(crate) fn most(&self) -> usize {
        self.0.len()
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&M> {
        // SAFETY: null, or what `add` has leaked.
        unsafe { self.0.get(index)?.load(Ordering::Acquire).as_ref() }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &M> {
        (0..self.most()).map_while(|index| self.get(index))
    }

    /// Makes the next M, whose index must be `index`. One thread at a time may call this.
    pub(crate) fn add(&self, index: usize) -> &M {
        let m = Box::into_raw(Box::new(M::new(index)));
        self.0[index].store(m, Ordering::Release);
        // SAFETY: the box was just leaked, and only the drop of `self` frees it.
        unsafe { &*m }
    }
}

impl Drop for Ms {
    fn drop(&mut self) {
        for m in &self.0 {
            let m = m.load(Ordering::Relaxed);
            if !m.is_null() {
                // SAFETY: `add` leaked it, and references to it do not outlive `self`.
                drop(unsafe { Box::from_raw(m) });
            }
        }
    }
}

const NO_P: u32 = u32::MAX;

impl M {
    /// The index of the P that the M held when it last wrote that. Another thread may see an old
    /// one.
    pub(crate) fn p(&self) -> Option<usize> {
        index(self.p.load(Ordering::Relaxed))
    }

    /// Called on the M's own thread.
    pub(crate) fn set_p(&self, p: Option<usize>) {
        self.p
            .store(p.map_or(NO_P, |p| p as u32), Ordering::Relaxed);
    }
}

fn index(p: u32) -> Option<usize> {
    (p != NO_P).then_some(p as usize)
}

/// A P on its way to an M that has none: its index, or `NO_P`.
pub(crate) struct Grant(AtomicU32);

impl Grant {
    /// Release pairs with the Acquire in `take`: the M sees all that the last holder did to the P.
    /// A swap, because loom may order a plain store before an earlier `take`.
    pub(crate) fn give(&self, p: usize) {
        self.0.swap(p as u32, Ordering::Release);
    }

    pub(crate) fn take(&self) -> Option<usize> {
        index(self.0.swap(NO_P, Ordering::Acquire))
    }
}

/// A goroutine in the scheduler's code: while this exists, sysmon does not take the P.
pub(crate) struct Visit(Here);

impl Visit {
    /// `None` if sysmon has taken the P.
    ///
    /// # Safety
    ///
    /// The caller runs in a goroutine on the thread of `m`, which held `p` when it resumed the
    /// goroutine, and does not park before it drops the result.
    #[inline]
    pub(crate) unsafe fn new(m: &'static M, p: &'static P) -> Option<Self> {
        if !m.retake.enter() {
            m.retake.leave();
            return None;
        }
        // SAFETY: `enter` succeeded, so the P is not taken before `leave`; the rest is the caller's
        // promise.
        Some(Visit(unsafe { Here::new(m, p) }))
    }
}

impl Deref for Visit {
    type Target = Here;

    #[inline]
    fn deref(&self) -> &Here {
        &self.0
    }
}

impl Drop for Visit {
    #[inline]
    fn drop(&mut self) {
        self.0.m.retake.leave();
    }
}

/// Proof that this code runs on the thread of M `m`, which holds P `p`, and does not park while the
/// proof exists.
#[derive(Clone, Copy)]
pub(crate) struct Here {
    pub(crate) m: &'static M,
    pub(crate) p: &'static P,
    not_send: PhantomData<*mut ()>,
}

impl Here {
    /// # Safety
    ///
    /// This code runs on the thread of `m`, `m` holds `p`, and the code does not park while the
    /// result exists.
    #[inline]
    pub(crate) unsafe fn new(m: &'static M, p: &'static P) -> Self {
        Here {
            m,
            p,
            not_send: PhantomData,
        }
    }

    /// Calls `f` with what the M alone uses. `f` must not call this again.
    #[inline]
    pub(crate) fn home<R>(&self, f: impl FnOnce(&mut Home) -> R) -> R {
        // SAFETY: `Here` exists on the M's own thread only, and no closure passed calls `home`:
        // they are short and call only queues.
        f(unsafe { &mut *self.m.home.get() })
    }

    /// Takes the next goroutine from the inbox and the home queue of the M and the ring of the P.
    /// Home queue and ring take turns. What the last goroutine has readied comes first, up to
    /// [`NEXT_BUDGET`] times in a row.
    #[inline]
    pub(crate) fn next_local(&self) -> Option<GRef> {
        let ring = &self.p.ring;
        self.home(|home| {
            if !self.m.inbox.is_empty() {
                self.m.inbox.drain(&mut home.queue);
            }
            if home.budget > 0 {
                home.budget -= 1;
                if let Some(g) = home.next.take().or_else(|| ring.take_next()) {
                    return Some(g);
                }
            }
            home.budget = NEXT_BUDGET;
            home.ring_first = !home.ring_first;
            let g = match home.ring_first {
                true => ring.pop().or_else(|| home.queue.pop_front()),
                false => home.queue.pop_front().or_else(|| ring.pop()),
            };
            g.or_else(|| home.next.take()).or_else(|| ring.take_next())
        })
    }

    /// Publishes the length of the home queue, for metrics and traces.
    pub(crate) fn publish_queue(&self) {
        self.m
            .counts
            .queued
            .set(self.home(|home| home.queue.len()) as u64);
    }
}

const NOTIFIED: u32 = 1;
const SPIN: u32 = 2;
const ON_FUTEX: u32 = 4;
const IN_POLLER: u32 = 8;
const WITHOUT_P: u32 = 16;

/// The wake word: see the module's head.
pub(crate) struct WakeWord(AtomicU32);

/// Where an M sleeps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asleep {
    Futex,
    Poller,
    /// On its futex, without a P.
    WithoutP,
}

impl Asleep {
    pub(crate) fn bits(self) -> u32 {
        match self {
            Asleep::Futex => ON_FUTEX,
            Asleep::Poller => IN_POLLER,
            Asleep::WithoutP => WITHOUT_P,
        }
    }

    fn of(word: u32) -> Option<Asleep> {
        match word {
            ON_FUTEX => Some(Asleep::Futex),
            IN_POLLER => Some(Asleep::Poller),
            WITHOUT_P => Some(Asleep::WithoutP),
            _ => None,
        }
    }

    /// As [`of`](Self::of), but `None` for an M without a P.
    fn with_p(word: u32) -> Option<Asleep> {
        Asleep::of(word).filter(|&asleep| asleep != Asleep::WithoutP)
    }
}

impl WakeWord {
    /// The word itself, to sleep on.
    pub(crate) fn futex(&self) -> &AtomicU32 {
        &self.0
    }

    /// Makes the M look again before it sleeps. If it sleeps, returns where, and the caller must
    /// end the sleep.
    #[must_use]
    pub(crate) fn notify(&self) -> Option<Asleep> {
        // A read-modify-write even if the bit is set: its Release pairs with the Acquire in
        // `awake`.
        Asleep::of(self.0.fetch_or(NOTIFIED, Ordering::AcqRel))
    }

    /// If the M sleeps with a P, tells it that it is counted as spinning, and returns where it
    /// sleeps: the caller must end the sleep.
    #[must_use]
    pub(crate) fn notify_idle(&self) -> Option<Asleep> {
        let spinning = |word| Asleep::with_p(word).map(|_| word | NOTIFIED | SPIN);
        let before = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, spinning);
        before.ok().and_then(Asleep::with_p)
    }

    /// Whether the M, which is up, must look for work once more before it sleeps.
    pub(crate) fn is_notified(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// Whether the M sleeps with a P, or is about to, and has not been notified.
    pub(crate) fn sleeps_with_p(&self) -> bool {
        Asleep::with_p(self.0.load(Ordering::Relaxed)).is_some()
    }

    /// Whether the M sleeps, with or without a P, and has not been notified.
    pub(crate) fn is_asleep(&self) -> bool {
        Asleep::of(self.0.load(Ordering::Acquire)).is_some()
    }

    /// Whether the M sleeps on its futex with a P, and has not been notified.
    pub(crate) fn on_futex(&self) -> bool {
        self.0.load(Ordering::Relaxed) == ON_FUTEX
    }

    /// The M declares that it goes to sleep. Returns false if it was notified: it must look again.
    #[must_use]
    pub(crate) fn prepare(&self, asleep: Asleep) -> bool {
        self.0
            .compare_exchange(0, asleep.bits(), Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// The M is up. Returns whether `notify_idle` has counted it as spinning. Acquire pairs with
    /// the Release in `notify` and `notify_idle`.
    #[must_use]
    pub(crate) fn awake(&self) -> bool {
        self.0.swap(0, Ordering::AcqRel) & SPIN != 0
    }
}

#[cfg(all(test, loom))]
#[path = "../models/m.rs"]
mod models;
