//! See `tests/src/control.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gopark_tests::control::fuzz(input));
