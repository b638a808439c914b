//! The operations that are counted (`ci/counts.sh`) and timed (`cargo bench` in this folder), each
//! with a name.

#[path = "../../../std-shim/benches/micro/operations.rs"]
#[allow(dead_code, reason = "`micro` has more operations")]
mod operations;
mod sockets;

use operations::{
    channel, mutex_alone, mutex_contended, park_ready, pingpong, selects, spawn, timers, yields,
};
use sockets::{accept, deadline, echo, fdmutex};

/// A name, how many are counted, and what does `n` of them in a goroutine.
pub struct Operation(pub &'static str, pub usize, pub fn(n: usize));

/// The operations. `benches/counts.txt` has a line for each. An operation of few instructions is
/// counted more often: the start and the end of a goroutine vary by some hundred instructions.
pub const OPERATIONS: [Operation; 14] = [
    Operation("switch", 8_000, pingpong),
    Operation("spawn_join", 4_000, spawn),
    Operation("yield", 20_000, yields),
    Operation("park_ready", 8_000, park_ready),
    Operation("chan_unbuffered", 8_000, |n| channel(n, 1, Some(0))),
    Operation("chan_128", 40_000, |n| channel(n, 1, Some(128))),
    Operation("select_unbuffered", 4_000, |n| selects(n, 0)),
    Operation("mutex", 100_000, mutex_alone),
    Operation("mutex_contended", 8_000, mutex_contended),
    Operation("timer", 4_000, timers),
    Operation("fdmutex", 20_000, fdmutex),
    Operation("echo", 4_000, echo),
    Operation("deadline", 4_000, deadline),
    Operation("accept", 1_000, accept),
];

/// Starts the runtime with one worker. Nothing in it then depends on the time that something
/// takes: sysmon, which is off, would find every turn too long under callgrind.
pub fn start() {
    let builder = gopark::Builder::new().max_procs(1).sysmon(false);
    builder.start().unwrap();
}
