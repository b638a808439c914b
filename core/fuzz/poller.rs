//! A poller for fuzz targets: it checks registrations, and delivers the events that the target puts
//! into [`PENDING`].
#![allow(unsafe_code, reason = "Netpoll is an unsafe trait")]

use crate::os::{Delay, Errno, Event, Events, Mode, Netpoll};
use crate::tagptr::TaggedPtr;
use core::cell::Cell;

/// The number of descriptors: their numbers are below this.
pub(crate) const DESCS: usize = 2;

/// The most events that one poll fetches.
pub(crate) const FETCHED_MAX: usize = 8;

pub(crate) struct FuzzPoller;

std::thread_local! {
    static WATCHED: [Cell<bool>; DESCS] = const { [const { Cell::new(false) }; DESCS] };
    /// Whether the next `open` is refused.
    pub(crate) static REFUSES: Cell<bool> = const { Cell::new(false) };
    /// The last call of `arm`.
    pub(crate) static ARMED: Cell<Option<(i32, Mode)>> = const { Cell::new(None) };
    /// The events that the next poll delivers.
    pub(crate) static PENDING: Cell<heapless::Vec<Event, FETCHED_MAX>> =
        const { Cell::new(heapless::Vec::new()) };
}

impl FuzzPoller {
    pub(crate) fn watches(fd: i32) -> bool {
        WATCHED.with(|watched| watched[fd as usize].get())
    }
}

// SAFETY: the target makes events only of tokens of its poll descriptors.
unsafe impl Netpoll for FuzzPoller {
    fn init() -> Result<Self, Errno> {
        Ok(FuzzPoller)
    }

    fn open(&self, fd: i32, _: TaggedPtr) -> Result<(), Errno> {
        const ENOSPC: i32 = 28;
        if REFUSES.take() {
            return Err(Errno::new(ENOSPC));
        }
        assert!(
            !WATCHED.with(|watched| watched[fd as usize].replace(true)),
            "registered twice"
        );
        Ok(())
    }

    fn close(&self, fd: i32) {
        assert!(
            WATCHED.with(|watched| watched[fd as usize].replace(false)),
            "closed but not registered"
        );
    }

    fn arm(&self, fd: i32, _: TaggedPtr, mode: Mode) {
        ARMED.set(Some((fd, mode)));
    }

    fn poll(&self, _: Delay, events: &mut Events) {
        events.extend(PENDING.take());
    }

    fn wake(&self) {}
}
