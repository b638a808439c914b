//! Conversions to `std::io::Error`, for the feature `std`. Rust permits them only in the crate that
//! defines the errors.

use crate::cancel::Cancelled;
use crate::polldesc::PollError;
use std::io::{Error, ErrorKind};

/// The error has the text of the `PollError`, and wraps it.
impl From<PollError> for Error {
    fn from(error: PollError) -> Self {
        let kind = match error {
            PollError::Timeout => ErrorKind::TimedOut,
            PollError::Closing => ErrorKind::ConnectionAborted,
            PollError::NotPollable => ErrorKind::Unsupported,
            PollError::Unwinding => ErrorKind::WouldBlock,
            PollError::Cancelled => ErrorKind::Other,
        };
        Error::new(kind, error)
    }
}

/// As the conversion of [`PollError::Cancelled`].
impl From<Cancelled> for Error {
    fn from(cancelled: Cancelled) -> Self {
        PollError::from(cancelled).into()
    }
}
