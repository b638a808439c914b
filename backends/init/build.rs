//! What the linker leaves out: the same as in minimal-echo.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../minimal-echo/sections.ld");
    println!("cargo:rerun-if-changed={script}");
    for argument in ["--gc-sections", "--build-id=none", "-z", "norelro", "-z", "noseparate-code", "--no-eh-frame-hdr", "-T", script] {
        println!("cargo:rustc-link-arg-bins=-Wl,{argument}");
    }
}
