//! One-time initialization: std's `Once`.
//!
//! ```text
//!   Incomplete ──▶ Running ──▶ Complete
//!                  ▲     │
//!                  │     ▼ panic
//!                  Poisoned
//! ```

use crate::choice::End;
use crate::locked_queue::LockedQueue;
use crate::runtime::Runtime;
use crate::sync::{AtomicBool, Ordering, const_unless_loom};
use crate::wait_info::Wait;

/// The number of a goroutine or thread, or [`UNKNOWN`].
type Caller = u64;

/// The caller is an ordinary thread, and no scheduler runs.
const UNKNOWN: Caller = 0;

/// A guard of a one-time initialization.
pub struct RawOnce<R: Runtime> {
    /// Set when the initializer has returned. Its store is the last one before the waiters are
    /// woken.
    complete: AtomicBool,
    queue: LockedQueue<Stage>,
    runtime: R,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Incomplete,
    /// An initializer has panicked.
    Poisoned,
    /// This caller runs the initializer.
    Running(Caller),
    Complete,
}

impl<R: Runtime> RawOnce<R> {
    const_unless_loom! {
        /// A guard of an initialization that has not begun.
        pub fn new(runtime: R) -> Self {
            RawOnce {
                complete: AtomicBool::new(false),
                queue: LockedQueue::new(Stage::Incomplete),
                runtime,
            }
        }
    }

    /// Whether an initializer has returned. If so, what it wrote is visible.
    #[inline]
    pub fn is_completed(&self) -> bool {
        // Pairs with the Release in `Running::drop`.
        self.complete.load(Ordering::Acquire)
    }

    /// Runs `init` if no initializer has returned yet. If another caller runs one, waits until that
    /// one has returned. `init` is told whether an earlier one has panicked.
    ///
    /// # Panics
    ///
    /// If `init` panics. If an earlier one has, unless `ignore_poison`. If `init` calls this for
    /// the same guard on the same goroutine or thread; without a scheduler, that hangs.
    #[inline]
    #[track_caller]
    pub fn call(&self, ignore_poison: bool, init: impl FnOnce(bool)) {
        if !self.is_completed() {
            let mut init = Some(init);
            self.call_slow(ignore_poison, &mut |poisoned| {
                if let Some(init) = init.take() {
                    init(poisoned);
                }
            });
        }
    }

    #[cold]
    #[track_caller]
    fn call_slow(&self, ignore_poison: bool, init: &mut dyn FnMut(bool)) {
        let caller = self.caller();
        loop {
            let stage = self.begin(caller, ignore_poison);
            match stage {
                Stage::Complete => return,
                Stage::Poisoned if !ignore_poison => {
                    panic!("an earlier initializer of this Once has panicked")
                }
                Stage::Incomplete | Stage::Poisoned => {
                    let mut running = Running {
                        once: self,
                        after: Stage::Poisoned,
                    };
                    init(stage == Stage::Poisoned);
                    running.after = Stage::Complete;
                    return;
                }
                Stage::Running(runner) => {
                    assert!(
                        runner == UNKNOWN || runner != caller,
                        "an initializer of a Once waits for itself"
                    );
                    let sched = self.runtime.sched();
                    _ = self
                        .queue
                        .wait(sched, Wait::Once.encode(), None, &(), |queued| {
                            matches!(queued.state, Stage::Running(_)).then_some(End::Back)
                        });
                }
            }
        }
    }

    /// Makes the caller the one that runs the initializer, if it may. Returns the stage before.
    fn begin(&self, caller: Caller, ignore_poison: bool) -> Stage {
        let stage = &mut self.queue.lock().state;
        let before = *stage;
        if before == Stage::Incomplete || before == Stage::Poisoned && ignore_poison {
            *stage = Stage::Running(caller);
        }
        before
    }

    fn caller(&self) -> Caller {
        let Some(sched) = self.runtime.started() else {
            return UNKNOWN;
        };
        match sched.current() {
            Some(g) => g.id() << 1,
            None => u64::from(sched.os().thread_id()) << 1 | 1,
        }
    }
}

/// Ends the initialization, also by a panic.
struct Running<'a, R: Runtime> {
    once: &'a RawOnce<R>,
    after: Stage,
}

impl<R: Runtime> Drop for Running<'_, R> {
    fn drop(&mut self) {
        let RawOnce {
            complete,
            queue,
            runtime,
        } = self.once;
        if self.after == Stage::Complete {
            // Pairs with the Acquire in `is_completed`.
            complete.store(true, Ordering::Release);
        }
        queue.wake_all(*runtime, |stage| {
            *stage = self.after;
            true
        });
    }
}

impl<R: Runtime + Default> Default for RawOnce<R> {
    fn default() -> Self {
        Self::new(R::default())
    }
}

#[cfg(all(test, loom))]
#[path = "../models/once.rs"]
mod models;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::locked_queue::tests::NoScheduler;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn a_panic_poisons_until_an_initializer_that_ignores_it_returns() {
        let once = RawOnce::<NoScheduler>::default();
        let attempt = |ignore_poison, init: &dyn Fn(bool)| {
            catch_unwind(AssertUnwindSafe(|| once.call(ignore_poison, init))).is_ok()
        };
        assert!(!attempt(false, &|poisoned| assert!(poisoned)));
        assert!(!attempt(false, &|_| ()), "it is poisoned");
        assert!(!attempt(true, &|poisoned| assert!(!poisoned)));
        assert!(!once.is_completed());
        assert!(attempt(true, &|poisoned| assert!(poisoned)));
        assert!(once.is_completed());
        assert!(attempt(false, &|_| panic!("it is complete")));
    }
}
