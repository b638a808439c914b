//! G: a goroutine. Its control block, its states, and the right to run it.
//!
//! A G is one allocation: this header, then the closure and later its result (`join`). It gets a
//! stack when it first runs.
//!
//! The rule: each G that is not dead has exactly one `GRef`, and only its holder may queue, wake or
//! resume the G. So a G is in one queue, in one waiter word, or on one M, and is readied once for
//! each park:
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
//! A goroutine can also be made to wait before its first run, and then has no stack while it waits:
//! (made) → WAITING. `sched::stackless` makes that transition and explains the wake-up.
#![allow(
    unsafe_code,
    reason = "the G is shared by address between its M, queues and waiter words"
)]

use crate::fiber::Fiber;
use crate::must::Must;
use crate::os::Nanos;
use crate::stack::{Size, Slot, Stack, StackOwner};
use crate::switch::{Context, Stop};
use crate::sync::{
    AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicUsize, LazyBox, Lock, Once, Ordering,
    UnsafeCell, while_unparkable,
};
use crate::trace::{Identity, Origin};
use crate::wait_info::{Place, WaitInfo};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::TypeId;
use core::panic::Location;
use core::ptr::{self, NonNull};

/// What a goroutine gives its M when it stops: `None` to yield, else the address of its park
/// request, whose type the scheduler defines.
pub(crate) type Request = Option<NonNull<()>>;

/// One in this many turns of a goroutine is timed: from being queued to running. Go's number.
const TURNS_PER_MEASURE: u64 = 8;

/// The value of `home` for a goroutine that any M may run.
const NONE: u32 = u32::MAX;

/// The value of `home` for a goroutine that has no stack and no reservation of one. No M has this
/// index.
const NO_STACK: u32 = u32::MAX - 1;

/// Values of `slot` from here on are not slots: the goroutine has not started, and the rest is its
/// stack size.
const UNSTARTED: u32 = u32::MAX - 0xff;

/// The status of a goroutine, for watchers.
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

/// What depends on the type of a goroutine's closure. One table serves the scheduler and `join`: a
/// second pointer in each goroutine would cost eight bytes.
pub(crate) struct VTable {
    /// Calls the closure and keeps its result. Runs on the goroutine's stack. An unwind out of it
    /// aborts (`extern "C"`).
    pub(crate) run: unsafe extern "C" fn(NonNull<G>),
    /// Releases the scheduler's reference to the allocation, once the stack is no longer in use.
    pub(crate) release: unsafe fn(NonNull<G>),
    /// Frees the allocation.
    pub(crate) dealloc: unsafe fn(NonNull<G>),
    /// Bytes from the G to the closure, which its result replaces.
    pub(crate) stage: u32,
    /// Whether a scope waits for the goroutine.
    pub(crate) scoped: bool,
}

/// What a goroutine has from its first run until it returns.
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
    /// The M that this G runs on; the scheduler knows its type. Written by that M before it resumes
    /// the G.
    m: AtomicPtr<()>,
    /// The index of the only M that may run this G, or `NONE`: any M, or `NO_STACK`: none yet.
    home: AtomicU32,
    /// The slot of its stack, or [`UNSTARTED`] plus the size of the stack that it will get.
    slot: AtomicU32,
    /// Times one turn in [`TURNS_PER_MEASURE`]. Up to 0: minus the number of turns until a timed
    /// one. From 1: when the goroutine was queued for the timed turn. Owned by the holder of the
    /// `GRef`.
    turn_timer: AtomicI64,
    pub(crate) wait_info: WaitInfo,
    site: &'static Location<'static>,
    id: u64,
    /// The innermost member of a cancel that the goroutine is; `withdraw` knows the type. Written
    /// by the goroutine itself. A watcher compares the address with those in `Extra::cancelled`.
    pub(crate) member: AtomicPtr<()>,
    extra: LazyBox<Extra>,
}

/// What few goroutines have: values of the program, a name, members of a cancel that are cancelled
/// and, during a trace, the origin of the last wake-up.
struct Extra {
    /// A word of the program, which only the goroutine itself uses.
    local: AtomicPtr<()>,
    name: Lock<Option<Arc<str>>>,
    attached: Once<Attached>,
    /// The first element of a list; `cancel::reached` knows the type.
    cancelled: Lock<Option<NonNull<()>>>,
    origin: Origin,
}

/// A boxed value. In a program that attaches none, its drop is less code than that of a
/// `Box<dyn Any>`.
struct Attached {
    value: NonNull<()>,
    of: TypeId,
    drop: unsafe fn(NonNull<()>),
}

