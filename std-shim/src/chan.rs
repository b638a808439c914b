//! Channels between goroutines and threads: Go's, with Rust's ownership.
//!
//! A value is sent by one goroutine or thread and received by exactly one. Both ends can be cloned
//! and shared.
//!
//! ```
//! use gopark::chan;
//!
//! gopark::run(|| {
//!     let (sender, receiver) = chan::bounded(10);
//!     for worker in 0..3 {
//!         let sender = sender.clone();
//!         gopark::go(move || sender.send(worker * worker));
//!     }
//!     drop(sender); // The iteration below ends when the last sender is dropped.
//!     let mut squares: Vec<i32> = receiver.iter().collect();
//!     squares.sort();
//!     assert_eq!(squares, [0, 1, 4]);
//! });
//! ```
//!
//! | Go | here |
//! |---|---|
//! | `make(chan T)` | [`bounded(0)`](bounded) |
//! | `make(chan T, n)` | [`bounded(n)`](bounded), or [`unbounded()`](unbounded) |
//! | `c <- v`; panics if closed | [`send`](Sender::send); returns the value if closed |
//! | `v, ok := <-c` | [`recv`](Receiver::recv) |
//! | `for v := range c` | `for v in &receiver` |
//! | `close(c)` | [`close`](Sender::close), or drop all handles of one end |
//! | `select { … }` | [`select!`](crate::select!) |
//!
//! The names and errors are those of the crate crossbeam-channel, which also has `close` by drop
//! only. A goroutine that waits parks; an ordinary thread blocks. Messages of one sender arrive in
//! order. Waiting senders and receivers are served in the order in which they came.
//!
//! # Closing
//!
//! A channel is closed by [`close`](Sender::close), when the last [`Sender`] is dropped, or when
//! the last [`Receiver`] is dropped. From then on each send fails and returns its value. Receives
//! return the values that are in the channel, and then fail. When the last receiver is dropped, the
//! values in the channel are dropped, too.

mod receiver;
mod sender;

pub use gopark_core::chan::{
    RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError,
};
pub use receiver::{IntoIter, Iter, Receiver, TryIter};
pub use sender::Sender;

use crate::global::Global;
use gopark_core::chan as core;

/// Makes a channel that holds at most `capacity` values.
///
/// If it is full, a send waits. With capacity 0, a *rendezvous*, a send waits until a receiver
/// takes its value. Memory is allocated as the channel fills.
///
/// ```
/// let (sender, receiver) = gopark::chan::bounded(1);
/// sender.send("first").unwrap();
/// assert!(sender.try_send("second").is_err());
/// assert_eq!(receiver.recv(), Ok("first"));
/// ```
#[doc(alias = "make")]
#[doc(alias = "makechan")]
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    ends(core::bounded(capacity, Global))
}

/// Makes a channel without a bound: a send never waits.
///
/// Memory that a burst of values has taken is given back as they are received. If receivers are
/// slower than senders for long, memory grows without limit; a [bounded](bounded()) channel makes
/// senders wait instead.
///
/// ```
/// let (sender, receiver) = gopark::chan::unbounded();
/// for i in 0..1000 {
///     sender.send(i).unwrap();
/// }
/// assert_eq!(receiver.len(), 1000);
/// ```
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    ends(core::unbounded(Global))
}

/// Returns a receiver that never receives a value: its channel stays open and empty. Go has nil
/// channels for it.
///
/// It stands for a channel that has closed, so that a `select!` in a loop does not select it again.
///
/// ```
/// use gopark::{chan, select};
///
/// let (sender, mut receiver) = chan::unbounded();
/// sender.send(1).unwrap();
/// drop(sender);
/// let end = std::time::Instant::now() + std::time::Duration::from_millis(5);
/// let mut received = Vec::new();
/// loop {
///     select! {
///         recv(receiver) -> result => match result {
///             Ok(value) => received.push(value),
///             Err(_) => receiver = chan::never(),
///         },
///         at(end) => break,
///     }
/// }
/// assert_eq!(received, [1]);
/// ```
pub fn never<T>() -> Receiver<T> {
    Receiver(core::never(Global))
}

