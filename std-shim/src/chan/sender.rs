//! The sending end.

use super::{SendError, SendTimeoutError, TrySendError};
use crate::global::Global;
use std::time::{Duration, Instant};

/// The sending end of a channel, from [`bounded`](super::bounded) or
/// [`unbounded`](super::unbounded). When the last clone is dropped, the channel closes.
pub struct Sender<T>(pub(crate) gopark_core::chan::Sender<T, Global>);

impl<T> Sender<T> {
    /// Sends a value. Waits while the channel is full, or, if its capacity is 0, until a receiver
    /// takes the value.
    ///
    /// # Errors
    ///
    /// If the channel is closed, before or while it waits. The error has the value. Go panics.
    ///
    /// ```
    /// let (sender, receiver) = gopark::chan::bounded(0);
    /// let goroutine = gopark::go(move || receiver.recv());
    /// sender.send(7).unwrap();
    /// assert_eq!(goroutine.join().unwrap(), Ok(7));
    /// assert_eq!(sender.send(8).unwrap_err().into_inner(), 8); // The receiver is gone.
    /// ```
    #[doc(alias = "chansend")]
    #[inline]
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.0.send(value)
    }

    /// Sends a value if that needs no wait. Go writes a `select` with a `default`.
    ///
    /// # Errors
    ///
    /// `Full` if it would have to wait, `Disconnected` if the channel is closed. The error has the
    /// value.
    ///
    /// ```
    /// use gopark::chan::{self, TrySendError};
    ///
    /// let (sender, receiver) = chan::bounded(1);
    /// assert_eq!(sender.try_send(1), Ok(()));
    /// assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
    /// drop(receiver);
    /// assert_eq!(sender.try_send(3), Err(TrySendError::Disconnected(3)));
    /// ```
    #[inline]
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        self.0.try_send(value)
    }

    /// As [`send`](Self::send), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// `Timeout` if the time is over first, `Disconnected` if the channel is closed. The error has
    /// the value.
    ///
    /// ```
    /// use gopark::chan::{self, SendTimeoutError};
    /// use std::time::Duration;
    ///
    /// let (sender, _receiver) = chan::bounded(0);
    /// let late = sender.send_timeout("hello", Duration::from_millis(5));
    /// assert_eq!(late, Err(SendTimeoutError::Timeout("hello")));
    /// ```
    pub fn send_timeout(&self, value: T, timeout: Duration) -> Result<(), SendTimeoutError<T>> {
        match Instant::now().checked_add(timeout) {
            Some(deadline) => self.send_deadline(value, deadline),
            // Later than the clock can show: no limit.
            None => Ok(self.send(value)?),
        }
    }

    /// As [`send`](Self::send), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As for [`send_timeout`](Self::send_timeout).
    ///
    /// ```
    /// use std::time::Instant;
    ///
    /// let (sender, _receiver) = gopark::chan::bounded(0);
    /// assert!(sender.send_deadline(1, Instant::now()).unwrap_err().is_timeout());
    /// ```
    pub fn send_deadline(&self, value: T, deadline: Instant) -> Result<(), SendTimeoutError<T>> {
        self.0.send_deadline(value, deadline)
    }
}
