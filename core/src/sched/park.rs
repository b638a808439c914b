//! Parking: how a goroutine or a thread stops until it is readied.
//!
//! A goroutine cannot publish its own address and then stop: a thread that finds the address might
//! resume a goroutine that still runs. So the goroutine stops first and leaves a *commit*, which
//! its M runs on the M's own stack. The commit stores the waiter where it will be found. If what
//! the goroutine would wait for has come already, the commit refuses, and the goroutine goes on.

use super::Sched;
use crate::choice::{Choice, Outcome};
use crate::g::{G, GRef};
use crate::m::M;
use crate::must::Must;
use crate::os::Nanos;
use crate::sync::Ordering;
use crate::timer::Timer;
use crate::wait_info::WaitWords;
use crate::waiter::{Announced, Thread, WaitSlot, Waiter};
use core::convert::Infallible;
use core::ptr::{self, NonNull};

/// A commit: stores the waiter, or hands it back to refuse.
///
/// Storing the waiter is its last act: from then on the goroutine may run elsewhere, and what the
/// closure captured may be gone.
pub(crate) type Park<'a> = &'a mut dyn FnMut(Waiter) -> Result<(), Waiter>;

/// Runs the commit of a goroutine that has just been suspended. If it refuses, the goroutine goes
/// on, and its `GRef` comes back.
///
/// # Safety
///
/// `park` is the request that `g` was suspended with.
#[inline]
pub(super) unsafe fn commit(park: NonNull<()>, g: GRef) -> Result<(), GRef> {
    // SAFETY: the request is the address of a `Park` on the stack of `g`, which does not run.
    let park = unsafe { park.cast::<Park<'_>>().as_mut() };
    park(Waiter::G(g)).map_err(|refused| {
        let g = match refused {
            Waiter::G(g) => Some(g),
            Waiter::Thread(_) => None,
        };
        g.must("a commit handed back another waiter")
    })
}

impl Sched {
    /// Whether the calling goroutine `g` may park in a lock of `std`. Not in code that forbids it,
    /// and not in the scheduler's own, which may call the program's allocator.
    pub(crate) fn may_park_in_lock(&self, g: &G) -> bool {
        !g.unparkable().load(Ordering::Relaxed)
            && self.m_of(g).retake.in_goroutine()
            && self.may_stop(g)
    }

    /// Lets other goroutines run until `done` says so or the clock shows `limit`. Does nothing if
    /// the caller may not park in a lock of `std`.
    pub(crate) fn yield_until(&'static self, limit: Nanos, done: impl Fn() -> bool) {
        if !self.current().is_some_and(|g| self.may_park_in_lock(g)) {
            return;
        }
        loop {
            self.yield_now();
            if done() || self.now() >= limit {
                return;
            }
        }
    }

    /// Sets whether the calling goroutine must not park in a lock of `std`. Returns what was set
    /// before. Does nothing on an ordinary thread.
    pub fn set_unparkable(&self, on: bool) -> bool {
        self.current()
            .is_some_and(|g| g.unparkable().swap(on, Ordering::Relaxed))
    }

    /// How many goroutines are in the home queue of the M that the caller is on.
    pub(crate) fn neighbours(&'static self, m: &M) -> u32 {
        if !m.retake.in_goroutine() {
            return 0;
        }
        let here = self.here();
        here.map_or(0, |here| {
            here.home(|home| home.queue.len() + usize::from(home.next.is_some())) as u32
        })
    }

    /// The time of sysmon's last look.
    pub(crate) fn coarse_time(&self) -> Nanos {
        self.coarse_clock.get()
    }
}

/// The goroutine or ordinary thread that is about to wait.
pub(crate) struct Parker {
    sched: &'static Sched,
    /// The goroutine, which lives for as long as it waits.
    current: Option<&'static G>,
}

impl Sched {
    /// The caller, found by its stack pointer.
    #[inline]
    pub(crate) fn parker(&'static self) -> Parker {
        Parker {
            sched: self,
            current: self.current(),
        }
    }

    /// Sets the caller's [`member_word`](Parker::member_word).
    pub(crate) fn set_member_word(&self, member: Option<NonNull<()>>) {
        let member = member.map_or(ptr::null_mut(), NonNull::as_ptr);
        match self.current() {
            Some(g) => g.member.store(member, Ordering::Relaxed),
            None => _ = (self.config.thread_member)(Some(member)),
        }
    }

    /// Waits until `slot` is notified, whether or not the caller unwinds.
    pub(crate) fn wait_for(&'static self, slot: &WaitSlot, wait: WaitWords) {
        let parker = self.parker();
        if !slot.is_ready() {
            parker.stops();
        }
        let Ok(()) = parker.wait(slot, wait, || Ok::<_, Infallible>(()));
    }
}

/// How a wait on a [`Choice`] ended.
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    /// False if the choice was decided before the waiter stopped. The side that decided it may then
    /// still be in its critical section.
    pub(crate) parked: bool,
}

impl Sched {
    /// Waits until `choice` is decided, or until the clock shows `until`. The caller has queued its
    /// nodes before.
    #[inline]
    pub(crate) fn wait_until(
        &'static self,
        choice: &Choice,
        until: Option<Nanos>,
        wait: WaitWords,
    ) -> Ended {
        self.parker().wait_until(choice, until, wait)
    }

