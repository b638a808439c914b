//! Stacks of several sizes: ordinary ones, and larger ones for the few goroutines that ask for them.
//!
//! Each larger size, a power of two, has an arena of its own, reserved when a goroutine first asks for
//! that size. Of a slot there, the upper half is the stack, and the lower half stays closed: a guard
//! without a guard region. A larger stack is promised and opened one at a time, and gives its memory
//! back when its goroutine has returned.

use super::{
    Arena, CACHE_LINE, COLOURS, Exhausted, RESERVE, SIZE_SHIFT, Shortage, Slot, SlotCache, Stack,
    StackOwner,
};
use crate::os::{Errno, Observe, Os};
use crate::sync::{Lock, Once};
use alloc::boxed::Box;

/// The smallest size of a larger stack. Fewer sizes are fewer places to look for a stack.
const SMALLEST: usize = 1 << 20;

/// 1 MiB to 1 GiB, which is [`MAX_STACK`](super::MAX_STACK).
const SIZES: usize = 11;

/// Of a limited address space each size takes one part in so many, or one stack if that is more.
/// Eleven such parts and the quarter of the ordinary ones leave the program two fifths.
const SHARE: usize = 32;

/// All stacks of a scheduler.
pub struct Stacks {
    ordinary: Arena,
    /// There once a goroutine has asked for one.
    larger: Once<&'static Larger>,
}

/// An arena for each size that was asked for, smallest first, and what is done with them: a program that
/// never asks is linked without.
struct Larger {
    arenas: [Once<Arena>; SIZES],
    at: fn(&Larger, usize) -> Option<&Arena>,
    of: fn(&Larger, Size) -> &Arena,
    take: fn(&Larger, Size) -> (Slot, Stack, &StackOwner),
    put: fn(&Larger, Slot),
}

/// Which arena a goroutine's stack comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Size(u32);

impl Size {
    pub(crate) const ORDINARY: Size = Size(0);

    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// What [`number`](Self::number) gave.
    pub(crate) fn from_number(number: u32) -> Self {
        Size(number)
    }

    fn of(slot: Slot) -> Self {
        Size(slot.0 >> SIZE_SHIFT)
    }

    /// Its place among the larger ones. `None` for ordinary stacks.
    fn place(self) -> Option<usize> {
        (self.0 as usize).checked_sub(1)
    }
}

impl Larger {
    fn new() -> Self {
        Larger {
            arenas: core::array::from_fn(|_| Once::new()),
            at: Larger::at,
            of: Larger::of,
            take: Larger::take,
            put: Larger::put,
        }
    }

    fn arenas(&self) -> impl Iterator<Item = &Arena> {
        self.arenas.iter().filter_map(Once::get)
    }

    /// The arena that `address` lies in.
    fn at(&self, address: usize) -> Option<&Arena> {
        self.arenas()
            .find(|arena| arena.index_of(address).is_some())
    }

    fn of(&self, size: Size) -> &Arena {
        let arena = size.place().and_then(|place| self.arenas.get(place)?.get());
        arena.unwrap_or_else(|| panic!("stacks of this size were promised"))
    }

    fn take(&self, size: Size) -> (Slot, Stack, &StackOwner) {
        let arena = self.of(size);
        let slot = arena.take_one();
        (slot, arena.stack(slot), arena.owner(slot))
    }

    fn put(&self, slot: Slot) {
        let arena = self.of(Size::of(slot));
        arena.discard_slot(slot);
        arena.give_back(slot);
        arena.release(1);
    }
}

impl Stacks {
    /// Reserves ordinary stacks, as [`Arena::reserve`] says.
    pub(crate) fn reserve(
        os: &'static dyn Os,
        stack_size: usize,
        guard: usize,
        procs: usize,
    ) -> Result<Self, Errno> {
        Ok(Stacks {
            ordinary: Arena::reserve(os, stack_size, guard, procs)?,
            larger: Once::new(),
        })
    }

    /// Bytes of address space of an ordinary stack.
    pub fn stack_size(&self) -> usize {
        self.ordinary.stack_size()
    }

    /// If `address` is in the guard of a stack: how many bytes that has, and how many of them a
    /// goroutine can use. May be called in a signal handler.
    pub fn overflowed(&self, address: usize) -> Option<(usize, usize)> {
        let arena = self
            .arena_at(address)
            .filter(|arena| arena.is_guard(address))?;
        Some((arena.bytes, arena.usable()))
    }

    /// The anchor of the stack that `address` lies in. The ordinary arena comes first: this is how a
    /// goroutine is known wherever it parks or wakes others.
    #[inline]
    pub(crate) fn anchor_at(&self, address: usize) -> Option<&StackOwner> {
        match self.ordinary.anchor_at(address) {
            None => self.larger_at(address)?.anchor_at(address),
            owner => owner,
        }
    }

    #[inline]
    fn larger_at(&self, address: usize) -> Option<&Arena> {
        let larger = self.larger.get()?;
        (larger.at)(larger, address)
    }

    fn arena_at(&self, address: usize) -> Option<&Arena> {
        Some(&self.ordinary)
            .filter(|arena| arena.index_of(address).is_some())
            .or_else(|| self.larger_at(address))
    }

