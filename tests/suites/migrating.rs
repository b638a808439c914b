//! The behaviours in a runtime whose started goroutines move between threads.
#![allow(
    unsafe_code,
    reason = "`migrate` asks for goroutines that stand it, which these do"
)]

#[path = "../behaviours/all.rs"]
mod behaviours;

use gopark::{Builder, go, yield_now};
use gopark_tests::join;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

/// Rounds of closing in the race against other operations.
const CLOSES: u64 = 10_000;

fn start() {
    // SAFETY: the goroutines of this process use thread-locals only in calls that do not park.
    // Those that keep an `Rc` across a park were made by `go_local` and stay on their threads.
    gopark_tests::start(unsafe { Builder::new().max_procs(4).migrate() });
}

fn check(behaviour: impl FnOnce() + Send + 'static) {
    start();
    // The goroutine of a behaviour keeps `Rc`s across parks.
    gopark_tests::in_goroutine(|| join(gopark::go_local(behaviour)));
}

/// Never inlined: the compiler could keep the address of a thread-local across a park.
#[inline(never)]
fn here() -> ThreadId {
    thread::current().id()
}

#[test]
fn a_started_goroutine_runs_on_another_thread_while_its_own_is_busy() {
    check(|| {
        // All start on this M, which then computes: to go on they must move.
        let seen = Arc::new(Mutex::new(HashSet::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let movers: Vec<_> = (0..8)
            .map(|_| {
                let (seen, stop) = (seen.clone(), stop.clone());
                go(move || {
                    while !stop.load(SeqCst) {
                        seen.lock().unwrap().insert(here());
                        yield_now();
                    }
                    let first = here();
                    gopark_tests::until("a started goroutine has changed its thread", || {
                        here() != first
                    });
                })
            })
            .collect();
        gopark_tests::until("the goroutines start", || !seen.lock().unwrap().is_empty());
        stop.store(true, SeqCst);
        movers.into_iter().for_each(join);
    });
}

#[test]
fn a_goroutine_that_sleeps_wakes_on_whichever_thread_is_free() {
    check(|| {
        let computing = Arc::new(Mutex::new(None));
        let sleepers: Vec<_> = (0..50)
            .map(|_| {
                let computing = computing.clone();
                go(move || {
                    for _ in 0..20 {
                        gopark::sleep(std::time::Duration::from_micros(200));
                        assert_ne!(
                            *computing.lock().unwrap(),
                            Some(here()),
                            "this thread runs another goroutine"
                        );
                    }
                })
            })
            .collect();
        let busy = go(move || {
            *computing.lock().unwrap() = Some(here());
            let start = std::time::Instant::now();
            while start.elapsed().as_millis() < 20 {
                std::hint::spin_loop();
            }
            *computing.lock().unwrap() = None;
        });
        join(busy);
        sleepers.into_iter().for_each(join);
    });
}
