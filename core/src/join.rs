//! A goroutine's allocation, and the handle that waits for its result.
//!
//! ```text
//!   Task = | G | scheduler | done | state | refs | closure, then result |
//! ```
//!
//! A G is the first field of its task, so a watcher that knows a G finds the rest.
//!
//! The scheduler and the handle hold one reference each, and the last one frees the allocation. The
//! closure runs, and its captures and an unwanted result are dropped, on the goroutine's own stack:
//! user code never runs on an M's stack.
//!
//! The race: the goroutine returns while the handle is dropped. Both swap `state`, and the one that
//! comes second must deal with the result:
//!
//! | `state` | by | then |
//! |---|---|---|
//! | `OPEN` → `DETACHED` | the handle, dropped first | the goroutine drops its result |
//! | `OPEN` → `FINISHED` | the goroutine, finished first | the handle takes or drops the result |
#![allow(
    unsafe_code,
    reason = "two owners share the allocation, and only a vtable knows the type of its closure"
)]

use crate::g::{G, GRef, VTable};
use crate::latch::Latch;
use crate::sched::Sched;
use crate::select::{Case, OnCancel};
use crate::stack::{Exhausted, Size};
use crate::sync::{AtomicU8, Ordering, UnsafeCell};
use crate::wait_info::{Wait, WaitWords};
use crate::waiter::WaitSlot;
use crate::withdraw::Cancelled;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, offset_of};
use core::panic::Location;
use core::ptr::NonNull;

const OPEN: u8 = 0;
const DETACHED: u8 = 1;
const FINISHED: u8 = 2;

/// `SCOPED`: whether a scope waits for the goroutine.
#[repr(C)]
struct Task<F, R, const SCOPED: bool> {
    head: Head,
    stage: UnsafeCell<Stage<F, R>>,
}

/// The part of a task that a handle can use without the closure's type.
#[repr(C)]
struct Head {
    g: G,
    sched: &'static Sched,
    done: Latch,
    state: AtomicU8,
    refs: AtomicU8,
}

/// First the closure, then its result. Dropped by hand.
#[repr(C)]
union Stage<F, R> {
    closure: ManuallyDrop<F>,
    result: ManuallyDrop<R>,
}

impl<F: FnOnce() -> (R, A), R, A, const SCOPED: bool> Task<F, R, SCOPED> {
    const VTABLE: VTable = VTable {
        run: Self::run,
        release: Self::release,
        dealloc: Self::dealloc,
        stage: offset_of!(Self, stage) as u32,
        scoped: SCOPED,
    };

    /// The goroutine's body. A panic must not leave a goroutine's stack, so `extern "C"` makes it
    /// abort. A caller with `std` catches panics in the closure.
    unsafe extern "C" fn run(g: NonNull<G>) {
        // SAFETY: a G with this vtable is the first field of such a task, which the scheduler's
        // reference keeps alive during the call.
        let task = unsafe { g.cast::<Self>().as_ref() };
        // SAFETY: until `state` is `FINISHED`, only the goroutine touches the stage. It takes the
        // closure once, and then writes the result.
        let _last = unsafe {
            let closure = ManuallyDrop::take(&mut (*task.stage.get()).closure);
            let (result, last) = closure();
            *task.stage.get() = Stage {
                result: ManuallyDrop::new(result),
            };
            last
        };
        let head = &task.head;
        // Release pairs with the Acquire in the handle's drop: the handle sees the result. Acquire
        // pairs with the Release there: the handle no longer uses the result.
        if head.state.swap(FINISHED, Ordering::AcqRel) == DETACHED {
            // SAFETY: the handle is gone and left the result to the goroutine.
            unsafe { ManuallyDrop::drop(&mut (*task.stage.get()).result) };
        }
        head.sched.release_stack();
        if let Some(joiner) = head.done.set() {
            head.sched.ready(joiner);
        }
    }

    unsafe fn release(g: NonNull<G>) {
        // SAFETY: as in `run`. The scheduler gives up its reference here.
        unsafe { Head::release(g.cast()) };
    }

