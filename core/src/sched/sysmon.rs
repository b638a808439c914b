//! sysmon: the thread that looks at all Ps from time to time and does what their Ms do not do. It
//! holds no P and runs no goroutine.
//!
//! | sysmon sees | it does |
//! |---|---|
//! | a goroutine that has run for 10 ms | sets its allowance to 0, so that it yields soon |
//! | one that computes for 3 ms or blocks for 1 ms, its P needed | hands the P off to another M |
//! | one that runs for 10 ms, others in the ring of its P | moves those to the global queue |
//! | a poller that no M has polled for 10 ms | polls it |
//! | a timer that is 10 ms late | fires it |
//! | one that blocks in a lock of `std` for 1 ms, others at home there | ends the wait (`Rescue`) |
//! | a goroutine that has kept its thread for as long as `Config::stalls` says | reports it |
//! | that a round of `Config::shrink` is due | gives memory of stacks back |
//! | that all Ms sleep | sleeps until one wakes |
//! | that nothing could ever wake one | reports a deadlock |
//!
//! A look costs a few loads for each P, but the CPU that sysmon takes from another thread costs far
//! more. So sysmon looks every 20 µs after it had something to do, and more rarely the longer it
//! had nothing: Go's back-off, with one more step. Go goes from 20 µs to 10 ms; here the delay
//! stays at 1 ms for a thousand looks. A program that has lately blocked a thread does not wait
//! long for the look that finds the next one.

use super::Sched;
use super::pool::PoolWatch;
use super::stall::{Detached, NextReport};
use super::watchers::{Report, STILL, SchedTraceTimer, Walks};
use crate::g::Resumed;
use crate::m::{Here, M};
use crate::os::{Delay, Nanos, ThreadState};
use crate::p::P;
use crate::polldesc;
use crate::sync::{AtomicBool, AtomicU32, Ordering, fence};
use crate::timer::NEVER;
use crate::waiter::WaiterList;
use alloc::vec::Vec;

/// Nanoseconds that a goroutine may run while others wait; Go's number.
const SLICE: Nanos = 10_000_000;

/// Nanoseconds that a goroutine may be blocked in the system while its P is needed. A file
/// operation that finds its data in memory takes less.
const BLOCKED: Nanos = 1_000_000;

/// Nanoseconds that a goroutine may compute while its P is needed. Less than a slice: two
/// goroutines that compute, one after the other on one P, then delay those behind them by less than
/// Go's two slices, even while detached Ms share the CPUs.
const COMPUTED: Nanos = 3_000_000;

/// How many threads without a P may compute, for each P. Each takes its share of the CPUs from the
/// Ms that serve others, so a program that only computes must not get a thread for every goroutine.
const COMPUTING: usize = 8;

/// Nanoseconds between looks after one that had something to do.
const EAGER_DELAY: Nanos = 20_000;

/// The longest delay before [`ALERT_LOOKS`] looks had nothing to do.
const ALERT_DELAY: Nanos = 1_000_000;

/// The longest delay after that; Go's number.
const CALM_DELAY: Nanos = 10_000_000;

/// Looks with nothing to do before the delay grows; Go's number.
const EAGER_LOOKS: u32 = 50;

/// Looks with nothing to do before it grows again. A guess: a second.
const ALERT_LOOKS: u32 = 1_000;

/// Looks at which all Ms sleep before sysmon sleeps itself. A server that gets a request every few
/// milliseconds must not wake sysmon for each.
const QUIET_LOOKS: u32 = 20;

const UP: u32 = 0;
const ASLEEP: u32 = 1;

