//! What `select!` expands to.

use crate::builder::sched;
use crate::chan::{Receiver, Sender};
use crate::global::Global;
use crate::goroutine::JoinHandle;
use crate::leak::Finished;
use crate::scope::ScopedHandle;
use crate::thread::ScopedJoinHandle;
use gopark_core::cancel::Cancelled;
use gopark_core::chan::{RecvArm, SendArm};
use gopark_core::runtime::Runtime;
pub use gopark_core::select::Limit;
use gopark_core::select::{CancelledArm, Case, TimeArm};
use std::ops::Deref;
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

/// Whether a receive need not wait.
pub fn recv_is_ready<T>(receiver: &Receiver<T>) -> bool {
    receiver.0.is_ready()
}

/// Whether a send need not wait.
pub fn send_is_ready<T>(sender: &Sender<T>) -> bool {
    sender.0.is_ready()
}

/// A handle whose goroutine a select can join, or what refers to one.
#[diagnostic::on_unimplemented(message = "`{Self}` is no handle that `select!` can join")]
pub trait Joinable {
    /// What the goroutine returns.
    type Output;

    /// The return of the goroutine. It happens once.
    fn case(&self) -> Case<'_>;

    /// Takes the result. `None` if the event was not claimed by the select.
    fn take(&self) -> Option<thread::Result<Self::Output>>;
}

// The results cross threads as the handles do.

impl<T: Send> Joinable for JoinHandle<T> {
    type Output = T;

    fn case(&self) -> Case<'_> {
        self.join.case()
    }

    fn take(&self) -> Option<thread::Result<T>> {
        self.join.take().map(Finished::read)
    }
}

impl<T: Send> Joinable for ScopedHandle<'_, T> {
    type Output = T;

    fn case(&self) -> Case<'_> {
        self.case()
    }

    fn take(&self) -> Option<thread::Result<T>> {
        self.take()
    }
}

impl<T: Send> Joinable for ScopedJoinHandle<'_, T> {
    type Output = T;

    fn case(&self) -> Case<'_> {
        self.case()
    }

    fn take(&self) -> Option<thread::Result<T>> {
        self.take()
    }
}

impl<P: Deref<Target: Joinable>> Joinable for P {
    type Output = <P::Target as Joinable>::Output;

    fn case(&self) -> Case<'_> {
        (**self).case()
    }

    fn take(&self) -> Option<thread::Result<Self::Output>> {
        (**self).take()
    }
}

/// The return of a goroutine, for one select.
pub struct JoinArm<'a, H>(&'a H);

/// The return of a goroutine, for one select.
pub fn join<H: Joinable>(handle: &H) -> JoinArm<'_, H> {
    JoinArm(handle)
}

impl<H: Joinable> JoinArm<'_, H> {
    /// The case for the select.
    pub fn case(&self) -> Case<'_> {
        self.0.case()
    }

    /// What the handle's `join` returns.
    pub fn finish(self) -> thread::Result<H::Output> {
        // It was selected and has not returned: the caller is cancelled.
        let cancelled = || Err(Box::new(Cancelled) as _);
        self.0.take().unwrap_or_else(cancelled)
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
