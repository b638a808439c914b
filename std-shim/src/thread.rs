//! Goroutines in the shape of [`std::thread`]: a program that uses threads runs on goroutines
//! after `use std::thread` has become `use gopark::thread`.
//!
//! | `std::thread` | here |
//! |---|---|
//! | `spawn`, `scope`, `Builder`, `JoinHandle` | start goroutines |
//! | `sleep`, `yield_now`, `park`, `park_timeout` | park the goroutine |
//! | `current`, `Thread`, `ThreadId` | of the goroutine |
//! | `thread_local!` | [`goroutine_local!`](crate::goroutine_local); `std`'s is the thread's |
//! | `available_parallelism`, `panicking` | those of `std` |
//!
//! On an ordinary thread, each function does what that of `std` does.
//!
//! ```
//! use gopark::thread;
//!
//! let mut numbers = [1, 2, 3, 4];
//! thread::scope(|s| {
//!     for half in numbers.chunks_mut(2) {
//!         s.spawn(|| half.iter_mut().for_each(|n| *n *= 10));
//!     }
//! });
//! assert_eq!(numbers, [10, 20, 30, 40]);
//! ```

mod builder;
mod scope;

pub use crate::goroutine::{JoinHandle, sleep, sleep_until, yield_now};
pub use crate::local::{AccessError, LocalKey};
pub use crate::park::{Thread, ThreadId, current, park, park_timeout};
pub use builder::Builder;
pub use scope::{Scope, ScopedJoinHandle, scope};
pub use std::thread::{Result, available_parallelism, panicking};

/// Starts a goroutine that runs `f`: [`go`](crate::go()) under the name that `std` uses.
///
/// # Panics
///
/// As [`go`](crate::go()).
///
/// ```
/// use gopark::thread;
///
/// let answer = thread::spawn(|| 6 * 7);
/// assert_eq!(answer.join().unwrap(), 42);
/// ```
#[track_caller]
pub fn spawn<F, T>(f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    crate::goroutine::go(f)
}
