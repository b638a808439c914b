//! Wait slots and the list of waiters against the table at the head of `waiter.rs`.
//!
//! There are four slots with one waiter each, which is a goroutine or a thread from wait to wait,
//! and one list for the waiters that notifications and cancellations return. A waiter makes its
//! steps in the order of a park. Notifications and cancellations come between any two of them.
#![allow(unsafe_code, reason = "goroutines and threads are compared by address")]

use super::{Announced, Thread, WaitSlot, Waiter, WaiterList};
use crate::fuzz::base::{FuzzOs, Goroutines};
use crate::g::Status;
use core::cell::RefCell;
use std::collections::VecDeque;

const SLOTS: usize = 4;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Word {
    Nil,
    Ready,
    Wait,
    Parked,
}

/// The state of a slot's waiter.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Phase {
    /// Not in a wait.
    Resting,
    /// After `announce`.
    Announced,
    /// Its commit was refused, or it was woken.
    Running,
    /// In the slot.
    Parked,
    /// Out of the slot, and in the list.
    Listed,
}

#[derive(Default)]
struct Slot {
    slot: WaitSlot,
    thread: Option<Thread>,
}

struct Model {
    word: [Word; SLOTS],
    phase: [Phase; SLOTS],
    is_thread: [bool; SLOTS],
    list: VecDeque<usize>,
}

std::thread_local! {
    static GOROUTINES: RefCell<Goroutines> = RefCell::new(Goroutines::new(SLOTS));
}

/// One byte is one step: what (3 bits), in which slot (2), and whether a committing waiter is a
/// thread (1).
pub fn run(input: &[u8]) {
    let mut slots = [const { None::<Slot> }; SLOTS].map(|_| Slot::default());
    let mut list = WaiterList::new();
    let mut model = Model {
        word: [Word::Nil; SLOTS],
        phase: [Phase::Resting; SLOTS],
        is_thread: [false; SLOTS],
        list: VecDeque::new(),
    };
    GOROUTINES.with_borrow_mut(|goroutines| {
        for &byte in input {
            let at = usize::from(byte >> 3 & 3);
            match byte & 7 {
                0 => model.announce(at, &slots[at]),
                1 => model.commit(at, &mut slots[at], byte & 32 != 0, goroutines),
                2 => model.settle(at, &slots[at]),
                3 => {
                    let handed_out = slots[at].slot.notify();
                    model.handed_out(at, Word::Ready, handed_out, &mut list);
                }
                4 => {
                    let handed_out = slots[at].slot.cancel();
                    let after = if model.word[at] == Word::Ready {
                        Word::Ready
                    } else {
                        Word::Nil
                    };
                    model.handed_out(at, after, handed_out, &mut list);
                }
                5 if model.phase[at] == Phase::Resting => {
                    slots[at].slot.reset();
                    model.word[at] = Word::Nil;
                }
                6 => model.wake_first(&slots, &mut list, goroutines),
                _ => {}
            }
            assert_eq!(slots[at].slot.is_ready(), model.word[at] == Word::Ready);
            assert_eq!(list.is_empty(), model.list.is_empty());
        }
        // At the end all waits are cancelled and all waiters run, so that none is left.
        for (at, slot) in slots.iter().enumerate() {
            let handed_out = slot.slot.cancel();
            let after = if model.word[at] == Word::Ready {
                Word::Ready
            } else {
                Word::Nil
            };
            model.handed_out(at, after, handed_out, &mut list);
        }
        while !model.list.is_empty() {
            model.wake_first(&slots, &mut list, goroutines);
        }
        assert!(list.pop().is_none());
        for (at, slot) in slots.iter().enumerate() {
            model.settle(at, slot);
            assert_eq!(
                model.phase[at],
                Phase::Resting,
                "the waiter of slot {at} is lost"
            );
        }
    });
}

