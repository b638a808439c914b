//! [`Child`].
#![allow(unsafe_code, reason = "a pidfd gets its owner")]

use super::pipe::read_both;
use super::{ChildStderr, ChildStdin, ChildStdout, ExitStatus, Output};
use crate::cancel::{Cancel, check_cancel};
use crate::error::io_error;
use crate::goroutine::try_go;
use crate::net::Descriptor;
use crate::pool::try_blocking;
use crate::runtime::{started, time_limit};
use crate::signal::Signal;
use gopark_backends::linux::process as sys;
use gopark_core::fd::FdError;
use gopark_core::os::{Errno, Outcome};
use gopark_core::polldesc::PollError;
use std::io::Result;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// A child process: [`std::process::Child`], Go's `exec.Cmd` after `Start`.
///
/// Dropping it neither kills the child nor waits for it, as in `std`, unless
/// [`Command::kill_on_drop`](super::Command::kill_on_drop) is set. A child that has ended and was
/// not waited for remains a zombie until this process ends.
///
/// ```
/// use gopark::process::Command;
///
/// # fn main() -> std::io::Result<()> {
/// gopark::run(|| {
///     let mut child = Command::new("true").spawn()?;
///     assert!(child.wait()?.success());
///     Ok(())
/// })
/// # }
/// ```
#[derive(Debug)]
pub struct Child {
    /// The pipe to the child's standard input, if [`Stdio::piped`](super::Stdio::piped) was set.
    pub stdin: Option<ChildStdin>,
    /// The pipe from the child's standard output, if it was set.
    pub stdout: Option<ChildStdout>,
    /// The pipe from the child's standard error, if it was set.
    pub stderr: Option<ChildStderr>,
    // It has the drop, so that the pipes can be moved out of a `Child`.
    process: Process,
}

static_assertions::assert_impl_all!(Child: Send, Sync);

#[derive(Debug)]
struct Process {
    std: std::process::Child,
    /// Set once the status is known: the number may then belong to another process.
    is_reaped: bool,
    on_drop: OnDrop,
}

/// What becomes of a child that was not waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum OnDrop {
    Leave,
    /// It is waited for in the background: its only handle was in a call.
    Reap,
    Kill,
}

impl Child {
    pub(super) fn new(mut std: std::process::Child, kill_on_drop: bool) -> Self {
        Child {
            stdin: std.stdin.take().map(Into::into),
            stdout: std.stdout.take().map(Into::into),
            stderr: std.stderr.take().map(Into::into),
            process: Process {
                std,
                is_reaped: false,
                on_drop: match kill_on_drop {
                    true => OnDrop::Kill,
                    false => OnDrop::Leave,
                },
            },
        }
    }

