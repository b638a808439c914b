//! Reaping: the first process waits for its children, and for orphans, which become its children.
//! Otherwise they stay in the process table as zombies (wait(2)).
//!
//! `SIGCHLD` is blocked in all threads and arrives through a signalfd. So a goroutine waits for it
//! as others wait for connections. The race: signals of one kind are merged while one is pending
//! (signal(7)), so after each signal the goroutine waits for all children that have ended.
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

/// Children that this process has forked.
pub static STARTED: AtomicU32 = AtomicU32::new(0);
/// Children and orphans that it has waited for.
pub static REAPED: AtomicU32 = AtomicU32::new(0);
/// Whether there are children that run or have not been reaped.
pub static SOME_LEFT: AtomicBool = AtomicBool::new(false);

/// Makes orphans children of this process, even if it is not the first (PR_SET_CHILD_SUBREAPER in
/// prctl(2)). Returns a descriptor that is readable after a child has ended.
///
/// Call it before threads start: they inherit the blocked signals.
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

/// Waits for children that have ended. Returns only if `signals` cannot be read.
pub fn reap(signals: &Fd) {
    let mut signal = [0; size_of::<libc::signalfd_siginfo>()];
    loop {
        // All children that have ended, since their signals may have been merged.
        let last = loop {
            // SAFETY: the status is not asked for.
            match unsafe { libc::waitpid(-1, ptr::null_mut(), libc::WNOHANG) } {
                1.. => _ = REAPED.fetch_add(1, Ordering::Relaxed),
                last => break last,
            }
        };
        // -1: there are no children. 0: none of them has ended.
        SOME_LEFT.store(last == 0, Ordering::Relaxed);
        if signals
            .operate(Mode::Read, |fd| io::read(fd, &mut signal))
            .is_err()
        {
            return;
        }
    }
}

/// Forks a child that forks another and exits first, which leaves an orphan. Returns false if it
/// cannot fork.
pub fn fork_orphan() -> bool {
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