impl Model {
    fn announce(&mut self, at: usize, slot: &Slot) {
        if self.phase[at] != Phase::Resting {
            return;
        }
        let announced = slot.slot.announce();
        if self.word[at] == Word::Ready {
            assert_eq!(announced, Announced::Ready, "latched readiness is lost");
            self.word[at] = Word::Nil;
        } else {
            assert_eq!(announced, Announced::Waiting);
            (self.word[at], self.phase[at]) = (Word::Wait, Phase::Announced);
        }
    }

    fn commit(&mut self, at: usize, slot: &mut Slot, is_thread: bool, goroutines: &mut Goroutines) {
        if self.phase[at] != Phase::Announced {
            return;
        }
        self.is_thread[at] = is_thread;
        let waiter = match is_thread {
            true => slot.thread.insert(Thread::new()).waiter(),
            false => Waiter::G(goroutines.take(at)),
        };
        goroutines.set_status(at, Status::Waiting);
        match slot.slot.commit(waiter) {
            Ok(()) => {
                assert_eq!(
                    self.word[at],
                    Word::Wait,
                    "parked although the slot had changed"
                );
                (self.word[at], self.phase[at]) = (Word::Parked, Phase::Parked);
            }
            Err(waiter) => {
                assert_ne!(
                    self.word[at],
                    Word::Wait,
                    "not parked although the slot had not changed"
                );
                assert_eq!(is_thread, matches!(waiter, Waiter::Thread(_)));
                if let Waiter::G(g) = waiter {
                    assert_eq!(goroutines.give(g), at);
                }
                self.phase[at] = Phase::Running;
            }
        }
    }

    fn settle(&mut self, at: usize, slot: &Slot) {
        if matches!(self.phase[at], Phase::Announced | Phase::Running) {
            assert_eq!(
                slot.slot.settle(),
                self.word[at] == Word::Ready,
                "whether the wait ended with readiness"
            );
            (self.word[at], self.phase[at]) = (Word::Nil, Phase::Resting);
        }
    }

    /// Compares the result of a notification or cancellation of slot `at`: it returns a waiter
    /// exactly if one is parked.
    fn handed_out(
        &mut self,
        at: usize,
        after: Word,
        handed_out: Option<Waiter>,
        list: &mut WaiterList,
    ) {
        assert_eq!(
            handed_out.is_some(),
            self.word[at] == Word::Parked,
            "whether a parked waiter is returned"
        );
        if handed_out.is_some() {
            self.phase[at] = Phase::Listed;
            self.list.push_back(at);
        }
        self.word[at] = after;
        list.extend(handed_out);
    }

    /// Takes the first waiter of the list and wakes it.
    fn wake_first(
        &mut self,
        slots: &[Slot; SLOTS],
        list: &mut WaiterList,
        goroutines: &mut Goroutines,
    ) {
        let Some(at) = self.list.pop_front() else {
            return assert!(list.pop().is_none());
        };
        match list.pop().expect("the list has lost a waiter") {
            Waiter::G(g) => {
                assert!(!self.is_thread[at], "a thread comes out as a goroutine");
                assert_eq!(goroutines.status(at), Status::Waiting);
                assert_eq!(goroutines.give(g), at, "the list changes the order");
            }
            Waiter::Thread(thread) => {
                assert!(self.is_thread[at], "a goroutine comes out as a thread");
                thread.wake(&FuzzOs);
                let own = core::ptr::from_ref(slots[at].thread.as_ref().expect("it was committed"));
                assert!(
                    (own.addr()..own.addr() + size_of::<Thread>()).contains(&FuzzOs::take_woken()),
                    "another thread is woken"
                );
                // `block` returns at once: the wake has set the thread's word, and `FuzzOs` panics
                // on a sleep.
                slots[at]
                    .thread
                    .as_ref()
                    .expect("it was committed")
                    .block(&FuzzOs);
            }
        }
        self.phase[at] = Phase::Running;
    }
}
