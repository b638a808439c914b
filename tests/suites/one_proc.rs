//! The behaviours with one P: one thread runs all goroutines in turn.

#[path = "../behaviours/all.rs"]
mod behaviours;
#[path = "../behaviours/sticky.rs"]
mod sticky;

use gopark::Builder;

/// Rounds of closing in the race against other operations.
const CLOSES: u64 = 2_000;

fn start() {
    gopark_tests::start(Builder::new().max_procs(1));
}

fn check(behaviour: impl FnOnce() + Send + 'static) {
    start();
    gopark_tests::in_goroutine(behaviour);
}
