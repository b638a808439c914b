//! The behaviours in goroutines of one thread, which takes turns with all of them.

mod behaviours;
mod goroutines;
mod limit;

use gopark::{Builder, thread};

fn start() {
    limit::start(Builder::new().max_procs(1));
}

fn check(behaviour: impl FnOnce() + Send + 'static) {
    start();
    limit::within_limit(move || gopark::go(behaviour).join().is_ok());
}
