//! What holds under every arrangement of the runtime. A suite includes this file, starts its
//! runtime in `start` and runs a behaviour in `check`.

#[cfg(feature = "backtrace")]
mod arms;
mod backtraces;
mod chan;
mod closing;
mod deadlines;
mod handoff;
mod parallel;
mod scheduler;
mod select;
mod streams;
mod sync;
mod time;

fn check_on_thread(behaviour: impl FnOnce() + Send + 'static) {
    crate::start();
    gopark_tests::on_thread(behaviour);
}
