//! A program without the feature `std-locks`, or for another system.

use super::StdLocks;
use gopark_core::os::Nanos;
use gopark_core::sched::Sched;

pub(crate) fn install(_: StdLocks) {}

pub(crate) fn is_linked() -> bool {
    false
}

pub(crate) fn learn_park_word() {}

pub(crate) fn last_waker(_: u64) -> Option<u64> {
    None
}

pub(crate) fn rescue(_: &'static Sched, _: Nanos) -> bool {
    false
}
