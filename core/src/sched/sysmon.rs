//! sysmon: the thread that watches over the others. It holds no P and runs no goroutine.
//!
//! | it sees | it does |
//! |---|---|
//! | a goroutine that has run for 10 ms | takes away its allowance: one of its next operations lets others run |
//! | one that has computed for 3 ms, or been blocked in the system for 1 ms, while others wait for its P | hands the P to another M |
//! | one that has run for 10 ms all the same, while goroutines that any M may start lie in the ring of its P | moves them to the global queue |
//! | a poller that nobody has asked for 10 ms, a timer that is 10 ms late | asks it, fires it |
//! | a goroutine that has kept its thread for as long as `Config::stalls` says | reports it |
//! | that it is time for a round of `Config::shrink` | gives memory of stacks back |
//! | that all Ms sleep | sleeps until one wakes |
//! | that nobody could ever wake one | reports that (`deadlock`) |
//!
//! A look costs a few loads for each P, and the thread it takes the CPU from far more. So it looks every 20 µs after it had something to do,
//! and ever more rarely while it has not: Go's back-off, with a stop on the way. Go goes on to 10 ms at once; here it is 1 ms for a thousand
//! looks, so a program that has lately blocked a thread does not wait long behind the next one.

use super::Sched;
use super::pool::PoolWatch;
use super::stall::{Detached, NextReport, STILL, Walks};
use super::watchers::{Report, Schedule};
use crate::m::M;
use crate::os::{Delay, Nanos, ThreadState};
use crate::p::P;
use crate::polldesc;
use crate::sync::{AtomicBool, AtomicU32, Ordering, fence};
use crate::timer::NEVER;
use crate::waiter::WaiterList;
use alloc::vec::Vec;

/// How long a goroutine may run while others wait; Go's number.
const SLICE: Nanos = 10_000_000;

/// How long one may be blocked in the system. Longer than a file operation that finds its data in memory takes.
const BLOCKED: Nanos = 1_000_000;

/// How long one may compute while others wait for its P. Less than a slice: two that begin at once on each P, and share the CPUs with those before
/// them, still keep the others waiting for less than Go does.
const COMPUTED: Nanos = 3_000_000;

/// For each P, how many threads may compute beside it. Each takes its share of the CPUs from those that serve others, so a program that only
/// computes must not get one for every goroutine.
const COMPUTING: usize = 8;

/// How long it waits before the next look: at first, for [`ALERT_LOOKS`], and at last.
const EAGER_DELAY: Nanos = 20_000;
const ALERT_DELAY: Nanos = 1_000_000;
const CALM_DELAY: Nanos = 10_000_000;

/// How many looks without a deed before the delay grows; Go's number.
const EAGER_LOOKS: u32 = 50;

/// How many looks without a deed before it grows again.
const ALERT_LOOKS: u32 = 1_000;

/// After how many looks at sleeping Ms it goes to sleep itself: a server that is called every few milliseconds must not wake it each time.
const QUIET_LOOKS: u32 = 20;

const UP: u32 = 0;
const ASLEEP: u32 = 1;

