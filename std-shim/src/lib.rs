//! Goroutines that block like threads: Go's scheduler and network poller for Rust on Linux.
//!
//! A program reads, writes, accepts and connects in straight lines. Underneath, sockets are
//! non-blocking. An operation that would block parks its goroutine, and the poller (epoll by
//! default) wakes it: no `async`, no thread per connection.
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
//! | here | Go | std or tokio |
//! |---|---|---|
//! | [`go`] | `go f()` | `thread::spawn`, `tokio::spawn` |
//! | [`run`] | `func main()` | `Runtime::block_on` |
//! | [`thread`] | no counterpart | `std::thread`, with `scope` and `park` |
//! | [`scope`](scope()), [`try_scope`] | `errgroup` | `thread::scope`, `JoinSet` |
//! | [`sync::Cancel`], [`with_timeout`] | `context` | `CancellationToken`, `timeout` |
//! | [`net`] | `net` | `std::net`, `tokio::net` |
//! | [`fs`], [`io`] | `os`, `io.Copy` | `std::fs`, `std::io` |
//! | [`process`] | `os/exec` | `std::process`, `tokio::process` |
//! | [`signal`] | `os/signal` | `tokio::signal` |
//! | [`chan`], [`select!`] | `chan`, `select` | crossbeam-channel |
//! | [`sync`] | `sync` | `std::sync`, `tokio::sync` |
//! | [`time`] | `time` | `tokio::time` |
//! | [`sleep`], [`yield_now`] | `time.Sleep`, `runtime.Gosched` | the same names |
//! | [`blocking`], [`try_blocking`] | not needed | `spawn_blocking` |
//! | [`go_local`] | no counterpart | `spawn_local` |
//! | [`goroutine_local!`] | no counterpart | `thread_local!`, `task_local!` |
//! | [`Builder`] | `GOMAXPROCS`, `GODEBUG` | `runtime::Builder` |
//! | [`dump`](dump()) | `SIGQUIT`, `pprof` | `Handle::dump` |
//! | [`metrics`](metrics()) | `runtime/metrics` | `Handle::metrics` |
//!
//! The first use of one that needs the runtime starts it with the defaults: [`go`], [`run`], a
//! socket of [`net`], a wait for a channel, lock or timer, [`dump`](dump()),
//! [`metrics`](metrics()). It runs until the process ends. On an ordinary thread [`sleep`],
//! [`yield_now`], [`blocking`] and [`try_blocking`] do what `std` does, and start nothing.
//!
//! # Threads
//!
//! As in Go, a thread needs a P (a processor, which has a run queue) to run goroutines, so at most
//! [`max_procs`] threads run goroutines at once.
//!
//! A goroutine that has started stays on its thread, so `Rc`, thread-locals and `errno` stay valid.
//! The other goroutines of that thread share its thread-locals and take turns with it whenever it
//! parks. ([`Builder::migrate`] lets goroutines move between threads as in Go, and is therefore
//! `unsafe`.)
//!
//! - State that a C library keeps per thread (an OpenGL context, a locale, a namespace entered with
//!   `setns`) is still there after each park, but the other goroutines of the thread see it, too.
//!   Code that needs a thread for itself uses `std::thread`. All of this crate works there, except
//!   [`go_local`], and blocks the thread.
//! - [`go_local`] starts a goroutine on the thread of the caller. It can share values with the
//!   caller that are not `Send`.
//! - A goroutine that blocks its thread (`std::thread::sleep`, a file, a channel of `std`) or
//!   computes for long holds up the goroutines that have started there. The runtime moves all
//!   others to another thread. Use [`blocking`] for such work, and [`sync`] for locks.
//!
//! # Locks and channels of std
//!
//! [`sync`] has the locks of `std::sync` under the same names, and [`chan`] has channels: waiting
//! for them parks the goroutine. Use them, and hold their guards over whatever you like.
//!
//! `std::sync::Mutex`, `RwLock`, `Condvar`, `Once`, `OnceLock`, `LazyLock` and `Barrier` block the
//! *thread*. If another goroutine that has started on that thread is to end the wait, both would
//! hang. So the runtime ends such a wait, and the goroutine parks:
//!
//! - A wait for one of these blocks the thread at first. A lock that is held for a few instructions
//!   costs no switch, and lets no other goroutine run.
//! - After a millisecond in which goroutines of the thread were ready or others needed its P, or
//!   after a second, the wait is ended, and the goroutine parks. Until ten seconds after its last
//!   use, goroutines that wait for *that* lock park at once.
//! - The first time, a line on stderr names the two goroutines. [`Metrics::rescues`] counts.
//!
//! [`Builder::std_locks`] lets them park at once, or never. [`without_parking`] keeps the code in a
//! closure from parking there. This is the feature `std-locks`: it defines libc's function
//! `syscall` in the program, by which `std` waits, on x86-64 and aarch64. Ordinary threads, code in
//! a panic, and code on a stack of its own making (another crate's coroutine) wait as ever, and so
//! do waits for a lock in a thread-local. An unlock that wakes a parked goroutine lets it run once
//! a millisecond, so that none starves.
//!
//! A library that waits on what belongs to its thread, or keeps a pointer in a thread-local until
//! it returns, works for one goroutine of a thread at a time: rayon, `block_on` and `blocking_recv`
//! of tokio, `recv_blocking` of async-channel. Call it in [`blocking`], or in [`without_parking`].
//!
//! What waits in another way cannot be helped so. In goroutines, do not wait in these, or wait
//! within [`blocking`]:
//!
//! | a wait in | instead |
//! |---|---|
//! | `std::sync::mpsc`, `std::thread::park` | [`chan`], [`sync::mpsc`], [`thread::park`] |
//! | `once_cell`, `flume`, which use `std::thread::park` | `OnceLock` of `std`; [`chan`] |
//! | `crossbeam-channel`, `parking_lot` | the crates of these names in `extras/`, by `[patch]` |
//! | the join of a `std::thread` | a goroutine |
//! | a mutex of a C library | |
//!
//! [`blocking`] serves all of them: a thread of the pool waits while the goroutine is parked. The
//! folder `extras/` is in the repository.
//!
//! When a goroutine has blocked its thread for a second while others there are ready, stderr names
//! it, what it waits in, and the remedy. [`Builder::stall_after`] and [`Builder::reports`] change
//! that.
//!
//! # What is unsound under goroutines
//!
//! The safe functions of this crate are meant to be sound, except with the following code. The
//! first two are patterns of safe Rust, which assume that no other code runs on the thread in
//! between:
//!
//! - **A scoped thread-local.** Some libraries store a pointer to the caller's stack in a
//!   thread-local for the duration of a callback, and assume that callbacks on a thread end in the
//!   reverse order of their start. Do not park inside such a callback. A wait for a lock of `std`
//!   that others hold for a millisecond can park ([`without_parking`] prevents it).
//! - **A `thread_local!` whose initializer parks.** If another goroutine of the thread uses the
//!   thread-local before the initializer returns, `std` initializes it twice and drops the value
//!   that is borrowed. Use a `const` initializer or one that does not park, and fill an `OnceCell`
//!   in the thread-local from outside. The same holds for locks of `std` that it waits for.
//! - **A C function whose frame is larger than a stack's guard.** It can write into the stack of
//!   another goroutine. Raise [`Builder::guard_size`]; see `docs/stacks.md` in the repository.
//!
//! These are wrong results, but not undefined behaviour:
//!
//! - A `RefCell` in a thread-local that is borrowed while its code waits for a lock of `std` can be
//!   found borrowed by another goroutine of the thread, if that wait parks.
//! - A lock that is reentrant per thread (`parking_lot::ReentrantMutex`, `stdout().lock()`) does
//!   not exclude other goroutines of the thread.
//! - `std` counts panics per thread. If a goroutine parks in a destructor that runs because of a
//!   panic, or in a panic hook, the other goroutines of the thread count as panicking: they poison
//!   their locks, and a panic during a hook aborts the process. Operations on sockets do not park
//!   there. If they would have to wait, they fail with [`PollError::Unwinding`], which the drop of
//!   a `BufWriter` ignores. Do not `join`, [`sleep`] or [`yield_now`] there.
//!
//! `docs/soundness.md` in the repository has the details, and what to do in each case.
//!
//! # In tests
//!
//! A test runs on an ordinary thread of the test harness. All of this crate works there, except
//! what needs a goroutine, such as [`go_local`]: call that within [`run`].
//!
//! ```
//! // In a #[test]:
//! let answer = gopark::run(|| gopark::go(|| 6 * 7).join().unwrap());
//! assert_eq!(answer, 42);
//! ```
//!
//! - All tests of a binary share one runtime. [`Builder::start`] succeeds in one of them at most,
//!   and only before the first use of this crate; otherwise it returns `AlreadyExists`. Put a test
//!   that needs its own settings into its own binary (a file in `tests/`).
//! - A goroutine's panic fails the test only if the test joins the goroutine and unwraps:
//!   `goroutine.join().unwrap()`.
//! - The harness captures only the output of its own threads. The output of goroutines appears at
//!   once, even without `--nocapture`.
//! - The harness sets a panic hook, so this crate does not set its own. Without `--nocapture`, a
//!   panic message says `thread '<unnamed>' panicked` and does not name the goroutine.
//! - Deadlocks are not detected, because the threads of the harness could still wake goroutines. To
//!   see where a test hangs, run `GOPARK_DUMP=USR1 cargo test`, and send `kill -USR1` to the
//!   process of the test binary.
//!
//! # fork
//!
//! A child made by `fork` has none of the threads that run goroutines. There, functions that need
//! them panic and say so. A child that execs, such as those of [`std::process::Command`], works.
//! Fork before the first use of this crate, or see `docs/fork.md` in the repository.
//!
//! # Features
//!
//! | feature | default | compiles in |
//! |---|---|---|
//! | `epoll` | yes | the edge-triggered epoll poller |
//! | `io-uring` | no | the io_uring poller; Linux 5.13 |
//! | `epoll-level` | no | the level-triggered epoll poller |
//! | `poll` | yes | the `poll(2)` poller, for sandboxes without epoll |
//! | `backtrace` | yes | backtraces of parked goroutines in a [`dump`](dump()) |
//! | `std-locks` | yes | waits for locks of `std` that park; defines libc's `syscall` |
//! | `lock_api` | no | `sync::RawMutex` and `sync::RawRwLock` for the crate `lock_api` |
//!
//! Features are additive. [`Builder::poller`] or `GOPARK_POLLER` selects one of the pollers that
//! are compiled in. By default the runtime uses the first of this table that the system permits;
//! [`poller()`] returns it. The start fails if there is none.
//!
//! # Environment
//!
//! | variable | meaning |
//! |---|---|
//! | `GOPARK_DUMP` | a signal, such as `USR1`, for [`Builder::dump_on`] |
//! | `GOPARK_MAXPROCS` | how many goroutines run at once, unless [`Builder::max_procs`] is set |
//! | `GOPARK_POLLER` | the poller, by the name of its feature, unless [`Builder::poller`] is set |
//! | `GOPARK_REPORTS` | `on` or `off`, unless [`Builder::reports`] is set |
//! | `GOPARK_SCHEDTRACE` | prints Go's schedtrace line to stderr every so many milliseconds |
//! | `GOPARK_TRACE` | the file for a timeline of the scheduler |
//! | `GOPARK_TRACE_LIMIT` | the maximum size of that file in bytes; default 268435456 (256 MiB) |
//!
//! They are read when the runtime starts. The start fails if a variable that it uses is invalid. An
//! empty value counts as not set. A process whose file is setuid or setgid or has capabilities
//! (`AT_SECURE`) ignores them all.
//!
//! The timeline can be viewed in <https://ui.perfetto.dev> and in chrome://tracing. It has a row
//! for each P, a slice for each turn of a goroutine, with its number and spawn site, and an arrow
//! from the event that made the goroutine ready. Records that come faster than they can be written
//! are lost, and the file says where and how many. The file can be opened at any time: while the
//! program runs, after its exit, and after a crash, when it lacks the last moments. A file that the
//! start creates can be read by its owner only. The path may name a FIFO, but not a symbolic link,
//! and so not `/dev/stdout`; links among its directories are followed.

