//! A context in assembly is one word: the stack pointer of the side that does not run.

use super::{Entry, Stop, machine};
use crate::stack::Stack;
use crate::sync::UnsafeCell;
use core::ptr::{self, NonNull};

/// The word that the assembly gives the M when the entry has returned. No request has this address.
const RETURNED: *mut () = ptr::without_provenance_mut(1);

/// See the module `switch`.
pub(crate) struct Context {
    /// The stack pointer of the goroutine while its M runs, and of the M while the goroutine runs.
    /// Each switch exchanges it.
    other: UnsafeCell<*mut ()>,
}

impl Context {
    pub(crate) const fn new() -> Self {
        Context {
            other: UnsafeCell::new(ptr::null_mut()),
        }
    }

    /// Makes the first `resume` call `entry(argument)` on `stack`.
    ///
    /// # Safety
    ///
    /// - The context stays where it is, and the stack belongs to it, until it has returned.
    /// - Nothing else uses the context during the call.
    pub(crate) unsafe fn start(&self, stack: Stack, entry: Entry, argument: NonNull<()>) {
        let other = self.other.get();
        // SAFETY: the caller's promise. The top of a stack is aligned and has room for a few words.
        unsafe { *other = machine::prepare(stack.base, entry, argument, other) };
    }

    /// Runs the context until it suspends itself or returns.
    ///
    /// # Safety
    ///
    /// It was started, has not returned, and no thread runs it.
    #[inline(always)]
    pub(crate) unsafe fn resume(&self) -> Stop {
        // SAFETY: the caller's promise. The word is the stack pointer that `start` or `leave` has
        // stored.
        let word = unsafe { machine::enter(self.other.get()) };
        if word == RETURNED {
            Stop::Returned
        } else {
            Stop::Suspended(word)
        }
    }

    /// Lets `resume` return with `word`. Returns when the context is resumed.
    ///
    /// # Safety
    ///
    /// The caller runs on the context's stack. `word` is not 1.
    #[inline(always)]
    pub(crate) unsafe fn suspend(&self, word: *mut ()) {
        debug_assert!(word != RETURNED, "the word of a context that has returned");
        // SAFETY: the caller's promise. The context runs, so the word is the stack pointer that
        // `enter` has stored.
        unsafe { machine::leave(self.other.get(), word) };
    }
}
