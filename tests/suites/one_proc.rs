//! The behaviours with one P: everything takes turns on one thread.

#[cfg(feature = "backtrace")]
#[path = "../behaviours/backtraces.rs"]
mod backtraces;
#[path = "../behaviours/closing.rs"]
mod closing;
#[path = "../behaviours/deadlines.rs"]
mod deadlines;
#[path = "../behaviours/handoff.rs"]
mod handoff;
#[path = "../behaviours/parallel.rs"]
mod parallel;
#[path = "../behaviours/scheduler.rs"]
mod scheduler;
#[path = "../behaviours/sticky.rs"]
mod sticky;
#[path = "../behaviours/streams.rs"]
mod streams;
#[path = "../behaviours/time.rs"]
mod time;

use gopark::Builder;

/// Rounds of closing while everything else goes on.
const CLOSES: u64 = 2_000;

fn start() {
    gopark_tests::start(Builder::new().max_procs(1));
}

fn check(behaviour: impl FnOnce() + Send + 'static) {
    start();
    gopark_tests::in_goroutine(behaviour);
}

fn check_on_thread(behaviour: impl FnOnce() + Send + 'static) {
    start();
    gopark_tests::on_thread(behaviour);
}
