//! The setting for the locks of `std`.

use super::{Builder, NEEDS_SYSMON};
use crate::report;
use crate::std_locks::{StdLocks, is_linked};
use std::io;

impl Builder {
    /// Sets when a goroutine parks that waits for a lock of `std`: `Mutex`, `RwLock`, `Condvar`,
    /// `Once`, `OnceLock`, `LazyLock` or `Barrier`. Default: [`StdLocks::Rescue`], or
    /// [`StdLocks::Off`] without sysmon.
    ///
    /// The goroutine parks with all that it and its callers hold, and goes on on the same thread,
    /// also with [`migrate`](Self::migrate). The crate's documentation says what that means for
    /// code that keeps pointers in thread-locals; [`without_parking`](crate::without_parking) keeps
    /// such code from parking.
    ///
    /// [`start`](Self::start) fails if `Rescue` is set here without [`sysmon`](Self::sysmon). It
    /// also fails if `Rescue` or `Park` is set here but has no effect: without the feature
    /// `std-locks`, on another processor than x86-64 and aarch64, and in a program that links `std`
    /// dynamically (`-C prefer-dynamic`) or defines `syscall` itself.
    ///
    /// ```
    /// use gopark::StdLocks;
    ///
    /// gopark::Builder::new().std_locks(StdLocks::Park).start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn std_locks(mut self, locks: StdLocks) -> Self {
        self.std_locks = Some(locks);
        self
    }

    /// What waits for locks of `std` do.
    pub(super) fn std_locks_in_effect(&self) -> io::Result<StdLocks> {
        let error = |kind, text: &str| Err(io::Error::new(kind, text));
        match self.std_locks {
            None if self.no_sysmon || !is_linked() => Ok(StdLocks::Off),
            None => Ok(StdLocks::Rescue),
            Some(StdLocks::Off) => Ok(StdLocks::Off),
            Some(StdLocks::Rescue) if self.no_sysmon => {
                error(io::ErrorKind::InvalidInput, NEEDS_SYSMON)
            }
            Some(_) if !cfg!(feature = "std-locks") => error(
                io::ErrorKind::Unsupported,
                "std_locks needs gopark's feature `std-locks`, which is not compiled in",
            ),
            Some(_) if !is_linked() => error(
                io::ErrorKind::Unsupported,
                "std_locks needs x86-64 or aarch64, and a program that links std statically \
                 (without -C prefer-dynamic) and does not define `syscall`",
            ),
            Some(locks) => Ok(locks),
        }
    }
}

/// Reports that the default has no effect in this program, unless it lacks the feature.
pub(super) fn report_if_foreign(setting: Option<StdLocks>) {
    if cfg!(feature = "std-locks") && setting.is_none() && !is_linked() {
        report::report_foreign_std();
    }
}
