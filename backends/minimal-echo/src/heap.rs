//! An allocator for `alloc`: a free list for each power of two, filled a page at a time; what is larger has pages of its own.
//!
//! libc's costs a static program 7 KB. Pages of small blocks are never given back: the memory of a server is what its busiest hour took.
#![allow(unsafe_code, reason = "an allocator hands out memory by address")]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

const PAGE: usize = 4096;
const LEAST: usize = 16;
const LISTS: usize = (PAGE / LEAST).ilog2() as usize;

/// A free block holds the address of the next.
struct Heap {
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

// SAFETY: a block is a power of two in size and aligned to it, up to a page, and in nobody's hands while it is in a list.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match list(layout) {
            Some(list) => self.with(list, |first| {
                if first.is_null() {
                    *first = cut(LEAST << list);
                }
                let block = *first;
                if !block.is_null() {
                    // SAFETY: a free block of this list.
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
                // SAFETY: the caller has given the block up, and it has room for an address.
                unsafe { block.cast::<*mut u8>().write(*first) };
                *first = block;
            }),
            // SAFETY: a mapping of this size, given up by the caller.
            None => _ = unsafe { libc::syscall(libc::SYS_munmap, block, layout.size()) },
        }
    }
}

impl Heap {
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

/// Which list has blocks for this layout. `None`: it takes whole pages.
fn list(layout: Layout) -> Option<usize> {
    let size = layout.size().max(layout.align()).max(LEAST);
    (size <= PAGE / 2).then(|| (size.next_power_of_two() / LEAST).ilog2() as usize)
}

/// A page as a list of blocks; null if there is no page.
fn cut(size: usize) -> *mut u8 {
    let page = map(PAGE);
    if !page.is_null() {
        for offset in (0..PAGE).step_by(size) {
            let next = if offset + size < PAGE {
                page.wrapping_add(offset + size)
            } else {
                ptr::null_mut()
            };
            // SAFETY: inside the new page, which nobody else knows.
            unsafe { page.add(offset).cast::<*mut u8>().write(next) };
        }
    }
    page
}

fn map(size: usize) -> *mut u8 {
    let (access, kind) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: the kernel chooses where, so no memory in use is touched.
    let pages = unsafe { libc::mmap(ptr::null_mut(), size, access, kind, -1, 0) };
    if pages == libc::MAP_FAILED {
        ptr::null_mut()
    } else {
        pages.cast()
    }
}
