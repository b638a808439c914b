//! The cancelled members of a goroutine: how a dump finds what has cancelled it.
//!
//! A member lies on the stack of its goroutine, which may leave it and return at any time. So a
//! watcher does not go from the G to the stack. The G has a list of its cancelled members under a
//! lock of its own:
//!
//! | the member | in the list | listed or taken out by | the cancel's gate is held by |
//! |---|---|---|---|
//! | is not cancelled | no | | |
//! | is being cancelled | no → yes | the canceller | the canceller |
//! | joins a cancel that is cancelled | no → yes | the goroutine | |
//! | is cancelled | yes | | |
//! | leaves | yes → no | the goroutine | the goroutine |
//!
//! The races:
//!
//! - The canceller lists a member while its goroutine leaves it. Both hold the gate of the cancel:
//!   either the goroutine has left, and the canceller does not find the member, or it leaves later,
//!   finds that it is cancelled and takes it out. Until it has the gate it cannot return, so the G
//!   exists while the canceller uses it.
//! - A watcher looks at a member while its goroutine leaves it. Both hold the lock of the list. A
//!   member in the list has not been left, so it exists, and so does the cancel that it refers to,
//!   which `RawCancel::run` borrows until the member was left.
//! - A watcher looks at the list while the goroutine returns. The watcher has pinned the goroutine,
//!   so the G and the lock stay. The list is empty by then: a goroutine leaves its members before
//!   it returns, also if it unwinds.
//!
//! Operations ask the innermost member only, which is cancelled with those around it. It is at the
//! lowest address, since a stack grows towards lower ones. If the innermost cancelled member is not
//! `G::member`, the goroutine is in a `shield`, and its operations do not fail.
#![allow(unsafe_code, reason = "goroutines and cancels are found by address")]

use super::{Cause, Node};
use crate::g::G;
use crate::must::Must;
use crate::sched::Sched;
use crate::sync::Ordering;
use crate::timed::Timed;
use crate::trace::{Canceller, Identity};
use crate::withdraw::{Member, Members};
use alloc::vec::Vec;
use core::fmt;

/// That a goroutine is cancelled. Its `Display` is as in a dump: `cancelled by goroutine 3 at
/// src/main.rs:7:5`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cancellation {
    /// What has cancelled it.
    pub by: Canceller,
    /// Whether the cancel that came first is a parent of its own one, or a parent's parent.
    pub with_parent: bool,
    /// Whether the cancel does not reach its operations now, because it is in a `shield`.
    pub shielded: bool,
}

impl fmt::Display for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.with_parent, self.by) {
            (true, by) => write!(f, "cancelled with its parent by {by}")?,
            (false, Canceller::Deadline) => f.write_str("cancelled by its deadline")?,
            (false, by) => write!(f, "cancelled by {by}")?,
        }
        match self.shielded {
            true => f.write_str(", shielded"),
            false => Ok(()),
        }
    }
}

/// Lists a member that was cancelled. Adds its goroutine to `traced` if notes are taken. The
/// caller holds the cancel's gate, or is the goroutine.
pub(super) fn list(sched: &'static Sched, member: &Member, traced: &mut Vec<Identity>) {
    let Some(g) = goroutine_of(sched, member) else {
        return;
    };
    enter(g, member);
    if sched.is_observed() {
        traced.push(g.identity());
    }
}

/// Takes a cancelled member out, which is about to leave. Its goroutine calls this and holds the
/// cancel's gate.
pub(super) fn unlist(sched: &'static Sched, member: &Member) {
    if let Some(g) = goroutine_of(sched, member) {
        leave(g, member);
    }
}

/// The goroutine on whose stack a member lies. `None`: an ordinary thread, which no dump shows.
fn goroutine_of(sched: &'static Sched, member: &Member) -> Option<&'static G> {
    let owner = sched.arena().owner_at(core::ptr::from_ref(member).addr())?;
    // SAFETY: the member has not been left, so the goroutine of that stack has not returned. The
    // callers do not use it longer.
    unsafe { owner.current().cast::<G>().as_ref() }
}

pub(super) fn enter(g: &G, member: &Member) {
    // SAFETY: a member that was cancelled is in no list, and `leave` is called before it ends.
    change(g, |list| unsafe { list.push(member) });
}

pub(super) fn leave(g: &G, member: &Member) {
    // SAFETY: `enter` has listed it, once it was cancelled.
    change(g, |list| unsafe { list.remove(member) });
}

fn change(g: &G, f: impl FnOnce(&mut Members)) {
    let mut first = g.cancelled().lock();
    let mut list = Members::from_raw(*first);
    f(&mut list);
    *first = list.into_raw();
}

/// Calls `f` with the innermost cancelled member of a goroutine, if it has any.
pub(super) fn with_innermost<T>(g: &G, f: impl FnOnce(&Member) -> T) -> Option<T> {
    let first = g.cancelled_if_any()?.lock();
    let list = Members::from_raw(*first).iter();
    list.min_by_key(|member| core::ptr::from_ref(*member).addr())
        .map(f)
}

/// Whether a goroutine is cancelled, and by what. The caller has pinned it.
pub(crate) fn cancellation(g: &G) -> Option<Cancellation> {
    with_innermost(g, |member| {
        // SAFETY: `RawCancel::run` made the member with its node, and borrows the node until the
        // member has left the list.
        let node = unsafe { member.owner().cast::<Timed<Node>>().as_ref() };
        Cancellation {
            by: *node.canceller.get().must("a cancel has no canceller"),
            with_parent: node.cause.load(Ordering::Acquire) == Cause::Parent.number(),
            shielded: g.member.load(Ordering::Relaxed).cast_const()
                != core::ptr::from_ref(member).cast(),
        }
    })
}
