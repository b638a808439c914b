//! The handles of channels, and the functions that make them.

use crate::clock::Clock;
use crate::error::{
    RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError,
};
use crate::iter::{IntoIter, Iter, TryIter};
use crate::operation::{Limit, RecvOp, Selectable, SendOp, select, until, within};
use crate::shared::{Readiness, Shared};
use crate::watch::Watchers;
use gopark::chan;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Makes a channel without a bound: a send never waits.
///
/// ```
/// let (sender, receiver) = crossbeam_channel::unbounded();
/// for i in 0..1000 {
///     sender.send(i).unwrap();
/// }
/// assert_eq!(receiver.len(), 1000);
/// ```
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    ends(chan::unbounded())
}

/// Makes a channel that holds at most `cap` messages.
///
/// With capacity 0, a send waits for a receive, and a receive for a send. Memory is allocated as
/// the channel fills.
///
/// # Panics
///
/// If so many messages cannot exist.
///
/// ```
/// let (sender, receiver) = crossbeam_channel::bounded(1);
/// sender.send("first").unwrap();
/// assert!(sender.try_send("second").is_err());
/// assert_eq!(receiver.recv(), Ok("first"));
/// ```
#[track_caller]
pub fn bounded<T>(cap: usize) -> (Sender<T>, Receiver<T>) {
    // The original has a word of its own beside each message.
    let place = size_of::<T>() + size_of::<usize>();
    assert!(
        cap <= isize::MAX as usize / place,
        "a bounded channel cannot hold {cap} messages"
    );
    ends(chan::bounded(cap))
}

fn ends<T>(
    channel: (
        chan::Sender<crate::promise::Slot<T>>,
        chan::Receiver<crate::promise::Slot<T>>,
    ),
) -> (Sender<T>, Receiver<T>) {
    let shared = Shared::new(channel);
    let receiver = Receiver {
        flavor: Flavor::Channel(shared.clone()),
    };
    (Sender { shared }, receiver)
}

/// Makes a receiver that gets one message after `duration`: the instant at which it came.
///
/// The channel has capacity 1 and stays connected.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// let before = Instant::now();
/// let came = crossbeam_channel::after(Duration::from_millis(5)).recv().unwrap();
/// assert!(came >= before + Duration::from_millis(5));
/// ```
pub fn after(duration: Duration) -> Receiver<Instant> {
    clock(Clock::once(Instant::now().checked_add(duration)))
}

/// Makes a receiver that gets one message at the time `when`, which is the message. A time of the
/// past is there at once.
///
/// The channel has capacity 1 and stays connected.
///
/// ```
/// use std::time::Instant;
///
/// let now = Instant::now();
/// assert_eq!(crossbeam_channel::at(now).recv(), Ok(now));
/// ```
pub fn at(when: Instant) -> Receiver<Instant> {
    clock(Clock::once(Some(when)))
}

/// Makes a receiver that never gets a message. Its channel has capacity 0 and stays connected.
///
/// ```
/// use crossbeam_channel::{after, never, select};
/// use std::time::Duration;
///
/// let limit = Some(Duration::from_millis(5));
/// let late = limit.map(after).unwrap_or(never());
/// select! {
///     recv(never::<u8>()) -> _ => unreachable!(),
///     recv(late) -> _ => println!("timed out"),
/// }
/// ```
pub const fn never<T>() -> Receiver<T> {
    Receiver {
        flavor: Flavor::Never,
    }
}

/// Makes a receiver that gets a message after each `duration`: the instant at which it came.
///
/// The channel has capacity 1 and stays connected. While a message waits there, no other comes; the
/// next one comes `duration` after it is received.
///
/// ```
/// use std::time::Duration;
///
/// let ticks = crossbeam_channel::tick(Duration::from_millis(2));
/// assert!(ticks.recv().unwrap() < ticks.recv().unwrap());
/// ```
pub fn tick(duration: Duration) -> Receiver<Instant> {
    clock(Clock::ticks(duration))
}

