//! The interface of `parking_lot` 0.12 for programs with goroutines.
//!
#![doc = include_str!("../README.md")]

// The modules in rows. A module imports from the rows above it and, in its own row, from the
// modules to its left.
//
// | row | modules |
// |---|---|
// | 0 | `turn` `queue` `thread_id` `once` `deadlock` |
// | 1 | `raw_mutex` `raw_rwlock` |
// | 2 | `mutex` `fair_mutex` `reentrant_mutex` `rwlock` |
// | 3 | `condvar` |
mod condvar;
#[cfg(feature = "deadlock_detection")]
pub mod deadlock;
mod fair_mutex;
mod mutex;
mod once;
mod queue;
mod raw_mutex;
mod raw_rwlock;
mod reentrant_mutex;
mod rwlock;
mod thread_id;
mod turn;

pub use condvar::{Condvar, WaitTimeoutResult};
pub use fair_mutex::{FairMutex, FairMutexGuard, MappedFairMutexGuard, const_fair_mutex};
pub use lock_api;
#[cfg(feature = "arc_lock")]
pub use lock_api::{
    ArcMutexGuard, ArcReentrantMutexGuard, ArcRwLockReadGuard, ArcRwLockUpgradableReadGuard,
    ArcRwLockWriteGuard,
};
pub use mutex::{MappedMutexGuard, Mutex, MutexGuard, const_mutex};
pub use once::{Once, OnceState};
pub use raw_mutex::{RawFairMutex, RawMutex};
pub use raw_rwlock::RawRwLock;
pub use reentrant_mutex::{
    MappedReentrantMutexGuard, ReentrantMutex, ReentrantMutexGuard, const_reentrant_mutex,
};
pub use rwlock::{
    MappedRwLockReadGuard, MappedRwLockWriteGuard, RwLock, RwLockReadGuard,
    RwLockUpgradableReadGuard, RwLockWriteGuard, const_rwlock,
};
pub use thread_id::RawThreadId;

use std::time::{Duration, Instant};

#[cfg(not(feature = "send_guard"))]
type GuardMarker = lock_api::GuardNoSend;
#[cfg(feature = "send_guard")]
type GuardMarker = lock_api::GuardSend;

/// Returns when a wait of this length ends. `None`: never, since the clock does not go that far.
fn deadline(limit: Duration) -> Option<Instant> {
    Instant::now().checked_add(limit)
}
