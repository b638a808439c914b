//! The core of gopark: goroutines, the G-P-M scheduler, timers and poll descriptors, without a
//! system call.
//!
//! Users add the crate `gopark`; this one is for ports and for programs without `std`. It is
//! `no_std` with `alloc`, names no operating system, and reaches one only through the traits of
//! [`os`]. The modules in reading order; a module imports from the rows above it and, in its own
//! row, from the modules to its left:
//!
//! | row | modules | what they are |
//! |---|---|---|
//! | 0 | [`os`], `steps`, `sync`, `counter`, [`tagptr`] | the contract of a port; atomics and the one lock; counters |
//! | 1 | `g`, `waiter`, [`stack`], `switch`, `fiber`, `wait_info`, [`trace`], `runq`, `timer`, `retake` | one word or one plain structure each |
//! | 2 | `p`, `poller`, [`polldesc`], [`metrics`], `m` | data built from them |
//! | 3 | [`sched`] | the only code that decides who runs |
//! | 4 | [`join`], `sleep`, [`sema`], `netpoll`, [`blocking`] | what a goroutine blocks on |
//! | 5 | `fdmutex`, [`fd`] | what a socket is made of |
//!
//! # What safe code cannot reach
//!
//! No public function returns what the scheduler frees or reuses: a goroutine or a poll descriptor.
//! A descriptor is borrowed ([`os::Borrowed`]) for the duration of an operation.
//!
//! ```compile_fail,E0624
//! fn keep(sched: &'static gopark_core::sched::Sched) {
//!     sched.current();
//! }
//! ```
//!
//! ```compile_fail,E0624
//! fn twice(sched: &'static gopark_core::sched::Sched) {
//!     sched.poll_open(0);
//! }
//! ```
//!
//! ```compile_fail,E0521
//! # use gopark_core::{fd::Fd, os::{Borrowed, Mode, Outcome}};
//! fn keep(fd: &Fd, place: &mut Option<Borrowed<'_>>) {
//!     let _ = fd.with(|lent| *place = Some(lent));
//! }
//! ```
#![no_std]

extern crate alloc;
#[cfg(any(test, fuzzing))]
extern crate std;

#[cfg(any(test, fuzzing))]
#[path = "../fuzz/targets.rs"]
pub mod fuzz;

#[cfg(all(test, loom))]
#[path = "../models/system.rs"]
mod models;

/// The path of this file in debug information. Backtraces recognise gopark's own frames by it.
#[doc(hidden)]
pub const FILE: &str = file!();

mod counter;
pub mod os;
#[cfg(steps)]
pub mod steps;
mod sync;
pub mod tagptr;

mod fiber;
mod g;
mod retake;
mod runq;
pub mod stack;
mod switch;
mod timer;
pub mod trace;
mod wait_info;
mod waiter;

mod m;
pub mod metrics;
mod p;
pub mod polldesc;
mod poller;

pub mod sched;

pub mod blocking;
pub mod join;
mod netpoll;
pub mod sema;
mod sleep;

pub mod fd;
mod fdmutex;
