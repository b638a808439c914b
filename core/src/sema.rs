//! A counting semaphore: waiters queue in order, and a release hands its permit to the first of them.

use crate::sched::Sched;
use crate::sync::Lock;
use crate::trail::Reason;
use crate::waiter::{Waiter, WaiterList};

/// A semaphore that starts without permits.
#[doc(alias = "semacquire")]
#[doc(alias = "semrelease")]
pub struct Sema(Lock<State>);

struct State {
    permits: u32,
    /// Empty while there are permits.
    waiting: WaiterList,
}

impl Default for Sema {
    fn default() -> Self {
        Self::new()
    }
}

impl Sema {
    /// No permits.
    pub fn new() -> Self {
        Sema(Lock::new(State { permits: 0, waiting: WaiterList::new() }))
    }

    /// Waits for a permit and takes it.
    pub fn acquire(&self, sched: &'static Sched) {
        sched.park((Reason::Sema, 0), &mut |waiter: Waiter| {
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

    /// Gives `n` permits.
    pub fn release(&self, sched: &'static Sched, n: u32) {
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