fn clock(clock: Clock) -> Receiver<Instant> {
    Receiver {
        flavor: Flavor::Clock(Arc::new(clock), |time| time),
    }
}

/// The sending end of a channel. When the last clone is dropped, the channel disconnects.
///
/// ```
/// let (sender, receiver) = crossbeam_channel::unbounded();
/// let other = sender.clone();
/// let thread = std::thread::spawn(move || other.send(1));
/// sender.send(2).unwrap();
/// assert_eq!(receiver.recv().unwrap() + receiver.recv().unwrap(), 3);
/// # thread.join().unwrap().unwrap();
/// ```
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// The receiving end of a channel. When the last clone is dropped, the channel disconnects. Each
/// message goes to one receiver.
///
/// ```
/// let (sender, receiver) = crossbeam_channel::unbounded();
/// sender.send("hello").unwrap();
/// drop(sender);
/// assert_eq!(receiver.recv(), Ok("hello"));
/// assert!(receiver.recv().is_err());
/// ```
pub struct Receiver<T> {
    flavor: Flavor<T>,
}

pub(crate) enum Flavor<T> {
    Channel(Arc<Shared<T>>),
    /// `T` is `Instant`, and the function the identity.
    Clock(Arc<Clock>, fn(Instant) -> T),
    Never,
}

// No panic leaves the state of a channel inconsistent.
impl<T> UnwindSafe for Sender<T> {}
impl<T> RefUnwindSafe for Sender<T> {}
impl<T> UnwindSafe for Receiver<T> {}
impl<T> RefUnwindSafe for Receiver<T> {}

impl<T> Sender<T> {
    /// Sends a message if that needs no wait.
    ///
    /// # Errors
    ///
    /// `Full` if it would have to wait, `Disconnected` if no receiver is left. The error has the
    /// message.
    ///
    /// ```
    /// use crossbeam_channel::{TrySendError, bounded};
    ///
    /// let (sender, receiver) = bounded(1);
    /// assert_eq!(sender.try_send(1), Ok(()));
    /// assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
    /// drop(receiver);
    /// assert_eq!(sender.try_send(3), Err(TrySendError::Disconnected(3)));
    /// ```
    #[inline]
    pub fn try_send(&self, msg: T) -> Result<(), TrySendError<T>> {
        self.shared.try_send(msg)
    }

    /// Sends a message. Waits while the channel is full, or, if its capacity is 0, until a receiver
    /// takes the message.
    ///
    /// # Errors
    ///
    /// If no receiver is left, before or during the wait. The error has the message.
    ///
    /// ```
    /// use crossbeam_channel::{SendError, bounded};
    ///
    /// let (sender, receiver) = bounded(1);
    /// assert_eq!(sender.send(1), Ok(()));
    /// drop(receiver);
    /// assert_eq!(sender.send(2), Err(SendError(2)));
    /// ```
    #[inline]
    pub fn send(&self, msg: T) -> Result<(), SendError<T>> {
        self.shared.send(msg)
    }

