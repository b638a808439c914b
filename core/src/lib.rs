//! The core of gopark: goroutines, the G-P-M scheduler, timers and poll descriptors, without a
//! system call.
//!
//! Users add the crate `gopark`; this one is for ports and for programs without `std`. It is
//! `no_std` with `alloc`, and reaches the operating system only through the traits of [`os`]. The
//! feature `std` adds conversions of its errors to `std::io::Error`, and nothing else. Error
//! numbers, and the remedies that its messages name, are Linux's and `gopark`'s. The modules in
//! reading order; a module imports from the rows above it and, in its own
//! row, from the modules to its left:
//!
//! | row | modules |
//! |---|---|
//! | 0 | [`tagptr`] `steps` [`os`] `sync` `counter` `must` [`wake_sig`] |
//! | 1 | `stack` `switch` `fiber` `wait_info` `trace` `g` `waiter` `choice` `runq` `timer` |
//! | 2 | `retake` `lock_wait` `poller` [`polldesc`] `p` [`metrics`] `m` `timed` |
//! | 3 | [`sched`] [`runtime`] |
//! | 4 | `permits` `fdmutex` `withdraw` [`select`] `locked_queue` `latch` `netpoll` |
//! | 5 | [`join`] [`local`] `sleep` [`blocking`] [`cancel`] [`futex`] |
//! | 6 | `chan` `alarm` `mutex` `condvar` `rwlock` `once` `semaphore` `wait_group` `notify` |
//! | 7 | [`fd`] `io_error` |
//! | 8 | [`watch`] |
//!
//! Row 0 is the contract of a port, the atomics, the one lock and counters. Each module of row 1 is
//! one word or one plain structure; row 2 is data built from them. Row 3 alone decides which
//! goroutine runs. Row 4 is what waits are made of, row 5 what a goroutine waits for and what ends
//! its waits, row 6 what goroutines share state with, and row 7 what a socket is made of. Row 8
//! shows people what happens below: dumps, stalls, deadlocks.
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
#[cfg(any(test, fuzzing, feature = "std"))]
extern crate std;

#[cfg(any(test, fuzzing))]
#[path = "../fuzz/targets.rs"]
pub mod fuzz;

#[cfg(all(test, loom))]
#[path = "../models/base.rs"]
mod models;

/// The path of this file in debug information. Backtraces recognise gopark's own frames by it.
#[doc(hidden)]
pub const FILE: &str = file!();

mod counter;
mod must;
pub mod os;
#[cfg(steps)]
pub mod steps;
mod sync;
pub mod tagptr;
pub mod wake_sig;

mod choice;
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

mod lock_wait;
mod m;
pub mod metrics;
mod p;
pub mod polldesc;
mod poller;
mod timed;

pub mod runtime;
pub mod sched;

mod fdmutex;
mod latch;
mod locked_queue;
mod netpoll;
mod permits;
pub mod select;
mod withdraw;

pub mod blocking;
pub mod cancel;
pub mod futex;
pub mod join;
pub mod local;
mod sleep;

pub mod alarm;
pub mod chan;
pub mod condvar;
pub mod mutex;
pub mod notify;
pub mod once;
pub mod rwlock;
pub mod semaphore;
pub mod wait_group;

pub mod fd;
#[cfg(feature = "std")]
mod io_error;

pub mod watch;
