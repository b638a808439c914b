//! The behaviours in goroutines of two threads.

mod behaviours;
mod goroutines;
mod limit;

use gopark::{Builder, thread};

fn check(behaviour: impl FnOnce() + Send + 'static) {
    limit::start(Builder::new().max_procs(2));
    limit::within_limit(move || gopark::go(behaviour).join().is_ok());
}
