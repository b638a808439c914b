//! Rescue: sysmon ends waits for locks that block the thread of goroutines which could run.

use crate::futex::FutexTable;
use crate::lock_wait::{Blocked, LockKind};
use crate::m::M;
use crate::os::Nanos;
use crate::sched::{Report, Sched};
use crate::trace::Identity;

/// Nanoseconds that a wait may block its thread while others could run there. A lock that is held
/// for a few instructions is free again by then, and the wait has cost no switch.
const PATIENCE: Nanos = 1_000_000;

/// The same, if there were many rescues of late. A program that holds many locks of `std` over
/// parks would wait for a millisecond at each of them.
const PATIENCE_OF_MANY: Nanos = 100_000;

/// Nanoseconds that a wait may block a thread that no goroutine needs. A goroutine that is parked
/// instead lets its thread sleep, and counts in the search for deadlocks. A wait with a time limit
/// is part of no deadlock.
const PATIENCE_ALONE: Nanos = 1_000_000_000;

/// Ends the waits that have blocked threads for too long. Reports the first that it has ended, once
/// its end is known. Returns whether it has ended any. Called by sysmon.
///
/// `wake_all` wakes all threads that sleep in the kernel on the word at an address.
pub fn rescue(
    sched: &'static Sched,
    table: &FutexTable,
    now: Nanos,
    wake_all: impl Fn(usize),
) -> bool {
    if let Some((waiter, waker)) = table.take_first() {
        let named = |mut party: Identity| {
            party.name = sched.name_of(party.id);
            party
        };
        sched.report(Report::Rescue {
            waiter: &named(waiter),
            waker: waker.map(named).as_ref(),
        });
    }
    if !table.is_any_blocked() {
        return false;
    }
    let patience = match table.recent.are_many(now) {
        true => PATIENCE_OF_MANY,
        false => PATIENCE,
    };
    let due = |m: &M, wait: &Blocked| is_due(m, wait, now, patience);
    let mut any = false;
    for m in sched.ms() {
        let Some(blocked) = m.lock_wait.get().filter(|wait| due(m, wait)) else {
            continue;
        };
        // Before the wake: the waiter that it wakes looks for the address.
        table.hot.insert(blocked.address, now);
        table.first.begin(blocked.address);
        m.lock_wait.postpone(now + PATIENCE);
        // A thread that has not had a CPU since the first wake is woken again in vain.
        if blocked.again == blocked.since {
            sched.count_rescue();
            table.recent.count(now);
        }
        wake_all(blocked.address);
        any = true;
    }
    any
}

/// Whether the wait on `m` is to be ended. Others need the thread if they are at home there. If the
/// P of `m` was taken for others, each goroutine that waits would take a thread. If the wait was
/// ended and goes on, the wake has come before the thread slept, or the thread has not had a CPU
/// since.
fn is_due(m: &M, wait: &Blocked, now: Nanos, patience: Nanos) -> bool {
    let needed = wait.neighbours > 0 || !m.inbox.is_empty() || m.retake.is_taken();
    let patience = match needed {
        true => patience,
        false if wait.limited => return false,
        false => PATIENCE_ALONE,
    };
    wait.kind == LockKind::Std && now - wait.since >= patience && now >= wait.again
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::g::idle::goroutine;

    #[test]
    fn a_wait_is_due_after_a_millisecond_if_others_need_the_thread_and_after_a_second_if_not() {
        let due = |m: &M, now| {
            m.lock_wait
                .get()
                .is_some_and(|wait| is_due(m, &wait, now, PATIENCE))
        };
        let m = M::new(0);
        assert!(!due(&m, 1 << 60), "no wait");
        m.lock_wait.begin(0x1000, (LockKind::Std, false), 1, 100);
        assert!(!due(&m, 99 + PATIENCE));
        assert!(due(&m, 100 + PATIENCE));
        m.lock_wait.postpone(100 + 2 * PATIENCE);
        assert!(!due(&m, 99 + 2 * PATIENCE) && due(&m, 100 + 2 * PATIENCE));
        m.lock_wait.begin(0x1000, (LockKind::Std, true), 0, 100);
        assert!(!due(&m, 1 << 60), "its limit ends it");
        m.lock_wait.begin(0x1000, (LockKind::Std, false), 0, 100);
        assert!(!due(&m, 99 + PATIENCE_ALONE) && due(&m, 100 + PATIENCE_ALONE));
        m.retake.leave();
        assert!(m.retake.take(|| true));
        assert!(due(&m, 100 + PATIENCE), "its P was taken");
        m.retake.renew();
        assert!(!due(&m, 100 + PATIENCE));
        _ = m.inbox.push(goroutine(1));
        assert!(due(&m, 100 + PATIENCE), "one was readied since");
        for kind in [LockKind::Forbidden, LockKind::ThreadPark, LockKind::Other] {
            m.lock_wait.begin(0x1000, (kind, false), 1, 100);
            assert!(!due(&m, 1 << 60), "{kind:?} is none of std's locks");
        }
    }
}
