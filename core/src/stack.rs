//! Goroutine stacks: equal slots of one reservation.
//!
//! One mapping, reserved at start and never returned, is cut into slots of a power of two bytes. It
//! is reserved without access, so that neither a core dump nor `mlockall` nor the commit limit
//! knows of slots that no goroutine has had. The part that is open grows from the start of the
//! mapping, a batch of slots at a time, and stays one mapping. A slot, from low to high addresses:
//!
//! ```text
//! | guard | ........ grows down ........ <- base | anchor | colour |
//! ```
//!
//! - The *guard* faults, so an overflow ends in SIGSEGV and not in the neighbour's data. Code of C
//!   does not touch each page of a large frame, so the guard is larger than most frames.
//! - The *anchor* holds the G that runs here. Masking the stack pointer finds it: the current goroutine is known without a
//!   thread-local, whose address a compiler may keep across a park, and without `std`.
//! - The *colour* shifts each slot's top by another number of cache lines. Equal page offsets would share one L1 set: a switch among
//!   a hundred goroutines then costs four times as much.
//!
//! Pages are committed on first touch; that is the growth from one page to the limit.
//!
//! A goroutine gets a slot when it first runs, so a thousand goroutines that run one after another share one warm stack. The slot is
//! promised when the goroutine is made, so that running out is an error of the spawn and never of the first run:
//!
//! ```text
//! slots in use <= promised,   promised + margin <= prepared <= capacity
//! ```
//!
//! where *prepared* slots are open and have their guard, and *margin* is what can be held back: by
//! a P its cache, and the slot of a goroutine that has
//! given up its promise and is about to return; by sysmon those that it is giving back to the system.
#![allow(unsafe_code, reason = "anchors and slots are found by address")]

mod larger;

pub(crate) use larger::Size;
pub use larger::Stacks;

use crate::os::{Errno, Observe, Os};
use crate::sync::{AtomicBool, AtomicPtr, AtomicU32, Lock, Ordering};
use core::fmt;
use core::ptr::{self, NonNull};

/// The least stack size in bytes: room for a guard, a panic message and a few frames.
pub const MIN_STACK: usize = 16 * 1024;

/// The largest stack size in bytes, Go's maximum rounded to a power of two.
pub const MAX_STACK: usize = 1 << 30;

/// Bytes below each stack that fault, if a quarter of the stack is no less. Debian's glibc has
/// frames of 8 KiB (name lookups), 14 (`strtold`) and 33 (`vfwprintf`) that touch none of the pages
/// between.
pub const GUARD: usize = 64 * 1024;

/// Free slots one P keeps for itself.
pub(crate) const CACHE: usize = 64;

/// Slots moved between a P and the arena at once, and prepared at once. In a model few.
const BATCH: u32 = if cfg!(loom) { 2 } else { CACHE as u32 / 2 };

/// How much address space to ask for at most; halved until the system agrees. Four of the 128 TiB
/// that x86-64 has. In a model little, since what is not stacks is real memory there.
const RESERVE: usize = if cfg!(loom) {
    1 << 22
} else if usize::BITS == 64 {
    1 << 42
} else {
    1 << 29
};

/// Of a limited address space the ordinary stacks take one part in so many: the rest is for the
/// program's heap, threads and libraries, and for larger stacks.
const SHARE: usize = 4;

const ENOMEM: Errno = Errno::new(12);

/// Fewer slots than this beside the margin are not worth starting with.
const MIN_SLOTS: usize = 64;

/// Indices of free slots for which memory is opened at once: 64 KiB, a multiple of every page size
/// in use.
const INDICES: u32 = 16 * 1024;

/// Cache lines over which tops are spread: half a page, so that a small goroutine still fits into one.
const COLOURS: u32 = 32;
const CACHE_LINE: usize = 64;
const ANCHOR: usize = size_of::<StackOwner>();

/// What stands at the top of a stack: whose it is, once for the goroutine itself and once for those who watch.
///
/// The goroutine may return at any time, and its G be freed. So a watcher pins it first, and of the two, whoever comes last frees it:
///
/// | `listed` | by | means |
/// |---|---|---|
/// | null → G | `bind` | it has started |
/// | G → G + `PIN` | a watcher, in `pin` | it is not to be freed |
/// | G → null | `unbind` | it has returned; the scheduler frees it |
/// | G + `PIN` → null | `unbind` | it has returned; the watcher frees it |
/// | G + `PIN` → G | the watcher, in `unpin` | nobody looks any more. If that fails, it has returned |
///
/// The address cannot be another goroutine's meanwhile: the watcher has not freed this one.
#[repr(C, align(16))]
pub(crate) struct StackOwner {
    current: AtomicPtr<()>,
    listed: AtomicPtr<()>,
}

