//! Atomics that let a simulation in between: under `--cfg steps`, every access first calls a function that may run other threads.
//!
//! A simulated computer whose threads are coroutines of one real thread can take turns only where it is called. System calls are enough
//! to show most races, but not those whose windows have none; with these in place of the compiler's atomics (`sync`), windows open at every
//! access to a shared word. The orders are passed on and mean nothing: one thread sees one order. For the others there is loom.

use core::ops::Deref;
use core::sync::atomic::{self, Ordering};

static STEP: spin::Once<fn()> = spin::Once::new();

/// Has `step` called before every access. The first call counts.
pub fn set(step: fn()) {
    STEP.call_once(|| step);
}

fn step() {
    if let Some(step) = STEP.get() {
        step();
    }
}

pub(crate) fn fence(order: Ordering) {
    step();
    atomic::fence(order);
}

macro_rules! stepping {
    ($name:ident $(<$type:ident>)?, $value:ty) => {
        /// As core's atomic of this name, with a step before each access.
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

            pub(crate) fn compare_exchange(&self, old: $value, new: $value, done: Ordering, not: Ordering) -> Result<$value, $value> {
                step();
                self.0.compare_exchange(old, new, done, not)
            }

            pub(crate) fn compare_exchange_weak(&self, old: $value, new: $value, done: Ordering, not: Ordering) -> Result<$value, $value> {
                self.compare_exchange(old, new, done, not)
            }

            pub(crate) fn fetch_update(
                &self,
                done: Ordering,
                not: Ordering,
                next: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                step();
                self.0.fetch_update(done, not, next)
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
