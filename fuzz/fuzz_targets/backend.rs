//! See `tests/src/readiness.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gopark_tests::readiness::fuzz_all(input));