    /// As [`send`](Self::send), but waits no longer than `timeout`. Sends without a wait also if
    /// `timeout` is 0.
    ///
    /// # Errors
    ///
    /// `Timeout` if the time is over first, `Disconnected` if no receiver is left. The error has
    /// the message.
    ///
    /// ```
    /// use crossbeam_channel::{SendTimeoutError, bounded};
    /// use std::time::Duration;
    ///
    /// let (sender, _receiver) = bounded(1);
    /// let moment = Duration::from_millis(1);
    /// assert_eq!(sender.send_timeout(1, moment), Ok(()));
    /// assert_eq!(sender.send_timeout(2, moment), Err(SendTimeoutError::Timeout(2)));
    /// ```
    pub fn send_timeout(&self, msg: T, timeout: Duration) -> Result<(), SendTimeoutError<T>> {
        match Instant::now().checked_add(timeout) {
            Some(deadline) => self.send_deadline(msg, deadline),
            // Later than the clock can show: no limit.
            None => Ok(self.send(msg)?),
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
    /// let (sender, _receiver) = crossbeam_channel::bounded(0);
    /// assert!(sender.send_deadline(1, Instant::now()).unwrap_err().is_timeout());
    /// ```
    pub fn send_deadline(&self, msg: T, deadline: Instant) -> Result<(), SendTimeoutError<T>> {
        self.shared.send_deadline(msg, deadline)
    }

    /// Returns whether no message is in the channel. Always true if the capacity is 0.
    ///
    /// ```
    /// let (sender, _receiver) = crossbeam_channel::bounded(1);
    /// assert!(sender.is_empty());
    /// sender.send(1).unwrap();
    /// assert!(!sender.is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.shared.sender().is_empty()
    }

    /// Returns whether the channel has as many messages as it holds. Always true if the capacity is
    /// 0, and never without a bound.
    ///
    /// ```
    /// let (sender, _receiver) = crossbeam_channel::bounded(1);
    /// sender.send(1).unwrap();
    /// assert!(sender.is_full());
    /// ```
    pub fn is_full(&self) -> bool {
        self.shared.sender().is_full()
    }

    /// Returns how many messages are in the channel.
    ///
    /// ```
    /// let (sender, _receiver) = crossbeam_channel::unbounded();
    /// sender.send(1).unwrap();
    /// assert_eq!(sender.len(), 1);
    /// ```
    pub fn len(&self) -> usize {
        self.shared.sender().len()
    }

    /// Returns how many messages the channel holds. `None` if it has no bound.
    ///
    /// ```
    /// assert_eq!(crossbeam_channel::bounded::<u8>(5).0.capacity(), Some(5));
    /// assert_eq!(crossbeam_channel::unbounded::<u8>().0.capacity(), None);
    /// ```
    pub fn capacity(&self) -> Option<usize> {
        self.shared.sender().capacity()
    }

    /// Returns whether both belong to the same channel.
    ///
    /// ```
    /// let (sender, _receiver) = crossbeam_channel::unbounded::<u8>();
    /// assert!(sender.same_channel(&sender.clone()));
    /// ```
    pub fn same_channel(&self, other: &Sender<T>) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    pub(crate) fn shared(&self) -> &Shared<T> {
        &self.shared
    }
}

impl<T> Receiver<T> {
    /// Receives a message if that needs no wait.
    ///
    /// # Errors
    ///
    /// `Empty` if it would have to wait, `Disconnected` if no message and no sender is left.
    ///
    /// ```
    /// use crossbeam_channel::{TryRecvError, unbounded};
    ///
    /// let (sender, receiver) = unbounded();
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    /// sender.send(5).unwrap();
    /// drop(sender);
    /// assert_eq!(receiver.try_recv(), Ok(5));
    /// assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
    /// ```
    #[inline]
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        match &self.flavor {
            Flavor::Channel(shared) => shared.try_recv(),
            _ => self
                .recv_time(Limit::Now)
                .ok_or(TryRecvError::Empty)?
                .map_err(From::from),
        }
    }

    /// Receives a message. Waits while the channel is empty, or, if its capacity is 0, for a
    /// sender.
    ///
    /// # Errors
    ///
    /// If no message and no sender is left.
    ///
    /// ```
    /// let (sender, receiver) = crossbeam_channel::unbounded();
    /// let goroutine = gopark::go(move || sender.send(5));
    /// assert_eq!(receiver.recv(), Ok(5));
    /// assert!(receiver.recv().is_err());
    /// # goroutine.join().unwrap().unwrap();
    /// ```
    #[inline]
    pub fn recv(&self) -> Result<T, RecvError> {
        match &self.flavor {
            Flavor::Channel(shared) => shared.recv(),
            _ => self.recv_time(Limit::Never).unwrap_or(Err(RecvError)),
        }
    }

