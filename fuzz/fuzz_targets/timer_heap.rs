//! See `core/fuzz/timer.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gopark_core::fuzz::timer_heap(input));
