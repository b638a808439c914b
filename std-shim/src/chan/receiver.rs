//! The receiving end.

use super::{RecvError, RecvTimeoutError, TryRecvError};
use crate::global::Global;
use std::iter::FusedIterator;
use std::time::{Duration, Instant};

/// The receiving end of a channel, from [`bounded`](super::bounded) or
/// [`unbounded`](super::unbounded). When the last clone is dropped, the channel closes. Each value
/// goes to one receiver.
pub struct Receiver<T>(pub(crate) gopark_core::chan::Receiver<T, Global>);

impl<T> Receiver<T> {
    /// Receives a value. Waits while the channel is empty.
    ///
    /// # Errors
    ///
    /// If the channel is closed and empty.
    ///
    /// ```
    /// let (sender, receiver) = gopark::chan::unbounded();
    /// gopark::go(move || sender.send("hello"));
    /// assert_eq!(receiver.recv(), Ok("hello"));
    /// assert!(receiver.recv().is_err()); // The sender is gone.
    /// ```
    #[doc(alias = "chanrecv")]
    #[inline]
    pub fn recv(&self) -> Result<T, RecvError> {
        self.0.recv()
    }

    /// Receives a value if that needs no wait. Go writes a `select` with a `default`.
    ///
    /// # Errors
    ///
    /// `Empty` if it would have to wait, `Disconnected` if the channel is closed and empty.
    ///
    /// ```
    /// use gopark::chan::{self, TryRecvError};
    ///
    /// let (sender, receiver) = chan::unbounded();
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    /// sender.send(5).unwrap();
    /// assert_eq!(receiver.try_recv(), Ok(5));
    /// drop(sender);
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
    /// ```
    #[inline]
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.0.try_recv()
    }

    /// As [`recv`](Self::recv), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// `Timeout` if the time is over first, `Disconnected` if the channel is closed and empty.
    ///
    /// ```
    /// use gopark::chan::{self, RecvTimeoutError};
    /// use std::time::Duration;
    ///
    /// let (_sender, receiver) = chan::unbounded::<u8>();
    /// let late = receiver.recv_timeout(Duration::from_millis(5));
    /// assert_eq!(late, Err(RecvTimeoutError::Timeout));
    /// ```
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        match Instant::now().checked_add(timeout) {
            Some(deadline) => self.recv_deadline(deadline),
            // Later than the clock can show: no limit.
            None => Ok(self.recv()?),
        }
    }

    /// As [`recv`](Self::recv), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As for [`recv_timeout`](Self::recv_timeout).
    ///
    /// ```
    /// use std::time::Instant;
    ///
    /// let (_sender, receiver) = gopark::chan::bounded::<u8>(1);
    /// assert!(receiver.recv_deadline(Instant::now()).unwrap_err().is_timeout());
    /// ```
    pub fn recv_deadline(&self, deadline: Instant) -> Result<T, RecvTimeoutError> {
        self.0.recv_deadline(deadline)
    }

    /// Iterates over the values that arrive. Waits for each, and ends when the channel is closed
    /// and empty. Go's `for v := range c`.
    ///
    /// ```
    /// let (sender, receiver) = gopark::chan::unbounded();
    /// gopark::go(move || (1..=3).for_each(|i| sender.send(i).unwrap()));
    /// assert_eq!(receiver.iter().sum::<i32>(), 6);
    /// ```
    #[doc(alias = "range")]
    pub fn iter(&self) -> Iter<'_, T> {
        Iter(self)
    }

    /// Iterates over the values that are in the channel, and ends when the next one would have to
    /// be waited for.
    ///
    /// ```
    /// let (sender, receiver) = gopark::chan::unbounded();
    /// sender.send(1).unwrap();
    /// sender.send(2).unwrap();
    /// assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1, 2]);
    /// ```
    pub fn try_iter(&self) -> TryIter<'_, T> {
        TryIter(self)
    }
}

/// An iterator that waits for values, from [`Receiver::iter`].
#[derive(Debug)]
pub struct Iter<'a, T>(&'a Receiver<T>);

impl<T> Iterator for Iter<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}

impl<T> FusedIterator for Iter<'_, T> {}

/// An iterator that does not wait, from [`Receiver::try_iter`].
#[derive(Debug)]
pub struct TryIter<'a, T>(&'a Receiver<T>);

impl<T> Iterator for TryIter<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.0.try_recv().ok()
    }
}

/// An iterator that waits for values and owns its receiver.
#[derive(Debug)]
pub struct IntoIter<T>(Receiver<T>);

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}

impl<T> FusedIterator for IntoIter<T> {}

impl<'a, T> IntoIterator for &'a Receiver<T> {
    type Item = T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T> IntoIterator for Receiver<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter(self)
    }
}