    fn arena(&self, size: Size) -> &Arena {
        match self.larger.get() {
            Some(larger) if size != Size::ORDINARY => (larger.of)(larger, size),
            _ => &self.ordinary,
        }
    }

    /// Every arena there is.
    fn arenas(&self) -> impl Iterator<Item = &Arena> {
        core::iter::once(&self.ordinary).chain(
            self.larger
                .get()
                .into_iter()
                .flat_map(|larger| larger.arenas()),
        )
    }

    /// The slots that were ever used, or will be next.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> {
        self.arenas().flat_map(Arena::slots)
    }

    /// As [`Arena::owner`].
    pub(crate) fn owner(&self, slot: Slot) -> &StackOwner {
        self.arena(Size::of(slot)).owner(slot)
    }

    /// As [`Arena::end_of`].
    pub(crate) fn end_of(&self, address: usize) -> Option<usize> {
        self.arena_at(address)?.end_of(address)
    }

    /// As [`Arena::resident`].
    pub(crate) fn resident(&self, system: &dyn Observe) -> Option<u64> {
        self.arenas().map(|arena| arena.resident(system)).sum()
    }

    /// As [`Arena::resident_in`], for the stack that `address` lies in.
    pub(crate) fn resident_at(&self, address: usize, system: &dyn Observe) -> Option<u64> {
        let arena = self.arena_at(address)?;
        arena.resident_in(arena.slot_of(address)?, system)
    }

    /// As [`Arena::unused_below`].
    pub(crate) fn unused_below(&self, sp: usize) -> Option<(usize, usize)> {
        self.arena_at(sp)?.unused_below(sp)
    }

    /// As [`Arena::discard`].
    ///
    /// # Safety
    ///
    /// As there.
    pub(crate) unsafe fn discard(&self, start: usize, end: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.ordinary.discard(start, end) };
    }

    /// As [`Arena::discard_free`]. Free larger stacks have no memory.
    pub(crate) fn discard_free(&self) {
        self.ordinary.discard_free();
    }

    /// Makes sure that `n` more goroutines will find an ordinary stack when they start.
    pub(crate) fn reserve_stacks(&self, n: u32) -> Result<(), Exhausted> {
        self.ordinary.reserve_stacks(n)
    }

    /// Takes back `n` promises of ordinary stacks.
    pub(crate) fn release(&self, n: u32) {
        self.ordinary.release(n);
    }

    /// The size of the stacks that have at least `bytes` for a goroutine to use; the largest for more.
    pub(crate) fn size_for(&self, bytes: usize) -> Size {
        if bytes <= self.ordinary.usable() {
            return Size::ORDINARY;
        }
        let place = bytes
            .div_ceil(SMALLEST)
            .next_power_of_two()
            .trailing_zeros();
        Size(place.min(SIZES as u32 - 1) + 1)
    }

    /// Makes sure that one more goroutine will find a stack of `size`, a larger one, when it starts.
    pub(crate) fn reserve_larger(&self, size: Size) -> Result<(), Exhausted> {
        let place = size
            .place()
            .unwrap_or_else(|| panic!("ordinary stacks are promised in batches"));
        let larger = self.larger.call_once(|| Box::leak(Box::new(Larger::new())));
        let bytes = SMALLEST << place;
        let arena = larger.arenas[place].try_call_once(|| {
            let os = self.ordinary.os;
            // Room for the anchor and the colour, so that the stack is no smaller than was asked for.
            let top = (COLOURS as usize * CACHE_LINE).max(os.page_size());
            Arena::reserve_slots(
                os,
                size,
                2 * bytes,
                bytes - top,
                0,
                1,
                (RESERVE / 4).min(os.address_space() / SHARE),
            )
        });
        let none = |_| Exhausted {
            goroutines: 0,
            stack_size: bytes,
            cause: Shortage::AddressSpace,
        };
        arena.map_err(none)?.promise_from(1, 1)
    }

    /// Takes back a promise of a stack of `size`.
    pub(crate) fn release_larger(&self, size: Size) {
        self.arena(size).release(1);
    }

    /// A slot for a goroutine that has a promise of a stack of `size`, and what is in it. An ordinary
    /// one comes from `cache` if there is one.
    pub(crate) fn take(&self, size: Size, cache: &mut SlotCache) -> (Slot, Stack, &StackOwner) {
        match self.larger.get() {
            Some(larger) if size != Size::ORDINARY => (larger.take)(larger, size),
            _ => {
                let slot = self.ordinary.take(cache);
                (slot, self.ordinary.stack(slot), self.ordinary.owner(slot))
            }
        }
    }

    /// Gives back the slot of a goroutine that has ended, an ordinary one to `cache`. Without the lock of that the memory of a larger one
    /// goes back to the system, which takes long for a gigabyte.
    pub(crate) fn put(&self, cache: &Lock<SlotCache>, slot: Slot) {
        match self.larger.get() {
            Some(larger) if Size::of(slot) != Size::ORDINARY => (larger.put)(larger, slot),
            _ => self.ordinary.put(&mut cache.lock(), slot),
        }
    }

    /// As [`put`](Self::put), without a cache.
    pub(crate) fn give_back(&self, slot: Slot) {
        match self.larger.get() {
            Some(larger) if Size::of(slot) != Size::ORDINARY => (larger.put)(larger, slot),
            _ => self.ordinary.give_back(slot),
        }
    }
}
