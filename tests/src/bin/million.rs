//! A million goroutines asleep at once, with the default sysctls: the memory of each. Fails if it
//! exceeds the figure in `docs/performance.md`.
//!
//! `cargo run --release -p gopark-tests --bin million [-- COUNT]`

use gopark_tests::{join, until};
use std::fs;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Bytes of resident memory and page tables of one: a page of stack, 513 bytes of page table for
/// it, the goroutine, its handle and its timer.
const BYTES_MAX: usize = 4915;
const MAPPINGS_MAX: usize = 1000;

/// When all wake, in milliseconds from `START`. Moved on while goroutines are still being made.
static END: AtomicU64 = AtomicU64::new(5_000);
static START: OnceLock<Instant> = OnceLock::new();
static ASLEEP: AtomicUsize = AtomicUsize::new(0);

fn start() -> Instant {
    *START.get_or_init(Instant::now)
}

fn end() -> Instant {
    start() + Duration::from_millis(END.load(SeqCst))
}

/// Moves the end on.
fn put_off() {
    if end() < Instant::now() + Duration::from_secs(5) {
        END.fetch_add(5_000, SeqCst);
    }
}

fn sleep() {
    ASLEEP.fetch_add(1, SeqCst);
    while Instant::now() < end() {
        gopark::sleep_until(end());
    }
}

/// Resident bytes and bytes of page tables.
fn memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let kib = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<usize>()
            .unwrap()
    };
    (kib("VmRSS:") + kib("VmPTE:")) * 1024
}

fn main() {
    let count: usize = std::env::args().nth(1).map_or(1_000_000, |count| {
        count.parse().expect("a number of goroutines")
    });
    gopark::run(move || {
        let mut goroutines = Vec::with_capacity(count);
        let before = memory();
        let started = start();
        for i in 0..count {
            goroutines.push(gopark::go(sleep));
            if i % 1000 == 0 {
                gopark::yield_now();
                put_off();
            }
        }
        until("all sleep", || {
            put_off();
            ASLEEP.load(SeqCst) == count
        });
        let spawned = started.elapsed();
        let each = (memory() - before) / count;
        let mappings = fs::read_to_string("/proc/self/maps")
            .unwrap()
            .lines()
            .count();
        let alive = gopark::num_goroutines();
        assert!(Instant::now() < end(), "they woke before all were counted");

        gopark::sleep_until(end());
        let waking = Instant::now();
        goroutines.into_iter().for_each(join);
        println!(
            "{count} goroutines asleep after {spawned:.1?}: \
             {each} B each, resident and page tables; \
             {mappings} mappings"
        );
        println!(
            "all woken and joined {:.1?} after the end of their sleep",
            waking.elapsed()
        );
        assert_eq!((alive, gopark::num_goroutines()), (count + 1, 1));
        assert!(each <= BYTES_MAX, "{each} B each are more than {BYTES_MAX}");
        assert!(
            mappings < MAPPINGS_MAX,
            "{mappings} mappings are not fewer than {MAPPINGS_MAX}"
        );
    });
}
