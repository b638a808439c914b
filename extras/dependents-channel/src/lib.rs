//! Crates of crates.io that use crossbeam-channel, unchanged, over the crate that replaces it. The
//! tests run them in goroutines of one thread.
