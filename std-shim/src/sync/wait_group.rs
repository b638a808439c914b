//! `WaitGroup`.

use crate::global::Global;
use crate::goroutine::{JoinHandle, go};
use gopark_core::wait_group::RawWaitGroup;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

/// A counter of members that are not done yet: Go's `sync.WaitGroup`.
///
/// ```
/// use gopark::sync::{Arc, WaitGroup};
/// use gopark::sync::atomic::{AtomicU32, Ordering};
///
/// static SUM: AtomicU32 = AtomicU32::new(0);
///
/// let group = Arc::new(WaitGroup::new());
/// for n in 1..=10 {
///     group.go(move || SUM.fetch_add(n, Ordering::Relaxed));
/// }
/// group.wait();
/// assert_eq!(SUM.load(Ordering::Relaxed), 55);
/// ```
#[derive(Default)]
pub struct WaitGroup(RawWaitGroup<Global>);

impl UnwindSafe for WaitGroup {}
impl RefUnwindSafe for WaitGroup {}

impl WaitGroup {
    /// Makes a group without members.
    ///
    /// ```
    /// static WORKERS: gopark::sync::WaitGroup = gopark::sync::WaitGroup::new();
    /// WORKERS.wait(); // It has no members, so this does not wait.
    /// ```
    pub const fn new() -> Self {
        WaitGroup(RawWaitGroup::new(Global))
    }

    /// Adds `n` members. Call it before what might call [`wait`](Self::wait) or
    /// [`done`](Self::done), and not in the new member.
    ///
    /// # Panics
    ///
    /// If there would be more than `usize::MAX` members. Their number stays as it is.
    ///
    /// ```
    /// let group = gopark::sync::WaitGroup::new();
    /// group.add(2);
    /// group.done();
    /// group.done();
    /// group.wait();
    /// ```
    #[track_caller]
    pub fn add(&self, n: usize) {
        self.0.add(n);
    }

    /// Takes one member out of the group. If it was the last one, all callers of
    /// [`wait`](Self::wait) return.
    ///
    /// # Panics
    ///
    /// If the group has no members.
    ///
    /// ```
    /// let group = gopark::sync::WaitGroup::new();
    /// group.add(1);
    /// group.done();
    /// ```
    #[track_caller]
    pub fn done(&self) {
        self.0.done();
    }

    /// Waits until the group has no members. What the members did before they were done is then
    /// visible.
    ///
    /// ```
    /// use gopark::sync::{Arc, WaitGroup};
    ///
    /// let group = Arc::new(WaitGroup::new());
    /// let member = group.go(gopark::yield_now);
    /// group.wait();
    /// member.join().unwrap();
    /// ```
    pub fn wait(&self) {
        self.0.wait();
    }

    /// Starts a goroutine that is a member until `f` has returned or panicked: Go's `WaitGroup.Go`.
    /// The handle may be dropped.
    ///
    /// # Panics
    ///
    /// As [`go`](crate::go) and [`add`](Self::add).
    ///
    /// ```
    /// use gopark::sync::{Arc, WaitGroup};
    ///
    /// let group = Arc::new(WaitGroup::new());
    /// let answer = group.go(|| 6 * 7);
    /// group.wait();
    /// assert_eq!(answer.join().unwrap(), 42);
    /// ```
    #[track_caller]
    pub fn go<F, T>(self: &Arc<Self>, f: F) -> JoinHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.add(1);
        let member = Member(self.clone());
        go(move || {
            let _member = member;
            f()
        })
    }
}

/// A member of the group, until it is dropped.
struct Member(Arc<WaitGroup>);

impl Drop for Member {
    fn drop(&mut self) {
        self.0.done();
    }
}

impl fmt::Debug for WaitGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitGroup")
            .field("members", &self.0.count())
            .finish_non_exhaustive()
    }
}
