//! The behaviours on ordinary threads. The runtime starts with its defaults when a thread waits.

#[path = "behaviours/all.rs"]
mod behaviours;

use behaviours::actors::{self, Actor};

fn check(behaviour: impl FnOnce() + Send + 'static) {
    actors::on_thread(behaviour);
}

fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Actor<T> {
    Actor::thread(f)
}
