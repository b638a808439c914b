//! What a program can ask of the runtime.

use crate::builder::sched;
use crate::dump::write;
use crate::leak;
use crate::runtime::LINUX;
use gopark_core::metrics::Metrics;
use std::io::{self, Write};

/// Writes the state of every goroutine to `out`: number, name, state, what it waits for and since
/// when, where it was spawned, and its backtrace.
///
/// The text resembles Go's, is meant for people, and may change between versions. The first line
/// names the poller in use:
///
/// ```text
/// gopark: 2 procs, poller epoll, 1 thread waits in gopark
///
/// goroutine 7 "importer" [IO wait, 12s, fd 5 read]:
///     gopark::net::tcp_stream::TcpStream::read
///         …
/// created at src/main.rs:20:5
/// ```
///
/// A goroutine that is cancelled says by what: `cancelled by goroutine 3 at src/main.rs:7:5`, `by a
/// thread at …`, `by its deadline`, or `by the failure of goroutine 5` in a
/// [`scope`](crate::scope()). `cancelled with its parent by …` names what has cancelled the
/// outermost parent. `shielded` follows if its operations work all the same, in a
/// [`shield`](crate::shield).
///
/// The last line is `created in a scope at …` for goroutines of [`scope`](crate::scope()),
/// [`try_scope`](crate::try_scope), [`thread::scope`](crate::thread::scope()) and
/// [`run`](crate::run), and `created at …, detached` for those whose handle was dropped.
///
/// The dump stops no goroutine. It shows each as it was when the dump came to it, and a goroutine
/// that runs on another thread without its backtrace. It works even if goroutines keep all threads
/// busy. [`Builder::dump_on`](crate::Builder::dump_on) makes the same dump when a signal comes.
///
/// Backtraces need the feature `backtrace`, which is on by default, and x86-64 or aarch64. They
/// have names if the program has symbols, and inlined functions, files and lines if it has debug
/// information (`debug = "line-tables-only"` in the profile is enough). The functions with which
/// gopark parks are omitted.
///
/// A goroutine that is ready but whose thread is kept busy by another goroutine says so:
/// `[runnable, 2s, its thread is kept by goroutine 2 "logger" in futex]`. Goroutines that have yet
/// to start on such a thread are only counted.
///
/// Times are exact to a millisecond. Without [`sysmon`](crate::Builder::sysmon) there are none.
///
/// # Errors
///
/// The first error of `out`, or that of the system if it refuses the thread that makes the dump.
///
/// # Panics
///
/// If the runtime is not running and cannot be started.
///
/// ```
/// gopark::run(|| {
///     let sleeper = gopark::go(|| {
///         gopark::set_name("sleeper");
///         gopark::sleep(std::time::Duration::from_millis(50));
///     });
///     gopark::yield_now();
///     let mut text = Vec::new();
///     gopark::dump(&mut text).unwrap();
///     assert!(String::from_utf8(text).unwrap().contains("goroutine"));
///     sleeper.join().unwrap();
/// });
/// ```
#[doc(alias = "Stack")]
#[doc(alias = "pprof")]
#[track_caller]
pub fn dump(out: &mut impl Write) -> io::Result<()> {
    write(sched(), out)
}

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
    let mut metrics = sched().metrics(&LINUX);
    leak::count(&mut metrics);
    metrics
}
