//! A context on top of corosensei.

use super::{Entry, Stop};
use crate::must::Must;
use crate::stack::Stack;
use crate::sync::UnsafeCell;
use core::mem::ManuallyDrop;
use core::ptr::{self, NonNull};
use corosensei::stack::StackPointer;
use corosensei::{Coroutine, CoroutineResult, Yielder};

/// A word for the M.
type Word = *mut ();

type Body = Coroutine<(), Word, (), Stack>;

/// See the module `switch`.
pub(crate) struct Context {
    /// Set from `start` to the return. It is then taken apart by hand: corosensei would unwind the
    /// stack of a coroutine that is dropped before it has returned.
    coroutine: UnsafeCell<Option<ManuallyDrop<Body>>>,
    /// What the context suspends itself through. Set by its first instructions, on its own stack.
    yielder: UnsafeCell<*const Yielder<(), Word>>,
}

impl Context {
    pub(crate) const fn new() -> Self {
        Context {
            coroutine: UnsafeCell::new(None),
            yielder: UnsafeCell::new(ptr::null()),
        }
    }

    /// Makes the first `resume` call `entry(argument)` on `stack`.
    ///
    /// # Safety
    ///
    /// - The context stays where it is, and the stack belongs to it, until it has returned.
    /// - Nothing else uses the context during the call.
    pub(crate) unsafe fn start(&self, stack: Stack, entry: Entry, argument: NonNull<()>) {
        let place = self.yielder.get();
        let body = move |yielder: &Yielder<(), Word>, ()| {
            // SAFETY: the context outlives its run, and this is its own stack.
            unsafe { *place = yielder };
            // SAFETY: a coroutine runs its body once.
            unsafe { entry(argument) };
        };
        // SAFETY: the closure borrows nothing, and a coroutine is never dropped before it has
        // returned.
        let coroutine = ManuallyDrop::new(unsafe { Body::with_stack_unchecked(stack, body) });
        // SAFETY: the caller's promise.
        unsafe { *self.coroutine.get() = Some(coroutine) };
    }

    /// Runs the context until it suspends itself or returns.
    ///
    /// # Safety
    ///
    /// It was started, has not returned, and no thread runs it.
    #[inline(always)]
    pub(crate) unsafe fn resume(&self) -> Stop {
        // SAFETY: the caller's promise. Inside, only `yielder` is used.
        let coroutine = unsafe { &mut *self.coroutine.get() };
        match coroutine
            .as_mut()
            .must("a context was resumed before it was started")
            .resume(())
        {
            CoroutineResult::Yield(word) => Stop::Suspended(word),
            CoroutineResult::Return(()) => {
                if let Some(coroutine) = coroutine.take() {
                    ManuallyDrop::into_inner(coroutine).into_stack();
                }
                Stop::Returned
            }
        }
    }

    /// Lets `resume` return with `word`. Returns when the context is resumed.
    ///
    /// # Safety
    ///
    /// The caller runs on the context's stack. `word` is not 1.
    #[inline(always)]
    pub(crate) unsafe fn suspend(&self, word: *mut ()) {
        // SAFETY: the context's first instructions stored its yielder, which lives as long as its
        // stack is in use. The caller runs on that stack.
        unsafe { &**self.yielder.get() }.suspend(word);
    }
}

// SAFETY: base and limit are 16-aligned (pages, owner words and colours are multiples of 16). The
// memory between them stays readable and writable for the rest of the process. A guard lies below
// the limit, and the slot has one owner.
unsafe impl corosensei::stack::Stack for Stack {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.base).must("a stack is at address zero")
    }

    fn limit(&self) -> StackPointer {
        StackPointer::new(self.limit).must("a stack is at address zero")
    }
}
