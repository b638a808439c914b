//! WakeUp: an eventfd that ends a thread's sleep in the kernel.
//!
//! The hard race: several threads may ask for a wake-up while the sleeper is about to sleep, sleeps, or has just returned. The eventfd
//! holds the request until the sleeper drains it; `requested` keeps all but the first waker from writing to it.
//!
//! Refused: a signal, which is lost if it lands just before the wait; a pipe, which costs two descriptors.

#![allow(unsafe_code, reason = "the eventfd system calls")]

use crate::linux::{OwnedFd, check};
use core::sync::atomic::{AtomicBool, Ordering};
use gopark_core::os::Errno;

/// A wake-up descriptor: readable while a wake-up is pending.
///
/// # Panics
///
/// `request` panics if the kernel refuses the descriptor: somebody else closed it, and the sleeper would never wake again.
#[doc(alias = "netpollEventFd")]
pub(crate) struct WakeUp {
    eventfd: OwnedFd,
    /// Whether a wake-up has been asked for and not consumed.
    ///
    /// | `requested` | eventfd | state | who leaves it |
    /// |---|---|---|---|
    /// | false | 0 | nobody asked | a waker: swaps in true |
    /// | true | 0 | a waker is about to write | that waker: writes 1 |
    /// | true | 1 | a wake-up is pending | the sleeper: reads |
    /// | true | 0 | the sleeper returns | the sleeper: swaps in false |
    ///
    /// Both sides use a swap: a waker that finds true has joined a pending wake-up, and the sleeper that takes it acquires what each of
    /// those wakers wrote before, not only what the first did.
    #[doc(alias = "netpollWakeSig")]
    requested: AtomicBool,
}

const WOULD_BLOCK: Errno = Errno::new(libc::EAGAIN);
const INTERRUPTED: Errno = Errno::new(libc::EINTR);

impl WakeUp {
    pub(crate) fn new() -> Result<Self, Errno> {
        // SAFETY: no memory is passed.
        let eventfd = OwnedFd(check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) } as isize)? as i32);
        Ok(WakeUp { eventfd, requested: AtomicBool::new(false) })
    }

    /// The descriptor to watch for `IN`, level-triggered.
    pub(crate) fn fd(&self) -> i32 {
        self.eventfd.0
    }

    /// Makes the descriptor readable until the next `drain`.
    pub(crate) fn request(&self) {
        if self.requested.swap(true, Ordering::AcqRel) {
            return;
        }
        loop {
            let one = 1u64;
            // SAFETY: `one` is 8 readable bytes.
            match check(unsafe { libc::write(self.eventfd.0, (&raw const one).cast(), size_of_val(&one)) }) {
                // EAGAIN: the counter is full, so it is readable.
                Ok(_) | Err(WOULD_BLOCK) => return,
                Err(INTERRUPTED) => {}
                Err(errno) => panic!("write to the eventfd of a poller: {errno}"),
            }
        }
    }

    /// Consumes the wake-up that a sleeper has seen.
    ///
    /// The order matters. A request between the two steps is dropped, which is fine: this sleeper is awake. With the steps swapped, a
    /// request between them sets `requested` and has its write eaten by the read, and then every later request joins one that
    /// never comes.
    pub(crate) fn drain(&self) {
        let mut count = 0u64;
        // A failed read leaves the eventfd readable: the next sleep ends at once and drains it, so nothing is lost.
        // SAFETY: `count` is 8 writable bytes.
        unsafe { libc::read(self.eventfd.0, (&raw mut count).cast(), size_of_val(&count)) };
        self.requested.swap(false, Ordering::AcqRel);
    }
}