    /// Waits until `choice` is decided. Returns [`Ended::parked`].
    pub(crate) fn wait_served(&'static self, choice: &Choice, wait: WaitWords) -> bool {
        self.parker().wait_served(choice, wait)
    }
}

impl Parker {
    /// The word of the caller for its innermost membership of a cancel.
    #[inline]
    pub(crate) fn member_word(&self) -> Option<NonNull<()>> {
        NonNull::new(match self.current {
            Some(g) => g.member.load(Ordering::Relaxed),
            None => (self.sched.config.thread_member)(None),
        })
    }

    /// As [`Sched::wait_until`].
    #[inline]
    pub(crate) fn wait_until(
        &self,
        choice: &Choice,
        until: Option<Nanos>,
        wait: WaitWords,
    ) -> Ended {
        match until {
            None => self.wait_decided(choice, wait),
            Some(when) => self.wait_limited(choice, when, wait),
        }
    }

    #[inline]
    fn wait_decided(&self, choice: &Choice, wait: WaitWords) -> Ended {
        let parked = self.wait_served(choice, wait);
        let outcome = choice
            .outcome()
            .must("a waiter ran before its choice was decided");
        Ended { outcome, parked }
    }

    #[inline]
    fn wait_served(&self, choice: &Choice, wait: WaitWords) -> bool {
        let mut parked = true;
        self.stops();
        self.park(wait, &mut |waiter| {
            // Read before the commit: after it, this closure's captures may be gone.
            let parked = &mut parked;
            match choice.commit(waiter) {
                Ok(()) => Ok(()),
                Err(refused) => {
                    *parked = false;
                    Err(refused)
                }
            }
        });
        parked
    }

    #[cold]
    fn wait_limited(&self, choice: &Choice, when: Nanos, wait: WaitWords) -> Ended {
        let sched = self.sched;
        if when <= sched.now() {
            // The waiter still runs, so there is none to wake.
            _ = choice.decide(Outcome::Expired);
            let outcome = choice.outcome().must("a decided choice has no outcome");
            return Ended {
                outcome,
                parked: false,
            };
        }
        let timer = Timer::new(NonNull::from(choice).cast());
        let heap = sched.timers();
        // SAFETY: the timer and, by the caller's reference, the choice stay until `remove`.
        let moved = unsafe { timer.arm_expiry(heap, when) };
        if let Some(heap) = moved {
            sched.look_again(heap);
        }
        let ended = self.wait_decided(choice, wait);
        heap.remove(&timer);
        ended
    }

    /// Whether the caller may stop in an operation that can fail. False for a goroutine that
    /// unwinds.
    #[inline]
    pub(crate) fn may_stop(&self) -> bool {
        self.current.is_none_or(|g| self.sched.may_stop(g))
    }

    #[inline]
    fn stops(&self) {
        self.current.inspect(|g| self.sched.stops(g));
    }

    /// Waits until `slot` is notified or `check` fails. `check` looks for a reason not to wait:
    /// once after the wait was announced, and after each cancel.
    ///
    /// Always inlined: a call costs twenty instructions of each round trip.
    #[inline(always)]
    pub(crate) fn wait<E>(
        &self,
        slot: &WaitSlot,
        wait: WaitWords,
        check: impl Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            if slot.announce() == Announced::Ready {
                return Ok(());
            }
            if check().is_ok() {
                self.park(wait, &mut |waiter| slot.commit(waiter));
            }
            if slot.settle() {
                return Ok(());
            }
            check()?;
        }
    }

    /// Stops the calling goroutine or thread until the waiter that `park` has stored is readied.
    /// Returns at once if `park` refused.
    ///
    /// Never inlined: a migrating goroutine may return on another thread, and an address of a
    /// thread-local that the caller's function keeps must not live across the stop.
    #[doc(alias = "gopark")]
    #[inline(never)]
    fn park(&self, wait: WaitWords, mut park: Park<'_>) {
        let sched = self.sched;
        match self.current {
            Some(g) => {
                g.wait_info.set_wait(wait, sched.coarse_clock.get());
                let request = NonNull::from(&mut park).cast();
                // SAFETY: `parker` found the stack pointer on this goroutine's stack.
                unsafe { g.suspend(Some(request)) };
            }
            None => {
                sched.forbid_in_fork();
                let thread = Thread::new();
                if park(thread.waiter()).is_ok() {
                    sched.ordinary.dormant.fetch_add(1, Ordering::Relaxed);
                    thread.block(sched.os);
                }
            }
        }
    }

    /// The caller begins to wait for a descriptor. A migrating goroutine may come back on another
    /// M: each count is made on the M that it is on, and only their sum is read.
    #[inline]
    pub(crate) fn on_poll_wait(&self) {
        let sched = self.sched;
        match self.current {
            Some(g) => _ = sched.m_of(g).counts.poll_waits.bump(),
            None => _ = sched.ordinary.poll_waiting.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The wait for a descriptor has ended.
    #[inline]
    pub(crate) fn on_poll_resume(&self) {
        let sched = self.sched;
        match self.current {
            Some(g) => _ = sched.m_of(g).counts.poll_resumes.bump(),
            None => _ = sched.ordinary.poll_waiting.fetch_sub(1, Ordering::Relaxed),
        }
    }
}
