//! When a goroutine that keeps its thread is due for a report. It may be on an M that has lost its
//! P: such an M is *detached* until it is back.

use super::watchers::Walks;
use super::{Sched, Stalls};
use crate::m::M;
use crate::os::Nanos;

/// An M that has lost its P because its goroutine keeps it.
pub(super) struct Detached {
    pub(super) m: usize,
    /// Since when its goroutine has kept it.
    pub(super) since: Nanos,
    /// Whether its CPU clock stood still when it lost its P.
    pub(super) still: bool,
    pub(super) next_report: NextReport,
}

/// How long a stall lasts before sysmon runs `Stalls::tell` for it. 0: as long as `Stalls::after`.
#[derive(Clone, Copy, Default)]
pub(super) struct NextReport(Nanos);

/// In nanoseconds. After a look at a stall that is not reported, sysmon waits until it has lasted
/// twice as long, but no longer than this. Another goroutine may be readied at any time, and a look
/// walks over all stacks.
const LONGEST_PAUSE: Nanos = 10_000_000_000;

/// Whether an M that has lost its P has one again, or waits for one.
fn is_back(m: &M) -> bool {
    !m.retake.is_taken() || m.wake.is_asleep()
}

impl Sched {
    /// Whether the M is still detached. Reports its goroutine if that is due. A goroutine without a
    /// P enters the scheduler now and then for a moment: only an M that has a P again, or waits for
    /// one, is back.
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

    /// Reports the goroutine on `m` once, if it has kept the thread for too long. `lasts` says for
    /// how long it has, and `lasts_on` whether it still does.
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
}
