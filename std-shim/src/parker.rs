//! The word on which `std::thread::park` waits. Each thread has one of its own.
//!
//! A futex wait while a word is `u32::MAX` is one of `thread::park`, or of a reader at an `RwLock`
//! that is locked for writing while readers and writers wait: all its bits are set. Only the
//! address tells the two apart. So each thread that runs goroutines parks once at its start, for no
//! time, and notes the address.

use std::cell::Cell;
use std::thread;
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Parker {
    Unknown,
    /// The thread parks in order to learn it.
    Sought,
    At(usize),
}

thread_local! {
    static PARKER: Cell<Parker> = const { Cell::new(Parker::Unknown) };
}

/// Learns the address for the calling thread, which is about to run goroutines.
pub(crate) fn learn() {
    PARKER.set(Parker::Sought);
    thread::park_timeout(Duration::ZERO);
    // Not if waits of `std` do not pass through this crate.
    if PARKER.get() == Parker::Sought {
        PARKER.set(Parker::Unknown);
    }
}

/// Whether a wait of the calling thread while the word at `address` is `u32::MAX` is one of
/// `thread::park`. True if the thread has not learned it.
///
/// Never inlined: the caller may then park, and must not use an address of a thread-local from
/// before.
#[inline(never)]
pub(crate) fn is_parker(address: usize) -> bool {
    match PARKER.get() {
        Parker::At(parker) => parker == address,
        Parker::Unknown => true,
        Parker::Sought => {
            PARKER.set(Parker::At(address));
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_knows_its_own_parker_once_it_has_learned_it() {
        let learned = thread::spawn(|| {
            assert!(is_parker(8) && is_parker(16), "unknown");
            PARKER.set(Parker::Sought);
            assert!(is_parker(16));
            (is_parker(8), is_parker(16))
        });
        assert_eq!(learned.join().unwrap(), (false, true));
        assert!(is_parker(8), "that of another thread");
    }
}
