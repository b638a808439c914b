//! Figures of the runtime, and the lines of `GOPARK_SCHEDTRACE`.

use crate::environment;
use crate::runtime::{LINUX, sched};
use gopark_core::metrics::Metrics;
use gopark_core::os::Nanos;
use std::io::{self, ErrorKind};

/// What the runtime has done and is doing. Starts it if it is not running.
///
/// Counting goes on all the time and costs a few instructions for each turn of a goroutine. Reading stops nobody, and takes up to a millisecond
/// where there are many stacks, for [`Metrics::stack_bytes`]. The example `metrics.rs` exports all of it to Prometheus.
///
/// For a look at a program that does not export anything, set `GOPARK_SCHEDTRACE=1000` in its environment: every 1000 ms it prints the line of
/// Go's `GODEBUG=schedtrace=1000` to standard error.
///
/// ```
/// gopark::run(|| {
///     let before = gopark::metrics();
///     gopark::go(|| gopark::yield_now()).join().unwrap();
///     let after = gopark::metrics();
///     assert_eq!(after.goroutines_created, before.goroutines_created + 1);
///     assert_eq!(after.goroutines_running, 1);
/// });
/// ```
#[doc(alias = "runtime/metrics")]
#[track_caller]
pub fn metrics() -> Metrics {
    sched().metrics(&LINUX)
}

const SCHEDTRACE: &str = "GOPARK_SCHEDTRACE";

/// How often a line is to be printed, according to the environment. As in Go, 0 is the same as no value.
pub(crate) fn schedtrace(sysmon: bool) -> io::Result<Option<Nanos>> {
    let Some(value) = environment::nonempty(SCHEDTRACE) else {
        return Ok(None);
    };
    match value.to_str().and_then(|text| text.parse::<u32>().ok()) {
        None => Err(environment::invalid(
            SCHEDTRACE,
            &value,
            "a number of milliseconds",
        )),
        Some(0) => Ok(None),
        Some(_) if !sysmon => {
            let text = format!(
                "{SCHEDTRACE}: sysmon prints its lines, and Builder::sysmon(false) turns that off"
            );
            Err(io::Error::new(ErrorKind::InvalidInput, text))
        }
        Some(millis) => Ok(Some(Nanos::from(millis) * 1_000_000)),
    }
}