/// A G's alignment leaves this bit.
const PIN: usize = 1;

impl StackOwner {
    /// The goroutine whose stack it is, if there is one. To be believed only on that stack.
    #[inline]
    pub(crate) fn current(&self) -> *mut () {
        self.current.load(Ordering::Relaxed)
    }

    /// Release: what the G was made of comes before a watcher's look.
    pub(crate) fn bind(&self, g: NonNull<()>) {
        self.current.store(g.as_ptr(), Ordering::Relaxed);
        self.listed.store(g.as_ptr(), Ordering::Release);
    }

    /// True if the G is the caller's to free.
    #[must_use]
    pub(crate) fn unbind(&self) -> bool {
        self.listed.swap(ptr::null_mut(), Ordering::AcqRel).addr() & PIN == 0
    }

    /// The goroutine, which is now pinned. `None` if there is none, or another watcher was first.
    pub(crate) fn pin(&self) -> Option<NonNull<()>> {
        let free = |g: *mut ()| {
            (!g.is_null() && g.addr() & PIN == 0).then(|| g.map_addr(|address| address | PIN))
        };
        NonNull::new(
            self.listed
                .fetch_update(Ordering::AcqRel, Ordering::Relaxed, free)
                .ok()?,
        )
    }

    /// False if the G is the caller's to free.
    #[must_use]
    pub(crate) fn unpin(&self, g: NonNull<()>) -> bool {
        let pinned = g.as_ptr().map_addr(|address| address | PIN);
        self.listed
            .compare_exchange(pinned, g.as_ptr(), Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Whether somebody looks at it.
    pub(crate) fn is_pinned(&self) -> bool {
        self.listed.load(Ordering::Relaxed).addr() & PIN != 0
    }
}

/// No stack for another goroutine. Its text names the limit that was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// How many goroutines have one.
    pub goroutines: u32,
    /// Bytes of address space each.
    pub stack_size: usize,
    /// What there was no more of.
    pub cause: Shortage,
}

/// What a stack could not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Address space: all that could be reserved is in use.
    AddressSpace,
    /// Access to its memory, and what the system said.
    Memory(Errno),
    /// A guard below it, and what the system said.
    Guard(Errno),
}

impl Exhausted {
    /// What the system said, or would have said.
    pub fn errno(self) -> Errno {
        match self.cause {
            Shortage::AddressSpace => ENOMEM,
            Shortage::Memory(errno) | Shortage::Guard(errno) => errno,
        }
    }
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Exhausted {
            goroutines,
            stack_size,
            cause,
        } = self;
        write!(
            f,
            "no stack for another goroutine: {goroutines} have one of {} KiB each, ",
            stack_size / 1024
        )?;
        match cause {
            Shortage::AddressSpace => {
                f.write_str("which is all the address space that was reserved (raise `ulimit -v` or lower Builder::stack_size)")
            }
            Shortage::Memory(errno) => {
                write!(f, "and memory for more was refused ({errno}; `ulimit -d` and vm.overcommit_memory=2 limit it)")
            }
            Shortage::Guard(errno) => {
                write!(f, "and a guard was refused ({errno}; without MADV_GUARD_INSTALL, Linux 6.13, vm.max_map_count is the limit)")
            }
        }
    }
}

impl core::error::Error for Exhausted {}

/// All stacks of one size.
pub(crate) struct Arena {
    os: &'static dyn Os,
    size: Size,
    /// The size of its stacks, as settings and reports have it.
    bytes: usize,
    base: usize,
    /// log2 of the slot size.
    shift: u32,
    /// Bytes at the low end of each slot that fault: guarded in ordinary ones, never opened in larger.
    guard: usize,
    capacity: u32,
    slack: u32,
    /// Set while a thread prepares slots. Others that need some wait for it.
    growing: AtomicBool,
    /// Slots below this index are open and have their guard. Written by the thread that set `growing`.
    prepared: AtomicU32,
    promised: AtomicU32,
    indices: NonNull<u32>,
    free: Lock<FreeSlots>,
}

