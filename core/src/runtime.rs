//! Where primitives find the scheduler: at the moment of a wait, not when they are made.
//!
//! A mutex in a `static` exists before any scheduler runs, and a lock without contention needs
//! none. So channels and locks are generic over a [`Runtime`], and ask it only when a caller must
//! wait or a waiter must run.

use crate::os::Nanos;
use crate::sched::Sched;

/// The scheduler of a program, which may start when it is first needed.
pub trait Runtime: Copy + Send + Sync + 'static {
    /// The type of a time limit.
    type Instant: Copy + Send + 'static;

    /// The scheduler. May start it.
    fn sched(self) -> &'static Sched;

    /// The scheduler if it runs. It does not start it.
    fn started(self) -> Option<&'static Sched>;

    /// A time limit on the clock of the scheduler.
    fn nanos(self, limit: Self::Instant) -> Nanos;

    /// The present.
    fn now(self) -> Self::Instant;
}

impl Runtime for &'static Sched {
    type Instant = Nanos;

    fn sched(self) -> &'static Sched {
        self
    }

    fn started(self) -> Option<&'static Sched> {
        Some(self)
    }

    fn nanos(self, limit: Nanos) -> Nanos {
        limit
    }

    fn now(self) -> Nanos {
        Sched::now(self)
    }
}
