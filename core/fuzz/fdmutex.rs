//! `FdMutex` against the table at the head of `fdmutex.rs`. After each step its word is decoded and
//! compared with plain counters. Queues of the model say which operation sleeps, which is woken,
//! and which destroys the descriptor.
//!
//! There is one thread. When an operation sleeps, the rest of the program runs inside its futex
//! wait until a step wakes it. So the operations that sleep are nested, and the innermost resumes
//! first.
#![allow(unsafe_code, reason = "the program continues inside a futex wait")]

use super::{
    AfterUse, Closed, FdMutex, MAX, REF, REFS, RLOCK, RWAIT, RWAITS, WLOCK, WWAIT, WWAITS,
};
use crate::fuzz::base::{FuzzOs, sched};
use crate::os::Mode;
use crate::polldesc::PollError;
use crate::sync::{AtomicU32, Ordering};

use core::cell::Cell;
use core::ptr;
use std::collections::VecDeque;

/// The most operations that sleep at the same time: each takes a part of the stack.
const SLEEPERS_MAX: usize = 24;

struct Driver<'a> {
    mutex: FdMutex,
    steps: Cell<&'a [u8]>,
    model: Cell<Model>,
    /// The words on which operations sleep, by side, in the order of arrival, without those that
    /// were woken.
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
    /// Operations that have begun to sleep and have not returned.
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
    FuzzOs::on_sleep(sleep);
    while let Some((&step, rest)) = driver.steps.get().split_first() {
        driver.steps.set(rest);
        driver.step(step);
    }
    driver.finish();
    DRIVER.set(ptr::null());
}

/// The futex wait of an operation: runs further steps until one has woken it.
fn sleep(word: &AtomicU32) {
    // SAFETY: `run` has stored the address, and its frame is further out on this stack.
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
            // The lock's next owner has been woken and is further out on the stack, so it cannot
            // unlock.
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
        FuzzOs::take_woken();
        let release = self.mutex.unlock(MODES[side], sched());
        self.update(|model| model.locked[side] = false);
        let first = self.asleep(side, VecDeque::pop_front);
        assert_eq!(
            FuzzOs::take_woken(),
            first.unwrap_or(0),
            "an unlock wakes the first waiter of its side, and no other"
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
        FuzzOs::take_woken();
        let outcome = self.mutex.close(sched());
        assert_eq!(outcome.is_err(), self.model.get().closed);
        if outcome.is_ok() {
            self.update(|model| (model.closed, model.others) = (true, model.others + 1));
            assert_eq!(
                FuzzOs::take_woken(),
                last.unwrap_or(0),
                "a close wakes the readers, then the writers"
            );
            for side in 0..2 {
                for word in self.asleep(side, core::mem::take) {
                    // SAFETY: the word of a thread that sleeps further out on this stack.
                    let word = unsafe { &*(word as *const AtomicU32) };
                    assert_eq!(word.load(Ordering::Relaxed), 1, "a close wakes all waiters");
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

    /// Compares the word with the counters.
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

    /// Closes, and ends all uses. Then exactly one of them had to destroy the descriptor.
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
        assert!(
            self.model.get().destroyed,
            "no user destroys the descriptor"
        );
        assert_eq!(
            (self.mutex.incref(), self.mutex.lock(Mode::Read, sched())),
            (Err(Closed), Err(PollError::Closing))
        );
    }
}
