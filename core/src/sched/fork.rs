//! fork: the child has one thread, so nothing that waits for another thread of this scheduler ever ends there.
//!
//! The child shares the pollers with its parent, whose registrations it must not touch, and has none of the Ms. So there nothing reaches a
//! poller, and what would park fails:
//!
//! | in the child | what happens |
//! |---|---|
//! | an operation that does not block, a close | works |
//! | an ordinary thread would park, an operation on a descriptor would wait | panics with [`FORKED`] |
//! | the goroutine that forked parks, yields or returns | its M finds the lease taken, and ends the process with [`FORKED`] |
//!
//! The lease makes the look at goroutines free: an M compares it after each turn anyway. A program that never calls `forked` is linked
//! without the texts.

use super::Sched;
use crate::sync::Ordering;
use core::ptr;

/// What fails in the child, and the remedies.
pub const FORKED: &str = "this process is a fork of the one whose threads run the goroutines, and none of them is here: in the child call exec or \
                          _exit, or fork before the runtime starts";

impl Sched {
    /// Says that the calling thread is the only one of a child process, made by fork. Callable in a handler of `pthread_atfork`.
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
        // SAFETY: null, or from `forked`.
        unsafe { self.forked.load(Ordering::Relaxed).as_ref() }
    }

    /// Panics in a child: the caller is about to wait for another thread.
    #[inline]
    pub(crate) fn forbid_in_fork(&self) {
        if let Some(refusals) = self.refusals() {
            (refusals.panic)();
        }
    }

    /// Ends a child, whose goroutine has come back to its M.
    pub(super) fn abort_in_fork(&self) {
        if let Some(refusals) = self.refusals() {
            (refusals.abort)(self);
        }
    }
}

/// How a child fails.
pub(super) struct Refusals {
    panic: fn() -> !,
    abort: fn(&Sched) -> !,
}

fn abort(sched: &Sched) -> ! {
    sched.os.abort(format_args!(
        "gopark: a goroutine has parked, yielded or returned, but {FORKED}"
    ))
}
