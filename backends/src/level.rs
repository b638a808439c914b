//! What pollers ask the kernel for that are told levels: nothing but what somebody waits for.

#![allow(unsafe_code, reason = "the poller lends what it watches")]

use crate::linux::Linux;
use crate::mask::Mask;
use gopark_core::os::{Borrowed, Mode, Os, Ready};

/// One direction, as the bit it has in [`Ready`].
pub(crate) fn direction(mode: Mode) -> Ready {
    match mode {
        Mode::Read => Ready::READ,
        Mode::Write => Ready::WRITE,
    }
}

/// What to watch for while somebody waits in `directions`.
///
/// `PRI` is not in it: it makes a short read at an urgent mark known as such, but here data behind the mark is reported to the next
/// wait anyway. And it would be reported to a peeking goroutine over and over.
pub(crate) fn levels(directions: Ready) -> Mask {
    let mut mask = Mask::empty();
    mask.set(Mask::IN | Mask::RDHUP, directions.contains(Ready::READ));
    mask.set(Mask::OUT, directions.contains(Ready::WRITE));
    mask
}

/// Whether an event of `fd`, which the poller watches, says that an error lies in a socket's error
/// queue. It will say so again until the error is fetched.
pub(crate) fn is_queued_error(fd: i32, mask: Mask) -> bool {
    // SAFETY: what is watched is open. The call changes nothing.
    mask == Mask::ERR && Linux::new().is_socket(unsafe { Borrowed::new(fd) })
}
