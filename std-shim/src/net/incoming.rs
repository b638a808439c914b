//! How a loop of accepts goes on after an error.

use crate::PollError;
use crate::error::poll_error;
use std::io::{ErrorKind, Result};
use std::ops::Range;
use std::time::Duration;

/// The pauses of a loop of accepts. An error of the system, such as `EMFILE`, would probably recur
/// at once, so the accept after it sleeps first: 5 ms, doubled after each further error in a row,
/// at most 1 s. Go's HTTP server does the same.
#[derive(Debug)]
pub(super) struct Retry {
    /// How long the next call sleeps before it accepts: zero unless the last call failed. `None`
    /// once it has ended.
    pause: Option<Duration>,
}

const PAUSE: Range<Duration> = Duration::from_millis(5)..Duration::from_secs(1);

impl Retry {
    pub(super) fn new() -> Self {
        Retry {
            pause: Some(Duration::ZERO),
        }
    }

    /// Sleeps if the last accept failed, then calls `accept`. `None` when the listener is closed or
    /// the caller is cancelled, and from then on.
    pub(super) fn next<T>(&mut self, accept: impl FnOnce() -> Result<T>) -> Option<Result<T>> {
        let pause = self.pause.take()?;
        crate::sleep(pause);
        let accepted = accept();
        let cause = accepted.as_ref().err().and_then(poll_error);
        if matches!(cause, Some(PollError::Closing | PollError::Cancelled)) {
            return None;
        }
        self.pause = Some(match &accepted {
            Err(error)
                if error.raw_os_error().is_some() && error.kind() != ErrorKind::WouldBlock =>
            {
                (pause * 2).clamp(PAUSE.start, PAUSE.end)
            }
            _ => Duration::ZERO,
        });
        Some(accepted)
    }
}
