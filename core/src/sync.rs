//! Atomics, cells and the one lock. Every other module takes them from here, so that a model
//! checker can replace them.
//!
//! [`Lock`] is a spin lock for a few instructions: a thread never holds it across a park, a call of
//! [`Os`] or a call of user code. A waiter spins briefly, then yields its thread, because the
//! holder may have lost its CPU. Lock order, outermost first; no other locks nest:
//!
//! ```text
//! PollDesc.state → Heap → Timer.state        (a deadline is armed or moved)
//! P.slots → Arena.free                       (a P's cache of stacks is filled or emptied)
//! P.descs → PollCache.free                   (so is its list of poll descriptors)
//! gate → gate                                (a select, in the order of addresses)
//! Alarm.period → gate, Timed → Heap          (an alarm fires, is stopped or reset)
//! gate → Timed → Heap                        (a deadline of a cancel is set)
//! gate → Extra.cancelled                     (a cancel reaches a goroutine, which leaves it)
//! ```
//!
//! Under `--cfg loom` the atomics and the lock are loom's, and the models in `core/models` run this
//! crate's own code on them. Loom's constructors are not `const`, so neither are those of types
//! that hold an atomic. Cells stay the compiler's: each belongs to one M's thread or to the holder
//! of one `GRef`. The models use cells of their own to check that a hand-over orders what was
//! written before it.

#![allow(
    unsafe_code,
    reason = "the operating system and lazy boxes are kept as addresses"
)]

use crate::os::Os;
#[cfg(steps)]
pub(crate) use crate::steps::{
    AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, fence,
};
use alloc::boxed::Box;
pub(crate) use core::cell::{Cell, RefCell, UnsafeCell};
use core::fmt;
use core::marker::PhantomData;
use core::ptr;
/// A word that belongs to the program, which changes it by the compiler's atomics.
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::AtomicU32 as Word;
#[cfg(steps)]
pub(crate) use core::sync::atomic::Ordering;
#[cfg(not(any(steps, loom)))]
pub(crate) use core::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
    Ordering, fence,
};
pub(crate) use crossbeam_utils::CachePadded;
pub(crate) use lock::{Guard, Lock};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::AtomicU32 as Word;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
    Ordering, fence,
};
pub(crate) use spin::Once;

