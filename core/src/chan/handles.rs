//! The two ends of a channel, and the errors of their operations.

use super::{Channel, Direction, Failure, Packet, Patience, Source};
use crate::runtime::Runtime;
use crate::sync::{AtomicUsize, Ordering};
use crate::withdraw::check_cancelled;
use alloc::sync::{Arc, Weak};
use core::error::Error;
use core::fmt;
use core::panic::{RefUnwindSafe, UnwindSafe};

pub(super) struct Shared<T, R: Runtime> {
    pub(super) channel: Channel<T, R>,
    /// What sends into the channel and is no handle.
    source: Option<Weak<dyn Source>>,
    senders: AtomicUsize,
    receivers: AtomicUsize,
}

// No user code runs while the state of a channel is inconsistent, so a panic leaves it usable.
impl<T, R: Runtime> UnwindSafe for Shared<T, R> {}
impl<T, R: Runtime> RefUnwindSafe for Shared<T, R> {}

/// Makes a channel that holds at most `capacity` values. With 0, a send waits for its receive.
#[doc(alias = "makechan")]
pub fn bounded<T, R: Runtime>(capacity: usize, runtime: R) -> (Sender<T, R>, Receiver<T, R>) {
    // `usize::MAX` stands for no bound, and that many values fit into no memory.
    ends(capacity, runtime)
}

/// Makes a channel without a bound: a send never waits.
pub fn unbounded<T, R: Runtime>(runtime: R) -> (Sender<T, R>, Receiver<T, R>) {
    ends(usize::MAX, runtime)
}

/// Makes the receiving end of a channel that never gets a value and stays open.
pub fn never<T, R: Runtime>(runtime: R) -> Receiver<T, R> {
    // The sender that is counted does not exist.
    Receiver(Shared::new(0, runtime, None))
}

fn ends<T, R: Runtime>(capacity: usize, runtime: R) -> (Sender<T, R>, Receiver<T, R>) {
    let shared = Shared::new(capacity, runtime, None);
    (Sender(shared.clone()), Receiver(shared))
}

impl<T, R: Runtime> Shared<T, R> {
    /// A channel with one handle of each kind, which the caller makes.
    pub(super) fn new(capacity: usize, runtime: R, source: Option<Weak<dyn Source>>) -> Arc<Self> {
        Arc::new(Shared {
            channel: Channel::new(capacity, runtime),
            source,
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(1),
        })
    }
}

/// The sending end of a channel. The channel closes when the last one is dropped.
pub struct Sender<T, R: Runtime>(Arc<Shared<T, R>>);

/// The receiving end of a channel. The channel closes when the last one is dropped.
pub struct Receiver<T, R: Runtime>(pub(super) Arc<Shared<T, R>>);

impl<T, R: Runtime> Sender<T, R> {
    pub(super) fn channel(&self) -> &Channel<T, R> {
        &self.0.channel
    }

    /// Sends a value, after waiting for room in the channel, or for a receiver if its capacity
    /// is 0.
    ///
    /// # Errors
    ///
    /// If the channel is closed. The error has the value.
    #[doc(alias = "chansend")]
    #[inline]
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.operate(value, Patience::Endless)
            .map_err(|(_, value)| SendError(value))
    }

    /// Sends a value if that needs no wait.
    ///
    /// # Errors
    ///
    /// If it would have to wait, or the channel is closed. The error has the value.
    #[inline]
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        self.operate(value, Patience::None)
            .map_err(|(failure, value)| match failure {
                Failure::Closed => TrySendError::Disconnected(value),
                // It does not wait, so it is not cancelled either.
                _ => TrySendError::Full(value),
            })
    }

    /// As [`send`](Self::send), until `deadline`.
    ///
    /// # Errors
    ///
    /// If the deadline comes first, or the channel is closed. The error has the value.
    pub fn send_deadline(&self, value: T, deadline: R::Instant) -> Result<(), SendTimeoutError<T>> {
        self.operate(value, Patience::Until(deadline))
            .map_err(|(failure, value)| match failure {
                Failure::Closed | Failure::Cancelled => SendTimeoutError::Disconnected(value),
                Failure::WouldBlock | Failure::Timeout => SendTimeoutError::Timeout(value),
            })
    }

    /// Whether a send would be done, or fail, without a wait.
    pub fn is_ready(&self) -> bool {
        self.channel().is_ready(Direction::Send)
    }

    #[inline(always)]
    fn operate(&self, value: T, patience: Patience<R::Instant>) -> Result<(), (Failure, T)> {
        let channel = self.channel();
        if patience.can_wait() && check_cancelled(channel.runtime).is_err() {
            return Err((Failure::Cancelled, value));
        }
        let Err((value, gate)) = channel.send_to_buffer(value) else {
            return Ok(());
        };
        let packet = Packet::full(value);
        let sent = channel.operate(gate, Direction::Send, &packet, patience);
        match (sent, packet.take()) {
            (Err(failure), Some(value)) => Err((failure, value)),
            _ => Ok(()),
        }
    }
}

