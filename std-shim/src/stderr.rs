//! How the runtime writes to standard error.
//!
//! It does not take std's lock: a goroutine may hold that while it writes to a pipe whose reader is
//! slow. It does not write on sysmon's thread either, which must not block. sysmon's reports go
//! through a queue to a thread that ends when the queue is empty. The runtime detects no deadlock
//! while this thread exists, because it counts as a thread of the program.
#![allow(unsafe_code, reason = "the C library is given memory and a descriptor")]

use crate::dump;
use crate::runtime::{LINUX, started};
use gopark_core::os::Os;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::panic;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a write that must not block for long waits for room in standard error. Enough for a
/// slow reader, and short enough for a program that is to start or to end.
const WRITE_TIMEOUT: Duration = Duration::from_secs(3);

/// The capacity of the queue, in texts. Further ones are dropped.
const TEXTS_MAX: usize = 64;

/// Bytes per write: `PIPE_BUF`. If poll(2) reports a pipe writable, it accepts this many without
/// blocking.
const CHUNK: usize = 4096;

/// Standard error. A write that finds no room within the timeout fails with `TimedOut`; with `None`
/// it waits without limit.
pub(crate) struct Stderr(Option<Duration>);

impl Stderr {
    /// For threads that must not block for long.
    pub(crate) fn with_timeout() -> Self {
        Stderr(Some(WRITE_TIMEOUT))
    }
}

impl Write for Stderr {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut stderr = libc::pollfd {
            fd: libc::STDERR_FILENO,
            events: libc::POLLOUT,
            revents: 0,
        };
        let timeout = self
            .0
            .map_or(-1, |timeout| timeout.as_millis() as libc::c_int);
        // SAFETY: the call gets one pollfd, which outlives the call.
        match unsafe { libc::poll(&raw mut stderr, 1, timeout) } {
            -1 => return Err(io::Error::last_os_error()),
            0 => return Err(io::ErrorKind::TimedOut.into()),
            _ => {}
        }
        // SAFETY: the call reads at most `text.len()` bytes of `text`.
        match unsafe {
            libc::write(
                libc::STDERR_FILENO,
                text.as_ptr().cast(),
                text.len().min(CHUNK),
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

/// An entry of the queue.
#[derive(PartialEq, Eq)]
enum Text {
    Line(String),
    Dump,
}

impl Text {
    /// Writes the text. Errors are ignored: a closed standard error must not end the program.
    fn write(&self, mut stderr: Stderr) {
        let _ = match self {
            Text::Line(line) => stderr.write_all(line.as_bytes()),
            Text::Dump => started().map_or(Ok(()), |sched| dump::write(sched, &mut stderr)),
        };
    }
}

struct Queue {
    texts: VecDeque<Text>,
    /// Whether a thread exists that will write all `texts`.
    has_thread: bool,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    texts: VecDeque::new(),
    has_thread: false,
});

fn queue() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Queues a line. Does not block.
pub(crate) fn line_later(line: String) {
    later(Text::Line(line));
}

/// Queues a dump, unless one is already queued. Does not block.
pub(crate) fn dump_later() {
    later(Text::Dump);
}

fn later(text: Text) {
    let mut queue = queue();
    if queue.texts.len() == TEXTS_MAX || (text == Text::Dump && queue.texts.contains(&text)) {
        return;
    }
    if !queue.has_thread {
        // Not a thread of std, which aborts the process if the system refuses it a signal stack.
        queue.has_thread = LINUX.spawn(format_args!("report"), write_all, 0).is_ok();
    }
    if queue.has_thread {
        queue.texts.push_back(text);
    } else {
        drop(queue);
        // The line may be the report that the system refuses threads. It is written here if
        // standard error has room at once.
        text.write(Stderr(Some(Duration::ZERO)));
    }
}

/// The body of the thread: writes the queued texts, and ends when the queue is empty.
fn write_all(_: usize) {
    loop {
        let mut queue = queue();
        let Some(text) = queue.texts.pop_front() else {
            queue.has_thread = false;
            return;
        };
        drop(queue);
        // The hook reports a panic. Later texts must be written all the same.
        let _ = panic::catch_unwind(|| text.write(Stderr(None)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_bounded_and_holds_at_most_one_dump() {
        // As if the thread were writing a text.
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