// The modules in rows. A module imports from the rows above it and, in its own row, from the
// modules to its left.
//
// | row | modules |
// |---|---|
// | 0 | `environment` `error` `fork` `parker` `backtraces` |
// | 1 | `runtime` `poller` `local` `std_locks` |
// | 2 | `panics` `overflow` `signals` `dump` `stderr` `report` `leak` `schedtrace` `trace` |
// | 3 | `switches` `builder` `global` |
// | 4 | `cancel` `pool` `park` `goroutine` `group` `scope` `thread` |
// | 5 | `inspect` `net` `chan` `select` |
// | 6 | `sync` `time` |
// | 7 | `signal` `fs` `process` `io` |
//
// Row 0 knows the process only. Row 1 holds the runtime, and makes its pollers. Row 2 reports: it
// may read row 1, and never starts the runtime. Row 3 starts it, and the rows from 4 use it, which
// starts it if it is not running.
mod backtraces;
mod builder;
mod cancel;
pub mod chan;
mod dump;
mod environment;
mod error;
mod fork;
pub mod fs;
mod global;
mod goroutine;
mod group;
mod inspect;
pub mod io;
mod leak;
mod local;
pub mod net;
mod overflow;
mod panics;
mod park;
#[cfg(feature = "std-locks")]
mod parker;
mod poller;
mod pool;
pub mod process;
mod report;
mod runtime;
mod schedtrace;
mod scope;
#[doc(hidden)]
pub mod select;
pub mod signal;
mod signals;
mod std_locks;
mod stderr;
mod switches;
pub mod sync;
pub mod thread;
pub mod time;
mod trace;

pub use builder::{Builder, max_procs, poller, scheduler};
pub use cancel::{Cancelled, Expired, check_cancel, shield, with_deadline, with_timeout};
pub use error::{is_timeout, poll_error};
pub use gopark_backends::Poller;
pub use gopark_core::metrics::{Bucket, Histogram, Metrics};
pub use gopark_core::polldesc::PollError;
pub use gopark_core::sched::Switch;
pub use goroutine::{
    JoinHandle, blocking, go, go_local, num_goroutines, set_name, sleep, sleep_until, try_go,
    yield_now,
};
pub use inspect::{dump, metrics};
pub use leak::{Leak, Leaked};
pub use local::{AccessError, LocalKey};
pub use pool::try_blocking;
pub use report::Stall;
pub use scope::{Scope, ScopePanicked, ScopedHandle, TryScope, run, scope, try_scope};
pub use select::Select;
pub use std_locks::{StdLocks, without_parking};

/// Compiles the program in the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// Compiles what the page on soundness recommends.
#[cfg(doctest)]
#[doc = include_str!("../../docs/soundness.md")]
struct Soundness;
