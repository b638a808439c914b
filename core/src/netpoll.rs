//! Waiting for descriptors: what `fd` asks of the scheduler and its pollers.
//!
//! | Go | here |
//! |---|---|
//! | `pollOpen` | [`poll_open`](Sched::poll_open), [`register`](Sched::register) before a wait |
//! | `pollReset` | [`poll_reset`](Sched::poll_reset) before an operation's first system call |
//! | `pollWait` | [`poll_wait`](Sched::poll_wait) after `EAGAIN` |
//! | `pollSetDeadline` | [`poll_set_deadline`](Sched::poll_set_deadline) |
//! | `pollUnblock` | [`poll_unblock`](Sched::poll_unblock) |
//! | `pollClose` | [`poll_close`](Sched::poll_close) |

use crate::os::{Errno, Mode};
use crate::polldesc::{Deadline, PollDesc, PollError};
use crate::sched::{Parker, Sched};
use crate::wait_info::{Wait, WaitWords};
use crate::waiter::WaiterList;
use crate::withdraw::{Member, Target};

/// Why a descriptor could not be registered with a poller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RegisterError {
    /// This kind of file cannot be polled.
    NotPollable,
    /// The system refused. `ENOSPC`: the limit fs.epoll.max_user_watches. `ENOMEM`: memory.
    Os(Errno),
}

fn wait_for(desc: &'static PollDesc, mode: Mode) -> WaitWords {
    match mode {
        Mode::Read => Wait::Read(desc.expose_address()).encode(),
        Mode::Write => Wait::Write(desc.expose_address()).encode(),
    }
}

impl Sched {
    /// Returns a poll descriptor for `fd`. It joins a poller when it is registered.
    #[doc(alias = "pollOpen")]
    pub(crate) fn poll_open(&'static self, fd: i32) -> &'static PollDesc {
        self.descs().open(self.p_here().map(|p| &p.descs), fd)
    }

    /// Registers the descriptor with the poller of the current P, unless a poller watches it
    /// already. What is ready by then will be reported.
    ///
    /// If two operations call this at once, one registers and the other goes on to wait. The second
    /// could not arm its direction, so it is woken when the outcome is known; if the registration
    /// failed, it tries itself.
    pub(crate) fn register(&'static self, desc: &'static PollDesc) -> Result<(), RegisterError> {
        if desc.poller().is_some() {
            return Ok(());
        }
        self.forbid_in_fork();
        if !desc.join_poller() {
            return Ok(());
        }
        let poller = self.poller_here();
        let registered = poller.register(desc.fd(), desc.token());
        let mut woken = WaiterList::new();
        match registered {
            Ok(()) => desc.joined(poller, &mut woken),
            Err(_) => desc.leave_poller(&mut woken),
        }
        self.ready_list(woken);
        registered.map_err(|errno| {
            if errno == Errno::EPERM {
                RegisterError::NotPollable
            } else {
                RegisterError::Os(errno)
            }
        })
    }

    /// Begins an operation that asks the system first: forgets readiness seen before. Fails if the
    /// operation must not even try.
    #[inline]
    pub(crate) fn poll_reset(&self, desc: &PollDesc, mode: Mode) -> Result<(), PollError> {
        desc.may_try(mode)?;
        desc.slot(mode).reset();
        Ok(())
    }

    /// Waits until the descriptor is probably ready. It must be registered, and the caller must
    /// hold the lock of its direction.
    ///
    /// Readiness since the last reset or wait counts. If a deadline passes and is moved before the
    /// waiter runs again, the wait goes on.
    #[inline]
    pub(crate) fn poll_wait(
        &'static self,
        desc: &'static PollDesc,
        mode: Mode,
    ) -> Result<(), PollError> {
        let parker = self.parker();
        if let Some((member, wait)) = parker.cancellable_poll_wait() {
            return wait(member, self, desc, mode);
        }
        self.poll_wait_while(&parker, desc, mode, || desc.may_wait(mode))
    }

    /// As [`poll_wait`](Self::poll_wait), for a member of a cancel.
    pub(crate) fn poll_wait_as(
        member: &Member,
        sched: &'static Sched,
        desc: &'static PollDesc,
        mode: Mode,
    ) -> Result<(), PollError> {
        let target = Target::Slot(desc.slot(mode));
        member.publish(target).map_err(|_| PollError::Cancelled)?;
        let check = || match member.is_cancelled() {
            true => Err(PollError::Cancelled),
            false => desc.may_wait(mode),
        };
        let outcome = sched.poll_wait_while(&sched.parker(), desc, mode, check);
        member.withdraw(target);
        outcome
    }

    #[inline]
    fn poll_wait_while(
        &'static self,
        parker: &Parker,
        desc: &'static PollDesc,
        mode: Mode,
        check: impl Fn() -> Result<(), PollError>,
    ) -> Result<(), PollError> {
        self.forbid_in_fork();
        check()?;
        if !parker.may_stop() {
            return Err(PollError::Unwinding);
        }
        desc.arm(mode);
        parker.on_poll_wait();
        let outcome = parker.wait(desc.slot(mode), wait_for(desc, mode), check);
        parker.on_poll_resume();
        outcome
    }

    /// Sets the deadline of one direction or (`None`) of both to what `decide` returns under the
    /// lock of `desc`. Wakes the waiters whose deadline has passed.
    pub(crate) fn poll_set_deadline(
        &'static self,
        desc: &PollDesc,
        decide: &dyn Fn() -> Option<Deadline>,
        mode: Option<Mode>,
    ) {
        let mut woken = WaiterList::new();
        let moved = desc.set_deadline(decide, mode, self.timers(), &mut woken);
        for heap in moved.into_iter().flatten() {
            self.look_again(heap);
        }
        self.ready_list(woken);
    }

    /// Makes every operation on the descriptor fail with [`PollError::Closing`], and wakes its
    /// waiters.
    pub(crate) fn poll_unblock(&'static self, desc: &PollDesc) {
        let mut woken = WaiterList::new();
        desc.unblock(&mut woken);
        self.ready_list(woken);
    }

    /// Ends the use of a poll descriptor that was unblocked, before the descriptor is closed.
    pub(crate) fn poll_close(&'static self, desc: &'static PollDesc) {
        // A forked child shares the pollers with its parent: it must not remove what the parent
        // waits for.
        if !self.is_forked() {
            self.descs().close(self.p_here().map(|p| &p.descs), desc);
        }
    }
}

#[cfg(all(test, loom))]
#[path = "../models/netpoll.rs"]
mod models;
