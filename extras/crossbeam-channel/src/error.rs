//! The errors of the operations.

use std::error::Error;
use std::fmt;

/// Why [`Sender::send`](crate::Sender::send) has not sent the message: the channel is disconnected,
/// or the goroutine is cancelled.
///
/// ```
/// let (sender, receiver) = crossbeam_channel::bounded(1);
/// drop(receiver);
/// let error = sender.send("lost").unwrap_err();
/// assert_eq!(error.to_string(), "sending on a disconnected channel");
/// assert_eq!(error.into_inner(), "lost");
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SendError<T>(pub T);

/// Why [`Sender::try_send`](crate::Sender::try_send) has not sent the message.
///
/// ```
/// use crossbeam_channel::{TrySendError, bounded};
///
/// let (sender, _receiver) = bounded(0);
/// assert_eq!(sender.try_send(1), Err(TrySendError::Full(1)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// The channel is full, or has capacity 0 and no receiver waits.
    Full(T),
    /// The channel is disconnected.
    Disconnected(T),
}

/// Why [`Sender::send_timeout`](crate::Sender::send_timeout) has not sent the message.
///
/// ```
/// use crossbeam_channel::{SendTimeoutError, bounded};
/// use std::time::Duration;
///
/// let (sender, _receiver) = bounded(0);
/// let late = sender.send_timeout(1, Duration::from_millis(1));
/// assert_eq!(late, Err(SendTimeoutError::Timeout(1)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SendTimeoutError<T> {
    /// The time was over before there was room, or a receiver if the capacity is 0.
    Timeout(T),
    /// The channel is disconnected, or the goroutine is cancelled.
    Disconnected(T),
}

/// Why [`Receiver::recv`](crate::Receiver::recv) has received nothing: the channel is empty and
/// disconnected, or the goroutine is cancelled.
///
/// ```
/// let (sender, receiver) = crossbeam_channel::bounded::<u8>(1);
/// drop(sender);
/// assert_eq!(receiver.recv(), Err(crossbeam_channel::RecvError));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecvError;

/// Why [`Receiver::try_recv`](crate::Receiver::try_recv) has received nothing.
///
/// ```
/// use crossbeam_channel::{TryRecvError, bounded};
///
/// let (_sender, receiver) = bounded::<u8>(1);
/// assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TryRecvError {
    /// The channel is empty, or has capacity 0 and no sender waits.
    Empty,
    /// The channel is empty and disconnected.
    Disconnected,
}

/// Why [`Receiver::recv_timeout`](crate::Receiver::recv_timeout) has received nothing.
///
/// ```
/// use crossbeam_channel::{RecvTimeoutError, bounded};
/// use std::time::Duration;
///
/// let (_sender, receiver) = bounded::<u8>(1);
/// let late = receiver.recv_timeout(Duration::from_millis(1));
/// assert_eq!(late, Err(RecvTimeoutError::Timeout));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecvTimeoutError {
    /// The time was over before a message came.
    Timeout,
    /// The channel is empty and disconnected, or the goroutine is cancelled.
    Disconnected,
}

/// Why [`Select::try_select`](crate::Select::try_select) has selected nothing: each operation would
/// have to wait.
///
/// ```
/// assert!(crossbeam_channel::Select::new().try_select().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrySelectError;

/// Why [`Select::select_timeout`](crate::Select::select_timeout) has selected nothing: the time was
/// over.
///
/// ```
/// use std::time::Duration;
///
/// let late = crossbeam_channel::Select::new().select_timeout(Duration::ZERO);
/// assert_eq!(late.unwrap_err().to_string(), "timed out waiting on select");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SelectTimeoutError;

/// Why [`Select::try_ready`](crate::Select::try_ready) has found nothing: each operation would have
/// to wait.
///
/// ```
/// use crossbeam_channel::{Select, TryReadyError};
///
/// assert_eq!(Select::new().try_ready(), Err(TryReadyError));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TryReadyError;

/// Why [`Select::ready_timeout`](crate::Select::ready_timeout) has found nothing: the time was
/// over.
///
/// ```
/// use crossbeam_channel::{ReadyTimeoutError, Select};
/// use std::time::Duration;
///
/// assert_eq!(Select::new().ready_timeout(Duration::ZERO), Err(ReadyTimeoutError));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadyTimeoutError;

