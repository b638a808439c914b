//! Stacks of several sizes: ordinary ones, and larger ones for the few goroutines that ask for
//! them.
//!
//! Each larger size, a power of two, has an arena of its own, reserved when a goroutine first asks
//! for that size. The upper half of a slot there is the stack. The lower half is never opened and
//! so serves as the guard. Larger stacks are reserved and opened one at a time, and return their
//! memory to the system when their goroutine has returned.

use super::{
    Arena, CACHE_LINE, COLOURS, Exhausted, RESERVE, SIZE_SHIFT, Shortage, Slot, SlotCache, Stack,
    StackOwner,
};
use crate::must::Must;
use crate::os::{Errno, Observe, Os};
use crate::sync::{Lock, Once, while_unparkable};
use alloc::boxed::Box;

/// The smallest size of a larger stack in bytes. Each smaller size would be one more arena to
/// search for an address.
const SMALLEST: usize = 1 << 20;

/// How many larger sizes there are: 1 MiB to 1 GiB, which is [`MAX_STACK`](super::MAX_STACK).
const SIZES: usize = 11;

/// Each size takes this fraction of a limited address space, or one stack if that is more. Eleven
/// such parts and the quarter of the ordinary stacks leave the program two fifths.
const SHARE: usize = 32;

/// All stacks of a scheduler.
pub struct Stacks {
    ordinary: Arena,
    /// Set when a goroutine first asks for a larger stack.
    larger: Once<&'static Larger>,
}

/// The arenas of the larger sizes, smallest first, each reserved on first use. Function pointers
/// lead to their code, so that a program that never asks for one links none of it.
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

    /// The size with this [`number`](Self::number).
    pub(crate) fn from_number(number: u32) -> Self {
        Size(number)
    }

    fn of(slot: Slot) -> Self {
        Size(slot.0 >> SIZE_SHIFT)
    }

    /// The index among the larger sizes. `None` for ordinary stacks.
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
        arena.must("no stack of this size was reserved")
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
    /// Reserves the arena of ordinary stacks. See [`Arena::reserve`].
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

    /// The size of an ordinary stack in bytes.
    pub fn stack_size(&self) -> usize {
        self.ordinary.stack_size()
    }

    /// If `address` lies in the guard of a stack: the size of that stack, and how many bytes of it
    /// a goroutine can use. A signal handler may call this.
    pub fn overflowed(&self, address: usize) -> Option<(usize, usize)> {
        let arena = self
            .arena_at(address)
            .filter(|arena| arena.is_guard(address))?;
        Some((arena.bytes, arena.usable()))
    }

    /// The owner words of the stack that `address` lies in. It looks in the ordinary arena first,
    /// since every park and every wake-up calls it.
    #[inline]
    pub(crate) fn owner_at(&self, address: usize) -> Option<&StackOwner> {
        match self.ordinary.owner_at(address) {
            None => self.larger_at(address)?.owner_at(address),
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

    fn arenas(&self) -> impl Iterator<Item = &Arena> {
        core::iter::once(&self.ordinary).chain(
            self.larger
                .get()
                .into_iter()
                .flat_map(|larger| larger.arenas()),
        )
    }

    /// All prepared slots.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> {
        self.arenas().flat_map(Arena::slots)
    }

    /// See [`Arena::owner`].
    pub(crate) fn owner(&self, slot: Slot) -> &StackOwner {
        self.arena(Size::of(slot)).owner(slot)
    }

    /// See [`Arena::end_of`].
    pub(crate) fn end_of(&self, address: usize) -> Option<usize> {
        self.arena_at(address)?.end_of(address)
    }

    /// See [`Arena::resident`].
    pub(crate) fn resident(&self, system: &dyn Observe) -> Option<u64> {
        self.arenas().map(|arena| arena.resident(system)).sum()
    }

    /// See [`Arena::resident_in`], for the stack that `address` lies in.
    pub(crate) fn resident_at(&self, address: usize, system: &dyn Observe) -> Option<u64> {
        let arena = self.arena_at(address)?;
        arena.resident_in(arena.slot_of(address)?, system)
    }

    /// See [`Arena::unused_below`].
    pub(crate) fn unused_below(&self, sp: usize) -> Option<(usize, usize)> {
        self.arena_at(sp)?.unused_below(sp)
    }

    /// See [`Arena::discard`].
    ///
    /// # Safety
    ///
    /// As there.
    pub(crate) unsafe fn discard(&self, start: usize, end: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.ordinary.discard(start, end) };
    }

    /// See [`Arena::discard_free`]. Free larger stacks have no memory.
    pub(crate) fn discard_free(&self) {
        self.ordinary.discard_free();
    }

    /// Reserves ordinary stacks for `n` more goroutines.
    pub(crate) fn reserve_stacks(&self, n: u32) -> Result<(), Exhausted> {
        self.ordinary.reserve_stacks(n)
    }

    /// Releases `n` reservations of ordinary stacks.
    pub(crate) fn release(&self, n: u32) {
        self.ordinary.release(n);
    }

    /// The smallest size with at least `bytes` for a goroutine to use, or the largest size if none
    /// has that many.
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

    /// Reserves one larger stack of `size`.
    pub(crate) fn reserve_larger(&self, size: Size) -> Result<(), Exhausted> {
        let place = size.place().must("an ordinary stack is not reserved alone");
        let make = || &*while_unparkable(|| Box::leak(Box::new(Larger::new())));
        let larger = self.larger.call_once(make);
        let bytes = SMALLEST << place;
        let arena = larger.arenas[place].try_call_once(|| {
            let os = self.ordinary.os;
            // Room for the owner words and the colour, so that the stack is no smaller than
            // requested.
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
        arena.map_err(none)?.reserve_in_batches(1, 1)
    }

    /// Releases the reservation of a stack of `size`.
    pub(crate) fn release_larger(&self, size: Size) {
        self.arena(size).release(1);
    }

    /// Takes a slot for a goroutine that has reserved a stack of `size`. Returns the slot, its
    /// stack and its owner words. An ordinary one comes from `cache`, or else from the arena.
    #[inline]
    pub(crate) fn take(&self, size: Size, cache: &mut SlotCache) -> (Slot, Stack, &StackOwner) {
        match self.larger.get() {
            Some(larger) if size != Size::ORDINARY => (larger.take)(larger, size),
            _ => {
                let slot = self.ordinary.take(cache);
                (slot, self.ordinary.stack(slot), self.ordinary.owner(slot))
            }
        }
    }

    /// Takes back the slot of a goroutine that has returned. An ordinary one goes to `cache`. A
    /// larger one is returned without taking the lock of `cache`, since unmapping a gigabyte takes
    /// long.
    #[inline]
    pub(crate) fn put(&self, cache: &Lock<SlotCache>, slot: Slot) {
        match self.larger.get() {
            Some(larger) if Size::of(slot) != Size::ORDINARY => (larger.put)(larger, slot),
            _ => self.ordinary.put(&mut cache.lock(), slot),
        }
    }

    /// Takes back the slot of a goroutine that has returned, without a cache.
    pub(crate) fn give_back(&self, slot: Slot) {
        match self.larger.get() {
            Some(larger) if Size::of(slot) != Size::ORDINARY => (larger.put)(larger, slot),
            _ => self.ordinary.give_back(slot),
        }
    }
}
