//! What the handles of one channel share.

use crate::error::{
    RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError,
};
use crate::promise::Slot;
use crate::watch::Watchers;
use gopark::chan;
use gopark::select::{recv_is_ready, send_is_ready};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// A channel of gopark, its handles' counts, and what `Select::ready` needs to know.
pub(crate) struct Shared<T> {
    sender: chan::Sender<Slot<T>>,
    receiver: chan::Receiver<Slot<T>>,
    /// How many senders and receivers the program has. The two handles above do not count.
    senders: AtomicUsize,
    receivers: AtomicUsize,
    /// Whether the capacity is 0.
    is_rendezvous: bool,
    waiting_senders: AtomicUsize,
    waiting_receivers: AtomicUsize,
    pub(crate) watchers: Watchers,
}

/// Whether an operation need not wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    Blocked,
    /// A partner is about to wait, or comes from its wait. No event tells when that changes.
    Changing,
    Ready,
}

/// An operation on a channel of capacity 0 that is about to wait, or waits.
pub(crate) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Leaks the messages of a channel when it is dropped.
struct Leak<'a, T>(&'a chan::Receiver<Slot<T>>);

impl<T> Drop for Leak<'_, T> {
    fn drop(&mut self) {
        while let Ok(slot) = self.0.try_recv() {
            mem::forget(slot);
        }
    }
}

impl<T> Shared<T> {
    /// A channel with one sender and one receiver, which the caller makes.
    pub(crate) fn new(
        (sender, receiver): (chan::Sender<Slot<T>>, chan::Receiver<Slot<T>>),
    ) -> Arc<Self> {
        Arc::new(Shared {
            is_rendezvous: sender.capacity() == Some(0),
            sender,
            receiver,
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(1),
            waiting_senders: AtomicUsize::new(0),
            waiting_receivers: AtomicUsize::new(0),
            watchers: Watchers::default(),
        })
    }

    pub(crate) fn sender(&self) -> &chan::Sender<Slot<T>> {
        &self.sender
    }

    pub(crate) fn receiver(&self) -> &chan::Receiver<Slot<T>> {
        &self.receiver
    }

    // Relaxed, as in `Arc`: the handle that is cloned keeps the count above 0.
    pub(crate) fn add_sender(&self) {
        self.senders.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_receiver(&self) {
        self.receivers.fetch_add(1, Ordering::Relaxed);
    }

    // AcqRel: what the other handles of this side have done comes before the close.

    pub(crate) fn remove_sender(&self) {
        if self.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.sender.close();
            self.watchers.wake();
        }
    }

    pub(crate) fn remove_receiver(&self) {
        if self.receivers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.receiver.close();
            self.watchers.wake();
            // A message whose drop panics has left the channel. Those after it leak: the second of
            // them to panic would abort the process.
            let _rest = Leak(&self.receiver);
            while let Ok(slot) = self.receiver.try_recv() {
                drop(slot);
            }
        }
    }

    #[inline]
    pub(crate) fn announce_send(&self) -> Option<Waiting<'_>> {
        self.is_rendezvous
            .then(|| self.announce(&self.waiting_senders))
    }

    #[inline]
    pub(crate) fn announce_receive(&self) -> Option<Waiting<'_>> {
        self.is_rendezvous
            .then(|| self.announce(&self.waiting_receivers))
    }

    /// SeqCst: a watcher raises the count of watchers and then reads `waiting`.
    fn announce<'a>(&self, waiting: &'a AtomicUsize) -> Waiting<'a> {
        waiting.fetch_add(1, Ordering::SeqCst);
        let announced = Waiting(waiting);
        self.watchers.wake();
        announced
    }

    pub(crate) fn send_readiness(&self) -> Readiness {
        Self::readiness(&self.waiting_receivers, || send_is_ready(&self.sender))
    }

    pub(crate) fn receive_readiness(&self) -> Readiness {
        Self::readiness(&self.waiting_senders, || recv_is_ready(&self.receiver))
    }

    /// Asks for partners first: one that announces itself later wakes the watchers.
    fn readiness(partners: &AtomicUsize, is_ready: impl FnOnce() -> bool) -> Readiness {
        let has_partners = partners.load(Ordering::SeqCst) > 0;
        match (is_ready(), has_partners) {
            (true, _) => Readiness::Ready,
            (false, true) => Readiness::Changing,
            (false, false) => Readiness::Blocked,
        }
    }
}

impl<T> Shared<T> {
    #[inline]
    pub(crate) fn send(&self, message: T) -> Result<(), SendError<T>> {
        let _waiting = self.announce_send();
        self.sender
            .send(Slot::Message(message))
            .map_err(|error| SendError(unsent(error.into_inner())))?;
        self.watchers.wake();
        Ok(())
    }

    #[inline]
    pub(crate) fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        let sent = self.sender.try_send(Slot::Message(message));
        sent.map_err(|error| match error {
            chan::TrySendError::Full(slot) => TrySendError::Full(unsent(slot)),
            chan::TrySendError::Disconnected(slot) => TrySendError::Disconnected(unsent(slot)),
        })?;
        self.watchers.wake();
        Ok(())
    }

    pub(crate) fn send_deadline(
        &self,
        message: T,
        deadline: Instant,
    ) -> Result<(), SendTimeoutError<T>> {
        let _waiting = self.announce_send();
        let sent = self.sender.send_deadline(Slot::Message(message), deadline);
        sent.map_err(|error| match error {
            chan::SendTimeoutError::Timeout(slot) => SendTimeoutError::Timeout(unsent(slot)),
            chan::SendTimeoutError::Disconnected(slot) => {
                SendTimeoutError::Disconnected(unsent(slot))
            }
        })?;
        self.watchers.wake();
        Ok(())
    }

    #[inline]
    pub(crate) fn recv(&self) -> Result<T, RecvError> {
        self.receive(|receiver| {
            let _waiting = self.announce_receive();
            receiver.recv().map_err(|_| RecvError)
        })
    }

    #[inline]
    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        self.receive(|receiver| {
            receiver.try_recv().map_err(|error| match error {
                chan::TryRecvError::Empty => TryRecvError::Empty,
                chan::TryRecvError::Disconnected => TryRecvError::Disconnected,
            })
        })
    }

    pub(crate) fn recv_deadline(&self, deadline: Instant) -> Result<T, RecvTimeoutError> {
        self.receive(|receiver| {
            let _waiting = self.announce_receive();
            let received = receiver.recv_deadline(deadline);
            received.map_err(|error| match error {
                chan::RecvTimeoutError::Timeout => RecvTimeoutError::Timeout,
                chan::RecvTimeoutError::Disconnected => RecvTimeoutError::Disconnected,
            })
        })
    }

    /// Receives by `operation` until it returns a message and no broken promise.
    #[inline]
    fn receive<E>(
        &self,
        operation: impl Fn(&chan::Receiver<Slot<T>>) -> Result<Slot<T>, E>,
    ) -> Result<T, E> {
        loop {
            let slot = operation(&self.receiver)?;
            self.watchers.wake();
            if let Some(message) = slot.open() {
                return Ok(message);
            }
        }
    }
}

/// The message of a send that has failed.
fn unsent<T>(slot: Slot<T>) -> T {
    match slot {
        Slot::Message(message) => message,
        Slot::Promised(_) => unreachable!("only selects send promises"),
    }
}
