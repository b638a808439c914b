//! Atomics, cells and the one lock: the only module that names them, so that a model checker can take their place.
//!
//! [`Lock`] is for a few instructions: never held across a park, a system call or a callback. A waiter spins briefly and then yields
//! its thread, since the holder may have been descheduled. Lock order, outermost first; nothing else nests:
//!
//! ```text
//! PollDesc.state → Heap → Timer.state        (a deadline is armed or moved)
//! ```

use crate::os::Os;
pub(crate) use core::cell::UnsafeCell;
use core::fmt;
pub(crate) use core::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
pub(crate) use crossbeam_utils::CachePadded;

/// A spin lock around `T`.
pub(crate) struct Lock<T>(spin::mutex::SpinMutex<T>);

/// Proof that the lock is held.
pub(crate) type Guard<'a, T> = spin::mutex::SpinMutexGuard<'a, T>;

/// How often a waiter tries before it yields its thread. A critical section is tens of nanoseconds; this is about a microsecond.
const SPINS: u32 = 100;

/// What yields the thread of a waiter that spun in vain, once a scheduler has started.
static OS: spin::Once<&'static dyn Os> = spin::Once::new();

/// Names the operating system whose `yield_thread` lock waiters call. The first call counts.
pub(crate) fn set_os(os: &'static dyn Os) {
    OS.call_once(|| os);
}

/// Ends the process over a word that no sequence of legal steps leads to: going on would corrupt more.
#[cold]
pub(crate) fn corrupt(message: fmt::Arguments<'_>) -> ! {
    match OS.get() {
        Some(os) => os.abort(message),
        None => panic!("{message}"),
    }
}

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
            if let Some(os) = OS.get() {
                os.yield_thread();
            }
        }
    }
}
