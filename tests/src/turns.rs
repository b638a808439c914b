//! A log of the turns of goroutines, as a hook of `Builder::on_switch` sees them.

use gopark::{Switch, blocking, chan, go, sleep, yield_now};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

static LOG: Mutex<Vec<(ThreadId, Switch)>> = Mutex::new(Vec::new());

thread_local! {
    /// The goroutine that has a turn on this thread, or 0.
    static TURN: Cell<u64> = const { Cell::new(0) };
}

/// The hook. No holder of its lock parks.
pub fn log(switch: Switch) {
    match switch {
        Switch::In { id, .. } => TURN.set(id),
        Switch::Out { .. } => TURN.set(0),
        _ => panic!("{switch:?} is new"),
    }
    switches().push((thread::current().id(), switch));
}

/// The goroutine that has a turn on the calling thread. 0 if there is none.
///
/// Never inlined: the compiler could keep the address of the thread-local across a park.
#[inline(never)]
pub fn turn_here() -> u64 {
    TURN.get()
}

/// The switches so far, in their order.
fn switches() -> MutexGuard<'static, Vec<(ThreadId, Switch)>> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The turns of a goroutine: the threads on which they began, and whether the last one has ended.
pub fn turns_of(goroutine: u64) -> (Vec<ThreadId>, bool) {
    let (mut threads, mut ended) = (Vec::new(), true);
    for &(thread, switch) in switches().iter() {
        match switch {
            Switch::In { id, .. } if id == goroutine => {
                threads.push(thread);
                ended = false;
            }
            Switch::Out { id, .. } if id == goroutine => ended = true,
            _ => {}
        }
    }
    (threads, ended)
}

/// Checks that `In` and `Out` take turns, on each thread and for each goroutine. Returns how many
/// turns there were.
#[track_caller]
pub fn check_pairs() -> usize {
    let (mut threads, mut goroutines) = (HashMap::new(), HashMap::new());
    let switches = switches();
    for (i, &(thread, switch)) in switches.iter().enumerate() {
        match switch {
            Switch::In { id, .. } => {
                let before = (threads.insert(thread, id), goroutines.insert(id, thread));
                assert_eq!(before, (None, None), "switch {i}, {switch:?} on {thread:?}");
            }
            Switch::Out { id, .. } => {
                let before = (threads.remove(&thread), goroutines.remove(&id));
                let began = (Some(id), Some(thread));
                assert_eq!(before, began, "switch {i}, {switch:?} on {thread:?}");
            }
            _ => panic!("{switch:?} is new"),
        }
    }
    switches.len() / 2
}

/// Runs goroutines that stop for every reason there is, several at the same time.
pub fn run_a_mix() {
    let goroutines: Vec<_> = (0..8)
        .map(|_| {
            go(|| {
                let (sender, receiver) = chan::bounded(0);
                let sends = go(move || (0..50).for_each(|i| sender.send(i).unwrap()));
                for i in 0..50 {
                    assert_eq!(receiver.recv(), Ok(i));
                    match i % 8 {
                        0 => sleep(Duration::from_micros(50)),
                        1 => blocking(|| ()),
                        2 => _ = go(|| panic!("one of several ends")).join().unwrap_err(),
                        _ => yield_now(),
                    }
                }
                sends.join().unwrap();
            })
        })
        .collect();
    goroutines.into_iter().for_each(crate::join);
}
