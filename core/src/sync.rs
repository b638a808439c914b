//! Atomics, cells and the one lock: the only module that names them, so that a model checker can take their place.
//!
//! [`Lock`] is for a few instructions: never held across a park, a system call or a callback. A waiter spins briefly and then yields
//! its thread, since the holder may have been descheduled. Lock order, outermost first; nothing else nests:
//!
//! ```text
//! PollDesc.state → Heap → Timer.state        (a deadline is armed or moved)
//! ```
//!
//! Under `--cfg loom` the atomics and the lock are loom's, and the models of `core/models` run this crate's own code on them. Constructors
//! of what holds an atomic are not `const` for that reason. Cells stay the compiler's: each belongs to the thread of one M or to the
//! holder of one `GRef`, and models bring cells of their own to see whether a hand-over orders what was written before it.

#![allow(unsafe_code, reason = "the operating system is kept as an address")]

use crate::os::Os;
#[cfg(steps)]
pub(crate) use crate::steps::{
    AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, fence,
};
pub(crate) use core::cell::UnsafeCell;
use core::fmt;
/// For figures that nobody decides by: as a model's atomic, they would only be more orders to explore.
pub(crate) use core::sync::atomic::AtomicU64 as UnmodeledCount;
#[cfg(steps)]
pub(crate) use core::sync::atomic::Ordering;
#[cfg(not(any(steps, loom)))]
pub(crate) use core::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
    Ordering, fence,
};
pub(crate) use crossbeam_utils::CachePadded;
pub(crate) use lock::Lock;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
    Ordering, fence,
};
pub(crate) use spin::Once;

/// The machine's own atomics, in a model as well: for words that only tell somebody something, and by which nothing is decided.
pub(crate) mod unmodeled {
    pub(crate) use core::sync::atomic::{AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicUsize};
}

/// The cheap half of a pair of barriers: the other half is [`Os::barrier`], which has all threads pass a memory barrier. So this one only has
/// to keep the compiler from moving accesses. In a model, where nobody can be made to pass a barrier, it is one itself.
#[inline(always)]
pub(crate) fn light_barrier() {
    #[cfg(not(loom))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

/// What yields the thread of a waiter that spun in vain, once a scheduler has started.
static OS: unmodeled::AtomicPtr<&'static dyn Os> = unmodeled::AtomicPtr::new(core::ptr::null_mut());

/// Names the operating system whose `yield_thread` lock waiters call.
pub(crate) fn set_os(os: &'static &'static dyn Os) {
    // In a model an operating system lives as long as one execution.
    if !cfg!(loom) {
        OS.store(core::ptr::from_ref(os).cast_mut(), Ordering::Release);
    }
}

fn os() -> Option<&'static dyn Os> {
    // SAFETY: null, or from `set_os`.
    unsafe { OS.load(Ordering::Acquire).as_ref() }.copied()
}

/// Lets another thread of this CPU run.
#[cold]
pub(crate) fn yield_thread() {
    match os() {
        Some(os) => os.yield_thread(),
        None => core::hint::spin_loop(),
    }
}

/// Ends the process over a word that no sequence of legal steps leads to: going on would corrupt more.
#[cold]
pub(crate) fn corrupt(message: fmt::Arguments<'_>) -> ! {
    match os() {
        Some(os) => os.abort(message),
        None => panic!("{message}"),
    }
}

#[cfg(not(loom))]
mod lock {
    /// A spin lock around `T`.
    pub(crate) struct Lock<T>(spin::mutex::SpinMutex<T>);

    /// Proof that the lock is held.
    pub(crate) type Guard<'a, T> = spin::mutex::SpinMutexGuard<'a, T>;

    /// How often a waiter tries before it yields its thread. A critical section is tens of nanoseconds; this is about a microsecond.
    const SPINS: u32 = 100;

    impl<T> Lock<T> {
        /// An unlocked lock.
        pub(crate) const fn new(value: T) -> Self {
            Lock(spin::mutex::SpinMutex::new(value))
        }

        /// Waits for the lock.
        #[inline]
        pub(crate) fn lock(&self) -> Guard<'_, T> {
            match self.0.try_lock() {
                Some(guard) => guard,
                None => self.lock_slow(),
            }
        }

        #[cold]
        fn lock_slow(&self) -> Guard<'_, T> {
            loop {
                for _ in 0..SPINS {
                    core::hint::spin_loop();
                    if let Some(guard) = self.0.try_lock() {
                        return guard;
                    }
                }
                super::yield_thread();
            }
        }
    }
}

#[cfg(loom)]
mod lock {
    /// The model checker's mutex, which blocks in place of spinning.
    pub(crate) struct Lock<T>(loom::sync::Mutex<T>);

    /// Proof that the lock is held.
    pub(crate) type Guard<'a, T> = loom::sync::MutexGuard<'a, T>;

    impl<T> Lock<T> {
        /// An unlocked lock.
        pub(crate) fn new(value: T) -> Self {
            Lock(loom::sync::Mutex::new(value))
        }

        /// Waits for the lock.
        pub(crate) fn lock(&self) -> Guard<'_, T> {
            self.0.lock().expect("no model goes on after a panic")
        }
    }
}
