//! The values that wait in a channel: a queue of blocks, which takes memory as it fills and gives
//! it back as it empties.
//!
//! A block is allocated and freed outside the channel's lock. The lock's holder asks for one, and
//! hands out one that is empty. A few empty blocks stay, so that a channel in steady use calls the
//! allocator no more.
#![allow(unsafe_code, reason = "slots are written and read by index")]

use crate::must::Must;
use alloc::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use core::marker::PhantomData;
use core::ptr::{self, NonNull};

/// The most slots of a block.
const MAX_SLOTS: usize = if cfg!(loom) { 2 } else { 32 };
/// A block of large values has fewer slots, so that it takes about this many bytes.
const BLOCK_BYTES: usize = 4096;
/// How many empty blocks a queue keeps at most, for a channel with a large capacity.
const MAX_SPARE: usize = 32;

struct Header<T> {
    next: Option<NonNull<Header<T>>>,
    slots: usize,
    values: PhantomData<T>,
}

/// An allocated block without values. Its slots follow the header.
pub(super) struct Block<T>(NonNull<Header<T>>);

// SAFETY: a block is memory without values, and has one owner.
unsafe impl<T> Send for Block<T> {}

impl<T> Block<T> {
    const MOST: usize = {
        let fit = match size_of::<T>() {
            0 => MAX_SLOTS,
            size => BLOCK_BYTES / size,
        };
        if fit < 2 {
            2
        } else if fit > MAX_SLOTS {
            MAX_SLOTS
        } else {
            fit
        }
    };

    /// How many slots each block of a channel has. A channel for one value, such as a timer's,
    /// needs one.
    #[inline]
    fn slots(capacity: usize) -> usize {
        if capacity == 1 { 1 } else { Self::MOST }
    }

    /// The layout of a block, and where its slots begin.
    #[inline]
    fn layout(slots: usize) -> (Layout, usize) {
        Layout::array::<T>(slots)
            .and_then(|slots| Layout::new::<Header<T>>().extend(slots))
            .ok()
            .must("a block of a channel is larger than the address space")
    }

    /// Allocates a block for a channel of this capacity.
    pub(super) fn allocate(capacity: usize) -> Self {
        let slots = Self::slots(capacity);
        let (layout, _) = Self::layout(slots);
        // SAFETY: the layout has a header, so its size is not 0.
        let memory = NonNull::new(unsafe { alloc(layout) });
        let header = memory
            .unwrap_or_else(|| handle_alloc_error(layout))
            .cast::<Header<T>>();
        // SAFETY: the memory has room for a header.
        unsafe {
            header.write(Header {
                next: None,
                slots,
                values: PhantomData,
            });
        }
        Block(header)
    }

    fn into_raw(self) -> NonNull<Header<T>> {
        let header = self.0;
        core::mem::forget(self);
        header
    }
}

impl<T> Drop for Block<T> {
    fn drop(&mut self) {
        // SAFETY: the block is alive.
        let slots = unsafe { self.0.as_ref() }.slots;
        // SAFETY: `allocate` made it with this layout, and no value is in it.
        unsafe { dealloc(self.0.as_ptr().cast(), Self::layout(slots).0) };
    }
}

/// # Safety
///
/// `block` is alive, and `index` is below the number of its slots.
#[inline]
unsafe fn slot<T>(block: NonNull<Header<T>>, index: usize) -> NonNull<T> {
    // SAFETY: the slot lies within the block's allocation.
    unsafe {
        block
            .byte_add(Block::<T>::layout(0).1)
            .cast::<T>()
            .add(index)
    }
}

/// A place in a block.
struct Cursor<T> {
    block: NonNull<Header<T>>,
    index: usize,
}

/// A FIFO queue of values. It lies under the channel's lock.
pub(super) struct Buffer<T> {
    /// The first value, if there is one. The block is dangling while there is no block.
    head: Cursor<T>,
    /// Where the next value goes: behind the last slot if that needs another block.
    tail: Cursor<T>,
    len: usize,
    /// How many slots each block has.
    slots: usize,
    has_block: bool,
    /// A list of empty blocks.
    spare: Option<NonNull<Header<T>>>,
    spares: usize,
    max_spare: usize,
}

// SAFETY: the buffer owns its values.
unsafe impl<T: Send> Send for Buffer<T> {}

/// The queue has no block for another value: the caller must offer one.
pub(super) struct NeedsBlock;

