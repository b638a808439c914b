//! The runtime of the process: where it is found, and its clock.
#![allow(unsafe_code, reason = "a static holds a pointer to it")]

#[cfg(feature = "std-locks")]
use crate::parker;
use gopark_backends::Poller;
use gopark_backends::linux::{Linux, with_signal_stack};
use gopark_core::blocking::Pool;
use gopark_core::os::{Nanos, Os};
use gopark_core::sched::Sched;
use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::{Duration, Instant};

pub(crate) static LINUX: Linux = Linux::new()
    .with_signal_stacks(run_thread)
    .with_limits()
    .with_thread_states();

/// Runs a thread of the runtime.
fn run_thread(entry: fn(usize), arg: usize) {
    #[cfg(feature = "std-locks")]
    parker::learn();
    with_signal_stack(entry, arg);
}

/// The runtime, which is never freed. Null before the start, and in a child made by `fork`, which
/// has none of the runtime's threads.
static RUNTIME: AtomicPtr<Runtime> = AtomicPtr::new(ptr::null_mut());

/// What the start has made.
pub(crate) struct Runtime {
    pub(crate) sched: &'static Sched,
    pub(crate) pool: Pool,
    pub(crate) poller: Poller,
    /// The same moment on both clocks. The second was read later, so that a deadline converted with
    /// them never comes early.
    pub(crate) epoch: (Instant, Nanos),
}

impl Runtime {
    /// Makes the runtime the one that is running.
    pub(crate) fn publish(self) {
        RUNTIME.store(Box::into_raw(Box::new(self)), Ordering::Release);
    }

    /// Converts an instant to the scheduler's clock. An instant too far away becomes the last one.
    pub(crate) fn nanos(&self, instant: Instant) -> Nanos {
        let (epoch, base) = self.epoch;
        match instant.checked_duration_since(epoch) {
            Some(after) => base.saturating_add(duration_nanos(after)),
            None => base.saturating_sub(duration_nanos(epoch - instant)),
        }
    }
}

/// Reads both clocks at the same moment, for [`Runtime::epoch`].
pub(crate) fn epoch() -> (Instant, Nanos) {
    // The thread may be interrupted between reading the two clocks: take the closest of 5 pairs.
    let epochs = (0..5).map(|_| (Instant::now(), LINUX.now(), Instant::now()));
    let (instant, nanos, _) = epochs
        .min_by_key(|&(before, _, after)| after - before)
        .expect("there are 5 pairs");
    (instant, nanos)
}

/// Returns the runtime if it is running.
#[inline]
pub(crate) fn running() -> Option<&'static Runtime> {
    // SAFETY: the pointer is null or points to the box that `publish` has leaked. Acquire pairs
    // with the Release in `publish`, which makes the box visible.
    unsafe { RUNTIME.load(Ordering::Acquire).as_ref() }
}

/// Runs in a child process before `fork` returns there, on its only thread. Returns whether the
/// runtime was running.
pub(crate) fn in_child() -> bool {
    let before = running();
    RUNTIME.store(ptr::null_mut(), Ordering::Release);
    if let Some(runtime) = before {
        runtime.sched.forked();
    }
    before.is_some()
}

/// Returns the scheduler if it is running. May be called in a signal handler.
#[inline]
pub(crate) fn started() -> Option<&'static Sched> {
    running().map(|runtime| runtime.sched)
}

/// The word of an ordinary thread for the cancel that it is a member of.
pub(crate) fn thread_member(new: Option<*mut ()>) -> *mut () {
    thread_local! {
        static MEMBER: Cell<*mut ()> = const { Cell::new(ptr::null_mut()) };
    }
    // While the thread ends it is no member: those stay for a closure only.
    let swap = |member: &Cell<*mut ()>| match new {
        Some(new) => member.replace(new),
        None => member.get(),
    };
    MEMBER.try_with(swap).unwrap_or(ptr::null_mut())
}

/// The end of a wait of at most `limit`. `None` if it is too far away to come.
pub(crate) fn time_limit(limit: Duration) -> Option<Instant> {
    Instant::now().checked_add(limit)
}

/// Converts a duration to nanoseconds. One that is too long becomes `Nanos::MAX`: no limit.
pub(crate) fn duration_nanos(duration: Duration) -> Nanos {
    let seconds = Nanos::try_from(duration.as_secs()).unwrap_or(Nanos::MAX);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(duration.subsec_nanos().into())
}
