//! `syscall` on aarch64. The number is in x0, the arguments in x1 to x6; the kernel takes them in
//! x8 and x0 to x5. `futex` takes them as they come, so the jump to it moves none.
#![allow(unsafe_code, reason = "assembly")]

use super::hook::futex;
use core::arch::global_asm;

global_asm!(
    begin!(),
    "hint #34",
    "cmp w0, #98",
    "b.ne 3f",
    // FUTEX_WAIT, FUTEX_WAKE and FUTEX_WAIT_BITSET, private.
    "cmp w2, #128",
    "b.eq 2f",
    "cmp w2, #129",
    "b.eq 2f",
    "cmp w2, #137",
    "b.ne 3f",
    "2: b {futex}",
    kernel!(),
    "3: mov x8, x0",
    "mov x0, x1",
    "mov x1, x2",
    "mov x2, x3",
    "mov x3, x4",
    "mov x4, x5",
    "mov x5, x6",
    "svc #0",
    "cmn x0, #4095",
    "b.hs 4f",
    "ret",
    "4: stp x29, x30, [sp, #-32]!",
    ".cfi_adjust_cfa_offset 32",
    ".cfi_rel_offset x29, 0",
    ".cfi_rel_offset x30, 8",
    "str x19, [sp, #16]",
    ".cfi_rel_offset x19, 16",
    "neg w19, w0",
    "bl {errno}",
    "str w19, [x0]",
    "ldr x19, [sp, #16]",
    ".cfi_restore x19",
    "ldp x29, x30, [sp], #32",
    ".cfi_adjust_cfa_offset -32",
    ".cfi_restore x29",
    ".cfi_restore x30",
    "mov x0, #-1",
    "ret",
    end!(),
    futex = sym futex,
    errno = sym libc::__errno_location,
);
