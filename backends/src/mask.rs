//! Event masks. poll(2), epoll and io_uring use the same bits.

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
    /// What the event says to core, by the table on [`Ready`].
    pub(crate) fn ready(self) -> Ready {
        let ended = Mask::HUP | Mask::ERR;
        let mut ready = Ready::empty();
        ready.set(
            Ready::READ,
            self.intersects(ended | Mask::IN | Mask::RDHUP | Mask::PRI),
        );
        ready.set(Ready::WRITE, self.intersects(ended | Mask::OUT));
        ready.set(
            Ready::HANGUP,
            self.intersects(ended | Mask::RDHUP | Mask::PRI),
        );
        ready.set(Ready::ERROR, self == Mask::ERR);
        ready
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
