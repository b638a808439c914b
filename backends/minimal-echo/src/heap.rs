//! An allocator for `alloc`: a free list for each power of two up to half a page, which takes a
//! page at a time from the kernel. Larger blocks are mappings of their own.
//!
//! Goal: a static program saves 7 KB, the size of musl's allocator. The price: pages of small
//! blocks are never given back, so a server keeps the memory of its busiest hour.
#![allow(unsafe_code, reason = "an allocator hands out memory by address")]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

/// Bytes. Blocks of up to half of this are in lists.
const PAGE: usize = 4096;
/// Bytes of the smallest block.
const MIN_BLOCK: usize = 16;
const LISTS: usize = (PAGE / MIN_BLOCK).ilog2() as usize;

/// Free lists by block size. A free block holds the address of the next.
struct Heap {
    // Set while a thread uses `lists`.
    locked: AtomicBool,
    lists: UnsafeCell<[*mut u8; LISTS]>,
}

// SAFETY: the lists are used under the lock.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap {
    locked: AtomicBool::new(false),
    lists: UnsafeCell::new([ptr::null_mut(); LISTS]),
};

// SAFETY: a block has a power of two as size and alignment, up to half a page. While it is in a
// list, it has no owner.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match list(layout) {
            Some(list) => self.with(list, |first| {
                if first.is_null() {
                    *first = page_of_blocks(MIN_BLOCK << list);
                }
                let block = *first;
                if !block.is_null() {
                    // SAFETY: a free block of this list, which holds the address of the next.
                    *first = unsafe { block.cast::<*mut u8>().read() };
                }
                block
            }),
            None if layout.align() > PAGE => ptr::null_mut(),
            None => map(layout.size()),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match list(layout) {
            Some(list) => self.with(list, |first| {
                // SAFETY: the caller has given up the block, and it has room for an address.
                unsafe { block.cast::<*mut u8>().write(*first) };
                *first = block;
            }),
            // SAFETY: a mapping of this size, which the caller has given up.
            None => _ = unsafe { libc::syscall(libc::SYS_munmap, block, layout.size()) },
        }
    }
}

impl Heap {
    /// Calls `f` with the head of a list, under the lock.
    fn with<T>(&self, list: usize, f: impl FnOnce(&mut *mut u8) -> T) -> T {
        while self.locked.swap(true, Ordering::Acquire) {
            // SAFETY: no memory is passed.
            unsafe { libc::syscall(libc::SYS_sched_yield) };
        }
        // SAFETY: the lock is held.
        let result = f(unsafe { &mut (*self.lists.get())[list] });
        self.locked.store(false, Ordering::Release);
        result
    }
}

/// The index of the list for this layout. `None` if it takes whole pages.
fn list(layout: Layout) -> Option<usize> {
    let size = layout.size().max(layout.align()).max(MIN_BLOCK);
    (size <= PAGE / 2).then(|| (size.next_power_of_two() / MIN_BLOCK).ilog2() as usize)
}

/// A new page as a list of free blocks; null if the kernel has no page.
fn page_of_blocks(size: usize) -> *mut u8 {
    let page = map(PAGE);
    if !page.is_null() {
        for offset in (0..PAGE).step_by(size) {
            let next = if offset + size < PAGE {
                page.wrapping_add(offset + size)
            } else {
                ptr::null_mut()
            };
            // SAFETY: inside the new page, which no other code has seen.
            unsafe { page.add(offset).cast::<*mut u8>().write(next) };
        }
    }
    page
}

/// Whole pages from the kernel; null if it has none.
fn map(size: usize) -> *mut u8 {
    let (access, kind) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: the kernel chooses a free range, so no memory in use is touched.
    let pages = unsafe { libc::mmap(ptr::null_mut(), size, access, kind, -1, 0) };
    if pages == libc::MAP_FAILED {
        ptr::null_mut()
    } else {
        pages.cast()
    }
}
