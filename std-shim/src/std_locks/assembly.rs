//! The directives around `syscall` in assembly: symbols, section, CFI.

/// The symbol of the function that makes any system call. Several versions of the crate may be
/// linked into one program.
macro_rules! kernel_symbol {
    () => {
        concat!(
            "gopark_",
            env!("CARGO_PKG_VERSION_MAJOR"),
            "_",
            env!("CARGO_PKG_VERSION_MINOR"),
            "_",
            env!("CARGO_PKG_VERSION_PATCH"),
            "_system_call"
        )
    };
}

/// Begins `syscall`: in its own section, hidden and weak.
macro_rules! begin {
    () => {
        ".pushsection .text.gopark_syscall,\"ax\",%progbits
        .balign 16
        .weak syscall
        .hidden syscall
        .type syscall,%function
        syscall:
        .cfi_startproc"
    };
}

/// The part of `syscall` that always enters the kernel, as a function of its own.
macro_rules! kernel {
    () => {
        concat!(
            ".weak ",
            kernel_symbol!(),
            "\n.hidden ",
            kernel_symbol!(),
            "\n.type ",
            kernel_symbol!(),
            ",%function\n",
            kernel_symbol!(),
            ":"
        )
    };
}

macro_rules! end {
    () => {
        ".cfi_endproc
        .size syscall, . - syscall
        .popsection"
    };
}
