//! See `core/fuzz/futex.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gopark_core::fuzz::futex(input));
