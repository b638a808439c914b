//! Standard error as the runtime writes to it: past std's lock, which a goroutine may hold while the
//! reader of a pipe is slow, and not on sysmon's thread, which others rely on.
//!
//! What sysmon has to say goes to a thread that ends when it has written all. While that lives, no
//! deadlock is noticed: it is a thread of the process as any other.
#![allow(unsafe_code, reason = "the C library is given memory and a descriptor")]

use crate::dump;
use crate::runtime::LINUX;
use gopark_core::os::Os;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::panic;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// For how long the process waits for room in standard error before it goes on without.
const PATIENCE: Duration = Duration::from_secs(3);

/// How many texts wait for the thread that writes, at most. What comes then is dropped.
const TEXTS_MAX: usize = 64;

/// A pipe with any room takes as much without blocking: `PIPE_BUF`.
const PIECE: usize = 4096;

/// Standard error. A write that finds no room for so long fails with `TimedOut`; `None` waits for ever.
pub(crate) struct Stderr(Option<Duration>);

impl Stderr {
    /// For the thread that must go on.
    pub(crate) fn impatient() -> Self {
        Stderr(Some(PATIENCE))
    }
}

impl Write for Stderr {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut stderr = libc::pollfd {
            fd: libc::STDERR_FILENO,
            events: libc::POLLOUT,
            revents: 0,
        };
        let patience = self
            .0
            .map_or(-1, |patience| patience.as_millis() as libc::c_int);
        // SAFETY: the call gets one pollfd, which lives until it returns.
        match unsafe { libc::poll(&raw mut stderr, 1, patience) } {
            -1 => return Err(io::Error::last_os_error()),
            0 => return Err(io::ErrorKind::TimedOut.into()),
            _ => {}
        }
        // SAFETY: no more is read than `text` has.
        match unsafe {
            libc::write(
                libc::STDERR_FILENO,
                text.as_ptr().cast(),
                text.len().min(PIECE),
            )
        } {
            -1 => Err(io::Error::last_os_error()),
            len => Ok(len as usize),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the thread writes.
#[derive(PartialEq, Eq)]
enum Text {
    Line(String),
    Dump,
}

impl Text {
    /// A closed standard error is no reason to end.
    fn write(&self, mut stderr: Stderr) {
        let _ = match self {
            Text::Line(line) => stderr.write_all(line.as_bytes()),
            Text::Dump => dump::dump(&mut stderr),
        };
    }
}

/// What is to be written, and whether there is a thread that does so.
struct Queue {
    texts: VecDeque<Text>,
    has_thread: bool,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    texts: VecDeque::new(),
    has_thread: false,
});

fn queue() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a line soon, and keeps the caller from nothing.
pub(crate) fn line_later(line: String) {
    later(Text::Line(line));
}

/// Writes a dump soon. While one waits to be made, it stands for further ones.
pub(crate) fn dump_later() {
    later(Text::Dump);
}

fn later(text: Text) {
    let mut queue = queue();
    if queue.texts.len() == TEXTS_MAX || (text == Text::Dump && queue.texts.contains(&text)) {
        return;
    }
    if !queue.has_thread {
        // No thread of std, which aborts the process if it gets no signal stack.
        queue.has_thread = LINUX.spawn(format_args!("report"), write_all, 0).is_ok();
    }
    if queue.has_thread {
        queue.texts.push_back(text);
    } else {
        drop(queue);
        // The lack of threads may be what the line tells. Only if there is room at once.
        text.write(Stderr(Some(Duration::ZERO)));
    }
}

/// What the thread does.
fn write_all(_: usize) {
    loop {
        let mut queue = queue();
        let Some(text) = queue.texts.pop_front() else {
            queue.has_thread = false;
            return;
        };
        drop(queue);
        // A panic has been told by its hook, and must not keep later lines from being written.
        let _ = panic::catch_unwind(|| text.write(Stderr(None)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_one_dump_stands_for_many() {
        // As if the thread were in the middle of a text.
        queue().has_thread = true;
        (0..3).for_each(|_| dump_later());
        assert_eq!(queue().texts.len(), 1);
        (0..2 * TEXTS_MAX).for_each(|_| line_later(String::new()));
        assert_eq!(queue().texts.len(), TEXTS_MAX);
        queue().texts.pop_front();
        write_all(0);
        assert!(queue().texts.is_empty() && !queue().has_thread);
    }
}
