//! A place in a channel for a message that its sender has yet to make.
//!
//! A select decides for a send before the program evaluates the message, and gopark's channels take
//! a value at the moment of the decision. So a select sends a promise. The sender keeps its
//! *permit* and fulfils it with the message; the receiver that has taken the promise waits for it.
//!
//! A permit that is dropped breaks the promise. Its receiver then takes the next message, as if the
//! promise had not been there.

use crate::error::SendError;
use gopark::chan;

/// What the channels of gopark carry.
pub(crate) enum Slot<T> {
    Message(T),
    Promised(Promise<T>),
}

/// The receiver's end of a promise.
pub(crate) struct Promise<T>(chan::Receiver<T>);

/// The sender's end of a promise.
pub(crate) struct Permit<T>(chan::Sender<T>);

/// Makes a promise, and the permit to fulfil it.
pub(crate) fn promise<T>() -> (Permit<T>, Slot<T>) {
    let (sender, receiver) = chan::bounded(1);
    (Permit(sender), Slot::Promised(Promise(receiver)))
}

impl<T> Slot<T> {
    /// Returns the message, after waiting for it if it was promised. `None` if the promise is
    /// broken.
    #[inline]
    pub(crate) fn open(self) -> Option<T> {
        match self {
            Slot::Message(message) => Some(message),
            Slot::Promised(promise) => promise.wait(),
        }
    }
}

impl<T> Promise<T> {
    /// Waits for the message. A cancel does not end the wait: the message would be lost.
    fn wait(self) -> Option<T> {
        loop {
            if let Ok(message) = gopark::shield(|| self.0.recv()) {
                return Some(message);
            }
            // A cancel that came during the wait ends it, too.
            match self.0.try_recv() {
                Ok(message) => return Some(message),
                Err(chan::TryRecvError::Disconnected) => return None,
                Err(chan::TryRecvError::Empty) => {}
            }
        }
    }
}

/// What a select has obtained for a send: the permit, or nothing if the channel is disconnected.
#[must_use]
pub struct Obtained<T>(pub(crate) Option<Permit<T>>);

impl<T> Obtained<T> {
    /// Sends the message.
    pub fn complete(self, message: T) -> Result<(), SendError<T>> {
        let Some(Permit(sender)) = self.0 else {
            return Err(SendError(message));
        };
        // There is room for one message. Without a receiver the promise was dropped in the channel,
        // and so is the message.
        _ = sender.try_send(message);
        Ok(())
    }
}
