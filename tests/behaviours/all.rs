//! What holds under every arrangement of the runtime. A suite includes this file, starts its
//! runtime in `start` and runs a behaviour in `check`.

mod arms;
#[cfg(feature = "backtrace")]
mod backtraces;
mod cancel;
mod chan;
mod closing;
mod conn;
mod copy;
mod deadlines;
mod descriptor;
mod dialer;
mod dumps;
mod fs;
mod handoff;
mod idle;
mod listen;
mod locals;
mod locks;
mod names;
mod parallel;
mod pipe;
mod process;
mod scheduler;
mod select;
mod serve;
mod signal;
#[cfg(feature = "std-locks")]
mod std_locks;
mod streams;
mod sync;
mod threads;
mod time;
mod timers;
mod udp;
mod unix;

fn check_on_thread(behaviour: impl FnOnce() + Send + 'static) {
    crate::start();
    gopark_tests::on_thread(behaviour);
}
