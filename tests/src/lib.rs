//! What the suites share: a limit for every wait, random numbers, and child processes.

pub mod control;
pub mod faults;
pub mod process;
pub mod readiness;
pub mod sockets;
pub mod std_locks;
pub mod turns;
pub mod watch;

use gopark::{Builder, Poller};
use std::cell::RefCell;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Once, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

/// A behaviour that takes longer counts as hung. The slowest takes a few seconds on two busy CPUs,
/// and up to ten times as long under a sanitizer.
pub const LIMIT: Duration = Duration::from_secs(
    if cfg!(any(gopark_sanitize = "thread", gopark_sanitize = "address")) {
        300
    } else {
        120
    },
);

/// Starts the runtime of this process, unless it runs already. `GOPARK_TEST_POLLERS` overrides the
/// number of pollers: `ci/backends.sh` sets it.
pub fn start(settings: Builder) {
    static START: Once = Once::new();
    START.call_once(|| {
        let settings = match std::env::var("GOPARK_TEST_POLLERS") {
            Ok(pollers) => {
                settings.pollers(pollers.parse().expect("GOPARK_TEST_POLLERS is a number"))
            }
            Err(_) => settings,
        };
        settings.start().expect("the runtime starts")
    });
}

/// The rounds of a long test: `most`, or less if `GOPARK_TEST_ROUNDS` is less. `ci/sanitizers.sh`
/// sets it, because a sanitizer makes each round slower.
pub fn rounds(most: u64) -> u64 {
    std::env::var("GOPARK_TEST_ROUNDS").map_or(most, |rounds| {
        most.min(rounds.parse().expect("GOPARK_TEST_ROUNDS is a number"))
    })
}

/// The poller under test: that of `GOPARK_POLLER`, which runtimes read as well, or else the best
/// one that is compiled in.
pub fn poller() -> Poller {
    match std::env::var("GOPARK_POLLER") {
        Ok(name) => Poller::from_name(&name).expect("GOPARK_POLLER names a poller"),
        Err(_) => Poller::compiled().next().expect("a poller is compiled in"),
    }
}

/// Whether `poller` reports, after `arm`, the present state. The others report changes only.
pub fn reports_levels(poller: Poller) -> bool {
    matches!(poller, Poller::EpollLevel | Poller::Poll)
}

/// Held by every behaviour while it runs: shared, or exclusively by those that need the runtime for
/// themselves.
static RUNNING: RwLock<()> = RwLock::new(());

/// Runs `behaviour` in a goroutine. Fails if it panics or hangs.
#[track_caller]
pub fn in_goroutine(behaviour: impl FnOnce() + Send + 'static) {
    let _shared = RUNNING.read().unwrap_or_else(PoisonError::into_inner);
    spawn_and_finish(behaviour);
}

/// Like [`in_goroutine`], while no other behaviour runs.
#[track_caller]
pub fn alone_in_goroutine(behaviour: impl FnOnce() + Send + 'static) {
    let _exclusive = RUNNING.write().unwrap_or_else(PoisonError::into_inner);
    spawn_and_finish(behaviour);
}

#[track_caller]
fn spawn_and_finish(behaviour: impl FnOnce() + Send + 'static) {
    let (done, outcome) = mpsc::channel();
    let goroutine = gopark::go(move || done.send(panic::catch_unwind(AssertUnwindSafe(behaviour))));
    finish(outcome);
    // The goroutine must have returned before the next test counts goroutines.
    let _ = goroutine.join();
}

/// Runs `behaviour` on an ordinary thread. Fails if it panics or hangs.
#[track_caller]
pub fn on_thread(behaviour: impl FnOnce() + Send + 'static) {
    let _shared = RUNNING.read().unwrap_or_else(PoisonError::into_inner);
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || done.send(panic::catch_unwind(AssertUnwindSafe(behaviour))));
    finish(outcome);
}

#[track_caller]
fn finish(outcome: Receiver<thread::Result<()>>) {
    match outcome.recv_timeout(LIMIT) {
        Ok(Ok(())) => {}
        Ok(Err(payload)) => panic::resume_unwind(payload),
        Err(_) => panic!("hung: it has not come to an end in {LIMIT:?}"),
    }
}

/// Waits until `condition` holds, where there is nothing to block on. In a goroutine it yields, so
/// that others run.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
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

/// Like [`until`], without a runtime.
#[track_caller]
pub fn until_on_thread(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT / 2, "still waiting: {what}");
        thread::yield_now();
    }
}

/// Joins a goroutine. Panics if the goroutine panicked.
#[track_caller]
pub fn join<T>(goroutine: gopark::JoinHandle<T>) -> T {
    goroutine
        .join()
        .unwrap_or_else(|payload| panic::resume_unwind(payload))
}

/// The files behind the open descriptors below `limit`, except those of `/proc`, which sysmon opens
/// now and then.
///
/// It makes none of gopark's system calls, so that no injected fault strikes here.
pub fn open_files(limit: i32) -> Vec<PathBuf> {
    let files = (0..limit).filter_map(|fd| fs::read_link(format!("/proc/self/fd/{fd}")).ok());
    files.filter(|file| !file.starts_with("/proc")).collect()
}

/// The names of this process's threads. A thread that is ending may have none.
pub fn thread_names() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("there is a /proc");
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.map(|name| name.trim_end().into()).collect()
}

/// A random generator that several owners share. Its numbers depend on the seed and on the release
/// of fastrand, which Cargo.lock fixes.
pub struct Dice(RefCell<fastrand::Rng>);

impl Dice {
    /// A generator with this seed.
    pub fn new(seed: u64) -> Self {
        // The numbers of neighbouring seeds resemble each other, and those of their forks do not.
        Dice(RefCell::new(fastrand::Rng::with_seed(seed).fork()))
    }

    /// A number below `limit`.
    pub fn below(&self, limit: u64) -> u64 {
        self.0.borrow_mut().u64(..limit)
    }
}
