//! The scheduler on a simulated computer: real goroutines, poll descriptors, timers and `Fd`s on threads, a clock and a kernel that a seed
//! decides about. A run that fails prints its seed, and `GOPARK_SEED=… cargo test --package gopark-tests --test simulation NAME` repeats it
//! with all its steps printed. `ci/simulation.sh` runs many seeds.
//!
//! Threads take turns where they call the system, and under `--cfg steps` also where they touch an atomic of core (`core/src/steps.rs`).
//!
//! | file | holds |
//! |---|---|
//! | `machine` | threads, turns, time |
//! | `kernel` | descriptors, packets, readiness |
//! | `system` | the two contracts of a port: `Os` and `Netpoll` |
//! | `program` | what goroutines and threads do |
//! | `oracle` | what must hold |
//! | `scenarios` | bugs that others had |
#![allow(
    unsafe_code,
    reason = "the simulated system promises what a real one does, and its threads are coroutines"
)]

#[path = "simulation/kernel.rs"]
mod kernel;
#[path = "simulation/machine.rs"]
mod machine;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/program.rs"]
mod program;
#[path = "simulation/scenarios.rs"]
mod scenarios;
#[path = "simulation/system.rs"]
mod system;

use gopark_core::os::{Errno, Netpoll};
use gopark_core::sched::{Config, Monitor, Sched};
use machine::{Odds, Verdict, World, seed_under_way};
use oracle::Doing;
use program::Actor;
use std::ops::Range;
use std::panic;
use std::sync::Once;
use system::{SYSTEM, SimPoller};

/// Stacks for a program and its messages when it fails.
const STACK_SIZE: usize = 64 * 1024;

/// What a build that repeats a failure needs besides its seed.
const REPEAT: &str = if cfg!(steps) {
    "RUSTFLAGS='--cfg steps' "
} else {
    ""
};

/// How a scheduler is arranged.
#[derive(Clone, Copy, Debug)]
struct Arrangement {
    procs: usize,
    pollers: usize,
    migrate: bool,
    level: bool,
}

impl Arrangement {
    fn draw(world: &World) -> Self {
        let procs = 1 + world.dice.below(4) as usize;
        let pollers =
            [1, procs, 1 + world.dice.below(procs as u64) as usize][world.dice.below(3) as usize];
        Arrangement {
            procs,
            pollers,
            migrate: world.dice.below(2) == 0,
            level: world.dice.below(3) == 0,
        }
    }
}

fn start(world: &World, arrangement: Arrangement) {
    let Arrangement {
        procs,
        pollers,
        migrate,
        level,
    } = arrangement;
    world.kernel.borrow_mut().level = level;
    let (max_threads, sysmon) = (
        procs + world.dice.below(4) as usize,
        (world.dice.below(2) == 0).then(Monitor::new),
    );
    let config = Config {
        pollers,
        stack_size: STACK_SIZE,
        migrate,
        max_threads,
        sysmon,
        ..Config::new(procs)
    };
    let poller = || -> Result<Box<dyn Netpoll>, Errno> { Ok(Box::new(SimPoller::init()?)) };
    // SAFETY: all threads of a run are one real thread, so nothing is bound to another.
    let sched = unsafe { Sched::start(&SYSTEM, config, poller) }.expect("nothing is refused");
    world
        .sched
        .set(sched)
        .unwrap_or_else(|_| unreachable!("once for each world"));
}

/// What kind of runs to make of the seeds.
#[derive(Clone, Copy)]
struct Runs {
    /// Changes the odds drawn.
    odds: fn(&mut Odds),
    /// Drawn, if `None`.
    arrangement: Option<Arrangement>,
    /// What happens.
    main: fn(Actor),
}

/// Runs what `main` does on a computer of its own.
fn simulate(seed: u64, logging: bool, runs: Runs) -> Verdict {
    announce_seed_of_panics();
    let world = World::install(seed, runs.odds, logging);
    let arrangement = runs.arrangement.unwrap_or_else(|| Arrangement::draw(world));
    start(world, arrangement);
    let as_goroutine = world.dice.below(2) == 0;
    Actor::thread(move |actor| {
        if as_goroutine {
            actor.join(Actor::go(runs.main));
        } else {
            (runs.main)(actor);
        }
    });
    let all_done = || {
        world
            .oracle
            .borrow()
            .actors
            .iter()
            .all(|&doing| doing == Doing::Done)
    };
    let ended = world.run(all_done, |next| {
        if !world.is_disturbed() {
            let verdict = world.oracle.borrow().at_rest(world, next);
            if let Err(why) = verdict {
                world.fail(why);
            }
        }
    });
    if !world.failed() {
        judge_the_end(world, ended);
    }
    world.remove()
}

fn judge_the_end(world: &World, ended: bool) {
    let (numbers, watched) = (
        world.kernel.borrow().open_numbers(),
        world.kernel.borrow().watched(),
    );
    if !ended {
        let oracle = world.oracle.borrow();
        let left: Vec<_> = oracle
            .actors
            .iter()
            .enumerate()
            .filter(|(_, doing)| **doing != Doing::Done)
            .collect();
        world.fail(format!(
            "lost wake-up: nothing will happen any more, and these have not ended: {left:?}"
        ));
    } else if (numbers, watched) != (0, 0) {
        world.fail(format!(
            "{numbers} descriptors and {watched} watches are left"
        ));
    }
}

/// A panic in a goroutine or on an M ends the process: the seed has to be told before.
fn announce_seed_of_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[cfg(steps)]
        gopark_core::steps::set(World::touch);
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

/// What many runs came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    steps: u64,
    seconds: f64,
}

/// Runs each seed twice; or, with `GOPARK_SEED`, that one, and prints its steps.
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
            "simulation: seed {seed} does not repeat itself"
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

/// `GOPARK_SEEDS` of them, from `GOPARK_FIRST_SEED` on.
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
