//! What `select!` expands to.

use crate::builder::sched;
use crate::chan::{Receiver, Sender};
use crate::global::Global;
use crate::goroutine::JoinHandle;
use gopark_core::chan::{RecvArm, SendArm};
use gopark_core::runtime::Runtime;
use gopark_core::select::{Case, Limit};
use std::thread;
use std::time::Instant;

/// Which arm of a `select!` happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Picked {
    /// The case with this index.
    Case(usize),
    /// The time with this index came first.
    Time(usize),
    /// No event was there, and the select does not wait.
    Nothing,
}

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
        self.0.0.case()
    }

    /// What [`JoinHandle::join`] returns.
    ///
    /// # Panics
    ///
    /// If no select has returned this case.
    pub fn finish(self) -> thread::Result<T> {
        self.0
            .0
            .take()
            .expect("finish without a select that has returned the join")
    }
}

/// Waits for one of `cases` or `times`. A time that is `None` never comes.
pub fn pick(cases: &[Case<'_>], biased: bool, times: &[Option<Instant>], now: bool) -> Picked {
    let first = earliest(times);
    let limit = match first {
        _ if now => Limit::Now,
        Some((_, when)) => Limit::At(Global.nanos(when).max(1)),
        None => Limit::Never,
    };
    match (sched().select(cases, biased, limit), first) {
        (Some(index), _) => Picked::Case(index),
        (None, Some((index, _))) => Picked::Time(index),
        (None, None) => Picked::Nothing,
    }
}

/// The first of the earliest times, with its index.
fn earliest(times: &[Option<Instant>]) -> Option<(usize, Instant)> {
    let times = times.iter().enumerate();
    times
        .filter_map(|(index, when)| Some((index, (*when)?)))
        .min_by_key(|&(_, when)| when)
}
