//! A counting semaphore. Waiters queue in order, and a release gives its permit to the first of
//! them.

use crate::sched::Sched;
use crate::sync::Lock;
use crate::wait_info::Wait;
use crate::waiter::{Waiter, WaiterList};

/// A semaphore that starts without permits.
///
/// It belongs to one scheduler. A goroutine of another scheduler that waits on it blocks its
/// thread, as an ordinary thread does.
#[doc(alias = "semacquire")]
#[doc(alias = "semrelease")]
pub struct Sema {
    sched: &'static Sched,
    permits: Permits,
}

impl Sema {
    /// A semaphore without permits.
    pub fn new(sched: &'static Sched) -> Self {
        Sema {
            sched,
            permits: Permits::new(),
        }
    }

    /// Takes a permit, after waiting for one. If there is one, it does not wait and lets no other
    /// goroutine run.
    pub fn acquire(&self) {
        self.permits.acquire(self.sched);
    }

    /// Releases `n` permits.
    pub fn release(&self, n: u32) {
        self.permits.release(self.sched, n);
    }
}

/// A semaphore that does not know its scheduler. All callers pass the same one: a goroutine that
/// another scheduler readied would change threads.
pub(crate) struct Permits(Lock<State>);

struct State {
    permits: u32,
    /// Empty while there are permits.
    waiting: WaiterList,
}

impl Permits {
    pub(crate) fn new() -> Self {
        Permits(Lock::new(State {
            permits: 0,
            waiting: WaiterList::new(),
        }))
    }

    pub(crate) fn acquire(&self, sched: &'static Sched) {
        // This overtakes no waiter: while there are permits, the queue is empty.
        if self.try_acquire() {
            return;
        }
        sched.park(Wait::Semaphore.encode(), &mut |waiter: Waiter| {
            let mut state = self.0.lock();
            match state.permits.checked_sub(1) {
                Some(rest) => {
                    state.permits = rest;
                    Err(waiter)
                }
                None => {
                    state.waiting.push(waiter);
                    Ok(())
                }
            }
        });
    }

    fn try_acquire(&self) -> bool {
        let mut state = self.0.lock();
        let rest = state.permits.checked_sub(1);
        state.permits = rest.unwrap_or(0);
        rest.is_some()
    }

    pub(crate) fn release(&self, sched: &'static Sched, n: u32) {
        for _ in 0..n {
            let first = {
                let mut state = self.0.lock();
                let first = state.waiting.pop();
                if first.is_none() {
                    state.permits += 1;
                }
                first
            };
            if let Some(waiter) = first {
                sched.ready(waiter);
            }
        }
    }
}
