//! The example `parts` before it was ported: the names that it takes from `gopark` are those of
//! `std` here.

extern crate self as gopark;

pub use std::thread_local as goroutine_local;
pub use std::{sync, thread};

#[path = "../../../std-shim/examples/parts.rs"]
mod parts;

fn main() {
    parts::main();
}