/// sysmon, and what Ms do when it takes their Ps. A program that makes no `Monitor` is linked
/// without them.
#[derive(Clone, Copy, Debug)]
pub struct Monitor {
    run: fn(&'static Sched) -> !,
    pub(super) come_back: fn(&'static Sched, Here, Resumed) -> Here,
    pub(super) give_way: fn(&'static Sched, Here) -> Here,
    /// What an M does before it parks. Here, because programs without sysmon are to be small.
    pub(super) linger: fn(&'static Sched, &Here) -> bool,
}

impl Monitor {
    /// sysmon.
    pub fn new() -> Self {
        Monitor {
            run: Sched::run_sysmon,
            come_back: Sched::come_back,
            give_way: Sched::give_way,
            linger: Sched::linger,
        }
    }

    /// Runs sysmon for `sched`.
    pub(super) fn run(self, sched: &'static Sched) -> ! {
        (self.run)(sched)
    }
}

impl Default for Monitor {
    fn default() -> Self {
        Self::new()
    }
}

/// What other threads share with sysmon.
pub(super) struct Sysmon {
    /// `UP` or `ASLEEP`: a futex.
    sleep: AtomicU32,
    /// Whether a report was asked for. Set by any thread, cleared by sysmon.
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

/// What sysmon saw of a P at the last look that found it changed.
struct SysmonTick {
    /// The index of the M that held it.
    m: usize,
    /// `P::tick`: it grows with each turn.
    tick: u64,
    /// Since when the M and the tick are the same.
    ran: Nanos,
    /// The CPU time of the M's thread, once its goroutine has run for too long.
    clock: Option<CpuClock>,
    /// `P::polls`.
    polls: u64,
    /// Since when that is the same.
    polled: Nanos,
    next_report: NextReport,
    /// Whether `M::kept` is set for this goroutine.
    kept: bool,
    /// Whether the system did not know the state of the M's thread when last asked. Then the clock
    /// is read as soon as a turn begins, so that the next look can tell whether it stands still.
    state_unknown: bool,
}

impl SysmonTick {
    /// A P whose M has just been granted it or has just begun a turn.
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
            state_unknown: false,
        }
    }

    /// Whether the thread's CPU clock, and that alone, shows that the thread is blocked.
    fn clock_stands(&self, now: Nanos) -> bool {
        let stands = |clock: &CpuClock| now - clock.stands_since >= STILL;
        self.state_unknown && self.clock.as_ref().is_some_and(stands)
    }
}

/// The CPU time of a thread whose P may have to be taken.
struct CpuClock {
    /// What the first look read, and when.
    first: Nanos,
    since: Nanos,
    /// What the last look read, and since when that is the same.
    last: Nanos,
    stands_since: Nanos,
}

impl CpuClock {
    fn new(time: Nanos, now: Nanos) -> Self {
        CpuClock {
            first: time,
            since: now,
            last: time,
            stands_since: now,
        }
    }

    fn update(&mut self, time: Nanos, now: Nanos) {
        if time != self.last {
            (self.last, self.stands_since) = (time, now);
        }
    }
}

/// What sysmon keeps from look to look.
struct SysmonState {
    /// One for each P.
    ticks: Vec<SysmonTick>,
    /// Ms whose P was taken and that are not back.
    detached_ms: Vec<Detached>,
    walks: Walks,
    /// When stacks were last shrunk, and whether the next round may find more although no goroutine
    /// has run.
    shrunk: Nanos,
    shrinkable: bool,
    trace: SchedTraceTimer,
    pool: PoolWatch,
}

/// How often sysmon looks.
struct Pace {
    /// Nanoseconds before the next look.
    delay: Nanos,
    /// Looks since the last one that had something to do.
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
    /// Wakes sysmon if it sleeps. Called by the first M that wakes while all Ms sleep.
    ///
    /// The M counts itself out of the idle Ms, then reads the word of sysmon; sysmon writes its
    /// word, then reads the count. Both accesses to the count are read-modify-writes. If sysmon's
    /// comes first, this load sees its word; otherwise sysmon sees that an M is up.
    pub(super) fn wake_sysmon(&self) {
        if self.sysmon.sleep.load(Ordering::Acquire) == ASLEEP {
            // sysmon, which sets the coarse clock, has slept.
            self.coarse_clock.set(self.os.now());
            self.sysmon.sleep.swap(UP, Ordering::AcqRel);
            self.wake_one(&self.sysmon.sleep);
        }
    }

    /// Makes sysmon report [`Report::Asked`] soon. A signal handler may call this.
    pub fn ask(&self) {
        self.sysmon.asked.store(true, Ordering::Release);
        // Pairs with the fence in `sysmon_sleeps`: either sysmon sees `asked` before it sleeps, or
        // the load in `wake_sysmon` sees that it sleeps.
        fence(Ordering::SeqCst);
        self.wake_sysmon();
    }

    /// Sleeps until an M wakes or a report is asked for, `limit` nanoseconds at most. Returns at
    /// once if an M is up or a report was asked for.
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

    /// The main loop of sysmon.
    fn run_sysmon(&'static self) -> ! {
        let now = self.os.now();
        let seen = |_| SysmonTick::new(usize::MAX, 0, 0, now);
        let ticks = self.ps.iter().map(seen).collect();
        let trace = SchedTraceTimer::new(self.config.schedtrace, now);
        let (detached_ms, walks, pool) = (Vec::new(), Walks::default(), PoolWatch::default());
        let mut state = SysmonState {
            ticks,
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
            self.trace_if_due(&mut state.trace, now);
            pace.after(self.look(&mut state, now));
            quiet_looks = if self.idlers.all_idle(self.config.procs) {
                quiet_looks + 1
            } else {
                0
            };
            if quiet_looks >= QUIET_LOOKS
                && pace.delay >= ALERT_DELAY
                && state.detached_ms.is_empty()
            {
                self.rest(&state);
                quiet_looks = 0;
            }
        }
    }

    /// Sleeps until an M wakes or sysmon itself has something to do. Looks for a deadlock before,
    /// and again every second while there may be one.
    fn rest(&'static self, state: &SysmonState) {
        const DOUBT: Nanos = 1_000_000_000;
        let doubt = self.doubts();
        let again = if doubt { DOUBT } else { NEVER };
        let round = self
            .config
            .shrink
            .filter(|_| state.shrinkable)
            .map_or(NEVER, |shrink| shrink.every);
        let pool = self.pool_patience().unwrap_or(NEVER);
        let limit = again
            .min(round)
            .min(pool)
            .min(state.trace.until_next(self.os.now()));
        self.sysmon_sleeps((limit != NEVER).then_some(limit));
        self.coarse_clock.set(self.os.now());
    }

    /// One look at everything. Returns whether there was something to do.
    fn look(&'static self, state: &mut SysmonState, now: Nanos) -> bool {
        let mut progress = false;
        if self.sysmon.asked.load(Ordering::Relaxed)
            && self.sysmon.asked.swap(false, Ordering::AcqRel)
        {
            (self.config.report)(self, Report::Asked);
        }
        if let Some(rescue) = self.config.rescue {
            progress |= rescue(self, now);
        }
        for (p, seen) in self.ps.iter().zip(&mut state.ticks) {
            progress |= self.look_at(p, seen, &mut state.detached_ms, &mut state.walks, now);
        }
        if let Some(shrink) = self
            .config
            .shrink
            .filter(|shrink| now - state.shrunk >= shrink.every)
        {
            state.shrunk = now;
            state.shrinkable = (shrink.round)(self, shrink.after, now);
        }
        self.look_at_pool(&mut state.pool, now);
        let detached = state.detached_ms.len();
        state
            .detached_ms
            .retain_mut(|detached| self.is_detached(detached, &mut state.walks, now));
        progress | (state.detached_ms.len() < detached)
    }

    /// Looks at one P and does what its M does not do. Returns whether there was something to do.
    fn look_at(
        &'static self,
        p: &'static P,
        seen: &mut SysmonTick,
        detached_ms: &mut Vec<Detached>,
        walks: &mut Walks,
        now: Nanos,
    ) -> bool {
        let m = self.m(p.holder());
        let sleeps = self.update(p, m, seen, now);
        if sleeps {
            return false;
        }
        let (ran, tick) = (now - seen.ran, seen.tick);
        if ran >= SLICE {
            m.allowance.store(0, Ordering::Relaxed);
        }
        if m.retake.in_goroutine() {
            if ran >= SLICE {
                m.kept.set(seen.ran);
                seen.kept = true;
            }
            let lasts_on = || m.retake.in_goroutine() && p.tick.get() == tick;
            self.tell_if_due(m, ran, &mut seen.next_report, walks, &lasts_on);
        }
        if ran >= BLOCKED && self.hand_off_kept(p, m, seen, detached_ms, now) {
            return true;
        }
        if ran >= SLICE && m.retake.in_goroutine() && self.config.procs > 1 {
            // This does not count as something to do: a goroutine that spawns for long would make
            // sysmon look every 20 µs.
            self.empty_ring(p);
        }
        let polled = now - seen.polled >= SLICE && self.poll_for(p);
        if polled {
            seen.polled = now;
        }
        polled | self.fire_late(p, now)
    }

    /// Updates what sysmon has seen of a P, which M `m` holds. Returns whether that M sleeps.
    fn update(&self, p: &P, m: &M, seen: &mut SysmonTick, now: Nanos) -> bool {
        let (tick, polls) = (p.tick.get(), p.polls.get());
        let asleep = m.wake.sleeps_with_p();
        if asleep || tick != seen.tick || m.index != seen.m {
            if seen.kept {
                self.m(seen.m).kept.set(0);
            }
            let (state_unknown, polls, polled) = (seen.state_unknown, seen.polls, seen.polled);
            let clock = (state_unknown && !asleep)
                .then(|| CpuClock::new(self.os.cpu_time(m.thread.load(Ordering::Relaxed)), now));
            *seen = SysmonTick {
                clock,
                state_unknown,
                polled,
                ..SysmonTick::new(m.index, tick, polls, now)
            };
        }
        if asleep || polls != seen.polls {
            (seen.polls, seen.polled) = (polls, now);
        }
        asleep
    }

    /// Hands a P off if it is needed and the goroutine on its M keeps the thread. Returns whether
    /// it did. The M is detached from then on.
    fn hand_off_kept(
        &'static self,
        p: &P,
        m: &M,
        seen: &mut SysmonTick,
        detached_ms: &mut Vec<Detached>,
        now: Nanos,
    ) -> bool {
        let keeps = m.retake.in_goroutine()
            && self.is_needed(p, now)
            && self.keeps_its_thread(m, seen, detached_ms, now);
        if !keeps || !self.hand_off(p.index) {
            return false;
        }
        detached_ms.push(Detached {
            m: m.index,
            since: seen.ran,
            still: seen.clock_stands(now),
            next_report: seen.next_report,
        });
        // `M::kept` belongs to the entry just pushed.
        seen.kept = false;
        (seen.ran, seen.clock) = (now, None);
        true
    }

    /// Whether the goroutine on an M blocks or computes. False if the thread waits for a CPU:
    /// another thread would wait as well.
    ///
    /// The system says whether the thread is blocked, and its CPU clock whether it computes. If the
    /// system does not know the state, the clock tells both: it stands still while the thread is
    /// blocked. If there is no clock either, a goroutine that runs for a time slice counts as
    /// computing.
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
        seen.state_unknown = doing == ThreadState::Unknown;
        let time = self.os.cpu_time(thread);
        let Some(clock) = &mut seen.clock else {
            seen.clock = Some(CpuClock::new(time, now));
            return false;
        };
        clock.update(time, now);
        if seen.state_unknown && time > 0 && now - clock.stands_since >= STILL {
            return true;
        }
        let computes = if time > 0 {
            time - clock.first >= COMPUTED - BLOCKED
        } else {
            now - clock.since >= SLICE
        };
        computes && self.computing(detached_ms) < COMPUTING * self.config.procs
    }

    /// How many detached Ms compute.
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

    /// Whether work waits for this P: a timer that is due soon, a goroutine that any M may run,
    /// events in a poller that no M is in, or an M without a P that has ready goroutines at home.
    fn is_needed(&self, p: &P, now: Nanos) -> bool {
        let timer = p.timers.next().is_some_and(|when| when <= now + SLICE);
        timer
            || !p.ring.is_empty()
            || !self.global.is_empty()
            || self.poller(p.poller).is_unattended()
            || self.without_p.is_wanted()
    }

    /// Polls the poller of a P, if no M is in it. Returns whether that woke any waiter.
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

    /// Fires the timers of a P if the first is a time slice late. Returns whether that woke any
    /// waiter.
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
