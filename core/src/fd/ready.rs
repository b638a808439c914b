//! The readiness of a descriptor as a case of a select.
#![allow(unsafe_code, reason = "nodes are queued by address")]

use super::{Fd, FdError};
use crate::choice::WaitNode;
use crate::os::{Borrowed, Mode};
use crate::polldesc::PollError;
use crate::select::{Arm, Attempt, Case, Gate, OnCancel};
use crate::sync::Cell;
use core::ptr::NonNull;

/// Asks the system whether an operation in a direction would not block now: there is data, room, an
/// end or an error. It must not block itself.
pub type Probe = fn(Borrowed<'_>, Mode) -> bool;

/// A wait for readiness in one select. It keeps the descriptor open.
pub struct ReadyArm<'a>(Wait<'a>);

struct Wait<'a> {
    fd: &'a Fd,
    mode: Mode,
    probe: Probe,
    /// What the last look found.
    ready: Cell<bool>,
    /// Whether the descriptor was open, so that this is one of its users.
    is_user: bool,
    /// What the last attempt to register the descriptor returned.
    registered: Cell<Result<(), FdError>>,
}

impl Fd {
    /// Readiness in direction `mode` for one select. The descriptor's deadline does not count.
    pub fn ready_arm(&self, mode: Mode, probe: Probe) -> ReadyArm<'_> {
        // Until the drop. A process in which only such selects wait is not dead.
        self.sched.parker().on_poll_wait();
        let is_user = self.mutex.incref().is_ok();
        let registered = match is_user {
            true => Ok(()),
            false => Err(FdError::Poll(PollError::Closing)),
        };
        ReadyArm(Wait {
            fd: self,
            mode,
            probe,
            ready: Cell::new(false),
            is_user,
            registered: Cell::new(registered),
        })
    }
}

impl ReadyArm<'_> {
    /// The case for the select.
    pub fn case(&self) -> Case<'_> {
        Case::new(&self.0, OnCancel::Fail)
    }

    /// What the wait returns. Called after the select has returned this case's index.
    ///
    /// # Errors
    ///
    /// If the descriptor is closed or cannot be polled, or if the caller is cancelled.
    pub fn finish(self) -> Result<(), FdError> {
        match self.0.ready.get() {
            true => self.0.state(),
            false => Err(FdError::Poll(PollError::Cancelled)),
        }
    }
}

impl Wait<'_> {
    fn state(&self) -> Result<(), FdError> {
        self.registered.get()?;
        match self.fd.desc.may_try(self.mode) {
            Err(PollError::Closing) => Err(FdError::Poll(PollError::Closing)),
            _ => Ok(()),
        }
    }
}

impl Arm for Wait<'_> {
    fn gate(&self) -> &Gate {
        self.fd.desc.watchers().publish()
    }

    fn packet(&self) -> NonNull<()> {
        NonNull::dangling()
    }

    unsafe fn attempt(&self) -> Attempt {
        match self.ready.get() {
            true => Attempt::Done(None),
            false => Attempt::Blocked,
        }
    }

    fn look(&self) -> bool {
        if self.is_user {
            // An operation that was registering the descriptor at the last look may have failed to.
            let registered = self.fd.sched.register(self.fd.desc);
            self.registered.set(registered.map_err(FdError::from));
        }
        let ready = self.state().is_err() || {
            self.fd.desc.arm(self.mode);
            (self.probe)(self.fd.borrow(), self.mode)
        };
        self.ready.set(ready);
        ready
    }

    fn is_spurious(&self) -> bool {
        !self.look()
    }

    unsafe fn enqueue(&self, node: &WaitNode) {
        // SAFETY: the caller's promise.
        unsafe { self.fd.desc.watchers().enqueue(self.mode, node) };
    }

    unsafe fn dequeue(&self, node: &WaitNode) {
        // SAFETY: the caller's promise.
        unsafe { self.fd.desc.watchers().dequeue(self.mode, node) };
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.fd.sched.parker().on_poll_resume();
        if self.is_user {
            self.fd.release(self.fd.mutex.decref());
        }
    }
}
