//! Goroutine stacks: equal slots of one address range.
//!
//! Goal: many stacks that cost address space only, grow by page faults, and fault on overflow.
//!
//! The range is reserved at start without access and never unmapped. It is cut into slots of a
//! power of two bytes. A core dump, `mlockall` and the commit limit do not count slots that no
//! goroutine has used. The open part grows from the low end, a batch of slots at a time, and stays
//! one mapping. The kernel commits a page on first touch: that grows a stack from one page to its
//! limit. A slot, from low to high addresses:
//!
//! ```text
//! | guard | ........ grows down ........ <- base | owner | colour |
//! ```
//!
//! - The *guard* faults, so an overflow ends in SIGSEGV and not in the next slot. C code does not
//!   touch every page of a large frame, so the guard is larger than most frames.
//! - The *owner* words (`StackOwner`) hold the address of the G that runs here. The stack pointer
//!   leads to them by arithmetic, so the current goroutine is found without a thread-local, whose
//!   address a compiler may keep across a park, and without `std`.
//! - The *colour* shifts the top of each slot by a different number of cache lines. Equal page
//!   offsets would share one L1 set: a switch among a hundred goroutines then costs four times as
//!   much.
//!
//! A goroutine gets a slot when it first runs, so a thousand goroutines that run one after another
//! share one warm stack. The spawn reserves that slot, so running out is an error of the spawn and
//! never of the first run:
//!
//! ```text
//! slots in use <= reserved,   reserved + slack <= prepared <= capacity
//! ```
//!
//! A *prepared* slot is open and has its guard. *Slack* covers slots that are free but not in the
//! shared list: those in the cache of each P, that of a goroutine which has released its
//! reservation and is about to return, and those whose memory sysmon is returning to the system.
#![allow(
    unsafe_code,
    reason = "slots and their owner words are found by address"
)]

mod credit;
mod exhausted;
mod larger;
mod owner;

pub(crate) use credit::Credit;
pub use exhausted::{Exhausted, Shortage};
pub(crate) use larger::Size;
pub use larger::Stacks;
pub(crate) use owner::StackOwner;

use crate::must::Must;
use crate::os::{Errno, Observe, Os};
use crate::sync::{AtomicBool, AtomicU32, Lock, Ordering};
use core::ptr::{self, NonNull};

/// The smallest stack size in bytes: room for a guard, a panic message and a few frames.
pub const MIN_STACK: usize = 16 * 1024;

/// The largest stack size in bytes: Go's maximum, rounded to a power of two.
pub const MAX_STACK: usize = 1 << 30;

/// Bytes of guard below each stack, or a quarter of the stack if that is less. Debian's glibc has
/// frames of 8 KiB (name lookups), 14 KiB (`strtold`) and 33 KiB (`vfwprintf`) that touch none of
/// the pages in between.
pub const GUARD: usize = 64 * 1024;

/// How many free slots a P's cache holds.
pub(crate) const CACHE: usize = 64;

/// The rule whose breach leaves a goroutine without a slot.
const UNRESERVED: &str = "stack arena: more goroutines started than have reserved a stack";

/// How many slots move between a P and the arena at once, and are prepared at once. Few under loom.
const BATCH: u32 = if cfg!(loom) { 2 } else { CACHE as u32 / 2 };

/// How many bytes of address space to ask for; halved until the system agrees. 4 of the 128 TiB
/// that x86-64 has. Little under loom, whose system backs it with real memory.
const RESERVE: usize = if cfg!(loom) {
    1 << 22
} else if usize::BITS == 64 {
    1 << 42
} else {
    1 << 29
};

/// Ordinary stacks take this fraction of a limited address space. The rest is for the program's
/// heap, threads and libraries, and for larger stacks.
const SHARE: usize = 4;

/// A scheduler does not start with fewer slots than this beyond the slack.
const MIN_SLOTS: usize = 64;

/// How many entries of the list of free slots are opened at once: 64 KiB of them, a multiple of
/// every page size in use.
const INDICES: u32 = 16 * 1024;

/// How many cache lines the tops are spread over: half a page, so that a small goroutine still fits
/// into one page.
const COLOURS: u32 = 32;
const CACHE_LINE: usize = 64;
const OWNER_SIZE: usize = size_of::<StackOwner>();

