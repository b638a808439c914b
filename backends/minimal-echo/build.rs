//! What the linker leaves out.

fn main() {
    // Asked for when it runs: `env!` would keep the place where it was compiled.
    let script = format!(
        "{}/sections.ld",
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
    let target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if target("ARCH") == "x86_64" && target("ENV") == "gnu" {
        // `src/start.rs` is there in their place.
        println!("cargo:rustc-link-arg-bins=-nostartfiles");
    }
}
