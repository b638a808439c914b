//! Event masks: `poll(2)`, epoll and io_uring use the same bits.

use gopark_core::os::Ready;

bitflags::bitflags! {
    /// An event mask.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct Mask: u32 {
        const IN = libc::EPOLLIN as u32;
        const PRI = libc::EPOLLPRI as u32;
        const OUT = libc::EPOLLOUT as u32;
        const ERR = libc::EPOLLERR as u32;
        const HUP = libc::EPOLLHUP as u32;
        const RDHUP = libc::EPOLLRDHUP as u32;
        /// Edge-triggered; epoll only.
        #[cfg(feature = "epoll")]
        const ET = libc::EPOLLET as u32;
        /// Disarmed by the first event; epoll only.
        #[cfg(feature = "epoll-level")]
        const ONESHOT = libc::EPOLLONESHOT as u32;
    }
}

static_assertions::const_assert!(
    libc::POLLIN as i32 == libc::EPOLLIN
        && libc::POLLPRI as i32 == libc::EPOLLPRI
        && libc::POLLOUT as i32 == libc::EPOLLOUT
        && libc::POLLERR as i32 == libc::EPOLLERR
        && libc::POLLHUP as i32 == libc::EPOLLHUP
        && libc::POLLRDHUP as i32 == libc::EPOLLRDHUP
);

impl Mask {
    /// What an edge-triggered registration watches for; the kernel adds `ERR` and `HUP`.
    #[cfg(any(feature = "epoll", feature = "io-uring"))]
    pub(crate) const EDGES: Self = Mask::IN.union(Mask::OUT).union(Mask::RDHUP).union(Mask::PRI);

    /// What a level-triggered registration watches for while somebody waits in `directions`.
    ///
    /// `PRI` is not in it: it makes a short read at an urgent mark known as such, but here data behind the mark is reported to the next
    /// wait anyway. And it would be reported to a peeking goroutine over and over.
    #[cfg(any(feature = "epoll-level", feature = "poll"))]
    pub(crate) fn levels(directions: Ready) -> Self {
        let mut mask = Mask::empty();
        mask.set(Mask::IN | Mask::RDHUP, directions.contains(Ready::READ));
        mask.set(Mask::OUT, directions.contains(Ready::WRITE));
        mask
    }

    /// The table on [`Ready`].
    pub(crate) fn ready(self) -> Ready {
        let ended = Mask::HUP | Mask::ERR;
        let mut ready = Ready::empty();
        ready.set(Ready::READ, self.intersects(ended | Mask::IN | Mask::RDHUP | Mask::PRI));
        ready.set(Ready::WRITE, self.intersects(ended | Mask::OUT));
        ready.set(Ready::HANGUP, self.intersects(ended | Mask::RDHUP | Mask::PRI));
        ready.set(Ready::ERROR, self == Mask::ERR);
        ready
    }
}

/// One direction, as the bit it has in [`Ready`].
#[cfg(any(feature = "epoll-level", feature = "poll"))]
pub(crate) fn direction(mode: gopark_core::os::Mode) -> Ready {
    match mode {
        gopark_core::os::Mode::Read => Ready::READ,
        gopark_core::os::Mode::Write => Ready::WRITE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_map_as_the_table_on_ready_says() {
        let ended = Ready::READ | Ready::WRITE | Ready::HANGUP;
        for (mask, expected) in [
            (Mask::IN, Ready::READ),
            (Mask::RDHUP, Ready::READ | Ready::HANGUP),
            (Mask::PRI, Ready::READ | Ready::HANGUP),
            (Mask::OUT, Ready::WRITE),
            (Mask::HUP, ended),
            (Mask::ERR, ended | Ready::ERROR),
            (Mask::ERR | Mask::HUP, ended),
            (Mask::ERR | Mask::OUT, ended),
            (Mask::IN | Mask::OUT, Ready::READ | Ready::WRITE),
        ] {
            assert_eq!(mask.ready(), expected, "{mask:?}");
        }
    }
}
