//! What a select does if its caller is cancelled.
#![allow(
    unsafe_code,
    reason = "an arm queues nodes by address; this one queues none"
)]

use super::{Arm, Attempt, Case, Gate, Limit, Seats};
use crate::choice::WaitNode;
use crate::sched::Sched;
use crate::withdraw::any_cancelled;
use core::ptr::NonNull;

/// What a case does if the caller of the select is cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnCancel {
    /// Nothing: it cannot fail.
    Ignore,
    /// It is selected, and its result is an error.
    Fail,
    /// It is selected, before any that can fail: this is its event.
    Happen,
}

/// That the caller is cancelled, as a case of a select.
pub struct CancelledArm(Gate);

impl Default for CancelledArm {
    fn default() -> Self {
        CancelledArm(Gate::new(()))
    }
}

impl CancelledArm {
    /// The case for the select.
    pub fn case(&self) -> Case<'_> {
        Case::new(self, OnCancel::Happen)
    }
}

impl Arm for CancelledArm {
    fn gate(&self) -> &Gate {
        &self.0
    }

    fn packet(&self) -> NonNull<()> {
        NonNull::dangling()
    }

    unsafe fn attempt(&self) -> Attempt {
        Attempt::Blocked
    }

    // The cancel ends the wait itself.
    unsafe fn enqueue(&self, _: &WaitNode) {}
    unsafe fn dequeue(&self, _: &WaitNode) {}
}

impl Seats<'_, '_> {
    /// The case that is selected if the caller is cancelled. A select that does not wait fails no
    /// case.
    pub(super) fn on_cancel(&self, limit: Limit) -> Option<usize> {
        let find = |wanted| {
            let mut cases = self.cases.iter();
            cases.position(|case| case.on_cancel == wanted)
        };
        find(OnCancel::Happen).or_else(|| match limit {
            Limit::Now => None,
            Limit::At(_) | Limit::Never => find(OnCancel::Fail),
        })
    }
}

impl Sched {
    /// The case to select because the caller is cancelled.
    #[inline]
    pub(super) fn cancelled_case(
        &'static self,
        seats: &Seats<'_, '_>,
        limit: Limit,
    ) -> Option<usize> {
        if !any_cancelled() {
            return None;
        }
        let index = seats.on_cancel(limit)?;
        self.check_cancelled().is_err().then_some(index)
    }
}