    /// As [`recv`](Self::recv), but waits no longer than `timeout`. Receives a message that is
    /// there also if `timeout` is 0.
    ///
    /// # Errors
    ///
    /// `Timeout` if the time is over first, `Disconnected` if no message and no sender is left.
    ///
    /// ```
    /// use crossbeam_channel::{RecvTimeoutError, unbounded};
    /// use std::time::Duration;
    ///
    /// let (_sender, receiver) = unbounded::<u8>();
    /// let late = receiver.recv_timeout(Duration::from_millis(1));
    /// assert_eq!(late, Err(RecvTimeoutError::Timeout));
    /// ```
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        match &self.flavor {
            Flavor::Channel(shared) => match Instant::now().checked_add(timeout) {
                Some(deadline) => shared.recv_deadline(deadline),
                // Later than the clock can show: no limit.
                None => Ok(shared.recv()?),
            },
            _ => self.recv_time_until(within(timeout)),
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
    /// let (_sender, receiver) = crossbeam_channel::bounded::<u8>(1);
    /// assert!(receiver.recv_deadline(Instant::now()).unwrap_err().is_timeout());
    /// ```
    pub fn recv_deadline(&self, deadline: Instant) -> Result<T, RecvTimeoutError> {
        match &self.flavor {
            Flavor::Channel(shared) => shared.recv_deadline(deadline),
            _ => self.recv_time_until(until(deadline)),
        }
    }

    /// Receives from a clock, or from a channel without messages. `None` at the limit.
    fn recv_time(&self, limit: Limit) -> Option<Result<T, RecvError>> {
        let mut op = RecvOp::new(self);
        select(&mut [&mut op], true, limit)?;
        Some(op.finish())
    }

    fn recv_time_until(&self, limit: Limit) -> Result<T, RecvTimeoutError> {
        let received = self.recv_time(limit).ok_or(RecvTimeoutError::Timeout)?;
        received.map_err(From::from)
    }

    /// Returns whether no message is in the channel. Always true if the capacity is 0.
    ///
    /// ```
    /// let (sender, receiver) = crossbeam_channel::bounded(1);
    /// assert!(receiver.is_empty());
    /// sender.send(1).unwrap();
    /// assert!(!receiver.is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether the channel has as many messages as it holds. Always true if the capacity is
    /// 0, and never without a bound.
    ///
    /// ```
    /// let (sender, receiver) = crossbeam_channel::bounded(1);
    /// sender.send(1).unwrap();
    /// assert!(receiver.is_full());
    /// ```
    pub fn is_full(&self) -> bool {
        match &self.flavor {
            Flavor::Channel(shared) => shared.receiver().is_full(),
            Flavor::Clock(clock, _) => clock.is_ready(),
            Flavor::Never => true,
        }
    }

    /// Returns how many messages are in the channel.
    ///
    /// ```
    /// let (sender, receiver) = crossbeam_channel::unbounded();
    /// sender.send(1).unwrap();
    /// assert_eq!(receiver.len(), 1);
    /// ```
    pub fn len(&self) -> usize {
        match &self.flavor {
            Flavor::Channel(shared) => shared.receiver().len(),
            Flavor::Clock(clock, _) => clock.is_ready().into(),
            Flavor::Never => 0,
        }
    }

    /// Returns how many messages the channel holds. `None` if it has no bound.
    ///
    /// ```
    /// assert_eq!(crossbeam_channel::bounded::<u8>(5).1.capacity(), Some(5));
    /// assert_eq!(crossbeam_channel::unbounded::<u8>().1.capacity(), None);
    /// ```
    pub fn capacity(&self) -> Option<usize> {
        match &self.flavor {
            Flavor::Channel(shared) => shared.receiver().capacity(),
            Flavor::Clock(..) => Some(1),
            Flavor::Never => Some(0),
        }
    }

    /// Iterates over the messages. Waits for each, and ends when no message and no sender is left.
    ///
    /// ```
    /// let (sender, receiver) = crossbeam_channel::unbounded();
    /// let goroutine = gopark::go(move || (1..=3).for_each(|i| sender.send(i).unwrap()));
    /// assert_eq!(receiver.iter().sum::<i32>(), 6);
    /// # goroutine.join().unwrap();
    /// ```
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { receiver: self }
    }