fn ends<T>(
    (sender, receiver): (core::Sender<T, Global>, core::Receiver<T, Global>),
) -> (Sender<T>, Receiver<T>) {
    (Sender(sender), Receiver(receiver))
}

/// The methods that both ends have.
macro_rules! end {
    ($name:ident) => {
        impl<T> $name<T> {
            /// Closes the channel and wakes all that wait on it. Returns false if it was closed.
            ///
            /// Each send fails from now on and returns its value, those that wait, too. Receives
            /// return the values that are in the channel, and then fail.
            ///
            /// ```
            /// let (sender, receiver) = gopark::chan::bounded(2);
            /// sender.send(1).unwrap();
            /// assert!(receiver.close());
            /// assert!(sender.send(2).is_err());
            /// assert_eq!(receiver.recv(), Ok(1));
            /// assert!(receiver.recv().is_err());
            /// ```
            #[doc(alias = "closechan")]
            pub fn close(&self) -> bool {
                self.0.close()
            }

            /// Returns whether the channel is closed. There may still be values in it.
            ///
            /// ```
            /// let (sender, receiver) = gopark::chan::unbounded::<u8>();
            /// assert!(!sender.is_closed());
            /// drop(receiver);
            /// assert!(sender.is_closed());
            /// ```
            pub fn is_closed(&self) -> bool {
                self.0.is_closed()
            }

            /// Returns how many values are in the channel.
            ///
            /// ```
            /// let (sender, receiver) = gopark::chan::bounded(2);
            /// sender.send('a').unwrap();
            /// assert_eq!((sender.len(), receiver.len()), (1, 1));
            /// ```
            pub fn len(&self) -> usize {
                self.0.len()
            }

            /// Returns whether no value is in the channel. Always true if the capacity is 0.
            ///
            /// ```
            /// let (sender, receiver) = gopark::chan::unbounded::<u8>();
            /// assert!(sender.is_empty() && receiver.is_empty());
            /// ```
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }

            /// Returns whether the channel has as many values as it holds. Always true if the
            /// capacity is 0, and never without a bound.
            ///
            /// ```
            /// let (sender, receiver) = gopark::chan::bounded(1);
            /// sender.send(1).unwrap();
            /// assert!(receiver.is_full());
            /// ```
            pub fn is_full(&self) -> bool {
                self.0.is_full()
            }

            /// Returns how many values the channel holds. `None` if it has no bound.
            ///
            /// ```
            /// assert_eq!(gopark::chan::bounded::<u8>(3).0.capacity(), Some(3));
            /// assert_eq!(gopark::chan::unbounded::<u8>().0.capacity(), None);
            /// ```
            #[doc(alias = "cap")]
            pub fn capacity(&self) -> Option<usize> {
                self.0.capacity()
            }

            /// Returns whether both belong to the same channel.
            ///
            /// ```
            /// let (sender, _receiver) = gopark::chan::unbounded::<u8>();
            /// assert!(sender.same_channel(&sender.clone()));
            /// ```
            pub fn same_channel(&self, other: &Self) -> bool {
                self.0.same_channel(&other.0)
            }
        }

        impl<T> Clone for $name<T> {
            fn clone(&self) -> Self {
                $name(self.0.clone())
            }
        }

        impl<T> std::fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

end!(Sender);
end!(Receiver);

static_assertions::assert_impl_all!(
    Sender<std::cell::Cell<u8>>: Send, Sync, std::panic::UnwindSafe, std::panic::RefUnwindSafe
);
static_assertions::assert_impl_all!(
    Receiver<std::cell::Cell<u8>>: Send, Sync, std::panic::UnwindSafe, std::panic::RefUnwindSafe
);
static_assertions::assert_not_impl_any!(Sender<std::rc::Rc<u8>>: Send, Sync);
static_assertions::assert_not_impl_any!(Receiver<std::rc::Rc<u8>>: Send, Sync);
