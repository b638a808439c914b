//! Run queues against plain queues of numbers: two rings with their `next` slots, the global queue,
//! an inbox and a home queue. Every goroutine that goes in comes out once, where and when the plain
//! queue says.
//!
//! The input chooses whether the rings' counters begin just before they wrap. A full ring spills
//! into the global queue, as in the scheduler.

use super::{CAPACITY, GList, Global, Inbox, Ring};
use crate::fuzz::base::Goroutines;
use crate::g::GRef;
use crate::sync::Ordering;
use core::cell::RefCell;
use std::collections::VecDeque;
use std::vec::Vec;

const GOROUTINES: usize = 640;

struct Queues {
    rings: [Ring; 2],
    global: Global,
    inbox: Inbox,
    home: GList,
}

#[derive(Default)]
struct Model {
    rings: [VecDeque<usize>; 2],
    next: [Option<usize>; 2],
    global: VecDeque<usize>,
    inbox: VecDeque<usize>,
    home: VecDeque<usize>,
}

struct Driver {
    model: Model,
    goroutines: Goroutines,
    /// The goroutines that are in no queue.
    resting: Vec<usize>,
}

std::thread_local! {
    static DRIVER: RefCell<Driver> = RefCell::new(Driver {
        model: Model::default(),
        goroutines: Goroutines::new(GOROUTINES),
        resting: (0..GOROUTINES).collect(),
    });
}

/// The first byte says where the rings' counters begin. Each other byte is a step: what (4 bits),
/// and how many or how (4 bits).
pub fn run(input: &[u8]) {
    let Some((&start, steps)) = input.split_first() else {
        return;
    };
    let mut queues = Queues {
        rings: [Ring::new(), Ring::new()],
        global: Global::new(),
        inbox: Inbox::new(),
        home: GList::new(),
    };
    for ring in &queues.rings {
        let start = 0u32.wrapping_sub(u32::from(start));
        ring.head.store(start, Ordering::Relaxed);
        ring.tail.store(start, Ordering::Relaxed);
    }
    DRIVER.with_borrow_mut(|driver| {
        for &step in steps {
            driver.step(&mut queues, step & 15, usize::from(step >> 4));
        }
        driver.empty(&mut queues);
    });
}

impl Driver {
    fn step(&mut self, queues: &mut Queues, what: u8, how: usize) {
        // One bit chooses the P; `how` has three bits left.
        let (own, how) = (how & 1, how >> 1);
        match what {
            0..=3 => (0..[1, 1, 2, 3, 5, 20, 70, 256][how]).for_each(|_| self.push(queues, own)),
            4 | 5 => (0..[1, 1, 1, 2, 4, 10, 40, 128][how]).for_each(|_| self.pop(queues, own)),
            6 | 7 => self.swap_next(queues, own),
            8 if how & 1 == 0 => self.take_next(queues, own),
            8 => self.steal_one(queues, own),
            9 | 10 => self.steal(queues, own, how & 1 != 0),
            11 => (0..[1, 1, 2, 3, 4, 8, 40, 300][how]).for_each(|_| self.submit(queues)),
            12 => self.take_global(queues, own, how),
            13 => self.post(queues),
            14 if how & 1 == 0 => self.drain(queues),
            14 => self.take_all(queues),
            _ if how & 1 == 0 => self.pop_home(queues),
            _ => self.offer(queues, own),
        }
        for (ring, (model, next)) in queues
            .rings
            .iter()
            .zip(self.model.rings.iter().zip(&self.model.next))
        {
            assert_eq!(ring.is_empty(), model.is_empty() && next.is_none());
            assert_eq!(ring.has_queued(), !model.is_empty());
            assert_eq!(ring.len(), model.len() + usize::from(next.is_some()));
            assert_eq!(ring.room(), CAPACITY as usize - model.len());
        }
        assert_eq!(queues.global.len(), self.model.global.len());
        assert_eq!(queues.inbox.is_empty(), self.model.inbox.is_empty());
        assert_eq!(queues.home.len(), self.model.home.len());
    }

    /// Returns a goroutine that is in no queue, and its number.
    fn fresh(&mut self) -> Option<(usize, GRef)> {
        let id = self.resting.pop()?;
        Some((id, self.goroutines.take(id)))
    }

    /// Compares the goroutine that came out with the one that the model expects.
    fn came_out(&mut self, g: Option<GRef>, expected: Option<usize>) {
        let id = g.map(|g| self.goroutines.give(g));
        self.resting.extend(id);
        assert_eq!(id, expected, "not the expected goroutine comes out");
    }

    fn push(&mut self, queues: &Queues, own: usize) {
        if let Some((id, g)) = self.fresh() {
            self.push_anywhere(queues, own, id, g);
        }
    }

    /// Pushes as the scheduler does: a full ring moves its older half and the new goroutine to the
    /// global queue.
    fn push_anywhere(&mut self, queues: &Queues, own: usize, id: usize, g: GRef) {
        let (ring, model) = (&queues.rings[own], &mut self.model.rings[own]);
        match ring.push(g) {
            Ok(()) => {
                assert!(
                    model.len() < CAPACITY as usize,
                    "a full ring takes one more"
                );
                model.push_back(id);
            }
            Err(g) => {
                assert_eq!(model.len(), CAPACITY as usize, "a ring with room refuses");
                ring.spill(&queues.global, g);
                self.model
                    .global
                    .extend(model.drain(..CAPACITY as usize / 2));
                self.model.global.push_back(id);
            }
        }
    }

