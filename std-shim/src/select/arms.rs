//! What `select!` expands to.

use crate::builder::sched;
use crate::chan::{Receiver, Sender};
use crate::global::Global;
use crate::goroutine::JoinHandle;
use crate::leak::Finished;
use gopark_core::cancel::Cancelled;
use gopark_core::chan::{RecvArm, SendArm};
use gopark_core::runtime::Runtime;
pub use gopark_core::select::Limit;
use gopark_core::select::{CancelledArm, Case, TimeArm};
use std::thread;
use std::time::{Duration, Instant};

/// A receive for one select.
pub fn recv<T>(receiver: &Receiver<T>) -> RecvArm<'_, T, Global> {
    receiver.0.arm()
}

/// A send for one select.
pub fn send<T>(sender: &Sender<T>, value: T) -> SendArm<'_, T, Global> {
    sender.0.arm(value)
}

/// The return of a goroutine, for one select.
pub struct JoinArm<'a, T>(&'a JoinHandle<T>);

/// The return of a goroutine, for one select. Its result crosses threads as the handle does.
pub fn join<T: Send>(handle: &JoinHandle<T>) -> JoinArm<'_, T> {
    JoinArm(handle)
}

impl<T: Send> JoinArm<'_, T> {
    /// The case for the select.
    pub fn case(&self) -> Case<'_> {
        self.0.join.case()
    }

    /// What [`JoinHandle::join`] returns.
    pub fn finish(self) -> thread::Result<T> {
        // It was selected and has not returned: the caller is cancelled.
        let cancelled = || Err(Box::new(Cancelled) as _);
        self.0.join.take().map_or_else(cancelled, Finished::read)
    }
}

/// That the caller is cancelled, for one select.
pub struct CallerArm(CancelledArm);

/// That the caller is cancelled, for one select.
pub fn cancelled() -> CallerArm {
    CallerArm(CancelledArm::default())
}

impl CallerArm {
    /// The case for the select.
    pub fn case(&self) -> Case<'_> {
        self.0.case()
    }

    /// Nothing: the caller is cancelled.
    pub fn finish(self) {}
}

/// A time, for one select.
pub struct AtArm(TimeArm);

/// A time, for one select.
pub fn at(when: Instant) -> AtArm {
    AtArm(TimeArm::new(sched(), Global.nanos(when).max(1)))
}

impl AtArm {
    /// The case for the select.
    pub fn case(&self) -> Case<'_> {
        self.0.case()
    }

    /// Nothing: the time has come.
    pub fn finish(self) {}
}

/// A limit that comes after `duration`. One that is later than the clock can show never comes.
pub fn within(duration: Duration) -> Limit {
    until(Instant::now().checked_add(duration))
}

/// A limit. `None`: it never comes.
pub(super) fn until(when: Option<Instant>) -> Limit {
    when.map_or(Limit::Never, |when| Limit::At(Global.nanos(when).max(1)))
}

/// Waits for one of `cases`. Returns its index, or `None` at the limit.
pub fn pick(cases: &[Case<'_>], biased: bool, limit: Limit) -> Option<usize> {
    sched().select(cases, biased, limit)
}
