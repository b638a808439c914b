//! The level-triggered epoll poller: one-shot registrations that a wait arms.
//!
//! Goal: the arm path of [`Netpoll`], on a kernel that reports levels. It is what a port to a system without edge-triggering looks like, it
//! needs none of the promises of edges, and it reports data that a reader left behind.
//!
//! Refused: plain level-triggering, which would report a descriptor over and over until somebody reads; one registration for each
//! direction, which epoll does not have.
//!
//! The rule: `EPOLLONESHOT` lets one event through and then disarms the descriptor, in both directions. So the directions that are armed are
//! kept here, and a delivery re-arms those that did not fire. It never re-arms what fired: nobody has read yet, so the level
//! still holds, and the poller would spin.
//!
//! | step | directions | system call |
//! |---|---|---|
//! | `open` | none | ADD, for nothing but hang-ups and errors |
//! | `arm`, armed already | same | none |
//! | `arm`, not armed | and this one | MOD, which also reports what is ready now |
//! | a delivery | less what fired | MOD, if any are left |
//! | a socket's error and nothing else | all, by edges | MOD; no further one |
//! | a MOD fails | none | none: the next poll reports them ready, so that who waits finds out |
//! | an event of an earlier use of the number | same | none |
//! | `close` | slot emptied | DEL |
//!
//! An entry in the error queue of a socket is a level that stays until it is fetched, and the
//! kernel reports it to every waiter for data. Each wait would be over at once, and the waiter would
//! spin. So after an event of a socket that is nothing but an error, the socket is watched by edges,
//! for both directions and until it is closed: what comes after is reported once.
//!
//! The hard race is the number: a poll fetches an event of descriptor 7, another thread closes 7 and opens a new 7, and the poll re-arms.
//! Therefore the look at the slot and the MOD that follows from it are one step, under a lock that `open` and `close` take as well.

#![allow(unsafe_code, reason = "it promises that tokens are genuine")]

use crate::instance::Instance;
use crate::level::{direction, is_queued_error, levels};
use crate::lock::Lock;
use crate::mask::Mask;
use crate::table::{Key, Slot, Table};
use alloc::vec::Vec;
use gopark_core::os::{Delay, Errno, Event, Events, Mode, Netpoll, Ready};
use gopark_core::tagptr::TaggedPtr;

/// An epoll instance, the eventfd that wakes it, and who waits for what.
///
/// `poll` and `wake` abort the process if the kernel refuses either descriptor: somebody else closed it, and nothing would ever become
/// ready again.
///
/// # Panics
///
/// `poll`, if its batch is not empty and overflows.
pub struct EpollLevel {
    instance: Instance,
    armed: Lock<Table<Watched>>,
    /// Directions that could not be armed, for the next poll. Locked after `armed`.
    refused: Lock<Vec<Event>>,
}

/// An open descriptor.
struct Watched {
    /// The directions that are armed: `READ`, `WRITE`, both or none.
    armed: Ready,
    /// Every change is reported, whatever is armed.
    by_edges: bool,
}

/// Disarmed by the first event.
const ONESHOT: Mask = Mask::from_bits_retain(libc::EPOLLONESHOT as u32);

/// One event for each change.
const EDGES: Mask = Mask::from_bits_retain(libc::EPOLLET as u32);

// SAFETY: events carry the token of their slot, which `open` put there.
unsafe impl Netpoll for EpollLevel {
    fn init() -> Result<Self, Errno> {
        Ok(EpollLevel {
            instance: Instance::new()?,
            armed: Lock::new(Table::new()),
            refused: Lock::new(Vec::new()),
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
                // The event has disarmed these, too.
                self.rearm(slot);
            }
            events
                .push(Event {
                    token: slot.token,
                    ready,
                })
                .unwrap_or_else(|_| panic!("a batch is empty on entry"));
        });
        let mut refused = self.refused.lock();
        while !events.is_full() {
            let Some(event) = refused.pop() else { break };
            let _ = events.push(event);
        }
        if !refused.is_empty() {
            self.instance.wake();
        }
    }

    fn wake(&self) {
        self.instance.wake();
    }
}

impl EpollLevel {
    /// If it fails, the file was closed behind our back, and the next wait finds out.
    fn watch_by_edges(&self, slot: &mut Slot<Watched>) {
        let modified = self.instance.control(
            libc::EPOLL_CTL_MOD,
            slot.key.fd(),
            Mask::all() | EDGES,
            slot.key.0,
        );
        slot.state.by_edges = modified.is_ok();
    }

    fn rearm(&self, slot: &mut Slot<Watched>) {
        let interest = levels(slot.state.armed) | ONESHOT;
        let modified =
            self.instance
                .control(libc::EPOLL_CTL_MOD, slot.key.fd(), interest, slot.key.0);
        if modified.is_err() {
            // The file was closed behind our back. Nobody would hear of it again.
            let ready = core::mem::replace(&mut slot.state.armed, Ready::empty());
            self.refused.lock().push(Event {
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
    fn nothing_is_reported_that_was_not_armed_and_nothing_twice() {
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
    fn who_cannot_be_armed_is_woken_to_find_out() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (fd, token) = (ours.as_raw_fd(), TaggedPtr::pack(ALIGN, 1));
        let poller = EpollLevel::init().unwrap();
        poller.open(fd, token).unwrap();
        // As if a stranger had closed the file: the number is registered no more.
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
