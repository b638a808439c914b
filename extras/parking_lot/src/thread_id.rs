//! `RawThreadId`: the number of a goroutine, or of an ordinary thread.
#![allow(
    unsafe_code,
    reason = "a reentrant mutex relies on a number that no other owner has"
)]

use lock_api::GetThreadId;
use std::cell::Cell;
use std::num::NonZeroUsize;
use std::ptr;

/// The identity of an owner of a [`ReentrantMutex`](crate::ReentrantMutex): that of the calling
/// goroutine, or of the thread if it runs none. Two goroutines of a thread have different ones.
///
/// ```
/// use parking_lot::RawThreadId;
/// use parking_lot::lock_api::GetThreadId;
///
/// let mine = || RawThreadId.nonzero_thread_id();
/// assert_eq!(mine(), mine());
/// assert_ne!(mine(), gopark::go(move || mine()).join().unwrap());
/// ```
pub struct RawThreadId;

gopark::goroutine_local! {
    static IDENTITY: NonZeroUsize = identity();
}

/// Reckons the identity: the goroutine's number, which no other goroutine of the process ever has,
/// as an odd number; or the address of a variable of the thread, which is even.
///
/// It does not depend on `IDENTITY`, so it is the same after the goroutine's values were dropped.
fn identity() -> NonZeroUsize {
    thread_local! {
        /// Without a destructor: it is there as long as the thread.
        static PLACE: Cell<u16> = const { Cell::new(0) };
    }
    let number = match gopark::thread::current().id().goroutine() {
        Some(number) => number as usize * 2 + 1,
        None => PLACE.with(|place| ptr::from_ref(place).addr()),
    };
    NonZeroUsize::new(number).expect("a reference is not null")
}

// SAFETY: two that live have different numbers. A goroutine's number is that of no other goroutine
// and odd. A thread's is the address of its own variable, and even.
unsafe impl GetThreadId for RawThreadId {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "the trait asks for it"
    )]
    const INIT: Self = RawThreadId;

    fn nonzero_thread_id(&self) -> NonZeroUsize {
        IDENTITY
            .try_with(|identity| *identity)
            .unwrap_or_else(|_| identity())
    }
}
