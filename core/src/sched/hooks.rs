//! Hooks: what the scheduler counts, measures, traces and tells the program when a goroutine
//! changes its state. The code that makes the change calls the hook, and nothing here decides what
//! runs.
//!
//! | change | hook | counts | measures | traces | tells |
//! |---|---|---|---|---|---|
//! | made → runnable | [`on_spawn`](Sched::on_spawn) | `spawned` | a wait begins | `Spawn` | |
//! | made → waiting | [`on_wait`](Sched::on_wait) | `spawned`, `stackless_waits` | | `Spawn` | |
//! | runnable → running | [`on_run`](Sched::on_run) | | the wait ends | `Run` | `In` |
//! | running → stopped | [`on_stop`](Sched::on_stop) | | | `Stop` or `Outstayed` | `Out` |
//! | stopped → waiting | [`on_park`](Sched::on_park) | `parked` | | | |
//! | stopped → running | [`on_refuse`](Sched::on_refuse) | | a wait begins | | |
//! | stopped → runnable | [`on_yield`](Sched::on_yield) | `yielded` | a wait begins | | |
//! | waiting → runnable | [`on_ready`](Sched::on_ready) | `readied` | a wait begins | by what | |
//! | running → gone | [`on_exit`](Sched::on_exit) | `finished` | | | |
//!
//! A goroutine that stops is traced, and the program is told (`Sched::on_switch`), before its M
//! runs the commit: afterwards it may run elsewhere. Whether it waits is known, and counted, only
//! after that. If the commit refuses, it is running again: it has neither parked nor yielded. If
//! sysmon has taken the P of its M, it is queued instead, which counts as a yield.
//!
//! Goroutines that have had a first turn are in `started`, which `run` counts itself, since
//! `placement` decides by it. So how many goroutines are in a state is what led into it less what
//! led out of it, and no list of goroutines is needed: `metrics` adds up.

use super::Sched;
use crate::g::{G, Resumed};
use crate::m::{Here, M};
use crate::os::Nanos;
use crate::sync::Ordering;

impl Sched {
    /// A new goroutine is about to be queued by the calling goroutine, which is `here`, or by a
    /// thread that holds no P.
    pub(super) fn on_spawn(&'static self, g: &G, here: Option<&Here>) {
        let current = || self.current().map(|g| self.m_of(g));
        match here.map(|here| here.m).or_else(current) {
            Some(m) => _ = m.counts.spawned.bump(),
            None => _ = self.ordinary.spawned.fetch_add(1, Ordering::Relaxed),
        }
        self.begin_wait(g, &mut None);
        self.trace_spawn(g, here);
    }

    /// A new goroutine is about to wait without a stack. No wait for a turn begins: the latency is
    /// measured from [`on_ready`](Sched::on_ready) on.
    pub(super) fn on_wait(&'static self, g: &G) {
        match self.current() {
            Some(current) => {
                let counts = &self.m_of(current).counts;
                counts.spawned.bump();
                counts.stackless_waits.bump();
            }
            None => {
                self.ordinary.spawned.fetch_add(1, Ordering::Relaxed);
                self.ordinary.stackless.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.parker().on_poll_wait();
        self.trace_spawn(g, self.here().as_deref());
    }

    /// A goroutine that waited can run, says its status, and is about to be queued. `now` is the
    /// time, once one of several that are queued together has asked for it.
    #[inline]
    pub(super) fn on_ready(&'static self, g: &G, here: Option<&Here>, now: &mut Option<Nanos>) {
        match here {
            Some(here) => _ = here.m.counts.readied.bump(),
            None => _ = self.totals.readied.fetch_add(1, Ordering::Relaxed),
        }
        let at_home = |home| here.is_some_and(|here| here.m.index == home);
        if g.home().is_some_and(|home| !at_home(home)) {
            g.wait_info.set_runnable(self.coarse_clock.get());
        }
        self.begin_wait(g, now);
        self.trace_ready(g, here);
    }

    /// This M is about to resume a goroutine: for a turn, or because its commit refused.
    #[inline]
    pub(super) fn on_run(&'static self, here: &Here, g: &G) {
        if let Some(since) = g.begin_turn() {
            self.record_latency(here.m, since);
        }
        self.trace_run(here, g);
    }

    /// A goroutine has stopped on this M and can be readied by none yet. `has_p`: whether the M has
    /// kept its P.
    #[inline]
    pub(super) fn on_stop(&'static self, here: &Here, has_p: bool, resumed: &Resumed) {
        match has_p {
            true => self.trace_stop(here, resumed),
            false => self.trace_outstayed(here),
        }
    }

    /// A goroutine has parked on M `m`, and may run elsewhere already.
    #[inline]
    pub(super) fn on_park(&self, m: &M) {
        m.counts.parked.bump();
    }

    /// The commit of a goroutine has refused: its wait is over as it begins.
    #[cold]
    pub(super) fn on_refuse(&self, g: &G) {
        self.begin_wait(g, &mut None);
    }

    /// A goroutine that stopped on M `m` can run, and is about to be queued.
    pub(super) fn on_yield(&self, m: &M, g: &G) {
        m.counts.yielded.bump();
        self.begin_wait(g, &mut None);
    }

    /// The goroutine that runs on M `m` is about to return.
    pub(super) fn on_exit(&self, m: &M) {
        m.counts.finished.bump();
    }

    /// Notes since when a goroutine waits for its turn, if that turn is to be measured.
    #[inline]
    fn begin_wait(&self, g: &G, now: &mut Option<Nanos>) {
        if g.is_measured() {
            self.note_time(g, now);
        }
    }

    #[cold]
    fn note_time(&self, g: &G, now: &mut Option<Nanos>) {
        g.waits_since(*now.get_or_insert_with(|| self.os.now()));
    }

    #[cold]
    fn record_latency(&self, m: &M, since: Nanos) {
        m.latencies.record(self.os.now() - since);
    }
}
