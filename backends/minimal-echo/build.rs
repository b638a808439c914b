//! Linker flags that make the program smaller: no unwind tables, no padding between segments.

fn main() {
    // Read when this program runs; `env!` would name the directory in which it was compiled.
    let script = format!(
        "{}/sections.ld",
        std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR")
    );
    println!("cargo:rerun-if-changed={script}");
    for argument in [
        "--gc-sections",
        "--build-id=none",
        "-z",
        "norelro",
        "-z",
        "noseparate-code",
        "--no-eh-frame-hdr",
        "-T",
        &script,
    ] {
        println!("cargo:rustc-link-arg-bins=-Wl,{argument}");
    }
}
