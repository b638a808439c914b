//! Models of a cancel against what else ends a wait, against members and children that come and go,
//! and against the deadline. Threads are members in place of goroutines.

use super::{Cause, OPERATIONS, RawCancel, reached};
use crate::fdmutex::{AfterUse, FdMutex};
use crate::models::{Immortal, Mail, ModelSched, explore, finish, goroutine};
use crate::os::{Mode, Nanos};
use crate::polldesc::PollError;
use crate::sched::Sched;
use crate::semaphore::RawSemaphore;
use crate::waiter::{Announced, Thread, WaitSlot, WaiterList};
use crate::withdraw::{Cancelled, Member, Target};
use core::ptr::NonNull;
use loom::thread;
use std::sync::Arc;

/// Later than the clock of a model shows.
const LATER: Nanos = 1 << 40;

struct Shared {
    cancel: RawCancel,
    semaphore: RawSemaphore<&'static Sched>,
    mail: Mail,
    sched: &'static Sched,
}

impl Shared {
    /// Waits for a permit, as far as the caller is not cancelled.
    fn acquire(&self) -> Result<bool, Cancelled> {
        self.semaphore.acquire_or_cancel(1, None)
    }

    /// The clock shows `now`.
    fn pass(&self, now: Nanos) {
        let mut woken = WaiterList::new();
        self.sched.timers().run(now, &mut woken);
        self.sched.ready_list(woken);
    }
}

