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
//! The lease makes the look at goroutines free: an M compares it after each turn anyway.

use super::Sched;
use crate::sync::Ordering;

/// What fails in the child, and the remedies.
pub const FORKED: &str = "this process is a fork of the one whose threads run the goroutines, and none of them is here: in the child call exec or \
                          _exit, or fork before the runtime starts";

impl Sched {
    /// Says that the calling thread is the only one of a child process, made by fork. Callable in a handler of `pthread_atfork`.
    pub fn forked(&'static self) {
        self.forked.store(1, Ordering::Relaxed);
        if let Some(g) = self.current() {
            self.m_of(g).lease.revoke();
        }
    }

    #[inline]
    pub(crate) fn is_forked(&self) -> bool {
        self.forked.load(Ordering::Relaxed) != 0
    }

    /// Panics in a child: the caller is about to wait for another thread.
    #[inline]
    pub(crate) fn forbid_in_fork(&self) {
        if self.is_forked() {
            refuse();
        }
    }

    /// Ends a child, whose goroutine has come back to its M.
    pub(super) fn abort_in_fork(&self) {
        if self.is_forked() {
            self.os.abort(format_args!("gopark: a goroutine has parked, yielded or returned, but {FORKED}"));
        }
    }
}

#[cold]
fn refuse() -> ! {
    panic!("{FORKED}")
}