/// All stacks of one size.
pub(crate) struct Arena {
    os: &'static dyn Os,
    size: Size,
    /// The stack size in bytes that settings and reports show.
    bytes: usize,
    base: usize,
    /// log2 of the slot size.
    shift: u32,
    /// Bytes at the low end of each slot that fault: a guard in ordinary slots, never opened in
    /// larger ones.
    guard: usize,
    capacity: u32,
    /// How many slots to prepare beyond those reserved. See the module's head.
    slack: u32,
    /// Set while a thread prepares slots. A thread that needs more waits until it is clear.
    growing: AtomicBool,
    /// Slots below this index are open and have their guard. Written by the thread that set
    /// `growing`.
    prepared: AtomicU32,
    /// How many slots goroutines have reserved.
    reserved: AtomicU32,
    indices: NonNull<u32>,
    free: Lock<FreeSlots>,
}

// SAFETY: `indices` is the address of a reservation, and only the holder of the lock of `free`
// accesses what is there.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

/// A LIFO list of slot indices in reserved memory of its own, so that `push` never allocates.
struct FreeSlots {
    indices: NonNull<u32>,
    len: usize,
    /// The first so many entries name slots without memory behind them.
    clean: usize,
}

// SAFETY: the indices are reached only through this value, which is behind a lock.
unsafe impl Send for FreeSlots {}

impl Arena {
    /// Reserves an arena of slots of `stack_size` bytes (a power of two) for `procs` Ps. The lowest
    /// `guard` bytes of each slot (whole pages) have no access.
    pub(crate) fn reserve(
        os: &'static dyn Os,
        stack_size: usize,
        guard: usize,
        procs: usize,
    ) -> Result<Self, Errno> {
        let slack = procs * (CACHE + 1) + BATCH as usize;
        Self::reserve_slots(
            os,
            Size::ORDINARY,
            stack_size,
            guard,
            slack,
            slack + MIN_SLOTS,
            RESERVE.min(os.address_space() / SHARE),
        )
    }

    /// Reserves at least `slots` slots, and as many as fit into `most` bytes.
    fn reserve_slots(
        os: &'static dyn Os,
        size: Size,
        stack_size: usize,
        guard: usize,
        slack: usize,
        slots: usize,
        most: usize,
    ) -> Result<Self, Errno> {
        let least = slots.checked_mul(stack_size).ok_or(Errno::ENOMEM)?;
        let mut len = most.max(least);
        let base = loop {
            match os.reserve(len) {
                Ok(base) => break base,
                Err(errno) if len == least => return Err(errno),
                Err(_) => len = (len / 2).max(least),
            }
        };
        let capacity = len / stack_size;
        let indices = os
            .reserve(
                (capacity * size_of::<u32>()).next_multiple_of(INDICES as usize * size_of::<u32>()),
            )?
            .cast();
        Ok(Arena {
            os,
            size,
            bytes: if size == Size::ORDINARY {
                stack_size
            } else {
                stack_size / 2
            },
            base: base.as_ptr() as usize,
            shift: stack_size.trailing_zeros(),
            guard,
            capacity: capacity as u32,
            slack: slack as u32,
            growing: AtomicBool::new(false),
            prepared: AtomicU32::new(0),
            reserved: AtomicU32::new(0),
            indices,
            free: Lock::new(FreeSlots {
                indices,
                len: 0,
                clean: 0,
            }),
        })
    }

    /// The size of a slot in bytes.
    pub(crate) fn stack_size(&self) -> usize {
        1 << self.shift
    }

    /// The slot that `address` lies in. `None` outside the arena.
    #[inline]
    pub(crate) fn slot_of(&self, address: usize) -> Option<Slot> {
        self.index_of(address).map(|index| self.slot(index))
    }

    #[inline]
    fn index_of(&self, address: usize) -> Option<u32> {
        let offset = address.wrapping_sub(self.base);
        (offset >> self.shift < self.capacity as usize).then_some((offset >> self.shift) as u32)
    }

    #[inline]
    fn slot(&self, index: u32) -> Slot {
        Slot(self.size.number() << SIZE_SHIFT | index)
    }

    /// How many bytes of a stack a goroutine can use.
    fn usable(&self) -> usize {
        self.stack_size() - self.guard - COLOURS as usize * CACHE_LINE
    }

    /// Whether `address` lies in the guard of an open slot.
    pub(crate) fn is_guard(&self, address: usize) -> bool {
        let within = address.wrapping_sub(self.base) & (self.stack_size() - 1);
        let opened = |index| index < self.prepared.load(Ordering::Acquire);
        self.index_of(address).is_some_and(opened) && within < self.guard
    }

    /// The owner words of a slot. Any thread may read them, even in a signal handler.
    #[inline]
    pub(crate) fn owner(&self, slot: Slot) -> &StackOwner {
        self.owner_of(slot.index())
    }

