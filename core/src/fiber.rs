//! Fiber: what a sanitizer is told about a goroutine, whose stack it would otherwise take for part
//! of the thread's. It is empty unless the crate is built with `--cfg gopark_sanitize="thread"` or
//! `"address"` and the sanitizer of that name (`ci/sanitizers.sh`).
//!
//! - ThreadSanitizer orders memory accesses by thread and keeps a call stack of each thread. A
//!   goroutine is a fiber to it. The M announces both switches, into the goroutine and back,
//!   because a fiber must leave every call that it has entered.
//! - AddressSanitizer learns of switches from corosensei, which `switch` uses under it. Its leak
//!   check must also look for pointers on the stacks of parked goroutines.
#![allow(unsafe_code, reason = "calls into a sanitizer's runtime")]

cfg_if::cfg_if! {
    if #[cfg(gopark_sanitize = "thread")] {
        use crate::stack::Stack;
        use core::ffi::{c_uint, c_void};
        use core::ptr::NonNull;

        unsafe extern "C" {
            safe fn __tsan_get_current_fiber() -> NonNull<c_void>;
            safe fn __tsan_create_fiber(flags: c_uint) -> NonNull<c_void>;
            fn __tsan_switch_to_fiber(fiber: NonNull<c_void>, flags: c_uint);
            fn __tsan_destroy_fiber(fiber: NonNull<c_void>);
        }

        pub(crate) struct Fiber(NonNull<c_void>);

        impl Fiber {
            pub(crate) fn new(_: &Stack) -> Self {
                Fiber(__tsan_create_fiber(0))
            }

            pub(crate) fn run<R>(&self, resume: impl FnOnce() -> R) -> R {
                let thread = __tsan_get_current_fiber();
                // SAFETY: the fiber exists. No other thread runs it, since the G has one GRef.
                unsafe { __tsan_switch_to_fiber(self.0, 0) };
                let result = resume();
                // SAFETY: it is this thread's own fiber, which it left above.
                unsafe { __tsan_switch_to_fiber(thread, 0) };
                result
            }
        }

        impl Drop for Fiber {
            fn drop(&mut self) {
                // SAFETY: the goroutine has returned.
                unsafe { __tsan_destroy_fiber(self.0) };
            }
        }
    } else if #[cfg(gopark_sanitize = "address")] {
        use crate::stack::Stack;
        use core::ffi::c_void;

        unsafe extern "C" {
            safe fn __lsan_register_root_region(start: *const c_void, size: usize);
            safe fn __lsan_unregister_root_region(start: *const c_void, size: usize);
        }

        pub(crate) struct Fiber {
            start: *const c_void,
            size: usize,
        }

        impl Fiber {
            pub(crate) fn new(stack: &Stack) -> Self {
                let fiber = Fiber {
                    start: stack.limit as *const c_void,
                    size: stack.base - stack.limit,
                };
                __lsan_register_root_region(fiber.start, fiber.size);
                fiber
            }

            pub(crate) fn run<R>(&self, resume: impl FnOnce() -> R) -> R {
                resume()
            }
        }

        impl Drop for Fiber {
            fn drop(&mut self) {
                __lsan_unregister_root_region(self.start, self.size);
            }
        }
    } else {
        use crate::stack::Stack;

        pub(crate) struct Fiber;

        impl Fiber {
            #[inline(always)]
            pub(crate) fn new(_: &Stack) -> Self {
                Fiber
            }

            #[inline(always)]
            pub(crate) fn run<R>(&self, resume: impl FnOnce() -> R) -> R {
                resume()
            }
        }
    }
}