impl<T> Buffer<T> {
    /// An empty queue without memory, for a channel of this capacity.
    pub(super) fn new(capacity: usize) -> Self {
        let slots = Block::<T>::slots(capacity);
        let nowhere = || Cursor {
            block: NonNull::dangling(),
            index: slots,
        };
        Buffer {
            head: nowhere(),
            tail: nowhere(),
            len: 0,
            slots,
            has_block: false,
            spare: None,
            spares: 0,
            max_spare: match capacity {
                usize::MAX => 2,
                _ => (capacity / Block::<T>::MOST + 1).min(MAX_SPARE),
            },
        }
    }

    /// How many values there are.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds an empty block.
    pub(super) fn donate(&mut self, block: Block<T>) {
        let block = block.into_raw();
        // SAFETY: the block is the buffer's now.
        unsafe { &mut *block.as_ptr() }.next = self.spare.replace(block);
        self.spares += 1;
    }

    /// Whether a value fits after the first one was popped, without a new block.
    #[inline]
    pub(super) fn has_room_after_pop(&self) -> bool {
        self.len == 1 || self.tail.index < self.slots || self.spare.is_some()
    }

    /// The place for a value behind the others, which the caller must fill. `None` if it needs
    /// another block.
    #[inline]
    pub(super) fn push_in_block(&mut self) -> Option<NonNull<T>> {
        if self.tail.index == self.slots {
            return None;
        }
        // SAFETY: the block of the tail is alive, and the index was compared.
        let place = unsafe { slot(self.tail.block, self.tail.index) };
        self.tail.index += 1;
        self.len += 1;
        Some(place)
    }

    /// As [`push_in_block`](Self::push_in_block), but takes the block in `offered` if it needs one.
    #[inline]
    pub(super) fn push(
        &mut self,
        offered: &mut Option<Block<T>>,
    ) -> Result<NonNull<T>, NeedsBlock> {
        if self.tail.index == self.slots {
            self.extend(offered)?;
        }
        self.push_in_block().ok_or(NeedsBlock)
    }

    #[cold]
    fn extend(&mut self, offered: &mut Option<Block<T>>) -> Result<(), NeedsBlock> {
        let new = match self.spare {
            Some(first) => {
                // SAFETY: the buffer owns its spare blocks.
                self.spare = unsafe { &mut *first.as_ptr() }.next.take();
                self.spares -= 1;
                first
            }
            None => offered.take().ok_or(NeedsBlock)?.into_raw(),
        };
        if self.has_block {
            // SAFETY: the block of the tail is alive.
            unsafe { &mut *self.tail.block.as_ptr() }.next = Some(new);
        } else {
            self.has_block = true;
            self.head = Cursor {
                block: new,
                index: 0,
            };
        }
        self.tail = Cursor {
            block: new,
            index: 0,
        };
        Ok(())
    }

    /// The place of the first value, which the caller must read at once. `None` if there is none,
    /// or if it lies in the next block.
    #[inline]
    pub(super) fn pop_in_block(&mut self) -> Option<NonNull<T>> {
        if self.len == 0 || self.head.index == self.slots {
            return None;
        }
        // SAFETY: the first value lies there.
        let place = unsafe { slot(self.head.block, self.head.index) };
        self.head.index += 1;
        self.len -= 1;
        if self.len == 0 {
            // The last value lay in the last block, which is used from its start again.
            (self.head.index, self.tail.index) = (0, 0);
        }
        Some(place)
    }

    /// The place of the first value, which the caller must read at once. An empty block that is not
    /// kept goes to `freed`.
    #[inline]
    pub(super) fn pop(&mut self, freed: &mut Option<Block<T>>) -> Option<NonNull<T>> {
        if self.len > 0 && self.head.index == self.slots {
            self.advance(freed);
        }
        self.pop_in_block()
    }

    /// Moves the head to the next block.
    #[cold]
    fn advance(&mut self, freed: &mut Option<Block<T>>) {
        let empty = self.head.block;
        // SAFETY: the block of the head is alive.
        let header = unsafe { &mut *empty.as_ptr() };
        let next = header.next.take().must("a value lies in no block");
        self.head = Cursor {
            block: next,
            index: 0,
        };
        match self.spares < self.max_spare {
            true => self.donate(Block(empty)),
            false => *freed = Some(Block(empty)),
        }
    }
}