    /// Iterates over the messages that are in the channel, and ends when the next one would have to
    /// be waited for.
    ///
    /// ```
    /// let (sender, receiver) = crossbeam_channel::unbounded();
    /// sender.send(1).unwrap();
    /// sender.send(2).unwrap();
    /// assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1, 2]);
    /// ```
    pub fn try_iter(&self) -> TryIter<'_, T> {
        TryIter { receiver: self }
    }

    /// Returns whether both belong to the same channel. Two receivers of [`never()`] always do.
    ///
    /// ```
    /// let (_sender, receiver) = crossbeam_channel::unbounded::<u8>();
    /// assert!(receiver.same_channel(&receiver.clone()));
    /// ```
    pub fn same_channel(&self, other: &Receiver<T>) -> bool {
        match (&self.flavor, &other.flavor) {
            (Flavor::Channel(a), Flavor::Channel(b)) => Arc::ptr_eq(a, b),
            (Flavor::Clock(a, _), Flavor::Clock(b, _)) => Arc::ptr_eq(a, b),
            (Flavor::Never, Flavor::Never) => true,
            _ => false,
        }
    }

    pub(crate) fn flavor(&self) -> &Flavor<T> {
        &self.flavor
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.add_sender();
        Sender {
            shared: self.shared.clone(),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.remove_sender();
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        let flavor = match &self.flavor {
            Flavor::Channel(shared) => {
                shared.add_receiver();
                Flavor::Channel(shared.clone())
            }
            Flavor::Clock(clock, message) => Flavor::Clock(clock.clone(), *message),
            Flavor::Never => Flavor::Never,
        };
        Receiver { flavor }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if let Flavor::Channel(shared) = &self.flavor {
            shared.remove_receiver();
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("Sender { .. }")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("Receiver { .. }")
    }
}

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
        IntoIter { receiver: self }
    }
}

/// A handle whose operation a `Select` can have.
pub(crate) trait Handle {
    /// The operation, for one select.
    fn operation<'a>(&'a self) -> Box<dyn Selectable + 'a>;

    /// The address of the handle, which the program passes again.
    fn address(&self) -> *const ();

    /// Whether the operation need not wait.
    fn readiness(&self) -> Readiness;

    /// What wakes at a change of `readiness`. `None` if only the time changes it.
    fn watchers(&self) -> Option<&Watchers>;

    /// When the operation becomes ready. `None`: no clock knows.
    fn due(&self) -> Option<Instant>;
}

impl<T> Handle for Sender<T> {
    fn operation<'a>(&'a self) -> Box<dyn Selectable + 'a> {
        Box::new(SendOp::new(self))
    }

    fn address(&self) -> *const () {
        ptr::from_ref(self).cast()
    }

    fn readiness(&self) -> Readiness {
        self.shared.send_readiness()
    }

    fn watchers(&self) -> Option<&Watchers> {
        Some(&self.shared.watchers)
    }

    fn due(&self) -> Option<Instant> {
        None
    }
}

impl<T> Handle for Receiver<T> {
    fn operation<'a>(&'a self) -> Box<dyn Selectable + 'a> {
        Box::new(RecvOp::new(self))
    }

    fn address(&self) -> *const () {
        ptr::from_ref(self).cast()
    }

    fn readiness(&self) -> Readiness {
        match &self.flavor {
            Flavor::Channel(shared) => shared.receive_readiness(),
            Flavor::Clock(clock, _) if clock.is_ready() => Readiness::Ready,
            Flavor::Clock(..) | Flavor::Never => Readiness::Blocked,
        }
    }

    fn watchers(&self) -> Option<&Watchers> {
        match &self.flavor {
            Flavor::Channel(shared) => Some(&shared.watchers),
            Flavor::Clock(..) | Flavor::Never => None,
        }
    }

    fn due(&self) -> Option<Instant> {
        match &self.flavor {
            Flavor::Clock(clock, _) => clock.due(),
            Flavor::Channel(_) | Flavor::Never => None,
        }
    }
}
