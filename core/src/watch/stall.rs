//! Stalls: goroutines that keep their threads for longer than the program wants, or that block in
//! the system while others wait for their thread.

use crate::m::M;
use crate::os::{Nanos, ThreadState};
use crate::sched::{Report, STILL, Sched, StallReport, Stalls, Walks};
use crate::sync::{AtomicU32, Ordering};
use crate::trace::Identity;

impl Stalls {
    /// Those that have lasted for `after` nanoseconds.
    pub fn after(after: Nanos) -> Self {
        Stalls {
            after,
            lock: None,
            tell: tell_all,
        }
    }

    /// Those that have lasted for `after` nanoseconds and are blocked in the system, while other
    /// goroutines need the thread: they are ready and can run only there. If the system call is
    /// `lock`, in which a thread waits for a lock, goroutines at home there that join the blocked
    /// one count as well.
    pub fn blocked(after: Nanos, lock: u32) -> Self {
        Stalls {
            after,
            lock: Some(lock),
            tell: tell_blocked,
        }
    }
}

fn tell_all(
    sched: &'static Sched,
    m: &M,
    lasts: Nanos,
    walks: &mut Walks,
    _: &dyn Fn() -> bool,
) -> bool {
    let doing = sched.os().thread_state(m.thread.load(Ordering::Relaxed));
    if let Some(stall) = stall_on(sched, m, lasts, walks, doing) {
        sched.report(Report::Stall(&stall));
    }
    true
}

fn tell_blocked(
    sched: &'static Sched,
    m: &M,
    lasts: Nanos,
    walks: &mut Walks,
    lasts_on: &dyn Fn() -> bool,
) -> bool {
    let thread = m.thread.load(Ordering::Relaxed);
    let doing = match sched.os().thread_state(thread) {
        ThreadState::Unknown if stands_still(sched, thread) => ThreadState::Blocked(None),
        doing => doing,
    };
    let blocked = matches!(doing, ThreadState::Blocked(_));
    let stall = if blocked {
        stall_on(sched, m, lasts, walks, doing)
    } else {
        None
    };
    match stall.filter(|stall| stall.waiting > 0 && lasts_on()) {
        Some(stall) => sched.report(Report::Stall(&stall)),
        None => return false,
    }
    true
}

/// The goroutine that runs on `m`, and how many others need the thread.
fn stall_on(
    sched: &'static Sched,
    m: &M,
    lasts: Nanos,
    walks: &mut Walks,
    doing: ThreadState,
) -> Option<StallReport> {
    let lock = sched.config().stalls.and_then(|stalls| stalls.lock);
    let locks = lock.is_some_and(|lock| doing == ThreadState::Blocked(Some(lock)));
    let began = sched.now();
    let (keeper, waiting) = sched.walk_home(m, locks);
    walks.ended(began, sched.now());
    keeper.map(|Identity { id, name, site }| StallReport {
        id,
        name,
        site,
        lasts,
        doing,
        lock: m.lock_wait.get().map(|wait| wait.kind),
        waiting,
    })
}

/// Whether a thread uses no CPU for [`STILL`], during which sysmon waits.
fn stands_still(sched: &'static Sched, thread: u32) -> bool {
    let os = sched.os();
    let before = os.cpu_time(thread);
    os.futex_wait(&AtomicU32::new(0), 0, Some(STILL));
    before > 0 && os.cpu_time(thread) == before
}
