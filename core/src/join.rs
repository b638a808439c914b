//! A goroutine's allocation, and the handle that waits for its result.
//!
//! ```text
//!   Task = | G | refs | done | fate | closure, then result |
//! ```
//!
//! Scheduler and handle each hold one of two shares. The closure is called, and its result or the closure's captures are dropped, on the
//! goroutine's own stack: user code never runs on an M's stack. Who drops a result that nobody takes is decided by `state`:
//!
//! | `state` | by | then |
//! |---|---|---|
//! | `OPEN` → `DETACHED` | the handle, dropped first | the goroutine drops its result |
//! | `OPEN` → `FINISHED` | the goroutine, finished first | the handle takes or drops the result |
#![allow(
    unsafe_code,
    reason = "the allocation is shared by two owners and knows its closure's type only through a vtable"
)]

use crate::g::{G, GRef, VTable};
use crate::sched::Sched;
use crate::stack::{Exhausted, Size};
use crate::sync::{AtomicU8, Ordering, UnsafeCell};
use crate::wait_info::Wait;
use crate::waiter::WaitSlot;
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::panic::Location;
use core::ptr::NonNull;

const OPEN: u8 = 0;
const DETACHED: u8 = 1;
const FINISHED: u8 = 2;

#[repr(C)]
struct Task<F, R> {
    head: Head,
    stage: UnsafeCell<Stage<F, R>>,
}

/// What a handle knows without the closure's type.
#[repr(C)]
struct Head {
    g: G,
    sched: &'static Sched,
    done: WaitSlot,
    state: AtomicU8,
    refs: AtomicU8,
    vtable: &'static JoinVTable,
}

struct JoinVTable {
    /// The address of the result, once finished.
    result: unsafe fn(NonNull<Head>) -> NonNull<()>,
    dealloc: unsafe fn(NonNull<Head>),
}

/// First the closure, then its result; dropped by hand.
union Stage<F, R> {
    closure: ManuallyDrop<F>,
    result: ManuallyDrop<R>,
}

impl<F: FnOnce() -> R, R> Task<F, R> {
    const G_VTABLE: VTable = VTable {
        run: Self::run,
        release: Self::release,
    };
    const JOIN_VTABLE: JoinVTable = JoinVTable {
        result: Self::result,
        dealloc: Self::dealloc,
    };

    /// An unwind out of the closure ends here: a panic must not leave a goroutine's stack, so `extern "C"` aborts. A caller with `std`
    /// catches panics in the closure.
    unsafe extern "C" fn run(g: NonNull<G>) {
        // SAFETY: a G with this vtable heads a `Task<F, R>`, which the scheduler's share keeps alive for the whole call.
        let task = unsafe { g.cast::<Self>().as_ref() };
        // SAFETY: before `state` says finished, only the goroutine touches the stage. The closure is taken once, before the result is written.
        unsafe {
            let closure = ManuallyDrop::take(&mut (*task.stage.get()).closure);
            *task.stage.get() = Stage {
                result: ManuallyDrop::new(closure()),
            };
        }
        let head = &task.head;
        // Release: the result is there for the handle. Acquire: the handle has stopped looking.
        if head.state.swap(FINISHED, Ordering::AcqRel) == DETACHED {
            // SAFETY: nobody else will take the result.
            unsafe { ManuallyDrop::drop(&mut (*task.stage.get()).result) };
        }
        head.sched.release_stack();
        if let Some(joiner) = head.done.notify() {
            head.sched.ready(joiner);
        }
    }

    unsafe fn release(g: NonNull<G>) {
        // SAFETY: as in `run`; the scheduler gives up its share here.
        unsafe { Head::release(g.cast()) };
    }

    unsafe fn result(head: NonNull<Head>) -> NonNull<()> {
        // SAFETY: a head with this vtable is the first field of a `Task<F, R>`.
        let stage = unsafe { &head.cast::<Self>().as_ref().stage };
        NonNull::from(stage).cast()
    }

    unsafe fn dealloc(head: NonNull<Head>) {
        // SAFETY: as in `result`; both shares are gone. The stage's content was taken or dropped before; the union drops nothing.
        drop(unsafe { Box::from_raw(head.cast::<Self>().as_ptr()) });
    }
}

