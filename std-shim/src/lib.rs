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
//! A goroutine that has started stays on its thread, so `Rc`, thread-locals and `errno` stay valid.
//! Other goroutines share that thread and its thread-locals, and take turns whenever one parks. A
//! guard of a std lock stays on its thread, too, but must not be held over a call of this crate
//! ([Locks and channels of std](#locks-and-channels-of-std)). [`Builder::migrate`] gives up the
//! thread, and is therefore `unsafe`.
//!
//! # What is unsound under goroutines
//!
//! gopark's safe functions are meant to be sound. Two patterns of safe Rust are outside of that, since
//! they assume that no other code runs on the thread in between; so are C functions whose frames are
//! larger than a stack's guard (`docs/stacks.md` in the repository):
//!
//! - **A scoped thread-local**: a library keeps a pointer to its caller's stack in a thread-local
//!   for the time of a callback, and assumes that callbacks on one thread
//!   end in the reverse order of their beginning. Do not park inside such a callback.
//! - **A `thread_local!` whose initialiser parks**: if a second goroutine of the thread uses the
//!   same thread-local meanwhile, std initialises it twice, and drops the
//!   value that is borrowed. Let the initialiser be `const` or at least not park; fill an
//!   `OnceCell` in the thread-local outside of it.
//!
//! What is wrong without being undefined:
//!
//! - A lock that is re-entrant by thread (`parking_lot::ReentrantMutex`, `stdout().lock()`) does not
//!   exclude other goroutines of the thread.
//! - std counts panics by thread: a goroutine that parks in a destructor which a panic runs, or in
//!   a panic hook, shows its panic to the others of its thread. They poison
//!   their locks; a panic during a hook aborts. This crate does not park there, as far as it can:
//!   operations of sockets that would wait
//!   fail with [`PollError::Unwinding`], which a `BufWriter` that is dropped ignores. Do not
//!   `join`, [`sleep`] or [`yield_now`] there.
//!
//! `docs/soundness.md` in the repository has the whole story, with what to do in each case.
//!
//! # One thread, many goroutines
//!
//! So every goroutine has what Go's `runtime.LockOSThread` gives, but for being alone on the thread: what a C library keeps by thread (an OpenGL context, a
//! locale, a namespace entered with `setns`) is there after each park, and others at home on the thread see it, too. What must be alone has a thread
//! of its own (`std::thread`); everything in this crate works there. [`go_local`] starts goroutines on the thread of their maker, which can share
//! with it what is not `Send`.
//!
//! A goroutine that blocks its thread (`std::thread::sleep`, a file, a lock or channel of std, a long computation) holds up the others at home on it. Everything in
//! this crate parks instead, and works on ordinary threads as well, where it blocks the thread.
//!
//! # Locks and channels of std
//!
//! `std::sync::Mutex`, `RwLock`, `Condvar`, `OnceLock`, `LazyLock`, `Barrier` and `mpsc` block the
//! *thread*. If what would end the wait is to come from another goroutine that has started on the same
//! thread, both wait for ever:
//!
//! | goroutine A | goroutine B, on the same thread | |
//! |---|---|---|
//! | holds a lock and parks | locks it | the thread sleeps; A, which would unlock, needs it |
//! | would send, and waits for its turn | `recv()` on a `std::sync::mpsc` channel | the same |
//! | is in the initialiser of a `OnceLock`, which parks | `get_or_init()` | the same |
//!
//! Everything in this crate that may block may park, and operations that do not block yield now and
//! then: a `Mutex` that is held over `write_all` of single bytes hangs a neighbour in the 64th. So a
//! lock that works in a first test may hang under load. [`Builder::migrate`] does not help: its
//! contract forbids a guard that is held over a park.
//!
//! What works between goroutines:
//!
//! - atomics, and the result of a [`JoinHandle`];
//! - a lock that is never held over anything of this crate: keep the guard in a scope of its own;
//! - a connection over the loopback interface ([`net`]), in place of a channel;
//! - to wait within [`blocking`], where a thread of a pool waits and the goroutine parks: all that is
//!   done with the lock belongs in the closure;
//! - threads of std for the part of a program that shares much: all of this crate but [`go_local`]
//!   works there.
//!
//! ```
//! use std::sync::{Arc, Mutex, mpsc};
//!
//! gopark::run(|| {
//!     let count = Arc::new(Mutex::new(0));
//!     let theirs = count.clone();
//!     let (tell, mut told) = mpsc::channel();
//!     let goroutine = gopark::go(move || {
//!         for _ in 0..100 {
//!             *theirs.lock().unwrap() += 1; // The guard is gone at the end of the statement,
//!             gopark::yield_now(); // before anything parks.
//!         }
//!         tell.send("done").unwrap(); // Never blocks: the channel has no bound.
//!     });
//!     let news = gopark::blocking(|| {
//!         let told = &mut told; // Lent to the other thread: a receiver cannot be shared.
//!         told.recv()
//!     });
//!     assert_eq!(news, Ok("done"));
//!     goroutine.join().unwrap();
//!     assert_eq!(*count.lock().unwrap(), 100);
//! });
//! ```
//!
//! A goroutine that has blocked its thread for a second while others at home there wait is named on
//! stderr, with the system call, and the remedy on a second line. [`Builder::stall_after`] and [`Builder::reports`]
//! change that.
//!
//! # In tests
//!
//! A test runs on an ordinary thread of the test harness. All of this crate works there, except what
//! needs a goroutine, such as [`go_local`]: that goes into [`run`].
//!
//! ```
//! // In a #[test]:
//! let answer = gopark::run(|| gopark::go(|| 6 * 7).join().unwrap());
//! assert_eq!(answer, 42);
//! ```
//!
//! - All tests of a binary share one runtime. [`Builder::start`] succeeds in one of them only; the
//!   others get `AlreadyExists`, as does a test that starts it after another has used this crate. A
//!   test that needs settings of its own is a binary of its own (a file in `tests/`).
//! - A goroutine's panic fails the test only if the test joins the goroutine and unwraps:
//!   `goroutine.join().unwrap()`.
//! - The harness captures the output of its own threads only. What goroutines print comes at once,
//!   also without `--nocapture`.
//! - The harness sets a panic hook, so that of this crate is not set: without `--nocapture`, the
//!   message of a panic says `thread '<unnamed>' panicked` and does not name the goroutine.
//! - No deadlock is found, since the threads of the harness could wake goroutines. `GOPARK_DUMP=USR1
//!   cargo test`, and `kill -USR1` of the test binary's process, show where a test hangs.
//!
//! # fork
//!
//! A child made by `fork` has none of the threads that run goroutines. What needs them panics there
//! and says so; a child that execs, as those of [`std::process::Command`] do, works. Fork before the
//! first use of this crate, or see `docs/fork.md` in the repository.
//!
//! # Features
//!
//! | feature | default | compiles in |
//! |---|---|---|
//! | `epoll` | yes | the edge-triggered epoll poller |
//! | `io-uring` | no | the io_uring poller; Linux 5.13 |
//! | `epoll-level` | no | the level-triggered epoll poller |
//! | `poll` | yes | the `poll(2)` poller, for sandboxes without epoll |
//! | `backtrace` | yes | the calls of parked goroutines in a [`dump`](dump()) |
//!
//! None excludes another. Of the pollers that are compiled in, [`Builder::poller`] or
//! `GOPARK_POLLER` chooses one at the start. Otherwise the start takes the first of the table that
//! the system permits, and [`poller()`] says which one that is. Without any, the start fails.
//!
//! # Environment
//!
//! | variable | meaning |
//! |---|---|
//! | `GOPARK_DUMP` | a signal (`USR1`, say) that gets a [`dump`](dump()) of all goroutines on stderr, as [`Builder::dump_on`] does |
//! | `GOPARK_MAXPROCS` | how many goroutines run at once, unless [`Builder::max_procs`] is set |
//! | `GOPARK_POLLER` | the poller, by the name of its feature, unless [`Builder::poller`] is set |
//! | `GOPARK_REPORTS` | `off`: none of the reports that [`Builder::reports`] lists, unless that is set |
//! | `GOPARK_SCHEDTRACE` | prints Go's schedtrace line to stderr every so many milliseconds |
//! | `GOPARK_TRACE` | a file for a timeline of the scheduler, which <https://ui.perfetto.dev> and chrome://tracing draw |
//! | `GOPARK_TRACE_LIMIT` | the bytes at which that file ends; 268435456 (256 MiB) if not set |
//!
//! The start of the runtime reads them. An invalid value of a variable that the start uses is an error
//! of the start, and an empty one counts as none. A process that gained rights by executing its file
//! (`AT_SECURE`: setuid, setgid, file capabilities) ignores them all.
//!
//! The timeline has a row for each proc, with a slice whenever a goroutine runs there, called by its number and spawn site, and an arrow to it
//! from whoever woke or spawned it. What comes faster than it can be written is left out, and the file says where and how much. It can be opened
//! at any time: while the program runs, after its exit, and after a crash but for the last moments. Without the variable, nothing is recorded.
//! A file that the start makes can be read by its owner only. The path may name a FIFO, but not a
//! symbolic link, and so not `/dev/stdout`. Links among its directories are followed.

mod backtraces;
mod dump;
mod environment;
mod error;
mod fork;
mod goroutine;
mod metrics;
pub mod net;
mod overflow;
mod panics;
mod poller;
mod report;
mod runtime;
mod signals;
mod stderr;
pub mod thread;
mod trace;

pub use dump::dump;
pub use gopark_backends::Poller;
pub use gopark_core::metrics::{Bucket, Histogram, Metrics};
pub use gopark_core::polldesc::PollError;
pub use goroutine::{
    JoinHandle, blocking, go, go_local, num_goroutines, set_name, sleep, sleep_until, try_go,
    yield_now,
};
pub use metrics::metrics;
pub use report::Stall;
pub use runtime::{Builder, max_procs, poller, run, scheduler};

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// So does what the page on soundness recommends.
#[cfg(doctest)]
#[doc = include_str!("../../docs/soundness.md")]
struct Soundness;
