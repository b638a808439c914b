//! The Linux side of gopark: the pollers, and the system calls under the scheduler and its sockets.
//!
//! The crate is `no_std` and needs libc only, so a program without `std` gets the same runtime.
//! Each item implements a trait of [`gopark_core::os`], or makes one system call and sorts its
//! outcome. None holds a goroutine, and none schedules.
//!
//! | item | gives |
//! |---|---|
//! | `Epoll`, `IoUring`, `EpollLevel`, `Poll` | the pollers, each behind a feature |
//! | [`Poller`] | names each kind of poller, compiled in or not, and makes one |
//! | [`linux::Linux`] | [`Os`](gopark_core::os::Os): threads, futexes, the clock, stack memory |
//! | [`linux::socket`] | addresses, options, listeners |
//! | [`linux::io`] | non-blocking reads, writes, accepts and connects |
//! | [`linux::message`], [`linux::control`] | datagrams, messages, and their control messages |
//! | [`linux::batch`] | many datagrams with one call |
//! | [`linux::membarrier`] | a memory barrier on every running thread of the process |
//! | [`linux::has_thread_locals`] | whether goroutines may move between threads |
//! | [`linux::available_procs`], [`linux::affinity`] | how many threads can run at the same time |

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod linux;

// This file and `kind` are the only ones that ask for features. A feature adds its poller, and the
// files that this poller needs.
#[cfg(feature = "epoll")]
mod epoll;
#[cfg(feature = "epoll-level")]
mod epoll_level;
#[cfg(any(feature = "epoll", feature = "epoll-level"))]
mod instance;
#[cfg(feature = "io-uring")]
mod io_uring;
mod kind;
#[cfg(any(feature = "epoll-level", feature = "poll"))]
mod level;
#[cfg(any(feature = "epoll-level", feature = "io-uring", feature = "poll"))]
mod lock;
#[cfg(any(
    feature = "epoll",
    feature = "epoll-level",
    feature = "io-uring",
    feature = "poll"
))]
mod mask;
#[cfg(feature = "poll")]
mod poll;
#[cfg(any(feature = "io-uring", feature = "poll"))]
mod pollable;
#[cfg(any(feature = "epoll", feature = "epoll-level", feature = "poll"))]
mod probe;
#[cfg(feature = "io-uring")]
mod ring;
#[cfg(any(feature = "epoll-level", feature = "io-uring", feature = "poll"))]
mod table;
#[cfg(any(feature = "epoll", feature = "epoll-level", feature = "poll"))]
mod wakeup;

#[cfg(feature = "epoll")]
pub use epoll::Epoll;
#[cfg(feature = "epoll-level")]
pub use epoll_level::EpollLevel;
#[cfg(feature = "io-uring")]
pub use io_uring::IoUring;
pub use kind::Poller;
#[cfg(feature = "poll")]
pub use poll::Poll;
