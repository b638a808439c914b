//! Child processes whose pipes and ends park the goroutine where those of `std` block the thread:
//! [`std::process`], Go's `os/exec`.
//!
//! Names and meanings are those of [`std::process`], so replacing `use std::process` by `use
//! gopark::process` is most of a port. Everything also works on ordinary threads, where it blocks
//! the thread.
//!
//! ```
//! use gopark::process::{Command, Stdio};
//! use std::io::{Read, Write};
//!
//! # fn main() -> std::io::Result<()> {
//! gopark::run(|| {
//!     let mut cat = Command::new("cat")
//!         .stdin(Stdio::piped())
//!         .stdout(Stdio::piped())
//!         .spawn()?;
//!     cat.stdin.take().unwrap().write_all(b"through a child")?;
//!     let mut text = String::new();
//!     cat.stdout.take().unwrap().read_to_string(&mut text)?;
//!     assert_eq!(text, "through a child");
//!     assert!(cat.wait()?.success());
//!     Ok(())
//! })
//! # }
//! ```
//!
//! # Differences from `std::process`
//!
//! - [`Child::wait_timeout`] and [`Child::wait_deadline`] limit a wait; the pipes have deadlines.
//! - [`Command::kill_on_drop`] kills a child whose handle is dropped, as in tokio. By default the
//!   child goes on, as in `std`.
//! - A pipe to a child is non-blocking on the side of this process only. The child's side is
//!   another file.
//! - A wait for a child is a point of [cancel](crate::sync::Cancel): it then fails with
//!   [`PollError::Cancelled`](crate::PollError::Cancelled), and the child goes on.
//!
//! # How it waits
//!
//! A wait for a child parks until its pidfd is readable (pidfd_open(2), Linux 5.3). Where the
//! system refuses a pidfd, in an old kernel, under a filter, or because all descriptors are in use,
//! a thread of the pool of [`blocking`](crate::blocking) waits instead. `SIGCHLD` is not used.
//!
//! [`Command::spawn`] itself does not park. It returns when the child has called exec, which takes
//! about a millisecond.

mod child;
mod command;
mod pipe;

pub use child::Child;
pub use command::Command;
pub use pipe::{ChildStderr, ChildStdin, ChildStdout};
pub use std::process::{
    CommandArgs, CommandEnvs, ExitCode, ExitStatus, Output, Stdio, Termination, abort, exit, id,
};
