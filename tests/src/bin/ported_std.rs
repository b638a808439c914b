//! The example `ported` before it was ported: the names that it takes from `gopark` are those of
//! `std` here.

extern crate self as gopark;

pub use std::sync;
pub use std::thread::spawn as go;

#[path = "../../../std-shim/examples/ported.rs"]
mod ported;

fn main() {
    ported::main();
}
