//! Parking: how a goroutine or a thread stops until it is readied.
//!
//! A goroutine cannot publish its own address and then stop: a thread that finds the address might
//! resume a goroutine that still runs. So the goroutine stops first and leaves a *commit*, which
//! its M runs on the M's own stack. The commit stores the waiter where it will be found. If what
//! the goroutine would wait for has come already, the commit refuses, and the goroutine goes on.

use super::Sched;
use crate::g::{G, GRef};
use crate::sync::Ordering;
use crate::wait_info::WaitWords;
use crate::waiter::{Announced, Thread, WaitSlot, Waiter};
use core::ptr::NonNull;

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
    park(Waiter::G(g)).map_err(|refused| match refused {
        Waiter::G(g) => g,
        Waiter::Thread(_) => unreachable!("a commit hands back the waiter that it was given"),
    })
}

impl Sched {
    /// Stops the calling goroutine or thread until the waiter that `park` has stored is readied.
    /// Returns at once if `park` refused.
    #[doc(alias = "gopark")]
    pub(crate) fn park(&'static self, wait: WaitWords, park: Park<'_>) {
        let current = self.current();
        current.inspect(|g| self.stops(g));
        self.park_as(current, wait, park);
    }

    /// As [`park`](Self::park), for a caller that has looked up `current`.
    ///
    /// Never inlined: a migrating goroutine may return on another thread, and an address of a
    /// thread-local that the caller's function keeps must not live across the stop.
    #[inline(never)]
    fn park_as(&'static self, current: Option<&G>, wait: WaitWords, mut park: Park<'_>) {
        match current {
            Some(g) => {
                g.wait_info.set_wait(wait, self.coarse_clock.get());
                let request = NonNull::from(&mut park).cast();
                // SAFETY: `current` found the stack pointer on this goroutine's stack.
                unsafe { g.suspend(Some(request)) };
            }
            None => {
                self.forbid_in_fork();
                let thread = Thread::new();
                if park(thread.waiter()).is_ok() {
                    self.ordinary.dormant.fetch_add(1, Ordering::Relaxed);
                    thread.block(self.os);
                }
            }
        }
    }

    /// Waits until `slot` is notified or cancelled. Returns whether it was notified. After the wait
    /// is announced, `check` looks once more for a reason not to park.
    pub(crate) fn wait<E>(
        &'static self,
        slot: &WaitSlot,
        wait: WaitWords,
        check: impl FnOnce() -> Result<(), E>,
    ) -> bool {
        let current = self.current();
        if !slot.is_ready() {
            current.inspect(|g| self.stops(g));
        }
        self.wait_as(current, slot, wait, check)
    }

    /// As [`wait`](Self::wait), for a caller that has looked up `current`.
    fn wait_as<E>(
        &'static self,
        current: Option<&G>,
        slot: &WaitSlot,
        wait: WaitWords,
        check: impl FnOnce() -> Result<(), E>,
    ) -> bool {
        if slot.announce() == Announced::Ready {
            return true;
        }
        if check().is_ok() {
            self.park_as(current, wait, &mut |waiter| slot.commit(waiter));
        }
        slot.settle()
    }

    /// Waits until `slot` is notified or `check` fails, and returns the outcome of the two. The
    /// caller, which is `current`, counts as waiting in a poller until then.
    ///
    /// Always inlined: a call costs twenty instructions of each round trip.
    #[inline(always)]
    pub(crate) fn wait_in_poller<E>(
        &'static self,
        current: Option<&G>,
        slot: &WaitSlot,
        wait: WaitWords,
        check: impl Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        // A migrating goroutine may come back on another M. Each count is made on the M that it is
        // on, and only their sum is read.
        match current {
            Some(g) => _ = self.m_of(g).counts.poll_waits.bump(),
            None => _ = self.ordinary.poll_waiting.fetch_add(1, Ordering::Relaxed),
        }
        let outcome = loop {
            if self.wait_as(current, slot, wait, &check) {
                break Ok(());
            }
            if let Err(error) = check() {
                break Err(error);
            }
        };
        match current {
            Some(g) => _ = self.m_of(g).counts.poll_resumes.bump(),
            None => _ = self.ordinary.poll_waiting.fetch_sub(1, Ordering::Relaxed),
        }
        outcome
    }
}
