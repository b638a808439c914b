//! Children, and the orphans of others, that end: the first process waits for them, or they stay in the process table.
//!
//! `SIGCHLD` is blocked in all threads and comes through a descriptor, so that one goroutine waits for it as others wait for connections.
#![allow(
    unsafe_code,
    reason = "fork, signals; each argues that the memory it passes is valid for the call"
)]

use crate::system::{check, pid};
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use gopark_backends::linux::io;
use gopark_core::fd::Fd;
use gopark_core::os::{Errno, Mode};

pub static STARTED: AtomicU32 = AtomicU32::new(0);
pub static REAPED: AtomicU32 = AtomicU32::new(0);
/// Whether there are children that run or have not been reaped.
pub static SOME_LEFT: AtomicBool = AtomicBool::new(false);

/// Has orphans come to this process, as they do to the first in any case. Gives a descriptor that is readable when some child has ended.
///
/// Threads inherit what is blocked, so this comes before there are any.
pub fn adopt() -> Result<i32, Errno> {
    let mut signals = MaybeUninit::uninit();
    // SAFETY: `signals` is filled in before it is used.
    unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, signals.as_ptr(), ptr::null_mut());
        check(libc::signalfd(-1, signals.as_ptr(), libc::SFD_NONBLOCK | libc::SFD_CLOEXEC).into())
            .map(|fd| fd as i32)
    }
}

/// Waits for children, for ever.
pub fn reap(signals: &Fd) {
    let mut signal = [0; size_of::<libc::signalfd_siginfo>()];
    loop {
        // Signals that come while one is pending are that one: whoever has ended by now is waited for.
        let last = loop {
            // SAFETY: the status is not asked for.
            match unsafe { libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG) } {
                1.. => _ = REAPED.fetch_add(1, Ordering::Relaxed),
                last => break last,
            }
        };
        // -1 says that there is no child, 0 that none has ended.
        SOME_LEFT.store(last == 0, Ordering::Relaxed);
        if signals
            .operate(Mode::Read, |fd| io::read(fd, &mut signal))
            .is_err()
        {
            return;
        }
    }
}

/// Starts a child that leaves an orphan: it ends before its own child does.
pub fn start() -> bool {
    // SAFETY: the children make system calls only, and end without running exit handlers.
    unsafe {
        match libc::fork() {
            -1 => return false,
            0 => {
                let parent = pid();
                if libc::fork() == 0 {
                    let millisecond = libc::timespec {
                        tv_sec: 0,
                        tv_nsec: 1_000_000,
                    };
                    while libc::getppid() == parent {
                        libc::nanosleep(&millisecond, ptr::null_mut());
                    }
                }
                libc::_exit(0)
            }
            _ => {}
        }
    }
    STARTED.fetch_add(1, Ordering::Relaxed);
    true
}
