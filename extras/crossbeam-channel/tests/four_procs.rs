//! The behaviours in goroutines of four threads.

#[path = "behaviours/all.rs"]
mod behaviours;
#[path = "behaviours/goroutines.rs"]
mod goroutines;
#[path = "behaviours/limit.rs"]
mod limit;

use gopark::{Builder, thread};

fn start() {
    limit::start(Builder::new().max_procs(4));
}

fn check(behaviour: impl FnOnce() + Send + 'static) {
    start();
    limit::within_limit(move || gopark::go(behaviour).join().is_ok());
}
