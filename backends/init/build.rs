//! What the linker leaves out: the same as in minimal-echo.

fn main() {
    // Asked for when it runs: `env!` would keep the place where it was compiled.
    let script = format!(
        "{}/../minimal-echo/sections.ld",
        std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")
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
