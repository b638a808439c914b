//! Stalls: goroutines that keep their threads for longer than the program finds right, or that sit
//! in the system while others wait.

use super::snapshot::Identity;
use super::{Report, Sched};
use crate::m::M;
use crate::os::{Nanos, ThreadState};
use crate::sync::{AtomicU32, Ordering};
use alloc::sync::Arc;
use core::fmt;
use core::panic::Location;

/// A goroutine that keeps its thread.
#[derive(Clone, Debug)]
pub struct Stall {
    /// Its number.
    pub id: u64,
    /// The name it was given.
    pub name: Option<Arc<str>>,
    /// Where it was spawned.
    pub site: &'static Location<'static>,
    /// For how long it has not let go, in nanoseconds.
    pub lasts: Nanos,
    /// What its thread does.
    pub doing: ThreadState,
    /// How many goroutines can run only on that thread, and are ready to. With
    /// [`Stalls::blocked`] and a thread that waits for a lock, also those at home there that join
    /// this goroutine.
    pub waiting: usize,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "goroutine {}", self.id)?;
        if let Some(name) = &self.name {
            write!(f, " \"{name}\"")?;
        }
        write!(
            f,
            ", spawned at {}, keeps its thread for {} ms ",
            self.site,
            self.lasts / 1_000_000
        )?;
        match self.doing {
            ThreadState::Running => f.write_str("computing")?,
            ThreadState::Blocked(Some(number)) => write!(f, "in system call {number}")?,
            ThreadState::Blocked(None) => f.write_str("in a system call")?,
            ThreadState::Unknown => f.write_str("so far")?,
        }
        match self.waiting {
            0 => Ok(()),
            1 => f.write_str("; 1 goroutine waits for it"),
            waiting => write!(f, "; {waiting} goroutines wait for it"),
        }
    }
}

/// Which stalls are reported.
///
/// Like the other kinds of watching that a [`Config`](super::Config) asks for, it holds the code that it needs: a program that does not ask is
/// linked without.
#[derive(Clone, Copy, Debug)]
pub struct Stalls {
    after: Nanos,
    /// The number of the system call in which a thread waits for a lock. In any other call a
    /// goroutine cannot depend on one that joins it.
    lock: Option<u32>,
    tell: fn(&'static Sched, &M, Nanos, &mut Walks, &dyn Fn() -> bool) -> bool,
}

impl Stalls {
    /// Those that have lasted for so long.
    pub fn after(after: Nanos) -> Self {
        Stalls {
            after,
            lock: None,
            tell: Sched::tell_stall,
        }
    }

    /// Those that have lasted for so long and are blocked in the system, while goroutines that can run
    /// on that thread only are ready, or, in the system call `lock`, wait for the blocked one's
    /// return.
    pub fn blocked(after: Nanos, lock: u32) -> Self {
        Stalls {
            after,
            lock: Some(lock),
            tell: Sched::tell_blocked,
        }
    }
}

/// An M that has lost its P while it was away, and is not back.
pub(super) struct Detached {
    pub(super) m: usize,
    /// Since when its goroutine keeps it.
    pub(super) since: Nanos,
    /// Whether it was blocked when it lost its P, as far as its CPU clock says.
    pub(super) still: bool,
    pub(super) next_report: NextReport,
}

/// How long a stall has to last before sysmon looks whether it is to be reported. 0: as long as
/// `Config::stalls` says.
#[derive(Clone, Copy, Default)]
pub(super) struct NextReport(Nanos);

/// A stall that is not reported is looked at again when it has lasted twice as long, but at least
/// this often: a goroutine that waits may be readied at any time, and a look walks over all stacks.
const LONGEST_PAUSE: Nanos = 10_000_000_000;

/// For how long the CPU clock of a thread that is blocked stands still at least, where the clock is
/// all there is. That of a thread that waits for a CPU does so as well, for the turns of others.
pub(super) const STILL: Nanos = 4_000_000;

/// When the next walk over all stacks may begin. Those of many Ms take sysmon a small part of its
/// time together.
#[derive(Default)]
pub(super) struct Walks(Nanos);

impl Walks {
    /// How many times as long as a walk its pause is.
    const PAUSE: Nanos = 20;

    fn allowed(&self, now: Nanos) -> bool {
        now >= self.0
    }

