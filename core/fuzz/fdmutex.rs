//! FdMutex against the table in the head of `fdmutex.rs`: its word is decoded after each step and compared with plain counters, and who
//! sleeps, who is woken and who destroys with queues.
//!
//! There is one thread. When an operation sleeps, the rest of the program runs inside its sleep, until somebody has woken it: the operations
//! that sleep are nested, and the innermost goes on first.
#![allow(unsafe_code, reason = "the program goes on inside a sleep")]

use super::{
    AfterUse, Closed, FdMutex, MAX, REF, REFS, RLOCK, RWAIT, RWAITS, WLOCK, WWAIT, WWAITS,
};
use crate::fuzz::system::{SYSTEM, System};
use crate::os::{Delay, Errno, Events, Mode, Netpoll};
use crate::polldesc::PollError;
use crate::sched::{Config, Sched};
use crate::stack::MIN_STACK;
use crate::sync::{AtomicU32, Ordering};
use crate::tagptr::TaggedPtr;
use core::cell::Cell;
use core::ptr;
use std::boxed::Box;
use std::collections::VecDeque;
use std::sync::OnceLock;

/// How many operations sleep at the same time, at most.
const SLEEPERS_MAX: usize = 24;

/// A poller that nobody asks for anything.
struct Unused;

// SAFETY: it reports no tokens.
unsafe impl Netpoll for Unused {
    fn init() -> Result<Self, Errno> {
        Ok(Unused)
    }
    fn open(&self, _: i32, _: TaggedPtr) -> Result<(), Errno> {
        Ok(())
    }
    fn close(&self, _: i32) {}
    fn poll(&self, _: Delay, _: &mut Events) {}
    fn wake(&self) {}
}

/// A scheduler without Ms: everybody here is an ordinary thread.
fn sched() -> &'static Sched {
    static SCHED: OnceLock<&'static Sched> = OnceLock::new();
    SCHED.get_or_init(|| {
        let config = Config {
            stack_size: MIN_STACK,
            max_threads: 1,
            sysmon: None,
            ..Config::new(1)
        };
        // SAFETY: no goroutine runs, so none migrates.
        let sched = unsafe { Sched::start(&SYSTEM, config, || Ok(Box::new(Unused))) }
            .expect("nothing is refused");
        // The start has woken the threads that it would have.
        System::take_woken();
        sched
    })
}

struct Driver<'a> {
    mutex: FdMutex,
    steps: Cell<&'a [u8]>,
    model: Cell<Model>,
    /// The words on which operations sleep, by side, in the order of their coming. Who was woken is taken out.
    asleep: [Cell<VecDeque<usize>>; 2],
    /// The side of the operation that sleeps next.
    side: Cell<usize>,
}

#[derive(Clone, Copy, Default)]
struct Model {
    closed: bool,
    locked: [bool; 2],
    /// Users that hold no lock.
    others: u64,
    /// Operations that sleep or are inside their sleep's end.
    sleepers: usize,
    destroyed: bool,
}

std::thread_local! {
    static DRIVER: Cell<*const Driver<'static>> = const { Cell::new(ptr::null()) };
}

const MODES: [Mode; 2] = [Mode::Read, Mode::Write];

/// One byte is one step: what (3 bits), and on which side (1).
pub fn run(input: &[u8]) {
    let driver = Driver {
        mutex: FdMutex::new(),
        steps: Cell::new(input),
        model: Cell::default(),
        asleep: Default::default(),
        side: Cell::new(0),
    };
    DRIVER.set((&raw const driver).cast());
    System::on_sleep(sleep);
    while let Some((&step, rest)) = driver.steps.get().split_first() {
        driver.steps.set(rest);
        driver.step(step);
    }
    driver.finish();
    DRIVER.set(ptr::null());
}

/// An operation sleeps: the program goes on until somebody has woken it.
fn sleep(word: &AtomicU32) {
    // SAFETY: `run` has put it there and is below on this stack.
    let driver = unsafe { &*DRIVER.get() };
    let side = driver.side.get();
    driver.asleep(side, |queue| queue.push_back(ptr::from_ref(word).addr()));
    driver.compare();
    while word.load(Ordering::Relaxed) == 0 {
        match driver.steps.get().split_first() {
            Some((&step, rest)) => {
                driver.steps.set(rest);
                driver.step(step);
            }
            None if driver.model.get().locked[side] => driver.unlock(side),
            // Nobody will unlock: the one who would has been woken, and is further out.
            None => driver.close(),
        }
    }
    driver.side.set(side);
}

