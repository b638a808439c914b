//! What holds on threads and in goroutines. A suite includes this file, and has `thread`, which is
//! that of std or of gopark, and `check`, which runs a behaviour.

mod channels;
mod clocks;
mod dynamic;
mod errors;
mod forms;
mod golang;
mod macros;
mod readiness;
mod rendezvous;
mod sharing;

use crate::thread;
use std::time::Duration;

/// Longer than any wait of a behaviour.
const LONG: Duration = Duration::from_secs(60);

/// A time that is waited for to its end.
const SHORT: Duration = Duration::from_millis(5);

/// The capacities of the channels under test. `None` for no bound.
const CAPACITIES: [Option<usize>; 4] = [Some(0), Some(1), Some(7), None];

fn channel<T>(
    capacity: Option<usize>,
) -> (crossbeam_channel::Sender<T>, crossbeam_channel::Receiver<T>) {
    capacity.map_or_else(crossbeam_channel::unbounded, crossbeam_channel::bounded)
}

/// Waits until `condition` is true.
fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        thread::yield_now();
    }
}