impl<T, R: Runtime> Receiver<T, R> {
    pub(super) fn channel(&self) -> &Channel<T, R> {
        &self.0.channel
    }

    /// Receives a value, after waiting for one.
    ///
    /// # Errors
    ///
    /// If the channel is closed and empty.
    #[doc(alias = "chanrecv")]
    #[inline]
    pub fn recv(&self) -> Result<T, RecvError> {
        self.operate(Patience::Endless).map_err(|_| RecvError)
    }

    /// Receives a value if that needs no wait.
    ///
    /// # Errors
    ///
    /// If there is none, or the channel is closed and empty.
    #[inline]
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.operate(Patience::None)
            .map_err(|failure| match failure {
                Failure::Closed => TryRecvError::Disconnected,
                // It does not wait, so it is not cancelled either.
                _ => TryRecvError::Empty,
            })
    }

    /// As [`recv`](Self::recv), until `deadline`.
    ///
    /// # Errors
    ///
    /// If the deadline comes first, or the channel is closed and empty.
    pub fn recv_deadline(&self, deadline: R::Instant) -> Result<T, RecvTimeoutError> {
        self.operate(Patience::Until(deadline))
            .map_err(|failure| match failure {
                Failure::Closed | Failure::Cancelled => RecvTimeoutError::Disconnected,
                Failure::WouldBlock | Failure::Timeout => RecvTimeoutError::Timeout,
            })
    }

    /// Whether a receive would be done, or fail, without a wait.
    pub fn is_ready(&self) -> bool {
        self.channel().is_ready(Direction::Receive)
    }

    #[inline(always)]
    fn operate(&self, patience: Patience<R::Instant>) -> Result<T, Failure> {
        let channel = self.channel();
        if patience.can_wait() && check_cancelled(channel.runtime).is_err() {
            return Err(Failure::Cancelled);
        }
        let gate = match channel.receive_from_buffer() {
            Ok(value) => return Ok(value),
            Err(gate) => gate,
        };
        let packet = Packet::empty();
        let received = channel.operate(gate, Direction::Receive, &packet, patience);
        packet.take().ok_or(match received {
            Err(failure) => failure,
            Ok(()) => Failure::Closed,
        })
    }
}

macro_rules! end {
    ($name:ident, $count:ident, $last:expr) => {
        impl<T, R: Runtime> $name<T, R> {
            /// Closes the channel. Sends fail from now on. Receivers get the values that are in the
            /// channel, and then an error. Returns false if it was closed before.
            #[doc(alias = "closechan")]
            pub fn close(&self) -> bool {
                self.channel().close()
            }

            /// Whether the channel is closed. It may still have values.
            pub fn is_closed(&self) -> bool {
                self.channel().is_closed()
            }

            /// How many values are in the channel.
            pub fn len(&self) -> usize {
                self.channel().len()
            }

            /// Whether no value is in the channel. Always true if the capacity is 0.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// Whether the channel has its `capacity` of values. Always true if that is 0.
            pub fn is_full(&self) -> bool {
                self.len() >= self.channel().capacity
            }

            /// How many values fit into the channel. `None` if it has no bound.
            pub fn capacity(&self) -> Option<usize> {
                let capacity = self.channel().capacity;
                (capacity != usize::MAX).then_some(capacity)
            }

            /// Whether both belong to the same channel.
            pub fn same_channel(&self, other: &Self) -> bool {
                Arc::ptr_eq(&self.0, &other.0)
            }
        }

        impl<T, R: Runtime> Clone for $name<T, R> {
            fn clone(&self) -> Self {
                // Relaxed, as in `Arc`: the handle that is cloned keeps the count above 0.
                self.0.$count.fetch_add(1, Ordering::Relaxed);
                $name(self.0.clone())
            }
        }

        impl<T, R: Runtime> Drop for $name<T, R> {
            fn drop(&mut self) {
                // AcqRel: what the other handles of this side have done comes before the close.
                if self.0.$count.fetch_sub(1, Ordering::AcqRel) == 1 {
                    let last: fn(&Shared<T, R>) = $last;
                    last(&self.0);
                }
            }
        }

        impl<T, R: Runtime> fmt::Debug for $name<T, R> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("len", &self.len())
                    .field("capacity", &self.capacity())
                    .field("closed", &self.is_closed())
                    .finish_non_exhaustive()
            }
        }
    };
}

