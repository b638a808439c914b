//! Those that wait for a channel to become ready and do not operate on it: `Select::ready`.
//!
//! The race: an operation makes the channel ready and then reads the count of watchers, and a
//! watcher raises the count and then asks whether the channel is ready. Both read and change the
//! channel under its lock, or by `SeqCst` if they announce a wait, so at least one sees the other.

use gopark::chan;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The watchers of a channel.
#[derive(Default)]
pub(crate) struct Watchers {
    count: AtomicUsize,
    /// Locked for a few instructions, without calls of gopark: a goroutine that parked with the
    /// lock held would block its thread. Each signal has room for one event.
    signals: Mutex<Vec<chan::Sender<()>>>,
}

impl Watchers {
    /// Wakes all watchers, so that they ask again whether the channel is ready.
    #[inline]
    pub(crate) fn wake(&self) {
        if self.count.load(Ordering::SeqCst) > 0 {
            self.wake_slow();
        }
    }

    #[cold]
    fn wake_slow(&self) {
        let signals = self.lock().clone();
        for signal in signals {
            // A signal that is full wakes its watcher already.
            _ = signal.try_send(());
        }
    }

    pub(crate) fn add(&self, signal: &chan::Sender<()>) {
        self.lock().push(signal.clone());
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Removes a signal that was added.
    pub(crate) fn remove(&self, signal: &chan::Sender<()>) {
        let mut signals = self.lock();
        let position = signals.iter().position(|other| other.same_channel(signal));
        let removed = position.map(|position| signals.swap_remove(position));
        drop(signals);
        if removed.is_some() {
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<chan::Sender<()>>> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
