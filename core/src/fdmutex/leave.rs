//! A waiter for a side that gives up.

use super::{FdMutex, side};
use crate::os::Mode;
use crate::sched::Sched;
use crate::sync::Ordering;

impl FdMutex {
    /// Leaves the waiters of a side, in whose queue the caller is no longer. If a waker has taken
    /// the caller off the count, its permit comes or is there: the caller passes the wake-up on.
    #[cold]
    pub(crate) fn leave(&self, mode: Mode, sched: &'static Sched) {
        let side = side(mode);
        let next = |old: u64| (old & side.waits != 0).then(|| old - side.wait);
        if self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, next)
            .is_err()
        {
            self.turns(mode).acquire(sched);
            self.wake_next(mode, sched);
        }
    }
}
