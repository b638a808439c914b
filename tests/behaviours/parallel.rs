//! Other goroutines run while one computes: on another P, or on its P under another thread.

use crate::start;
use gopark::{go, yield_now};
use gopark_tests::{LIMIT, join};
use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

/// Runs alone: an M steals only when it has no work of its own. Goroutines of other tests could
/// keep all Ms busy.
fn check_alone(behaviour: impl FnOnce() + Send + 'static) {
    start();
    gopark_tests::alone_in_goroutine(behaviour);
}

/// Computes without parking or yielding.
fn compute_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT / 2, "still computing: {what}");
        hint::spin_loop();
    }
}

#[test]
fn unstarted_goroutines_are_stolen_while_their_spawner_computes() {
    check_alone(|| {
        for count in [1, 2, 7, 300, 1000] {
            let ran = Arc::new(AtomicUsize::new(0));
            let goroutines: Vec<_> = (0..count)
                .map(|_| {
                    let ran = ran.clone();
                    go(move || _ = ran.fetch_add(1, SeqCst))
                })
                .collect();
            compute_until("other threads run what this goroutine has spawned", || {
                ran.load(SeqCst) == count
            });
            goroutines.into_iter().for_each(join);
        }
    });
}

#[test]
fn timers_fire_while_another_p_computes() {
    check_alone(|| {
        let slept = Arc::new(AtomicBool::new(false));
        let theirs = slept.clone();
        let computing = Arc::new(AtomicBool::new(false));
        let they = computing.clone();
        // It starts on another P, because this one computes as soon as the sleeper announces its
        // sleep.
        let sleeper = go(move || {
            they.store(true, SeqCst);
            gopark::sleep(std::time::Duration::from_millis(1));
            theirs.store(true, SeqCst);
        });
        compute_until("the sleeper starts", || computing.load(SeqCst));
        compute_until("the sleeper wakes", || slept.load(SeqCst));
        join(sleeper);
    });
}

#[test]
fn an_ordinary_thread_gets_its_goroutine_run_while_a_p_computes() {
    check_alone(|| {
        let answered = Arc::new(AtomicUsize::new(0));
        let theirs = answered.clone();
        let thread = std::thread::spawn(move || {
            for i in 0..50 {
                join(go(yield_now));
                theirs.store(i + 1, SeqCst);
            }
        });
        compute_until("goroutines of another thread run", || {
            answered.load(SeqCst) == 50
        });
        thread.join().unwrap();
    });
}