    fn pop(&mut self, queues: &Queues, own: usize) {
        let expected = self.model.rings[own].pop_front();
        self.came_out(queues.rings[own].pop(), expected);
    }

    fn swap_next(&mut self, queues: &Queues, own: usize) {
        let Some((id, g)) = self.fresh() else { return };
        let displaced = queues.rings[own].swap_next(g);
        let expected = self.model.next[own].replace(id);
        assert_eq!(displaced.as_ref().map(|g| g.id() as usize), expected);
        if let Some(g) = displaced {
            self.push_anywhere(queues, own, g.id() as usize, g);
        }
    }

    /// Another M offers a goroutine to the P's next slot, which takes it if it is empty.
    fn offer(&mut self, queues: &Queues, own: usize) {
        let Some((id, g)) = self.fresh() else { return };
        match queues.rings[own].offer(g) {
            Ok(()) => assert_eq!(
                self.model.next[own].replace(id),
                None,
                "a full next slot takes one more"
            ),
            Err(g) => {
                assert!(self.model.next[own].is_some(), "an empty next slot refuses");
                self.resting.push(self.goroutines.give(g));
            }
        }
    }

    fn take_next(&mut self, queues: &Queues, own: usize) {
        let expected = self.model.next[own].take();
        self.came_out(queues.rings[own].take_next(), expected);
    }

    /// A P with an empty ring steals the older half of the other ring, rounded up. It runs the last
    /// of these.
    fn steal(&mut self, queues: &Queues, own: usize, next_too: bool) {
        if !self.model.rings[own].is_empty() {
            return;
        }
        let stolen = queues.rings[own].steal(&queues.rings[1 - own], next_too);
        let take = self.model.rings[1 - own].len().div_ceil(2);
        let expected = match take {
            0 if next_too => self.model.next[1 - own].take(),
            0 => None,
            _ => {
                let half =
                    Iterator::collect::<VecDeque<_>>(self.model.rings[1 - own].drain(..take));
                self.model.rings[own] = half;
                self.model.rings[own].pop_back()
            }
        };
        self.came_out(stolen, expected);
    }

    /// Another M takes the oldest goroutine of the ring, or that of the next slot if the ring is
    /// empty.
    fn steal_one(&mut self, queues: &Queues, own: usize) {
        let expected = self.model.rings[own]
            .pop_front()
            .or_else(|| self.model.next[own].take());
        self.came_out(queues.rings[own].steal_one(), expected);
    }

    fn submit(&mut self, queues: &Queues) {
        if let Some((id, g)) = self.fresh() {
            queues.global.push(g);
            self.model.global.push_back(id);
        }
    }

    /// Takes one goroutine to run, and a share of the rest for one of `how + 1` Ps.
    fn take_global(&mut self, queues: &Queues, own: usize, how: usize) {
        let procs = 1 + how;
        let first = queues.global.take(&queues.rings[own], procs);
        let expected = self.model.global.pop_front();
        self.came_out(first, expected);
        let ring = &mut self.model.rings[own];
        let share = (self.model.global.len() / procs)
            .min(CAPACITY as usize / 2)
            .min(CAPACITY as usize - ring.len());
        ring.extend(self.model.global.drain(..share));
    }

    /// Takes all goroutines in order, and pushes them again.
    fn take_all(&mut self, queues: &Queues) {
        let mut all = queues.global.take_all();
        assert!(queues.global.is_empty());
        for &id in &self.model.global {
            let g = all.pop_front().expect("a goroutine is missing");
            assert_eq!(g.id() as usize, id, "not the expected goroutine comes out");
            queues.global.push(g);
        }
        assert!(all.pop_front().is_none());
    }

    fn post(&mut self, queues: &Queues) {
        if let Some((id, g)) = self.fresh() {
            assert_eq!(
                queues.inbox.push(g),
                self.model.inbox.is_empty(),
                "whether the M must be notified"
            );
            self.model.inbox.push_back(id);
        }
    }

    fn drain(&mut self, queues: &mut Queues) {
        queues.inbox.drain(&mut queues.home);
        self.model.home.append(&mut self.model.inbox);
    }

    fn pop_home(&mut self, queues: &mut Queues) {
        let expected = self.model.home.pop_front();
        self.came_out(queues.home.pop_front(), expected);
    }

    /// Takes all goroutines out, and asserts that none is missing.
    fn empty(&mut self, queues: &mut Queues) {
        for own in 0..2 {
            self.take_next(queues, own);
            while !self.model.rings[own].is_empty() {
                self.pop(queues, own);
            }
            self.pop(queues, own);
        }
        while !self.model.global.is_empty() {
            // With so many Ps the share is 0, and the ring stays empty.
            self.take_global(queues, 0, usize::MAX - 1);
        }
        self.drain(queues);
        while !self.model.home.is_empty() {
            self.pop_home(queues);
        }
        self.pop_home(queues);
        assert!(
            queues.rings.iter().all(Ring::is_empty)
                && queues.global.is_empty()
                && queues.inbox.is_empty()
        );
        assert_eq!(self.resting.len(), GOROUTINES, "a goroutine is lost");
    }
}
