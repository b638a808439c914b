//! M: an operating system thread that runs goroutines while it holds a P, its home queue, and its sleep.
//!
//! # The wake word
//!
//! An M that finds nothing to do sleeps in a poller or on its futex, and whoever has work for it wakes it. Every hand-over goes
//! through one word, so its modification order decides every race:
//!
//! | bit | set by | means |
//! |---|---|---|
//! | `NOTIFIED` | anyone (`notify`, `notify_idle`) | look again before sleeping |
//! | `SPIN` | `notify_idle` | the wake came with a place among the spinning Ms |
//! | `ON_FUTEX`, `IN_POLLER`, `WITHOUT_P` | the M (`prepare`) | asleep, or about to be: whoever sets `NOTIFIED` must also call the system |
//!
//! The M clears the word (`awake`), *then* looks for work, and sleeps only if it can go from 0 to an asleep state. Work published
//! before a `notify` is therefore either seen by the look, or its `NOTIFIED` makes `prepare` fail, or it finds the M asleep and wakes it.
#![allow(unsafe_code, reason = "the home queue belongs to the M's own thread")]

use crate::counter::CoarseClock;
use crate::g::GRef;
use crate::metrics::{Counts, Latencies};
use crate::p::P;
use crate::retake::Retake;
use crate::runq::{GList, Inbox};
use crate::stack::Credit;
use crate::sync::{AtomicBool, AtomicI64, AtomicPtr, AtomicU32, CachePadded, Ordering, UnsafeCell};
use crate::trace::Turn;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr;

/// How many goroutines in a row may run because the one before has readied them. Two that ready
/// each other would keep all others waiting.
const NEXT_BUDGET: u32 = 16;

pub(crate) struct M {
    pub(crate) index: usize,
    pub(crate) wake: CachePadded<WakeWord>,
    /// Goroutines at home here that were readied by other threads.
    pub(crate) inbox: CachePadded<Inbox>,
    pub(crate) retake: Retake,
    /// The P that it holds. Written by the M itself.
    p: AtomicU32,
    /// A P that it was given while it had none, and has not seen yet.
    pub(crate) grant: Grant,
    /// How many operations its goroutine may still do that do not block, before others get a turn. Written by the M, and set to 0 by
    /// whoever thinks that it has run for too long.
    pub(crate) allowance: AtomicU32,
    /// Whether the panic that its thread may be in is perhaps that of a goroutine that has stopped.
    /// See `sched/unwinding`.
    pub(crate) detached: AtomicBool,
    /// Whether it holds a P and has found no goroutine to run: it looks for one, sleeps, or is on its way up. Written by the M.
    pub(crate) searches: AtomicBool,
    /// What the system calls its thread.
    pub(crate) thread: AtomicU32,
    /// Since when one goroutine keeps it, if that is long. Written by sysmon.
    pub(crate) kept: CoarseClock,
    /// When its P was last taken, if there is a trace. Written by the taker.
    pub(crate) p_taken: AtomicI64,
    pub(crate) stack_credit: Credit,
    pub(crate) counts: Counts,
    /// How long goroutines that it ran had waited for their turn.
    pub(crate) latencies: Latencies,
    home: UnsafeCell<Home>,
    /// The next in a list of the exchange. Belongs to whoever holds its lock.
    pub(crate) link: UnsafeCell<Option<&'static M>>,
}

// SAFETY: `home` is reached through `Here` only, which exists only on the M's own thread, and `link` under a lock; the rest is atomics.
unsafe impl Sync for M {}

/// Ready goroutines that have started on this M and stay here.
pub(crate) struct Home {
    /// Readied by the goroutine that runs, to run next: what one goroutine waits for, another has just done, while its data is in the cache.
    pub(crate) next: Option<GRef>,
    pub(crate) queue: GList,
    /// How many times in a row `next` may still be served before the queues get their turn.
    pub(crate) budget: u32,
    /// Whose turn it is among the home queue and the P's ring.
    pub(crate) ring_first: bool,
    /// How many times this M goes to sleep without lingering first.
    pub(crate) skip_yields: u32,
    /// Whether this M is counted as spinning: looking for work that others may have.
    pub(crate) spinning: bool,
    /// Whether others may rely on this M: it was the one that looked when they submitted, or was called to a poller that another has left. If it
    /// finds work it must call somebody else.
    pub(crate) must_wake_another: bool,
    /// The goroutine that runs, if there is a trace.
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
            detached: AtomicBool::new(false),
            searches: AtomicBool::new(false),
            thread: AtomicU32::new(0),
            kept: CoarseClock::new(),
            p_taken: AtomicI64::new(0),
            stack_credit: Credit::default(),
            counts: Counts::default(),
            latencies: Latencies::new(),
            home: UnsafeCell::new(Home {
                next: None,
                queue: GList::new(),
                budget: 0,
                ring_first: false,
                skip_yields: 0,
                spinning: false,
                must_wake_another: false,
                running: None,
            }),
            link: UnsafeCell::new(None),
        }
    }
}

/// The Ms of a scheduler, in the order of their start. None ever leaves.
pub(crate) struct Ms(Vec<AtomicPtr<M>>);

impl Ms {
    /// Room for so many.
    pub(crate) fn new(most: usize) -> Self {
        Ms((0..most).map(|_| AtomicPtr::new(ptr::null_mut())).collect())
    }

