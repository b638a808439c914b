//! The edge-triggered epoll poller.
//!
//! Goal: a wait costs no system call except the sleep itself. `open` adds a descriptor once, for
//! both directions. From then on the kernel reports each change of readiness as one event, whether
//! or not a goroutine waits; the waiter words in core latch it.
//!
//! Refused: level-triggered or one-shot registration (feature `epoll-level`). It needs an
//! `epoll_ctl` for each wait, which the latch makes unnecessary.
//!
//! Source: epoll(7), "Level-triggered and edge-triggered"; Go `src/runtime/netpoll_epoll.go`.

#![allow(unsafe_code, reason = "it promises that tokens are genuine")]

use crate::instance::Instance;
use crate::mask::Mask;
use gopark_core::os::{Delay, Errno, Event, Events, Netpoll};
use gopark_core::tagptr::TaggedPtr;

/// An epoll instance and the eventfd that wakes it.
///
/// `poll` and `wake` abort the process if the kernel refuses either descriptor. That happens when
/// other code has closed it; no descriptor would become ready again.
///
/// # Panics
///
/// `poll` panics if its batch is not empty on entry and overflows.
pub struct Epoll(Instance);

impl Epoll {
    /// Returns the error of the system if it refuses to wait in this poller.
    pub(crate) fn probe(&self) -> Result<(), Errno> {
        self.0.probe()
    }
}

/// One event for each change of readiness.
const EDGES: Mask = Mask::from_bits_retain(libc::EPOLLET as u32);

// SAFETY: the kernel returns the word that a descriptor was added with, and only `open` adds
// descriptors, with their tokens.
unsafe impl Netpoll for Epoll {
    fn init() -> Result<Self, Errno> {
        Instance::new().map(Epoll)
    }

    fn open(&self, fd: i32, token: TaggedPtr) -> Result<(), Errno> {
        self.0.control(
            libc::EPOLL_CTL_ADD,
            fd,
            Mask::all() | EDGES,
            token.to_bits(),
        )
    }

    fn close(&self, fd: i32) {
        self.0.delete(fd);
    }

    fn poll(&self, delay: Delay, events: &mut Events) {
        self.0.poll(delay, |bits, mask| {
            let token = TaggedPtr::from_bits(bits);
            events
                .push(Event {
                    token,
                    ready: mask.ready(),
                })
                .unwrap_or_else(|_| panic!("poll needs an empty batch of events"));
        });
    }

    fn wake(&self) {
        self.0.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gopark_core::os::Ready;
    use gopark_core::tagptr::ALIGN;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::vec::Vec;

    #[test]
    fn each_change_is_reported_once_without_arming() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let poller = Epoll::init().unwrap();
        poller
            .open(ours.as_raw_fd(), TaggedPtr::pack(ALIGN, 1))
            .unwrap();
        let poll = || {
            let mut events = Events::new();
            poller.poll(Delay::None, &mut events);
            events.iter().map(|event| event.ready).collect::<Vec<_>>()
        };
        assert_eq!(poll(), [Ready::WRITE]);
        assert_eq!(poll(), []);
        for _ in 0..2 {
            theirs.write_all(b"x").unwrap();
            assert_eq!(poll(), [Ready::READ | Ready::WRITE]);
            assert_eq!(poll(), []);
        }
    }
}