end!(Sender, senders, |shared| _ = shared.channel.close());
end!(Receiver, receivers, |shared| {
    shared.channel.close();
    shared.channel.drain();
    if let Some(source) = shared.source.as_ref().and_then(Weak::upgrade) {
        source.no_receiver();
    }
});

/// The channel is closed, or the goroutine is cancelled: the value was not sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SendError<T>(pub T);

/// Why [`Sender::try_send`] has not sent the value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// The channel is full, or has capacity 0 and no receiver waits.
    Full(T),
    /// The channel is closed.
    Disconnected(T),
}

/// Why [`Sender::send_deadline`] has not sent the value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SendTimeoutError<T> {
    /// The deadline came first.
    Timeout(T),
    /// The channel is closed, or the goroutine is cancelled.
    Disconnected(T),
}

/// The channel is closed and empty, or the goroutine is cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecvError;

/// Why [`Receiver::try_recv`] has received nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TryRecvError {
    /// No value is there, and the channel is open.
    Empty,
    /// The channel is closed and empty.
    Disconnected,
}

/// Why [`Receiver::recv_deadline`] has received nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecvTimeoutError {
    /// The deadline came first.
    Timeout,
    /// The channel is closed and empty, or the goroutine is cancelled.
    Disconnected,
}

impl<T> SendError<T> {
    /// The value that was not sent.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> TrySendError<T> {
    /// The value that was not sent.
    pub fn into_inner(self) -> T {
        let (TrySendError::Full(value) | TrySendError::Disconnected(value)) = self;
        value
    }

    /// Whether the channel was full.
    pub fn is_full(&self) -> bool {
        matches!(self, TrySendError::Full(_))
    }

    /// Whether the channel was closed.
    pub fn is_disconnected(&self) -> bool {
        matches!(self, TrySendError::Disconnected(_))
    }
}

impl<T> SendTimeoutError<T> {
    /// The value that was not sent.
    pub fn into_inner(self) -> T {
        let (SendTimeoutError::Timeout(value) | SendTimeoutError::Disconnected(value)) = self;
        value
    }

    /// Whether the deadline came first.
    pub fn is_timeout(&self) -> bool {
        matches!(self, SendTimeoutError::Timeout(_))
    }

    /// Whether the channel was closed.
    pub fn is_disconnected(&self) -> bool {
        matches!(self, SendTimeoutError::Disconnected(_))
    }
}

impl TryRecvError {
    /// Whether the channel was empty and open.
    pub fn is_empty(self) -> bool {
        self == TryRecvError::Empty
    }

    /// Whether the channel was closed and empty.
    pub fn is_disconnected(self) -> bool {
        self == TryRecvError::Disconnected
    }
}

impl RecvTimeoutError {
    /// Whether the deadline came first.
    pub fn is_timeout(self) -> bool {
        self == RecvTimeoutError::Timeout
    }

    /// Whether the channel was closed and empty.
    pub fn is_disconnected(self) -> bool {
        self == RecvTimeoutError::Disconnected
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

/// `Debug` without the value, which may have none.
macro_rules! debug {
    ($name:ident, $($variant:ident),*) => {
        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant(_) => concat!(stringify!($variant), "(..)"),)*
                })
            }
        }
    };
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendError(..)")
    }
}

debug!(TrySendError, Full, Disconnected);
debug!(SendTimeoutError, Timeout, Disconnected);

/// `Display` and `Error`.
macro_rules! error {
    ([$($generics:tt)*] $name:ty, $($pattern:pat => $text:literal),*) => {
        impl $($generics)* fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($pattern => $text,)* })
            }
        }
        impl $($generics)* Error for $name {}
    };
}

error!([<T>] SendError<T>,
    SendError(_) => "sending on a closed channel, or in a cancelled goroutine"
);
error!([<T>] TrySendError<T>,
    TrySendError::Full(_) => "sending on a full channel",
    TrySendError::Disconnected(_) => "sending on a closed channel"
);
error!([<T>] SendTimeoutError<T>,
    SendTimeoutError::Timeout(_) => "timed out waiting to send on a channel",
    SendTimeoutError::Disconnected(_) => "sending on a closed channel, or in a cancelled goroutine"
);
error!([] RecvError,
    RecvError => "receiving on an empty and closed channel, or in a cancelled goroutine"
);
error!([] TryRecvError,
    TryRecvError::Empty => "receiving on an empty channel",
    TryRecvError::Disconnected => "receiving on an empty and closed channel"
);
error!([] RecvTimeoutError,
    RecvTimeoutError::Timeout => "timed out waiting to receive from a channel",
    RecvTimeoutError::Disconnected =>
        "receiving on an empty and closed channel, or in a cancelled goroutine"
);
