//! The Linux side of gopark: the pollers, and the raw system calls under the scheduler and its sockets.
//!
//! It is `no_std` and stands on libc alone, so that a program without `std` gets the same runtime. What is here either implements a
//! trait of [`gopark_core::os`] or makes one system call and sorts its outcome. It holds no goroutine and decides nothing.
//!
//! | item | gives |
//! |---|---|
//! | [`Poller`] | the [`Netpoll`](gopark_core::os::Netpoll) that a feature chose |
//! | [`linux::Linux`] | the [`Os`](gopark_core::os::Os): threads, futexes, the clock, stack memory |
//! | [`linux::io`] | non-blocking reads, writes, accepts and connects |
//! | [`linux::membarrier`] | a memory barrier on every running thread of the process |
//! | [`linux::available_procs`] | how many threads can run at the same time |

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

use static_assertions::assert_impl_all;

pub mod linux;

// `epoll` is a default feature and cargo adds features up, so it is the last choice: what somebody asked for beside it wins.
cfg_if::cfg_if! {
    if #[cfg(feature = "epoll")] {
        mod epoll;
        mod wake;
        pub use epoll::Epoll as Poller;
    } else {
        compile_error!("gopark-backends has no poller: enable its feature `epoll`, which is on unless `default-features = false`");
    }
}

assert_impl_all!(Poller: gopark_core::os::Netpoll);
