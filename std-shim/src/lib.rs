//! Goroutines that block like threads: Go's scheduler and network poller for Rust.
//!
//! A program reads, writes, accepts and dials in straight lines. Underneath, sockets are non-blocking, a goroutine that would block
//! parks, and an epoll instance wakes it: no `async`, no thread per connection.
//!
//! ```
//! use gopark::net::{TcpListener, TcpStream};
//! use std::io::{self, Read, Write};
//!
//! # fn main() -> io::Result<()> {
//! gopark::run(|| {
//!     let listener = TcpListener::bind("127.0.0.1:0")?;
//!     let addr = listener.local_addr()?;
//!     let server = gopark::go(move || {
//!         let (mut conn, _) = listener.accept()?;
//!         io::copy(&mut conn.try_clone()?, &mut conn)
//!     });
//!
//!     let mut conn = TcpStream::connect(addr)?;
//!     conn.write_all(b"hello")?;
//!     let mut reply = [0; 5];
//!     conn.read_exact(&mut reply)?;
//!     assert_eq!(&reply, b"hello");
//!     drop(conn);
//!     assert_eq!(server.join().unwrap()?, 5);
//!     Ok(())
//! })
//! # }
//! ```
//!
//! # What a goroutine may rely on
//!
//! A goroutine that has started stays on its thread, so code that is bound to a thread works: `Rc`, lock guards, thread-locals. Other
//! goroutines share that thread, and take turns whenever one parks. That is invisible but for one pattern: a library that puts a
//! pointer to its caller's stack into a thread-local for the duration of a callback ("scoped thread-locals") assumes that callbacks on one
//! thread end in the reverse order of their beginning; goroutines that park inside such callbacks may break that order. Do not park
//! there. [`Builder::migrate`] gives up the thread, too, and is therefore `unsafe`.
//!
//! A goroutine that blocks its thread (`std::thread::sleep`, a file, a long computation) holds up the others at home on it. Everything in
//! this crate parks instead, and works on ordinary threads as well, where it blocks the thread.

mod backtraces;
mod dump;
mod error;
mod goroutine;
mod metrics;
pub mod net;
mod overflow;
mod report;
mod runtime;

pub use dump::dump;
pub use gopark_core::metrics::{Bucket, Histogram, Metrics};
pub use gopark_core::polldesc::PollError;
pub use goroutine::{JoinHandle, blocking, go, go_local, num_goroutines, set_name, sleep, sleep_until, try_go, yield_now};
pub use metrics::metrics;
pub use report::Stall;
pub use runtime::{Builder, max_procs, run, scheduler};

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
