//! `Semaphore`.

use crate::global::Global;
use crate::runtime::time_limit;
use gopark_core::cancel::Cancelled;
use gopark_core::semaphore::RawSemaphore;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

/// A counting semaphore: tokio's `Semaphore`, Go's `golang.org/x/sync/semaphore`.
///
/// It holds a number of permits. A caller takes permits, after waiting until there are enough, and
/// gives them back when it drops them. Callers are served in the order of arrival: one that wants
/// many permits is not overtaken by later ones that want few.
///
/// ```
/// use gopark::sync::{Arc, Semaphore};
///
/// let connections = Arc::new(Semaphore::new(2));
/// let workers: Vec<_> = (0..8)
///     .map(|_| {
///         let connections = connections.clone();
///         gopark::go(move || {
///             let _permit = connections.acquire().unwrap();
///             gopark::yield_now(); // At most two goroutines are here at a time.
///         })
///     })
///     .collect();
/// for worker in workers {
///     worker.join().unwrap();
/// }
/// assert_eq!(connections.available_permits(), 2);
/// ```
#[derive(Default)]
pub struct Semaphore(RawSemaphore<Global>);

impl UnwindSafe for Semaphore {}
impl RefUnwindSafe for Semaphore {}

/// Permits of a [`Semaphore`]. Dropping it gives them back.
///
/// ```
/// let semaphore = gopark::sync::Semaphore::new(1);
/// let permit = semaphore.acquire().unwrap();
/// assert_eq!(semaphore.available_permits(), 0);
/// drop(permit);
/// assert_eq!(semaphore.available_permits(), 1);
/// ```
#[must_use = "if unused the permit is given back at once"]
#[derive(Debug)]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
    count: usize,
}

/// Permits that keep their [`Semaphore`] alive. Dropping it gives them back.
///
/// ```
/// use gopark::sync::{Arc, Semaphore};
///
/// let semaphore = Arc::new(Semaphore::new(1));
/// let permit = semaphore.acquire_owned().unwrap();
/// let worker = gopark::go(move || drop(permit));
/// worker.join().unwrap();
/// assert_eq!(semaphore.available_permits(), 1);
/// ```
#[must_use = "if unused the permit is given back at once"]
#[derive(Debug)]
pub struct OwnedPermit {
    semaphore: Arc<Semaphore>,
    count: usize,
}

impl Semaphore {
    /// Makes a semaphore with so many permits.
    ///
    /// ```
    /// static LIMIT: gopark::sync::Semaphore = gopark::sync::Semaphore::new(3);
    /// assert_eq!(LIMIT.available_permits(), 3);
    /// ```
    pub const fn new(permits: usize) -> Self {
        Semaphore(RawSemaphore::new(permits, Global))
    }

