//! Waits that a cancel can end.
//!
//! A goroutine that can be cancelled is a [`Member`] of a [`RawCancel`](crate::cancel::RawCancel).
//! The member lies on the goroutine's stack, and the goroutine refers to its innermost one. Before
//! the goroutine waits, it publishes in the member's word what it waits on. The canceller takes
//! that out and ends the wait.
//!
//! ```text
//!          publish                  cancel               cancel
//!   FREE ───────────▶ what it waits on ─────────▶ BUSY ─────────▶ CANCELLED
//!    │ ▲                 │                                          ▲
//!    │ └─────────────────┘ withdraw                                 │ cancel
//!    └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! | word | means | left by |
//! |---|---|---|
//! | `FREE` | the goroutine is in no wait that a cancel ends | `publish`, `cancel` |
//! | an address | it is in a wait on this choice or slot, or about to be | `withdraw`, `cancel` |
//! | `BUSY` | the canceller uses that choice or slot | the same `cancel` |
//! | `CANCELLED` | every wait that can fail does | |
//!
//! The race: a wait ends by its event while the canceller uses the choice, which lies on the
//! waiter's stack. So the waiter withdraws it before it goes on, and a withdrawal that finds `BUSY`
//! waits until the canceller is done. That is a few instructions, or one time slice if the
//! canceller has lost its CPU.
//!
//! The other race: the canceller comes before the wait is published, or after it and before the
//! goroutine has stopped. In the first case `publish` fails. In the second the choice is decided or
//! the slot cancelled, and the commit of the park is refused.
//!
//! What was completed wins: the choice has one outcome, and a slot that is ready stays so.
//!
//! A cancelled goroutine does not wait, so one that goes on in a loop would keep its thread. Each
//! operation that a cancel refuses therefore counts as one that did not block: after some of them
//! the goroutine yields.
#![allow(
    unsafe_code,
    reason = "a member refers to what its goroutine waits on by address"
)]

mod watched;

use crate::choice::{Choice, Outcome};
use crate::fdmutex::FdMutex;
use crate::os::{Mode, Nanos};
use crate::polldesc::{PollDesc, PollError};
use crate::runtime::Runtime;
use crate::sched::{Ended, Parker, Sched};
use crate::sync::{AtomicUsize, Ordering, UnsafeCell, unmodeled, yield_thread};
use crate::wait_info::{Wait, WaitWords};
use crate::waiter::{WaitSlot, Waiter};
use core::fmt;
use core::ptr::NonNull;

/// The goroutine is cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cancelled;

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the goroutine is cancelled")
    }
}

impl core::error::Error for Cancelled {}

impl From<Cancelled> for PollError {
    fn from(_: Cancelled) -> Self {
        PollError::Cancelled
    }
}

const FREE: usize = 0;
const CANCELLED: usize = 1;
const BUSY: usize = 2;
/// Tags the address of a slot. Both types are aligned to more.
const SLOT: usize = 1;

static_assertions::const_assert!(align_of::<Choice>() > BUSY && align_of::<WaitSlot>() > BUSY);

/// How many members are cancelled and have not left. An operation looks for its member only if
/// there are any.
static CANCELLED_MEMBERS: unmodeled::AtomicUsize = unmodeled::AtomicUsize::new(0);

/// The stay of one goroutine or thread in a cancel, on its stack.
pub(crate) struct Member {
    word: AtomicUsize,
    /// Owned by the holder of the cancel's gate. Once it is cancelled: of the lock of the list in
    /// its goroutine (`cancel::reached`).
    links: UnsafeCell<Links>,
    operations: &'static Operations,
    /// What it is a member of. The owner knows the type.
    owner: NonNull<()>,
}

#[derive(Default)]
struct Links {
    prev: Option<NonNull<Member>>,
    next: Option<NonNull<Member>>,
}

