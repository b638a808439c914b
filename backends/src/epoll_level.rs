//! The level-triggered epoll poller: one-shot registrations that each wait arms.
//!
//! Goal: the arm path of [`Netpoll`] on a kernel that reports levels. A port to a system without
//! edge-triggering looks like this poller. It also reports data that a reader left behind.
//!
//! Refused: plain level-triggering, which reports a descriptor again and again until it is read;
//! one registration for each direction, which epoll does not have.
//!
//! The rule: `EPOLLONESHOT` lets one event through and then disarms the descriptor in both
//! directions (epoll_ctl(2)). So this poller records which directions are armed, and a delivery
//! re-arms those that did not fire. It does not re-arm the direction that fired: the reader has not
//! read yet, the level still holds, and the poller would spin.
//!
//! | step | armed directions | system call |
//! |---|---|---|
//! | `open` | none | ADD, for hang-ups and errors only |
//! | `arm`, already armed | unchanged | none |
//! | `arm`, not yet armed | plus this one | MOD, which also reports present readiness |
//! | a delivery | minus those that fired | MOD, if any are left |
//! | an event that is only a socket's error | all, by edges | MOD; none after it |
//! | a MOD fails | none | none: the next poll reports them ready; the waiters see the error |
//! | an event of an earlier use of the number | unchanged | none |
//! | `close` | slot emptied | DEL |
//!
//! An entry in a socket's error queue is a level that stays until it is fetched, and the kernel
//! reports it to every wait for data. Each wait would end at once, and the waiter would spin. So
//! after an event that consists of an error alone, this poller watches the socket by edges, in both
//! directions, until it is closed: the kernel then reports each later change once.
//!
//! The race is on the descriptor number: a poll fetches an event of descriptor 7, another thread
//! closes 7 and opens a new 7, and the poll re-arms. Therefore the lookup of the slot and the MOD
//! after it are one step under a lock, which `open` and `close` take as well.

#![allow(unsafe_code, reason = "it promises that tokens are genuine")]

use crate::instance::Instance;
use crate::level::{direction, is_queued_error, levels};
use crate::lock::Lock;
use crate::mask::Mask;
use crate::table::{Key, Slot, Table};
use alloc::vec::Vec;
use gopark_core::os::{Delay, Errno, Event, Events, Mode, Netpoll, Ready};
use gopark_core::tagptr::TaggedPtr;

/// An epoll instance, the eventfd that wakes it, and the directions that waiters have armed.
///
/// `poll` and `wake` abort the process if the kernel refuses either descriptor. That happens when
/// other code has closed it; no descriptor would become ready again.
///
/// # Panics
///
/// `poll` panics if its batch is not empty on entry and overflows.
pub struct EpollLevel {
    instance: Instance,
    /// The open descriptors. Held across each `epoll_ctl`, so that table and kernel agree.
    armed: Lock<Table<Watched>>,
    /// Directions that could not be armed; the next poll reports them. Locked after `armed`.
    unarmed: Lock<Vec<Event>>,
}

impl EpollLevel {
    /// Returns the error of the system if it refuses to wait in this poller.
    pub(crate) fn probe(&self) -> Result<(), Errno> {
        self.instance.probe()
    }
}

/// An open descriptor.
struct Watched {
    /// The directions that the kernel is asked for.
    armed: Ready,
    /// The kernel reports every change, whatever is armed.
    by_edges: bool,
}

/// The first event disarms the descriptor.
const ONESHOT: Mask = Mask::from_bits_retain(libc::EPOLLONESHOT as u32);

/// One event for each change of readiness.
const EDGES: Mask = Mask::from_bits_retain(libc::EPOLLET as u32);

// SAFETY: events carry the token of their slot, which `open` put there.
unsafe impl Netpoll for EpollLevel {
    fn init() -> Result<Self, Errno> {
        Ok(EpollLevel {
            instance: Instance::new()?,
            armed: Lock::new(Table::new()),
            unarmed: Lock::new(Vec::new()),
        })
    }

    fn open(&self, fd: i32, token: TaggedPtr) -> Result<(), Errno> {
        let mut table = self.armed.lock();
        let key = table.next_key(fd);
        self.instance
            .control(libc::EPOLL_CTL_ADD, fd, ONESHOT, key.0)?;
        table.fill(
            key,
            token,
            Watched {
                armed: Ready::empty(),
                by_edges: false,
            },
        );
        Ok(())
    }

    fn close(&self, fd: i32) {
        self.armed.lock().empty(fd);
        self.instance.delete(fd);
    }

    fn arm(&self, fd: i32, token: TaggedPtr, mode: Mode) {
        let mut table = self.armed.lock();
        let Some(slot) = table
            .at(fd)
            .filter(|slot| slot.token == token && !slot.state.by_edges)
        else {
            return;
        };
        let before = slot.state.armed;
        slot.state.armed |= direction(mode);
        if slot.state.armed != before {
            self.rearm(slot);
        }
    }

