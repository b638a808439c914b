//! What a `Select` has selected, without its type: a `SelectedOperation` learns the type of the
//! message from the handle with which the program completes it.
#![allow(unsafe_code, reason = "a value whose type is erased")]

use crate::error::RecvError;
use crate::promise::{Obtained, Slot};
use std::mem;
use std::ptr::NonNull;

/// A selected operation on a channel of `T`.
pub(crate) enum Selected<T> {
    Received(Result<Slot<T>, RecvError>),
    Obtained(Obtained<T>),
}

/// A [`Selected`] of a type that is forgotten. If it is dropped, a promise is broken, and a message
/// leaks: it may not be dropped on this thread, see `Select`.
pub(crate) struct Erased {
    selected: NonNull<()>,
    abandon: unsafe fn(NonNull<()>),
}

impl Erased {
    pub(crate) fn new<T>(selected: Selected<T>) -> Self {
        Erased {
            selected: NonNull::from(Box::leak(Box::new(selected))).cast(),
            abandon: abandon::<T>,
        }
    }

    /// Returns the operation.
    ///
    /// # Safety
    ///
    /// It is one on a channel of `T`.
    pub(crate) unsafe fn into_selected<T>(self) -> Selected<T> {
        let selected = self.selected.cast::<Selected<T>>();
        mem::forget(self);
        // SAFETY: `new` has leaked a box of this type, by the caller's promise.
        *unsafe { Box::from_raw(selected.as_ptr()) }
    }
}

impl Drop for Erased {
    fn drop(&mut self) {
        // SAFETY: `new` has chosen the function for the type of `selected`, which is still there:
        // `into_selected` forgets `self`.
        unsafe { (self.abandon)(self.selected) };
    }
}

/// # Safety
///
/// `selected` is a box of a `Selected<T>` that `Erased::new` has leaked.
unsafe fn abandon<T>(selected: NonNull<()>) {
    // SAFETY: the caller's promise.
    match *unsafe { Box::from_raw(selected.cast::<Selected<T>>().as_ptr()) } {
        Selected::Received(received) => mem::forget(received),
        Selected::Obtained(obtained) => drop(obtained),
    }
}
