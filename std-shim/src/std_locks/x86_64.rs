//! `syscall` on x86-64. The number is in rdi, the arguments in rsi, rdx, rcx, r8, r9 and on the
//! stack; the kernel takes them in rax, rdi, rsi, rdx, r10, r8 and r9. `futex` takes them as they
//! come, so the jump to it moves none.
#![allow(unsafe_code, reason = "assembly")]

use super::hook::futex;
use core::arch::global_asm;

global_asm!(
    begin!(),
    "endbr64",
    "cmp edi, 202",
    "jne 3f",
    // FUTEX_WAIT, FUTEX_WAKE and FUTEX_WAIT_BITSET, private.
    "cmp edx, 128",
    "je 2f",
    "cmp edx, 129",
    "je 2f",
    "cmp edx, 137",
    "jne 3f",
    "2: jmp {futex}",
    kernel!(),
    "3: mov rax, rdi",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "mov rdx, rcx",
    "mov r10, r8",
    "mov r8, r9",
    "mov r9, [rsp + 8]",
    "syscall",
    "cmp rax, -4095",
    "jae 4f",
    "ret",
    "4: neg eax",
    "push rbx",
    ".cfi_adjust_cfa_offset 8",
    ".cfi_rel_offset rbx, 0",
    "mov ebx, eax",
    "call {errno}@PLT",
    "mov [rax], ebx",
    "pop rbx",
    ".cfi_adjust_cfa_offset -8",
    ".cfi_restore rbx",
    "mov rax, -1",
    "ret",
    end!(),
    futex = sym futex,
    errno = sym libc::__errno_location,
);
