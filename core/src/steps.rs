//! Atomics that a simulation can interrupt: under `--cfg steps`, each access first calls a function
//! that may run other simulated threads.
//!
//! The threads of a simulated computer are coroutines of one real thread, so they can only switch
//! inside a call. System calls are enough to show most races, but not those whose window contains
//! none. With these types in place of the compiler's atomics (`sync`), a window opens at every
//! access to a shared word. The orderings are passed on but have no effect, since one thread sees
//! one order; loom checks those.
//!
//! A program can also see each access on real threads ([`watch`]): the suite `sharing` counts the
//! cache lines that Ms share.

use core::ops::Deref;
use core::panic::Location;
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

/// No step: the accesses to a statistic.
fn pass() {}

/// An access to a word that threads share, or to a lock.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// The address of the word.
    pub address: usize,
    /// Whether it takes the word's cache line from other CPUs.
    pub writes: bool,
    /// The line of code that made it.
    pub place: &'static Location<'static>,
}

static WATCHER: spin::Once<fn(Access)> = spin::Once::new();

/// Passes each later access to `watcher`, on the thread that makes it. Only the first call has an
/// effect.
pub fn watch(watcher: fn(Access)) {
    WATCHER.call_once(|| watcher);
}

/// Tells the watcher of an access to `word` by the caller.
#[track_caller]
pub(crate) fn accessed<T>(word: &T, writes: bool) {
    if let Some(watcher) = WATCHER.get() {
        watcher(Access {
            address: core::ptr::from_ref(word).addr(),
            writes,
            place: Location::caller(),
        });
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
    ($before:ident, $name:ident $(<$type:ident>)?, $value:ty) => {
        /// The atomic of the same name in `core`, which tells of each access.
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

            #[track_caller]
            pub(crate) fn load(&self, order: Ordering) -> $value {
                $before();
                accessed(self, false);
                self.0.load(order)
            }

            #[track_caller]
            pub(crate) fn store(&self, value: $value, order: Ordering) {
                $before();
                accessed(self, true);
                self.0.store(value, order);
            }

            #[track_caller]
            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                $before();
                accessed(self, true);
                self.0.swap(value, order)
            }

            #[track_caller]
            pub(crate) fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                $before();
                accessed(self, true);
                self.0.compare_exchange(old, new, success, failure)
            }

            #[track_caller]
            pub(crate) fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(old, new, success, failure)
            }

            #[track_caller]
            pub(crate) fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                next: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                $before();
                accessed(self, true);
                self.0.fetch_update(success, failure, next)
            }
        }
    };
}

macro_rules! stepping_number {
    ($before:ident, $name:ident, $value:ty) => {
        stepping!($before, $name, $value);

        #[allow(
            dead_code,
            reason = "each type has the accesses that any of them needs"
        )]
        impl $name {
            #[track_caller]
            pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                $before();
                accessed(self, true);
                self.0.fetch_add(value, order)
            }

            #[track_caller]
            pub(crate) fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                $before();
                accessed(self, true);
                self.0.fetch_sub(value, order)
            }

            #[track_caller]
            pub(crate) fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                $before();
                accessed(self, true);
                self.0.fetch_or(value, order)
            }

            #[track_caller]
            pub(crate) fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                $before();
                accessed(self, true);
                self.0.fetch_and(value, order)
            }
        }
    };
}

stepping!(step, AtomicBool, bool);
stepping!(step, AtomicPtr<T>, *mut T);
stepping_number!(step, AtomicI32, i32);
stepping_number!(step, AtomicI64, i64);
stepping_number!(step, AtomicU8, u8);
stepping_number!(step, AtomicU32, u32);
stepping_number!(step, AtomicU64, u64);
stepping_number!(step, AtomicUsize, usize);

/// Atomics without a step. Only the watcher sees their accesses.
#[allow(unreachable_pub, reason = "the macro declares public types, too")]
pub(crate) mod unmodeled {
    use super::{Deref, Ordering, accessed, atomic, pass};

    stepping!(pass, AtomicPtr<T>, *mut T);
    stepping_number!(pass, AtomicI64, i64);
    stepping_number!(pass, AtomicU8, u8);
    stepping_number!(pass, AtomicU32, u32);
    stepping_number!(pass, AtomicU64, u64);
    stepping_number!(pass, AtomicUsize, usize);
}