/// What sysmon's thread does. A program that never makes one is linked without it.
#[derive(Clone, Copy, Debug)]
pub struct Monitor(fn(&'static Sched) -> !);

impl Monitor {
    /// The one there is.
    pub fn new() -> Self {
        Monitor(Sched::watch)
    }

    /// Watches over the Ms of `sched` for ever.
    pub(super) fn watch(self, sched: &'static Sched) -> ! {
        (self.0)(sched)
    }
}

impl Default for Monitor {
    fn default() -> Self {
        Self::new()
    }
}

/// What others know of sysmon.
pub(super) struct Sysmon {
    /// Whether it sleeps until an M wakes.
    sleep: AtomicU32,
    asked: AtomicBool,
}

impl Sysmon {
    pub(super) fn new() -> Self {
        Sysmon {
            sleep: AtomicU32::new(UP),
            asked: AtomicBool::new(false),
        }
    }
}

/// What sysmon saw of a P when it last changed.
struct SysmonTick {
    m: usize,
    tick: u64,
    ran: Nanos,
    /// The CPU clock of its M's thread, once that has run for too long.
    clock: Option<Clock>,
    polls: u64,
    polled: Nanos,
    next_report: NextReport,
    /// Whether `M::kept` says since when.
    kept: bool,
    /// Whether the system did not say what its M does when last asked. Then the clock is read as soon
    /// as the M takes up a goroutine, for the next look to tell whether it stands still.
    blind: bool,
}

impl SysmonTick {
    /// What is seen of a P that has just got its M, or whose M has just taken up a goroutine.
    fn new(m: usize, tick: u64, polls: u64, now: Nanos) -> Self {
        SysmonTick {
            m,
            tick,
            ran: now,
            clock: None,
            polls,
            polled: now,
            next_report: NextReport::default(),
            kept: false,
            blind: false,
        }
    }
}

/// The CPU time of a thread that may have to lose its P.
struct Clock {
    /// What it showed at first, and when.
    first: Nanos,
    since: Nanos,
    /// What it showed last, and since when.
    last: Nanos,
    stands: Nanos,
}

impl Clock {
    fn new(time: Nanos, now: Nanos) -> Self {
        Clock {
            first: time,
            since: now,
            last: time,
            stands: now,
        }
    }

    fn shows(&mut self, time: Nanos, now: Nanos) {
        if time != self.last {
            (self.last, self.stands) = (time, now);
        }
    }
}

/// What sysmon keeps from look to look.
struct Watch {
    sights: Vec<SysmonTick>,
    /// Ms that have lost their P and are not back.
    detached_ms: Vec<Detached>,
    walks: Walks,
    /// When stacks were last shrunk, and whether there may be more without anyone running meanwhile.
    shrunk: Nanos,
    shrinkable: bool,
    trace: Schedule,
    pool: PoolWatch,
}

/// How often it looks.
struct Pace {
    delay: Nanos,
    /// Looks since there was something to do.
    idle_looks: u32,
}

impl Pace {
    fn new() -> Self {
        Pace {
            delay: EAGER_DELAY,
            idle_looks: 0,
        }
    }

    fn after(&mut self, progress: bool) {
        if progress {
            *self = Pace::new();
            return;
        }
        self.idle_looks = self.idle_looks.saturating_add(1);
        if self.idle_looks > EAGER_LOOKS {
            let longest = if self.idle_looks > ALERT_LOOKS {
                CALM_DELAY
            } else {
                ALERT_DELAY
            };
            self.delay = (2 * self.delay).min(longest);
        }
    }
}

impl Sched {
    /// After the first M woke while all slept. Both sides have a read-modify-write on the count of idle Ms behind them, so either sysmon's comes
    /// first, and its word is seen here, or it finds that not all are idle.
    pub(super) fn wake_sysmon(&self) {
        if self.sysmon.sleep.load(Ordering::Acquire) == ASLEEP {
            // Nobody has kept the time.
            self.coarse_clock.set(self.os.now());
            self.sysmon.sleep.swap(UP, Ordering::AcqRel);
            self.wake_one(&self.sysmon.sleep);
        }
    }

    /// Has sysmon report [`Report::Asked`] soon. May be called in a signal handler.
    pub fn ask(&self) {
        self.sysmon.asked.store(true, Ordering::Release);
        // Either sysmon sees this before it sleeps, or it is seen to sleep: a fence on both sides.
        fence(Ordering::SeqCst);
        self.wake_sysmon();
    }

    /// At most for `limit`.
    pub(super) fn sysmon_sleeps(&self, limit: Option<Nanos>) {
        self.sysmon.sleep.swap(ASLEEP, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        let asked = self.sysmon.asked.load(Ordering::Relaxed);
        if !asked
            && self.idlers.all_idle(self.config.procs)
            && self.sysmon.sleep.load(Ordering::Acquire) == ASLEEP
        {
            self.os.futex_wait(&self.sysmon.sleep, ASLEEP, limit);
        }
        self.sysmon.sleep.swap(UP, Ordering::AcqRel);
    }

    /// What its thread does.
    fn watch(&'static self) -> ! {
        let now = self.os.now();
        let seen = |_| SysmonTick::new(usize::MAX, 0, 0, now);
        let sights = self.ps.iter().map(seen).collect();
        let trace = Schedule::new(self.config.schedtrace, now);
        let (detached_ms, walks, pool) = (Vec::new(), Walks::default(), PoolWatch::default());
        let mut watch = Watch {
            sights,
            detached_ms,
            walks,
            shrunk: now,
            shrinkable: true,
            trace,
            pool,
        };
        let mut pace = Pace::new();
        let mut quiet_looks = 0;
        let never = AtomicU32::new(0);
        loop {
            self.os.futex_wait(&never, 0, Some(pace.delay));
            let now = self.os.now();
            self.coarse_clock.set(now);
            self.trace_if_due(&mut watch.trace, now);
            pace.after(self.look(&mut watch, now));
            quiet_looks = if self.idlers.all_idle(self.config.procs) {
                quiet_looks + 1
            } else {
                0
            };
            if quiet_looks >= QUIET_LOOKS
                && pace.delay >= ALERT_DELAY
                && watch.detached_ms.is_empty()
            {
                self.rest(&watch);
                quiet_looks = 0;
            }
        }
    }

    /// Sleeps until an M wakes or something of its own is due. Before that, and now and then if it is in doubt, looks whether one ever will.
    fn rest(&'static self, watch: &Watch) {
        const DOUBT: Nanos = 1_000_000_000;
        let doubt = self.doubts();
        let again = if doubt { DOUBT } else { NEVER };
        let round = self
            .config
            .shrink
            .filter(|_| watch.shrinkable)
            .map_or(NEVER, |shrink| shrink.every);
        let pool = self.pool_patience().unwrap_or(NEVER);
        let limit = again
            .min(round)
            .min(pool)
            .min(watch.trace.until_next(self.os.now()));
        self.sysmon_sleeps((limit != NEVER).then_some(limit));
        self.coarse_clock.set(self.os.now());
    }

    /// One look at everything. True if there was something to do.
    fn look(&'static self, watch: &mut Watch, now: Nanos) -> bool {
        let mut progress = false;
        if self.sysmon.asked.load(Ordering::Relaxed)
            && self.sysmon.asked.swap(false, Ordering::AcqRel)
        {
            (self.config.report)(self, Report::Asked);
        }
        for (p, seen) in self.ps.iter().zip(&mut watch.sights) {
            progress |= self.look_at(p, seen, &mut watch.detached_ms, &mut watch.walks, now);
        }
        if let Some(shrink) = self
            .config
            .shrink
            .filter(|shrink| now - watch.shrunk >= shrink.every)
        {
            watch.shrunk = now;
            watch.shrinkable = (shrink.round)(self, shrink.after, now);
        }
        self.look_at_pool(&mut watch.pool, now);
        let detached = watch.detached_ms.len();
        watch
            .detached_ms
            .retain_mut(|detached| self.is_detached(detached, &mut watch.walks, now));
        progress | (watch.detached_ms.len() < detached)
    }

    /// Looks at one P, and helps where it must. True if it did.
    fn look_at(
        &'static self,
        p: &'static P,
        seen: &mut SysmonTick,
        detached_ms: &mut Vec<Detached>,
        walks: &mut Walks,
        now: Nanos,
    ) -> bool {
        let (tick, polls) = (p.tick.get(), p.polls.get());
        let m = self.m(p.holder());
        let asleep = m.wake.asleep();
        if asleep || tick != seen.tick || m.index != seen.m {
            if seen.kept {
                self.m(seen.m).kept.set(0);
            }
            let (blind, polls, polled) = (seen.blind, seen.polls, seen.polled);
            let clock = (blind && !asleep)
                .then(|| Clock::new(self.os.cpu_time(m.thread.load(Ordering::Relaxed)), now));
            *seen = SysmonTick {
                clock,
                blind,
                polled,
                ..SysmonTick::new(m.index, tick, polls, now)
            };
        }
        if asleep {
            (seen.polls, seen.polled) = (polls, now);
            return false;
        }
        if polls != seen.polls {
            (seen.polls, seen.polled) = (polls, now);
        }
        let ran = now - seen.ran;
        if ran >= SLICE {
            m.allowance.store(0, Ordering::Relaxed);
        }
        if ran >= SLICE && m.retake.in_goroutine() {
            m.kept.set(seen.ran);
            seen.kept = true;
        }
        if m.retake.in_goroutine() {
            let lasts_on = || m.retake.in_goroutine() && p.tick.get() == tick;
            self.tell_if_due(m, ran, &mut seen.next_report, walks, &lasts_on);
        }
        if ran >= BLOCKED
            && m.retake.in_goroutine()
            && self.is_needed(p, now)
            && self.keeps_its_thread(m, seen, detached_ms, now)
        {
            let still = seen.blind
                && seen
                    .clock
                    .as_ref()
                    .is_some_and(|clock| now - clock.stands >= STILL);
            if self.hand_off(p.index) {
                detached_ms.push(Detached {
                    m: m.index,
                    since: seen.ran,
                    still,
                    next_report: seen.next_report,
                });
                // The stray's, from here on.
                seen.kept = false;
                (seen.ran, seen.clock) = (now, None);
                return true;
            }
        }
        if ran >= SLICE && m.retake.in_goroutine() && self.config.procs > 1 {
            // Not a deed: one that spawns for long would have it all looked at each 20 µs.
            self.empty_ring(p);
        }
        let polled = now - seen.polled >= SLICE && self.poll_for(p);
        if polled {
            seen.polled = now;
        }
        polled | self.fire_late(p, now)
    }

    /// Whether what an M runs is blocked or computes. Not if its thread waits for a CPU: another thread
    /// would only wait as well.
    ///
    /// The system says whether the thread is blocked, and its CPU clock whether it computes. If the
    /// system says nothing, the clock tells both: it stands still while the thread is blocked. If
    /// there is no clock either, what runs for a time slice counts as computing.
    fn keeps_its_thread(
        &self,
        m: &M,
        seen: &mut SysmonTick,
        detached_ms: &[Detached],
        now: Nanos,
    ) -> bool {
        let thread = m.thread.load(Ordering::Relaxed);
        let doing = self.os.thread_state(thread);
        if matches!(doing, ThreadState::Blocked(_)) {
            return true;
        }
        seen.blind = doing == ThreadState::Unknown;
        let time = self.os.cpu_time(thread);
        let Some(clock) = &mut seen.clock else {
            seen.clock = Some(Clock::new(time, now));
            return false;
        };
        clock.shows(time, now);
        if seen.blind && time > 0 && now - clock.stands >= STILL {
            return true;
        }
        let computes = if time > 0 {
            time - clock.first >= COMPUTED - BLOCKED
        } else {
            now - clock.since >= SLICE
        };
        computes && self.computing(detached_ms) < COMPUTING * self.config.procs
    }

    /// How many Ms compute without a P.
    fn computing(&self, detached_ms: &[Detached]) -> usize {
        let computes = |detached: &&Detached| match self
            .os
            .thread_state(self.m(detached.m).thread.load(Ordering::Relaxed))
        {
            ThreadState::Running => true,
            ThreadState::Blocked(_) => false,
            ThreadState::Unknown => !detached.still,
        };
        detached_ms.iter().filter(computes).count()
    }

    /// Whether anything waits for this P.
    fn is_needed(&self, p: &P, now: Nanos) -> bool {
        let timer = p.timers.next().is_some_and(|when| when <= now + SLICE);
        timer
            || !p.ring.is_empty()
            || !self.global.is_empty()
            || self.poller(p.poller).is_unattended()
    }

    /// Asks a P's poller in its place.
    fn poll_for(&'static self, p: &P) -> bool {
        let poller = self.poller(p.poller);
        if !poller.is_unattended() {
            return false;
        }
        self.totals.polls.bump();
        let woken = polldesc::poll(poller, Delay::None, &self.totals.events);
        let any = !woken.is_empty();
        self.ready_list(woken);
        any
    }

    fn fire_late(&'static self, p: &'static P, now: Nanos) -> bool {
        if p.timers.next().is_none_or(|when| when > now - SLICE) {
            return false;
        }
        let mut woken = WaiterList::new();
        p.timers.run(now, &mut woken);
        let any = !woken.is_empty();
        self.ready_list(woken);
        any
    }
}