/// Blocks that move between the allocator and a buffer, outside and inside the lock.
pub(super) struct Blocks<T> {
    pub(super) offered: Option<Block<T>>,
    pub(super) freed: Option<Block<T>>,
}

impl<T> Blocks<T> {
    pub(super) fn new() -> Self {
        Blocks {
            offered: None,
            freed: None,
        }
    }

    /// Allocates a block for a channel of this capacity if none is on offer.
    #[cold]
    pub(super) fn prepare(&mut self, capacity: usize) {
        self.offered
            .get_or_insert_with(|| Block::allocate(capacity));
    }
}

impl<T> Blocks<T> {
    /// Frees what is left. Nearly always there is nothing, which costs two comparisons here and a
    /// call in the destructor.
    #[inline(always)]
    pub(super) fn free(self) {
        if let (None, None) = (&self.offered, &self.freed) {
            core::mem::forget(self);
        }
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        let mut freed = None;
        while let Some(value) = self.pop(&mut freed) {
            // SAFETY: `pop` gave the place up.
            unsafe { ptr::drop_in_place(value.as_ptr()) };
        }
        if self.has_block {
            drop(Block(self.tail.block));
        }
        while let Some(first) = self.spare {
            // SAFETY: the buffer owns its spare blocks.
            self.spare = unsafe { first.as_ref() }.next;
            drop(Block(first));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;
    use alloc::rc::Rc;

    fn push<T>(buffer: &mut Buffer<T>, value: T) -> usize {
        let mut allocated = 0;
        let mut offered = None;
        loop {
            match buffer.push(&mut offered) {
                Ok(place) => {
                    // SAFETY: the place is for a value.
                    unsafe { place.write(value) };
                    return allocated;
                }
                Err(NeedsBlock) => {
                    allocated += 1;
                    offered = Some(Block::allocate(buffer.slots));
                }
            }
        }
    }

    fn pop<T>(buffer: &mut Buffer<T>) -> Option<T> {
        // SAFETY: the place has the first value.
        buffer.pop(&mut None).map(|place| unsafe { place.read() })
    }

    #[test]
    fn it_agrees_with_a_deque() {
        let mut random = fastrand::Rng::with_seed(7);
        for capacity in [1, 100, usize::MAX] {
            let (mut buffer, mut model) = (Buffer::new(capacity), VecDeque::new());
            for i in 0..20_000 {
                if random.usize(..100) < if i / 500 % 2 == 0 { 60 } else { 40 } {
                    push(&mut buffer, i);
                    model.push_back(i);
                } else {
                    assert_eq!(pop(&mut buffer), model.pop_front());
                }
                assert_eq!(buffer.len(), model.len());
            }
        }
    }

    #[test]
    fn values_left_are_dropped() {
        let shared = Rc::new(());
        let mut buffer = Buffer::new(usize::MAX);
        for _ in 0..100 {
            push(&mut buffer, shared.clone());
        }
        drop(pop(&mut buffer));
        drop(buffer);
        assert_eq!(Rc::strong_count(&shared), 1);
    }

    #[test]
    fn a_full_and_empty_channel_allocates_once() {
        let mut buffer = Buffer::new(128);
        let mut round = || {
            let allocated: usize = (0..128).map(|i| push(&mut buffer, i)).sum();
            (0..128).for_each(|i| assert_eq!(pop(&mut buffer), Some(i)));
            allocated
        };
        assert!(round() > 0);
        assert_eq!(round() + round(), 0);
    }

    #[test]
    fn memory_is_given_back_after_a_burst() {
        let mut buffer = Buffer::new(usize::MAX);
        (0..10_000).for_each(|i| _ = push(&mut buffer, i));
        (0..10_000).for_each(|_| _ = pop(&mut buffer));
        assert!(buffer.spares <= 2);
        assert_eq!(buffer.head.block, buffer.tail.block);
    }

    #[test]
    fn values_of_any_size_fit() {
        let (mut units, mut large) = (Buffer::new(1), Buffer::new(usize::MAX));
        for i in 0..100 {
            push(&mut units, ());
            push(&mut large, [i; 10_000]);
        }
        assert_eq!(units.len(), 100);
        assert!(
            (0..100).all(|i| pop(&mut large).is_some_and(|value: [i32; 10_000]| value[9_999] == i))
        );
    }
}