    /// Takes one permit, after waiting for it.
    ///
    /// # Errors
    ///
    /// If the caller is [cancelled](crate::sync::Cancel).
    ///
    /// ```
    /// let semaphore = gopark::sync::Semaphore::new(1);
    /// let _permit = semaphore.acquire().unwrap();
    /// assert!(semaphore.try_acquire().is_none());
    /// ```
    #[doc(alias = "semacquire")]
    pub fn acquire(&self) -> Result<Permit<'_>, Cancelled> {
        self.acquire_many(1)
    }

    /// Takes `n` permits together, after waiting until there are as many. It waits without end if
    /// the semaphore never has as many.
    ///
    /// # Errors
    ///
    /// If the caller is [cancelled](crate::sync::Cancel).
    ///
    /// ```
    /// let semaphore = gopark::sync::Semaphore::new(3);
    /// let _permits = semaphore.acquire_many(2).unwrap();
    /// assert_eq!(semaphore.available_permits(), 1);
    /// ```
    pub fn acquire_many(&self, n: usize) -> Result<Permit<'_>, Cancelled> {
        self.0.acquire_or_cancel(n, None)?;
        Ok(self.permit(n))
    }

    /// Takes one permit, after waiting for it, that can outlive the borrow of the semaphore.
    ///
    /// # Errors
    ///
    /// If the caller is [cancelled](crate::sync::Cancel).
    ///
    /// ```
    /// use gopark::sync::{Arc, Semaphore};
    ///
    /// let semaphore = Arc::new(Semaphore::new(1));
    /// let permit = semaphore.acquire_owned().unwrap();
    /// drop(semaphore);
    /// drop(permit);
    /// ```
    pub fn acquire_owned(self: &Arc<Self>) -> Result<OwnedPermit, Cancelled> {
        self.0.acquire_or_cancel(1, None)?;
        Ok(OwnedPermit {
            semaphore: self.clone(),
            count: 1,
        })
    }

    /// Takes one permit, if there is one and no caller waits.
    ///
    /// After many failures in a row a goroutine yields, so that others can give permits back.
    ///
    /// ```
    /// let semaphore = gopark::sync::Semaphore::new(0);
    /// assert!(semaphore.try_acquire().is_none());
    /// ```
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        self.0.try_acquire(1).then(|| self.permit(1))
    }

    /// As [`acquire`](Self::acquire), but waits for `limit` at most. Returns `None` if there was no
    /// permit until then, or the caller is cancelled.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let semaphore = gopark::sync::Semaphore::new(1);
    /// let limit = Duration::from_millis(1);
    /// let permit = semaphore.acquire_timeout(limit).unwrap();
    /// assert!(semaphore.acquire_timeout(limit).is_none());
    /// ```
    pub fn acquire_timeout(&self, limit: Duration) -> Option<Permit<'_>> {
        let acquired = self.0.acquire_or_cancel(1, time_limit(limit));
        (acquired == Ok(true)).then(|| self.permit(1))
    }

    /// Adds `n` permits.
    ///
    /// # Panics
    ///
    /// If there would be more than `usize::MAX`. The semaphore stays as it is.
    ///
    /// ```
    /// let semaphore = gopark::sync::Semaphore::new(0);
    /// semaphore.add_permits(2);
    /// assert_eq!(semaphore.available_permits(), 2);
    /// ```
    #[doc(alias = "semrelease")]
    pub fn add_permits(&self, n: usize) {
        self.0.release(n);
    }

    /// Returns how many permits can be taken.
    ///
    /// ```
    /// assert_eq!(gopark::sync::Semaphore::new(4).available_permits(), 4);
    /// ```
    pub fn available_permits(&self) -> usize {
        self.0.available()
    }

    fn permit(&self, count: usize) -> Permit<'_> {
        Permit {
            semaphore: self,
            count,
        }
    }
}

impl Permit<'_> {
    /// Drops the permits without giving them back: the semaphore has fewer from now on.
    ///
    /// ```
    /// let semaphore = gopark::sync::Semaphore::new(1);
    /// semaphore.acquire().unwrap().forget();
    /// assert_eq!(semaphore.available_permits(), 0);
    /// ```
    pub fn forget(mut self) {
        self.count = 0;
    }
}

impl OwnedPermit {
    /// Drops the permits without giving them back: the semaphore has fewer from now on.
    ///
    /// ```
    /// use gopark::sync::{Arc, Semaphore};
    ///
    /// let semaphore = Arc::new(Semaphore::new(1));
    /// semaphore.acquire_owned().unwrap().forget();
    /// assert_eq!(semaphore.available_permits(), 0);
    /// ```
    pub fn forget(mut self) {
        self.count = 0;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.semaphore.add_permits(self.count);
    }
}

impl Drop for OwnedPermit {
    fn drop(&mut self) {
        self.semaphore.add_permits(self.count);
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("available_permits", &self.available_permits())
            .finish_non_exhaustive()
    }
}

static_assertions::assert_impl_all!(OwnedPermit: Send, Sync);