    /// The owner words of the stack that `address` lies in. `None` outside the arena.
    #[inline]
    pub(crate) fn owner_at(&self, address: usize) -> Option<&StackOwner> {
        self.index_of(address).map(|index| self.owner_of(index))
    }

    #[inline]
    fn owner_of(&self, index: u32) -> &StackOwner {
        // SAFETY: the address lies in a slot of the reservation, above its guard. The caller runs
        // on that stack or has the number of a prepared slot, so the memory is open, zeroed at
        // first, and never closed. It is accessed as this type only. It is aligned, because slots
        // are and colours are whole cache lines.
        unsafe { &*(self.top(index) as *const StackOwner) }
    }

    /// The upper end of the stack that `address` lies in. `None` outside every stack.
    pub(crate) fn end_of(&self, address: usize) -> Option<usize> {
        self.index_of(address)
            .map(|index| self.top(index))
            .filter(|&end| address <= end)
    }

    /// All prepared slots: those that were ever used, and those that are next.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> {
        (0..self.prepared.load(Ordering::Acquire)).map(|index| self.slot(index))
    }

    #[inline]
    fn top(&self, index: u32) -> usize {
        let colour = (index % COLOURS) as usize * CACHE_LINE;
        self.base + ((index as usize + 1) << self.shift) - colour - OWNER_SIZE
    }

    /// The usable part of a slot.
    pub(crate) fn stack(&self, slot: Slot) -> Stack {
        Stack {
            base: self.top(slot.index()),
            limit: self.bottom(slot.index()),
        }
    }

    /// Bytes of memory behind all stacks, estimated from a sample spread over all slots. `None` if
    /// the system does not report it.
    pub(crate) fn resident(&self, system: &dyn Observe) -> Option<u64> {
        const SAMPLE: u64 = 256;
        let slots = u64::from(self.prepared.load(Ordering::Acquire));
        let sample = slots.min(SAMPLE);
        let seen = (0..sample)
            .map(|i| self.resident_in(self.slot((i * slots / sample) as u32), system))
            .sum::<Option<u64>>()?;
        // Asks once more, so that an arena without stacks also returns `None` where the system does
        // not report it.
        system
            .resident(NonNull::dangling(), 0)
            .map(|_| seen * slots / sample.max(1))
    }

    /// Bytes of memory behind one stack: the deepest use since its memory was last returned to the
    /// system. A goroutine touches its stack from the top down, so the count ends at the first long
    /// stretch without memory.
    pub(crate) fn resident_in(&self, slot: Slot, system: &dyn Observe) -> Option<u64> {
        let stretch = (64 * self.os.page_size()).min(self.stack_size());
        let mut seen = 0;
        let bottom = self.base + ((slot.index() as usize) << self.shift);
        for start in (bottom..bottom + self.stack_size()).step_by(stretch).rev() {
            let start =
                NonNull::new(ptr::without_provenance_mut(start)).must("a stack is at address zero");
            match system.resident(start, stretch)? {
                0 => break,
                bytes => seen += bytes as u64,
            }
        }
        Some(seen)
    }

    /// Reserves stacks for `n` more goroutines, which then find a slot when they start.
    pub(crate) fn reserve_stacks(&self, n: u32) -> Result<(), Exhausted> {
        self.reserve_in_batches(n, BATCH)
    }

    /// Reserves `n` stacks. Prepares slots `batch` at a time: [`BATCH`] ordinary ones, or one
    /// larger.
    fn reserve_in_batches(&self, n: u32, batch: u32) -> Result<(), Exhausted> {
        let reserved = self.reserved.fetch_add(n, Ordering::Relaxed) + n;
        while self.prepared.load(Ordering::Relaxed) < reserved + self.slack {
            if self
                .growing
                .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                .is_err()
            {
                // The other thread takes some microseconds, unless it has lost its CPU.
                self.os.yield_thread();
                continue;
            }
            let prepared = self.prepare(batch);
            self.growing.store(false, Ordering::Release);
            prepared.map_err(|cause| {
                let before = self.reserved.fetch_sub(n, Ordering::Relaxed);
                Exhausted {
                    goroutines: before - n,
                    stack_size: self.bytes,
                    cause,
                }
            })?;
        }
        Ok(())
    }

    /// Releases `n` reservations.
    pub(crate) fn release(&self, n: u32) {
        self.reserved.fetch_sub(n, Ordering::Relaxed);
    }

    /// Prepares the next `batch` slots. The caller has set `growing`.
    fn prepare(&self, batch: u32) -> Result<(), Shortage> {
        let first = self.prepared.load(Ordering::Relaxed);
        if first + batch > self.capacity {
            return Err(Shortage::AddressSpace);
        }
        self.open(first, batch).map_err(Shortage::Memory)?;
        for index in first..first + batch {
            if batch == BATCH {
                // SAFETY: these are the lowest pages of an open slot that no goroutine has had.
                unsafe { self.os.guard(self.address(index), self.guard) }
                    .map_err(Shortage::Guard)?;
            }
            self.free.lock().push(index);
            // Release pairs with the Acquire in `slots`: a watcher reads the owner words of the
            // slots that it counts.
            self.prepared.store(index + 1, Ordering::Release);
        }
        Ok(())
    }

    /// Opens `batch` slots from `first` on and, where a new part of the list of free slots begins,
    /// that part. Some may be open already, if their guard was refused before.
    fn open(&self, first: u32, batch: u32) -> Result<(), Errno> {
        let part = (first + batch - 1) / INDICES;
        if first
            .checked_sub(1)
            .is_none_or(|last| last / INDICES != part)
        {
            // SAFETY: the reservation is a multiple of `INDICES` long, and has no guards.
            unsafe {
                self.os.open(
                    self.indices.add((part * INDICES) as usize).cast(),
                    INDICES as usize * size_of::<u32>(),
                )
            }?;
        }
        // The lower half of a larger slot stays closed.
        let closed = if batch == BATCH { 0 } else { self.guard };
        // SAFETY: the slots lie in the reservation, and no goroutine has one of them.
        unsafe {
            self.os.open(
                self.address(first).add(closed),
                ((batch as usize) << self.shift) - closed,
            )
        }
    }

    /// The lowest address of a slot.
    fn address(&self, index: u32) -> NonNull<u8> {
        // SAFETY: an address inside the reservation is not null.
        unsafe { NonNull::new_unchecked((self.base + ((index as usize) << self.shift)) as *mut u8) }
    }

    /// Takes a slot for a goroutine that has reserved one, from `cache` or else from the arena.
    pub(crate) fn take(&self, cache: &mut SlotCache) -> Slot {
        if let Some(index) = cache.pop() {
            return self.slot(index);
        }
        let mut free = self.free.lock();
        let index = free.pop().must(UNRESERVED);
        for _ in 1..BATCH {
            let Some(index) = free.pop() else { break };
            cache
                .push(index)
                .ok()
                .must("a batch of stacks does not fit into an empty cache");
        }
        self.slot(index)
    }

    /// Takes a slot for a goroutine that has reserved one, without a cache.
    fn take_one(&self) -> Slot {
        self.slot(self.free.lock().pop().must(UNRESERVED))
    }

    /// Takes back a slot of a goroutine that has returned, without a cache.
    pub(crate) fn give_back(&self, slot: Slot) {
        self.free.lock().push(slot.index());
    }

    /// Returns the memory of a slot to the system. Its goroutine has returned.
    fn discard_slot(&self, slot: Slot) {
        let start = self.bottom(slot.index());
        // SAFETY: the bytes are the slot above its guard, and no goroutine has the slot. Zero is
        // what unbound owner words hold.
        unsafe { self.discard(start, start + self.stack_size() - self.guard) };
    }

    /// Returns the memory of free slots to the system, except those in the caches of Ps.
    pub(crate) fn discard_free(&self) {
        loop {
            let mut batch = heapless::Vec::<u32, { BATCH as usize }>::new();
            {
                let mut free = self.free.lock();
                batch.extend(core::iter::from_fn(|| free.pop_dirty()).take(BATCH as usize));
            }
            if batch.is_empty() {
                return;
            }
            for &index in &batch {
                self.discard_slot(self.slot(index));
            }
            let mut free = self.free.lock();
            batch.into_iter().for_each(|index| free.push_clean(index));
        }
    }

    /// The unused part of a stack whose goroutine has stopped at `sp`, as whole pages: its start
    /// and its end. `None` if it is empty.
    pub(crate) fn unused_below(&self, sp: usize) -> Option<(usize, usize)> {
        let page = self.os.page_size();
        let start = self.bottom(self.index_of(sp)?);
        // A goroutine stops a little below the `sp` that it notes, since the switch to its M is
        // still to come: leave one page.
        let end = (sp & !(page - 1)) - page;
        (start < end).then_some((start, end))
    }

    /// The lowest address above the guard.
    fn bottom(&self, index: u32) -> usize {
        self.base + ((index as usize) << self.shift) + self.guard
    }

    /// Returns the memory between two addresses to the system.
    ///
    /// # Safety
    ///
    /// They bound whole pages of one slot, and no code relies on what is there.
    pub(crate) unsafe fn discard(&self, start: usize, end: usize) {
        let pointer = NonNull::new(start as *mut u8).must("a stack is at address zero");
        // SAFETY: the caller's promise.
        unsafe { self.os.discard(pointer, end - start) };
    }

    /// Takes back the slot of a goroutine that has returned.
    pub(crate) fn put(&self, cache: &mut SlotCache, slot: Slot) {
        if cache.is_full() {
            let mut free = self.free.lock();
            for _ in 0..BATCH {
                free.push(
                    cache
                        .pop()
                        .must("a full cache of stacks holds less than a batch"),
                );
            }
        }
        cache
            .push(slot.index())
            .ok()
            .must("a cache of stacks is full after a batch left it");
    }
}