    unsafe fn dealloc(g: NonNull<G>) {
        // SAFETY: a G with this vtable is the first field of such a task. Both references are gone.
        // The content of the stage was taken or dropped before; the union drops nothing.
        drop(unsafe { Box::from_raw(g.cast::<Self>().as_ptr()) });
    }
}

impl Head {
    /// The address of the result.
    ///
    /// # Safety
    ///
    /// The task is alive.
    unsafe fn result(this: NonNull<Head>) -> NonNull<()> {
        // SAFETY: the vtable is that of the task, which begins with the head. A union has its
        // fields at its beginning.
        unsafe {
            let stage = this.as_ref().g.vtable().stage;
            this.byte_add(stage as usize).cast()
        }
    }

    /// Drops a reference, and frees the allocation with the last one.
    ///
    /// # Safety
    ///
    /// The caller owns a reference, and does not use it afterwards.
    #[inline]
    unsafe fn release(this: NonNull<Head>) {
        // SAFETY: the caller's reference keeps it alive.
        let head = unsafe { this.as_ref() };
        let vtable = head.g.vtable();
        // AcqRel: the uses by the first owner to drop its reference (Release) come before the
        // deallocation by the second (Acquire).
        if head.refs.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: that was the last reference.
            unsafe { (vtable.dealloc)(this.cast()) };
        }
    }
}

/// A handle that waits for a goroutine and takes its result. Dropping it detaches the goroutine.
pub struct Join<R> {
    head: NonNull<Head>,
    result: PhantomData<R>,
}

// SAFETY: a Join gives access to an R by value only, and to atomics.
unsafe impl<R: Send> Send for Join<R> {}
// SAFETY: a shared Join gives access to atomics and constants only.
unsafe impl<R> Sync for Join<R> {}

impl<R> Join<R> {
    fn head(&self) -> &Head {
        // SAFETY: the handle owns a reference.
        unsafe { self.head.as_ref() }
    }

    /// The goroutine's number.
    pub fn id(&self) -> u64 {
        self.g().id()
    }

    pub(crate) fn g(&self) -> &G {
        &self.head().g
    }

    /// Whether the goroutine has returned.
    pub fn is_finished(&self) -> bool {
        self.head().done.is_set()
    }

    /// Waits until the goroutine has returned. Returns its result.
    ///
    /// # Panics
    ///
    /// If a select has taken the result.
    #[track_caller]
    pub fn join(self) -> R {
        let head = self.head();
        head.done.wait(head.sched, self.wait());
        self.result()
    }

    /// As [`join`](Self::join), unless the caller is cancelled first.
    ///
    /// # Errors
    ///
    /// If the caller is cancelled before the goroutine returns. The goroutine is detached then.
    ///
    /// # Panics
    ///
    /// If a select has taken the result.
    #[track_caller]
    pub fn join_or_cancel(self) -> Result<R, Cancelled> {
        let head = self.head();
        head.done.wait_or_cancel(head.sched, self.wait())?;
        Ok(self.result())
    }

    fn wait(&self) -> WaitWords {
        Wait::Join(self.id()).encode()
    }

    #[track_caller]
    fn result(&self) -> R {
        self.read()
            .unwrap_or_else(|| panic!("a select has taken the result of goroutine {}", self.id()))
    }

    /// The return of the goroutine as a case of a [select](Sched::select), which happens once.
    pub fn case(&self) -> Case<'_> {
        Case::new(&self.head().done, OnCancel::Fail)
    }

    /// Takes the result after a select has returned the index of [`case`](Self::case). `None`
    /// without such a select, and the second time.
    pub fn take(&self) -> Option<R>
    where
        R: Send,
    {
        self.read()
    }

    fn read(&self) -> Option<R> {
        let head = self.head();
        // SAFETY: the event was claimed, so it has come: the result is written, `state` is
        // `FINISHED`, and the goroutine leaves the result to this handle. It is taken once.
        let result = || unsafe { Head::result(self.head).cast::<R>().read() };
        head.done.take().then(result)
    }
}

