//! A supervisor in the manner of Erlang: a part that fails or panics is started again after a
//! moment. A part that fails too often in a short time is given up, and that ends all parts.
//!
//! ```text
//! cargo run --example supervisor
//! ```

use gopark::{check_cancel, sleep, try_scope};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

const DELAY: Duration = Duration::from_millis(50);
/// As many failures within `WINDOW` are too many.
const FAILURES: usize = 5;
const WINDOW: Duration = Duration::from_secs(10);

/// Works until it is cancelled. What it then returns does not count.
type Part = fn() -> Result<(), &'static str>;

fn main() {
    let parts: [(&str, Part); 3] = [("clock", clock), ("flaky", flaky), ("broken", broken)];
    let outcome = gopark::run(|| {
        try_scope(|s| {
            for (name, part) in parts {
                s.go(move || supervise(name, part));
            }
            Ok(())
        })
    });
    println!("{}", outcome.unwrap_err());
}

/// Runs a part until it returns `Ok` or is cancelled. Fails if the part fails too often.
fn supervise(name: &str, part: Part) -> Result<(), String> {
    let mut failures = VecDeque::new();
    loop {
        let outcome = catch_unwind(AssertUnwindSafe(part)).unwrap_or(Err("a panic"));
        let failure = match outcome {
            Err(failure) if check_cancel().is_ok() => failure,
            _ => {
                println!("{name} has ended");
                return Ok(());
            }
        };
        failures.push_back(Instant::now());
        failures.retain(|failure| failure.elapsed() < WINDOW);
        println!("{name} has failed: {failure}");
        if failures.len() == FAILURES {
            return Err(format!(
                "{name} is given up after {FAILURES} failures: {failure}"
            ));
        }
        // A cancel ends the sleep, and the part then ends at once.
        sleep(DELAY);
    }
}

fn clock() -> Result<(), &'static str> {
    loop {
        check_cancel().map_err(|_| "cancelled")?;
        sleep(Duration::from_millis(20));
    }
}

/// Panics the first time.
fn flaky() -> Result<(), &'static str> {
    static STARTS: AtomicU32 = AtomicU32::new(0);
    assert_ne!(STARTS.fetch_add(1, Relaxed), 0, "not ready yet");
    clock()
}

fn broken() -> Result<(), &'static str> {
    sleep(DELAY);
    Err("no luck")
}