impl FreeSlots {
    fn push(&mut self, index: u32) {
        // SAFETY: every index is in the list at most once, so `len` stays below the capacity that
        // the memory was reserved for.
        unsafe { self.indices.add(self.len).write(index) };
        self.len += 1;
    }

    fn pop(&mut self) -> Option<u32> {
        self.len = self.len.checked_sub(1)?;
        self.clean = self.clean.min(self.len);
        // SAFETY: `push` wrote this element.
        Some(unsafe { self.indices.add(self.len).read() })
    }

    fn pop_dirty(&mut self) -> Option<u32> {
        if self.len > self.clean {
            self.pop()
        } else {
            None
        }
    }

    fn push_clean(&mut self, index: u32) {
        self.push(index);
        // SAFETY: both elements were written, and `clean` is less than `len`.
        unsafe {
            ptr::swap(
                self.indices.add(self.clean).as_ptr(),
                self.indices.add(self.len - 1).as_ptr(),
            )
        };
        self.clean += 1;
    }
}

/// Free slots of one P, used last in, first out: their pages are warm.
pub(crate) type SlotCache = heapless::Vec<u32, CACHE>;

/// The number of a slot: its size and its index among the slots of that size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot(pub(crate) u32);

/// The bit from which the size is stored. The bits below are enough for the slots of the smallest
/// stacks.
const SIZE_SHIFT: u32 = 28;
const _: () = assert!(RESERVE / MIN_STACK <= 1 << SIZE_SHIFT);

