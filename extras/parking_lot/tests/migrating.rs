//! The behaviours with goroutines on two Ps that move between threads.
#![allow(
    unsafe_code,
    reason = "`migrate` asks for goroutines that stand it, which these do"
)]

#[path = "behaviours/all.rs"]
mod behaviours;

use behaviours::actors::{self, Actor};

fn check(behaviour: impl FnOnce() + Send + 'static) {
    // SAFETY: the goroutines of this process use thread-locals only in calls that do not park, and
    // keep no value across a park that is not `Send`, except guards of locks that park.
    let settings = || unsafe { gopark::Builder::new().max_procs(2).migrate() };
    actors::in_goroutine(settings, behaviour);
}

fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Actor<T> {
    Actor::goroutine(f)
}
