//! fork: the child process has one thread, and none of the other Ms.
//!
//! A wait for another thread of the scheduler would never end there. The child also shares the
//! pollers with its parent, whose registrations it must not touch. So in the child no call reaches
//! a poller, and what would park fails:
//!
//! | in the child | what happens |
//! |---|---|
//! | an operation that does not block, a close | works |
//! | an ordinary thread would park, or an operation would wait | panics with [`FORKED`] |
//! | the goroutine that forked parks, yields or returns | its M ends the process with [`FORKED`] |
//!
//! The last row costs nothing elsewhere: `forked` marks the P as taken, and an M looks at that
//! after each turn anyway. A program that never calls `forked` is linked without the texts.

use super::Sched;
use crate::sync::Ordering;
use core::ptr;

/// What is wrong in the child, and the remedies.
pub const FORKED: &str = "this process is a fork of the one whose threads run the goroutines, and \
    none of them is here: in the child call exec or _exit, or fork before the runtime starts";

impl Sched {
    /// Declares that the calling thread is the only one of a child process that fork has made. A
    /// handler of `pthread_atfork` may call this.
    pub fn forked(&'static self) {
        static REFUSALS: Refusals = Refusals {
            panic: || panic!("{FORKED}"),
            abort,
        };
        self.forked
            .store(ptr::from_ref(&REFUSALS).cast_mut(), Ordering::Relaxed);
        if let Some(g) = self.current() {
            self.m_of(g).retake.revoke();
        }
    }

    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        self.refusals().is_some()
    }

    #[inline]
    fn refusals(&self) -> Option<&'static Refusals> {
        // SAFETY: null, or the address of the static in `forked`.
        unsafe { self.forked.load(Ordering::Relaxed).as_ref() }
    }

    /// Panics in a child. Called before a wait for another thread.
    #[inline]
    pub(crate) fn forbid_in_fork(&self) {
        if let Some(refusals) = self.refusals() {
            (refusals.panic)();
        }
    }

    /// Panics on an ordinary thread of a child: there a park would unwind. A goroutine that parks
    /// ends the child.
    #[inline]
    pub(crate) fn forbid_block_in_fork(&self) {
        if self.is_forked() && self.current().is_none() {
            self.forbid_in_fork();
        }
    }

    /// Ends a child process. Called when a goroutine has stopped on an M whose P is marked as
    /// taken.
    pub(super) fn abort_in_fork(&self) {
        if let Some(refusals) = self.refusals() {
            (refusals.abort)(self);
        }
    }
}

/// How operations fail in a child.
pub(super) struct Refusals {
    panic: fn() -> !,
    abort: fn(&Sched) -> !,
}

fn abort(sched: &Sched) -> ! {
    sched.os.abort(format_args!(
        "gopark: a goroutine has parked, yielded or returned, but {FORKED}"
    ))
}
