//! `Select`, a select over operations that a program adds at run time.
#![allow(
    unsafe_code,
    reason = "a `Select` forgets the types of its messages, and may change threads"
)]

use crate::channel::{Handle, Receiver, Sender};
use crate::error::{
    ReadyTimeoutError, RecvError, SelectTimeoutError, SendError, TryReadyError, TrySelectError,
};
use crate::operation::{self, Limit, until, within};
use crate::ready::ready;
use crate::selected::{Erased, Selected};
use std::fmt;
use std::marker::PhantomData;
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

/// A select over operations that a program adds at run time. See [`select!`](crate::select!) for a
/// fixed list.
///
/// An operation is *ready* if it need not wait, also if it returns an error because the channel is
/// disconnected. There are two ways to use it:
///
/// - [`select`](Self::select), [`try_select`](Self::try_select) and
///   [`select_timeout`](Self::select_timeout) begin one operation that is ready. The program must
///   complete it.
/// - [`ready`](Self::ready), [`try_ready`](Self::try_ready) and
///   [`ready_timeout`](Self::ready_timeout) return the index of one that is ready and do nothing.
///   When the program then tries the operation, another goroutine or thread may have been faster,
///   and it may also not have been ready: use these in a loop.
///
/// ```
/// use crossbeam_channel::{Receiver, RecvError, Select};
///
/// fn recv_any<T>(receivers: &[Receiver<T>]) -> Result<T, RecvError> {
///     let mut select = Select::new();
///     for receiver in receivers {
///         select.recv(receiver);
///     }
///     let selected = select.select();
///     let receiver = &receivers[selected.index()];
///     selected.recv(receiver)
/// }
///
/// let (sender, receiver) = crossbeam_channel::bounded(1);
/// sender.send(5).unwrap();
/// assert_eq!(recv_any(&[crossbeam_channel::never(), receiver]), Ok(5));
/// ```
pub struct Select<'a> {
    entries: Vec<Entry<'a>>,
    /// The index of the next operation. Indices are not used again after a `remove`.
    next: usize,
    biased: bool,
}

#[derive(Clone, Copy)]
struct Entry<'a> {
    index: usize,
    handle: &'a dyn Handle,
}

// A select on another thread uses channels of messages that may be bound to the thread of the
// handle. It moves the bytes of such a message and never uses or drops it there: a
// `SelectedOperation` stays on the thread of its select, and without its handle, which stays on its
// own thread, it can only be dropped, which leaks the message.
//
// SAFETY: as above. All else that a select touches is shared between threads by design.
unsafe impl Send for Select<'_> {}
// SAFETY: the methods of `&self` copy the list.
unsafe impl Sync for Select<'_> {}