// SAFETY: `new` takes values that are Send and Sync.
unsafe impl Send for Attached {}
// SAFETY: as above.
unsafe impl Sync for Attached {}

impl Attached {
    fn new<T: Send + Sync + 'static>(value: T) -> Self {
        unsafe fn drop<T>(value: NonNull<()>) {
            // SAFETY: `new` has leaked the box, and the one owner is being dropped.
            core::mem::drop(unsafe { Box::from_raw(value.cast::<T>().as_ptr()) });
        }
        Attached {
            value: NonNull::from(Box::leak(Box::new(value))).cast(),
            of: TypeId::of::<T>(),
            drop: drop::<T>,
        }
    }

    fn get<T: 'static>(&self) -> Option<&T> {
        // SAFETY: it was made from a value of this type.
        (self.of == TypeId::of::<T>()).then(|| unsafe { self.value.cast().as_ref() })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: called once, by the owner.
        unsafe { (self.drop)(self.value) };
    }
}

static_assertions::const_assert!(
    size_of::<G>() == 144
        || cfg!(any(
            loom,
            steps,
            gopark_sanitize = "thread",
            gopark_sanitize = "address",
            not(target_arch = "x86_64")
        ))
);

// SAFETY: all fields are atomics or constants, except `running` and `context`. Only the holder of
// the `GRef` touches those two, and the goroutine itself while that holder runs it. A `GRef` is
// handed over through a lock or a release/acquire pair.
unsafe impl Sync for G {}

impl G {
    #[inline]
    pub(crate) fn new(vtable: &'static VTable, id: u64, site: &'static Location<'static>) -> Self {
        G {
            link: AtomicUsize::new(0),
            vtable,
            running: UnsafeCell::new(None),
            context: Context::new(),
            m: AtomicPtr::new(ptr::null_mut()),
            home: AtomicU32::new(NONE),
            slot: AtomicU32::new(UNSTARTED),
            turn_timer: AtomicI64::new(-((id % TURNS_PER_MEASURE) as i64)),
            wait_info: WaitInfo::new(),
            site,
            id,
            member: AtomicPtr::new(ptr::null_mut()),
            extra: LazyBox::new(),
        }
    }

    #[inline]
    fn extra(&self) -> &Extra {
        self.extra.get_or_make(|| Extra {
            local: AtomicPtr::new(ptr::null_mut()),
            name: Lock::new(None),
            attached: Once::new(),
            cancelled: Lock::new(None),
            origin: Origin::new(),
        })
    }

    /// Where a trace notes what readied the goroutine.
    pub(crate) fn origin(&self) -> &Origin {
        &self.extra().origin
    }

    /// The list of its members that are cancelled.
    pub(crate) fn cancelled(&self) -> &Lock<Option<NonNull<()>>> {
        &self.extra().cancelled
    }

    /// As [`cancelled`](Self::cancelled), if no part of `Extra` has to be made for it.
    pub(crate) fn cancelled_if_any(&self) -> Option<&Lock<Option<NonNull<()>>>> {
        Some(&self.extra.get()?.cancelled)
    }

    /// The goroutine's number, unique in its scheduler.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Where it was spawned.
    pub(crate) fn site(&self) -> &'static Location<'static> {
        self.site
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity {
            id: self.id,
            name: self.name(),
            site: self.site,
        }
    }

    /// Its name, if it has one.
    pub(crate) fn name(&self) -> Option<Arc<str>> {
        self.extra.get()?.name.lock().clone()
    }

