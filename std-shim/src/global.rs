//! The runtime of the process, for the primitives of the core.

use crate::builder::{nanos, sched};
use crate::runtime::started;
use gopark_core::os::Nanos;
use gopark_core::runtime::Runtime;
use gopark_core::sched::Sched;
use std::time::Instant;

/// The runtime of the process. It starts when a goroutine or thread first has to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[doc(hidden)]
pub struct Global;

impl Runtime for Global {
    type Instant = Instant;

    #[inline]
    fn sched(self) -> &'static Sched {
        sched()
    }

    /// `None` also in a child made by `fork`: there, what needs no wait works, such as a drop.
    #[inline]
    fn started(self) -> Option<&'static Sched> {
        started()
    }

    fn nanos(self, limit: Instant) -> Nanos {
        nanos(limit)
    }

    fn now(self) -> Instant {
        Instant::now()
    }
}
