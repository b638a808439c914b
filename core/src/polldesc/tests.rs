//! Tests of PollDesc without a kernel: they call events, deadlines and closes directly.

use super::*;
use crate::os::{Delay, Errno, Events, Nanos, Netpoll};
use crate::waiter::{Announced, Thread, Waiter};
use std::boxed::Box;

/// A poller that watches nothing.
struct Blind;

#[allow(unsafe_code)]
// SAFETY: it reports no tokens.
unsafe impl Netpoll for Blind {
    fn init() -> Result<Self, Errno> {
        Ok(Blind)
    }
    fn open(&self, _: i32, _: TaggedPtr) -> Result<(), Errno> {
        Ok(())
    }
    fn close(&self, _: i32) {}
    fn poll(&self, _: Delay, _: &mut Events) {}
    fn wake(&self) {}
}

struct Fixture {
    cache: PollCache,
    heap: &'static Heap,
    poller: &'static Poller,
}

impl Fixture {
    fn new() -> Self {
        let poller = Poller::new(Box::new(Blind));
        Fixture {
            cache: PollCache::new(),
            heap: Box::leak(Box::new(Heap::new(0))),
            poller: Box::leak(Box::new(poller)),
        }
    }

    fn open(&self) -> &'static PollDesc {
        let desc = self.cache.open(None, 3);
        assert!(desc.join_poller());
        self.poller.register(desc.fd(), desc.token()).unwrap();
        let mut woken = WaiterList::new();
        desc.joined(self.poller, &mut woken);
        assert!(woken.is_empty());
        desc
    }

    fn close(&self, desc: &'static PollDesc) {
        desc.unblock(&mut WaiterList::new());
        self.cache.close(None, desc);
    }

    /// Sets a deadline. Returns how many waiters it woke.
    fn set(&self, desc: &PollDesc, deadline: Deadline, mode: Option<Mode>) -> usize {
        let mut woken = WaiterList::new();
        let _ = desc.set_deadline(&|| Some(deadline), mode, self.heap, &mut woken);
        count(woken)
    }

    fn run(&self, now: Nanos) -> usize {
        let mut woken = WaiterList::new();
        self.heap.run(now, &mut woken);
        count(woken)
    }
}

fn count(mut list: WaiterList) -> usize {
    core::iter::from_fn(|| list.pop()).count()
}

/// A waiter parks in direction `mode`.
fn park(desc: &PollDesc, mode: Mode) {
    let thread: &'static Thread = Box::leak(Box::new(Thread::new()));
    let slot = desc.slot(mode);
    assert_eq!(slot.announce(), Announced::Waiting);
    assert!(slot.commit(thread.waiter()).is_ok());
}

fn deliver(desc: &PollDesc, tag: u32, ready: Ready) -> usize {
    let mut woken = WaiterList::new();
    desc.deliver(tag, ready, &mut woken);
    count(woken)
}

#[test]
fn closing_comes_before_a_deadline_and_that_before_an_error() {
    let fix = Fixture::new();
    let desc = fix.open();
    assert_eq!(desc.may_wait(Mode::Read), Ok(()));
    deliver(
        desc,
        desc.token().tag(),
        Ready::READ | Ready::WRITE | Ready::ERROR,
    );
    assert_eq!(desc.may_wait(Mode::Read), Err(PollError::NotPollable));
    assert_eq!(
        desc.may_try(Mode::Read),
        Ok(()),
        "the system reports what the error was"
    );
    assert_eq!(
        desc.may_wait(Mode::Write),
        Ok(()),
        "a write finds the error itself"
    );
    fix.set(desc, Deadline::Passed, None);
    assert_eq!(desc.may_wait(Mode::Read), Err(PollError::Timeout));
    assert_eq!(desc.may_wait(Mode::Write), Err(PollError::Timeout));
    desc.unblock(&mut WaiterList::new());
    assert_eq!(desc.may_wait(Mode::Read), Err(PollError::Closing));
    assert_eq!(desc.may_wait(Mode::Write), Err(PollError::Closing));
}

#[test]
fn an_error_is_forgotten_with_the_next_other_event_a_hangup_is_not() {
    let fix = Fixture::new();
    let desc = fix.open();
    let tag = desc.token().tag();
    deliver(desc, tag, Ready::READ | Ready::ERROR | Ready::HANGUP);
    deliver(desc, tag, Ready::READ);
    assert_eq!(desc.may_wait(Mode::Read), Ok(()));
    assert!(desc.hung_up());
    fix.close(desc);
    let next = fix.open();
    assert!(
        core::ptr::eq(desc, next) && !next.hung_up(),
        "a new use starts clean"
    );
}

