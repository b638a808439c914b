//! Iterators over the messages of a channel.

use crate::channel::Receiver;
use std::fmt;
use std::iter::FusedIterator;

/// An iterator that waits for messages, from [`Receiver::iter`].
///
/// ```
/// let (sender, receiver) = crossbeam_channel::unbounded();
/// sender.send('a').unwrap();
/// drop(sender);
/// assert!(receiver.iter().eq(['a']));
/// ```
pub struct Iter<'a, T> {
    pub(crate) receiver: &'a Receiver<T>,
}

/// An iterator that does not wait, from [`Receiver::try_iter`].
///
/// ```
/// let (sender, receiver) = crossbeam_channel::unbounded();
/// sender.send('a').unwrap();
/// assert!(receiver.try_iter().eq(['a']));
/// ```
pub struct TryIter<'a, T> {
    pub(crate) receiver: &'a Receiver<T>,
}

/// An iterator that waits for messages and owns its receiver.
///
/// ```
/// let (sender, receiver) = crossbeam_channel::unbounded();
/// sender.send('a').unwrap();
/// drop(sender);
/// assert!(receiver.into_iter().eq(['a']));
/// ```
pub struct IntoIter<T> {
    pub(crate) receiver: Receiver<T>,
}

impl<T> Iterator for Iter<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.receiver.recv().ok()
    }
}

impl<T> Iterator for TryIter<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.receiver.try_recv().ok()
    }
}

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.receiver.recv().ok()
    }
}

impl<T> FusedIterator for Iter<'_, T> {}
impl<T> FusedIterator for IntoIter<T> {}

impl<T> fmt::Debug for Iter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("Iter { .. }")
    }
}

impl<T> fmt::Debug for TryIter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("TryIter { .. }")
    }
}

impl<T> fmt::Debug for IntoIter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad("IntoIter { .. }")
    }
}
