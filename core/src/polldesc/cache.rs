//! The cache that poll descriptors come from and go back to. Their memory is never returned to the
//! allocator, since the kernel may hold a token for longer than the descriptor lives.

use crate::must::Must;
use crate::polldesc::PollDesc;
use crate::sync::{Lock, Ordering};
use alloc::boxed::Box;
use core::iter;
use core::mem::MaybeUninit;
use core::ptr;

/// How many poll descriptors are allocated at once: a page of them. One under loom.
const BLOCK: usize = if cfg!(loom) {
    1
} else {
    4096 / size_of::<PollDesc>()
};

/// How many free poll descriptors a P keeps at most, and how many move between it and the list of
/// all at once. Few under loom.
const KEPT: usize = if cfg!(loom) { 1 } else { 64 };
const MOVED: usize = if cfg!(loom) { 1 } else { KEPT / 2 };

/// All poll descriptors of a scheduler. Each P keeps some that are free: if all came from one list,
/// the list and each poll descriptor would move between CPUs for each connection.
#[doc(alias = "pollCache")]
pub(crate) struct PollCache {
    free: Lock<FreeDescs>,
}

/// Free poll descriptors. Each links to the next. The last to come is the first to go.
#[derive(Default)]
pub(crate) struct FreeDescs {
    first: Option<&'static PollDesc>,
    len: usize,
}

impl FreeDescs {
    fn pop(&mut self) -> Option<&'static PollDesc> {
        let desc = self.first?;
        // SAFETY: the link is null or was stored by `push`.
        self.first = unsafe { desc.link.load(Ordering::Relaxed).as_ref() };
        self.len -= 1;
        Some(desc)
    }

    fn push(&mut self, desc: &'static PollDesc) {
        let next = self
            .first
            .map_or(ptr::null_mut(), |next| ptr::from_ref(next).cast_mut());
        desc.link.store(next, Ordering::Relaxed);
        self.first = Some(desc);
        self.len += 1;
    }

    /// Moves up to [`MOVED`] here.
    #[cold]
    fn take_from(&mut self, other: &mut FreeDescs) {
        iter::from_fn(|| other.pop())
            .take(MOVED)
            .for_each(|desc| self.push(desc));
    }
}

impl PollCache {
    /// An empty cache.
    pub(crate) fn new() -> Self {
        PollCache {
            free: Lock::new(FreeDescs::default()),
        }
    }

    /// A poll descriptor for `fd`, not yet registered with a poller. `kept` are those of the P that
    /// the caller runs on, if any.
    #[doc(alias = "pollOpen")]
    pub(crate) fn open(&self, kept: Option<&Lock<FreeDescs>>, fd: i32) -> &'static PollDesc {
        let desc = self.take(kept).unwrap_or_else(|| self.grow());
        desc.open(fd);
        desc
    }

    /// Takes the descriptor out of its poller, and puts its poll descriptor back, which was
    /// unblocked and has no waiter. `kept` is as for [`open`](Self::open).
    ///
    /// # Panics
    ///
    /// If it was not unblocked, or has a waiter.
    #[doc(alias = "pollClose")]
    pub(crate) fn close(&self, kept: Option<&Lock<FreeDescs>>, desc: &'static PollDesc) {
        if let Some(poller) = desc.poller() {
            poller.deregister(desc.fd());
        }
        desc.free();
        let Some(kept) = kept else {
            return self.free.lock().push(desc);
        };
        let mut kept = kept.lock();
        if kept.len == KEPT {
            self.free.lock().take_from(&mut kept);
        }
        kept.push(desc);
    }

    /// Takes a free poll descriptor, if there is one.
    fn take(&self, kept: Option<&Lock<FreeDescs>>) -> Option<&'static PollDesc> {
        let Some(kept) = kept else {
            return self.free.lock().pop();
        };
        let mut kept = kept.lock();
        if kept.len == 0 {
            kept.take_from(&mut self.free.lock());
        }
        kept.pop()
    }

    fn grow(&self) -> &'static PollDesc {
        let block: &'static mut [MaybeUninit<PollDesc>] = Box::leak(Box::new_uninit_slice(BLOCK));
        let mut descs = block.iter_mut().map(|place| &*place.write(PollDesc::new()));
        let first = descs
            .next()
            .must("a new block of poll descriptors is empty");
        let mut free = self.free.lock();
        descs.for_each(|desc| free.push(desc));
        drop(free);
        first
    }
}
