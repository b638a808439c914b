//! Moving bytes between connections and files.

mod copy;

pub use copy::{CopyError, CopyFrom, CopyTo, copy, copy_n};
