//! `FdMutex` against the table at the head of `fdmutex.rs`. After each step its word is decoded and
//! compared with plain counters. Queues of the model say which operation sleeps, which is woken,
//! and which destroys the descriptor.
//!
//! There is one thread. When an operation sleeps, the rest of the program runs inside its futex
//! wait until a step wakes it. So the operations that sleep are nested, and the innermost resumes
//! first. A step that cancels one may come before or after the step that gives it its turn.
#![allow(unsafe_code, reason = "the program continues inside a futex wait")]

use super::{
    AfterUse, Closed, FdMutex, MAX, REF, REFS, RLOCK, RWAIT, RWAITS, WLOCK, WWAIT, WWAITS,
};
use crate::cancel::RawCancel;
use crate::fuzz::base::{FuzzOs, sched};
use crate::os::Mode;
use crate::polldesc::PollError;
use crate::sync::{AtomicU32, Ordering};

use core::cell::{Cell, RefCell};
use core::hint;
use core::ptr;
use std::collections::VecDeque;
use std::vec::Vec;

/// The most operations that sleep at the same time: each takes a part of the stack.
const SLEEPERS_MAX: usize = 24;

struct Driver<'a> {
    mutex: FdMutex,
    steps: Cell<&'a [u8]>,
    model: RefCell<Model>,
}

#[derive(Default)]
struct Model {
    closed: bool,
    sides: [Side; 2],
    /// Users that hold no lock.
    others: u64,
    /// The operations that have begun to lock and have not returned, the innermost last.
    locking: Vec<Locking>,
    destroyed: bool,
}

#[derive(Default)]
struct Side {
    locked: bool,
    /// How many waiters are counted.
    waits: u64,
    /// The indices of the operations that sleep, in the order of arrival, without those that were
    /// woken.
    asleep: VecDeque<usize>,
    /// Turns that no waiter took.
    turns: u64,
}

/// An operation that locks a side.
struct Locking {
    side: usize,
    /// What it is a member of.
    cancel: Option<RawCancel>,
    is_cancelled: bool,
    /// It was cancelled while it slept.
    is_withdrawn: bool,
    /// The address of the word on which it sleeps.
    word: usize,
    /// What it must return. `None`: it must sleep.
    outcome: Option<Result<(), PollError>>,
}

std::thread_local! {
    static DRIVER: Cell<*const Driver<'static>> = const { Cell::new(ptr::null()) };
}

const MODES: [Mode; 2] = [Mode::Read, Mode::Write];

