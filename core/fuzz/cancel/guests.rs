//! Guests: members that are made by hand, and their waits.
#![allow(unsafe_code, reason = "guests are kept by address")]

use super::{Driver, End};
use crate::cancel::{Node, OPERATIONS, RawCancel, Stay};
use crate::choice::{Choice, Outcome};
use crate::fuzz::base::{FuzzOs, sched};
use crate::waiter::{Announced, Thread, WaitSlot};
use crate::withdraw::{Member, Target};
use core::ptr::NonNull;
use std::boxed::Box;
use std::collections::BTreeSet;

pub(super) struct Guest {
    pub(super) cancel: usize,
    _handle: RawCancel,
    member: NonNull<Member>,
    stay: Option<Stay<'static>>,
    published: Option<Published>,
}

/// What a guest waits on. Each part has its own place.
struct Published {
    choice: Box<Choice>,
    slot: Box<WaitSlot>,
    thread: Box<Thread>,
    is_slot: bool,
    is_committed: bool,
    end: Option<End>,
}

impl Driver<'_> {
    /// Ends the model's waits of guests that a cancel has reached.
    pub(super) fn end_guests(&self, reached: &BTreeSet<usize>) {
        for guest in &self.guests {
            let mut guest = guest.borrow_mut();
            let reached = guest.iter_mut().filter(|it| reached.contains(&it.cancel));
            for published in reached.filter_map(|guest| guest.published.as_mut()) {
                published.end.get_or_insert(End::Cancelled);
            }
        }
    }

    pub(super) fn join(&self, index: usize, cancel: usize) {
        let guest = &mut *self.guests[index].borrow_mut();
        if guest.is_some() {
            return;
        }
        let Some(handle) = self.handle(cancel) else {
            return;
        };
        let node = std::ptr::from_ref::<Node>(&handle.0);
        let owner = NonNull::from(&*handle.0).cast();
        let member = NonNull::from(Box::leak(Box::new(Member::new(&OPERATIONS, owner))));
        // SAFETY: the guest keeps the handle and the member until it has left.
        let stay = unsafe { Stay::begin(&*node, member.as_ref()) };
        *guest = Some(Guest {
            cancel,
            _handle: handle,
            member,
            stay: Some(stay),
            published: None,
        });
    }

    pub(super) fn leave(&self, index: usize) {
        self.withdraw(index);
        let Some(mut guest) = self.guests[index].take() else {
            return;
        };
        guest.stay = None;
        // SAFETY: `join` has leaked it, and it has left.
        drop(unsafe { Box::from_raw(guest.member.as_ptr()) });
        let cancel = guest.cancel;
        drop(guest);
        self.model.borrow_mut().drops(cancel);
    }

    fn with_guest(&self, index: usize, f: impl FnOnce(&mut Guest)) {
        if let Some(guest) = &mut *self.guests[index].borrow_mut() {
            f(guest);
        }
    }

    pub(super) fn publish(&self, index: usize, is_slot: bool) {
        self.with_guest(index, |guest| {
            if guest.published.is_some() {
                return;
            }
            let published = Published {
                choice: Box::new(Choice::new()),
                slot: Box::new(WaitSlot::new()),
                thread: Box::new(Thread::new()),
                is_slot,
                is_committed: false,
                end: None,
            };
            assert_eq!(published.slot.announce(), Announced::Waiting);
            let is_cancelled = self.model.borrow().is_cancelled(Some(guest.cancel));
            let outcome = guest.member().publish(published.target());
            assert_eq!(outcome.is_err(), is_cancelled);
            guest.published = outcome.is_ok().then_some(published);
        });
    }

    pub(super) fn commit(&self, index: usize) {
        self.with_guest(index, |guest| {
            let Some(published) = &mut guest.published else {
                return;
            };
            if published.is_committed {
                return;
            }
            let waiter = published.thread.waiter();
            let refused = match published.is_slot {
                true => published.slot.commit(waiter),
                false => published.choice.commit(waiter),
            };
            assert_eq!(refused.is_err(), published.end.is_some());
            published.is_committed = refused.is_ok();
        });
    }

    /// The event comes for which a guest waits.
    pub(super) fn event(&self, index: usize) {
        self.with_guest(index, |guest| {
            let Some(published) = &mut guest.published else {
                return;
            };
            let is_first = published.end.is_none();
            let waiter = match published.is_slot {
                true => published.slot.notify(),
                false => {
                    let decided = published.choice.decide(Outcome::Arm(0));
                    assert_eq!(decided.is_some(), is_first);
                    decided.flatten()
                }
            };
            assert_eq!(waiter.is_some(), is_first && published.is_committed);
            if let Some(waiter) = waiter {
                sched().ready(waiter);
            }
            // A slot latches readiness, also after a cancel.
            if is_first || published.is_slot {
                published.end = Some(End::Event);
            }
        });
    }

    pub(super) fn withdraw(&self, index: usize) {
        self.with_guest(index, |guest| {
            if let Some(published) = guest.published.take() {
                guest.member().withdraw(published.target());
                published.settle();
            }
        });
    }
}

impl Guest {
    fn member(&self) -> &'static Member {
        // SAFETY: it is freed when the guest leaves, which uses the reference no more.
        unsafe { self.member.as_ref() }
    }

    pub(super) fn compare(&self, is_cancelled: bool) {
        assert_eq!(self.member().is_cancelled(), is_cancelled);
        let Some(published) = &self.published else {
            return;
        };
        if published.is_slot {
            let is_ready = published.end == Some(End::Event);
            assert_eq!(published.slot.is_ready(), is_ready);
        } else {
            let expected = published.end.map(|end| match end {
                End::Event => Outcome::Arm(0),
                End::Cancelled | End::Either => Outcome::Withdrawn,
            });
            assert_eq!(published.choice.outcome(), expected);
        }
    }
}

impl Published {
    fn target(&self) -> Target<'_> {
        match self.is_slot {
            true => Target::Slot(&self.slot),
            false => Target::Choice(&self.choice),
        }
    }

    /// Ends the wait. A waiter that is still there is taken back, and one that was woken runs.
    fn settle(self) {
        let is_parked = self.is_committed && self.end.is_none();
        let waiter = match self.is_slot {
            true => self.slot.cancel(),
            false => self.choice.decide(Outcome::Withdrawn).flatten(),
        };
        assert_eq!(waiter.is_some(), is_parked, "whether a waiter is parked");
        if let Some(waiter) = waiter {
            sched().ready(waiter);
        }
        if self.is_committed {
            // `sleep` panics if the thread was not woken.
            self.thread.block(&FuzzOs);
        }
        if self.is_slot {
            assert_eq!(self.slot.settle(), self.end == Some(End::Event));
        }
    }
}
