//! A program whose allocator has a Mutex of `std`. Goroutines park in it, also where gopark itself
//! allocates. `suites/std_locks.rs` runs it: `park` or `rescue`, the number of procs, and of
//! rounds.
#![allow(unsafe_code, reason = "an allocator")]

use gopark::sync::Cancel;
use gopark::{Builder, StdLocks, chan, go, scope, set_name, sleep, with_timeout, yield_now};
use gopark_core::watch::{State, Wait};
use gopark_tests::{Dice, join};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

struct Locked {
    mutex: Mutex<()>,
    calls: AtomicU32,
    /// How many microseconds the Mutex is held in one of so many calls.
    held: AtomicU32,
}

/// One of so many calls holds the Mutex for longer.
const SLOW: u32 = 50;

#[global_allocator]
static ALLOCATOR: Locked = Locked {
    mutex: Mutex::new(()),
    calls: AtomicU32::new(0),
    held: AtomicU32::new(0),
};

impl Locked {
    fn enter(&self) -> MutexGuard<'_, ()> {
        let guard = self.mutex.lock().unwrap_or_else(PoisonError::into_inner);
        if self.calls.fetch_add(1, SeqCst) % SLOW == 0 {
            match self.held.load(SeqCst) {
                0 => thread::yield_now(),
                micros => thread::sleep(Duration::from_micros(micros.into())),
            }
        }
        guard
    }
}

// SAFETY: `System` does the work.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _guard = self.enter();
        // SAFETY: the contract of the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let _guard = self.enter();
        // SAFETY: the contract of the caller.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _guard = self.enter();
        // SAFETY: the contract of the caller.
        unsafe { System.realloc(memory, layout, size) }
    }
}

const GOROUTINES: u64 = 40;

fn main() {
    let mut words = std::env::args().skip(1);
    let mut word = || words.next().expect("park or rescue, procs, rounds");
    let locks = match word().as_str() {
        "park" => StdLocks::Park,
        "rescue" => StdLocks::Rescue,
        other => panic!("there is no setting {other}"),
    };
    let procs = word().parse().expect("a number of procs");
    let rounds: u32 = word().parse().expect("a number of rounds");
    let builder = Builder::new().max_procs(procs).std_locks(locks);
    builder.start().expect("the runtime starts");
    let (over, parked) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|s| {
        s.spawn(|| count_parked(&over, &parked));
        run(0, rounds);
        run(20, rounds);
        run(2_000, rounds.div_ceil(20));
        // A goroutine finds the Mutex held only if the system runs threads in that order.
        while parked.load(SeqCst) == 0 {
            run(2_000, 1);
        }
        over.store(true, SeqCst);
    });
    let rescues = gopark::metrics().rescues;
    println!("done, {rescues} rescues, {parked:?} seen parked");
}

fn run(held: u32, rounds: u32) {
    ALLOCATOR.held.store(held, SeqCst);
    let workers: Vec<_> = (0..GOROUTINES)
        .map(|seed| go(move || work(seed, rounds)))
        .collect();
    workers.into_iter().for_each(join);
}

/// Counts how often a look finds a goroutine that is parked in a lock of `std`.
fn count_parked(over: &AtomicBool, parked: &AtomicUsize) {
    while !over.load(SeqCst) {
        gopark::scheduler().snapshot(None, |it| {
            let in_lock = |state: &State| {
                matches!(
                    state,
                    State::Waiting {
                        wait: Wait::StdLock(_),
                        ..
                    }
                )
            };
            parked.fetch_add(usize::from(in_lock(&it.state)), SeqCst);
        });
        thread::sleep(Duration::from_micros(200));
    }
}

fn work(seed: u64, rounds: u32) {
    let dice = Dice::new(seed);
    let (sender, receiver) = chan::bounded(2);
    for round in 0..rounds {
        match dice.below(8) {
            0 => sleep(Duration::from_micros(dice.below(100))),
            1 => {
                let (sender, receiver) = (sender.clone(), receiver.clone());
                let other = go(move || sender.send(vec![round; 9]).unwrap());
                assert_eq!(receiver.recv().unwrap(), [round; 9]);
                join(other);
            }
            2 => cancel_a_tree(&dice),
            3 => assert_eq!(join(go(move || format!("{round}"))), round.to_string()),
            4 => assert_eq!(gopark::blocking(|| vec![round; 20]).len(), 20),
            5 => set_name(&format!("worker {seed} in round {round}")),
            6 => {
                let limit = Duration::from_micros(dice.below(200));
                _ = with_timeout(limit, || sleep(Duration::from_micros(100)));
            }
            _ => scope(|s| {
                let both = [s.go(yield_now), s.go(|| sleep(Duration::from_micros(20)))];
                both.into_iter()
                    .for_each(|goroutine| goroutine.join().unwrap());
            }),
        }
    }
}

/// Goroutines that are members of the children of a cancel, which another goroutine cancels.
fn cancel_a_tree(dice: &Dice) {
    let root = Cancel::new();
    let members: Vec<_> = (0..1 + dice.below(5))
        .map(|_| {
            let child = root.child();
            go(move || child.run(|| sleep(Duration::from_secs(3600))))
        })
        .collect();
    if dice.below(2) == 0 {
        yield_now();
    }
    join(go(move || root.cancel()));
    members.into_iter().for_each(join);
}
