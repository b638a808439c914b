//! The Linux side of gopark: the pollers, and the raw system calls under the scheduler and its sockets.
//!
//! It is `no_std` and stands on libc alone, so that a program without `std` gets the same runtime. What is here either implements a
//! trait of [`gopark_core::os`] or makes one system call and sorts its outcome. It holds no goroutine and decides nothing.
//!
//! | item | gives |
//! |---|---|
//! | [`Poller`] | the [`Netpoll`](gopark_core::os::Netpoll) that a feature chose |
//! | [`linux::Linux`] | the [`Os`](gopark_core::os::Os): threads, futexes, the clock, stack memory |
//! | [`linux::socket`] | addresses, options, listeners |
//! | [`linux::io`] | non-blocking reads, writes, accepts and connects |
//! | [`linux::membarrier`] | a memory barrier on every running thread of the process |
//! | [`linux::has_thread_locals`] | whether goroutines may move between threads |
//! | [`linux::available_procs`], [`linux::affinity`] | how many threads can run at the same time |

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod linux;

// The one place that knows the features.
cfg_if::cfg_if! {
    if #[cfg(any(
        all(feature = "epoll", any(feature = "epoll-level", feature = "poll", feature = "io-uring")),
        all(feature = "epoll-level", any(feature = "poll", feature = "io-uring")),
        all(feature = "poll", feature = "io-uring"),
    ))] {
        compile_error!(
            "gopark has one poller, but two of the features `epoll`, `epoll-level`, `poll` and `io-uring` are on. `epoll` is the default: \
             to have another, write `default-features = false, features = [\"poll\"]` (on the command line: `--no-default-features \
             --features poll`) wherever gopark is named"
        );
    } else if #[cfg(feature = "epoll")] {
        mod epoll;
        mod instance;
        mod mask;
        mod wake;
        mod wakeup;
        pub use epoll::Epoll as Poller;
    } else if #[cfg(feature = "epoll-level")] {
        mod epoll_level;
        mod instance;
        mod level;
        mod lock;
        mod mask;
        mod table;
        mod wake;
        mod wakeup;
        pub use epoll_level::EpollLevel as Poller;
    } else if #[cfg(feature = "poll")] {
        mod level;
        mod lock;
        mod mask;
        mod poll;
        mod pollable;
        mod table;
        mod wake;
        mod wakeup;
        pub use poll::Poll as Poller;
    } else if #[cfg(feature = "io-uring")] {
        mod io_uring;
        mod lock;
        mod mask;
        mod pollable;
        mod ring;
        mod table;
        pub use io_uring::IoUring as Poller;
    } else {
        compile_error!(
            "gopark has no poller: turn on one of the features `epoll` (on unless `default-features = false`), `epoll-level`, `poll` and \
             `io-uring`"
        );
    }
}