// SAFETY: `indices` is where a reservation lies. What is there is reached through `free` only.
unsafe impl Send for Arena {}
// SAFETY: the same.
unsafe impl Sync for Arena {}

/// A stack of slot indices in reserved memory of its own, so that pushing never allocates.
struct FreeSlots {
    indices: NonNull<u32>,
    len: usize,
    /// The first so many have no memory behind them.
    clean: usize,
}

// SAFETY: the indices are reached only through this value, which the lock guards.
unsafe impl Send for FreeSlots {}

impl Arena {
    /// Reserves an arena of slots of `stack_size` bytes (a power of two) for `procs` Ps, the lowest
    /// `guard` bytes of each (whole pages) without access.
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

    /// Reserves at least `slots` slots, in at most `most` bytes unless that many take more.
    fn reserve_slots(
        os: &'static dyn Os,
        size: Size,
        stack_size: usize,
        guard: usize,
        slack: usize,
        slots: usize,
        most: usize,
    ) -> Result<Self, Errno> {
        let least = slots.checked_mul(stack_size).ok_or(ENOMEM)?;
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
            promised: AtomicU32::new(0),
            indices,
            free: Lock::new(FreeSlots {
                indices,
                len: 0,
                clean: 0,
            }),
        })
    }

    /// Bytes of address space of one stack.
    pub(crate) fn stack_size(&self) -> usize {
        1 << self.shift
    }

    /// The slot that `address` lies in, if it lies in the arena.
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

    /// How many bytes of each stack a goroutine can use.
    fn usable(&self) -> usize {
        self.stack_size() - self.guard - COLOURS as usize * CACHE_LINE
    }

    /// Whether `address` is in the guard of a slot that is open.
    pub(crate) fn is_guard(&self, address: usize) -> bool {
        let within = address.wrapping_sub(self.base) & (self.stack_size() - 1);
        let opened = |index| index < self.prepared.load(Ordering::Acquire);
        self.index_of(address).is_some_and(opened) && within < self.guard
    }

    /// The words at the top of a slot that name its G. Any thread may read them, a signal handler too.
    #[inline]
    pub(crate) fn owner(&self, slot: Slot) -> &StackOwner {
        self.anchor_of(slot.index())
    }

    /// The anchor of the stack that `address` lies in, if it lies in the arena.
    #[inline]
    pub(crate) fn anchor_at(&self, address: usize) -> Option<&StackOwner> {
        self.index_of(address).map(|index| self.anchor_of(index))
    }

    #[inline]
    fn anchor_of(&self, index: u32) -> &StackOwner {
        // SAFETY: the address lies inside a slot of the reservation, and above its guard. What reads
        // it runs there or has the number of a slot that was opened: zeroed then, and open for ever.
        // The anchor is only ever accessed as this type, and is aligned, since slots are and colours
        // are whole cache lines.
        unsafe { &*(self.top(index) as *const StackOwner) }
    }

    /// The end of the stack that `address` lies in.
    pub(crate) fn end_of(&self, address: usize) -> Option<usize> {
        self.index_of(address)
            .map(|index| self.top(index))
            .filter(|&end| address <= end)
    }

    /// The slots that were ever used, or will be next.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> {
        (0..self.prepared.load(Ordering::Acquire)).map(|index| self.slot(index))
    }

    #[inline]
    fn top(&self, index: u32) -> usize {
        let colour = (index % COLOURS) as usize * CACHE_LINE;
        self.base + ((index as usize + 1) << self.shift) - colour - ANCHOR
    }

    /// The usable part of a slot.
    pub(crate) fn stack(&self, slot: Slot) -> Stack {
        Stack {
            base: self.top(slot.index()),
            limit: self.bottom(slot.index()),
        }
    }

    /// Bytes of memory behind all stacks. `None` if the system does not say. Of many stacks it looks at some, spread over all.
    pub(crate) fn resident(&self, system: &dyn Observe) -> Option<u64> {
        const SAMPLE: u64 = 256;
        let slots = u64::from(self.prepared.load(Ordering::Acquire));
        let sample = slots.min(SAMPLE);
        let seen = (0..sample)
            .map(|i| self.resident_in(self.slot((i * slots / sample) as u32), system))
            .sum::<Option<u64>>()?;
        // Without stacks the system is asked, too, whether it would say.
        system
            .resident(NonNull::dangling(), 0)
            .map(|_| seen * slots / sample.max(1))
    }

    /// Bytes of memory behind one stack: as deep as whoever had it since it was last given back has been. It is touched from its top down, so behind
    /// a long stretch without memory there is no more.
    pub(crate) fn resident_in(&self, slot: Slot, system: &dyn Observe) -> Option<u64> {
        let stretch = (64 * self.os.page_size()).min(self.stack_size());
        let mut seen = 0;
        let bottom = self.base + ((slot.index() as usize) << self.shift);
        for start in (bottom..bottom + self.stack_size()).step_by(stretch).rev() {
            let start = NonNull::new(ptr::without_provenance_mut(start))
                .unwrap_or_else(|| panic!("a reservation is not at address zero"));
            match system.resident(start, stretch)? {
                0 => break,
                bytes => seen += bytes as u64,
            }
        }
        Some(seen)
    }

    /// Makes sure that `n` more goroutines will find a slot when they start.
    pub(crate) fn reserve_stacks(&self, n: u32) -> Result<(), Exhausted> {
        self.promise_from(n, BATCH)
    }

    /// Prepares so many slots at once: [`BATCH`] ordinary ones, or one larger.
    fn promise_from(&self, n: u32, batch: u32) -> Result<(), Exhausted> {
        let promised = self.promised.fetch_add(n, Ordering::Relaxed) + n;
        while self.prepared.load(Ordering::Relaxed) < promised + self.slack {
            if self
                .growing
                .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                .is_err()
            {
                // For some microseconds, unless the other thread has lost its CPU.
                self.os.yield_thread();
                continue;
            }
            let prepared = self.prepare(batch);
            self.growing.store(false, Ordering::Release);
            prepared.map_err(|cause| {
                let before = self.promised.fetch_sub(n, Ordering::Relaxed);
                Exhausted {
                    goroutines: before - n,
                    stack_size: self.bytes,
                    cause,
                }
            })?;
        }
        Ok(())
    }

    /// Takes back `n` promises.
    pub(crate) fn release(&self, n: u32) {
        self.promised.fetch_sub(n, Ordering::Relaxed);
    }

    /// Prepares the next slots. The caller has set `growing`.
    fn prepare(&self, batch: u32) -> Result<(), Shortage> {
        let first = self.prepared.load(Ordering::Relaxed);
        if first + batch > self.capacity {
            return Err(Shortage::AddressSpace);
        }
        self.open(first, batch).map_err(Shortage::Memory)?;
        for index in first..first + batch {
            if batch == BATCH {
                // SAFETY: the lowest pages of an open slot that no goroutine has yet.
                unsafe { self.os.guard(self.address(index), self.guard) }
                    .map_err(Shortage::Guard)?;
            }
            self.free.lock().push(index);
            // Release: a watcher that reads the number reads the anchors of so many slots.
            self.prepared.store(index + 1, Ordering::Release);
        }
        Ok(())
    }

    /// Opens the batch of slots from `first` on, and before that memory for the indices of as many
    /// slots as lie below its end. A part may be open already, from a time when a guard was refused.
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
        // What is below a larger stack stays closed.
        let closed = if batch == BATCH { 0 } else { self.guard };
        // SAFETY: slots of the reservation, of which no goroutine has one.
        unsafe {
            self.os.open(
                self.address(first).add(closed),
                ((batch as usize) << self.shift) - closed,
            )
        }
    }

    /// Where a slot begins.
    fn address(&self, index: u32) -> NonNull<u8> {
        // SAFETY: an address inside the reservation is not null.
        unsafe { NonNull::new_unchecked((self.base + ((index as usize) << self.shift)) as *mut u8) }
    }

    /// A slot for a goroutine that has a promise, from `cache` or else from the arena.
    pub(crate) fn take(&self, cache: &mut SlotCache) -> Slot {
        if let Some(index) = cache.pop() {
            return self.slot(index);
        }
        let mut free = self.free.lock();
        let index = free
            .pop()
            .unwrap_or_else(|| panic!("stack arena: more goroutines started than promised"));
        for _ in 1..BATCH {
            let Some(index) = free.pop() else { break };
            cache
                .push(index)
                .unwrap_or_else(|_| panic!("an empty cache holds a batch"));
        }
        self.slot(index)
    }

    /// A slot for a goroutine that has a promise.
    fn take_one(&self) -> Slot {
        self.slot(
            self.free
                .lock()
                .pop()
                .unwrap_or_else(|| panic!("stack arena: more goroutines started than promised")),
        )
    }

    /// As [`put`](Self::put), without a cache.
    pub(crate) fn give_back(&self, slot: Slot) {
        self.free.lock().push(slot.index());
    }

    /// Gives the memory of a slot back to the system. Its goroutine has returned.
    fn discard_slot(&self, slot: Slot) {
        let start = self.bottom(slot.index());
        // SAFETY: all of the slot above its guard, which has no owner. Zero is an unbound anchor.
        unsafe { self.discard(start, start + self.stack_size() - self.guard) };
    }

    /// Gives the memory of free slots back to the system, but for those that Ps keep for themselves.
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

    /// What lies below the part in use of a stack that has stopped at `sp`: from here to there. Empty, or whole pages.
    pub(crate) fn unused_below(&self, sp: usize) -> Option<(usize, usize)> {
        let page = self.os.page_size();
        let start = self.bottom(self.index_of(sp)?);
        // A goroutine stops a little below where it says that it does: the switch to its M is still to come.
        let end = (sp & !(page - 1)) - page;
        (start < end).then_some((start, end))
    }

    /// The lowest address above the guard.
    fn bottom(&self, index: u32) -> usize {
        self.base + ((index as usize) << self.shift) + self.guard
    }

    /// # Safety
    ///
    /// The addresses are those of whole pages of one slot, and nobody relies on what is there.
    pub(crate) unsafe fn discard(&self, start: usize, end: usize) {
        let pointer = NonNull::new(start as *mut u8)
            .unwrap_or_else(|| panic!("a slot is not at address zero"));
        // SAFETY: the caller's promise.
        unsafe { self.os.discard(pointer, end - start) };
    }

    /// Gives back the slot of a goroutine that has ended.
    pub(crate) fn put(&self, cache: &mut SlotCache, slot: Slot) {
        if cache.is_full() {
            let mut free = self.free.lock();
            for _ in 0..BATCH {
                free.push(
                    cache
                        .pop()
                        .unwrap_or_else(|| panic!("a full cache holds a batch")),
                );
            }
        }
        cache
            .push(slot.index())
            .unwrap_or_else(|_| panic!("room was made"));
    }
}