    /// What was attached to it. If nothing was, `make` makes it from the goroutine's number and
    /// name.
    ///
    /// # Panics
    ///
    /// If a value of another type was attached.
    pub(crate) fn attached<T: Send + Sync + 'static>(
        &self,
        make: impl FnOnce(u64, Option<Arc<str>>) -> T,
    ) -> &T {
        let attached = &self.extra().attached;
        let make = || while_unparkable(|| Attached::new(make(self.id, self.name())));
        let attached = attached.call_once(make);
        let value = attached.get::<T>();
        value.must("values of two types are attached to a goroutine")
    }

    /// The word of the program, null at the goroutine's start.
    #[inline]
    pub(crate) fn local(&self) -> *mut () {
        let extra = self.extra.get();
        extra.map_or(ptr::null_mut(), |extra| extra.local.load(Ordering::Relaxed))
    }

    pub(crate) fn set_local(&self, word: *mut ()) {
        self.extra().local.store(word, Ordering::Relaxed);
    }

    /// What the goroutine's allocation is made of.
    #[inline]
    pub(crate) fn vtable(&self) -> &'static VTable {
        self.vtable
    }

    /// Sets its name, in place of an earlier one.
    pub(crate) fn set_name(&self, name: Arc<str>) {
        let before = self.extra().name.lock().replace(name);
        drop(before);
    }

    /// The status now. Only a hint, unless the caller runs on it.
    pub(crate) fn status(&self) -> Status {
        match self.wait_info.status.load(Ordering::Acquire) {
            0 => Status::Runnable,
            1 => Status::Running,
            2 => Status::Waiting,
            _ => Status::Dead,
        }
    }

    /// Release pairs with the Acquire in `status`: a watcher that sees that the goroutine waits
    /// also sees what it wrote before.
    pub(crate) fn set_status(&self, status: Status) {
        self.wait_info.status.store(status as u8, Ordering::Release);
    }

    /// Whether the next turn is timed: then the caller, about to queue the goroutine, calls
    /// [`waits_since`](Self::waits_since).
    #[inline]
    pub(crate) fn is_measured(&self) -> bool {
        self.turn_timer.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn waits_since(&self, now: Nanos) {
        self.turn_timer.store(now, Ordering::Relaxed);
    }

    /// Notes that the goroutine is about to run. Returns when it was queued, if this turn is timed.
    #[inline]
    pub(crate) fn begin_turn(&self) -> Option<Nanos> {
        let next = self.turn_timer.load(Ordering::Relaxed) + 1;
        self.turn_timer.store(next, Ordering::Relaxed);
        (next > 0).then(|| self.end_measure(next - 1))
    }

    #[cold]
    fn end_measure(&self, since: Nanos) -> Nanos {
        self.turn_timer
            .store(1 - TURNS_PER_MEASURE as i64, Ordering::Relaxed);
        since
    }

    /// The M that last resumed it.
    #[inline]
    pub(crate) fn m(&self) -> *mut () {
        self.m.load(Ordering::Relaxed)
    }

    /// The index of the only M that may run it. `None`: any M. An index that no M has: none, before
    /// the goroutine has a reservation of a stack.
    #[inline]
    pub(crate) fn home(&self) -> Option<usize> {
        let home = self.home.load(Ordering::Relaxed);
        (home != NONE).then_some(home as usize)
    }

    pub(crate) fn set_home(&self, m: usize) {
        self.home.store(m as u32, Ordering::Relaxed);
    }

    /// Keeps all Ms from running it, until [`leave_home`](Self::leave_home): it has no reservation
    /// of a stack.
    pub(crate) fn await_stack(&self) {
        self.home.store(NO_STACK, Ordering::Relaxed);
    }

    /// Lets any M run it: again, after it was kept at home for one wait, or because a stack was
    /// reserved for it.
    pub(crate) fn leave_home(&self) {
        self.home.store(NONE, Ordering::Relaxed);
    }

    /// Whether the goroutine must not park in a lock of `std`.
    #[inline]
    pub(crate) fn unparkable(&self) -> &AtomicBool {
        &self.wait_info.unparkable
    }

    /// Stops running, with `request` for the M, until the scheduler resumes this goroutine.
    ///
    /// # Safety
    ///
    /// The caller runs on this goroutine's stack, and no foreign stack lies in between.
    #[inline]
    pub(crate) unsafe fn suspend(&self, request: Request) {
        self.wait_info.set_place(Place::here());
        // SAFETY: the caller's promise. A request is an aligned address, so it is not 1.
        unsafe {
            self.context
                .suspend(request.map_or(ptr::null_mut(), NonNull::as_ptr))
        };
    }
}

/// The entry of a goroutine's context.
unsafe extern "C" fn run(g: NonNull<()>) {
    let g = g.cast::<G>();
    // SAFETY: `start` passed the address of a G, which outlives its own run.
    let vtable = unsafe { g.as_ref() }.vtable;
    // SAFETY: runs once, on the goroutine's stack.
    unsafe { (vtable.run)(g) };
}

/// How a resumed goroutine stopped.
pub(crate) enum Resumed {
    /// It yielded: it goes to the tail of a queue.
    Yielded(GRef),
    /// It parks, unless its request fails.
    Parked(GRef, NonNull<()>),
    /// It returned, and its stack is free.
    Dead(Slot),
}

/// The right to queue, wake or resume one G: moved, never copied.
pub(crate) struct GRef(NonNull<G>);

// SAFETY: the queues that a GRef is moved through order its uses. Whether the goroutine's own data
// may change threads is decided by `home`, which the scheduler obeys.
unsafe impl Send for GRef {}

impl core::ops::Deref for GRef {
    type Target = G;

