//! membarrier(2): a memory barrier on every running thread of the process. Only the caller pays for
//! it.
//!
//! It is one half of an asymmetric Dekker pair. The frequent side stores its word, passes a
//! compiler fence and loads the other word. The rare side stores the other word, calls
//! [`private_expedited`] and loads the first. At least one of them sees the other's store.

#![allow(unsafe_code, reason = "the membarrier system call")]

use super::check;
use gopark_core::os::Errno;

// Numbers from `linux/membarrier.h`; libc has them for some targets only.
const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

/// Registers the process, which [`private_expedited`] requires. Fails with `ENOSYS` or `EINVAL` on
/// kernels before 4.14.
pub fn register_private_expedited() -> Result<(), Errno> {
    membarrier(REGISTER_PRIVATE_EXPEDITED)
}

/// When it returns, every thread of the process has passed a full memory barrier since the call
/// began. Registers the process if necessary.
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

    /// On a cache line of its own; two words on one line would move together.
    #[repr(align(128))]
    struct Word(AtomicU32);

    /// For each round, whether this side missed the store of the other side. It stores to `own`,
    /// calls `fence` and loads `other`.
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
    fn at_least_one_side_sees_the_others_store() {
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