impl<'a> Select<'a> {
    /// A select without operations.
    ///
    /// ```
    /// assert!(crossbeam_channel::Select::new().try_select().is_err());
    /// ```
    pub fn new() -> Select<'a> {
        Select {
            entries: Vec::with_capacity(4),
            next: 0,
            biased: false,
        }
    }

    /// A select without operations that selects the first that is ready, not one at random.
    ///
    /// ```
    /// use crossbeam_channel::{Select, bounded};
    ///
    /// let (sender, receiver) = bounded(1);
    /// let mut select = Select::new_biased();
    /// let send = select.send(&sender);
    /// select.send(&sender);
    /// let selected = select.select();
    /// assert_eq!(selected.index(), send);
    /// selected.send(&sender, 1).unwrap();
    /// assert_eq!(receiver.recv(), Ok(1));
    /// ```
    pub fn new_biased() -> Self {
        Select {
            biased: true,
            ..Select::new()
        }
    }

    /// Adds a send. Returns its index.
    ///
    /// ```
    /// use crossbeam_channel::{Select, bounded};
    ///
    /// let (sender, _receiver) = bounded::<u8>(1);
    /// assert_eq!(Select::new().send(&sender), 0);
    /// ```
    pub fn send<T>(&mut self, s: &'a Sender<T>) -> usize {
        self.add(s)
    }

    /// Adds a receive. Returns its index.
    ///
    /// ```
    /// use crossbeam_channel::{Select, never};
    ///
    /// let receiver = never::<u8>();
    /// assert_eq!(Select::new().recv(&receiver), 0);
    /// ```
    pub fn recv<T>(&mut self, r: &'a Receiver<T>) -> usize {
        self.add(r)
    }

    fn add(&mut self, handle: &'a dyn Handle) -> usize {
        let index = self.next;
        self.next += 1;
        self.entries.push(Entry { index, handle });
        index
    }

    /// Removes an operation, such as one on a channel that has disconnected. The indices of the
    /// others stay, and `index` is not used again.
    ///
    /// # Panics
    ///
    /// If there is no operation with this index, or it was removed.
    ///
    /// ```
    /// use crossbeam_channel::{Select, bounded};
    ///
    /// let (_, disconnected) = bounded::<u8>(0);
    /// let mut select = Select::new();
    /// let index = select.recv(&disconnected);
    /// assert_eq!(select.try_ready(), Ok(index));
    /// select.remove(index);
    /// assert!(select.try_ready().is_err());
    /// ```
    #[track_caller]
    pub fn remove(&mut self, index: usize) {
        let found = self.entries.iter().position(|entry| entry.index == index);
        match found {
            Some(position) => _ = self.entries.remove(position),
            None => panic!("Select::remove: there is no operation with the index {index}"),
        }
    }

    /// Begins an operation that is ready.
    ///
    /// # Errors
    ///
    /// If each would have to wait.
    ///
    /// ```
    /// use crossbeam_channel::{Select, unbounded};
    ///
    /// let (sender, receiver) = unbounded();
    /// let mut select = Select::new();
    /// select.recv(&receiver);
    /// assert!(select.try_select().is_err());
    /// sender.send(5).unwrap();
    /// assert_eq!(select.try_select().unwrap().recv(&receiver), Ok(5));
    /// ```
    pub fn try_select(&mut self) -> Result<SelectedOperation<'a>, TrySelectError> {
        self.run(Limit::Now).ok_or(TrySelectError)
    }

    /// Waits until an operation is ready, and begins it. If several are ready, it takes one at
    /// random, or the first for [`new_biased`](Self::new_biased).
    ///
    /// # Panics
    ///
    /// If there are no operations: it would wait forever.
    ///
    /// ```
    /// use crossbeam_channel::{Select, bounded};
    ///
    /// let (sender, receiver) = bounded(0);
    /// let goroutine = gopark::go(move || receiver.recv());
    /// let mut select = Select::new();
    /// select.send(&sender);
    /// select.select().send(&sender, 5).unwrap();
    /// assert_eq!(goroutine.join().unwrap(), Ok(5));
    /// ```
    #[track_caller]
    pub fn select(&mut self) -> SelectedOperation<'a> {
        self.check("select");
        let selected = self.run(Limit::Never);
        selected.expect("a select without a limit ended without an operation")
    }

    /// As [`select`](Self::select), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// If the time is over first.
    ///
    /// ```
    /// use crossbeam_channel::{Select, never};
    /// use std::time::Duration;
    ///
    /// let receiver = never::<u8>();
    /// let mut select = Select::new();
    /// select.recv(&receiver);
    /// assert!(select.select_timeout(Duration::from_millis(1)).is_err());
    /// ```
    pub fn select_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<SelectedOperation<'a>, SelectTimeoutError> {
        self.run(within(timeout)).ok_or(SelectTimeoutError)
    }

    /// As [`select`](Self::select), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// If that comes first.
    ///
    /// ```
    /// use std::time::Instant;
    ///
    /// let mut select = crossbeam_channel::Select::new();
    /// assert!(select.select_deadline(Instant::now()).is_err());
    /// ```
    pub fn select_deadline(
        &mut self,
        deadline: Instant,
    ) -> Result<SelectedOperation<'a>, SelectTimeoutError> {
        self.run(until(deadline)).ok_or(SelectTimeoutError)
    }

    fn run(&mut self, limit: Limit) -> Option<SelectedOperation<'a>> {
        let operations = self.entries.iter().map(|entry| entry.handle.operation());
        let mut operations = Vec::from_iter(operations);
        let place = operation::select(&mut operations, self.biased, limit)?;
        let Entry { index, handle } = self.entries[place];
        Some(SelectedOperation {
            selected: Some(operations.swap_remove(place).into_selected()),
            index,
            address: handle.address(),
            handles: PhantomData,
        })
    }

    /// Returns the index of an operation that is ready.
    ///
    /// # Errors
    ///
    /// If each would have to wait.
    ///
    /// ```
    /// use crossbeam_channel::{Select, unbounded};
    ///
    /// let (sender, receiver) = unbounded();
    /// let mut select = Select::new();
    /// let index = select.recv(&receiver);
    /// assert!(select.try_ready().is_err());
    /// sender.send(5).unwrap();
    /// assert_eq!(select.try_ready(), Ok(index));
    /// assert_eq!(receiver.try_recv(), Ok(5));
    /// ```
    pub fn try_ready(&mut self) -> Result<usize, TryReadyError> {
        self.look(Limit::Now).ok_or(TryReadyError)
    }

    /// Waits until an operation is ready, and returns its index. If several are ready, it takes one
    /// at random, or the first for [`new_biased`](Self::new_biased).
    ///
    /// # Panics
    ///
    /// If there are no operations: it would wait forever.
    ///
    /// ```
    /// use crossbeam_channel::{Select, unbounded};
    ///
    /// let (sender, receiver) = unbounded();
    /// let goroutine = gopark::go(move || sender.send(5));
    /// let mut select = Select::new();
    /// let index = select.recv(&receiver);
    /// assert_eq!(select.ready(), index);
    /// assert_eq!(receiver.try_recv(), Ok(5));
    /// # goroutine.join().unwrap().unwrap();
    /// ```
    #[track_caller]
    pub fn ready(&mut self) -> usize {
        self.check("ready");
        let found = self.look(Limit::Never);
        found.expect("a wait without a limit ended without an operation")
    }

    /// As [`ready`](Self::ready), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// If the time is over first.
    ///
    /// ```
    /// use crossbeam_channel::{ReadyTimeoutError, Select, never};
    /// use std::time::Duration;
    ///
    /// let receiver = never::<u8>();
    /// let mut select = Select::new();
    /// select.recv(&receiver);
    /// let late = select.ready_timeout(Duration::from_millis(1));
    /// assert_eq!(late, Err(ReadyTimeoutError));
    /// ```
    pub fn ready_timeout(&mut self, timeout: Duration) -> Result<usize, ReadyTimeoutError> {
        self.look(within(timeout)).ok_or(ReadyTimeoutError)
    }

    /// As [`ready`](Self::ready), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// If that comes first.
    ///
    /// ```
    /// use std::time::Instant;
    ///
    /// let mut select = crossbeam_channel::Select::new();
    /// assert!(select.ready_deadline(Instant::now()).is_err());
    /// ```
    pub fn ready_deadline(&mut self, deadline: Instant) -> Result<usize, ReadyTimeoutError> {
        self.look(until(deadline)).ok_or(ReadyTimeoutError)
    }

    fn look(&self, limit: Limit) -> Option<usize> {
        let handles = Vec::from_iter(self.entries.iter().map(|entry| entry.handle));
        ready(&handles, self.biased, limit).map(|place| self.entries[place].index)
    }

    #[track_caller]
    fn check(&self, method: &str) {
        assert!(
            !self.entries.is_empty(),
            "Select::{method}: no operations have been added, so it would wait forever"
        );
    }
}

