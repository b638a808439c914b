//! Models of the run queues: the ring between its owner and thieves, and the inbox.
//!
//! Under loom a ring has four slots, so that its indices wrap. Each goroutine has a [`Mail`] that
//! the thread that makes it writes and the thread that finds it reads.

use super::{GList, Global, Inbox, Ring};
use crate::g::GRef;
use crate::models::{Immortal, Mail, check, finish, goroutine};
use loom::thread;
use std::vec::Vec;

struct Queues {
    ring: Ring,
    thieves: [Ring; 2],
    global: Global,
    inbox: Inbox,
    mail: [Mail; 8],
}

impl Queues {
    fn new() -> Immortal<Self> {
        Immortal::new(Queues {
            ring: Ring::new(),
            thieves: [Ring::new(), Ring::new()],
            global: Global::new(),
            inbox: Inbox::new(),
            mail: core::array::from_fn(|_| Mail::new()),
        })
    }

    fn make(&self, id: u64) -> GRef {
        self.mail[id as usize].put(id as u32);
        goroutine(id)
    }

    fn end(&self, g: GRef) -> u64 {
        let id = finish(g);
        assert_eq!(u64::from(self.mail[id as usize].get()), id);
        id
    }

    fn push(&self, ids: core::ops::Range<u64>) {
        for id in ids {
            assert!(self.ring.push(self.make(id)).is_ok());
        }
    }

    fn pop_all(&self, ring: &Ring) -> Vec<u64> {
        core::iter::from_fn(|| ring.pop())
            .map(|g| self.end(g))
            .collect()
    }

    /// Steals once, and returns the numbers of the stolen goroutines.
    fn steal(&self, thief: usize, next_too: bool) -> Vec<u64> {
        let ring = &self.thieves[thief];
        let first = ring.steal(&self.ring, next_too);
        first
            .into_iter()
            .map(|g| self.end(g))
            .chain(self.pop_all(ring))
            .collect()
    }
}

/// Asserts that `parts` together are the numbers `all`, each once.
fn assert_each_once(parts: impl IntoIterator<Item = Vec<u64>>, all: core::ops::Range<u64>) {
    let mut got = parts.into_iter().flatten().collect::<Vec<_>>();
    got.sort();
    assert_eq!(got, Vec::from_iter(all));
}

#[test]
fn owner_and_thief_share_a_ring() {
    check(|| {
        let owner = Queues::new();
        let queues = owner.get();
        let thief = thread::spawn(|| queues.steal(0, false));
        queues.push(0..3);
        let kept = queues.pop_all(&queues.ring);
        assert_each_once([kept, thief.join().unwrap()], 0..3);
    });
}

#[test]
fn two_thieves_and_the_owner_share_a_ring() {
    check(|| {
        let owner = Queues::new();
        let queues = owner.get();
        queues.push(0..2);
        let thieves = [0, 1].map(|index| thread::spawn(move || queues.steal(index, false)));
        queues.push(2..4);
        let kept = queues.pop_all(&queues.ring);
        let stolen = thieves.map(|thief| thief.join().unwrap());
        assert_each_once([kept].into_iter().chain(stolen), 0..4);
    });
}

#[test]
fn a_slot_is_reused_only_when_its_thief_has_read_it() {
    check(|| {
        let owner = Queues::new();
        let queues = owner.get();
        queues.push(0..4);
        let thief = thread::spawn(|| queues.steal(0, false));
        // The ring is full until the thief has made room.
        let mut kept = Vec::new();
        for id in 4..7 {
            while let Err(g) = queues.ring.push(queues.make(id)) {
                finish(g);
                kept.extend(queues.ring.pop().map(|g| queues.end(g)));
            }
        }
        kept.extend(queues.pop_all(&queues.ring));
        assert_each_once([kept, thief.join().unwrap()], 0..7);
    });
}

#[test]
fn a_full_ring_spills_while_a_thief_steals() {
    check(|| {
        let owner = Queues::new();
        let queues = owner.get();
        queues.push(0..4);
        let thief = thread::spawn(|| queues.steal(0, false));
        if let Err(g) = queues.ring.push(queues.make(4)) {
            queues.ring.spill(&queues.global, g);
        }
        let kept = queues.pop_all(&queues.ring);
        let stolen = thief.join().unwrap();
        let spilled = core::iter::from_fn(|| queues.global.take(&queues.ring, usize::MAX))
            .map(|g| queues.end(g))
            .collect();
        assert_each_once([kept, spilled, stolen], 0..5);
    });
}

#[test]
fn the_goroutine_in_the_next_slot_goes_to_the_owner_or_a_thief() {
    check(|| {
        let owner = Queues::new();
        let queues = owner.get();
        let thief = thread::spawn(|| queues.steal(0, true));
        assert!(queues.ring.swap_next(queues.make(0)).is_none());
        let kicked = queues.ring.swap_next(queues.make(1));
        if let Some(kicked) = kicked {
            assert!(queues.ring.push(kicked).is_ok());
        }
        let mut kept = queues
            .ring
            .take_next()
            .map(|g| queues.end(g))
            .into_iter()
            .collect::<Vec<_>>();
        kept.extend(queues.pop_all(&queues.ring));
        assert_each_once([kept, thief.join().unwrap()], 0..2);
    });
}

#[test]
fn a_ring_that_is_never_empty_never_looks_empty() {
    check(|| {
        let owner = Queues::new();
        let queues = owner.get();
        assert!(queues.ring.swap_next(queues.make(0)).is_none());
        let watcher = thread::spawn(|| assert!(!queues.ring.is_empty()));
        let kicked = queues
            .ring
            .swap_next(queues.make(1))
            .expect("no thief runs");
        // The displaced goroutine goes into the ring before the next slot is emptied.
        assert!(queues.ring.push(kicked).is_ok());
        finish(queues.ring.take_next().expect("no thief runs"));
        watcher.join().unwrap();
        assert_eq!(queues.pop_all(&queues.ring), [0]);
    });
}

#[test]
fn an_inbox_tells_one_of_its_pushers_to_wake_the_owner() {
    check(|| {
        let owner = Queues::new();
        let queues = owner.get();
        let pushers = [0, 1].map(|id| thread::spawn(move || queues.inbox.push(queues.make(id))));
        let mut list = GList::new();
        queues.inbox.drain(&mut list);
        let early = list.len();
        let first = pushers.map(|pusher| pusher.join().unwrap());
        queues.inbox.drain(&mut list);
        // Each time the inbox becomes non-empty, the push reports it to one pusher.
        let batches = usize::from(early > 0) + usize::from(early < 2);
        assert_eq!(first.iter().filter(|&&first| first).count(), batches);
        assert_each_once(
            [core::iter::from_fn(|| list.pop_front())
                .map(|g| queues.end(g))
                .collect()],
            0..2,
        );
    });
}
