//! The scheduler on a simulated computer: real goroutines, poll descriptors, timers and `Fd`s on
//! threads, a clock and a kernel whose behaviour a seed determines. A run that fails prints its
//! seed, and `GOPARK_SEED=… cargo test --package gopark-tests --test simulation NAME` repeats it
//! and prints its steps. `ci/simulation.sh` runs many seeds.
//!
//! Threads are switched at system calls, and under `--cfg steps` also where they access an atomic
//! of core (`core/src/steps.rs`). Then the programs need a process of their own: whether any
//! goroutine is cancelled is known for the whole process, and decides which atomics are accessed.
//!
//! | file | holds |
//! |---|---|
//! | `computer` | threads, turns, time |
//! | `kernel` | descriptors, packets, readiness |
//! | `os` | the two contracts of a port: `Os` and `Netpoll` |
//! | `program` | what goroutines and threads do |
//! | `sharing`, `mixes`, `locks` | what they do with channels, selects, alarms and locks |
//! | `futexes` | what they do with locks of the kind that `std` has |
//! | `cancels` | in which cancels they do it, and in which shields |
//! | `oracle`, `ledger` | what must hold |
//! | `scenarios` | bugs of other runtimes |
//!
//! Not under ThreadSanitizer: the simulation switches one thread between stacks that the sanitizer
//! does not know.
#![cfg(not(gopark_sanitize = "thread"))]
#![allow(
    unsafe_code,
    reason = "the simulated system promises what a real one does, and its threads are coroutines"
)]

#[path = "simulation/cancels.rs"]
mod cancels;
#[path = "simulation/computer.rs"]
mod computer;
#[path = "simulation/futexes.rs"]
mod futexes;
#[path = "simulation/kernel.rs"]
mod kernel;
#[path = "simulation/ledger.rs"]
mod ledger;
#[path = "simulation/locks.rs"]
mod locks;
#[path = "simulation/mixes.rs"]
mod mixes;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/os.rs"]
mod os;
#[path = "simulation/program.rs"]
mod program;
#[path = "simulation/scenarios.rs"]
mod scenarios;
#[path = "simulation/sharing.rs"]
mod sharing;

use computer::{Computer, Odds, Verdict, seed_under_way};
use gopark_core::os::{Errno, Netpoll};
use gopark_core::sched::{Config, Monitor, Sched};
use oracle::Activity;
use os::{SimulatedOs, SimulatedPoller};
use program::Actor;
use std::ops::Range;
use std::panic;
use std::sync::Once;

/// Bytes of each stack: room for a program and for its panic messages.
const STACK_SIZE: usize = 64 * 1024;

/// What a command that repeats a failure needs besides the seed.
const REPEAT: &str = if cfg!(steps) {
    "RUSTFLAGS='--cfg steps' "
} else {
    ""
};

/// The configuration of a scheduler.
#[derive(Clone, Copy, Debug)]
struct Arrangement {
    procs: usize,
    pollers: usize,
    migrate: bool,
    level: bool,
}

impl Arrangement {
    fn draw(computer: &Computer) -> Self {
        let procs = 1 + computer.dice.below(4) as usize;
        let pollers = [1, procs, 1 + computer.dice.below(procs as u64) as usize]
            [computer.dice.below(3) as usize];
        Arrangement {
            procs,
            pollers,
            migrate: computer.dice.below(2) == 0,
            level: computer.dice.below(3) == 0,
        }
    }
}

fn start(computer: &Computer, arrangement: Arrangement) {
    let Arrangement {
        procs,
        pollers,
        migrate,
        level,
    } = arrangement;
    computer.kernel.borrow_mut().level = level;
    let (max_threads, sysmon) = (
        procs + computer.dice.below(4) as usize,
        (computer.dice.below(2) == 0).then(Monitor::new),
    );
    let config = Config {
        pollers,
        stack_size: STACK_SIZE,
        migrate,
        max_threads,
        sysmon,
        rescue: Some(futexes::rescue),
        thread_member: Computer::member,
        ..Config::new(procs)
    };
    let poller = || -> Result<Box<dyn Netpoll>, Errno> { Ok(Box::new(SimulatedPoller::init()?)) };
    // SAFETY: one real thread runs all threads of a run, so a goroutine that migrates stays on it.
    let sched =
        unsafe { Sched::start(&SimulatedOs, config, poller) }.expect("the kernel refuses no start");
    computer
        .sched
        .set(sched)
        .unwrap_or_else(|_| unreachable!("set once for each computer"));
}