fn run<F: Fn(&'static Shared) + Send + Sync + 'static>(model: F) {
    explore::<F>(move || {
        let owner = ModelSched::new(1, 1);
        let sched = owner.get();
        let shared = Immortal::new(Shared {
            cancel: RawCancel::new(sched),
            semaphore: RawSemaphore::new(0, sched),
            mail: Mail::new(),
            sched,
        });
        model(shared.get());
    });
}

#[test]
fn a_wait_ends_by_its_event_or_by_the_cancel() {
    run(|shared| {
        let waiter = thread::spawn(|| shared.cancel.run(|| shared.acquire()));
        let canceller = thread::spawn(|| shared.cancel.cancel());
        shared.semaphore.release(1);
        let left = match waiter.join().unwrap() {
            Ok(acquired) => usize::from(!acquired),
            Err(Cancelled) => 1,
        };
        assert!(canceller.join().unwrap());
        assert_eq!(shared.semaphore.available(), left);
    });
}

#[test]
fn a_cancelled_goroutine_sees_what_the_canceller_did() {
    run(|shared| {
        let waiter = thread::spawn(|| {
            assert_eq!(shared.cancel.run(|| shared.acquire()), Err(Cancelled));
            assert_eq!(shared.mail.get(), 7);
        });
        shared.mail.put(7);
        shared.cancel.cancel();
        waiter.join().unwrap();
    });
}

#[test]
fn each_of_two_waits_of_a_member_is_reached() {
    run(|shared| {
        let waiter = thread::spawn(|| {
            shared.cancel.run(|| {
                let first = shared.acquire();
                assert_eq!(shared.acquire(), Err(Cancelled));
                first
            })
        });
        shared.semaphore.release(1);
        shared.cancel.cancel();
        let left = usize::from(waiter.join().unwrap().is_err());
        assert_eq!(shared.semaphore.available(), left);
    });
}

#[test]
fn a_wait_in_a_shield_is_not_reached_and_one_after_it_is() {
    run(|shared| {
        let waiter = thread::spawn(|| {
            shared.cancel.run(|| {
                assert_eq!(shared.sched.shield(|| shared.acquire()), Ok(true));
                assert_eq!(shared.acquire(), Err(Cancelled));
            });
        });
        let canceller = thread::spawn(|| shared.cancel.cancel());
        shared.semaphore.release(1);
        waiter.join().unwrap();
        canceller.join().unwrap();
        assert_eq!(shared.semaphore.available(), 0);
    });
}

#[test]
fn a_child_that_is_made_during_a_cancel_is_cancelled() {
    run(|shared| {
        let waiter = thread::spawn(|| {
            let child = shared.cancel.child();
            assert_eq!(child.run(|| shared.acquire()), Err(Cancelled));
            assert_eq!(child.cause(), Some(Cause::Parent));
        });
        assert!(shared.cancel.cancel());
        waiter.join().unwrap();
    });
}

#[test]
fn a_child_and_its_parent_may_be_cancelled_at_once() {
    run(|shared| {
        let child = shared.cancel.child();
        let theirs = child.clone();
        let waiter = thread::spawn(move || theirs.run(|| shared.acquire()));
        let parent = thread::spawn(|| shared.cancel.cancel());
        let was_first = child.cancel();
        let expected = match was_first {
            true => Cause::Asked,
            false => Cause::Parent,
        };
        assert_eq!(child.cause(), Some(expected));
        drop(child);
        assert!(parent.join().unwrap());
        assert_eq!(waiter.join().unwrap(), Err(Cancelled));
    });
}

#[test]
fn a_deadline_comes_while_its_last_user_leaves() {
    run(|shared| {
        let cancel = RawCancel::new(shared.sched);
        cancel.set_deadline(Some(LATER));
        let clock = thread::spawn(|| shared.pass(LATER));
        let outcome = cancel.run(|| shared.sched.check());
        assert!(outcome.is_ok() || cancel.cause() == Some(Cause::Deadline));
        drop(cancel);
        clock.join().unwrap();
        assert!(shared.sched.timers().is_empty());
    });
}

#[test]
fn a_wait_ends_by_its_event_or_by_the_deadline() {
    run(|shared| {
        shared.cancel.set_deadline(Some(LATER));
        let waiter = thread::spawn(|| shared.cancel.run(|| shared.acquire()));
        let clock = thread::spawn(|| shared.pass(LATER));
        shared.semaphore.release(1);
        let left = usize::from(waiter.join().unwrap().is_err());
        clock.join().unwrap();
        assert_eq!(shared.semaphore.available(), left);
        assert_eq!(shared.cancel.cause(), Some(Cause::Deadline));
        assert!(shared.sched.timers().is_empty());
    });
}

#[test]
fn a_wait_for_a_cancel_ends_when_it_comes() {
    run(|shared| {
        let waiters = [(), ()].map(|()| {
            thread::spawn(|| {
                assert_eq!(shared.cancel.wait(), Ok(()));
                assert_eq!(shared.mail.get(), 7);
            })
        });
        shared.mail.put(7);
        assert!(shared.cancel.cancel());
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}

#[test]
fn a_cancelled_waiter_for_a_side_leaves_the_count_and_passes_its_turn_on() {
    run(|shared| {
        let mutex = Immortal::new(FdMutex::new());
        let mutex = mutex.get();
        let sched = shared.sched;
        let unlock = move || assert_eq!(mutex.unlock(Mode::Read, sched), AfterUse::Keep);
        assert_eq!(mutex.lock(Mode::Read, sched), Ok(()));
        let cancelled = thread::spawn(move || {
            let locked = shared.cancel.run(|| mutex.lock(Mode::Read, sched));
            match locked {
                Ok(()) => unlock(),
                Err(error) => assert_eq!(error, PollError::Cancelled),
            }
        });
        let other = thread::spawn(move || {
            assert_eq!(mutex.lock(Mode::Read, sched), Ok(()));
            unlock();
        });
        shared.cancel.cancel();
        unlock();
        cancelled.join().unwrap();
        other.join().unwrap();
        // No waiter is counted, and no turn is left over.
        assert_eq!(mutex.lock(Mode::Read, sched), Ok(()));
        unlock();
    });
}

/// The mail stands for the stack of the goroutine, which the watcher must not look at once the
/// goroutine has left the member.
#[test]
fn a_watcher_sees_a_cancelled_member_until_its_goroutine_leaves_it() {
    run(|_| {
        let shared = Arc::new((goroutine(1), Mail::new()));
        let theirs = shared.clone();
        let stays = thread::spawn(move || {
            let (g, stack) = &*theirs;
            let member = Member::new(&OPERATIONS, NonNull::dangling());
            stack.put(1);
            reached::enter(g, &member);
            reached::leave(g, &member);
            stack.put(2);
        });
        let theirs = shared.clone();
        let watcher = thread::spawn(move || {
            let (g, stack) = &*theirs;
            reached::with_innermost(g, |_| assert_eq!(stack.get(), 1));
        });
        stays.join().unwrap();
        watcher.join().unwrap();
        let (g, _) = Arc::into_inner(shared).expect("the threads have ended");
        finish(g);
    });
}

#[test]
fn a_canceller_leaves_a_wait_that_was_withdrawn() {
    run(|shared| {
        let slot = Immortal::new(WaitSlot::new());
        let slot = slot.get();
        let canceller = thread::spawn(|| shared.cancel.cancel());
        shared.cancel.run(|| {
            let caller = shared.sched.parker();
            let member = caller.member().unwrap();
            if member.publish(Target::Slot(slot)).is_ok() {
                member.withdraw(Target::Slot(slot));
            }
            // The next wait on the slot is in no cancel.
            assert_eq!(slot.announce(), Announced::Waiting);
        });
        assert!(canceller.join().unwrap());
        let thread = Thread::new();
        assert!(slot.commit(thread.waiter()).is_ok());
        assert!(slot.cancel().is_some());
    });
}
