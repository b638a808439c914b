//! The channels of [`std::sync::mpsc`], for goroutines and threads.
//!
//! The names, signatures and errors are those of `std`. Underneath are the channels of
//! [`chan`], which can do more: clone receivers, close, and be selected on.
//!
//! ```
//! use gopark::sync::mpsc;
//!
//! gopark::run(|| {
//!     let (sender, receiver) = mpsc::channel();
//!     for id in 0..3 {
//!         let sender = sender.clone();
//!         gopark::go(move || sender.send(id).unwrap());
//!     }
//!     drop(sender);
//!     assert_eq!(receiver.iter().sum::<i32>(), 3);
//! });
//! ```

use crate::chan;
use std::fmt;
use std::iter::FusedIterator;
use std::time::Duration;

pub use std::sync::mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};

/// Makes a channel without a bound: [`std::sync::mpsc::channel`].
///
/// ```
/// let (sender, receiver) = gopark::sync::mpsc::channel();
/// sender.send(1).unwrap();
/// assert_eq!(receiver.recv(), Ok(1));
/// ```
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = chan::unbounded();
    (Sender(sender), Receiver(receiver))
}

/// Makes a channel that holds at most `bound` values: [`std::sync::mpsc::sync_channel`]. With 0, a
/// send waits for its receive.
///
/// ```
/// let (sender, receiver) = gopark::sync::mpsc::sync_channel(1);
/// sender.send(1).unwrap();
/// assert!(sender.try_send(2).is_err());
/// assert_eq!(receiver.recv(), Ok(1));
/// ```
pub fn sync_channel<T>(bound: usize) -> (SyncSender<T>, Receiver<T>) {
    let (sender, receiver) = chan::bounded(bound);
    (SyncSender(sender), Receiver(receiver))
}

/// The sending end of [`channel`]: [`std::sync::mpsc::Sender`].
pub struct Sender<T>(chan::Sender<T>);

/// The sending end of [`sync_channel`]: [`std::sync::mpsc::SyncSender`].
pub struct SyncSender<T>(chan::Sender<T>);

/// The receiving end: [`std::sync::mpsc::Receiver`].
pub struct Receiver<T>(chan::Receiver<T>);

impl<T> Sender<T> {
    /// Sends a value. Does not wait.
    ///
    /// # Errors
    ///
    /// If the receiver is gone. The error has the value.
    ///
    /// ```
    /// let (sender, receiver) = gopark::sync::mpsc::channel();
    /// drop(receiver);
    /// assert_eq!(sender.send(1).unwrap_err().0, 1);
    /// ```
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.0
            .send(value)
            .map_err(|error| SendError(error.into_inner()))
    }
}

impl<T> SyncSender<T> {
    /// Sends a value. Waits for room in the channel, or with bound 0 for the receive.
    ///
    /// # Errors
    ///
    /// If the receiver is gone. The error has the value.
    ///
    /// ```
    /// let (sender, receiver) = gopark::sync::mpsc::sync_channel(0);
    /// gopark::go(move || sender.send("hello"));
    /// assert_eq!(receiver.recv(), Ok("hello"));
    /// ```
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.0
            .send(value)
            .map_err(|error| SendError(error.into_inner()))
    }

    /// Sends a value if that needs no wait.
    ///
    /// # Errors
    ///
    /// If it would have to wait, or the receiver is gone. The error has the value.
    ///
    /// ```
    /// use gopark::sync::mpsc::{TrySendError, sync_channel};
    ///
    /// let (sender, _receiver) = sync_channel(0);
    /// assert_eq!(sender.try_send(1), Err(TrySendError::Full(1)));
    /// ```
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        self.0.try_send(value).map_err(|error| match error {
            chan::TrySendError::Full(value) => TrySendError::Full(value),
            chan::TrySendError::Disconnected(value) => TrySendError::Disconnected(value),
        })
    }
}

impl<T> Receiver<T> {
    /// Receives a value, after waiting for one.
    ///
    /// # Errors
    ///
    /// If the channel is empty and all senders are gone.
    ///
    /// ```
    /// let (sender, receiver) = gopark::sync::mpsc::channel::<u8>();
    /// drop(sender);
    /// assert!(receiver.recv().is_err());
    /// ```
    pub fn recv(&self) -> Result<T, RecvError> {
        self.0.recv().map_err(|_| RecvError)
    }

    /// Receives a value if that needs no wait.
    ///
    /// # Errors
    ///
    /// If there is none, or the channel is empty and all senders are gone.
    ///
    /// ```
    /// use gopark::sync::mpsc::{TryRecvError, channel};
    ///
    /// let (_sender, receiver) = channel::<u8>();
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    /// ```
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.0.try_recv().map_err(|error| match error {
            chan::TryRecvError::Empty => TryRecvError::Empty,
            chan::TryRecvError::Disconnected => TryRecvError::Disconnected,
        })
    }

    /// As [`recv`](Self::recv), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// If the time is over first, or the channel is empty and all senders are gone.
    ///
    /// ```
    /// use gopark::sync::mpsc::{RecvTimeoutError, channel};
    /// use std::time::Duration;
    ///
    /// let (_sender, receiver) = channel::<u8>();
    /// let late = receiver.recv_timeout(Duration::from_millis(5));
    /// assert_eq!(late, Err(RecvTimeoutError::Timeout));
    /// ```
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        self.0.recv_timeout(timeout).map_err(|error| match error {
            chan::RecvTimeoutError::Timeout => RecvTimeoutError::Timeout,
            chan::RecvTimeoutError::Disconnected => RecvTimeoutError::Disconnected,
        })
    }

    /// Iterates over the values that arrive. Waits for each, and ends when the channel is empty and
    /// all senders are gone.
    ///
    /// ```
    /// let (sender, receiver) = gopark::sync::mpsc::channel();
    /// gopark::go(move || (1..=3).for_each(|i| sender.send(i).unwrap()));
    /// assert_eq!(receiver.iter().sum::<i32>(), 6);
    /// ```
    pub fn iter(&self) -> Iter<'_, T> {
        Iter(self.0.iter())
    }

    /// Iterates over the values that are in the channel.
    ///
    /// ```
    /// let (sender, receiver) = gopark::sync::mpsc::channel();
    /// sender.send(1).unwrap();
    /// assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1]);
    /// ```
    pub fn try_iter(&self) -> TryIter<'_, T> {
        TryIter(self.0.try_iter())
    }
}

/// An iterator that waits for values, from [`Receiver::iter`].
#[derive(Debug)]
pub struct Iter<'a, T>(chan::Iter<'a, T>);

/// An iterator that does not wait, from [`Receiver::try_iter`].
#[derive(Debug)]
pub struct TryIter<'a, T>(chan::TryIter<'a, T>);

/// An iterator that waits for values and owns its receiver.
#[derive(Debug)]
pub struct IntoIter<T>(chan::IntoIter<T>);

impl<T> Iterator for Iter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.next()
    }
}

impl<T> FusedIterator for Iter<'_, T> {}

impl<T> Iterator for TryIter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.next()
    }
}

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.next()
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
        IntoIter(self.0.into_iter())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender(self.0.clone())
    }
}

impl<T> Clone for SyncSender<T> {
    fn clone(&self) -> Self {
        SyncSender(self.0.clone())
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for SyncSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncSender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}
