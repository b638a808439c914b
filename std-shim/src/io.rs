//! Moving bytes between connections and files.

mod copy;

pub use copy::{CopyError, Sink, Source, copy, copy_n};
