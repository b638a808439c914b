//! [`metrics`], and the setting `GOPARK_SCHEDTRACE`.

use crate::environment;
use crate::runtime::{LINUX, sched};
use gopark_core::metrics::Metrics;
use gopark_core::os::Nanos;
use std::io::{self, ErrorKind};

/// Returns counters and gauges of the runtime, those of Go's `runtime/metrics`. Starts the runtime
/// with the defaults if it is not running.
///
/// Counting is always on and costs a few instructions per turn of a goroutine. Reading the metrics
/// stops no goroutine. With many stacks it takes up to a millisecond, for [`Metrics::stack_bytes`].
/// The example `metrics.rs` exports all metrics to Prometheus.
///
/// To observe a program that exports nothing, set `GOPARK_SCHEDTRACE=1000` in its environment:
/// every 1000 ms it prints the line of Go's `GODEBUG=schedtrace=1000` to standard error.
///
/// # Panics
///
/// If the runtime is not running and cannot be started.
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

/// Returns the interval that `GOPARK_SCHEDTRACE` sets. `None` if it is not set or, as in Go, 0.
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
                "{SCHEDTRACE}: sysmon prints these lines, and Builder::sysmon(false) turns it off"
            );
            Err(io::Error::new(ErrorKind::InvalidInput, text))
        }
        Some(millis) => Ok(Some(Nanos::from(millis) * 1_000_000)),
    }
}
