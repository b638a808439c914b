//! Interest masks of the level-triggered pollers: they ask the kernel only for what a goroutine
//! waits for.

#![allow(unsafe_code, reason = "the poller lends what it watches")]

use crate::linux::Linux;
use crate::mask::Mask;
use gopark_core::os::{Borrowed, Mode, Os, Ready};

/// The bit of `mode` in [`Ready`].
pub(crate) fn direction(mode: Mode) -> Ready {
    match mode {
        Mode::Read => Ready::READ,
        Mode::Write => Ready::WRITE,
    }
}

/// The events to ask for while goroutines wait in `directions`.
///
/// Without `PRI`. It would tell core that data stops at an urgent mark, so that a short read proves
/// nothing; but a level-triggered poller reports the data behind the mark to the next wait anyway.
/// And while a goroutine peeks at the data, `PRI` would be reported again and again.
pub(crate) fn levels(directions: Ready) -> Mask {
    let mut mask = Mask::empty();
    mask.set(Mask::IN | Mask::RDHUP, directions.contains(Ready::READ));
    mask.set(Mask::OUT, directions.contains(Ready::WRITE));
    mask
}

/// Whether `mask`, an event of `fd`, is an entry in a socket's error queue and nothing else. The
/// kernel reports it again until it is fetched.
pub(crate) fn is_queued_error(fd: i32, mask: Mask) -> bool {
    // SAFETY: `fd` is open, since a poller watches it until `close`. The call changes nothing.
    mask == Mask::ERR && Linux::new().is_socket(unsafe { Borrowed::new(fd) })
}
