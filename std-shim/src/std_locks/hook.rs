//! The locks of `std`: how a goroutine that waits for one parks instead of blocking its thread.
//!
//! On Linux, `Mutex`, `RwLock`, `Condvar`, `Once`, `OnceLock`, `LazyLock` and `Barrier` of `std`
//! wait and wake by one function of libc, `syscall`, which makes any system call. `std` is compiled
//! already, but it is linked together with the program: if the program has a function of that name,
//! the linker takes it. So this module defines `syscall`. Private waits and wakes of futexes go to
//! [`futex`], every other call goes to the kernel.
//!
//! | the call | made by | becomes |
//! |---|---|---|
//! | `WAIT_BITSET`, all bits | a lock of `std` | `FutexTable::wait` |
//! | the same, for words of `parker` | `std::thread::park`, thread-locals | a wait in the kernel |
//! | `WAIT` | `parking_lot` and others | a wait in the kernel |
//! | `WAKE` | all of them | `FutexTable::wake` |
//!
//! `std` permits each of its waits to end without a cause, which the table makes use of. A waiter
//! of `thread::park` must not park: two goroutines of one thread would share what is the state of
//! that thread. The runtime's own threads wake each other by `WAKE_BITSET`, which does not come
//! here, so a signal handler may do it.
//!
//! The symbol is hidden: other shared objects keep libc's. It is weak: if the program defines
//! `syscall` itself, that one is used. Then, and if `std` is linked dynamically, no lock of `std`
//! parks; [`is_linked`] finds out.
#![allow(unsafe_code, reason = "defines a function of libc")]

use super::{StdLocks, forbid_parking};
use crate::parker::{is_local, is_parker};
use crate::runtime::started;
use gopark_core::futex::{FutexTable, FutexWait, FutexWaited, LockKind, Policy};
use gopark_core::os::Nanos;
use gopark_core::sched::Sched;
use gopark_core::watch;
use libc::{c_int, c_long, timespec};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The goroutines that are parked at locks of `std`.
static TABLE: FutexTable = FutexTable::new();

/// Whether a wait of `std` has come to [`futex`].
static LINKED: AtomicBool = AtomicBool::new(false);

/// Sets what waits for locks of `std` do. Called once, before a goroutine runs.
pub(crate) fn install(locks: StdLocks) {
    FutexTable::forbid_parking_by(forbid_parking);
    TABLE.set_policy(match locks {
        StdLocks::Rescue => Policy::Rescue,
        StdLocks::Park => Policy::Park,
        StdLocks::Off => Policy::Block,
    });
}

/// Whether the waits of `std` come to [`futex`]: makes one that ends at once.
pub(crate) fn is_linked() -> bool {
    let mutex = Mutex::new(());
    let guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
    // Its result is of no interest: the time limit has passed.
    _ = Condvar::new().wait_timeout(guard, Duration::ZERO);
    LINKED.load(Ordering::Relaxed)
}

/// The goroutine that last woke another one at the lock with this address, if that is known.
pub(crate) fn last_waker(address: u64) -> Option<u64> {
    TABLE.last_waker(address as usize)
}

/// What sysmon does for waits of locks at each look.
pub(crate) fn rescue(sched: &'static Sched, now: Nanos) -> bool {
    watch::rescue(sched, &TABLE, now, |address| {
        // SAFETY: the kernel uses the address of a private wake as a key and does not read it.
        unsafe {
            system_call(
                libc::SYS_futex,
                std::ptr::without_provenance(address),
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                i32::MAX as u32,
                std::ptr::null(),
                std::ptr::null(),
                0,
            )
        };
    })
}

unsafe extern "C" {
    /// Makes a system call as libc's `syscall` does.
    #[link_name = kernel_symbol!()]
    fn system_call(
        number: c_long,
        word: *const AtomicU32,
        operation: c_int,
        value: u32,
        limit: *const timespec,
        other: *const AtomicU32,
        bits: u32,
    ) -> c_long;
}

const WAIT_BITSET: c_int = libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG;
const WAKE: c_int = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;

/// Where `syscall` jumps to for a private wait or wake, with its own arguments.
///
/// # Safety
///
/// The contract of futex(2). `limit` is used by waits only, and `bits` by `WAIT_BITSET`.
pub(super) unsafe extern "C" fn futex(
    number: c_long,
    word: *const AtomicU32,
    operation: c_int,
    value: u32,
    limit: *const timespec,
    other: *const AtomicU32,
    bits: u32,
) -> c_long {
    // SAFETY: the caller's contract.
    let kernel = || unsafe { system_call(number, word, operation, value, limit, other, bits) };
    let kind = match operation {
        WAIT_BITSET if bits != u32::MAX => LockKind::Other,
        // A new thread learns its parker before the runtime is published.
        WAIT_BITSET if value == u32::MAX && is_parker(word.addr()) => LockKind::ThreadPark,
        WAIT_BITSET if is_local(word.addr()) => LockKind::Forbidden,
        WAIT_BITSET => LockKind::Std,
        _ => LockKind::Other,
    };
    let Some(sched) = started() else {
        LINKED.fetch_or(operation == WAIT_BITSET, Ordering::Relaxed);
        return kernel();
    };
    if word.is_null() || !word.is_aligned() {
        return kernel();
    }
    if operation == WAKE {
        // SAFETY: the caller's contract, with another number of waiters.
        let kernel =
            |most| unsafe { system_call(number, word, operation, most, limit, other, bits) };
        return wake(sched, word.addr(), value, kernel);
    }
    // SAFETY: null, or valid by the caller's contract.
    let until = match unsafe { limit.as_ref() }.filter(|_| kind == LockKind::Std) {
        None => None,
        Some(limit) => match nanos(limit) {
            Some(until) => Some(until),
            None => return kernel(),
        },
    };
    let wait = FutexWait {
        // SAFETY: valid by the caller's contract, for the whole call.
        word: unsafe { &*word },
        expected: value,
        until,
        kind,
    };
    match TABLE.wait(sched, wait, kernel) {
        FutexWaited::Kernel(result) => result,
        FutexWaited::Woken => 0,
        FutexWaited::Changed => fail(libc::EAGAIN),
        FutexWaited::Expired => fail(libc::ETIMEDOUT),
    }
}

/// Wakes up to `most` waiters, a number as futex(2) takes it.
fn wake(
    sched: &'static Sched,
    address: usize,
    most: u32,
    kernel: impl Fn(u32) -> c_long,
) -> c_long {
    // The kernel wakes one for a number that is not positive.
    if most as i32 <= 0 {
        return kernel(most);
    }
    let mut failed = false;
    let woken = TABLE.wake(sched, address, most, |most| {
        let woken = kernel(most);
        failed = woken < 0;
        woken.max(0) as u32
    });
    match woken {
        0 if failed => -1,
        woken => woken.into(),
    }
}

/// A time of the monotonic clock. `None` if the kernel would refuse it.
fn nanos(time: &timespec) -> Option<Nanos> {
    let valid = time.tv_sec >= 0 && (0..1_000_000_000).contains(&time.tv_nsec);
    let seconds = Nanos::from(time.tv_sec).saturating_mul(1_000_000_000);
    valid.then(|| seconds.saturating_add(time.tv_nsec))
}

/// Never inlined: the caller may have parked, and an address of errno from before must not be used.
#[inline(never)]
fn fail(errno: c_int) -> c_long {
    // SAFETY: libc gives every thread an errno at this address.
    unsafe { *libc::__errno_location() = errno };
    -1
}