    fn poll(&self, delay: Delay, events: &mut Events) {
        self.instance.poll(delay, |bits, mask| {
            let mut table = self.armed.lock();
            let Some(slot) = table.get(Key(bits)) else {
                return;
            };
            let ready = mask.ready();
            slot.state.armed -= ready;
            if !slot.state.by_edges && is_queued_error(slot.key.fd(), mask) {
                self.watch_by_edges(slot);
            } else if !slot.state.armed.is_empty() && !slot.state.by_edges {
                // One-shot: the event has disarmed these directions as well.
                self.rearm(slot);
            }
            events
                .push(Event {
                    token: slot.token,
                    ready,
                })
                .unwrap_or_else(|_| panic!("poll needs an empty batch of events"));
        });
        let mut unarmed = self.unarmed.lock();
        while !events.is_full() {
            let Some(event) = unarmed.pop() else { break };
            let _ = events.push(event);
        }
        if !unarmed.is_empty() {
            self.instance.wake();
        }
    }

    fn wake(&self) {
        self.instance.wake();
    }
}

impl EpollLevel {
    /// Watches `slot` by edges until it is closed. A failed MOD means that other code has closed
    /// the file; the next wait then fails.
    fn watch_by_edges(&self, slot: &mut Slot<Watched>) {
        let modified = self.instance.control(
            libc::EPOLL_CTL_MOD,
            slot.key.fd(),
            Mask::all() | EDGES,
            slot.key.0,
        );
        slot.state.by_edges = modified.is_ok();
    }

    /// Asks the kernel for the armed directions. If it refuses, reports them ready.
    fn rearm(&self, slot: &mut Slot<Watched>) {
        let interest = levels(slot.state.armed) | ONESHOT;
        let modified =
            self.instance
                .control(libc::EPOLL_CTL_MOD, slot.key.fd(), interest, slot.key.0);
        if modified.is_err() {
            // Other code has closed the file, so no event will come. The waiters must see the
            // error.
            let ready = core::mem::replace(&mut slot.state.armed, Ready::empty());
            self.unarmed.lock().push(Event {
                token: slot.token,
                ready,
            });
            self.instance.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gopark_core::tagptr::ALIGN;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    fn poll(poller: &EpollLevel) -> Vec<Ready> {
        let mut events = Events::new();
        poller.poll(Delay::None, &mut events);
        events.iter().map(|event| event.ready).collect()
    }

    #[test]
    fn only_armed_directions_are_reported_and_each_once() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (fd, token) = (ours.as_raw_fd(), TaggedPtr::pack(ALIGN, 1));
        let poller = EpollLevel::init().unwrap();
        poller.open(fd, token).unwrap();
        theirs.write_all(b"x").unwrap();
        assert_eq!(poll(&poller), []);
        for (mode, ready) in [
            (Mode::Read, Ready::READ),
            (Mode::Write, Ready::WRITE),
            (Mode::Read, Ready::READ),
        ] {
            poller.arm(fd, token, mode);
            assert_eq!(poll(&poller), [ready]);
            assert_eq!(poll(&poller), []);
        }
    }

    #[test]
    fn a_direction_that_cannot_be_armed_is_reported_ready() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (fd, token) = (ours.as_raw_fd(), TaggedPtr::pack(ALIGN, 1));
        let poller = EpollLevel::init().unwrap();
        poller.open(fd, token).unwrap();
        // As if other code had closed the file: the number is not registered.
        poller.instance.delete(fd);
        for (mode, ready) in [(Mode::Read, Ready::READ), (Mode::Write, Ready::WRITE)] {
            poller.arm(fd, token, mode);
            let mut events = Events::new();
            poller.poll(Delay::Forever, &mut events);
            assert_eq!(
                events
                    .iter()
                    .map(|event| (event.token, event.ready))
                    .collect::<Vec<_>>(),
                [(token, ready)]
            );
            assert_eq!(poll(&poller), []);
        }
    }

    #[test]
    fn the_direction_that_did_not_fire_stays_armed() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (fd, token) = (ours.as_raw_fd(), TaggedPtr::pack(ALIGN, 1));
        let poller = EpollLevel::init().unwrap();
        poller.open(fd, token).unwrap();
        poller.arm(fd, token, Mode::Read);
        poller.arm(fd, token, Mode::Write);
        assert_eq!(poll(&poller), [Ready::WRITE]);
        theirs.write_all(b"x").unwrap();
        assert_eq!(poll(&poller), [Ready::READ]);
    }

    #[test]
    fn a_stale_token_arms_nothing() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let fd = ours.as_raw_fd();
        let poller = EpollLevel::init().unwrap();
        poller.open(fd, TaggedPtr::pack(ALIGN, 1)).unwrap();
        poller.arm(fd, TaggedPtr::pack(ALIGN, 2), Mode::Write);
        assert_eq!(poll(&poller), []);
    }
}
