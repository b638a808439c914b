//! The directives around each function in assembly: symbol, section, CFI.

/// A symbol that names this version of the crate, since several versions may be linked into one
/// program.
macro_rules! symbol {
    ($name:literal) => {
        concat!(
            "gopark_core_",
            env!("CARGO_PKG_VERSION_MAJOR"),
            "_",
            env!("CARGO_PKG_VERSION_MINOR"),
            "_",
            env!("CARGO_PKG_VERSION_PATCH"),
            "_switch_",
            $name
        )
    };
}

/// Begins a function in assembly: in its own section, hidden from other modules, and weak, so that
/// a linker merges copies of it.
macro_rules! begin {
    ($name:literal) => {
        concat!(
            ".pushsection .text.",
            symbol!($name),
            ",\"ax\",%progbits\n.balign 16\n.weak ",
            symbol!($name),
            "\n.hidden ",
            symbol!($name),
            "\n.type ",
            symbol!($name),
            ",%function\n",
            symbol!($name),
            ":\n.cfi_startproc"
        )
    };
}

macro_rules! end {
    ($name:literal) => {
        concat!(
            ".cfi_endproc\n.size ",
            symbol!($name),
            ", . - ",
            symbol!($name),
            "\n.popsection"
        )
    };
}
