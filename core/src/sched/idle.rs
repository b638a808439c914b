//! The idle protocol: how an M that finds no goroutine spins, yields, parks and is woken.
//!
//! | an M that holds a P | counted as | wake word | goes on |
//! |---|---|---|---|
//! | runs goroutines | | 0 | spins or yields when it finds none |
//! | spins: looks for work in other Ps' rings | spinning | 0 | runs what it finds, or yields |
//! | yields: lets other threads run and polls once more | | 0 | runs what it finds, or parks |
//! | is parked in its poller | idle | `IN_POLLER` | after an event, a timer or a `notify` |
//! | is parked on its futex | idle | `ON_FUTEX` | after a timer or a `notify` |
//! | is woken by `wake_idle` | spinning | `SPIN` | spins |
//!
//! Both counts are in one word, [`Idlers`], since every decision needs both.
//!
//! What holds at any time:
//!
//! 1. While a goroutine that any M may run is queued and an M is parked, an M spins, or will look
//!    at all queues before it parks, or was notified and has not yet cleared its wake word. So a
//!    submitter wakes an M only if one is idle and none spins.
//! 2. An M that submitters may have relied on looks at all queues when it has found work, and wakes
//!    another if they hold more. That is an M that spins, one that has stopped spinning in
//!    `yield_before_park`, and one that was woken to take over a poller:
//!    `Home::must_wake_another`.
//! 3. While an M is parked on its futex, another is in the poller that they share. An M that leaves
//!    a poller wakes one that is parked beside it: `fill_poller`.
//! 4. A holder of a P does not park while an M wants a P: see `handoff`.
//!
//! The races have one shape: each party writes one place and then reads what the other writes. Both
//! pass a `SeqCst` fence in between, so at least one of them sees the other's write.
//!
//! | party | writes | fence | reads |
//! |---|---|---|---|
//! | a submitter | a queue | `after_submit` | the counts |
//! | an M that parks, or has found work | the counts | `before_recheck` | all queues |
//! | an M that leaves a poller | its occupation | `before_recheck` | idle Ms, wake words |
//! | an M that parks on its futex | idle Ms, its wake word | `before_recheck` | the occupation |
//! | an M that begins to want a P | the list of such Ms | `before_recheck` | wake words |
//! | a holder that parks | its wake word | `before_recheck` | the list |

use super::Sched;
use crate::m::{Asleep, Here, M};
use crate::os::{Delay, Nanos};
use crate::sync::{AtomicU64, Ordering, fence};

/// If `sched_yield` takes longer than this, in nanoseconds, the M skips it for the next
/// [`YIELD_PAUSE`] sleeps. Longer than a busy peer takes for its messages, shorter than a time
/// slice.
const YIELD_LONG: Nanos = 500_000;

/// How many sleeps skip the yield after a long one. Measured: with 64 the tail latency is that of
/// no yields at all and most of their gain is lost, with 0 the tail is twice as long, with 16
/// nearly all of the gain remains.
const YIELD_PAUSE: u32 = 16;

/// How many sleeps at most skip the yield after some in vain. Under one connection all are in vain.
/// A burst has this many sleeps within a millisecond.
const VAIN_PAUSE: u32 = 63;

/// One spinning M in the word of [`Idlers`].
const SPINNING: u64 = 1 << 32;

/// How many Ms are parked with a P, and how many spin.
///
/// ```text
///   63 ........ 32 | 31 ...... 0
///      spinning        idle
/// ```
pub(crate) struct Idlers(AtomicU64);

impl Idlers {
    pub(crate) fn new() -> Self {
        Idlers(AtomicU64::new(0))
    }

    fn idle(word: u64) -> u32 {
        word as u32
    }

    fn spinning(word: u64) -> u32 {
        (word / SPINNING) as u32
    }

    /// Called after a goroutine was queued. Returns whether an M must be woken for it: one is idle,
    /// and none spins.
    #[inline]
    pub(crate) fn after_submit(&self) -> bool {
        fence(Ordering::SeqCst);
        let word = self.0.load(Ordering::Relaxed);
        Self::idle(word) > 0 && Self::spinning(word) == 0
    }

    /// The fence between what an M has written and its last look: see the table of races.
    pub(crate) fn before_recheck(&self) {
        fence(Ordering::SeqCst);
    }

