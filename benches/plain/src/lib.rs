//! The operations that are counted (`ci/counts.sh`) and timed (`cargo bench` in this folder), each
//! with a name.

#[path = "../../../std-shim/benches/micro/operations.rs"]
#[allow(dead_code, reason = "`micro` has more operations")]
mod operations;
mod sockets;

use operations::{
    channel, mutex_alone, mutex_yields, park_ready, pingpong, selects, spawn, timers, yields,
};
use sockets::{accept, deadline, echo, fdmutex};

/// A name, and what does `n` operations in a goroutine.
pub struct Operation(pub &'static str, pub fn(n: usize));

/// The operations. `benches/counts.txt` has a line for each.
pub const OPERATIONS: [Operation; 14] = [
    Operation("switch", pingpong),
    Operation("spawn_join", spawn),
    Operation("yield", yields),
    Operation("park_ready", park_ready),
    Operation("chan_unbuffered", |n| channel(n, 1, Some(0))),
    Operation("chan_128", |n| channel(n, 1, Some(128))),
    Operation("select_unbuffered", |n| selects(n, 0)),
    Operation("mutex", mutex_alone),
    Operation("mutex_contended", mutex_yields),
    Operation("timer", timers),
    Operation("fdmutex", fdmutex),
    Operation("echo", echo),
    Operation("deadline", deadline),
    Operation("accept", accept),
];

/// Starts the runtime with one worker. Nothing in it then depends on the time that something
/// takes: sysmon, which is off, would find every turn too long under callgrind.
pub fn start() {
    let builder = gopark::Builder::new().max_procs(1).sysmon(false);
    builder.start().unwrap();
}
