//! Child processes made by fork: they are told from the process whose runtime runs, and refused one of their own.
#![allow(unsafe_code, reason = "the C library is given a function to call")]

use gopark_core::sched::FORKED;
use std::io::{Error, ErrorKind, Result};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// What to do in a child process. Whether the runtime was running is the result.
static IN_CHILD: OnceLock<fn() -> bool> = OnceLock::new();

/// Set in a child of a process whose runtime was running.
static IS_CHILD: AtomicBool = AtomicBool::new(false);

/// Has each later fork call `in_child` in the child. A child that execs after `vfork`, as most of `std::process::Command` do, is none.
#[doc(alias = "pthread_atfork")]
pub(crate) fn watch(in_child: fn() -> bool) -> Result<()> {
    if IN_CHILD.get().is_some() {
        return Ok(());
    }
    // SAFETY: the function stays, and does in a child only what is async-signal-safe: it stores in memory of the process.
    match unsafe { libc::pthread_atfork(None, None, Some(on_fork)) } {
        0 => {
            // Not before: a start that fails here may be repeated.
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

/// The error of a start in a child.
pub(crate) fn refuse_in_child() -> Result<()> {
    if IS_CHILD.load(Ordering::Relaxed) {
        Err(Error::new(ErrorKind::Unsupported, FORKED))
    } else {
        Ok(())
    }
}
