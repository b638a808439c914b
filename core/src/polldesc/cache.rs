//! The cache that poll descriptors come from and go back to. Their memory is never returned to the
//! allocator, since the kernel may hold a token for longer than the descriptor lives.

use crate::must::Must;
use crate::polldesc::PollDesc;
use crate::sync::{Lock, Ordering};
use alloc::boxed::Box;
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};

/// How many poll descriptors are allocated at once: a page of them. One under loom.
const BLOCK: usize = if cfg!(loom) {
    1
} else {
    4096 / size_of::<PollDesc>()
};

/// All poll descriptors of a scheduler.
#[doc(alias = "pollCache")]
pub(crate) struct PollCache {
    /// The first free poll descriptor; each links to the next.
    free: Lock<Option<&'static PollDesc>>,
}

impl Default for PollCache {
    fn default() -> Self {
        Self::new()
    }
}

impl PollCache {
    /// An empty cache.
    pub(crate) fn new() -> Self {
        PollCache {
            free: Lock::new(None),
        }
    }

    /// A poll descriptor for `fd`, not yet registered with a poller.
    #[doc(alias = "pollOpen")]
    pub(crate) fn open(&self, fd: i32) -> &'static PollDesc {
        let desc = self.take().unwrap_or_else(|| self.grow());
        desc.open(fd);
        desc
    }

    /// Takes the descriptor out of its poller and takes back its poll descriptor, which was
    /// unblocked and has no waiter.
    ///
    /// # Panics
    ///
    /// If it was not unblocked, or has a waiter.
    #[doc(alias = "pollClose")]
    pub(crate) fn close(&self, desc: &'static PollDesc) {
        if let Some(poller) = desc.poller() {
            poller.deregister(desc.fd());
        }
        desc.free();
        self.put(desc);
    }

    fn take(&self) -> Option<&'static PollDesc> {
        let mut free = self.free.lock();
        let desc = (*free)?;
        // SAFETY: the link is null or was stored by `put`.
        *free = unsafe { desc.link.load(Ordering::Relaxed).as_ref() };
        Some(desc)
    }

    fn put(&self, desc: &'static PollDesc) {
        let mut free = self.free.lock();
        let next = free.map_or(ptr::null_mut(), |next| ptr::from_ref(next).cast_mut());
        desc.link.store(next, Ordering::Relaxed);
        *free = Some(desc);
    }

    fn grow(&self) -> &'static PollDesc {
        let block: &'static mut [MaybeUninit<PollDesc>] = Box::leak(Box::new_uninit_slice(BLOCK));
        let mut descs = block.iter_mut().map(|place| {
            let this = NonNull::from(&mut *place).cast();
            // SAFETY: the block is leaked, so `this` is where the value stays.
            &*place.write(unsafe { PollDesc::new(this) })
        });
        let first = descs
            .next()
            .must("a new block of poll descriptors is empty");
        descs.for_each(|desc| self.put(desc));
        first
    }
}
