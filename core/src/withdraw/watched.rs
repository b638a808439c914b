//! What watchers see of members: a list in the hands of its goroutine, as a word.
#![allow(
    unsafe_code,
    reason = "members are found by address, under the lock of their list"
)]

use super::{Member, Members};
use core::ptr::NonNull;

impl Members {
    /// The list that begins with the member at `first`, as `into_raw` has returned.
    pub(crate) fn from_raw(first: Option<NonNull<()>>) -> Self {
        Members(first.map(NonNull::cast))
    }

    pub(crate) fn into_raw(self) -> Option<NonNull<()>> {
        self.0.map(NonNull::cast)
    }

    /// The members in the list. The references are valid until its lock is released.
    pub(crate) fn iter<'a>(&self) -> impl Iterator<Item = &'a Member> + use<'a> {
        // SAFETY: the lock is held, and the members of the list are alive.
        core::iter::successors(self.0.map(|first| unsafe { first.as_ref() }), |member| {
            // SAFETY: as above.
            unsafe { (*member.links.get()).next.map(|next| next.as_ref()) }
        })
    }
}
