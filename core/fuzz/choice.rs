//! Choices and queues of nodes against plain queues of numbers.
//!
//! There are eight waiters, each with one node for each of two queues. Nodes join at both ends, are
//! removed, and stay behind when another event has decided their choice. A pop must skip those.
#![allow(unsafe_code, reason = "queues refer to nodes by address")]

use super::{Choice, Chosen, Decided, End, Outcome, WaitNode, WaitQueue};
use crate::fuzz::base::{FuzzOs, Goroutines};
use crate::waiter::{Thread, Waiter};
use core::cell::RefCell;
use core::ptr::NonNull;
use std::boxed::Box;
use std::collections::VecDeque;
use std::vec::Vec;

const WAITERS: usize = 8;
const QUEUES: usize = 2;

/// One wait. Each part has its own place, as `WaitNode` demands.
struct Wait {
    choice: Box<Choice>,
    nodes: [Box<WaitNode>; QUEUES],
    /// The packet: the waiter's number.
    _number: Box<usize>,
    thread: Box<Thread>,
    outcome: Option<Outcome>,
    /// The waiter is in the choice.
    committed: bool,
}

impl Wait {
    fn new(waiter: usize) -> Self {
        let (choice, number) = (Box::new(Choice::new()), Box::new(waiter));
        let packet = NonNull::from(&*number).cast();
        Wait {
            nodes: [0, 1].map(|arm| Box::new(WaitNode::new(&choice, arm, packet))),
            choice,
            _number: number,
            thread: Box::new(Thread::new()),
            outcome: None,
            committed: false,
        }
    }
}

struct Driver<'a> {
    waits: Vec<Wait>,
    queues: [WaitQueue; QUEUES],
    /// The waiters whose nodes are queued.
    model: [VecDeque<usize>; QUEUES],
    goroutines: &'a mut Goroutines,
}

std::thread_local! {
    static GOROUTINES: RefCell<Goroutines> = RefCell::new(Goroutines::new(WAITERS));
}

/// One byte is one step: what (3 bits), which waiter (3), in which queue (1), and how (1).
pub fn run(input: &[u8]) {
    GOROUTINES.with_borrow_mut(|goroutines| {
        let mut driver = Driver {
            waits: (0..WAITERS).map(Wait::new).collect(),
            queues: [WaitQueue::new(), WaitQueue::new()],
            model: [VecDeque::new(), VecDeque::new()],
            goroutines,
        };
        for &step in input {
            let (at, queue) = (usize::from(step >> 3 & 7), usize::from(step >> 6 & 1));
            driver.step(step & 7, at, queue, step >> 7 == 1);
            let wait = &driver.waits[at];
            assert_eq!(wait.choice.outcome(), wait.outcome);
            assert_eq!(
                driver.queues[queue].is_empty(),
                driver.model[queue].is_empty()
            );
        }
        for at in 0..WAITERS {
            driver.decide(at, Outcome::Withdrawn);
            driver.end(at);
        }
        assert!(driver.queues.iter().all(WaitQueue::is_empty));
    });
}

fn number(packet: NonNull<()>) -> usize {
    // SAFETY: the packet is that of a wait, which lives while its node is queued.
    unsafe { packet.cast::<usize>().read() }
}

impl Driver<'_> {
    fn step(&mut self, what: u8, at: usize, queue: usize, how: bool) {
        match (what, how) {
            (0 | 1, true) => self.push(at, queue, End::Back),
            (0 | 1, false) => self.push(at, queue, End::Front),
            (2, _) => self.remove(at, queue),
            (3, true) => self.decide(at, Outcome::Expired),
            (3, false) => self.decide(at, Outcome::Withdrawn),
            (4, _) => self.commit(at, how),
            (5, _) => self.pop(queue, |_| true),
            (6, _) => self.pop(queue, |waiter| (waiter % 2 == 0) == how),
            (_, _) if self.waits[at].outcome.is_some() => self.end(at),
            _ => {}
        }
    }

    fn push(&mut self, at: usize, queue: usize, end: End) {
        let model = &mut self.model[queue];
        if model.contains(&at) {
            return;
        }
        match end {
            End::Front => model.push_front(at),
            End::Back => model.push_back(at),
        }
        // SAFETY: the node is in no queue, and `end` removes it before it drops the wait.
        unsafe { self.queues[queue].push(&self.waits[at].nodes[queue], end) };
    }

    fn remove(&mut self, at: usize, queue: usize) {
        // SAFETY: the node is in this queue or in none.
        unsafe { self.queues[queue].remove(&self.waits[at].nodes[queue]) };
        self.model[queue].retain(|&queued| queued != at);
    }

    fn commit(&mut self, at: usize, is_thread: bool) {
        let wait = &mut self.waits[at];
        if wait.committed {
            return;
        }
        let waiter = match is_thread {
            true => wait.thread.waiter(),
            false => Waiter::G(self.goroutines.take(at)),
        };
        let refused = wait.choice.commit(waiter);
        assert_eq!(refused.is_err(), wait.outcome.is_some());
        wait.committed = refused.is_ok();
        if let Err(waiter) = refused {
            self.take_back(at, waiter);
        }
    }

    fn take_back(&mut self, at: usize, waiter: Waiter) {
        match waiter {
            Waiter::G(g) => assert_eq!(self.goroutines.give(g), at),
            Waiter::Thread(thread) => {
                let own = core::ptr::from_ref(&*self.waits[at].thread).addr();
                thread.wake(&FuzzOs);
                let woken = FuzzOs::take_woken();
                assert!((own..own + size_of::<Thread>()).contains(&woken));
            }
        }
    }

    fn decide(&mut self, at: usize, outcome: Outcome) {
        let decided = self.waits[at].choice.decide(outcome);
        assert_eq!(decided.is_some(), self.waits[at].outcome.is_none());
        if let Some(waiter) = decided {
            self.decided(at, outcome, waiter);
        }
    }

    fn decided(&mut self, at: usize, outcome: Outcome, waiter: Decided) {
        let wait = &mut self.waits[at];
        assert_eq!(wait.outcome.replace(outcome), None, "decided twice");
        assert_eq!(waiter.is_some(), wait.committed);
        wait.committed = false;
        if let Some(waiter) = waiter {
            self.take_back(at, waiter);
        }
    }

    fn pop(&mut self, queue: usize, wanted: impl Fn(usize) -> bool) {
        let chosen = self.queues[queue].pop_if(|packet| wanted(number(packet)));
        let mut expected = None;
        while let Some(&first) = self.model[queue].front() {
            let open = self.waits[first].outcome.is_none();
            if open && !wanted(first) {
                break;
            }
            self.model[queue].pop_front();
            if open {
                expected = Some(first);
                break;
            }
        }
        assert_eq!(
            chosen.as_ref().map(|chosen| number(chosen.packet)),
            expected,
            "not the expected waiter is served"
        );
        if let (Some(Chosen { waiter, .. }), Some(at)) = (chosen, expected) {
            self.decided(at, Outcome::Arm(queue as u32), waiter);
            let outcome = self.waits[at].choice.outcome();
            assert_eq!(outcome, Some(Outcome::Arm(queue as u32)));
        }
    }

    /// The waiter removes its nodes, and begins another wait.
    fn end(&mut self, at: usize) {
        for queue in 0..QUEUES {
            self.remove(at, queue);
        }
        self.waits[at] = Wait::new(at);
    }
}
