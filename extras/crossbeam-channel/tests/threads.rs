//! The behaviours on ordinary threads.

#[path = "behaviours/all.rs"]
mod behaviours;
#[path = "behaviours/limit.rs"]
mod limit;

use std::thread;

fn check(behaviour: impl FnOnce() + Send + 'static) {
    limit::within_limit(move || thread::spawn(behaviour).join().is_ok());
}
