//! Switch: how an M enters a goroutine's stack, and how the goroutine leaves it.
//!
//! A [`Context`] is what a stack needs to be entered again. An M resumes it; the goroutine suspends
//! itself with a word for its M, or returns. Two implementations have the same methods:
//!
//! - x86-64 and aarch64 have one of their own, in assembly. A signal handler may unwind at every
//!   instruction of it: each change of the stack pointer has its line of CFI. All goroutines begin
//!   in one function whose caller is undefined, so that every unwinder stops there, and with a
//!   frame pointer of 0, at which walkers of frame pointers stop.
//! - Elsewhere, and under AddressSanitizer, which has to be told of each switch, it is corosensei.
//!   Unit tests have both, and compare.
//!
//! # What is kept
//!
//! The switch keeps what the platform's ABI gives to a called function to keep, with one exception:
//! control words of the floating point unit (MXCSR and the x87's, FPCR) belong to the thread. Rust
//! code may assume the default ones anyway, so a goroutine that changes them must change them back
//! before it calls anything that parks.
//!
//! # Prediction
//!
//! A processor predicts where `ret` leads from the calls it has seen. Behind a switch those are the
//! calls of the stack that was left, so a switch that ends in `ret` is always mispredicted. It ends
//! in an indirect jump, and the two directions have one each: the M is always left and entered at
//! the same place, so its jump is predicted right.
//!
//! # Hardening
//!
//! Shadow stacks (x86-64) and guarded control stacks (aarch64) know of one stack for a thread and
//! refuse what happens here. Nothing marks the objects as fit for them, so loaders leave them off.
//! Landing pads for BTI (aarch64) are there.
#![allow(unsafe_code, reason = "changes the stack pointer")]

use core::ptr::NonNull;

/// What a context runs, once, on its stack. It must not unwind.
pub(crate) type Entry = unsafe extern "C" fn(NonNull<()>);

/// What a context that was resumed came back with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It has suspended itself, with a word for its M.
    Suspended(*mut ()),
    /// Its entry has returned, and its stack is free.
    Returned,
}

cfg_if::cfg_if! {
    if #[cfg(any(
        gopark_sanitize = "address",
        not(all(unix, not(target_vendor = "apple"), target_pointer_width = "64", any(target_arch = "x86_64", target_arch = "aarch64")))
    ))] {
        mod portable;

        pub(crate) use portable::Context;
    } else {
        #[macro_use]
        mod assembly;
        mod native;

        cfg_if::cfg_if! {
            if #[cfg(target_arch = "x86_64")] {
                mod x86_64;

                use x86_64 as machine;
            } else {
                mod aarch64;

                use aarch64 as machine;
            }
        }

        // ThreadSanitizer would have to be told of the switches here.
        #[cfg(all(test, not(loom), not(gopark_sanitize = "thread")))]
        mod portable;
        #[cfg(all(test, not(loom), not(gopark_sanitize = "thread")))]
        mod tests;

        pub(crate) use native::Context;
    }
}