impl<T> SendError<T> {
    /// Returns the message that was not sent.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> TrySendError<T> {
    /// Returns the message that was not sent.
    pub fn into_inner(self) -> T {
        let (TrySendError::Full(message) | TrySendError::Disconnected(message)) = self;
        message
    }

    /// Returns whether the channel was full.
    pub fn is_full(&self) -> bool {
        matches!(self, TrySendError::Full(_))
    }

    /// Returns whether the channel was disconnected.
    pub fn is_disconnected(&self) -> bool {
        matches!(self, TrySendError::Disconnected(_))
    }
}

impl<T> SendTimeoutError<T> {
    /// Returns the message that was not sent.
    pub fn into_inner(self) -> T {
        let (SendTimeoutError::Timeout(message) | SendTimeoutError::Disconnected(message)) = self;
        message
    }

    /// Returns whether the time was over.
    pub fn is_timeout(&self) -> bool {
        matches!(self, SendTimeoutError::Timeout(_))
    }

    /// Returns whether the channel was disconnected.
    pub fn is_disconnected(&self) -> bool {
        matches!(self, SendTimeoutError::Disconnected(_))
    }
}

impl TryRecvError {
    /// Returns whether the channel was empty, but not disconnected.
    pub fn is_empty(&self) -> bool {
        *self == TryRecvError::Empty
    }

    /// Returns whether the channel was empty and disconnected.
    pub fn is_disconnected(&self) -> bool {
        *self == TryRecvError::Disconnected
    }
}

impl RecvTimeoutError {
    /// Returns whether the time was over.
    pub fn is_timeout(&self) -> bool {
        *self == RecvTimeoutError::Timeout
    }

    /// Returns whether the channel was empty and disconnected.
    pub fn is_disconnected(&self) -> bool {
        *self == RecvTimeoutError::Disconnected
    }
}

impl<T> From<SendError<T>> for TrySendError<T> {
    fn from(error: SendError<T>) -> Self {
        TrySendError::Disconnected(error.0)
    }
}

impl<T> From<SendError<T>> for SendTimeoutError<T> {
    fn from(error: SendError<T>) -> Self {
        SendTimeoutError::Disconnected(error.0)
    }
}

impl From<RecvError> for TryRecvError {
    fn from(_: RecvError) -> Self {
        TryRecvError::Disconnected
    }
}

impl From<RecvError> for RecvTimeoutError {
    fn from(_: RecvError) -> Self {
        RecvTimeoutError::Disconnected
    }
}

/// `Debug` without the message, which may have none.
macro_rules! debug {
    ($name:ident, $($pattern:pat => $text:literal),*) => {
        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $($pattern => $text,)* })
            }
        }
    };
}

debug!(SendError, SendError(_) => "SendError(..)");
debug!(TrySendError,
    TrySendError::Full(_) => "Full(..)",
    TrySendError::Disconnected(_) => "Disconnected(..)"
);
debug!(SendTimeoutError, _ => "SendTimeoutError(..)");

/// `Display` and `Error`.
macro_rules! error {
    ([$($generics:tt)*] $name:ty, $($pattern:pat => $text:literal),*) => {
        impl $($generics)* fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $($pattern => $text,)* })
            }
        }
        impl $($generics)* Error for $name {}
    };
}

error!([<T>] SendError<T>, SendError(_) => "sending on a disconnected channel");
error!([<T>] TrySendError<T>,
    TrySendError::Full(_) => "sending on a full channel",
    TrySendError::Disconnected(_) => "sending on a disconnected channel"
);
error!([<T>] SendTimeoutError<T>,
    SendTimeoutError::Timeout(_) => "timed out waiting on send operation",
    SendTimeoutError::Disconnected(_) => "sending on a disconnected channel"
);
error!([] RecvError, RecvError => "receiving on an empty and disconnected channel");
error!([] TryRecvError,
    TryRecvError::Empty => "receiving on an empty channel",
    TryRecvError::Disconnected => "receiving on an empty and disconnected channel"
);
error!([] RecvTimeoutError,
    RecvTimeoutError::Timeout => "timed out waiting on receive operation",
    RecvTimeoutError::Disconnected => "channel is empty and disconnected"
);
error!([] TrySelectError, TrySelectError => "all operations in select would block");
error!([] SelectTimeoutError, SelectTimeoutError => "timed out waiting on select");
