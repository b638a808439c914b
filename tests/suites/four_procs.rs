//! The behaviours with four Ps that share one poller: Go's arrangement, with goroutines that stay
//! on their threads.

#[path = "../behaviours/all.rs"]
mod behaviours;
#[path = "../behaviours/sticky.rs"]
mod sticky;

use gopark::Builder;

/// Rounds of closing in the race against other operations.
const CLOSES: u64 = 10_000;

fn start() {
    gopark_tests::start(Builder::new().max_procs(4).pollers(1));
}

fn check(behaviour: impl FnOnce() + Send + 'static) {
    start();
    gopark_tests::in_goroutine(behaviour);
}