impl FreeSlots {
    fn push(&mut self, index: u32) {
        // SAFETY: every index is in the list at most once, so that `len` stays below the capacity the memory was reserved for.
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

/// Free slots of one P, last used first: their pages are warm.
pub(crate) type SlotCache = heapless::Vec<u32, CACHE>;

/// The number of a slot: which size, and which slot of that size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot(pub(crate) u32);

/// Where the number of the size is. Below are the numbers of as many slots as the smallest stacks have.
const SIZE_SHIFT: u32 = 28;
const _: () = assert!(RESERVE / MIN_STACK <= 1 << SIZE_SHIFT);

impl Slot {
    #[inline]
    fn index(self) -> u32 {
        self.0 & ((1 << SIZE_SHIFT) - 1)
    }
}

/// The bounds of one goroutine's stack, both 16-aligned: page, anchor and colour sizes are multiples.
pub(crate) struct Stack {
    /// The upper end.
    pub(crate) base: usize,
    /// The lower end, below which is the guard.
    #[cfg_attr(
        any(loom, not(test)),
        allow(dead_code, reason = "sanitizers and corosensei ask for it")
    )]
    pub(crate) limit: usize,
}

/// The stack pointer of the caller, roughly.
#[inline(always)]
pub(crate) fn stack_pointer() -> usize {
    let sp: usize;
    cfg_if::cfg_if! {
        if #[cfg(target_arch = "x86_64")] {
            // SAFETY: reads a register.
            unsafe { core::arch::asm!("mov {}, rsp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
        } else if #[cfg(target_arch = "x86")] {
            // SAFETY: reads a register.
            unsafe { core::arch::asm!("mov {}, esp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
        } else if #[cfg(any(target_arch = "aarch64", target_arch = "arm"))] {
            // SAFETY: reads a register.
            unsafe { core::arch::asm!("mov {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
        } else if #[cfg(any(target_arch = "riscv64", target_arch = "riscv32"))] {
            // SAFETY: reads a register.
            unsafe { core::arch::asm!("mv {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
        } else if #[cfg(target_arch = "loongarch64")] {
            // SAFETY: reads a register.
            unsafe { core::arch::asm!("move {}, $sp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
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
