//! Locks and other shared state for goroutines and threads, with the names of [`std::sync`].
//!
//! A lock of `std` blocks the thread of a goroutine, and with it all goroutines that have started
//! there ([details](crate#locks-and-channels-of-std)). The types here park the goroutine instead.
//! They work between goroutines, between ordinary threads, and between both. A guard may be held
//! over calls that park, such as a read from a socket.
//!
//! To port code, replace `use std::sync` by `use gopark::sync`: names, signatures, guards and
//! poisoning are those of `std`. What does not block ([`Arc`], [`atomic`]) is `std`'s own.
//!
//! ```
//! use gopark::sync::{Arc, Mutex};
//!
//! gopark::run(|| {
//!     let count = Arc::new(Mutex::new(0));
//!     let shared = count.clone();
//!     let other = gopark::go(move || {
//!         let mut count = shared.lock().unwrap();
//!         gopark::yield_now(); // The caller below parks until the guard is dropped.
//!         *count += 1;
//!     });
//!     *count.lock().unwrap() += 1;
//!     other.join().unwrap();
//!     assert_eq!(*count.lock().unwrap(), 2);
//! });
//! ```
//!
//! | here | std or tokio | Go |
//! |---|---|---|
//! | [`Mutex`] | `std::sync::Mutex` | `sync.Mutex` |
//! | [`RwLock`] | `std::sync::RwLock` | `sync.RWMutex` |
//! | [`Condvar`] | `std::sync::Condvar` | `sync.Cond` |
//! | [`Once`], [`OnceLock`], [`LazyLock`] | the same names | `sync.Once`, `sync.OnceValue` |
//! | [`Barrier`] | `std::sync::Barrier` | no counterpart |
//! | [`mpsc`] | `std::sync::mpsc` | channels |
//! | [`WaitGroup`] | no counterpart | `sync.WaitGroup` |
//! | [`Semaphore`] | `tokio::sync::Semaphore` | `x/sync/semaphore` |
//! | [`Notify`] | `tokio::sync::Notify` | no counterpart |
//!
//! With [`Builder::migrate`](crate::Builder::migrate), a goroutine may hold a guard of this module
//! over a park, although guards are not `Send`: the locks do not depend on the thread.
//!
//! # Order
//!
//! A waiter of a [`RwLock`], a [`Semaphore`], a [`Condvar`] or a [`Notify`] is served in the order
//! of arrival. A [`Mutex`] that is unlocked wakes its first waiter, which competes with callers
//! that run already. A waiter of 1 ms gets the mutex directly, so none starves: Go's rule.
//!
//! # Poisoning
//!
//! A guard that is dropped while its goroutine panics poisons the lock, as in `std`. `std` counts
//! panics per thread, but here the panic of another goroutine of the thread does not count. One
//! case is not seen: a goroutine that begins to panic while another one of its thread is parked in
//! a destructor that a panic runs.
//!
//! # Without the runtime
//!
//! What does not have to wait does not start the runtime, and works in a child made by `fork`. The
//! first wait starts the runtime if it is not running, also on an ordinary thread.

mod barrier;
mod condvar;
mod lazy_lock;
#[cfg(feature = "lock_api")]
mod lock_api;
pub mod mpsc;
mod mutex;
mod notify;
mod once;
mod once_lock;
mod poison;
mod rwlock;
mod semaphore;
mod wait_group;

pub use crate::cancel::{Cancel, Cause};
pub use barrier::{Barrier, BarrierWaitResult};
pub use condvar::{Condvar, WaitTimeoutResult};
pub use lazy_lock::LazyLock;
#[cfg(feature = "lock_api")]
pub use lock_api::{RawMutex, RawRwLock};
pub use mutex::{Mutex, MutexGuard};
pub use notify::Notify;
pub use once::{Once, OnceState};
pub use once_lock::OnceLock;
pub use rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use semaphore::{OwnedPermit, Permit, Semaphore};
pub use std::sync::{Arc, LockResult, PoisonError, TryLockError, TryLockResult, Weak, atomic};
pub use wait_group::WaitGroup;
