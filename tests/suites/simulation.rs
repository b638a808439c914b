//! The scheduler on a simulated computer: real goroutines, poll descriptors, timers and `Fd`s on threads, a clock and a kernel that a seed
//! decides about. A run that fails prints its seed, and `GOPARK_SEED=… cargo test --package gopark-tests --test simulation replay` repeats
//! it, step by step.
//!
//! | file | holds |
//! |---|---|
//! | `machine` | threads, turns, time |
//! | `kernel` | descriptors, packets, readiness |
//! | `system` | the two contracts of a port: `Os` and `Netpoll` |
//! | `program` | what goroutines and threads do |
//! | `oracle` | what must hold |
//! | `scenarios` | bugs that others had |
#![allow(unsafe_code, reason = "the simulated system promises what a real one does, and its threads are coroutines")]

#[path = "simulation/kernel.rs"]
mod kernel;
#[path = "simulation/machine.rs"]
mod machine;
#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/program.rs"]
mod program;
#[path = "simulation/system.rs"]
mod system;

use gopark_core::os::{Errno, Netpoll};
use gopark_core::sched::{Config, Sched};
use machine::{Odds, Verdict, World, seed_under_way};
use oracle::Doing;
use program::Actor;
use std::panic;
use std::sync::Once;
use system::{SYSTEM, SimPoller};

/// Stacks for a program and its messages when it fails.
const STACK_SIZE: usize = 64 * 1024;

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
        let pollers = [1, procs, 1 + world.dice.below(procs as u64) as usize][world.dice.below(3) as usize];
        Arrangement { procs, pollers, migrate: world.dice.below(2) == 0, level: world.dice.below(3) == 0 }
    }
}

fn start(world: &World, arrangement: Arrangement) {
    let Arrangement { procs, pollers, migrate, level } = arrangement;
    world.kernel.borrow_mut().level = level;
    let config = Config { procs, pollers, stack_size: STACK_SIZE, migrate };
    let poller = || -> Result<Box<dyn Netpoll>, Errno> { Ok(Box::new(SimPoller::init()?)) };
    // SAFETY: all threads of a run are one real thread, so nothing is bound to another.
    let sched = unsafe { Sched::start(&SYSTEM, config, poller) }.expect("nothing is refused");
    world.sched.set(sched).unwrap_or_else(|_| unreachable!("once for each world"));
}

/// Runs what `main` does on a computer of its own.
fn simulate(seed: u64, logging: bool, odds: Option<Odds>, arrangement: Option<Arrangement>, main: fn(Actor)) -> Verdict {
    announce_seed_of_panics();
    let world = World::install(seed, odds, logging);
    let arrangement = arrangement.unwrap_or_else(|| Arrangement::draw(world));
    start(world, arrangement);
    let as_goroutine = world.dice.below(2) == 0;
    Actor::thread(move |actor| {
        if as_goroutine {
            actor.join(Actor::go(main));
        } else {
            main(actor);
        }
    });
    let all_done = || world.oracle.borrow().actors.iter().all(|&doing| doing == Doing::Done);
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
    let (numbers, watched) = (world.kernel.borrow().open_numbers(), world.kernel.borrow().watched());
    if !ended {
        let oracle = world.oracle.borrow();
        let left: Vec<_> = oracle.actors.iter().enumerate().filter(|(_, doing)| **doing != Doing::Done).collect();
        world.fail(format!("lost wake-up: nothing will happen any more, and these have not ended: {left:?}"));
    } else if (numbers, watched) != (0, 0) {
        world.fail(format!("{numbers} descriptors and {watched} watches are left"));
    }
}

/// A panic in a goroutine or on an M ends the process: the seed has to be told before.
fn announce_seed_of_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if let Some(seed) = seed_under_way() {
                eprintln!("simulation: seed {seed} failed: a panic; GOPARK_SEED={seed} repeats it");
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

/// Runs each seed twice.
fn check(seeds: std::ops::Range<u64>) -> Sum {
    let mut sum = Sum::default();
    for seed in seeds {
        let [first, second] = [0; 2].map(|_| simulate(seed, false, None, None, program::play));
        if let Some(why) = first.failure {
            panic!("simulation: seed {seed} failed: {why}; GOPARK_SEED={seed} repeats it");
        }
        assert_eq!(first.trace, second.trace, "simulation: seed {seed} does not repeat itself");
        sum.seeds += 1;
        sum.steps += first.steps + second.steps;
        sum.seconds += (first.time + second.time) as f64 / 1e9;
    }
    sum
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: {text:?} is not a number")))
}

/// `GOPARK_SEEDS` of them, from `GOPARK_FIRST_SEED` on.
#[test]
fn programs_of_many_seeds_keep_all_rules() {
    let first = number("GOPARK_FIRST_SEED", 0);
    let sum = check(first..first + number("GOPARK_SEEDS", 1000));
    println!("simulation: {} seeds, {} steps, {:.0} simulated seconds", sum.seeds, sum.steps, sum.seconds);
}

/// The run of `GOPARK_SEED`, with its steps printed.
#[test]
fn replay() {
    let Ok(seed) = std::env::var("GOPARK_SEED") else { return };
    let verdict = simulate(seed.parse().expect("GOPARK_SEED is a number"), true, None, None, program::play);
    verdict.log.iter().for_each(|line| println!("{line}"));
    println!("trace {:x}, {} steps", verdict.trace, verdict.steps);
    assert_eq!(verdict.failure, None);
}
