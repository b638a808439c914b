//! Those that take part in a behaviour: goroutines or ordinary threads.
#![allow(dead_code, reason = "each suite uses a part")]

use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// A behaviour that takes longer counts as hung.
const LIMIT: Duration = Duration::from_secs(120);

/// A wait with this limit ends before it, unless the machine is stuck.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// The limit of a wait that is to fail.
pub(crate) const SHORT: Duration = Duration::from_millis(3);

pub(crate) enum Actor<T> {
    Goroutine(gopark::JoinHandle<T>),
    Thread(thread::JoinHandle<T>),
}

impl<T: Send + 'static> Actor<T> {
    pub(crate) fn goroutine(f: impl FnOnce() -> T + Send + 'static) -> Self {
        Actor::Goroutine(gopark::go(f))
    }

    pub(crate) fn thread(f: impl FnOnce() -> T + Send + 'static) -> Self {
        Actor::Thread(thread::spawn(f))
    }

    pub(crate) fn result(self) -> thread::Result<T> {
        // A join of `std` would block the thread of a goroutine.
        until("the end of an actor", || self.is_finished());
        match self {
            Actor::Goroutine(goroutine) => goroutine.join(),
            Actor::Thread(thread) => thread.join(),
        }
    }

    #[track_caller]
    pub(crate) fn join(self) -> T {
        self.result()
            .unwrap_or_else(|panic| panic::resume_unwind(panic))
    }

    pub(crate) fn is_finished(&self) -> bool {
        match self {
            Actor::Goroutine(goroutine) => goroutine.is_finished(),
            Actor::Thread(thread) => thread.is_finished(),
        }
    }
}

#[track_caller]
pub(crate) fn in_goroutine(
    settings: impl FnOnce() -> gopark::Builder,
    behaviour: impl FnOnce() + Send + 'static,
) {
    static START: Once = Once::new();
    START.call_once(|| settings().start().expect("the runtime starts"));
    finish(|f| drop(gopark::go(f)), behaviour);
}

#[track_caller]
pub(crate) fn on_thread(behaviour: impl FnOnce() + Send + 'static) {
    finish(|f| drop(thread::spawn(f)), behaviour);
}

#[track_caller]
fn finish(start: impl FnOnce(Box<dyn FnOnce() + Send>), behaviour: impl FnOnce() + Send + 'static) {
    let (done, outcome) = mpsc::channel();
    start(Box::new(move || {
        _ = done.send(panic::catch_unwind(AssertUnwindSafe(behaviour)));
    }));
    match outcome.recv_timeout(LIMIT) {
        Ok(Ok(())) => {}
        Ok(Err(payload)) => panic::resume_unwind(payload),
        Err(_) => panic!("hung: it has not come to an end in {LIMIT:?}"),
    }
}

/// Waits until `condition` holds, where there is nothing to block on.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    for attempt in 0.. {
        if condition() {
            return;
        }
        assert!(start.elapsed() < LIMIT / 2, "still waiting: {what}");
        match attempt {
            ..100 => gopark::yield_now(),
            _ => gopark::sleep(Duration::from_micros(100)),
        }
    }
}

/// A flag that one sets and others wait for.
#[derive(Default)]
pub(crate) struct Flag(AtomicBool);

impl Flag {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    #[track_caller]
    pub(crate) fn wait(&self) {
        until("a flag", || self.is_set());
    }
}

/// Ends the caller by a panic whose message no hook prints.
pub(crate) fn quiet_panic() -> ! {
    panic::resume_unwind(Box::new("on purpose"))
}

/// Pseudo-random numbers: xorshift.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
