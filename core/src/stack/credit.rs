//! Credit: stacks that an M has reserved ahead of the goroutines that it spawns.
//!
//! Every goroutine reserves its stack before it is made, so a spawn fails at once if there is none.
//! The count of reservations is one word that all threads share. An M therefore reserves a batch
//! and spends it spawn by spawn, and keeps what goroutines that return on it give back.

use super::{Exhausted, Stacks};
use crate::counter::Count;

/// Reservations that an M adds at once.
const BATCH: u32 = 32;

/// An M with more than this returns half of it.
const MOST: u32 = 64;

/// How many reservations an M has and no goroutine uses. Written on the thread of the M.
#[derive(Default)]
pub(crate) struct Credit(Count);

impl Credit {
    /// Takes one reservation for a goroutine that is about to be made.
    pub(crate) fn reserve(&self, stacks: &Stacks) -> Result<(), Exhausted> {
        match self.0.get() {
            0 => match stacks.reserve_stacks(BATCH) {
                Ok(()) => self.0.set(u64::from(BATCH) - 1),
                // There are fewer than a batch.
                Err(_) => stacks.reserve_stacks(1)?,
            },
            some => self.0.set(some - 1),
        }
        Ok(())
    }

    /// Keeps the reservation of a goroutine that returns.
    pub(crate) fn release(&self, stacks: &Stacks) {
        let credit = self.0.bump();
        if credit > u64::from(MOST) {
            self.0.set(credit - u64::from(MOST / 2));
            stacks.release(MOST / 2);
        }
    }
}
