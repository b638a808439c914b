//! Standard input, output and error, whose operations park the goroutine where those of `std` block
//! the thread, and [`copy`](copy()) between connections and files.
//!
//! Names and meanings are those of [`std::io`]. They also work on ordinary threads.
//!
//! ```
//! use std::io::Write;
//!
//! gopark::run(|| writeln!(gopark::io::stdout(), "hello")).unwrap();
//! ```
//!
//! # Sharing
//!
//! The files are left as they are. In particular they stay blocking: the shell and other processes
//! share the terminal, and would fail if it became non-blocking. An operation waits until the file
//! is ready, and then makes one system call. Two consequences:
//!
//! - If another process, or `std::io::stdin` in this one, reads the same input and is faster, the
//!   call blocks the thread until there is more. The same holds for a pipe that another process
//!   writes to and fills.
//! - Each wait opens and closes a duplicate of the descriptor. A descriptor that the program
//!   replaces (dup2(2)) is seen by the next operation.
//!
//! | the file is | a read | a write |
//! |---|---|---|
//! | a pipe | parks until it is ready | parks; up to 4096 bytes a call |
//! | a socket | parks | parks |
//! | a terminal | parks until there is a line | parks, then a thread of the pool writes |
//! | a regular file | on the pool | at once; on the pool from 64 KiB on |
//! | another device | waits if it can be polled | waits if it can be polled |
//!
//! The pool is that of [`blocking`](crate::blocking).
//!
//! # Buffers
//!
//! As in `std`, input has one buffer for the process, output is written line by line, and error is
//! not buffered. The buffers are not those of `std`: in a program that reads with both, each may
//! hold bytes that the other lacks, and output appears in the order in which the buffers are
//! written. What is left in the buffer of the output is written at the end of the process, unless
//! a goroutine has it locked.
//!
//! # Ending an operation early
//!
//! A deadline ([`Stdin::set_read_deadline`], [`Stdout::set_write_deadline`]) or a
//! [cancel](crate::sync::Cancel) ends an operation that waits for the file. An operation that
//! waits for another goroutine to unlock the stream, or for a thread of the pool, does not end
//! early. An operation that need not wait succeeds in a cancelled goroutine, so that it can still
//! report.

mod copy;
mod input;
mod output;
mod stream;

pub use copy::{CopyError, CopyFrom, CopyTo, copy, copy_n};
pub use input::{Stdin, StdinLock, stdin};
pub use output::{Stderr, StderrLock, Stdout, StdoutLock, stderr, stdout};
