//! An `eventfd` that a signal handler writes to, and another thread waits on.

#![allow(
    unsafe_code,
    reason = "system calls; each says why its memory is valid"
)]

use super::{OwnedFd, check};
use gopark_core::os::Errno;

/// A counter on which one thread sleeps (eventfd(2)).
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// Opens a close-on-exec eventfd.
    pub fn open() -> Result<Self, Errno> {
        // SAFETY: no memory is passed.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) } as isize)?;
        Ok(Doorbell(OwnedFd(fd as i32)))
    }

    /// Ends the current or the next [`wait`](Self::wait). Async-signal-safe, except that it may
    /// change errno. Does not block: the counter is far from its limit.
    pub fn ring(&self) {
        let one = 1_u64;
        // SAFETY: `one` is readable. It fails only if other code has closed the descriptor.
        unsafe { libc::write(self.0.0, (&raw const one).cast(), size_of_val(&one)) };
    }

    /// Blocks the thread until there was a [`ring`](Self::ring) since the last wait.
    pub fn wait(&self) -> Result<(), Errno> {
        let mut count = 0_u64;
        loop {
            // SAFETY: `count` is writable.
            let n = unsafe { libc::read(self.0.0, (&raw mut count).cast(), size_of_val(&count)) };
            match check(n) {
                Ok(_) => return Ok(()),
                Err(errno) if errno.raw() == libc::EINTR => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// The number of this process (getpid(2)), which differs in a child made by fork.
/// Async-signal-safe.
pub fn process_id() -> i32 {
    // SAFETY: no memory is passed.
    unsafe { libc::getpid() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_before_a_wait_end_it_once() {
        let bell = Doorbell::open().unwrap();
        bell.ring();
        bell.ring();
        assert_eq!(bell.wait(), Ok(()));
        std::thread::scope(|scope| {
            scope.spawn(|| bell.ring());
            assert_eq!(bell.wait(), Ok(()));
        });
    }
}
