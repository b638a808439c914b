//! `membarrier(2)`: a memory barrier on every running thread of the process, paid for by the caller alone.
//!
//! It is one half of an asymmetric Dekker pair. The frequent side stores one word and loads the other with nothing but a compiler
//! fence between; the rare side stores the other word, calls [`private_expedited`], and loads the first. Not both can miss the other's
//! store.

#![allow(unsafe_code, reason = "the membarrier system call")]

use super::check;
use gopark_core::os::Errno;

// From linux/membarrier.h; libc has them for some targets only.
const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

/// Registers the process, which [`private_expedited`] requires. `ENOSYS` or `EINVAL`: the kernel cannot (before 4.14).
pub fn register_private_expedited() -> Result<(), Errno> {
    membarrier(REGISTER_PRIVATE_EXPEDITED)
}

/// On return every thread of the process has passed a full memory barrier since the call began. Registers the process if it is not.
pub fn private_expedited() -> Result<(), Errno> {
    match membarrier(PRIVATE_EXPEDITED) {
        Err(errno) if errno.raw() == libc::EPERM => {
            register_private_expedited()?;
            membarrier(PRIVATE_EXPEDITED)
        }
        result => result,
    }
}

fn membarrier(command: libc::c_int) -> Result<(), Errno> {
    let (flags, cpu): (libc::c_int, libc::c_int) = (0, 0);
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_membarrier, command, flags, cpu) } as isize).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU32, Ordering, compiler_fence};
    use std::thread;
    use std::vec::Vec;

    const ROUNDS: u32 = 100_000;

    /// A cache line of its own, else the words travel together.
    #[repr(align(128))]
    struct Word(AtomicU32);

    /// For each round whether this side, which stores it to `own`, misses the store of the other side.
    fn missed(arrived: &Word, own: &Word, other: &Word, fence: fn()) -> Vec<bool> {
        let round = |round| {
            arrived.0.fetch_add(1, Ordering::AcqRel);
            let mut spins = 0;
            while arrived.0.load(Ordering::Acquire) < 2 * round {
                spins += 1;
                if spins % 1000 == 0 {
                    thread::yield_now();
                }
            }
            own.0.store(round, Ordering::Relaxed);
            fence();
            other.0.load(Ordering::Relaxed) < round
        };
        (1..=ROUNDS).map(round).collect()
    }

    #[test]
    fn not_both_sides_miss_the_others_store() {
        register_private_expedited().unwrap();
        let [arrived, frequent, rare] = [0; 3].map(|zero| Word(AtomicU32::new(zero)));
        thread::scope(|scope| {
            let by_frequent = scope.spawn(|| {
                missed(&arrived, &frequent, &rare, || {
                    compiler_fence(Ordering::SeqCst)
                })
            });
            let by_rare = missed(&arrived, &rare, &frequent, || private_expedited().unwrap());
            let both = core::iter::zip(by_frequent.join().unwrap(), by_rare)
                .filter(|&missed| missed == (true, true));
            assert_eq!(both.count(), 0);
        });
    }
}
