//! Atomics that a simulation can interrupt: under `--cfg steps`, each access first calls a function
//! that may run other simulated threads.
//!
//! The threads of a simulated computer are coroutines of one real thread, so they can only switch
//! inside a call. System calls are enough to show most races, but not those whose window contains
//! none. With these types in place of the compiler's atomics (`sync`), a window opens at every
//! access to a shared word. The orderings are passed on but have no effect, since one thread sees
//! one order; loom checks those.

use core::ops::Deref;
use core::sync::atomic::{self, Ordering};

static STEP: spin::Once<fn()> = spin::Once::new();

/// Makes every access call `step` first. Only the first call has an effect.
pub fn set(step: fn()) {
    STEP.call_once(|| step);
}

fn step() {
    if let Some(step) = STEP.get() {
        step();
    }
}

/// The number in `place`. Sets it to the next number if it is 0.
pub(crate) fn number(place: &atomic::AtomicUsize) -> usize {
    static LAST: atomic::AtomicUsize = atomic::AtomicUsize::new(0);
    if place.load(Ordering::Relaxed) == 0 {
        let next = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        _ = place.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed);
    }
    place.load(Ordering::Relaxed)
}

pub(crate) fn fence(order: Ordering) {
    step();
    atomic::fence(order);
}

macro_rules! stepping {
    ($name:ident $(<$type:ident>)?, $value:ty) => {
        /// Core's atomic of the same name, with a step before each access.
        #[derive(Default)]
        #[repr(transparent)]
        pub struct $name$(<$type>)?(atomic::$name$(<$type>)?);

        impl$(<$type>)? Deref for $name$(<$type>)? {
            type Target = atomic::$name$(<$type>)?;

            fn deref(&self) -> &Self::Target {
                &self.0
            }
        }

        #[allow(dead_code, reason = "each type has the accesses that any of them needs")]
        impl$(<$type>)? $name$(<$type>)? {
            pub(crate) const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }

            pub(crate) fn load(&self, order: Ordering) -> $value {
                step();
                self.0.load(order)
            }

            pub(crate) fn store(&self, value: $value, order: Ordering) {
                step();
                self.0.store(value, order);
            }

            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.swap(value, order)
            }

            pub(crate) fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                step();
                self.0.compare_exchange(old, new, success, failure)
            }

            pub(crate) fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(old, new, success, failure)
            }

            pub(crate) fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                next: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                step();
                self.0.fetch_update(success, failure, next)
            }
        }
    };
}

macro_rules! stepping_number {
    ($name:ident, $value:ty) => {
        stepping!($name, $value);

        #[allow(
            dead_code,
            reason = "each type has the accesses that any of them needs"
        )]
        impl $name {
            pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_add(value, order)
            }

            pub(crate) fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_sub(value, order)
            }

            pub(crate) fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_or(value, order)
            }

            pub(crate) fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_and(value, order)
            }
        }
    };
}

stepping!(AtomicBool, bool);
stepping!(AtomicPtr<T>, *mut T);
stepping_number!(AtomicI32, i32);
stepping_number!(AtomicI64, i64);
stepping_number!(AtomicU8, u8);
stepping_number!(AtomicU32, u32);
stepping_number!(AtomicU64, u64);
stepping_number!(AtomicUsize, usize);