    fn ended(&mut self, began: Nanos, now: Nanos) {
        self.0 = now.saturating_add((now - began).saturating_mul(Self::PAUSE));
    }
}

/// Whether an M that has lost its P has one again, or waits for one.
fn is_back(m: &M) -> bool {
    !m.retake.is_taken() || m.wake.is_asleep()
}

impl Sched {
    /// Whether the M is still away. A goroutine without a P enters the scheduler now and then for a
    /// moment, and goes on: only an M that has a P again, or waits for one, is back.
    pub(super) fn is_detached(
        &'static self,
        detached: &mut Detached,
        walks: &mut Walks,
        now: Nanos,
    ) -> bool {
        let m = self.m(detached.m);
        if is_back(m) {
            m.kept.set(0);
            return false;
        }
        m.kept.set(detached.since);
        let away = || m.retake.is_taken() && m.retake.in_goroutine();
        if away() {
            self.tell_if_due(
                m,
                now - detached.since,
                &mut detached.next_report,
                walks,
                &away,
            );
        }
        true
    }

    /// Reports what runs on `m` once, if that has kept it for too long. `lasts_on` says whether it
    /// still does.
    pub(super) fn tell_if_due(
        &'static self,
        m: &M,
        lasts: Nanos,
        next: &mut NextReport,
        walks: &mut Walks,
        lasts_on: &dyn Fn() -> bool,
    ) {
        let due =
            |stalls: &Stalls| lasts >= stalls.after.max(next.0) && walks.allowed(self.os.now());
        if let Some(stalls) = self.config.stalls.filter(due) {
            let told = (stalls.tell)(self, m, lasts, walks, lasts_on);
            next.0 = if told {
                Nanos::MAX
            } else {
                lasts + lasts.min(LONGEST_PAUSE)
            };
        }
    }

    fn tell_stall(
        &'static self,
        m: &M,
        lasts: Nanos,
        walks: &mut Walks,
        _: &dyn Fn() -> bool,
    ) -> bool {
        if let Some(stall) = self.stall_on(
            m,
            lasts,
            walks,
            self.os.thread_state(m.thread.load(Ordering::Relaxed)),
        ) {
            (self.config.report)(self, Report::Stall(&stall));
        }
        true
    }

    fn tell_blocked(
        &'static self,
        m: &M,
        lasts: Nanos,
        walks: &mut Walks,
        lasts_on: &dyn Fn() -> bool,
    ) -> bool {
        let thread = m.thread.load(Ordering::Relaxed);
        let doing = match self.os.thread_state(thread) {
            ThreadState::Unknown if self.stands_still(thread) => ThreadState::Blocked(None),
            doing => doing,
        };
        let blocked = matches!(doing, ThreadState::Blocked(_));
        let stall = if blocked {
            self.stall_on(m, lasts, walks, doing)
        } else {
            None
        };
        match stall.filter(|stall| stall.waiting > 0 && lasts_on()) {
            Some(stall) => (self.config.report)(self, Report::Stall(&stall)),
            None => return false,
        }
        true
    }

    /// What runs on `m`, and how many wait for it.
    fn stall_on(
        &'static self,
        m: &M,
        lasts: Nanos,
        walks: &mut Walks,
        doing: ThreadState,
    ) -> Option<Stall> {
        let lock = self.config.stalls.and_then(|stalls| stalls.lock);
        let locks = lock.is_some_and(|lock| doing == ThreadState::Blocked(Some(lock)));
        let began = self.os.now();
        let (keeper, waiting) = self.walk_home(m, locks);
        walks.ended(began, self.os.now());
        keeper.map(|Identity { id, name, site }| Stall {
            id,
            name,
            site,
            lasts,
            doing,
            waiting,
        })
    }

    /// Whether a thread uses no CPU for a while. Keeps sysmon as long.
    fn stands_still(&self, thread: u32) -> bool {
        let before = self.os.cpu_time(thread);
        self.os.futex_wait(&AtomicU32::new(0), 0, Some(STILL));
        before > 0 && self.os.cpu_time(thread) == before
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::m::Asleep;

    #[test]
    fn an_m_without_a_p_is_back_when_it_waits_for_one_and_not_when_it_enters_the_scheduler() {
        let m = M::new(0);
        m.retake.leave();
        assert!(m.retake.take(|| true));
        assert!(!is_back(&m));
        assert!(!m.retake.enter());
        assert!(!is_back(&m), "it goes on without a P");
        assert!(m.wake.prepare(Asleep::WithoutP));
        assert!(is_back(&m));
        assert!(m.wake.notify().is_some());
        m.retake.renew();
        assert!(is_back(&m));
    }

    #[test]
    fn a_walk_is_followed_by_a_pause_of_twenty_times_as_long() {
        let mut walks = Walks::default();
        assert!(walks.allowed(0));
        walks.ended(100, 110);
        assert!(!walks.allowed(309));
        assert!(walks.allowed(310));
    }
}