impl Clone for Select<'_> {
    fn clone(&self) -> Self {
        Select {
            entries: self.entries.clone(),
            ..*self
        }
    }
}

impl Default for Select<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Select<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("Select { .. }")
    }
}

/// An operation that has begun. The program completes it with [`send`](Self::send) or
/// [`recv`](Self::recv).
///
/// # Panics
///
/// If it is dropped, except while the thread panics. A message that it has received is lost.
///
/// ```should_panic
/// use crossbeam_channel::{Select, unbounded};
///
/// let (sender, _receiver) = unbounded::<u8>();
/// let mut select = Select::new();
/// select.send(&sender);
/// drop(select.select());
/// ```
#[must_use = "a selected operation must be completed"]
pub struct SelectedOperation<'a> {
    /// `None` when it is completed.
    selected: Option<Erased>,
    index: usize,
    /// Of the handle that was added.
    address: *const (),
    handles: PhantomData<&'a dyn Handle>,
}

impl SelectedOperation<'_> {
    /// Returns the index of the operation.
    ///
    /// ```
    /// use crossbeam_channel::{Select, unbounded};
    ///
    /// let (sender, _receiver) = unbounded();
    /// let mut select = Select::new();
    /// let index = select.send(&sender);
    /// let selected = select.select();
    /// assert_eq!(selected.index(), index);
    /// selected.send(&sender, 'a').unwrap();
    /// ```
    pub fn index(&self) -> usize {
        self.index
    }

    /// Completes a send, with the sender that was added.
    ///
    /// # Errors
    ///
    /// If no receiver is left. The error has the message.
    ///
    /// # Panics
    ///
    /// If `s` is another sender.
    ///
    /// ```
    /// use crossbeam_channel::{Select, SendError, bounded};
    ///
    /// let (sender, receiver) = bounded(0);
    /// drop(receiver);
    /// let mut select = Select::new();
    /// select.send(&sender);
    /// assert_eq!(select.select().send(&sender, 10), Err(SendError(10)));
    /// ```
    #[track_caller]
    pub fn send<T>(self, s: &Sender<T>, msg: T) -> Result<(), SendError<T>> {
        match self.into_selected::<T>(s) {
            Selected::Obtained(obtained) => obtained.complete(msg),
            Selected::Received(_) => unreachable!("a sender has received"),
        }
    }

    /// Completes a receive, with the receiver that was added.
    ///
    /// # Errors
    ///
    /// If no message and no sender is left.
    ///
    /// # Panics
    ///
    /// If `r` is another receiver.
    ///
    /// ```
    /// use crossbeam_channel::{RecvError, Select, bounded};
    ///
    /// let (sender, receiver) = bounded::<u8>(0);
    /// drop(sender);
    /// let mut select = Select::new();
    /// select.recv(&receiver);
    /// assert_eq!(select.select().recv(&receiver), Err(RecvError));
    /// ```
    #[track_caller]
    pub fn recv<T>(self, r: &Receiver<T>) -> Result<T, RecvError> {
        match self.into_selected::<T>(r) {
            // A promise that is broken is no message: the receive then waits for another.
            Selected::Received(received) => received?.open().map_or_else(|| r.recv(), Ok),
            Selected::Obtained(_) => unreachable!("a receiver has sent"),
        }
    }

    /// `handle` is a handle of a channel of `T`. That it is invariant in `T` is relied on:
    ///
    /// ```compile_fail
    /// use crossbeam_channel::Receiver;
    ///
    /// fn shorten<'a>(receiver: Receiver<&'static str>) -> Receiver<&'a str> {
    ///     receiver
    /// }
    /// ```
    ///
    /// ```compile_fail
    /// use crossbeam_channel::Sender;
    ///
    /// fn lengthen<'a>(sender: Sender<&'a str>) -> Sender<&'static str> {
    ///     sender
    /// }
    /// ```
    ///
    /// ```compile_fail
    /// use crossbeam_channel::Sender;
    ///
    /// fn shorten<'a>(sender: Sender<&'static str>) -> Sender<&'a str> {
    ///     sender
    /// }
    /// ```
    #[track_caller]
    fn into_selected<T>(mut self, handle: &dyn Handle) -> Selected<T> {
        assert!(
            ptr::addr_eq(self.address, handle.address()),
            "SelectedOperation: the operation is completed with a handle that was not selected"
        );
        let selected = self.selected.take();
        let selected = selected.expect("an operation was completed twice");
        // SAFETY: the handle that was added is still borrowed, so no other handle has its address.
        // Its channel is one of `T`: handles are invariant in `T`, and the caller's is the same.
        unsafe { selected.into_selected() }
    }
}

impl fmt::Debug for SelectedOperation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("SelectedOperation { .. }")
    }
}

impl Drop for SelectedOperation<'_> {
    fn drop(&mut self) {
        // A second panic would abort the process.
        if self.selected.is_some() && !thread::panicking() {
            panic!("SelectedOperation: the operation was dropped and not completed");
        }
    }
}
