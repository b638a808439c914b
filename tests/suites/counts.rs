//! What is counted over the whole runtime. Nothing else uses this process's runtime.

use gopark::{Builder, go, num_goroutines};
use gopark_tests::{in_goroutine, join, start, thread_names, until};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Threads that run goroutines.
fn threads() -> usize {
    let names = thread_names().into_iter();
    names.filter(|name| name.starts_with("gopark-m")).count()
}

/// The tests take turns, because the counts are those of the process.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn goroutines_that_compute_do_not_get_a_thread_each() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    start(Builder::new().max_procs(2));
    in_goroutine(|| {
        let computing: Vec<_> = (0..50)
            .map(|_| {
                go(|| {
                    let start = Instant::now();
                    while start.elapsed() < Duration::from_millis(2500) {
                        std::hint::spin_loop();
                    }
                })
            })
            .collect();
        computing.into_iter().for_each(join);
    });
    // Two Ps with up to eight extra threads each. The other 18 allow for goroutines that wait for
    // memory when sysmon looks: they count as blocked, not as computing.
    assert!(
        threads() <= 2 + 16 + 18,
        "{} threads for two procs",
        threads()
    );
}

#[test]
fn goroutines_are_counted_from_their_spawn_to_their_return() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    start(Builder::new().max_procs(2));
    assert_eq!(num_goroutines(), 0);
    in_goroutine(|| {
        assert_eq!(num_goroutines(), 1);
        let stop = Arc::new(AtomicBool::new(false));
        let waiting: Vec<_> = (0..1000)
            .map(|_| {
                let stop = stop.clone();
                go(move || until("they may stop", || stop.load(SeqCst)))
            })
            .collect();
        assert_eq!(num_goroutines(), 1001);
        stop.store(true, SeqCst);
        waiting.into_iter().for_each(join);
        assert_eq!(num_goroutines(), 1);

        for _ in 0..1000 {
            drop(go(|| ()));
        }
        until("detached goroutines have returned", || {
            num_goroutines() == 1
        });

        let failing: Vec<_> = (0..100)
            .map(|_| go(|| -> () { std::panic::resume_unwind(Box::new(())) }))
            .collect();
        failing.into_iter().for_each(|goroutine| {
            goroutine
                .join()
                .unwrap_err()
                .downcast::<()>()
                .map(drop)
                .unwrap()
        });
        assert_eq!(num_goroutines(), 1);
    });
    assert_eq!(num_goroutines(), 0);
    assert_eq!(gopark::run(num_goroutines), 1);
    let thread = std::thread::spawn(|| {
        (0..100)
            .map(|_| go(|| gopark::sleep(Duration::from_millis(1))))
            .for_each(join)
    });
    thread.join().unwrap();
    until("all have returned", || num_goroutines() == 0);
}
