//! Conversion of core's errors to [`std::io::Error`].

use gopark_core::fd::FdError;
use gopark_core::polldesc::PollError;
use std::fmt;
use std::io::{Error, ErrorKind};

/// Converts `error`. An error of the system keeps its number. A [`PollError`], whose text is Go's,
/// becomes the inner error.
pub(crate) fn io_error(error: FdError) -> Error {
    match error {
        FdError::Os(errno) => Error::from_raw_os_error(errno.raw()),
        FdError::Poll(error) => error.into(),
    }
}

/// Returns an error with this text, and with the kind of `cause`, which is its source. Returns a
/// [`PollError`] as it is: programs look for it inside the error.
pub(crate) fn with_cause(cause: Error, text: String) -> Error {
    match poll_error(&cause) {
        Some(_) => cause,
        None => Error::new(cause.kind(), WithCause { text, cause }),
    }
}

/// A text for an operator, and the error of the system.
#[derive(Debug)]
struct WithCause {
    text: String,
    cause: Error,
}

impl fmt::Display for WithCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for WithCause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

/// Returns the [`PollError`] inside `error`, if there is one: why gopark, and not the system, has
/// ended an operation of a socket.
///
/// ```
/// use gopark::net::TcpListener;
/// use gopark::{PollError, poll_error};
/// use std::time::Instant;
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// listener.set_deadline(Some(Instant::now()))?;
/// let error = listener.accept().unwrap_err();
/// assert_eq!(poll_error(&error), Some(PollError::Timeout));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn poll_error(error: &Error) -> Option<PollError> {
    error.get_ref()?.downcast_ref().copied()
}

/// Returns whether `error` says that a time limit has passed: [`PollError::Timeout`], the kernel's
/// `ETIMEDOUT`, or `EAGAIN`, which `std`'s sockets return. Go's `Timeout()` of an error.
///
/// ```
/// use gopark::net::TcpListener;
/// use std::time::Instant;
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// listener.set_deadline(Some(Instant::now()))?;
/// assert!(gopark::is_timeout(&listener.accept().unwrap_err()));
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "Timeout")]
pub fn is_timeout(error: &Error) -> bool {
    match poll_error(error) {
        Some(error) => error == PollError::Timeout,
        None => matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gopark_core::os::Errno;

    #[test]
    fn a_poll_error_has_its_kind_text_and_type() {
        let cases = [
            (PollError::Timeout, ErrorKind::TimedOut, "i/o timeout"),
            (
                PollError::Closing,
                ErrorKind::ConnectionAborted,
                "use of closed network connection",
            ),
            (
                PollError::NotPollable,
                ErrorKind::Unsupported,
                "not pollable",
            ),
            (
                PollError::Unwinding,
                ErrorKind::WouldBlock,
                "a goroutine that unwinds cannot wait",
            ),
        ];
        for (poll_error, kind, text) in cases {
            let error = io_error(FdError::Poll(poll_error));
            assert_eq!((error.kind(), error.to_string().as_str()), (kind, text));
            assert_eq!(super::poll_error(&error), Some(poll_error));
        }
    }

    #[test]
    fn a_system_error_keeps_its_number() {
        let error = io_error(FdError::Os(Errno::new(libc::EMFILE)));
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
    }
}
