//! Backtraces of goroutines that do not run: from the registers a goroutine was suspended with and a copy of its stack to the addresses
//! of its frames.
//!
//! Nothing of a live stack is read, so a goroutine that is resumed meanwhile is not disturbed, and stale or torn bytes cost wrong frames at
//! worst. The unwind tables are copied, too: a module may be unloaded at any time, and while `dl_iterate_phdr` calls back is the only time
//! that it may not.
#![allow(
    unsafe_code,
    reason = "unwind tables are found by address, as the loader names them"
)]

use framehop::Unwinder as _;
use framehop::{
    CacheNative, ExplicitModuleSectionInfo, FrameAddress, MayAllocateDuringUnwind, Module,
    UnwindRegsNative, UnwinderNative,
};
use gopark_core::sched::StackCopy;
use heapless::Vec as Bounded;
use libc::{Elf64_Phdr, PF_R, PF_W, PF_X, PT_GNU_EH_FRAME, PT_LOAD, c_int, c_void, dl_phdr_info};
use std::ops::Range;
use std::slice;

/// How many frames of a stack are told, from the innermost.
pub(crate) const MAX_FRAMES: usize = 64;

/// The word at an address of a stack.
fn word(stack: &StackCopy<'_>, address: u64) -> Result<u64, ()> {
    let offset = usize::try_from(address)
        .ok()
        .and_then(|address| address.checked_sub(stack.place.sp))
        .ok_or(())?;
    let bytes = stack
        .bytes
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .ok_or(())?;
    Ok(u64::from_ne_bytes(*bytes))
}

/// The frames of a stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frames {
    /// Addresses in the instructions that they have come to, from the innermost. All but that are calls.
    pub(crate) ips: Bounded<usize, MAX_FRAMES>,
    /// Whether there are frames further out.
    pub(crate) more: bool,
}

/// Unwinds stacks of this process.
pub(crate) struct Unwinder {
    modules: Modules,
    cache: CacheNative<MayAllocateDuringUnwind>,
}

impl Unwinder {
    /// One that knows the modules loaded now.
    pub(crate) fn new() -> Self {
        Unwinder {
            modules: Modules::loaded(),
            cache: CacheNative::new(),
        }
    }

    /// The frames of `stack`, as far as its bytes and the modules' tables tell.
    pub(crate) fn frames(&mut self, stack: &StackCopy<'_>) -> Frames {
        let mut frames = Frames::default();
        let mut registers = registers(stack);
        let mut address = FrameAddress::from_instruction_pointer(stack.place.ip as u64);
        let base = (stack.place.sp as u64).saturating_add(stack.bytes.len() as u64);
        loop {
            let ip = address.address_for_lookup() as usize;
            if !self.is_code(ip) {
                break;
            }
            if frames.ips.push(ip).is_err() {
                frames.more = true;
                break;
            }
            let next = self.modules.tables.unwind_frame(
                address,
                &mut registers,
                &mut self.cache,
                &mut |address| word(stack, address),
            );
            // The first frame of another library's coroutine takes the base for its caller's stack, which it is not.
            let on_this_stack = registers.sp() < base;
            match next
                .ok()
                .flatten()
                .filter(|_| on_this_stack)
                .and_then(FrameAddress::from_return_address)
            {
                Some(caller) => address = caller,
                None => break,
            }
        }
        frames
    }

    /// Whether `address` is in the code of a module, one loaded since the last look included.
    fn is_code(&mut self, address: usize) -> bool {
        if self.modules.has_code(address) {
            return true;
        }
        match self.modules.reloaded() {
            Some(modules) => {
                *self = Unwinder {
                    modules,
                    cache: CacheNative::new(),
                }
            }
            None => return false,
        }
        self.modules.has_code(address)
    }
}

#[cfg(target_arch = "x86_64")]
fn registers(stack: &StackCopy<'_>) -> UnwindRegsNative {
    UnwindRegsNative::new(
        stack.place.ip as u64,
        stack.place.sp as u64,
        stack.place.fp as u64,
    )
}

/// The link register is not among them: a function that has suspended itself has saved it. Return addresses may be signed, and addresses
/// of user space have 48 bits.
#[cfg(target_arch = "aarch64")]
fn registers(stack: &StackCopy<'_>) -> UnwindRegsNative {
    let mask = framehop::aarch64::PtrAuthMask(u64::MAX >> 16);
    UnwindRegsNative::new_with_ptr_auth_mask(mask, 0, stack.place.sp as u64, stack.place.fp as u64)
}

/// How many modules were ever loaded, and unloaded.
type Changes = (u64, u64);

/// The program and its libraries, as they were at one time.
struct Modules {
    tables: UnwinderNative<Vec<u8>, MayAllocateDuringUnwind>,
    code: Vec<Range<usize>>,
    changes: Option<Changes>,
}

impl Modules {
    fn loaded() -> Self {
        Self::unless(None).expect("every program is loaded")
    }

    /// The modules again, if any was loaded or unloaded since.
    fn reloaded(&self) -> Option<Self> {
        Self::unless(self.changes)
    }