impl<R> Drop for Join<R> {
    fn drop(&mut self) {
        let head = self.head();
        let finished = head.state.swap(DETACHED, Ordering::AcqRel) == FINISHED;
        if finished && !head.done.is_taken() {
            // SAFETY: the goroutine left the result to this handle, and nothing has taken it.
            unsafe { Head::result(self.head).cast::<R>().drop_in_place() };
        }
        // SAFETY: the handle's reference, given up once.
        unsafe { Head::release(self.head) };
    }
}

/// What waits for a goroutine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// A handle, which can be joined.
    Handle,
    /// The scope that started it, or `run`.
    Scope,
    /// Nothing: its handle was dropped.
    Nothing,
}

/// What waits for a goroutine now.
///
/// # Safety
///
/// [`Sched`] has made the goroutine, and it is alive or pinned.
pub(crate) unsafe fn owner(g: NonNull<G>) -> Owner {
    // SAFETY: the caller's promise; all goroutines of a scheduler are tasks.
    let head = unsafe { g.cast::<Head>().as_ref() };
    match head.g.vtable().scoped {
        true => Owner::Scope,
        // `FINISHED` replaces `DETACHED`, but then the goroutine drops its result and is gone.
        false if head.state.load(Ordering::Relaxed) == DETACHED => Owner::Nothing,
        false => Owner::Handle,
    }
}

/// Runs `f` for a goroutine that borrows nothing, so that no scope waits for its last step.
fn detached<R>(f: impl FnOnce() -> R) -> impl FnOnce() -> (R, ()) {
    || (f(), ())
}

/// Options of one goroutine.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A name, for dumps and reports.
    pub name: Option<Arc<str>>,
    /// How many bytes of stack it can use at least, up to [`MAX_STACK`](crate::stack::MAX_STACK).
    /// More than an ordinary stack has is rounded up to a power of two, at least 1 MiB.
    pub stack_size: usize,
}

impl Sched {
    /// `f` returns its result and what the goroutine drops last, when it uses no result any more.
    fn make<F, R, A, const SCOPED: bool>(
        &'static self,
        f: F,
        site: &'static Location<'static>,
    ) -> Result<(GRef, Join<R>), Exhausted>
    where
        F: FnOnce() -> (R, A),
    {
        self.reserve_stack()?;
        Ok(self.make_unreserved::<F, R, A, SCOPED>(f, site))
    }

    /// As [`make`](Self::make), for a goroutine whose stack is reserved later.
    fn make_unreserved<F, R, A, const SCOPED: bool>(
        &'static self,
        f: F,
        site: &'static Location<'static>,
    ) -> (GRef, Join<R>)
    where
        F: FnOnce() -> (R, A),
    {
        let task = Box::new(Task::<F, R, SCOPED> {
            head: Head {
                g: G::new(&Task::<F, R, SCOPED>::VTABLE, self.next_id(), site),
                sched: self,
                done: Latch::new(),
                state: AtomicU8::new(OPEN),
                refs: AtomicU8::new(2),
            },
            stage: UnsafeCell::new(Stage::<F, R> {
                closure: ManuallyDrop::new(f),
            }),
        });
        let task = NonNull::from(Box::leak(task));
        // SAFETY: the G is new, and this is its only GRef.
        let g = unsafe { GRef::from_raw(task.cast()) };
        (
            g,
            Join {
                head: task.cast(),
                result: PhantomData,
            },
        )
    }

