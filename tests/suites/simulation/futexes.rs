//! Actors that share locks of the kind that `std` has: a word that is 0 if unlocked, 1 if locked,
//! and 2 if locked with waiters. They wait through a table of futexes. An actor that owns a lock
//! may park, so its neighbours may block the thread that it needs; sysmon must end such waits.

use crate::computer::{State, computer};
use crate::ledger::Cause;
use crate::locks::{draw_time, hold, share};
use crate::os::SimulatedOs;
use crate::program::{Actor, Body, below, pause, sched};
use crate::sharing::ledger;
use gopark_core::futex::{FutexTable, FutexWait, FutexWaited, LockKind, Policy};
use gopark_core::os::{Nanos, Os};
use gopark_core::sched::Sched;
use gopark_core::select::Limit;
use gopark_core::watch;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// The words of the locks. The table depends on addresses, which must be the same in both runs of a
/// seed.
static WORDS: [AtomicU32; LOCKS_MAX] = [const { AtomicU32::new(0) }; LOCKS_MAX];
const LOCKS_MAX: usize = 3;

fn table() -> &'static FutexTable {
    &computer().futexes
}

/// What sysmon does.
pub(crate) fn rescue(sched: &'static Sched, now: Nanos) -> bool {
    watch::rescue(sched, table(), now, |address| _ = wake(address, u32::MAX))
}

/// Wakes up to `most` sleepers of the kernel. Returns how many it has woken.
fn wake(address: usize, most: u32) -> u32 {
    let computer = computer();
    computer.step("futex wake", [most.into(), 0]);
    let sleeps = |state| matches!(state, State::Futex { word, .. } if word == address);
    let woken = (0..most)
        .take_while(|_| computer.wake_where(sleeps))
        .count();
    computer.step("futex wake ends", [woken as u64, 0]);
    woken as u32
}

struct StdLock(usize);

impl StdLock {
    fn word(&self) -> &'static AtomicU32 {
        &WORDS[self.0]
    }

    fn lock(&self, actor: Actor, limit: Limit) -> bool {
        computer().step("lock", [self.0 as u64, 0]);
        if self.word().compare_exchange(0, 1, SeqCst, SeqCst).is_ok() {
            return true;
        }
        loop {
            computer().step("contend", [self.0 as u64, 0]);
            if self.word().swap(2, SeqCst) == 0 {
                return true;
            }
            match limit {
                Limit::At(when) if when <= computer().now() => return false,
                Limit::At(when) => self.wait(actor, Some(when)),
                Limit::Now | Limit::Never => self.wait(actor, None),
            }
        }
    }

    /// Waits while the lock has waiters.
    fn wait(&self, actor: Actor, until: Option<Nanos>) {
        let computer = computer();
        let wait = FutexWait {
            word: self.word(),
            expected: 2,
            until,
            kind: LockKind::Std,
        };
        let blocks = computer.oracle.borrow().goroutine[actor.0];
        let thread = computer.current();
        let kernel = || {
            let timeout = until.map(|when| (when - computer.now()).max(0));
            let blocked = computer.blocked.get();
            computer.blocked.set(blocked + usize::from(blocks));
            SimulatedOs.futex_wait(self.word(), 2, timeout);
            let blocked = computer.blocked.get();
            computer.blocked.set(blocked - usize::from(blocks));
        };
        let waited = table().wait(sched(), wait, kernel);
        let early = until.is_none_or(|when| computer.now() < when);
        if waited == FutexWaited::Expired && early {
            computer.fail(format!("actor {} waited until before {until:?}", actor.0));
        }
        if computer.current() != thread {
            let why = "has changed its thread while it waited for a lock";
            computer.fail(format!("actor {} {why}", actor.0));
        }
    }

    fn unlock(&self) {
        computer().step("unlock", [self.0 as u64, 0]);
        if self.word().swap(0, SeqCst) == 2 {
            let address = std::ptr::from_ref(self.word()).addr();
            let woken = table().wake(sched(), address, 1, |most| wake(address, most));
            computer().note("woken", [woken.into(), 0]);
        }
    }

    /// Notes the owner.
    fn own(&self, owner: Option<Actor>) {
        let new = owner.map(|actor| actor.0);
        let before = ledger(|ledger| std::mem::replace(&mut ledger.std_locks[self.0], new));
        if before.is_some() == new.is_some() {
            computer().fail(format!("actors {before:?} and {new:?} own lock {}", self.0));
        }
    }
}

/// Locks and unlocks a lock.
fn locker(actor: Actor, lock: &StdLock) {
    for _ in 0..1 + below(6) {
        let limit = match below(3) {
            0 => draw_time(),
            _ => Limit::Never,
        };
        let locked = actor.awaits(vec![Cause::StdLock(lock.0)], limit, || {
            lock.lock(actor, limit)
        });
        computer().note("locked", [lock.0 as u64, locked.into()]);
        if locked {
            lock.own(Some(actor));
            hold(actor);
            lock.own(None);
            lock.unlock();
        } else {
            actor.gives_up(limit);
        }
        pause(actor);
    }
}

/// Draws the actors of some locks.
pub(crate) fn draw(parts: &mut Vec<Body>) {
    let has_sysmon = sched().config().sysmon.is_some();
    table().set_policy(match below(4) {
        1.. if has_sysmon => Policy::Rescue,
        _ => Policy::Park,
    });
    for (number, word) in WORDS.iter().enumerate().take(1 + below(3) as usize) {
        word.store(0, SeqCst);
        ledger(|ledger| ledger.std_locks.push(None));
        share(
            parts,
            2 + below(4),
            Arc::new(StdLock(number)),
            |actor, lock| {
                locker(actor, lock);
            },
        );
    }
}