    fn unless(known: Option<Changes>) -> Option<Self> {
        let mut look = (
            Modules {
                tables: UnwinderNative::new(),
                code: Vec::new(),
                changes: None,
            },
            known,
        );
        // SAFETY: `add` is called during this call only, with the address of `look`, which nobody else uses meanwhile.
        unsafe { libc::dl_iterate_phdr(Some(add), (&raw mut look).cast()) };
        let (mut modules, known) = look;
        modules.code.sort_by_key(|range| range.start);
        (modules.changes != known).then_some(modules)
    }

    fn has_code(&self, address: usize) -> bool {
        let after = self.code.partition_point(|range| range.start <= address);
        self.code[..after]
            .last()
            .is_some_and(|range| address < range.end)
    }

    fn add(&mut self, module: &Segments<'_>) {
        self.code.extend(
            module
                .loaded()
                .filter(|(_, flags)| flags & PF_X != 0)
                .map(|(range, _)| range),
        );
        let (Some(start), Some(end)) = (
            module.loaded().map(|(range, _)| range.start).min(),
            module.loaded().map(|(range, _)| range.end).max(),
        ) else {
            return;
        };
        let (header, frames) = module.tables().unzip();
        // "As stated in the module" and "as loaded" are the same here: all references in the tables are relative to themselves.
        let info = ExplicitModuleSectionInfo {
            base_svma: start as u64,
            eh_frame_hdr_svma: header.map(|header| header.range()),
            eh_frame_hdr: header.map(|header| header.bytes.to_vec()),
            eh_frame_svma: frames.map(|frames| frames.range()),
            eh_frame: frames.map(|frames| frames.bytes.to_vec()),
            ..Default::default()
        };
        self.tables.add_module(Module::new(
            String::new(),
            start as u64..end as u64,
            start as u64,
            info,
        ));
    }
}

/// Stops at the first module if all are known.
unsafe extern "C" fn add(info: *mut dl_phdr_info, _size: usize, look: *mut c_void) -> c_int {
    // SAFETY: the loader passes a module's description, and on what `unless` gave it.
    let (info, (modules, known)) =
        unsafe { (&*info, &mut *look.cast::<(Modules, Option<Changes>)>()) };
    modules.changes = Some((info.dlpi_adds, info.dlpi_subs));
    if modules.changes == *known {
        return 1;
    }
    if !info.dlpi_phdr.is_null() {
        // SAFETY: the loader describes a module that stays loaded during the call by a table of so many headers.
        let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        modules.add(&Segments {
            bias: info.dlpi_addr as usize,
            headers,
        });
    }
    0
}

/// The segments of a module that stays loaded while this exists.
struct Segments<'a> {
    bias: usize,
    headers: &'a [Elf64_Phdr],
}

impl<'a> Segments<'a> {
    /// Where segments are in memory, and what one may do there.
    fn loaded(&self) -> impl Iterator<Item = (Range<usize>, u32)> + '_ {
        let loaded = self
            .headers
            .iter()
            .filter(|header| header.p_type == PT_LOAD);
        loaded.map(|header| {
            let start = self.bias.wrapping_add(header.p_vaddr as usize);
            (
                start..start.saturating_add(header.p_filesz as usize),
                header.p_flags,
            )
        })
    }

    /// The constant bytes from `address` to the end of the segment.
    fn constants(&self, address: usize) -> Option<&'a [u8]> {
        let constant = |flags: u32| flags & (PF_R | PF_W) == PF_R;
        let (segment, _) = self
            .loaded()
            .find(|(range, flags)| constant(*flags) && range.contains(&address))?;
        // SAFETY: a segment without the right to write is mapped from a file and not written to for as long as the module is loaded.
        Some(unsafe { slice::from_raw_parts(address as *const u8, segment.end - address) })
    }

    /// `.eh_frame_hdr` and `.eh_frame`. Nothing says where the second ends; it may be taken for longer than it is, since
    /// the first refers to its entries.
    fn tables(&self) -> Option<(Table<'a>, Table<'a>)> {
        /// DW_EH_PE_pcrel | DW_EH_PE_sdata4: a signed distance of 32 bits. All linkers write this.
        const RELATIVE: u8 = 0x1b;
        let header = self
            .headers
            .iter()
            .find(|header| header.p_type == PT_GNU_EH_FRAME)?;
        let address = self.bias.wrapping_add(header.p_vaddr as usize);
        let bytes = self.constants(address)?.get(..header.p_memsz as usize)?;
        let [1, RELATIVE, _, _, a, b, c, d, ..] = *bytes else {
            return None;
        };
        let frames = (address + 4).wrapping_add_signed(i32::from_ne_bytes([a, b, c, d]) as isize);
        Some((
            Table { address, bytes },
            Table {
                address: frames,
                bytes: self.constants(frames)?,
            },
        ))
    }
}

/// Part of what a module says of how to unwind it.
#[derive(Clone, Copy)]
struct Table<'a> {
    address: usize,
    bytes: &'a [u8],
}

impl Table<'_> {
    fn range(&self) -> Range<u64> {
        self.address as u64..(self.address + self.bytes.len()) as u64
    }
}
