//! The switch of x86-64, System V.
//!
//! A stack that does not run:
//!
//! ```text
//!   a goroutine that has not started          a goroutine or an M that was left
//!
//! | the context            |  <- base - 8   |                        |
//! | the entry's argument   |                ~          ...           ~
//! | start + 1              |                | return address         |  of enter or leave
//! | 0                      |  rbp           | rbp                    |
//! | the entry              |  rbx           | rbx                    |  <- the stack pointer
//! ```
//!
//! `enter` and `leave` are the same code at two places. It pushes two registers, exchanges the
//! stack pointer for the word at rdi, and pops the same two from the other stack. Both stacks have
//! the same layout, so the CFI before the exchange also describes the other stack after it. The
//! compiler saves the remaining registers, if it uses them.

use super::Entry;
use core::arch::{asm, global_asm};
use core::ptr::NonNull;

macro_rules! exchange {
    ($name:literal) => {
        global_asm!(
            begin!($name),
            "push rbp",
            ".cfi_adjust_cfa_offset 8",
            ".cfi_rel_offset rbp, 0",
            "push rbx",
            ".cfi_adjust_cfa_offset 8",
            ".cfi_rel_offset rbx, 0",
            "mov rax, [rdi]",
            "mov [rdi], rsp",
            "mov rsp, rax",
            "pop rbx",
            ".cfi_adjust_cfa_offset -8",
            ".cfi_restore rbx",
            "pop rbp",
            ".cfi_adjust_cfa_offset -8",
            ".cfi_restore rbp",
            // The popped word stays readable below the stack pointer: signal handlers respect the
            // red zone.
            "pop rcx",
            ".cfi_adjust_cfa_offset -8",
            "jmp rcx",
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
    ".cfi_undefined rip",
    "nop",
    "mov rdi, [rsp]",
    "call rbx",
    "mov rdi, [rsp + 8]",
    "mov esi, 1",
    concat!("call ", symbol!("leave")),
    "ud2",
    end!("start"),
);

/// The address of `start`.
pub(super) fn start() -> usize {
    let start;
    // SAFETY: the asm only computes an address.
    unsafe {
        asm!(
            concat!("lea {}, [rip + ", symbol!("start"), "]"),
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
        entry as usize,
        0,
        start() + 1,
        argument.as_ptr().expose_provenance(),
        other.expose_provenance(),
    ];
    let sp = (base - size_of_val(&words)) as *mut [usize; 5];
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
    // SAFETY: the call keeps rbx and rbp. All other registers are outputs.
    unsafe {
        asm!(
            concat!("call ", symbol!("enter")),
            inlateout("rdi") other => _, lateout("rsi") word,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            clobber_abi("sysv64"),
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
            concat!("call ", symbol!("leave")),
            inlateout("rdi") other => _, inlateout("rsi") word => _,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            clobber_abi("sysv64"),
        );
    }
}
