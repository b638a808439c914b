//! The switch of aarch64, AAPCS.
//!
//! A stack that does not run:
//!
//! ```text
//!   a goroutine that has not started          a goroutine or an M that was left
//!
//! | the context            |  <- base - 8   |                        |
//! | the entry's argument   |                ~          ...           ~
//! | nothing                |                | nothing                |
//! | the entry              |  x19           | x19                    |
//! | start + 4              |  x30           | return address         |  of enter or leave
//! | 0                      |  x29           | x29                    |  <- the stack pointer
//! ```
//!
//! `enter` and `leave` are the same code at two places. It stores three registers, exchanges the
//! stack pointer for the word at x0, and loads the same three from the other stack. Both stacks
//! have the same layout, so the CFI before the exchange also describes the other stack after it.
//! The compiler saves the remaining registers, if it uses them.
//!
//! `hint #36` (BTI j) stands where `br` jumps to, `hint #34` (BTI c) where a linker's veneer may.
//! Processors without BTI skip them.

use super::Entry;
use core::arch::{asm, global_asm};
use core::ptr::NonNull;

macro_rules! exchange {
    ($name:literal) => {
        global_asm!(
            begin!($name),
            "hint #34",
            "stp x29, x30, [sp, #-32]!",
            ".cfi_adjust_cfa_offset 32",
            ".cfi_rel_offset x29, 0",
            ".cfi_rel_offset x30, 8",
            "str x19, [sp, #16]",
            ".cfi_rel_offset x19, 16",
            "ldr x9, [x0]",
            "mov x10, sp",
            "str x10, [x0]",
            "mov sp, x9",
            "ldr x19, [sp, #16]",
            ".cfi_restore x19",
            "ldp x29, x30, [sp], #32",
            ".cfi_adjust_cfa_offset -32",
            ".cfi_restore x29",
            ".cfi_restore x30",
            "br x30",
            end!($name),
        );
    };
}

exchange!("enter");
exchange!("leave");

// Where a goroutine begins and ends, with the stack pointer at its argument. An unwinder looks up
// the byte before a return address, so the first return address points behind the `nop`.
global_asm!(
    begin!("start"),
    ".cfi_undefined x30",
    "nop",
    "hint #36",
    "ldr x0, [sp]",
    "blr x19",
    "ldr x0, [sp, #8]",
    "mov x1, #1",
    concat!("bl ", symbol!("leave")),
    "brk #1",
    end!("start"),
);

/// The address of `start`.
pub(super) fn start() -> usize {
    let start;
    // SAFETY: the asm only computes an address.
    unsafe {
        asm!(
            concat!("adrp {0}, ", symbol!("start")),
            concat!("add {0}, {0}, :lo12:", symbol!("start")),
            out(reg) start, options(nomem, nostack, preserves_flags)
        );
    }
    start
}

/// Lays out a stack for its first `enter`. Returns the stack pointer to enter it with.
///
/// # Safety
///
/// `base` is the 16-aligned upper end of a stack that nothing else uses. `other` is the context's
/// word.
pub(super) unsafe fn prepare(
    base: usize,
    entry: Entry,
    argument: NonNull<()>,
    other: *mut *mut (),
) -> *mut () {
    let words = [
        0,
        start() + 4,
        entry as usize,
        0,
        argument.as_ptr().expose_provenance(),
        other.expose_provenance(),
    ];
    let sp = (base - size_of_val(&words)) as *mut [usize; 6];
    // SAFETY: the caller's promise.
    unsafe { sp.write(words) };
    sp.cast()
}

/// Switches from the M's stack to the goroutine's. Returns the word that the goroutine leaves with.
///
/// # Safety
///
/// `other` is the word of a context that does not run.
#[inline(always)]
pub(super) unsafe fn enter(other: *mut *mut ()) -> *mut () {
    let word;
    // SAFETY: the call keeps x19, x29 and the platform's x18. All other registers are outputs.
    unsafe {
        asm!(
            concat!("bl ", symbol!("enter")),
            "hint #36",
            inlateout("x0") other => _, lateout("x1") word,
            lateout("x20") _, lateout("x21") _, lateout("x22") _,
            lateout("x23") _, lateout("x24") _, lateout("x25") _,
            lateout("x26") _, lateout("x27") _, lateout("x28") _,
            clobber_abi("C"),
        );
    }
    word
}

/// Switches from the goroutine's stack to its M's, with `word`.
///
/// # Safety
///
/// `other` is the word of the context that runs.
#[inline(always)]
pub(super) unsafe fn leave(other: *mut *mut (), word: *mut ()) {
    // SAFETY: as in `enter`.
    unsafe {
        asm!(
            concat!("bl ", symbol!("leave")),
            "hint #36",
            inlateout("x0") other => _, inlateout("x1") word => _,
            lateout("x20") _, lateout("x21") _, lateout("x22") _,
            lateout("x23") _, lateout("x24") _, lateout("x25") _,
            lateout("x26") _, lateout("x27") _, lateout("x28") _,
            clobber_abi("C"),
        );
    }
}
