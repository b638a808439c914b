//! Switch: how an M enters a goroutine's stack, and how the goroutine leaves it.
//!
//! A [`Context`] is what it takes to enter a stack again. An M resumes it; the goroutine suspends
//! itself with a word for its M, or returns. Two implementations have the same methods:
//!
//! - x86-64 and aarch64 have their own, in assembly. A signal handler may unwind at any of its
//!   instructions, so each change of the stack pointer has its line of CFI. Every goroutine begins
//!   in one function whose caller is undefined, where unwinders stop, with a frame pointer of 0,
//!   where walkers of frame pointers stop.
//! - Other architectures use corosensei, and so does AddressSanitizer, which must be told of each
//!   switch. Unit tests compile both and compare them.
//!
//! # What is kept
//!
//! The switch keeps the registers that the platform's ABI has a called function keep, with one
//! exception: the control words of the floating point unit (MXCSR and the x87's, FPCR) belong to
//! the thread. Rust code assumes their defaults, so a goroutine that changes them must change them
//! back before it calls anything that parks.
//!
//! # Prediction
//!
//! A processor predicts the target of `ret` from the calls it has seen. After a switch those calls
//! belong to the stack that was left, so a switch that ends in `ret` is always mispredicted. It
//! therefore ends in an indirect jump. Each direction has its own jump: the M is always left and
//! entered at the same place, so its jump is predicted right.
//!
//! # Hardening
//!
//! Shadow stacks (x86-64) and guarded control stacks (aarch64) allow one stack for each thread and
//! fault on a switch. The objects are not marked as compatible with them, so loaders leave them
//! off. Landing pads for BTI (aarch64) are in place.
#![allow(unsafe_code, reason = "changes the stack pointer")]

use core::ptr::NonNull;

/// What a context runs, once, on its stack. It must not unwind.
pub(crate) type Entry = unsafe extern "C" fn(NonNull<()>);

/// How a resumed context stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It suspended itself, with a word for its M.
    Suspended(*mut ()),
    /// Its entry returned, and its stack is free.
    Returned,
}

cfg_if::cfg_if! {
    if #[cfg(any(
        gopark_sanitize = "address",
        not(all(
            unix,
            not(target_vendor = "apple"),
            target_pointer_width = "64",
            any(target_arch = "x86_64", target_arch = "aarch64")
        ))
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

        // Not under ThreadSanitizer, which these tests do not tell of their switches.
        #[cfg(all(test, not(loom), not(gopark_sanitize = "thread")))]
        mod portable;
        #[cfg(all(test, not(loom), not(gopark_sanitize = "thread")))]
        mod tests;

        pub(crate) use native::Context;
    }
}