/// Declares a constructor that is `const`, except under loom.
macro_rules! const_unless_loom {
    ($(#[$attribute:meta])* $visibility:vis fn $($rest:tt)*) => {
        $(#[$attribute])*
        #[cfg(not(loom))]
        $visibility const fn $($rest)*

        $(#[$attribute])*
        #[cfg(loom)]
        $visibility fn $($rest)*
    };
}
pub(crate) use const_unless_loom;

/// Atomics that loom does not model. Most are statistics. The others have no race to explore: `OS`
/// is written at the start, `Sched::forked` while the process has one thread, and
/// `WaitInfo::shrunk` by one watcher. The random sequence of selects may lose updates.
pub(crate) mod unmodeled {
    #[cfg(steps)]
    pub(crate) use crate::steps::unmodeled::{
        AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
    };
    #[cfg(not(steps))]
    pub(crate) use core::sync::atomic::{
        AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
    };
}

/// Marks memory that has one owner at a time. Loom reports a race if nothing orders two calls of
/// `touch`. Elsewhere they do nothing.
pub(crate) struct Owned(#[cfg(loom)] loom::cell::UnsafeCell<()>);

impl Owned {
    pub(crate) fn new() -> Self {
        Owned(
            #[cfg(loom)]
            loom::cell::UnsafeCell::new(()),
        )
    }

    #[inline(always)]
    pub(crate) fn touch(&self) {
        #[cfg(loom)]
        self.0.with_mut(|_| ());
    }
}

/// A place for a value on the heap, which is made when it is first asked for. Threads may make it
/// at once; all get the value of the first.
pub(crate) struct LazyBox<T>(unmodeled::AtomicPtr<T>, PhantomData<T>);

impl<T> LazyBox<T> {
    pub(crate) const fn new() -> Self {
        LazyBox(unmodeled::AtomicPtr::new(ptr::null_mut()), PhantomData)
    }

    /// The value, if it was made.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        // SAFETY: the pointer is null or that of a box which lives as long as this place. Acquire
        // pairs with the Release in `make`.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    #[inline]
    pub(crate) fn get_or_make(&self, make: impl FnOnce() -> T) -> &T {
        self.get().unwrap_or_else(|| self.set_first(make()))
    }

    #[cold]
    fn set_first(&self, value: T) -> &T {
        let made = Box::into_raw(while_unparkable(|| Box::new(value)));
        let null = ptr::null_mut();
        let first = self
            .0
            .compare_exchange(null, made, Ordering::AcqRel, Ordering::Acquire);
        let value = match first {
            Ok(_) => made,
            Err(earlier) => {
                // SAFETY: the box is this function's own.
                drop(unsafe { Box::from_raw(made) });
                earlier
            }
        };
        // SAFETY: as in `get`.
        unsafe { &*value }
    }
}

impl<T> Drop for LazyBox<T> {
    fn drop(&mut self) {
        let value = self.0.load(Ordering::Relaxed);
        if !value.is_null() {
            // SAFETY: the place owns the box, and no reference to it is left.
            drop(unsafe { Box::from_raw(value) });
        }
    }
}

/// The cheap half of an asymmetric barrier. [`Os::barrier`] is the other half: it makes all threads
/// pass a memory barrier, so this half only stops the compiler from moving accesses. Loom has no
/// such call, so there it is a real fence.
#[inline(always)]
pub(crate) fn light_barrier() {
    #[cfg(not(loom))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

/// The operating system of the first scheduler's start on, null before: `Lock` yields threads
/// through it.
static OS: unmodeled::AtomicPtr<&'static dyn Os> = unmodeled::AtomicPtr::new(core::ptr::null_mut());

/// Sets the operating system whose `yield_thread` lock waiters call.
pub(crate) fn set_os(os: &'static &'static dyn Os) {
    // In a model, the operating system lives only as long as one execution.
    if !cfg!(loom) {
        OS.store(core::ptr::from_ref(os).cast_mut(), Ordering::Release);
    }
}

fn os() -> Option<&'static dyn Os> {
    // SAFETY: the pointer is null or came from `set_os`, which takes a `&'static`.
    unsafe { OS.load(Ordering::Acquire).as_ref() }.copied()
}

/// Yields the CPU to another thread.
#[cold]
pub(crate) fn yield_thread() {
    match os() {
        Some(os) => os.yield_thread(),
        #[cfg(loom)]
        None => loom::thread::yield_now(),
        #[cfg(not(loom))]
        None => core::hint::spin_loop(),
    }
}

/// Forbids the calling goroutine to park in a lock of `std`, or allows it again. Returns what was
/// set before.
static FORBID_PARKING: Once<fn(bool) -> bool> = Once::new();

/// Sets the function that [`while_unparkable`] calls. Only the first call has an effect.
pub(crate) fn set_forbid_parking(forbid: fn(bool) -> bool) {
    FORBID_PARKING.call_once(|| forbid);
}

/// Calls `f`, which may call the program's allocator, while the caller holds a lock or initializes
/// a `Once`. If the allocator waits for a lock of `std`, the goroutine must not park.
#[inline]
pub(crate) fn while_unparkable<R>(f: impl FnOnce() -> R) -> R {
    let Some(forbid) = FORBID_PARKING.get() else {
        return f();
    };
    let before = forbid(true);
    let result = f();
    forbid(before);
    result
}

/// Ends the process because a word has a value that no sequence of legal steps produces. Running on
/// would corrupt more.
#[cold]
pub(crate) fn corrupt(message: fmt::Arguments<'_>) -> ! {
    match os() {
        Some(os) => os.abort(message),
        None => panic!("{message}"),
    }
}

#[cfg(not(loom))]
mod lock {
    /// A spin lock that owns a `T`.
    pub(crate) struct Lock<T> {
        word: spin::mutex::SpinMutex<T>,
        /// The number of the lock, once it has one.
        #[cfg(steps)]
        number: core::sync::atomic::AtomicUsize,
    }

    /// Access to the `T` of a locked lock, which dropping it unlocks.
    pub(crate) type Guard<'a, T> = spin::mutex::SpinMutexGuard<'a, T>;

    /// How many times a waiter tries before it yields its thread: about a microsecond, where a
    /// critical section takes tens of nanoseconds.
    const SPINS: u32 = 100;

    impl<T> Lock<T> {
        /// Where the lock stands in the order of locks that nest: its address.
        #[cfg(not(steps))]
        pub(crate) fn place(&self) -> usize {
            core::ptr::from_ref(self).addr()
        }

        /// Where the lock stands in the order of locks that nest: the number of its first such use.
        /// Addresses would differ between two runs of a simulation.
        #[cfg(steps)]
        pub(crate) fn place(&self) -> usize {
            crate::steps::number(&self.number)
        }

        /// An unlocked lock.
        pub(crate) const fn new(value: T) -> Self {
            Lock {
                word: spin::mutex::SpinMutex::new(value),
                #[cfg(steps)]
                number: core::sync::atomic::AtomicUsize::new(0),
            }
        }

        /// Spins until the lock is free, then takes it.
        #[inline]
        #[cfg_attr(steps, track_caller)]
        pub(crate) fn lock(&self) -> Guard<'_, T> {
            #[cfg(steps)]
            crate::steps::accessed(&self.word, true);
            match self.word.try_lock() {
                Some(guard) => guard,
                None => self.lock_slow(),
            }
        }

        #[cold]
        fn lock_slow(&self) -> Guard<'_, T> {
            loop {
                for _ in 0..SPINS {
                    core::hint::spin_loop();
                    // A load first: a failed compare-and-swap would take the cache line away from
                    // the holder.
                    if self.word.is_locked() {
                        continue;
                    }
                    if let Some(guard) = self.word.try_lock() {
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
    /// Loom's mutex, which blocks instead of spinning.
    pub(crate) struct Lock<T>(loom::sync::Mutex<T>);

    /// Access to the `T` of a locked lock, which dropping it unlocks.
    pub(crate) type Guard<'a, T> = loom::sync::MutexGuard<'a, T>;

    impl<T> Lock<T> {
        /// An unlocked lock.
        pub(crate) fn new(value: T) -> Self {
            Lock(loom::sync::Mutex::new(value))
        }

        /// Where the lock stands in the order of locks that nest: its address.
        pub(crate) fn place(&self) -> usize {
            core::ptr::from_ref(self).addr()
        }

        /// Waits for the lock and takes it.
        pub(crate) fn lock(&self) -> Guard<'_, T> {
            self.0.lock().expect("no model goes on after a panic")
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use alloc::sync::Arc;

    #[test]
    fn a_lazy_box_keeps_the_first_value_and_frees_each_one() {
        let first = Arc::new(1);
        let place = LazyBox::new();
        assert!(place.get().is_none());
        let other = Arc::new(2);
        // Another thread makes the value while this one does.
        let value = place.get_or_make(|| {
            place.get_or_make(|| first.clone());
            other.clone()
        });
        assert_eq!((**value, Arc::strong_count(&other)), (1, 1));
        drop(place);
        assert_eq!(Arc::strong_count(&first), 1);
    }
}
