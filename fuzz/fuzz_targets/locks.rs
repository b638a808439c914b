//! See `core/fuzz/locks.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gopark_core::fuzz::locks(input));
