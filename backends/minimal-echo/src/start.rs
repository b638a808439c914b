//! Where the kernel enters the program, in place of the C compiler's start files: with the system's libc these bring 700 bytes along, for
//! constructors and destructors that only C has.
#![allow(unsafe_code, reason = "it names libc's entry point")]

use core::arch::global_asm;
use core::ffi::c_int;

unsafe extern "C" {
    fn __libc_start_main() -> c_int;
}

// The stack holds the count of arguments, the arguments, the environment; `rdx` has what the loader wants called at the end.
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov r9, rdx",
    "pop rsi",
    "mov rdx, rsp",
    "and rsp, -16",
    "push rax",
    "push rsp",
    "lea rdi, [rip + {main}]",
    "xor ecx, ecx",
    "xor r8d, r8d",
    "call {start}",
    "hlt",
    main = sym crate::main,
    start = sym __libc_start_main,
);
