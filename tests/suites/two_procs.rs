//! The behaviours with two Ps, each with a poller: the default on two CPUs.
//!
//! The sanitizers leave them out, since these take minutes there, and run those with one and with
//! four Ps.
#![cfg(not(any(gopark_sanitize = "thread", gopark_sanitize = "address")))]

#[path = "../behaviours/all.rs"]
mod behaviours;
#[path = "../behaviours/sticky.rs"]
mod sticky;

use gopark::Builder;

/// Rounds of closing in the race against other operations.
const CLOSES: u64 = 10_000;

fn start() {
    gopark_tests::start(Builder::new().max_procs(2));
}

fn check(behaviour: impl FnOnce() + Send + 'static) {
    start();
    gopark_tests::in_goroutine(behaviour);
}