    /// Makes a goroutine that runs `f` once `slot` is notified or cancelled, or at once if it was
    /// notified before or `may_wait` returns false. It has no stack until then. `f` must first call
    /// [`end_stackless_wait`](Self::end_stackless_wait) and settle the slot. A panic out of `f`
    /// aborts the process.
    pub(crate) fn go_when_notified<F, R>(
        &'static self,
        slot: &WaitSlot,
        may_wait: impl FnOnce() -> bool,
        f: F,
        site: &'static Location<'static>,
    ) -> Join<R>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        let (g, join) = self.make_unreserved::<_, _, _, false>(detached(f), site);
        self.wait_without_stack(g, slot, may_wait);
        join
    }

    /// Starts a goroutine that runs `f`, on any M. A panic out of `f` aborts the process.
    ///
    /// # Errors
    ///
    /// If there is no stack for it.
    #[doc(alias = "newproc")]
    pub fn go<F, R>(
        &'static self,
        f: F,
        site: &'static Location<'static>,
    ) -> Result<Join<R>, Exhausted>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        let (g, join) = self.make::<_, _, _, false>(detached(f), site)?;
        self.submit(g);
        Ok(join)
    }

    /// As [`go`](Self::go), with options.
    ///
    /// # Errors
    ///
    /// If there is no stack for it.
    pub fn go_with<F, R>(
        &'static self,
        options: Options,
        f: F,
        site: &'static Location<'static>,
    ) -> Result<Join<R>, Exhausted>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Send + 'static,
    {
        self.start_with::<_, _, _, false>(options, detached(f), site)
    }

    /// As [`go_with`](Self::go_with), but what `f` and its result borrow need only live until the
    /// goroutine drops what `f` has returned beside the result. Before that it has dropped a result
    /// that no handle wants.
    ///
    /// # Errors
    ///
    /// If there is no stack for it. `f` was dropped then.
    ///
    /// # Safety
    ///
    /// What `f` and its result borrow lives until that drop, and until the handle was dropped or
    /// forgotten.
    pub unsafe fn go_scoped<F, R, A>(
        &'static self,
        options: Options,
        f: F,
        site: &'static Location<'static>,
    ) -> Result<Join<R>, Exhausted>
    where
        F: FnOnce() -> (R, A) + Send,
        R: Send,
        A: 'static,
    {
        self.start_with::<_, _, _, true>(options, f, site)
    }

    fn start_with<F, R, A, const SCOPED: bool>(
        &'static self,
        options: Options,
        f: F,
        site: &'static Location<'static>,
    ) -> Result<Join<R>, Exhausted>
    where
        F: FnOnce() -> (R, A),
    {
        let size = self.arena().size_for(options.stack_size);
        if size != Size::ORDINARY {
            self.arena().reserve_larger(size)?;
        }
        let made = self.make::<_, _, _, SCOPED>(f, site);
        let (g, join) = made.inspect_err(|_| {
            if size != Size::ORDINARY {
                self.arena().release_larger(size);
            }
        })?;
        g.set_stack_size(size);
        if let Some(name) = options.name {
            g.set_name(name);
        }
        self.submit(g);
        Ok(join)
    }

    /// Starts a goroutine that runs `f` on the current M only, so that `f` need not be `Send`. A
    /// panic out of `f` aborts the process.
    ///
    /// # Errors
    ///
    /// If there is no stack for it.
    ///
    /// # Panics
    ///
    /// On an ordinary thread, which runs no goroutines.
    pub fn go_local<F, R>(
        &'static self,
        f: F,
        site: &'static Location<'static>,
    ) -> Result<Join<R>, Exhausted>
    where
        F: FnOnce() -> R + 'static,
        R: 'static,
    {
        self.start_here::<_, _, _, false>(detached(f), site)
    }

    /// As [`go_local`](Self::go_local) and [`go_scoped`](Self::go_scoped).
    ///
    /// # Errors
    ///
    /// If there is no stack for it. `f` was dropped then.
    ///
    /// # Panics
    ///
    /// As `go_local`.
    ///
    /// # Safety
    ///
    /// As `go_scoped`.
    pub unsafe fn go_local_scoped<F, R, A>(
        &'static self,
        f: F,
        site: &'static Location<'static>,
    ) -> Result<Join<R>, Exhausted>
    where
        F: FnOnce() -> (R, A),
        A: 'static,
    {
        self.start_here::<_, _, _, true>(f, site)
    }

    fn start_here<F, R, A, const SCOPED: bool>(
        &'static self,
        f: F,
        site: &'static Location<'static>,
    ) -> Result<Join<R>, Exhausted>
    where
        F: FnOnce() -> (R, A),
    {
        assert!(
            self.current().is_some(),
            "go_local: an ordinary thread runs no goroutines; call it in one, or use go"
        );
        let (g, join) = self.make::<_, _, _, SCOPED>(f, site)?;
        self.submit_here(g)
            .unwrap_or_else(|_| panic!("go_local: the current goroutine has no M"));
        Ok(join)
    }
}
