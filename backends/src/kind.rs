//! The pollers that the features compile in, by name, for programs that choose one when they start.

use alloc::boxed::Box;
use core::fmt;
use gopark_core::os::{Errno, Netpoll};

/// A poller of this crate, whether or not its feature compiles it in.
///
/// Its `Display` is the name of the feature. A program without std does without this type: it names
/// the type of one poller, and links that one only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Poller {
    /// Edge-triggered epoll: one registration for each descriptor.
    Epoll,
    /// Multishot polls of an io_uring: one registration for each descriptor. Linux 5.13.
    IoUring,
    /// Level-triggered epoll: one `epoll_ctl` for each wait.
    EpollLevel,
    /// `poll(2)`: each poll takes time in proportion to the descriptors that are waited for.
    Poll,
}

type Init = fn() -> Result<Box<dyn Netpoll>, Errno>;

/// The pollers that are compiled in, best first: what serves many connections at the least cost,
/// by the figures in `docs/backends.md`. A runtime takes the first that the system permits.
const COMPILED: &[(Poller, Init)] = &[
    #[cfg(feature = "epoll")]
    (Poller::Epoll, || Ok(Box::new(crate::Epoll::init()?))),
    #[cfg(feature = "io-uring")]
    (Poller::IoUring, || Ok(Box::new(crate::IoUring::init()?))),
    #[cfg(feature = "epoll-level")]
    (Poller::EpollLevel, || {
        Ok(Box::new(crate::EpollLevel::init()?))
    }),
    #[cfg(feature = "poll")]
    (Poller::Poll, || Ok(Box::new(crate::Poll::init()?))),
];

impl Poller {
    /// All pollers of this crate, best first.
    pub const ALL: [Poller; 4] = [
        Poller::Epoll,
        Poller::IoUring,
        Poller::EpollLevel,
        Poller::Poll,
    ];

    /// The pollers that are compiled in, best first.
    pub fn compiled() -> impl Iterator<Item = Poller> {
        COMPILED.iter().map(|&(poller, _)| poller)
    }

    /// The name of the feature that compiles the poller in.
    pub fn name(self) -> &'static str {
        match self {
            Poller::Epoll => "epoll",
            Poller::IoUring => "io-uring",
            Poller::EpollLevel => "epoll-level",
            Poller::Poll => "poll",
        }
    }

    /// The poller called `name`.
    pub fn from_name(name: &str) -> Option<Poller> {
        Self::ALL.into_iter().find(|poller| poller.name() == name)
    }

    /// What the system must permit for this poller.
    pub fn needs(self) -> &'static str {
        match self {
            Poller::Epoll | Poller::EpollLevel => "epoll_create1 and eventfd2",
            Poller::IoUring => {
                "io_uring_setup and io_uring_enter (Linux 5.13, kernel.io_uring_disabled = 0)"
            }
            Poller::Poll => "eventfd2",
        }
    }

    /// Makes a poller of this kind.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses; `ENOSYS` if this kind is not compiled in.
    pub fn init(self) -> Result<Box<dyn Netpoll>, Errno> {
        let compiled = COMPILED.iter().find(|&&(poller, _)| poller == self);
        compiled.map_or(Err(Errno::new(libc::ENOSYS)), |(_, init)| init())
    }
}

impl fmt::Display for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec::Vec;

    #[test]
    fn a_poller_has_the_name_of_its_feature_and_is_found_by_it() {
        for (poller, feature) in
            Poller::ALL
                .into_iter()
                .zip(["epoll", "io-uring", "epoll-level", "poll"])
        {
            assert_eq!(poller.to_string(), feature);
            assert_eq!(Poller::from_name(feature), Some(poller));
        }
        for name in ["", "Epoll", "epoll ", "kqueue"] {
            assert_eq!(Poller::from_name(name), None, "{name:?}");
        }
    }

    #[test]
    fn the_pollers_compiled_in_are_those_of_the_features_in_the_order_of_all() {
        let features = [
            cfg!(feature = "epoll"),
            cfg!(feature = "io-uring"),
            cfg!(feature = "epoll-level"),
            cfg!(feature = "poll"),
        ];
        let on = Poller::ALL.into_iter().zip(features).filter(|&(_, on)| on);
        let on = Vec::from_iter(on.map(|(poller, _)| poller));
        assert_eq!(Vec::from_iter(Poller::compiled()), on);
        for poller in Poller::ALL
            .into_iter()
            .filter(|poller| !on.contains(poller))
        {
            assert_eq!(poller.init().err(), Some(Errno::new(libc::ENOSYS)));
        }
    }
}