    /// How many Ms are idle, and how many spin.
    pub(crate) fn count(&self) -> (usize, usize) {
        let word = self.0.load(Ordering::Relaxed);
        (Self::idle(word) as usize, Self::spinning(word) as usize)
    }

    /// Whether any M is idle.
    pub(crate) fn any_idle(&self) -> bool {
        Self::idle(self.0.load(Ordering::Relaxed)) > 0
    }

    /// Counts an M that is about to be woken as the only one that spins. Fails if one spins
    /// already.
    pub(crate) fn spin_alone(&self) -> bool {
        let first = |word| (Self::spinning(word) == 0).then_some(word + SPINNING);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, first)
            .is_ok()
    }

    /// Counts the M as spinning. Fails if half of the busy Ms, of `procs` in all, spin already:
    /// more would contend for the same rings.
    pub(crate) fn try_spin(&self, procs: usize) -> bool {
        let room = |word| {
            let busy = (procs as u32).saturating_sub(Self::idle(word));
            (2 * Self::spinning(word) < busy).then_some(word + SPINNING)
        };
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, room)
            .is_ok()
    }

    /// Counts the M as spinning whatever the number: it has seen work.
    pub(crate) fn spin(&self) {
        self.0.fetch_add(SPINNING, Ordering::AcqRel);
    }

    /// Counts out a spinning M.
    pub(crate) fn stop_spinning(&self) {
        self.0.fetch_sub(SPINNING, Ordering::AcqRel);
    }

    /// Counts the M as idle.
    pub(crate) fn park(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts out an idle M. Returns how many were idle, this M included.
    pub(crate) fn unpark(&self) -> usize {
        Self::idle(self.0.fetch_sub(1, Ordering::AcqRel)) as usize
    }

    /// Whether `procs` Ms are idle. A read-modify-write: it pairs with `unpark`, as
    /// `Sched::wake_sysmon` explains.
    pub(crate) fn all_idle(&self, procs: usize) -> bool {
        Self::idle(self.0.fetch_add(0, Ordering::AcqRel)) as usize == procs
    }
}

impl Sched {
    /// Counts this M as spinning, unless enough others spin. Returns whether it spins.
    pub(super) fn try_spin(&self, here: &Here) -> bool {
        if !here.home(|home| home.spinning) {
            if !self.idlers.try_spin(self.config.procs) {
                return false;
            }
            here.home(|home| home.spinning = true);
        }
        true
    }

    /// Ends the spinning of this M. Returns whether it was spinning.
    pub(super) fn stop_spinning(&self, here: &Here) -> bool {
        let spinning = here.home(|home| core::mem::take(&mut home.spinning));
        if spinning {
            self.idlers.stop_spinning();
        }
        spinning
    }

    /// Called when this M has found a goroutine to run. Wakes another M if submitters may have
    /// relied on this one, and a queue holds more that any M may run.
    #[inline]
    pub(super) fn found_work(&self, here: &Here) {
        let must_wake_another = here.home(|home| core::mem::take(&mut home.must_wake_another));
        if self.stop_spinning(here) || must_wake_another {
            self.wake_for_rest(here);
        }
        if must_wake_another {
            self.fill_poller(here.p.poller);
        }
    }

    /// Wakes an idle M if it will find a goroutine. What is at home on an M is not for others.
    #[cold]
    fn wake_for_rest(&self, here: &Here) {
        self.idlers.before_recheck();
        if !here.p.ring.is_empty() || self.work_elsewhere(here) {
            self.wake_idle();
        }
    }

    /// Before this M parks: yields the CPU and polls once more. Returns whether that brought
    /// events.
    ///
    /// Where Ms and their peers share the CPUs, an M that parks as soon as it can is woken for each
    /// message; one that yields first gathers a batch. Three rules decide whether it pays:
    ///
    /// - With one P the M does not yield, since no other M competes for its events.
    /// - A yield that brings nothing costs two system calls. After each one in vain the M skips
    ///   twice as many, up to [`VAIN_PAUSE`], until one brings work.
    /// - Another thread may use up its time slice in a yield, while the events of this M wait.
    ///   After a long yield the M skips [`YIELD_PAUSE`].
    pub(super) fn yield_before_park(&'static self, here: &Here) -> bool {
        if self.stop_spinning(here) {
            here.home(|home| home.must_wake_another = true);
        }
        if self.config.procs == 1 || self.poller(here.p.poller).watched() == 0 {
            return false;
        }
        let due = here.home(|home| {
            let due = home.skip_yields == 0;
            home.skip_yields = home.skip_yields.saturating_sub(1);
            due
        });
        if !due {
            return false;
        }
        let start = self.os.now();
        self.os.yield_thread();
        let is_long = self.os.now() - start > YIELD_LONG;
        let brought_events = self.poll(here, Delay::None);
        // A notification keeps the M from parking, which also ends it.
        let in_vain = !brought_events && !here.m.wake.is_notified();
        here.home(|home| {
            home.vain_pause = match in_vain {
                true => (2 * home.vain_pause + 1).min(VAIN_PAUSE),
                false => 0,
            };
            home.skip_yields = home.vain_pause.max(if is_long { YIELD_PAUSE } else { 0 });
        });
        brought_events
    }

