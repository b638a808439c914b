//! Work on the pool of [`blocking`](crate::blocking) that its caller may leave behind.

use crate::builder::{pool, sched_if_running};
use crate::cancel::Cancelled;
use crate::panics;
use std::panic::{self, AssertUnwindSafe};

/// Runs `work` as [`blocking`](crate::blocking) does, but a [cancel](crate::sync::Cancel) of the
/// caller ends the wait.
///
/// Use it for work that may take long and cannot be told to stop, such as a name look-up or a read
/// of a network file. Because the caller may return before it ends, `work` owns what it uses.
///
/// **A cancel.** If `work` has not begun when the caller is cancelled, it does not run, and is
/// dropped by the caller. If it has begun, it is left behind: it runs to its end on its thread of
/// the pool, which then drops the result. Until then it occupies that thread. There are
/// [`Builder::max_threads`](crate::Builder::max_threads) at most. A cancel does not reach into
/// `work`, and the end of the process does not wait for it.
///
/// On an ordinary thread, `work` runs on a thread of the pool as well if the caller is a member of
/// a cancel, and otherwise on the caller's.
///
/// # Errors
///
/// If the caller is cancelled before `work` is done. If both come at once, the result wins.
///
/// # Panics
///
/// With the panic of `work`. A panic of work that was left behind is reported on stderr as any
/// other, and ends nothing but the work.
///
/// ```
/// use std::time::Duration;
///
/// gopark::run(|| {
///     let size = gopark::try_blocking(|| std::fs::read("/proc/self/comm").map(|it| it.len()));
///     assert!(size.unwrap().is_ok());
///
///     let hour = Duration::from_secs(3600);
///     let late = gopark::with_timeout(Duration::from_millis(2), || {
///         gopark::try_blocking(move || std::thread::sleep(hour))
///     });
///     assert_eq!(late.unwrap_err().into_inner(), Err(gopark::Cancelled));
/// });
/// ```
///
/// Work in steps can ask whether it was left:
///
/// ```
/// use gopark::sync::Cancel;
/// use std::time::Duration;
///
/// let cancel = Cancel::new();
/// let theirs = cancel.clone();
/// cancel.set_timeout(Duration::from_millis(2));
/// let count = move || (0_u64..).take_while(|_| !theirs.is_cancelled()).count();
/// match cancel.run(|| gopark::try_blocking(count)) {
///     Ok(steps) => println!("it saw the cancel first, after {steps} steps"),
///     Err(gopark::Cancelled) => println!("it was left behind, and ends soon"),
/// }
/// ```
#[doc(alias = "spawn_blocking")]
#[track_caller]
pub fn try_blocking<F, T>(work: F) -> Result<T, Cancelled>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    // Without a runtime there is no cancel.
    let Some(sched) = sched_if_running() else {
        return Ok(work());
    };
    let caller = sched.identity();
    // `work` need not be UnwindSafe, as that of `std::thread::spawn` need not.
    let catching = || panic::catch_unwind(AssertUnwindSafe(work));
    match pool().run_or_leave(sched, || panics::on_behalf_of(caller, catching))? {
        Ok(value) => Ok(value),
        Err(payload) => panic::resume_unwind(payload),
    }
}
