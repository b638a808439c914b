//! See `core/fuzz/fdmutex.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gopark_core::fuzz::fdmutex(input));