impl Driver<'_> {
    fn asleep<T>(&self, side: usize, f: impl FnOnce(&mut VecDeque<usize>) -> T) -> T {
        let mut queue = self.asleep[side].take();
        let result = f(&mut queue);
        self.asleep[side].set(queue);
        result
    }

    fn step(&self, step: u8) {
        let side = usize::from(step >> 3 & 1);
        let Model { others, locked, .. } = self.model.get();
        match step & 7 {
            0 | 1 => self.lock(side),
            2 | 3 if locked[side] => self.unlock(side),
            4 => self.incref(),
            5 if others > 0 => self.decref(),
            6 if step & 0xf0 == 0 => self.close(),
            _ => return,
        }
        self.compare();
    }

    fn update(&self, f: impl FnOnce(&mut Model)) {
        let mut model = self.model.get();
        f(&mut model);
        self.model.set(model);
    }

    fn lock(&self, side: usize) {
        let before = self.model.get();
        if before.sleepers == SLEEPERS_MAX {
            return;
        }
        let sleeps = !before.closed && before.locked[side];
        self.update(|model| model.sleepers += usize::from(sleeps));
        self.side.set(side);
        let outcome = self.mutex.lock(MODES[side], sched());
        self.update(|model| {
            model.sleepers -= usize::from(sleeps);
            match outcome {
                Ok(()) => {
                    assert!(
                        !model.closed && !model.locked[side],
                        "locked although it is closed or locked"
                    );
                    model.locked[side] = true;
                }
                Err(error) => assert!(
                    model.closed && error == PollError::Closing,
                    "refused although it is open"
                ),
            }
        });
    }

    fn unlock(&self, side: usize) {
        System::take_woken();
        let release = self.mutex.unlock(MODES[side], sched());
        self.update(|model| model.locked[side] = false);
        let first = self.asleep(side, VecDeque::pop_front);
        assert_eq!(
            System::take_woken(),
            first.unwrap_or(0),
            "an unlock wakes the first of its side, and nobody else"
        );
        self.released(release);
    }

    fn incref(&self) {
        assert_eq!(self.mutex.incref().is_err(), self.model.get().closed);
        self.update(|model| model.others += u64::from(!model.closed));
    }

    fn decref(&self) {
        let release = self.mutex.decref();
        self.update(|model| model.others -= 1);
        self.released(release);
    }

    fn close(&self) {
        let last = [1, 0]
            .into_iter()
            .find_map(|side| self.asleep(side, |queue| queue.back().copied()));
        System::take_woken();
        let outcome = self.mutex.close(sched());
        assert_eq!(outcome.is_err(), self.model.get().closed);
        if outcome.is_ok() {
            self.update(|model| (model.closed, model.others) = (true, model.others + 1));
            assert_eq!(
                System::take_woken(),
                last.unwrap_or(0),
                "a close wakes the readers, then the writers"
            );
            for side in 0..2 {
                for word in self.asleep(side, core::mem::take) {
                    // SAFETY: the word of a thread that sleeps further out on this stack.
                    assert_eq!(
                        unsafe { &*(word as *const AtomicU32) }.load(Ordering::Relaxed),
                        1,
                        "a close wakes everyone"
                    );
                }
            }
        }
    }

    fn released(&self, after: AfterUse) {
        let Model {
            closed,
            locked,
            others,
            destroyed,
            ..
        } = self.model.get();
        let last = closed && others == 0 && locked == [false; 2];
        assert_eq!(
            after == AfterUse::Destroy,
            last,
            "whether the caller must destroy the descriptor"
        );
        assert!(!(last && destroyed), "destroyed twice");
        self.update(|model| model.destroyed |= last);
    }

    /// The word against the counters.
    fn compare(&self) {
        let word = self.mutex.state.load(Ordering::Relaxed);
        let Model {
            closed,
            locked,
            others,
            ..
        } = self.model.get();
        let count = |mask: u64, one: u64| (word & mask) / one;
        assert_eq!(word & 1 == 1, closed);
        assert_eq!([RLOCK, WLOCK].map(|bit| word & bit != 0), locked);
        assert_eq!(
            count(REFS, REF),
            others + u64::from(locked[0]) + u64::from(locked[1]),
            "users"
        );
        let asleep = [0, 1].map(|side| self.asleep(side, |queue| queue.len() as u64));
        assert_eq!(
            [count(RWAITS, RWAIT), count(WWAITS, WWAIT)],
            asleep,
            "waiters"
        );
        assert!(
            asleep
                .iter()
                .all(|&waiters| waiters <= MAX.min(SLEEPERS_MAX as u64))
        );
    }

    /// Closes, and lets everybody go. Then exactly one of them was told to destroy it.
    fn finish(&self) {
        if !self.model.get().closed {
            self.close();
        }
        for side in 0..2 {
            if self.model.get().locked[side] {
                self.unlock(side);
            }
        }
        while self.model.get().others > 0 {
            self.decref();
        }
        self.compare();
        assert!(self.model.get().destroyed, "nobody destroys it");
        assert_eq!(
            (self.mutex.incref(), self.mutex.lock(Mode::Read, sched())),
            (Err(Closed), Err(PollError::Closing))
        );
    }
}