/// How to run a range of seeds.
#[derive(Clone, Copy)]
struct Runs {
    /// Changes the odds that were drawn.
    odds: fn(&mut Odds),
    /// Drawn if `None`.
    arrangement: Option<Arrangement>,
    /// The program.
    main: fn(Actor),
}

/// Runs `main` on a new computer.
fn simulate(seed: u64, logging: bool, runs: Runs) -> Verdict {
    announce_seed_of_panics();
    let computer = Computer::install(seed, runs.odds, logging);
    let arrangement = runs
        .arrangement
        .unwrap_or_else(|| Arrangement::draw(computer));
    start(computer, arrangement);
    let as_goroutine = computer.dice.below(2) == 0;
    Actor::thread(move |actor| {
        if as_goroutine {
            actor.join(Actor::go(runs.main));
        } else {
            (runs.main)(actor);
        }
    });
    let all_done = || {
        computer
            .oracle
            .borrow()
            .actors
            .iter()
            .all(|&doing| doing == Activity::Done)
    };
    let ended = computer.run(all_done, |next| {
        if !computer.has_stalled_thread() {
            let verdict = computer.oracle.borrow().at_rest(computer, next);
            if let Err(why) = verdict {
                computer.fail(why);
            }
        }
    });
    if !computer.failed() {
        check_end(computer, ended);
    }
    computer.remove()
}

fn check_end(computer: &Computer, ended: bool) {
    let (numbers, watched) = (
        computer.kernel.borrow().open_numbers(),
        computer.kernel.borrow().watched(),
    );
    if !ended {
        let oracle = computer.oracle.borrow();
        let left: Vec<_> = oracle
            .actors
            .iter()
            .enumerate()
            .filter(|(_, doing)| **doing != Activity::Done)
            .collect();
        computer.fail(format!(
            "lost wake-up: no thread can ever run again, and these actors have not ended: {left:?}"
        ));
    } else if (numbers, watched) != (0, 0) {
        computer.fail(format!(
            "{numbers} descriptors are open and {watched} are watched at the end"
        ));
    } else if let Err(why) = computer.oracle.borrow().ledger.at_end() {
        computer.fail(why);
    }
}

/// A panic in a goroutine or on an M aborts the process: a hook prints the seed before.
fn announce_seed_of_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[cfg(steps)]
        gopark_core::steps::set(Computer::touch);
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if let Some(seed) = seed_under_way() {
                eprintln!(
                    "simulation: seed {seed} failed: a panic; {REPEAT}GOPARK_SEED={seed} repeats it"
                );
            }
            before(info);
        }));
    });
}

/// Totals of many runs.
#[derive(Default)]
struct Sum {
    seeds: u64,
    steps: u64,
    seconds: f64,
}

/// Runs each seed twice and compares both runs. With `GOPARK_SEED`, runs that seed once and prints
/// its steps.
fn explore(seeds: Range<u64>, runs: Runs) -> Sum {
    if let Some(seed) = number("GOPARK_SEED") {
        let verdict = simulate(seed, true, runs);
        verdict.log.iter().for_each(|line| println!("{line}"));
        assert_eq!(verdict.failure, None, "seed {seed}");
        return Sum::default();
    }
    let mut sum = Sum::default();
    for seed in seeds {
        let [first, second] = [0; 2].map(|_| simulate(seed, false, runs));
        if let Some(why) = first.failure {
            panic!("simulation: seed {seed} failed: {why}; {REPEAT}GOPARK_SEED={seed} repeats it");
        }
        assert_eq!(
            first.trace, second.trace,
            "simulation: seed {seed} is not deterministic: its two runs differ"
        );
        sum.seeds += 1;
        sum.steps += first.steps + second.steps;
        sum.seconds += (first.time + second.time) as f64 / 1e9;
    }
    sum
}

/// The number in an environment variable.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}: {text:?} is not a number")),
    )
}

/// Runs `GOPARK_SEEDS` programs, from `GOPARK_FIRST_SEED` on.
#[test]
fn programs_keep_all_rules() {
    let first = number("GOPARK_FIRST_SEED").unwrap_or(0);
    let seeds = number("GOPARK_SEEDS").unwrap_or(1000);
    let sum = explore(
        first..first + seeds,
        Runs {
            odds: |_| (),
            arrangement: None,
            main: program::play,
        },
    );
    println!(
        "simulation: {} seeds, {} steps, {:.0} simulated seconds",
        sum.seeds, sum.steps, sum.seconds
    );
}
