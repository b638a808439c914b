//! What a program keeps for each goroutine: a word that only the goroutine uses, and a value that
//! it shares with the holders of its handle.

use crate::join::Join;
use crate::sched::Sched;
use alloc::sync::Arc;

impl Sched {
    /// The word of the calling goroutine, null until it was set. `None` on an ordinary thread.
    #[inline]
    pub fn local(&self) -> Option<*mut ()> {
        Some(self.current()?.local())
    }

    /// Sets the word of the calling goroutine. Nothing happens on an ordinary thread.
    ///
    /// Nothing is done with the word when the goroutine returns: the program takes back what it
    /// refers to before.
    pub fn set_local(&self, word: *mut ()) {
        if let Some(g) = self.current() {
            g.set_local(word);
        }
    }

    /// What is attached to the calling goroutine. If there is nothing yet, `make` makes it from the
    /// goroutine's number and name; it must not wait. `None` on an ordinary thread.
    ///
    /// # Panics
    ///
    /// If a value of another type was attached.
    pub fn attached<T: Clone + Send + Sync + 'static>(
        &self,
        make: impl FnOnce(u64, Option<Arc<str>>) -> T,
    ) -> Option<T> {
        Some(self.current()?.attached(make).clone())
    }
}

impl<R> Join<R> {
    /// What is attached to the goroutine, as by [`Sched::attached`].
    ///
    /// # Panics
    ///
    /// If a value of another type was attached.
    pub fn attached<T: Send + Sync + 'static>(
        &self,
        make: impl FnOnce(u64, Option<Arc<str>>) -> T,
    ) -> &T {
        self.g().attached(make)
    }
}
