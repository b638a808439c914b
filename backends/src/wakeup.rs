//! WakeUp: an eventfd that ends a thread's sleep in the kernel.
//!
//! The race: several threads may request a wake-up while the sleeper is about to sleep, sleeps, or
//! has just returned. The eventfd stays readable until a poll that waited has read it, so no
//! request is lost; [`WakeSig`] keeps all wakers except the first from writing.
//!
//! Refused: a signal, which is lost if it arrives just before the wait; a pipe, which costs two
//! descriptors.
//!
//! Source: eventfd(2); Go `src/runtime/netpoll_epoll.go`, `netpollBreak`.

#![allow(unsafe_code, reason = "the eventfd system calls")]

use crate::linux::{OwnedFd, check, retry_or_abort};
use gopark_core::os::{Delay, Errno};
use gopark_core::wake_sig::WakeSig;

/// A wake-up descriptor: readable while a wake-up is pending.
///
/// `request` aborts the process if the kernel refuses the descriptor. That happens when other code
/// has closed it, and the sleeper would never wake again.
#[doc(alias = "netpollEventFd")]
pub(crate) struct WakeUp {
    eventfd: OwnedFd,
    /// Keeps all wakers except the first from writing.
    #[doc(alias = "netpollWakeSig")]
    sig: WakeSig,
}

const WOULD_BLOCK: Errno = Errno::new(libc::EAGAIN);
const INTERRUPTED: Errno = Errno::new(libc::EINTR);

impl WakeUp {
    pub(crate) fn new() -> Result<Self, Errno> {
        // SAFETY: no memory is passed.
        let eventfd =
            OwnedFd(check(
                unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) } as isize,
            )? as i32);
        Ok(WakeUp {
            eventfd,
            sig: WakeSig::default(),
        })
    }

    /// The descriptor to watch for `IN`, level-triggered.
    pub(crate) fn fd(&self) -> i32 {
        self.eventfd.0
    }

    /// Makes the descriptor readable until a poll that waited has called `consume`.
    pub(crate) fn request(&self) {
        self.sig.request(|| {
            let mut failures = 0;
            loop {
                let one = 1u64;
                // SAFETY: `one` is 8 readable bytes.
                match check(unsafe {
                    libc::write(self.eventfd.0, (&raw const one).cast(), size_of_val(&one))
                }) {
                    // EAGAIN: the counter is full, so the descriptor is readable.
                    Ok(_) | Err(WOULD_BLOCK) => return,
                    Err(INTERRUPTED) => {}
                    Err(errno) => retry_or_abort(
                        format_args!("write to the eventfd of a poller"),
                        errno,
                        &mut failures,
                    ),
                }
            }
        });
    }

    /// Says that a poll with this delay has found the descriptor readable.
    pub(crate) fn consume(&self, delay: Delay) {
        self.sig.consume(delay != Delay::None, || {
            let mut count = 0u64;
            // A failed read leaves the eventfd readable: the next sleep ends at once and reads it.
            // SAFETY: `count` is 8 writable bytes.
            unsafe { libc::read(self.eventfd.0, (&raw mut count).cast(), size_of_val(&count)) };
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::tests::last_words;

    #[test]
    fn a_request_on_a_closed_eventfd_aborts_with_a_message() {
        let request_without_eventfd = || {
            let wakeup = WakeUp::new().unwrap();
            // SAFETY: no memory is passed.
            unsafe { libc::close(wakeup.fd()) };
            wakeup.request();
        };
        let printed = last_words(request_without_eventfd);
        let expected = "gopark: write to the eventfd of a poller has failed: errno 9 ";
        assert!(printed.starts_with(expected), "{printed}");
    }
}
