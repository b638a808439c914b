//! Runs a fuzz target as a plain test: over its committed corpus, then over random inputs.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::{format, fs, println, string::String, vec, vec::Vec};

/// Random inputs are shorter than this many bytes. Programs of the corpus have at most 64.
const LENGTH_MAX: usize = 96;

/// Runs `target` over `fuzz/corpus/NAME.hex` (one input a line) and over `inputs` random inputs,
/// the same in every run. If the target panics, prints the input and passes the panic on.
pub fn check(name: &str, inputs: u32, target: impl Fn(&[u8])) {
    let path = format!("{}/../fuzz/corpus/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    let corpus = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    for line in corpus.lines() {
        attempt(&target, &bytes(line));
    }
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..inputs {
        let mut input = vec![0; random.usize(..LENGTH_MAX)];
        random.fill(&mut input);
        attempt(&target, &input);
    }
}

fn attempt(target: &impl Fn(&[u8]), input: &[u8]) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        println!(
            "the input: {}",
            input
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        );
        resume_unwind(payload);
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = Vec::from_iter(
        hex.chars()
            .map(|digit| digit.to_digit(16).expect("the corpus is hexadecimal") as u8),
    );
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}
