//! Models of `StackOwner`: a goroutine that returns, against watchers that pin it; and of threads
//! that prepare stacks.
//!
//! A [`Mail`] stands for the memory of the G: loom reports a race if a watcher reads it while it is
//! freed.

use super::{Arena, BATCH, MIN_STACK, Size, StackOwner};
use crate::models::{Immortal, Mail, ModelOs, check};
use crate::sync::{AtomicU32, Ordering};
use core::ptr::{self, NonNull};
use loom::thread;

struct Slot {
    owner: StackOwner,
    memory: [Mail; 2],
    freed: AtomicU32,
}

impl Slot {
    fn new() -> Immortal<Self> {
        Immortal::new(Slot {
            owner: StackOwner::default(),
            memory: [Mail::new(), Mail::new()],
            freed: AtomicU32::new(0),
        })
    }

    /// Returns an address, aligned like that of a G, that stands for goroutine `index`.
    fn g(index: usize) -> NonNull<()> {
        NonNull::new(ptr::without_provenance_mut(16 * (index + 1))).unwrap()
    }

    fn free(&self, g: NonNull<()>) {
        self.memory[g.as_ptr().addr() / 16 - 1].put(0);
        self.freed.fetch_add(1, Ordering::Relaxed);
    }

    fn start(&self, index: usize) {
        self.memory[index].put(7);
        self.owner.bind(Self::g(index));
    }

    fn end(&self, index: usize) {
        if self.owner.unbind() {
            self.free(Self::g(index));
        }
    }

    fn look(&self) {
        let Some(g) = self.owner.pin() else { return };
        assert_eq!(self.memory[g.as_ptr().addr() / 16 - 1].get(), 7);
        if !self.owner.unpin(g) {
            self.free(g);
        }
    }
}

#[test]
fn a_returned_goroutine_is_freed_once_after_its_last_watcher() {
    check(|| {
        let owner = Slot::new();
        let slot = owner.get();
        slot.start(0);
        let watchers = [(); 2].map(|()| thread::spawn(|| slot.look()));
        slot.end(0);
        for watcher in watchers {
            watcher.join().unwrap();
        }
        assert_eq!(slot.freed.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_stack_takes_its_next_goroutine_while_a_watcher_pins_the_last() {
    check(|| {
        let owner = Slot::new();
        let slot = owner.get();
        let watcher = thread::spawn(|| {
            slot.look();
            slot.look();
        });
        for index in [0, 1] {
            slot.start(index);
            slot.end(index);
        }
        watcher.join().unwrap();
        assert_eq!(slot.freed.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn threads_that_prepare_stacks_at_once_prepare_each_once() {
    check(|| {
        let os = Immortal::new(ModelOs::default());
        let slots = 4 * BATCH as usize;
        let arena = Arena::reserve_slots(
            os.get(),
            Size::ORDINARY,
            MIN_STACK,
            4096,
            0,
            slots,
            slots * MIN_STACK,
        );
        let owner = Immortal::new(arena.unwrap());
        let arena = owner.get();
        let other = thread::spawn(|| arena.reserve_stacks(1).unwrap());
        arena.reserve_stacks(BATCH).unwrap();
        other.join().unwrap();
        let mut free = arena.free.lock();
        let mut seen = std::vec![false; slots];
        while let Some(index) = free.pop() {
            assert!(
                !std::mem::replace(&mut seen[index as usize], true),
                "slot {index} is free twice"
            );
        }
        // A thread that comes second may prepare one batch more than is needed.
        let prepared = arena.prepared.load(Ordering::Relaxed) as usize;
        assert!(
            prepared > BATCH as usize
                && seen
                    .iter()
                    .enumerate()
                    .all(|(index, &free)| free == (index < prepared))
        );
    });
}
