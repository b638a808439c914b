//! libc's allocator, for `alloc`.

use core::alloc::{GlobalAlloc, Layout};

struct Malloc;

#[global_allocator]
static MALLOC: Malloc = Malloc;

// SAFETY: aligned_alloc gives blocks of that size and alignment, which free takes back.
unsafe impl GlobalAlloc for Malloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let align = layout.align().max(align_of::<usize>());
        // SAFETY: `align` is a power of two and a multiple of the pointer's size, and the size a multiple of `align`.
        unsafe { libc::aligned_alloc(align, layout.size().next_multiple_of(align)).cast() }
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: `alloc` gave the block.
        unsafe { libc::free(block.cast()) }
    }
}