    /// Parks this M until an event, a timer or another thread has work for it. Returns at once if
    /// there is work already, and after `timeout` at the latest. A thread that arms an earlier
    /// timer also notifies this M.
    pub(super) fn sleep(&'static self, here: &Here, timeout: Option<Nanos>) {
        let poller = self.poller(here.p.poller);
        let asleep = if poller.try_enter() {
            Asleep::Poller
        } else {
            Asleep::Futex
        };
        here.publish_queue();
        self.idlers.park();
        let mut spin = false;
        if here.m.wake.prepare(asleep) {
            self.idlers.before_recheck();
            spin = self.work_elsewhere(here);
            // This was the look that submitters rely on.
            here.home(|home| home.must_wake_another = false);
            self.trace_idle(here, asleep);
            let vacant = asleep == Asleep::Futex && !poller.is_occupied();
            match (asleep, timeout) {
                _ if spin || vacant || self.without_p.is_wanted() => {}
                (Asleep::WithoutP, _) => unreachable!("an M with a P sleeps as one without"),
                (Asleep::Futex, timeout) => {
                    self.os
                        .futex_wait(here.m.wake.futex(), asleep.bits(), timeout)
                }
                (Asleep::Poller, None) => _ = self.poll(here, Delay::Forever),
                (Asleep::Poller, Some(timeout)) => _ = self.poll(here, Delay::AtMost(timeout)),
            }
        }
        if self.idlers.unpark() == self.config.procs {
            self.wake_sysmon();
        }
        let woken_to_spin = here.m.wake.awake();
        if spin && !woken_to_spin {
            self.idlers.spin();
        }
        here.home(|home| home.spinning = spin || woken_to_spin);
        if asleep == Asleep::Poller {
            poller.leave();
            self.fill_poller(here.p.poller);
        } else {
            // `fill_poller` may have woken it.
            here.home(|home| home.must_wake_another = true);
        }
    }

    /// A look at the queues that others may have filled, the last one before this M parks. Returns
    /// whether one of them holds work that this M may take.
    pub(super) fn work_elsewhere(&self, here: &Here) -> bool {
        !self.global.is_empty()
            || self
                .ps
                .iter()
                .any(|p| p.index != here.p.index && self.is_open(p))
    }

    /// Wakes one idle M, unless one is already spinning. Called after a goroutine that any M may
    /// run was queued.
    #[doc(alias = "wakep")]
    pub(super) fn wake_idle(&self) {
        while self.idlers.after_submit() && self.idlers.spin_alone() {
            for m in self.ms() {
                if let Some(asleep) = m.wake.notify_idle() {
                    return self.unpark(m, asleep);
                }
            }
            self.idlers.stop_spinning();
            // Submitters that saw the count of `spin_alone` have woken no M. An M that is not
            // parked now looks at all queues before it parks; if one is parked, this starts over.
            self.idlers.before_recheck();
            if !self.ms().any(|m| m.wake.sleeps_with_p()) {
                return;
            }
        }
    }

    /// Wakes an M that is parked on its futex, to take over the poller that no M is in. Called when
    /// an M has left the poller, and when one that was woken to take it over has found work.
    fn fill_poller(&self, poller: usize) {
        if self.pollers.len() == self.ps.len() {
            return;
        }
        self.idlers.before_recheck();
        if !self.idlers.any_idle() || self.poller(poller).is_occupied() {
            return;
        }
        let shares = |m: &&M| m.p().is_some_and(|p| self.p(p).poller == poller);
        for m in self.ms().filter(shares) {
            if m.wake.on_futex() {
                return self.notify(m);
            }
        }
    }
}