    #[inline]
    fn deref(&self) -> &G {
        // SAFETY: the GRef holds the scheduler's reference to the allocation.
        unsafe { self.0.as_ref() }
    }
}

impl GRef {
    /// # Safety
    ///
    /// `g` points to a live G that has no other `GRef`.
    #[inline]
    pub(crate) unsafe fn from_raw(g: NonNull<G>) -> Self {
        GRef(g)
    }

    #[inline]
    pub(crate) fn into_raw(self) -> NonNull<G> {
        self.0
    }

    /// The address, from which `join` reaches the whole allocation.
    pub(crate) fn as_raw(&self) -> NonNull<G> {
        self.0
    }

    /// Releases the scheduler's reference to a goroutine that has returned.
    fn release(self) {
        // SAFETY: the goroutine has returned, and this was its only GRef.
        unsafe { (self.vtable.release)(self.0) };
    }

    /// Whether it has started.
    #[inline]
    pub(crate) fn started(&self) -> bool {
        self.slot.load(Ordering::Relaxed) < UNSTARTED
    }

    /// The stack size that a goroutine which has not started will get.
    pub(crate) fn stack_size(&self) -> Size {
        Size::from_number(self.slot.load(Ordering::Relaxed).wrapping_sub(UNSTARTED))
    }

    /// Sets the stack size of a goroutine that was not yet submitted.
    pub(crate) fn set_stack_size(&self, size: Size) {
        self.slot
            .store(UNSTARTED + size.number(), Ordering::Relaxed);
    }

    /// Gives a goroutine that has not run its stack and the owner words there.
    pub(crate) fn start(&self, slot: Slot, stack: Stack, owner: &'static StackOwner) {
        let g = self.0;
        owner.bind(g.cast());
        self.slot.store(slot.0, Ordering::Relaxed);
        let running = Running {
            fiber: Fiber::new(&stack),
            owner,
        };
        // SAFETY: the holder of the GRef of a G that does not run has exclusive access to it. The G
        // outlives its own run, and its slot is its alone.
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
        // SAFETY: as in `start`. The goroutine itself does not touch it.
        let running = unsafe { (*self.running.get()).as_ref() };
        let Running { fiber, owner } = running.unwrap_or_else(|| {
            panic!("a goroutine was resumed before it had a stack or after it returned")
        });
        // SAFETY: `running` is set, so it was started and has not returned. It runs nowhere, since
        // there is one GRef.
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
                // SAFETY: as above. The goroutine has returned.
                unsafe { *self.running.get() = None };
                // From here on a watcher may free the G, unless this thread must.
                if owner.unbind() {
                    self.release();
                }
                Resumed::Dead(slot)
            }
        }
    }
}

/// A goroutine that a watcher has pinned: it may run and return, but its memory stays.
pub(crate) struct Pinned {
    g: NonNull<G>,
    owner: &'static StackOwner,
}

impl Pinned {
    /// Pins the goroutine that `owner` names. `None` if there is none, or another watcher has
    /// pinned it.
    ///
    /// # Safety
    ///
    /// Only [`GRef::start`] has bound these owner words.
    pub(crate) unsafe fn new(owner: &'static StackOwner) -> Option<Self> {
        owner.pin().map(|g| Pinned { g: g.cast(), owner })
    }

    /// As [`GRef::as_raw`].
    pub(crate) fn as_raw(&self) -> NonNull<G> {
        self.g
    }
}

impl core::ops::Deref for Pinned {
    type Target = G;

    fn deref(&self) -> &G {
        // SAFETY: the owner words named a live G when it was pinned. If it returns, its last
        // reference is left to `drop`.
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

/// Goroutines that never run, for tests of queues.
#[cfg(any(test, fuzzing))]
pub(crate) mod idle {
    use super::*;

    static IDLE: VTable = VTable {
        run,
        release,
        dealloc: release,
        stage: 0,
        scoped: false,
    };

    unsafe extern "C" fn run(_: NonNull<G>) {}
    unsafe fn release(_: NonNull<G>) {}

    pub(crate) fn goroutine(id: u64) -> GRef {
        GRef(NonNull::from(Box::leak(Box::new(G::new(
            &IDLE,
            id,
            Location::caller(),
        )))))
    }

    /// A goroutine that has an M, as if it ran.
    pub(crate) fn goroutine_on(m: NonNull<()>, id: u64) -> GRef {
        let g = goroutine(id);
        g.m.store(m.as_ptr(), Ordering::Relaxed);
        g
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_turn_in_eight_is_measured_starting_elsewhere_for_each_goroutine() {
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
