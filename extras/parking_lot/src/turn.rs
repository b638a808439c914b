//! Turns of goroutines that try again and again without a wait.

use std::cell::Cell;
use std::thread;

/// After so many failed attempts on a thread a goroutine yields. The number is that of the reads
/// and writes after which a goroutine of gopark does.
const ATTEMPTS: u8 = 64;

thread_local! {
    static LEFT: Cell<u8> = const { Cell::new(ATTEMPTS) };
}

/// Notes that the caller did not get a lock at once. Goroutines are not preempted: the owner of the
/// lock may be a neighbour on the thread, which runs only if the caller yields now and then.
///
/// Never inlined: the compiler could keep the address of the thread-local across a park, after
/// which a goroutine of `Builder::migrate` may be on another thread.
#[cold]
#[inline(never)]
pub(crate) fn spend() {
    let left = LEFT.get() - 1;
    LEFT.set(if left == 0 { ATTEMPTS } else { left });
    // std counts panics by thread: a neighbour that ran now would count as panicking.
    if left == 0 && !thread::panicking() {
        gopark::yield_now();
    }
}
