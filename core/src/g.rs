//! G: a goroutine. Its control block, its states, and the right to run it.
//!
//! A G is one allocation: this header, then the closure and later its result (`join`). It gets a stack when it
//! first runs. Who may touch a G follows from who holds its `GRef`:
//!
//! ```text
//!            spawn                  resume                 return
//!   (made) ────────▶ RUNNABLE ───────────────▶ RUNNING ──────────────▶ DEAD
//!                    ▲  GRef in a queue │       │  GRef on the M's stack
//!                    │                  ◀───────┤ yield
//!                    │ ready                    │ park: commit stores the GRef in a waiter word
//!                    └────── WAITING ◀──────────┘
//! ```
//!
//! There is one `GRef` for each G that is not dead, so a G is in one queue, or in one word, or on one M, and is readied once per park.
#![allow(
    unsafe_code,
    reason = "the G is shared by address between its M, queues and waiter words"
)]

use crate::fiber::Fiber;
use crate::os::Nanos;
use crate::stack::{Size, Slot, Stack, StackOwner};
use crate::switch::{Context, Stop};
use crate::sync::{AtomicI64, AtomicPtr, AtomicU32, AtomicUsize, Lock, Once, Ordering, UnsafeCell};
use crate::trace::Origin;
use crate::wait_info::{Place, WaitInfo};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::panic::Location;
use core::ptr::{self, NonNull};

/// What a goroutine hands to its M when it stops running: `None` to yield, or its park request, which the scheduler defines.
pub(crate) type Request = Option<NonNull<()>>;

/// Of so many turns, the wait for one is measured; Go's number.
const TURNS_PER_MEASURE: u64 = 8;

/// No M.
const NONE: u32 = u32::MAX;

/// From here on a slot's number is none, but that of a size.
const UNSTARTED: u32 = u32::MAX - 0xff;

/// What a goroutine is doing, for those who watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Status {
    /// In a run queue.
    Runnable,
    /// On an M.
    Running,
    /// Parked.
    Waiting,
    /// Returned.
    Dead,
}

/// What the type of a goroutine's closure decides.
pub(crate) struct VTable {
    /// Calls the closure and keeps its result. Runs on the goroutine's stack. An unwind out of it aborts (`extern "C"`).
    pub(crate) run: unsafe extern "C" fn(NonNull<G>),
    /// Lets go of the scheduler's share of the allocation, once the stack is no longer in use.
    pub(crate) release: unsafe fn(NonNull<G>),
}

/// What a goroutine has from its first run to its return.
struct Running {
    fiber: Fiber,
    owner: &'static StackOwner,
}

/// The header of a goroutine's allocation.
#[repr(C, align(16))]
pub(crate) struct G {
    /// The next element of the list or queue that holds this G. Owned by that list.
    pub(crate) link: AtomicUsize,
    vtable: &'static VTable,
    /// Owned by the holder of the `GRef`.
    running: UnsafeCell<Option<Running>>,
    /// Resumed by the holder of the `GRef`, suspended by the goroutine itself.
    context: Context,
    /// The M this G runs on, which the scheduler knows the type of. Written by that M before it resumes the G.
    m: AtomicPtr<()>,
    /// The M this G may run on, or `NONE`: any.
    home: AtomicU32,
    /// The slot of its stack, or [`UNSTARTED`] and the size that it is to have.
    slot: AtomicU32,
    /// Up to 0, less how many turns until one is waited for by the clock; from 1, since when that one is. Belongs to the holder of the `GRef`.
    turn: AtomicI64,
    pub(crate) wait_info: WaitInfo,
    site: &'static Location<'static>,
    id: u64,
    extra: Once<Box<Extra>>,
}

/// What few goroutines have: a name, and whoever readied them, while there is a trace.
struct Extra {
    name: Lock<Option<Arc<str>>>,
    origin: Origin,
}

// SAFETY: all fields are atomics or constants but `running` and `context`, which only the one holder of the `GRef` touches, and the
// goroutine while that holder runs it; handing a GRef over goes through a lock or a release/acquire pair.
unsafe impl Sync for G {}

impl G {
    pub(crate) fn new(vtable: &'static VTable, id: u64, site: &'static Location<'static>) -> Self {
        G {
            link: AtomicUsize::new(0),
            vtable,
            running: UnsafeCell::new(None),
            context: Context::new(),
            m: AtomicPtr::new(ptr::null_mut()),
            home: AtomicU32::new(NONE),
            slot: AtomicU32::new(UNSTARTED),
            turn: AtomicI64::new(-((id % TURNS_PER_MEASURE) as i64)),
            wait_info: WaitInfo::new(),
            site,
            id,
            extra: Once::new(),
        }
    }

    fn extra(&self) -> &Extra {
        self.extra.call_once(|| {
            Box::new(Extra {
                name: Lock::new(None),
                origin: Origin::new(),
            })
        })
    }

