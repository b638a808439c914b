//! Table: what a backend remembers about the descriptors that it watches, by number.
//!
//! The race: a number is used again as soon as it is closed, while the kernel may still report an
//! event of its last use. So the kernel gets a [`Key`]: the number and a count of its uses. An
//! event whose key is not the slot's key is stale.
//!
//! The kernel hands out the lowest free number (open(2)), so the table is as long as the most
//! descriptors that were ever open at once.

use alloc::vec::Vec;
use gopark_core::tagptr::TaggedPtr;

/// One use of a descriptor number. As a word, for the kernel to keep:
///
/// ```text
///   63 ............ 32 | 31 ........ 0
///   use, never 0         number
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key(pub(crate) u64);

impl Key {
    pub(crate) const fn fd(self) -> i32 {
        self.0 as i32
    }
}

/// An open descriptor.
pub(crate) struct Slot<T> {
    pub(crate) key: Key,
    /// The token that its events carry.
    pub(crate) token: TaggedPtr,
    pub(crate) state: T,
}

/// Slots by descriptor number.
pub(crate) struct Table<T> {
    slots: Vec<Option<Slot<T>>>,
    /// Uses given out. It wraps after 2³² uses, and no event stays in the kernel for so long.
    uses: u32,
}

impl<T> Table<T> {
    pub(crate) const fn new() -> Self {
        Table {
            slots: Vec::new(),
            uses: 0,
        }
    }

    /// Returns a new key for `fd`.
    pub(crate) fn next_key(&mut self, fd: i32) -> Key {
        self.uses = self.uses.wrapping_add(1).max(1);
        Key(u64::from(self.uses) << 32 | u64::from(fd as u32))
    }

    /// Fills the slot of `key`, whose descriptor is open.
    pub(crate) fn fill(&mut self, key: Key, token: TaggedPtr, state: T) {
        let index = key.fd() as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index] = Some(Slot { key, token, state });
    }

    /// The slot of `fd`, if it is filled.
    pub(crate) fn at(&mut self, fd: i32) -> Option<&mut Slot<T>> {
        self.slots.get_mut(fd as usize)?.as_mut()
    }

    /// The slot of `key`, unless that use is over.
    pub(crate) fn get(&mut self, key: Key) -> Option<&mut Slot<T>> {
        self.at(key.fd()).filter(|slot| slot.key == key)
    }

    /// Empties the slot of `fd` and returns what was in it.
    pub(crate) fn empty(&mut self, fd: i32) -> Option<Slot<T>> {
        self.slots.get_mut(fd as usize)?.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gopark_core::tagptr::ALIGN;

    #[test]
    fn a_stale_key_finds_no_slot() {
        let mut table = Table::new();
        let token = TaggedPtr::pack(ALIGN, 1);
        let first = table.next_key(7);
        table.fill(first, token, 'a');
        assert_eq!(table.get(first).map(|slot| slot.state), Some('a'));
        assert_eq!(table.empty(7).map(|slot| slot.state), Some('a'));
        assert!(
            table.get(first).is_none() && table.empty(7).is_none() && table.empty(-1).is_none()
        );

        let second = table.next_key(7);
        table.fill(second, token, 'b');
        assert!(table.get(first).is_none(), "stale");
        assert_eq!(
            table.get(second).map(|slot| (slot.state, slot.key.fd())),
            Some(('b', 7))
        );
    }

    #[test]
    fn a_count_of_uses_that_wraps_skips_zero() {
        let mut table = Table::<()> {
            slots: Vec::new(),
            uses: u32::MAX,
        };
        assert_eq!(table.next_key(0).0 >> 32, 1);
    }
}
