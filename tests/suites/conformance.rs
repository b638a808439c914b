//! The contract of [`Netpoll`](gopark_core::os::Netpoll), over descriptors of every kind and over
//! every poller that is compiled in.
//!
//! Edge- and level-triggered pollers both pass. A test arms before it expects an event, accepts
//! spurious readiness, and fails if readiness is lost. The trait states the contract in words;
//! `docs/backends.md` says how to run this over a new poller.
#![allow(unsafe_code, reason = "some descriptors are made by libc")]
#![allow(clippy::duplicate_mod, reason = "one set of tests for each poller")]

#[allow(unreachable_pub, reason = "core includes it too")]
#[path = "../../core/fuzz/check.rs"]
mod check;

#[cfg(feature = "epoll")]
#[path = "conformance"]
mod epoll {
    const POLLER: gopark::Poller = gopark::Poller::Epoll;
    mod contract;
}

#[cfg(feature = "io-uring")]
#[path = "conformance"]
mod io_uring {
    const POLLER: gopark::Poller = gopark::Poller::IoUring;
    mod contract;
}

#[cfg(feature = "epoll-level")]
#[path = "conformance"]
mod epoll_level {
    const POLLER: gopark::Poller = gopark::Poller::EpollLevel;
    mod contract;
}

#[cfg(feature = "poll")]
#[path = "conformance"]
mod poll {
    const POLLER: gopark::Poller = gopark::Poller::Poll;
    mod contract;
}

#[test]
fn control_messages_are_read_like_by_a_plain_reader_and_as_they_were_pushed() {
    check::check("control", 20_000, gopark_tests::control::fuzz);
}