    /// Where to note whoever readies it, and to read that.
    pub(crate) fn origin(&self) -> &Origin {
        &self.extra().origin
    }

    /// The goroutine's number, unique for the life of the scheduler.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Where it was spawned.
    pub(crate) fn site(&self) -> &'static Location<'static> {
        self.site
    }

    /// The name it was given.
    pub(crate) fn name(&self) -> Option<Arc<str>> {
        self.extra.get()?.name.lock().clone()
    }

    /// Gives it a name, in place of any before.
    pub(crate) fn set_name(&self, name: Arc<str>) {
        let before = self.extra().name.lock().replace(name);
        drop(before);
    }

    /// What it is doing now. Only a hint, unless the caller runs on it.
    pub(crate) fn status(&self) -> Status {
        match self.wait_info.status.load(Ordering::Acquire) {
            0 => Status::Runnable,
            1 => Status::Running,
            2 => Status::Waiting,
            _ => Status::Dead,
        }
    }

    /// Release: what the goroutine wrote before is seen by whoever sees that it waits.
    pub(crate) fn set_status(&self, status: Status) {
        self.wait_info.status.store(status as u8, Ordering::Release);
    }

    /// Whether to look at the clock for [`waits_since`](Self::waits_since), now that the goroutine is about to be queued.
    #[inline]
    pub(crate) fn is_measured(&self) -> bool {
        self.turn.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn waits_since(&self, now: Nanos) {
        self.turn.store(now, Ordering::Relaxed);
    }

    /// Its turn has come. Since when it has waited for that, if that was measured.
    #[inline]
    pub(crate) fn begin_turn(&self) -> Option<Nanos> {
        let next = self.turn.load(Ordering::Relaxed) + 1;
        self.turn.store(next, Ordering::Relaxed);
        (next > 0).then(|| self.end_measure(next - 1))
    }

    #[cold]
    fn end_measure(&self, since: Nanos) -> Nanos {
        self.turn
            .store(1 - TURNS_PER_MEASURE as i64, Ordering::Relaxed);
        since
    }

    /// The M it runs on, as its last `resume` named it.
    #[inline]
    pub(crate) fn m(&self) -> *mut () {
        self.m.load(Ordering::Relaxed)
    }

    /// The index of the M it is bound to.
    #[inline]
    pub(crate) fn home(&self) -> Option<usize> {
        let home = self.home.load(Ordering::Relaxed);
        (home != NONE).then_some(home as usize)
    }

    pub(crate) fn set_home(&self, m: usize) {
        self.home.store(m as u32, Ordering::Relaxed);
    }

    /// Stops running until the scheduler resumes this goroutine.
    ///
    /// # Safety
    ///
    /// The caller runs on this goroutine's stack, and no foreign stack lies in between.
    #[inline]
    pub(crate) unsafe fn suspend(&self, request: Request) {
        self.wait_info.set_place(Place::here());
        // SAFETY: the caller's promise. A request is an address of something aligned.
        unsafe {
            self.context
                .suspend(request.map_or(ptr::null_mut(), NonNull::as_ptr))
        };
    }
}

/// What a goroutine's context begins with.
unsafe extern "C" fn run(g: NonNull<()>) {
    let g = g.cast::<G>();
    // SAFETY: `start` passed the address of a G, which outlives its own run.
    let vtable = unsafe { g.as_ref() }.vtable;
    // SAFETY: runs once, on the goroutine's stack.
    unsafe { (vtable.run)(g) };
}

/// What a resumed goroutine came back with.
pub(crate) enum Resumed {
    /// It goes to the tail of a queue.
    Yielded(GRef),
    /// It waits, if its request still stands.
    Parked(GRef, NonNull<()>),
    /// It returned, and its stack is free.
    Dead(Slot),
}

/// The right to queue, wake or resume one G: moved, never copied.
pub(crate) struct GRef(NonNull<G>);

// SAFETY: a GRef is moved between threads through queues that order its uses; whether the goroutine's own data may move
// with it is decided by `home`, which the scheduler obeys.
unsafe impl Send for GRef {}

impl core::ops::Deref for GRef {
    type Target = G;

    #[inline]
    fn deref(&self) -> &G {
        // SAFETY: the scheduler's share of the allocation is held for as long as the GRef exists.
        unsafe { self.0.as_ref() }
    }
}

impl GRef {
    /// # Safety
    ///
    /// `g` points to a live G of which no other `GRef` exists.
    #[inline]
    pub(crate) unsafe fn from_raw(g: NonNull<G>) -> Self {
        GRef(g)
    }

    #[inline]
    pub(crate) fn into_raw(self) -> NonNull<G> {
        self.0
    }

    /// Gives up the scheduler's share of a goroutine that has returned.
    fn release(self) {
        // SAFETY: the goroutine has returned, and this was its only GRef.
        unsafe { (self.vtable.release)(self.0) };
    }

