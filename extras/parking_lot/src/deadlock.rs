//! With the feature `deadlock_detection`: what programs that ask parking_lot for deadlocks call.
//!
//! gopark ends a process whose goroutines and threads all wait for each other, with a dump.
//! [`gopark::dump`] shows what each goroutine waits for. This module finds nothing.

use std::backtrace::Backtrace;

/// A thread in a deadlock. There is none.
#[derive(Debug)]
pub enum DeadlockedThread {}

impl DeadlockedThread {
    /// Returns the thread's number.
    pub fn thread_id(&self) -> usize {
        match *self {}
    }

    /// Returns where it waits.
    pub fn backtrace(&self) -> &Backtrace {
        match *self {}
    }
}

/// Returns an empty list. [`gopark::dump`] shows what goroutines wait for.
///
/// ```
/// assert!(parking_lot::deadlock::check_deadlock().is_empty());
/// ```
pub fn check_deadlock() -> Vec<Vec<DeadlockedThread>> {
    Vec::new()
}