#[test]
fn events_of_an_earlier_use_are_dropped() {
    let fix = Fixture::new();
    let desc = fix.open();
    let stale = desc.token().tag();
    fix.close(desc);
    assert_eq!(fix.open().token().addr(), desc as *const _ as usize);
    park(desc, Mode::Read);
    assert_eq!(deliver(desc, stale, Ready::all()), 0);
    assert_eq!(desc.may_wait(Mode::Read), Ok(()));
    assert!(!desc.hung_up());
    assert_eq!(deliver(desc, desc.token().tag(), Ready::READ), 1);
}

#[test]
fn an_error_that_lands_after_reuse_does_not_stick_to_the_new_use() {
    let fix = Fixture::new();
    let desc = fix.open();
    let stale = desc.token().tag();
    fix.close(desc);
    fix.open();
    // The event passed the first look at `fdseq` before the close.
    desc.info.note_event(Ready::ERROR | Ready::HANGUP, stale);
    assert_eq!(desc.may_wait(Mode::Read), Ok(()));
    assert!(!desc.hung_up());
}

#[test]
fn the_sequence_number_skips_zero_when_it_wraps() {
    let fix = Fixture::new();
    let desc = fix.open();
    desc.fdseq.store(TAG_MASK, Ordering::Relaxed);
    fix.close(desc);
    assert_eq!(fix.open().token().tag(), 1);
}

#[test]
fn an_event_wakes_the_directions_it_names() {
    let fix = Fixture::new();
    let desc = fix.open();
    let tag = desc.token().tag();
    park(desc, Mode::Read);
    park(desc, Mode::Write);
    assert_eq!(deliver(desc, tag, Ready::WRITE), 1);
    assert_eq!(deliver(desc, tag, Ready::READ), 1);
    assert!(desc.slot(Mode::Read).settle() && desc.slot(Mode::Write).settle());
}

#[test]
fn closing_wakes_both_directions_and_keeps_readiness() {
    let fix = Fixture::new();
    let desc = fix.open();
    park(desc, Mode::Read);
    deliver(desc, desc.token().tag(), Ready::WRITE);
    let mut woken = WaiterList::new();
    desc.unblock(&mut woken);
    assert_eq!(count(woken), 1);
    assert!(desc.slot(Mode::Write).is_ready());
}

#[test]
#[should_panic(expected = "unblocked twice")]
fn a_second_unblock_panics() {
    let desc = Fixture::new().open();
    desc.unblock(&mut WaiterList::new());
    desc.unblock(&mut WaiterList::new());
}

#[test]
#[should_panic(expected = "was not unblocked")]
fn a_close_without_an_unblock_panics() {
    let fix = Fixture::new();
    fix.cache.close(None, fix.open());
}

#[test]
fn a_passed_deadline_wakes_its_direction_at_once_and_stays_passed() {
    let fix = Fixture::new();
    let desc = fix.open();
    park(desc, Mode::Read);
    assert_eq!(fix.set(desc, Deadline::Passed, Some(Mode::Read)), 1);
    assert_eq!(desc.may_wait(Mode::Read), Err(PollError::Timeout));
    assert_eq!(desc.may_wait(Mode::Write), Ok(()));
    deliver(desc, desc.token().tag(), Ready::READ);
    assert_eq!(
        desc.may_wait(Mode::Read),
        Err(PollError::Timeout),
        "even with data ready"
    );
    fix.set(desc, Deadline::None, Some(Mode::Read));
    assert_eq!(desc.may_wait(Mode::Read), Ok(()));
    assert!(
        desc.slot(Mode::Read).is_ready(),
        "and the readiness is still there"
    );
}

#[test]
fn one_time_for_both_directions_takes_one_timer_and_fires_for_both() {
    let fix = Fixture::new();
    let desc = fix.open();
    fix.set(desc, Deadline::At(100), None);
    assert_eq!(fix.heap.len(), 1);
    park(desc, Mode::Read);
    park(desc, Mode::Write);
    assert_eq!(fix.run(99), 0);
    assert_eq!(fix.run(100), 2);
    assert_eq!(desc.may_wait(Mode::Write), Err(PollError::Timeout));
}

#[test]
fn ending_the_pairing_keeps_the_other_direction_on_time() {
    let fix = Fixture::new();
    for (changed, kept) in [(Mode::Read, Mode::Write), (Mode::Write, Mode::Read)] {
        let desc = fix.open();
        fix.set(desc, Deadline::At(100), None);
        fix.set(desc, Deadline::None, Some(changed));
        park(desc, changed);
        park(desc, kept);
        assert_eq!(fix.run(100), 1);
        assert_eq!(desc.may_wait(kept), Err(PollError::Timeout));
        assert_eq!(desc.may_wait(changed), Ok(()));
    }
}