impl Head {
    /// # Safety
    ///
    /// The caller owns a share, and does not use it afterwards.
    unsafe fn release(this: NonNull<Head>) {
        // SAFETY: the caller's share keeps it alive.
        let head = unsafe { this.as_ref() };
        let vtable = head.vtable;
        // Release: this owner's last uses come before the other's deallocation. Acquire: the same, seen from there.
        if head.refs.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: that was the last share.
            unsafe { (vtable.dealloc)(this) };
        }
    }
}

/// Waits for a goroutine and takes its result. Dropping it lets the goroutine run on alone.
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
        // SAFETY: the handle owns a share.
        unsafe { self.head.as_ref() }
    }

    /// The goroutine's number.
    pub fn id(&self) -> u64 {
        self.head().g.id()
    }

    /// Whether it has returned.
    pub fn is_finished(&self) -> bool {
        self.head().done.is_ready()
    }

    /// Waits until it has returned.
    pub fn join(self) -> R {
        let head = self.head();
        while !head
            .sched
            .wait(&head.done, Wait::Join(self.id()).encode(), || {
                Ok::<_, ()>(())
            })
        {}
        // SAFETY: `done` was notified, so the result is there, and `state` says finished: the goroutine leaves it to this handle, whose
        // drop is skipped.
        let result = unsafe { (head.vtable.result)(self.head).cast::<R>().read() };
        let this = ManuallyDrop::new(self);
        // SAFETY: the handle's share, given up once.
        unsafe { Head::release(this.head) };
        result
    }
}

impl<R> Drop for Join<R> {
    fn drop(&mut self) {
        let head = self.head();
        if head.state.swap(DETACHED, Ordering::AcqRel) == FINISHED {
            // SAFETY: the goroutine has left the result to this handle, and `join` did not take it.
            unsafe { (head.vtable.result)(self.head).cast::<R>().drop_in_place() };
        }
        // SAFETY: the handle's share, given up once.
        unsafe { Head::release(self.head) };
    }
}

/// What a goroutine has that others do not.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A name, for dumps and reports.
    pub name: Option<Arc<str>>,
    /// Bytes of stack that it can use at least, up to [`MAX_STACK`](crate::stack::MAX_STACK). More than
    /// ordinary stacks have is rounded up to a power of two, and to 1 MiB at least.
    pub stack_size: usize,
}

impl Sched {
    fn make<F, R>(
        &'static self,
        f: F,
        site: &'static Location<'static>,
    ) -> Result<(GRef, Join<R>), Exhausted>
    where
        F: FnOnce() -> R + 'static,
        R: 'static,
    {
        self.reserve_stack()?;
        let task = Box::new(Task {
            head: Head {
                g: G::new(&Task::<F, R>::G_VTABLE, self.next_id(), site),
                sched: self,
                done: WaitSlot::new(),
                state: AtomicU8::new(OPEN),
                refs: AtomicU8::new(2),
                vtable: &Task::<F, R>::JOIN_VTABLE,
            },
            stage: UnsafeCell::new(Stage::<F, R> {
                closure: ManuallyDrop::new(f),
            }),
        });
        let task = NonNull::from(Box::leak(task));
        // SAFETY: the G is new, and this its only GRef.
        let g = unsafe { GRef::from_raw(task.cast()) };
        Ok((
            g,
            Join {
                head: task.cast(),
                result: PhantomData,
            },
        ))
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
        let (g, join) = self.make(f, site)?;
        self.submit(g);
        Ok(join)
    }

    /// As [`go`](Self::go), with what `options` say.
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
        let size = self.arena().size_for(options.stack_size);
        if size != Size::ORDINARY {
            self.arena().reserve_larger(size)?;
        }
        let (g, join) = self.make(f, site).inspect_err(|_| {
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

    /// Starts a goroutine that runs `f` on the current M only, so that `f` need not be `Send`. A panic out of `f` aborts the process.
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
        assert!(
            self.current().is_some(),
            "go_local: an ordinary thread runs no goroutines; call it in one, or use go"
        );
        let (g, join) = self.make(f, site)?;
        self.submit_here(g)
            .unwrap_or_else(|_| panic!("in a goroutine"));
        Ok(join)
    }
}
