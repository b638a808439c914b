//! Child processes made by `fork`: the runtime detects that it is in one, and refuses to start
//! there.
#![allow(unsafe_code, reason = "the C library is given a function to call")]

use gopark_core::sched::FORKED;
use std::io::{Error, ErrorKind, Result};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Called in each child process. Returns whether the runtime was running.
static IN_CHILD: OnceLock<fn() -> bool> = OnceLock::new();

/// Whether this process is a child of one whose runtime was running.
static IS_CHILD: AtomicBool = AtomicBool::new(false);

/// Makes each later `fork` call `in_child` in the child. Does not concern children that exec after
/// `vfork`, as most of those of `std::process::Command` do.
#[doc(alias = "pthread_atfork")]
pub(crate) fn install(in_child: fn() -> bool) -> Result<()> {
    if IN_CHILD.get().is_some() {
        return Ok(());
    }
    // SAFETY: `on_fork` exists for the life of the process. In a child it only stores to atomics,
    // which is async-signal-safe.
    match unsafe { libc::pthread_atfork(None, None, Some(on_fork)) } {
        0 => {
            // Set only after success, because a start that fails here may be repeated.
            _ = IN_CHILD.set(in_child);
            Ok(())
        }
        errno => Err(Error::from_raw_os_error(errno)),
    }
}

unsafe extern "C" fn on_fork() {
    if IN_CHILD.get().is_some_and(|in_child| in_child()) {
        IS_CHILD.store(true, Ordering::Relaxed);
    }
}

/// Fails if this process is a child of one whose runtime was running.
pub(crate) fn refuse_in_child() -> Result<()> {
    if IS_CHILD.load(Ordering::Relaxed) {
        Err(Error::new(ErrorKind::Unsupported, FORKED))
    } else {
        Ok(())
    }
}
