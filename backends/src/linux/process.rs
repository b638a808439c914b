//! Child processes: waiting for their end.

#![allow(
    unsafe_code,
    reason = "system calls; each says why its memory is valid"
)]

use super::check;
use core::mem::MaybeUninit;
use gopark_core::os::{Errno, Outcome};

/// `pidfd_open(2)`, Linux 5.3: a new close-on-exec descriptor that becomes readable when the
/// process ends. `ESRCH`: there is no such process, or it was reaped.
pub fn pidfd_open(pid: u32) -> Result<i32, Errno> {
    let flags: libc::c_uint = 0;
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) } as isize).map(|fd| fd as i32)
}

/// Blocks the thread until the child `pid` has ended, and leaves its status to be fetched.
/// `ECHILD`: it is no child, or was reaped, or `SIGCHLD` is ignored and the child has ended.
#[doc(alias = "waitid")]
#[doc(alias = "WNOWAIT")]
pub fn wait_exited(pid: u32) -> Outcome<()> {
    waitid(pid, libc::WEXITED | libc::WNOWAIT)
}

/// Fetches the status of the child `pid` if it has ended, so that the kernel forgets it.
pub fn reap(pid: u32) -> Outcome<()> {
    waitid(pid, libc::WEXITED | libc::WNOHANG)
}

fn waitid(pid: u32, options: libc::c_int) -> Outcome<()> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: `info` is writable.
    let result = unsafe { libc::waitid(libc::P_PID, pid, info.as_mut_ptr(), options) };
    match check(result as isize) {
        Ok(_) => Outcome::Done(()),
        Err(errno) if errno.raw() == libc::EINTR => Outcome::Interrupted,
        Err(errno) => Outcome::Failed(errno),
    }
}

/// Sends `signal` to the process `pid` (kill(2)).
pub fn kill(pid: u32, signal: i32) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::kill(pid as libc::pid_t, signal) } as isize).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::io;
    use crate::linux::tests::lend;
    use gopark_core::os::Mode;
    use std::process::Command;

    #[test]
    fn a_pidfd_is_readable_when_the_process_ends_and_its_status_can_be_fetched() {
        let mut child = Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id();
        let fd = pidfd_open(pid).unwrap();
        assert!(!io::is_ready(lend(fd), Mode::Read));
        assert_eq!(reap(pid), Outcome::Done(()));
        drop(child.stdin.take());
        assert_eq!(wait_exited(pid), Outcome::Done(()));
        assert!(io::is_ready(lend(fd), Mode::Read));
        assert!(child.wait().unwrap().success());
        let gone = Errno::new(libc::ECHILD);
        assert_eq!(wait_exited(pid), Outcome::Failed(gone));
        assert_eq!(reap(pid), Outcome::Failed(gone));
        io::close(fd);
    }
}
