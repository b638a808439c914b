//! The behaviours with goroutines on one P: one thread runs all goroutines in turn.

#[path = "behaviours/all.rs"]
mod behaviours;
#[path = "behaviours/goroutines.rs"]
mod goroutines;

use behaviours::actors::{self, Actor};

fn check(behaviour: impl FnOnce() + Send + 'static) {
    actors::in_goroutine(|| gopark::Builder::new().max_procs(1), behaviour);
}

fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Actor<T> {
    Actor::goroutine(f)
}