impl Slot {
    #[inline]
    fn index(self) -> u32 {
        self.0 & ((1 << SIZE_SHIFT) - 1)
    }
}

/// The bounds of a goroutine's stack, both 16-aligned: pages, owner words and colours are multiples
/// of 16.
pub(crate) struct Stack {
    /// The upper end.
    pub(crate) base: usize,
    /// The lower end. The guard is below.
    #[cfg_attr(
        any(loom, not(test)),
        allow(dead_code, reason = "sanitizers and corosensei ask for it")
    )]
    pub(crate) limit: usize,
}

/// The approximate stack pointer of the caller.
#[inline(always)]
pub(crate) fn stack_pointer() -> usize {
    #[allow(
        unused_imports,
        reason = "other architectures take the address of a local"
    )]
    use core::arch::asm;

    let sp: usize;
    cfg_if::cfg_if! {
        if #[cfg(target_arch = "x86_64")] {
            // SAFETY: the asm only reads a register.
            unsafe {
                asm!("mov {}, rsp", out(reg) sp, options(nomem, nostack, preserves_flags));
            }
        } else if #[cfg(target_arch = "x86")] {
            // SAFETY: the asm only reads a register.
            unsafe {
                asm!("mov {}, esp", out(reg) sp, options(nomem, nostack, preserves_flags));
            }
        } else if #[cfg(any(target_arch = "aarch64", target_arch = "arm"))] {
            // SAFETY: the asm only reads a register.
            unsafe {
                asm!("mov {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags));
            }
        } else if #[cfg(any(target_arch = "riscv64", target_arch = "riscv32"))] {
            // SAFETY: the asm only reads a register.
            unsafe {
                asm!("mv {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags));
            }
        } else if #[cfg(target_arch = "loongarch64")] {
            // SAFETY: the asm only reads a register.
            unsafe {
                asm!("move {}, $sp", out(reg) sp, options(nomem, nostack, preserves_flags));
            }
        } else {
            let here = 0u8;
            sp = core::hint::black_box(&raw const here) as usize;
        }
    }
    sp
}

#[cfg(all(test, loom))]
#[path = "../models/stack.rs"]
mod models;
