//! The kinds of poller by name, which of them are compiled in, and how one is made: for programs
//! that choose when they start.

use alloc::boxed::Box;
use core::fmt;
use gopark_core::os::{Errno, Netpoll};

/// A way to wait for sockets: the kernel interface that tells the scheduler which are ready.
///
/// Each poller has a feature that compiles it in. All pollers have a variant, compiled in or not.
///
/// Its `Display` is [`name`](Self::name), the name of the feature; its `Debug` is the name of the
/// variant.
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

/// Makes a poller and probes its wait.
type Init = fn() -> Result<Box<dyn Netpoll>, Errno>;

/// The pollers that are compiled in, best first: what serves many connections at the least cost,
/// by the figures in `docs/backends.md`. A runtime takes the first that the system permits.
const COMPILED: &[(Poller, Init)] = &[
    #[cfg(feature = "epoll")]
    (Poller::Epoll, || {
        let poller = crate::Epoll::init()?;
        poller.probe()?;
        Ok(Box::new(poller))
    }),
    // `init` has probed `io_uring_enter`.
    #[cfg(feature = "io-uring")]
    (Poller::IoUring, || Ok(Box::new(crate::IoUring::init()?))),
    #[cfg(feature = "epoll-level")]
    (Poller::EpollLevel, || {
        let poller = crate::EpollLevel::init()?;
        poller.probe()?;
        Ok(Box::new(poller))
    }),
    #[cfg(feature = "poll")]
    (Poller::Poll, || {
        let poller = crate::Poll::init()?;
        poller.probe()?;
        Ok(Box::new(poller))
    }),
];

impl Poller {
    /// All pollers, compiled in or not, best first.
    pub const ALL: [Poller; 4] = [
        Poller::Epoll,
        Poller::IoUring,
        Poller::EpollLevel,
        Poller::Poll,
    ];

    /// Returns the pollers that are compiled in, best first. By default the runtime takes the first
    /// of them that the system permits.
    ///
    /// ```
    /// # use gopark_backends::Poller;
    /// for poller in Poller::compiled() {
    ///     println!("{poller} needs {}", poller.needs());
    /// }
    /// ```
    pub fn compiled() -> impl Iterator<Item = Poller> {
        COMPILED.iter().map(|&(poller, _)| poller)
    }

    /// Returns the name of the feature that compiles the poller in.
    ///
    /// ```
    /// # use gopark_backends::Poller;
    /// assert_eq!(Poller::EpollLevel.name(), "epoll-level");
    /// ```
    pub fn name(self) -> &'static str {
        match self {
            Poller::Epoll => "epoll",
            Poller::IoUring => "io-uring",
            Poller::EpollLevel => "epoll-level",
            Poller::Poll => "poll",
        }
    }

    /// Returns the poller whose [`name`](Self::name) is exactly `name`, in lower case, whether or
    /// not it is compiled in. Returns `None` for any other text.
    ///
    /// ```
    /// # use gopark_backends::Poller;
    /// assert_eq!(Poller::from_name("io-uring"), Some(Poller::IoUring));
    /// assert_eq!(Poller::from_name("IoUring"), None);
    /// ```
    pub fn from_name(name: &str) -> Option<Poller> {
        Self::ALL.into_iter().find(|poller| poller.name() == name)
    }

    /// Returns the system calls that this poller makes, as text for an operator. Not all must be
    /// permitted: of `epoll_wait` and `epoll_pwait`, it makes one, and without `epoll_pwait2`
    /// timers are exact to a millisecond only.
    ///
    /// ```
    /// # use gopark_backends::Poller;
    /// assert!(Poller::Epoll.needs().contains("epoll_ctl"));
    /// ```
    pub fn needs(self) -> &'static str {
        match self {
            Poller::Epoll | Poller::EpollLevel => {
                "epoll_create1, epoll_ctl, epoll_wait, epoll_pwait, epoll_pwait2, eventfd2, \
                 read and write"
            }
            Poller::IoUring => {
                "io_uring_setup, io_uring_enter, mmap, poll, fstat and newfstatat \
                 (Linux 5.13, kernel.io_uring_disabled = 0)"
            }
            Poller::Poll => "ppoll, eventfd2, fstat, newfstatat, read and write",
        }
    }

    /// Returns how many descriptors each poller of this kind keeps open.
    #[doc(hidden)]
    pub fn descriptors(self) -> usize {
        match self {
            // The instance or the first eventfd, and an eventfd for wake-ups.
            Poller::Epoll | Poller::EpollLevel | Poller::Poll => 2,
            Poller::IoUring => 1,
        }
    }

    /// Makes a poller of this kind, and makes one wait in it that returns at once.
    ///
    /// # Errors
    ///
    /// The error of the system if it refuses the poller or the wait. `ENOSYS` if this kind is not
    /// compiled in.
    #[doc(hidden)]
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
