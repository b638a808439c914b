//! The locks of `std`: goroutines that wait for one park instead of blocking their thread.

use crate::runtime::started;

cfg_if::cfg_if! {
    if #[cfg(all(
        feature = "std-locks",
        target_os = "linux",
        target_pointer_width = "64",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))] {
        #[macro_use]
        mod assembly;
        mod hook;

        cfg_if::cfg_if! {
            if #[cfg(target_arch = "x86_64")] {
                mod x86_64;
            } else {
                mod aarch64;
            }
        }

        pub(crate) use hook::{install, is_linked, last_waker, rescue};
    } else {
        mod none;

        pub(crate) use none::{install, is_linked, last_waker, rescue};
    }
}

/// When a goroutine that waits for a lock of `std` parks: for [`Builder::std_locks`].
///
/// [`Builder::std_locks`]: crate::Builder::std_locks
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StdLocks {
    /// When it has blocked its thread for a millisecond while other goroutines needed the thread or
    /// its P, or for a second. (For a tenth of a millisecond, after sixteen such waits within ten
    /// seconds.) From then on, every goroutine that waits for that lock parks at once, until the
    /// lock was not waited for in ten seconds. A lock that is held for a few instructions is rarely
    /// a point where other goroutines run: only if the system has taken the CPU from its holder.
    #[default]
    Rescue,
    /// At once. Every lock of `std` that another goroutine or thread holds is a point where other
    /// goroutines of the thread may run.
    Park,
    /// Never: it blocks its thread. If the lock is held by a goroutine of the same thread that is
    /// parked, both hang.
    Off,
}

fn forbid_parking(forbid: bool) -> bool {
    started().is_some_and(|sched| sched.set_unparkable(forbid))
}

/// Calls `f`, in which a wait for a lock of `std` blocks the thread and lets no other goroutine run
/// there.
///
/// Use it around a call that stores a pointer in a thread-local until it returns, or waits on what
/// belongs to the thread, and assumes that no other code runs on the thread before:
/// `tokio::runtime::Runtime::block_on`, `rayon::join`, a callback of the crate `scoped-tls`.
/// Operations of this crate park as ever, so do not use them within `f`: hand what has to wait to
/// [`blocking`](crate::blocking), or run all of `f` there.
///
/// Without [`Builder::std_locks`](crate::Builder::std_locks), and on an ordinary thread, it only
/// calls `f`.
///
/// ```
/// use std::cell::Cell;
/// use std::sync::Mutex;
///
/// thread_local!(static CURRENT: Cell<Option<*const u32>> = const { Cell::new(None) });
/// static LOG: Mutex<Vec<u32>> = Mutex::new(Vec::new());
///
/// gopark::run(|| {
///     let value = 7;
///     gopark::without_parking(|| {
///         CURRENT.set(Some(&value));
///         LOG.lock().unwrap().push(value); // No other goroutine sees CURRENT.
///         CURRENT.set(None);
///     });
/// });
/// # assert_eq!(*LOG.lock().unwrap(), [7]);
/// ```
pub fn without_parking<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(bool);

    impl Drop for Restore {
        fn drop(&mut self) {
            forbid_parking(self.0);
        }
    }

    let _restore = Restore(forbid_parking(true));
    f()
}
