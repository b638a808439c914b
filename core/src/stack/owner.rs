//! The owner words at the top of each stack.

use crate::sync::{AtomicPtr, Ordering};
use core::ptr::{self, NonNull};

/// The words at the top of a stack that name its G: `current` for the goroutine itself, `listed`
/// for watchers (dumps, deadlock detection) on other threads.
///
/// The race: a watcher reads the G while the goroutine returns and the scheduler frees it. So the
/// watcher first pins the G. Of the two, the one that finishes last frees the G:
///
/// | `listed` | by | meaning |
/// |---|---|---|
/// | null → G | the M, in `bind` | the goroutine has started |
/// | G → G + `PIN` | a watcher, in `pin` | the G must not be freed |
/// | G → null | the M, in `unbind` | the goroutine has returned; the M frees the G |
/// | G + `PIN` → null | the M, in `unbind` | the goroutine has returned; the watcher frees the G |
/// | G + `PIN` → G | the watcher, in `unpin` | unpinned; if it fails, the goroutine has returned |
///
/// The address cannot become another goroutine's in between, since the watcher has not freed it.
#[repr(C, align(16))]
#[cfg_attr(loom, derive(Default))]
pub(crate) struct StackOwner {
    /// The G that last started here. Read on this stack only.
    current: AtomicPtr<()>,
    /// The G that has started here and not returned, perhaps with `PIN`.
    listed: AtomicPtr<()>,
}

/// The alignment of a G leaves this bit free.
const PIN: usize = 1;

impl StackOwner {
    /// The goroutine on this stack, or null. Only code on this stack may rely on it.
    #[inline]
    pub(crate) fn current(&self) -> *mut () {
        self.current.load(Ordering::Relaxed)
    }

    /// Publishes the goroutine that starts on this stack. Release pairs with the Acquire in `pin`:
    /// the watcher sees an initialised G.
    pub(crate) fn bind(&self, g: NonNull<()>) {
        self.current.store(g.as_ptr(), Ordering::Relaxed);
        self.listed.store(g.as_ptr(), Ordering::Release);
    }

    /// Withdraws the goroutine, which has returned. True if the caller must free the G.
    #[must_use]
    pub(crate) fn unbind(&self) -> bool {
        self.listed.swap(ptr::null_mut(), Ordering::AcqRel).addr() & PIN == 0
    }

    /// Pins the goroutine and returns it. `None` if there is none, or another watcher has pinned
    /// it.
    pub(crate) fn pin(&self) -> Option<NonNull<()>> {
        let pinned = |g: *mut ()| {
            (!g.is_null() && g.addr() & PIN == 0).then(|| g.map_addr(|address| address | PIN))
        };
        NonNull::new(
            self.listed
                .fetch_update(Ordering::AcqRel, Ordering::Relaxed, pinned)
                .ok()?,
        )
    }

    /// Unpins the goroutine. False if it has returned: the caller must free the G.
    #[must_use]
    pub(crate) fn unpin(&self, g: NonNull<()>) -> bool {
        let pinned = g.as_ptr().map_addr(|address| address | PIN);
        self.listed
            .compare_exchange(pinned, g.as_ptr(), Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Whether a watcher has pinned the goroutine.
    pub(crate) fn is_pinned(&self) -> bool {
        self.listed.load(Ordering::Relaxed).addr() & PIN != 0
    }
}