/// One byte is one step: what (3 bits), on which side (1), and of a cancel what (1) and how far out
/// (3). A close is one of sixteen, so that most programs go on for long.
pub fn run(input: &[u8]) {
    let driver = Driver {
        mutex: FdMutex::new(),
        steps: Cell::new(input),
        model: RefCell::default(),
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
    let side = driver
        .model
        .borrow_mut()
        .sleeps(ptr::from_ref(word).expose_provenance());
    driver.compare();
    while word.load(Ordering::Relaxed) == 0 {
        let is_locked = driver.model.borrow().sides[side].locked;
        match driver.steps.get().split_first() {
            Some((&step, rest)) => {
                driver.steps.set(rest);
                driver.step(step);
            }
            None if is_locked => driver.unlock(side),
            // The lock's next owner has been woken and is further out on the stack, so it cannot
            // unlock.
            None => {
                assert!(!driver.model.borrow().closed, "a close leaves a waiter");
                driver.close();
            }
        }
    }
    driver.model.borrow_mut().resumes();
}

/// Overwrites the stack below the caller. A queue that still refers to a waiter there is noticed.
#[inline(never)]
fn overwrite_stack() {
    hint::black_box(&mut [u8::MAX; 16 * 1024]);
}

impl Model {
    /// The innermost operation begins to sleep. Returns its side.
    fn sleeps(&mut self, word: usize) -> usize {
        let index = self.locking.len() - 1;
        let locking = &mut self.locking[index];
        assert_eq!(locking.outcome, None, "an operation sleeps");
        locking.word = word;
        self.sides[locking.side].asleep.push_back(index);
        locking.side
    }

    /// The innermost operation was woken.
    fn resumes(&mut self) {
        let locking = self.locking.last_mut().expect("it sleeps");
        if locking.is_withdrawn {
            let side = &mut self.sides[locking.side];
            match side.waits {
                0 => side.turns -= 1,
                _ => side.waits -= 1,
            }
            locking.outcome = Some(Err(PollError::Cancelled));
        } else {
            self.attempt();
        }
    }

    /// The innermost operation tries to lock its side, and waits if it cannot.
    fn attempt(&mut self) {
        let locking = self.locking.last_mut().expect("it locks");
        let side = &mut self.sides[locking.side];
        while side.locked && !self.closed && side.turns > 0 {
            // It joins the waiters and takes a turn at once.
            side.waits += 1;
            side.turns -= 1;
        }
        locking.outcome = match side.locked {
            _ if self.closed => Some(Err(PollError::Closing)),
            false => Some(Ok(())),
            true if locking.is_cancelled => Some(Err(PollError::Cancelled)),
            true => {
                side.waits += 1;
                None
            }
        };
        side.locked |= locking.outcome == Some(Ok(()));
    }

    /// Gives the first waiter of a side a turn. Returns the word on which it sleeps.
    fn give_turn(&mut self, side: usize) -> Option<usize> {
        let side = &mut self.sides[side];
        side.waits -= 1;
        let first = side.asleep.pop_front();
        side.turns += u64::from(first.is_none());
        first.map(|index| self.locking[index].word)
    }
}

impl Driver<'_> {
    fn step(&self, step: u8) {
        let side = usize::from(step >> 3 & 1);
        let (others, locked) = {
            let model = self.model.borrow();
            (model.others, model.sides[side].locked)
        };
        let how = step >> 4;
        match step & 7 {
            0 | 1 => self.lock(side, None),
            2 | 3 if locked => self.unlock(side),
            4 => self.incref(),
            5 if others > 0 => self.decref(),
            6 if how == 0 => self.close(),
            6 if how & 1 == 1 => self.cancelled_try(side),
            6 => self.try_lock(side),
            7 if how & 1 == 0 => self.lock(side, Some(RawCancel::new(sched()))),
            7 => self.cancel(usize::from(how >> 1)),
            _ => return,
        }
        self.compare();
    }

    fn lock(&self, side: usize, cancel: Option<RawCancel>) {
        {
            let mut model = self.model.borrow_mut();
            if model.locking.len() == SLEEPERS_MAX {
                return;
            }
            model.locking.push(Locking {
                side,
                cancel: cancel.clone(),
                is_cancelled: false,
                is_withdrawn: false,
                word: 0,
                outcome: None,
            });
            model.attempt();
        }
        let lock = || self.mutex.lock(MODES[side], sched());
        let outcome = match cancel {
            Some(cancel) => sched().shield(|| cancel.run(lock)),
            None => sched().shield(lock),
        };
        overwrite_stack();
        let locking = self.model.borrow_mut().locking.pop().expect("it locked");
        assert_eq!(Some(outcome), locking.outcome);
    }

    fn try_lock(&self, side: usize) {
        let outcome = sched().shield(|| self.mutex.try_lock(MODES[side], sched()));
        let model = &mut *self.model.borrow_mut();
        let expected = match model.closed {
            true => Err(PollError::Closing),
            false => Ok(!model.sides[side].locked),
        };
        assert_eq!(outcome, expected);
        model.sides[side].locked |= outcome == Ok(true);
    }

    fn cancelled_try(&self, side: usize) {
        let cancel = RawCancel::new(sched());
        cancel.cancel();
        let attempt = || self.mutex.try_lock(MODES[side], sched());
        let outcome = sched().shield(|| cancel.run(attempt));
        assert_eq!(outcome, Err(PollError::Cancelled));
    }

    /// Cancels one of the operations that sleep, counted from the innermost.
    fn cancel(&self, out: usize) {
        let (cancel, expected) = {
            let model = &mut *self.model.borrow_mut();
            let Some(index) = model.locking.len().checked_sub(1 + out) else {
                return;
            };
            let locking = &mut model.locking[index];
            let Some(cancel) = locking.cancel.clone() else {
                return;
            };
            let asleep = &mut model.sides[locking.side].asleep;
            let place = asleep.iter().position(|&asleep| asleep == index);
            locking.is_cancelled = true;
            locking.is_withdrawn |= place.is_some();
            let woken = place.and_then(|place| asleep.remove(place));
            (cancel, woken.map_or(0, |_| locking.word))
        };
        FuzzOs::take_woken();
        cancel.cancel();
        assert_eq!(FuzzOs::take_woken(), expected, "a cancel wakes its waiter");
    }

    fn unlock(&self, side: usize) {
        FuzzOs::take_woken();
        let release = self.mutex.unlock(MODES[side], sched());
        let first = {
            let mut model = self.model.borrow_mut();
            model.sides[side].locked = false;
            match model.sides[side].waits {
                0 => None,
                _ => model.give_turn(side),
            }
        };
        assert_eq!(
            FuzzOs::take_woken(),
            first.unwrap_or(0),
            "an unlock wakes the first waiter of its side, and no other"
        );
        self.released(release);
    }

    fn incref(&self) {
        let model = &mut *self.model.borrow_mut();
        assert_eq!(self.mutex.incref().is_err(), model.closed);
        model.others += u64::from(!model.closed);
    }

    fn decref(&self) {
        let release = self.mutex.decref();
        self.model.borrow_mut().others -= 1;
        self.released(release);
    }

    fn close(&self) {
        FuzzOs::take_woken();
        let outcome = self.mutex.close(sched());
        let model = &mut *self.model.borrow_mut();
        assert_eq!(outcome.is_err(), model.closed);
        if outcome.is_err() {
            return;
        }
        (model.closed, model.others) = (true, model.others + 1);
        let mut last = 0;
        for side in 0..2 {
            while model.sides[side].waits > 0 {
                let Some(word) = model.give_turn(side) else {
                    continue;
                };
                last = word;
                // SAFETY: the word of a thread that sleeps further out on this stack.
                let word = unsafe { &*(word as *const AtomicU32) };
                assert_eq!(word.load(Ordering::Relaxed), 1, "a close wakes all waiters");
            }
        }
        assert_eq!(
            FuzzOs::take_woken(),
            last,
            "a close wakes the readers, then the writers"
        );
    }

    fn released(&self, after: AfterUse) {
        let model = &mut *self.model.borrow_mut();
        let unlocked = model.sides.iter().all(|side| !side.locked);
        let last = model.closed && model.others == 0 && unlocked;
        assert_eq!(
            after == AfterUse::Destroy,
            last,
            "whether the caller must destroy the descriptor"
        );
        assert!(!(last && model.destroyed), "destroyed twice");
        model.destroyed |= last;
    }

    /// Compares the word with the counters.
    fn compare(&self) {
        let word = self.mutex.state.load(Ordering::Relaxed);
        let model = self.model.borrow();
        let sides = &model.sides;
        let count = |mask: u64, one: u64| (word & mask) / one;
        assert_eq!(word & 1 == 1, model.closed);
        assert_eq!(
            [RLOCK, WLOCK].map(|bit| word & bit != 0),
            [0, 1].map(|side| sides[side].locked)
        );
        assert_eq!(
            count(REFS, REF),
            model.others + u64::from(sides[0].locked) + u64::from(sides[1].locked),
            "users"
        );
        let waits = [0, 1].map(|side| sides[side].waits);
        assert_eq!(
            [count(RWAITS, RWAIT), count(WWAITS, WWAIT)],
            waits,
            "waiters"
        );
        assert!(waits.iter().all(|&waits| waits <= MAX));
    }

    /// Closes, and ends all uses. Then exactly one of them had to destroy the descriptor.
    fn finish(&self) {
        let is_closed = self.model.borrow().closed;
        if !is_closed {
            self.close();
        }
        for side in 0..2 {
            let is_locked = self.model.borrow().sides[side].locked;
            if is_locked {
                self.unlock(side);
            }
        }
        while self.model.borrow().others > 0 {
            self.decref();
        }
        self.compare();
        assert!(
            self.model.borrow().destroyed,
            "no user destroys the descriptor"
        );
        assert_eq!(
            (self.mutex.incref(), self.mutex.lock(Mode::Read, sched())),
            (Err(Closed), Err(PollError::Closing))
        );
    }
}