    /// Whether it has run before.
    #[inline]
    pub(crate) fn started(&self) -> bool {
        self.slot.load(Ordering::Relaxed) < UNSTARTED
    }

    /// The size of stack that a goroutine is to have that has not started.
    pub(crate) fn stack_size(&self) -> Size {
        Size::from_number(self.slot.load(Ordering::Relaxed).wrapping_sub(UNSTARTED))
    }

    /// Before it is submitted.
    pub(crate) fn set_stack_size(&self, size: Size) {
        self.slot
            .store(UNSTARTED + size.number(), Ordering::Relaxed);
    }

    /// Binds a goroutine that has not run to its stack and the anchor there.
    pub(crate) fn start(&self, slot: Slot, stack: Stack, owner: &'static StackOwner) {
        let g = self.0;
        owner.bind(g.cast());
        self.slot.store(slot.0, Ordering::Relaxed);
        let running = Running {
            fiber: Fiber::new(&stack),
            owner,
        };
        // SAFETY: holding the GRef of a G that does not run is exclusive access to it; the G is an allocation that outlives its own run,
        // and its slot is its alone.
        unsafe {
            *self.running.get() = Some(running);
            self.context.start(stack, run, g.cast());
        }
    }

    /// Runs the goroutine on M `m` until it yields, parks or returns.
    #[inline]
    pub(crate) fn resume(self, m: NonNull<()>) -> Resumed {
        self.m.store(m.as_ptr(), Ordering::Relaxed);
        self.set_status(Status::Running);
        self.wait_info.resumes.begin(crate::sync::yield_thread);
        // SAFETY: as in `start`; the goroutine itself does not touch it.
        let running = unsafe { (*self.running.get()).as_ref() };
        let Running { fiber, owner } = running
            .unwrap_or_else(|| panic!("a goroutine is resumed that has no stack, or has returned"));
        // SAFETY: it was started and has not returned, or it would not have what was looked at above; it runs nowhere, since there is one GRef.
        match fiber.run(|| unsafe { self.context.resume() }) {
            Stop::Suspended(request) => match NonNull::new(request) {
                None => {
                    self.set_status(Status::Runnable);
                    Resumed::Yielded(self)
                }
                Some(request) => {
                    self.set_status(Status::Waiting);
                    Resumed::Parked(self, request)
                }
            },
            Stop::Returned => {
                self.set_status(Status::Dead);
                let (slot, owner) = (Slot(self.slot.load(Ordering::Relaxed)), *owner);
                // SAFETY: as above; the goroutine has returned.
                unsafe { *self.running.get() = None };
                // From here on a watcher may free the G.
                if owner.unbind() {
                    self.release();
                }
                Resumed::Dead(slot)
            }
        }
    }
}

/// A goroutine that somebody looks at: it may run and return meanwhile, but stays in memory.
pub(crate) struct Pinned {
    g: NonNull<G>,
    owner: &'static StackOwner,
}

impl Pinned {
    /// The goroutine that `owner` names. `None` if there is none, or somebody else looks at it.
    ///
    /// # Safety
    ///
    /// The anchor was only bound by [`GRef::start`].
    pub(crate) unsafe fn new(owner: &'static StackOwner) -> Option<Self> {
        owner.pin().map(|g| Pinned { g: g.cast(), owner })
    }
}

impl core::ops::Deref for Pinned {
    type Target = G;

    fn deref(&self) -> &G {
        // SAFETY: an anchor names a live G; if that returns while it is pinned, its last share is left to `drop`.
        unsafe { self.g.as_ref() }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if !self.owner.unpin(self.g.cast()) {
            GRef(self.g).release();
        }
    }
}

/// Goroutines that are never run, for tests of queues.
#[cfg(any(test, fuzzing))]
pub(crate) mod idle {
    use super::*;

    static IDLE: VTable = VTable { run, release };

    unsafe extern "C" fn run(_: NonNull<G>) {}
    unsafe fn release(_: NonNull<G>) {}

    pub(crate) fn goroutine(id: u64) -> GRef {
        GRef(NonNull::from(Box::leak(Box::new(G::new(
            &IDLE,
            id,
            Location::caller(),
        )))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_eight_turns_of_a_goroutine_one_is_measured_beginning_with_another_for_each() {
        for id in 0..16 {
            let g = idle::goroutine(id);
            let mut measured = alloc::vec::Vec::new();
            for turn in 0..24 {
                if g.is_measured() {
                    g.waits_since(1000 + turn);
                }
                if let Some(since) = g.begin_turn() {
                    assert_eq!(since, 1000 + turn);
                    measured.push(turn);
                }
            }
            let first = id as Nanos % 8;
            assert_eq!(measured, [first, first + 8, first + 16]);
        }
    }
}