#[test]
fn beginning_a_pairing_later_still_fires_for_both_once() {
    let fix = Fixture::new();
    let desc = fix.open();
    fix.set(desc, Deadline::At(100), Some(Mode::Write));
    fix.set(desc, Deadline::At(100), Some(Mode::Read));
    park(desc, Mode::Read);
    park(desc, Mode::Write);
    assert_eq!(fix.run(100), 2);
    assert_eq!(fix.run(1000), 0);
}

#[test]
fn a_deadline_moved_later_does_not_expire_at_the_old_time() {
    let fix = Fixture::new();
    let desc = fix.open();
    fix.set(desc, Deadline::At(100), Some(Mode::Read));
    fix.set(desc, Deadline::At(200), Some(Mode::Read));
    park(desc, Mode::Read);
    assert_eq!(fix.run(199), 0);
    assert_eq!(fix.run(200), 1);
}

#[test]
fn a_timer_on_its_way_is_ignored_once_the_deadline_has_changed() {
    let fix = Fixture::new();
    let desc = fix.open();
    fix.set(desc, Deadline::At(100), Some(Mode::Read));
    let stale = desc.state.lock().read.seq();
    fix.set(desc, Deadline::At(200), Some(Mode::Read));
    park(desc, Mode::Read);
    let mut woken = WaiterList::new();
    desc.expire(stale, true, false, &mut woken);
    assert_eq!(count(woken), 0);
    assert_eq!(desc.may_wait(Mode::Read), Ok(()));
}

#[test]
fn a_timer_of_an_earlier_use_does_not_expire_the_next() {
    let fix = Fixture::new();
    let desc = fix.open();
    fix.set(desc, Deadline::At(100), None);
    let stale = desc.state.lock().read.seq();
    fix.close(desc);
    let desc = fix.open();
    park(desc, Mode::Read);
    assert_eq!(fix.run(1000), 0);
    let mut woken = WaiterList::new();
    desc.expire(stale, true, true, &mut woken);
    assert_eq!(count(woken), 0);
    assert_eq!(desc.may_wait(Mode::Read), Ok(()));
}

#[test]
fn a_closing_descriptor_takes_no_deadline() {
    let fix = Fixture::new();
    let desc = fix.open();
    desc.unblock(&mut WaiterList::new());
    fix.set(desc, Deadline::At(100), None);
    assert!(fix.heap.is_empty());
}

#[test]
fn the_farthest_deadline_never_expires() {
    let fix = Fixture::new();
    let desc = fix.open();
    fix.set(desc, Deadline::At(Nanos::MAX), None);
    park(desc, Mode::Read);
    assert_eq!(fix.run(Nanos::MAX - 2), 0);
}

#[test]
fn poll_descriptors_are_reused_and_never_freed() {
    let fix = Fixture::new();
    let first = fix.open();
    fix.close(first);
    for _ in 0..100 {
        let again = fix.open();
        assert!(core::ptr::eq(first, again));
        fix.close(again);
    }
    assert_eq!(fix.poller.watched(), 0);
}

#[test]
fn a_failed_registration_wakes_the_operation_that_relied_on_it() {
    let fix = Fixture::new();
    let desc = fix.cache.open(None, 3);
    assert!(desc.join_poller());
    assert!(
        !desc.join_poller(),
        "one registers, the other goes on to wait"
    );
    park(desc, Mode::Write);
    let mut woken = WaiterList::new();
    desc.leave_poller(&mut woken);
    assert!(matches!(woken.pop(), Some(Waiter::Thread(_))));
    assert!(desc.join_poller(), "and may try for itself");
}

#[test]
fn an_operation_that_comes_during_a_registration_is_woken_to_arm_its_direction() {
    let fix = Fixture::new();
    let desc = fix.cache.open(None, 3);
    assert!(desc.join_poller());
    assert!(
        !desc.join_poller() && !desc.join_poller(),
        "one registers, the others go on to wait"
    );
    assert!(desc.poller().is_none(), "nothing can be armed yet");
    park(desc, Mode::Write);
    let mut woken = WaiterList::new();
    desc.joined(fix.poller, &mut woken);
    assert!(matches!(woken.pop(), Some(Waiter::Thread(_))));
    assert!(desc.poller().is_some());
}
