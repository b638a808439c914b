//! Unwinds the stack of a goroutine that does not run: computes the addresses of its frames from
//! its saved registers and a copy of its stack.
//!
//! It reads the copy only, so it does not disturb a goroutine that resumes during the walk. Stale
//! or torn bytes lead to wrong frames at worst. The unwind tables are copied, too, because a module
//! may be unloaded at any time except during the callback of `dl_iterate_phdr`.
#![allow(
    unsafe_code,
    reason = "unwind tables are found by address, as the loader names them"
)]

use framehop::Unwinder as _;
use framehop::{
    CacheNative, ExplicitModuleSectionInfo, FrameAddress, MayAllocateDuringUnwind, Module,
    UnwindRegsNative, UnwinderNative,
};
use gopark_core::watch::StackCopy;
use heapless::Vec as Bounded;
use libc::{Elf64_Phdr, PF_R, PF_W, PF_X, PT_GNU_EH_FRAME, PT_LOAD, c_int, c_void, dl_phdr_info};
use std::ops::Range;
use std::slice;

/// The most frames of a stack, counted from the innermost: deep enough for usual stacks, and a
/// bound on the time for a recursive one.
pub(crate) const MAX_FRAMES: usize = 64;

/// Returns the word at `address`, or an error if the copy does not contain it.
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
    /// For each frame, from the innermost, an address within its current instruction. In all but
    /// the innermost that is a call.
    pub(crate) ips: Bounded<usize, MAX_FRAMES>,
    /// Whether the stack has more frames than [`MAX_FRAMES`].
    pub(crate) more: bool,
}

/// Unwinds stacks of this process.
pub(crate) struct Unwinder {
    modules: Modules,
    cache: CacheNative<MayAllocateDuringUnwind>,
}

impl Unwinder {
    /// Returns an unwinder for the modules that are loaded now.
    pub(crate) fn new() -> Self {
        Unwinder {
            modules: Modules::loaded(),
            cache: CacheNative::new(),
        }
    }

    /// Returns the frames of `stack`. It stops where the copy or the tables do not allow to
    /// continue.
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
            // At its outermost frame, a coroutine of another library may continue with addresses
            // that are not on this stack.
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

    /// Returns whether `address` is in the code of a module. If it is not, looks once for modules
    /// that were loaded in the meantime.
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

/// The link register is passed as 0: a function that has suspended itself has saved it on the
/// stack. Return addresses may be signed, so the mask keeps the 48 bits of user-space addresses.
#[cfg(target_arch = "aarch64")]
fn registers(stack: &StackCopy<'_>) -> UnwindRegsNative {
    let mask = framehop::aarch64::PtrAuthMask(u64::MAX >> 16);
    UnwindRegsNative::new_with_ptr_auth_mask(mask, 0, stack.place.sp as u64, stack.place.fp as u64)
}

/// How many modules the loader has ever loaded, and unloaded. Equal counts mean the same modules.
type Changes = (u64, u64);

/// The program and its libraries, as loaded at one time.
struct Modules {
    tables: UnwinderNative<Vec<u8>, MayAllocateDuringUnwind>,
    /// The executable segments, sorted by address.
    code: Vec<Range<usize>>,
    changes: Option<Changes>,
}

impl Modules {
    fn loaded() -> Self {
        Self::unless(None).expect("the loader lists at least the program")
    }

    /// Returns the modules that are loaded now, or `None` if they are the same.
    fn reloaded(&self) -> Option<Self> {
        Self::unless(self.changes)
    }

    /// Returns the modules that are loaded now, or `None` if the loader's counts are `known`.
    fn unless(known: Option<Changes>) -> Option<Self> {
        let mut look = (
            Modules {
                tables: UnwinderNative::new(),
                code: Vec::new(),
                changes: None,
            },
            known,
        );
        // SAFETY: the loader calls `add` only during this call, with the address of `look`, to
        // which no other reference exists during that time.
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
        // The addresses as loaded serve also as those stated in the module (`svma`), because all
        // references in the tables are relative to their own position.
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

/// The callback of `dl_iterate_phdr`: adds a module. Returns 1, which ends the iteration, if the
/// loader's counts are the known ones.
unsafe extern "C" fn add(info: *mut dl_phdr_info, _size: usize, look: *mut c_void) -> c_int {
    // SAFETY: the loader passes the description of a module, and the pointer that `unless` has
    // passed.
    let (info, (modules, known)) =
        unsafe { (&*info, &mut *look.cast::<(Modules, Option<Changes>)>()) };
    modules.changes = Some((info.dlpi_adds, info.dlpi_subs));
    if modules.changes == *known {
        return 1;
    }
    if !info.dlpi_phdr.is_null() {
        // SAFETY: `dlpi_phdr` points to `dlpi_phnum` headers of a module that stays loaded during
        // this call.
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
    /// Returns the address ranges of the loaded segments, and their access rights (`PF_…`).
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

    /// Returns the bytes from `address` to the end of its segment, if that is read-only.
    fn constants(&self, address: usize) -> Option<&'a [u8]> {
        let constant = |flags: u32| flags & (PF_R | PF_W) == PF_R;
        let (segment, _) = self
            .loaded()
            .find(|(range, flags)| constant(*flags) && range.contains(&address))?;
        // SAFETY: a segment without PF_W is mapped and constant for as long as the module is
        // loaded.
        Some(unsafe { slice::from_raw_parts(address as *const u8, segment.end - address) })
    }

    /// Returns `.eh_frame_hdr` and `.eh_frame`. The headers do not say where `.eh_frame` ends, so
    /// it is taken to the end of the segment. That is sound: its entries are found through
    /// `.eh_frame_hdr`.
    fn tables(&self) -> Option<(Table<'a>, Table<'a>)> {
        /// `DW_EH_PE_pcrel | DW_EH_PE_sdata4`: a signed 32-bit distance, as all linkers write it.
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

/// An unwind table of a module.
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
