//! Models of the ring of a trace: the writer against the reader.
//!
//! The ring has two slots, so that its indices wrap. Each slot has a [`Mail`]: loom reports a race
//! if writer and reader use it without an order between them.
#![allow(unsafe_code, reason = "the ring relies on one writer and one reader")]

use super::RecordRing;
use crate::models::{Immortal, Mail, check};
use loom::thread;
use std::vec::Vec;

const SLOTS: usize = 2;

struct Traced {
    ring: RecordRing<u32>,
    mails: [Mail; SLOTS],
}

impl Traced {
    fn new() -> Immortal<Self> {
        Immortal::new(Traced {
            ring: RecordRing::new(SLOTS),
            mails: core::array::from_fn(|_| Mail::new()),
        })
    }

    /// Pushes `value` as the writer's successful push `number`.
    fn push(&self, number: usize, value: u32) -> bool {
        // SAFETY: only the model's own thread pushes.
        unsafe {
            self.ring.push(|| {
                self.mails[number % SLOTS].put(value);
                value
            })
        }
    }

    /// Pushes all of `values`, and returns those that found room.
    fn write(&self, values: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut pushed = Vec::new();
        for value in values {
            if self.push(pushed.len(), value) {
                pushed.push(value);
            }
        }
        pushed
    }

    fn read(&self, read: &mut Vec<u32>) {
        // SAFETY: there is one reader: the reader thread, and the model itself once it has joined
        // it.
        unsafe {
            self.ring.pop_all(|value| {
                assert_eq!(self.mails[read.len() % SLOTS].get(), value);
                read.push(value);
            });
        }
    }
}

#[test]
fn records_that_found_room_are_read_once_and_in_order() {
    check(|| {
        let owner = Traced::new();
        let traced = owner.get();
        let reader = thread::spawn(|| {
            let mut read = Vec::new();
            traced.read(&mut read);
            traced.read(&mut read);
            read
        });
        let pushed = traced.write(1..=4);
        let mut read = reader.join().unwrap();
        traced.read(&mut read);
        assert_eq!(read, pushed);
        assert!(pushed.len() >= SLOTS);
    });
}