/// What a member's goroutine calls in place of the ordinary operations. By address, so that a
/// program without members is linked without these functions.
pub(crate) struct Operations {
    pub(crate) poll_wait: PollWait,
    pub(crate) lock: fn(&Member, &'static Sched, &FdMutex, Mode) -> Result<(), PollError>,
    pub(crate) sleep: fn(&Member, &'static Sched, Nanos),
    pub(crate) wait: fn(&Member, &'static Sched, &Choice, Option<Nanos>, WaitWords) -> Ended,
}

type PollWait = fn(&Member, &'static Sched, &'static PollDesc, Mode) -> Result<(), PollError>;

/// What a goroutine waits on.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    Choice(&'a Choice),
    Slot(&'a WaitSlot),
}

impl Target<'_> {
    fn into_word(self) -> usize {
        match self {
            Target::Choice(choice) => core::ptr::from_ref(choice).expose_provenance(),
            Target::Slot(slot) => core::ptr::from_ref(slot).expose_provenance() | SLOT,
        }
    }

    /// Ends the wait. Returns the waiter if it has stopped.
    ///
    /// # Safety
    ///
    /// `word` came from `into_word`, and the choice or slot still exists.
    unsafe fn end(word: usize) -> Option<Waiter> {
        let address = word & !SLOT;
        if word & SLOT == 0 {
            // SAFETY: the caller's promise.
            let choice = unsafe { &*core::ptr::with_exposed_provenance::<Choice>(address) };
            return choice.decide(Outcome::Withdrawn).flatten();
        }
        // SAFETY: the caller's promise.
        let slot = unsafe { &*core::ptr::with_exposed_provenance::<WaitSlot>(address) };
        slot.cancel()
    }
}

impl Member {
    pub(crate) fn new(operations: &'static Operations, owner: NonNull<()>) -> Self {
        Member {
            word: AtomicUsize::new(FREE),
            links: UnsafeCell::new(Links::default()),
            operations,
            owner,
        }
    }

    /// What it is a member of.
    pub(crate) fn owner(&self) -> NonNull<()> {
        self.owner
    }

    /// Announces a wait on `target`, which stays in place until `withdraw`.
    pub(crate) fn publish(&self, target: Target<'_>) -> Result<(), Cancelled> {
        // Release pairs with the Acquire in `cancel`: the canceller sees the choice.
        self.word
            .compare_exchange(
                FREE,
                target.into_word(),
                Ordering::AcqRel,
                Ordering::Acquire,
            )
            .map(|_| ())
            .map_err(|_| Cancelled)
    }

    /// Takes back what was published. The canceller does not use it afterwards.
    pub(crate) fn withdraw(&self, target: Target<'_>) {
        let word = target.into_word();
        while let Err(seen) =
            self.word
                .compare_exchange(word, FREE, Ordering::AcqRel, Ordering::Acquire)
        {
            if seen == CANCELLED {
                return;
            }
            yield_thread();
        }
    }

    /// Whether it is cancelled. The canceller may still be about to end the wait.
    pub(crate) fn is_cancelled(&self) -> bool {
        matches!(self.word.load(Ordering::Acquire), BUSY | CANCELLED)
    }

    /// Cancels the member and ends the wait of its goroutine. Returns the waiter if it has stopped.
    /// Called once, by the holder of the cancel's gate.
    pub(crate) fn cancel(&self) -> Option<Waiter> {
        CANCELLED_MEMBERS.fetch_add(1, Ordering::Relaxed);
        let next = |word| Some(if word == FREE { CANCELLED } else { BUSY });
        // Release: a goroutine that sees the cancel sees what the canceller did before.
        let before = self
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        let (Ok(word) | Err(word)) = before;
        if word == FREE {
            return None;
        }
        // SAFETY: `publish` stored the word, and `withdraw` waits while this is `BUSY`.
        let waiter = unsafe { Target::end(word) };
        self.word.store(CANCELLED, Ordering::Release);
        waiter
    }

    /// Called when the member has left its cancel.
    pub(crate) fn left(&self) {
        if self.is_cancelled() {
            CANCELLED_MEMBERS.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Waits until `choice` is decided, also by a cancel.
    pub(crate) fn wait(
        &self,
        sched: &'static Sched,
        choice: &Choice,
        until: Option<Nanos>,
        wait: WaitWords,
    ) -> Ended {
        if self.publish(Target::Choice(choice)).is_err() {
            // The waiter still runs, so there is none to wake.
            _ = choice.decide(Outcome::Withdrawn);
        }
        let ended = sched.wait_until(choice, until, wait);
        self.withdraw(Target::Choice(choice));
        ended
    }

    /// Sleeps until the clock shows `when`, or a cancel.
    pub(crate) fn sleep(&self, sched: &'static Sched, when: Nanos) {
        let choice = Choice::new();
        let ended = self.wait(sched, &choice, Some(when), Wait::Sleep(when).encode());
        if !ended.parked {
            sched.spend(1);
        }
    }

    /// As [`FdMutex::lock`], unless a cancel comes first.
    pub(crate) fn lock(
        &self,
        sched: &'static Sched,
        mutex: &FdMutex,
        mode: Mode,
    ) -> Result<(), PollError> {
        if self.is_cancelled() {
            sched.spend(1);
            return Err(PollError::Cancelled);
        }
        mutex.lock_by(mode, sched, || {
            let turns = mutex.turns(mode);
            let has_turn =
                turns.acquire_by(sched, |choice, wait| self.wait(sched, choice, None, wait));
            if !has_turn {
                mutex.leave(mode, sched);
            }
            has_turn
        })
    }
}

/// The members of a cancel, under the cancel's gate, or the cancelled members of a goroutine, under
/// the lock of that list.
pub(crate) struct Members(Option<NonNull<Member>>);

// SAFETY: members are used under the gate that the list lies under, and may be by any thread.
unsafe impl Send for Members {}

impl Members {
    pub(crate) const fn new() -> Self {
        Members(None)
    }

    /// Adds a member.
    ///
    /// # Safety
    ///
    /// It is in no list, and stays in place until it is removed.
    pub(crate) unsafe fn push(&mut self, member: &Member) {
        let this = NonNull::from(member);
        let next = self.0.replace(this);
        // SAFETY: the gate is held, and the members of the list are alive.
        unsafe {
            *member.links.get() = Links { prev: None, next };
            if let Some(next) = next {
                links_of(next).prev = Some(this);
            }
        }
    }

    /// Removes a member.
    ///
    /// # Safety
    ///
    /// It is in this list.
    pub(crate) unsafe fn remove(&mut self, member: &Member) {
        // SAFETY: the gate is held, and the members of the list are alive.
        unsafe {
            let Links { prev, next } = core::mem::take(&mut *member.links.get());
            match prev {
                Some(prev) => links_of(prev).next = next,
                None => self.0 = next,
            }
            if let Some(next) = next {
                links_of(next).prev = prev;
            }
        }
    }

    /// Takes the first member out. The reference is valid until the gate is released.
    pub(crate) fn pop<'a>(&mut self) -> Option<&'a Member> {
        // SAFETY: the gate is held, and the members of the list are alive.
        let first = unsafe { self.0?.as_ref() };
        // SAFETY: it is in this list.
        unsafe { self.remove(first) };
        Some(first)
    }
}

/// # Safety
///
/// The member is alive, its cancel's gate is held, and no other reference to its links exists.
unsafe fn links_of<'a>(member: NonNull<Member>) -> &'a mut Links {
    // SAFETY: the caller's promise.
    unsafe { &mut *member.as_ref().links.get() }
}

impl Parker {
    /// The innermost member of the caller.
    #[inline]
    pub(crate) fn member(&self) -> Option<&Member> {
        let member = self.member_word()?.cast::<Member>();
        // SAFETY: `enter` stored the address of a member that outlives the closure in which this
        // code runs.
        Some(unsafe { member.as_ref() })
    }

    /// What waits for a descriptor in place of [`poll_wait`](Sched::poll_wait), if the caller can
    /// be cancelled.
    #[inline]
    pub(crate) fn cancellable_poll_wait(&self) -> Option<(&Member, PollWait)> {
        let member = self.member()?;
        Some((member, member.operations.poll_wait))
    }
}

impl Sched {
    /// Runs `f` with `member` as the innermost one; `None`: no cancel reaches the goroutine.
    pub(crate) fn enter<T>(&'static self, member: Option<&Member>, f: impl FnOnce() -> T) -> T {
        struct Restore(&'static Sched, Option<NonNull<()>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                self.0.set_member_word(self.1);
            }
        }
        let before = self.parker().member_word();
        let _restore = Restore(self, before);
        self.set_member_word(member.map(|member| NonNull::from(member).cast()));
        f()
    }

    /// Fails if the calling goroutine is cancelled. Every operation that can fail asks first.
    #[inline]
    pub(crate) fn check_cancelled(&'static self) -> Result<(), Cancelled> {
        match any_cancelled() {
            false => Ok(()),
            true => self.check_member(),
        }
    }

    #[cold]
    fn check_member(&'static self) -> Result<(), Cancelled> {
        match self.parker().member() {
            Some(member) if member.is_cancelled() => {
                self.spend(1);
                Err(Cancelled)
            }
            _ => Ok(()),
        }
    }

    /// As [`wait_until`](Self::wait_until). A cancel of the caller also ends the wait.
    ///
    /// Always inlined: a call costs twenty instructions of each wait.
    #[inline(always)]
    pub(crate) fn wait_or_cancel(
        &'static self,
        choice: &Choice,
        until: Option<Nanos>,
        wait: WaitWords,
    ) -> Ended {
        let parker = self.parker();
        match parker.member() {
            None => parker.wait_until(choice, until, wait),
            Some(member) => (member.operations.wait)(member, self, choice, until, wait),
        }
    }

    /// As [`Member::sleep`], if a cancel can reach the caller. Returns whether it can.
    #[inline]
    pub(crate) fn sleep_as_member(&'static self, when: Nanos) -> bool {
        let parker = self.parker();
        let Some(member) = parker.member() else {
            return false;
        };
        (member.operations.sleep)(member, self, when);
        true
    }

    /// As [`Member::lock`], if a cancel can reach the caller.
    #[inline]
    pub(crate) fn lock_as_member(
        &'static self,
        mutex: &FdMutex,
        mode: Mode,
    ) -> Option<Result<(), PollError>> {
        let parker = self.parker();
        let member = parker.member()?;
        Some((member.operations.lock)(member, self, mutex, mode))
    }

    /// Whether any goroutine is cancelled.
    #[inline]
    pub(crate) fn has_cancelled(&self) -> bool {
        any_cancelled()
    }
}

/// Whether any goroutine is cancelled. Models run at the same time, so they always look.
#[inline]
pub(crate) fn any_cancelled() -> bool {
    cfg!(loom) || CANCELLED_MEMBERS.load(Ordering::Relaxed) != 0
}

/// As [`Sched::check_cancelled`]. It does not start the scheduler.
#[inline]
pub(crate) fn check_cancelled(runtime: impl Runtime) -> Result<(), Cancelled> {
    match any_cancelled() {
        false => Ok(()),
        true => runtime.started().map_or(Ok(()), Sched::check_member),
    }
}