    /// How many there may be.
    pub(crate) fn most(&self) -> usize {
        self.0.len()
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&M> {
        // SAFETY: null, or what `add` has leaked.
        unsafe { self.0[index].load(Ordering::Acquire).as_ref() }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &M> {
        (0..self.most()).map_while(|index| self.get(index))
    }

    /// Makes the M of the next index, which is `index`. One caller at a time.
    pub(crate) fn add(&self, index: usize) -> &M {
        let m = Box::into_raw(Box::new(M::new(index)));
        self.0[index].store(m, Ordering::Release);
        // SAFETY: new, and freed with `self` only.
        unsafe { &*m }
    }
}

impl Drop for Ms {
    fn drop(&mut self) {
        for m in &self.0 {
            let m = m.load(Ordering::Relaxed);
            if !m.is_null() {
                // SAFETY: `add` made it, and nobody uses it any more.
                drop(unsafe { Box::from_raw(m) });
            }
        }
    }
}

const NO_P: u32 = u32::MAX;

impl M {
    /// The P that it holds, as it last said itself.
    pub(crate) fn p(&self) -> Option<usize> {
        index(self.p.load(Ordering::Relaxed))
    }

    /// To be called on its own thread.
    pub(crate) fn set_p(&self, p: Option<usize>) {
        self.p
            .store(p.map_or(NO_P, |p| p as u32), Ordering::Relaxed);
    }
}

fn index(p: u32) -> Option<usize> {
    (p != NO_P).then_some(p as usize)
}

/// A P on its way to an M that has none.
pub(crate) struct Grant(AtomicU32);

impl Grant {
    /// Release: the P's last holder is done with it. A swap, because loom may let a plain store come before an earlier `take`.
    pub(crate) fn give(&self, p: usize) {
        self.0.swap(p as u32, Ordering::Release);
    }

    pub(crate) fn take(&self) -> Option<usize> {
        index(self.0.swap(NO_P, Ordering::Acquire))
    }
}

/// A goroutine's visit to the scheduler: while it lasts, the P stays.
pub(crate) struct Visit(Here);

impl Visit {
    /// `None` if the M has lost its P.
    ///
    /// # Safety
    ///
    /// The caller runs in a goroutine on the thread of `m`, whose last P is `p`, and does not park before it drops this.
    #[inline]
    pub(crate) unsafe fn new(m: &'static M, p: &'static P) -> Option<Self> {
        if !m.retake.enter() {
            m.retake.leave();
            return None;
        }
        // SAFETY: until `leave`, nobody takes the P; the rest is the caller's promise.
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

/// Holding one proves: this code runs on the thread of M `m`, which holds P `p`, and will not park while it holds it.
#[derive(Clone, Copy)]
pub(crate) struct Here {
    pub(crate) m: &'static M,
    pub(crate) p: &'static P,
    not_send: PhantomData<*mut ()>,
}

impl Here {
    /// # Safety
    ///
    /// What holding one proves.
    #[inline]
    pub(crate) unsafe fn new(m: &'static M, p: &'static P) -> Self {
        Here {
            m,
            p,
            not_send: PhantomData,
        }
    }

    /// Works on the M's own queue. `f` must not lead back here.
    #[inline]
    pub(crate) fn home<R>(&self, f: impl FnOnce(&mut Home) -> R) -> R {
        // SAFETY: only this thread gets here, and the closures passed are queue operations that call nothing else of the scheduler.
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

    /// Lets others see how long the M's own queue is.
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

/// See the module's head.
pub(crate) struct WakeWord(AtomicU32);

/// Where an M sleeps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asleep {
    Futex,
    Poller,
    /// On its futex, with no P to run goroutines with.
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

    /// As [`of`](Self::of), for an M that could run something.
    fn with_p(word: u32) -> Option<Asleep> {
        Asleep::of(word).filter(|&asleep| asleep != Asleep::WithoutP)
    }
}

impl WakeWord {
    /// The word to sleep on.
    pub(crate) fn futex(&self) -> &AtomicU32 {
        &self.0
    }

    /// Tells the M to look again. Where it sleeps, if this call is the one that has to end that.
    #[must_use]
    pub(crate) fn notify(&self) -> Option<Asleep> {
        // Always a read-modify-write, even where the bit is set: its Release is what the M's `awake` acquires.
        Asleep::of(self.0.fetch_or(NOTIFIED, Ordering::AcqRel))
    }

    /// Wakes the M if it sleeps with a P, giving it a place among the spinning. Where it sleeps.
    #[must_use]
    pub(crate) fn notify_idle(&self) -> Option<Asleep> {
        let recruited = |word| Asleep::with_p(word).map(|_| word | NOTIFIED | SPIN);
        let before = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, recruited);
        before.ok().and_then(Asleep::with_p)
    }

    /// Whether the M sleeps with a P, or is about to, and nobody has told it to get up.
    pub(crate) fn asleep(&self) -> bool {
        Asleep::with_p(self.0.load(Ordering::Relaxed)).is_some()
    }

    /// Whether the M sleeps anywhere and nobody has told it to get up.
    pub(crate) fn is_asleep(&self) -> bool {
        Asleep::of(self.0.load(Ordering::Acquire)).is_some()
    }

    /// Whether the M sleeps on its futex and nobody has told it to get up.
    pub(crate) fn on_futex(&self) -> bool {
        self.0.load(Ordering::Relaxed) == ON_FUTEX
    }

    /// The M declares that it goes to sleep. False if it has been told to look again.
    #[must_use]
    pub(crate) fn prepare(&self, asleep: Asleep) -> bool {
        self.0
            .compare_exchange(0, asleep.bits(), Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// The M is up. True if it was recruited to spin.
    #[must_use]
    pub(crate) fn awake(&self) -> bool {
        self.0.swap(0, Ordering::AcqRel) & SPIN != 0
    }
}

#[cfg(all(test, loom))]
#[path = "../models/m.rs"]
mod models;
