//! The behaviours in goroutines of two threads.

#[path = "behaviours/all.rs"]
mod behaviours;
#[path = "behaviours/goroutines.rs"]
mod goroutines;
#[path = "behaviours/limit.rs"]
mod limit;

use gopark::{Builder, thread};

fn start() {
    limit::start(Builder::new().max_procs(2));
}

fn check(behaviour: impl FnOnce() + Send + 'static) {
    start();
    limit::within_limit(move || gopark::go(behaviour).join().is_ok());
}
