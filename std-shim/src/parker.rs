//! The words of one thread: what `std::thread::park` waits on, and what is in a thread-local.
//!
//! Two goroutines of the thread must not wait there at the same time, since the first that goes on
//! takes the word for its own. A scheduler of computations, such as rayon's, has a lock and a
//! condition variable in a thread-local, and returns to its caller when they say that the work is
//! done.
//!
//! A futex wait while a word is `u32::MAX` is one of `thread::park`, or of a reader at an `RwLock`
//! that is locked for writing while readers and writers wait: all its bits are set. Only the
//! address tells the two apart. So each thread that runs goroutines parks once at its start, for no
//! time, and notes the address.

use gopark_backends::linux::thread_locals_around;
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
    /// The lowest address of the thread-locals, and the one behind the last.
    static LOCALS: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Learns the addresses for the calling thread, which is about to run goroutines.
pub(crate) fn learn() {
    let around = thread_locals_around(LOCALS.with(|locals| std::ptr::from_ref(locals).addr()));
    LOCALS.set(around.map_or((0, 0), |around| (around.start, around.end)));
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

/// Whether the word at `address` is in a thread-local of the calling thread. Never inlined, as
/// above.
#[inline(never)]
pub(crate) fn is_local(address: usize) -> bool {
    let (start, end) = LOCALS.get();
    (start..end).contains(&address)
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

    #[test]
    fn a_thread_knows_its_thread_locals_once_it_has_learned_where_they_are() {
        thread_local!(static WORD: Cell<u32> = const { Cell::new(0) });
        let word = || WORD.with(|word| std::ptr::from_ref(word).addr());
        let learned = thread::spawn(move || {
            assert!(!is_local(word()));
            learn();
            let on_the_heap = Box::new(0);
            (
                is_local(word()),
                is_local(std::ptr::from_ref(&*on_the_heap).addr()),
            )
        });
        assert_eq!(learned.join().unwrap(), (true, false));
    }
}
