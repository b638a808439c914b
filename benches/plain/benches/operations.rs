//! Times the operations that `ci/counts.sh` counts, with one worker and without sysmon.
//!
//! ```text
//! cd benches/plain && cargo bench [-- NAME]
//! ```

use criterion::Criterion;
use plain::{OPERATIONS, Operation, start};
use std::time::{Duration, Instant};

/// The operations are done by the thousand.
const UNIT: u64 = 1000;

fn time(f: fn(usize), iterations: u64) -> Duration {
    let count = iterations.next_multiple_of(UNIT);
    let begin = Instant::now();
    gopark::run(|| f(count as usize));
    begin.elapsed().mul_f64(iterations as f64 / count as f64)
}

fn main() {
    start();
    let criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2));
    let mut criterion = criterion.configure_from_args();
    for Operation(name, _, f) in OPERATIONS {
        criterion.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| time(f, iterations));
        });
    }
    criterion.final_summary();
}