    /// The number of the process.
    ///
    /// ```
    /// let mut child = gopark::process::Command::new("true").spawn()?;
    /// println!("process {}", child.id());
    /// child.wait()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn id(&self) -> u32 {
        self.process.std.id()
    }

    /// Kills the child with `SIGKILL`. Does nothing if its status is known already. It is still to
    /// be waited for.
    ///
    /// # Errors
    ///
    /// That of kill(2).
    ///
    /// ```
    /// use gopark::process::Command;
    ///
    /// let mut child = Command::new("sleep").arg("3600").spawn()?;
    /// child.kill()?;
    /// assert!(!child.wait()?.success());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// Sends `signal` to the child. Does nothing if its status is known already. Go's
    /// `Process.Signal`.
    ///
    /// # Errors
    ///
    /// That of kill(2), such as `EPERM` if the child has changed its user.
    ///
    /// ```
    /// use gopark::process::Command;
    /// use gopark::signal::Signal;
    /// use std::os::unix::process::ExitStatusExt;
    ///
    /// let mut child = Command::new("sleep").arg("3600").spawn()?;
    /// child.signal(Signal::TERM)?;
    /// assert_eq!(child.wait()?.signal(), Some(Signal::TERM.raw()));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.process.is_reaped {
            return Ok(());
        }
        sys::kill(self.id(), signal.raw()).map_err(system)
    }

    /// Waits until the child ends, and returns its status. A later call returns the same status.
    ///
    /// First drops [`stdin`](Self::stdin), as `std` does, so that a child that reads it to its end
    /// does not wait for this process. Starts the runtime with the defaults if it is not running.
    ///
    /// # Errors
    ///
    /// [`PollError::Cancelled`](crate::PollError::Cancelled) if the caller is cancelled before the
    /// child ends; the child goes on, and can be waited for again. `ECHILD` if the status is gone,
    /// because the program ignores `SIGCHLD` or has waited for the child in another way.
    ///
    /// ```
    /// let mut child = gopark::process::Command::new("false").spawn()?;
    /// assert_eq!(child.wait()?.code(), Some(1));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "waitpid")]
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.wait_until(None)
    }

    /// As [`wait`](Self::wait), but no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// [`PollError::Timeout`](crate::PollError::Timeout), of kind `TimedOut`, if the child has not
    /// ended by then; it goes on. Those of [`wait`](Self::wait).
    ///
    /// ```
    /// use gopark::process::Command;
    /// use std::time::Instant;
    ///
    /// let mut child = Command::new("sleep").arg("3600").spawn()?;
    /// let late = child.wait_deadline(Instant::now()).unwrap_err();
    /// assert_eq!(late.kind(), std::io::ErrorKind::TimedOut);
    /// child.kill()?;
    /// child.wait()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn wait_deadline(&mut self, deadline: Instant) -> Result<ExitStatus> {
        self.wait_until(Some(deadline))
    }

    /// As [`wait`](Self::wait), but no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As for [`wait_deadline`](Self::wait_deadline).
    ///
    /// ```
    /// use gopark::process::Command;
    /// use std::time::Duration;
    ///
    /// let mut child = Command::new("sleep").arg("3600").spawn()?;
    /// assert!(child.wait_timeout(Duration::from_millis(5)).is_err());
    /// child.kill()?;
    /// child.wait()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.wait_until(time_limit(timeout))
    }

    fn wait_until(&mut self, limit: Option<Instant>) -> Result<ExitStatus> {
        drop(self.stdin.take());
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            wait_for_exit(self.id(), limit)?;
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            // The child has ended, and a debugger has yet to fetch its status.
            wait_on_pool(self.id(), limit)?;
        }
    }

    /// Returns the child's status if it has ended. Does not wait.
    ///
    /// # Errors
    ///
    /// `ECHILD`, as for [`wait`](Self::wait).
    ///
    /// ```
    /// use gopark::process::Command;
    ///
    /// let mut child = Command::new("sleep").arg("3600").spawn()?;
    /// assert!(child.try_wait()?.is_none());
    /// child.kill()?;
    /// child.wait()?;
    /// assert!(child.try_wait()?.is_some());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.process.try_wait()
    }

    /// For a call that has the only handle: if it fails, the child goes on, and leaves no zombie.
    pub(super) fn reap_on_drop(&mut self) {
        if self.process.on_drop == OnDrop::Leave {
            self.process.on_drop = OnDrop::Reap;
        }
    }

    /// Waits until the child ends, and returns its status with all that it has written. Drops
    /// `stdin` first.
    ///
    /// Both streams are read as the child writes them, so a child that fills one pipe and then the
    /// other does not wait without end.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait) and of reading. What was read by then is lost. The child goes
    /// on, and is waited for in the background.
    ///
    /// ```
    /// use gopark::process::{Command, Stdio};
    ///
    /// let child = Command::new("echo").arg("hello").stdout(Stdio::piped()).spawn()?;
    /// let output = child.wait_with_output()?;
    /// assert_eq!(output.stdout, b"hello\n");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn wait_with_output(mut self) -> Result<Output> {
        self.reap_on_drop();
        drop(self.stdin.take());
        let (stdout, stderr) = read_both(self.stdout.take(), self.stderr.take())?;
        let status = self.wait()?;
        Ok(Output {
            status,
            stdout,
            stderr,
        })
    }
}

impl Process {
    /// Never inlined: it reads errno, and its callers park between two calls. See `Socket::with`.
    #[inline(never)]
    fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.std.try_wait();
        self.is_reaped |= matches!(status, Ok(Some(_)));
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.on_drop == OnDrop::Leave || !matches!(self.try_wait(), Ok(None)) {
            return;
        }
        let pid = self.std.id();
        if self.on_drop == OnDrop::Kill {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        // A destructor must not park, so a goroutine waits for the end of the child. Without a
        // runtime or a stack, the child remains a zombie.
        if started().is_some() {
            let _ = try_go(move || {
                if wait_for_exit(pid, None).is_ok() {
                    sys::reap(pid);
                }
            });
        }
    }
}

/// Waits until the child `pid`, which was not reaped, has ended.
fn wait_for_exit(pid: u32, limit: Option<Instant>) -> Result<()> {
    match pidfd(pid) {
        Ok(pidfd) => {
            pidfd.set_deadline(limit)?;
            pidfd.readable()
        }
        Err(_) => wait_on_pool(pid, limit),
    }
}

fn pidfd(pid: u32) -> Result<Descriptor<OwnedFd>> {
    let raw = sys::pidfd_open(pid).map_err(system)?;
    // SAFETY: `pidfd_open` has just opened the descriptor, and this is its only owner.
    Descriptor::new(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// As [`wait_for_exit`], on a thread of the pool, which is left behind at the limit.
fn wait_on_pool(pid: u32, limit: Option<Instant>) -> Result<()> {
    let wait = move || {
        loop {
            match sys::wait_exited(pid) {
                Outcome::Failed(errno) => return Err(errno),
                Outcome::Done(()) => return Ok(()),
                Outcome::Interrupted | Outcome::WouldBlock => {}
            }
        }
    };
    let cancel = Cancel::below_current();
    cancel.set_deadline(limit);
    match cancel.run(|| try_blocking(wait)) {
        Ok(result) => result.map_err(system),
        Err(_) if check_cancel().is_err() => Err(io_error(PollError::Cancelled.into())),
        Err(_) => Err(io_error(PollError::Timeout.into())),
    }
}

fn system(errno: Errno) -> std::io::Error {
    io_error(FdError::Os(errno))
}
