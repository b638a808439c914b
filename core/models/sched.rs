//! Models of Ms that go to sleep while other threads publish work: the wake word with the inbox,
//! the counts of idle and spinning Ms, shared pollers, and timers armed by threads.
//!
//! A model's threads are the Ms, and run the scheduler's own search and sleep.
#![allow(
    unsafe_code,
    reason = "a model's timers wake through a pointer, and it delivers events itself"
)]

use super::Sched;
use crate::m::Here;
use crate::models::{Immortal, Mail, ModelPoller, ModelSched, check, finish, goroutine, parked};
use crate::os::{Event, Mode, Ready};
use crate::sync::Ordering;
use crate::timer::Timer;
use crate::waiter::{Announced, WaitSlot, Waiter, WaiterList};
use core::ptr::NonNull;
use loom::thread;
use std::sync::Arc;
use std::vec::Vec;

fn here(sched: &'static Sched, index: usize) -> Here {
    sched.await_grant(sched.m(index))
}

/// M `index` finds `count` goroutines and never returns from the last. Returns their numbers.
pub(crate) fn run(sched: &'static Sched, index: usize, count: usize) -> Vec<u64> {
    let mut here = here(sched, index);
    (0..count).map(|_| finish(sched.next(&mut here))).collect()
}

/// Asserts that no M is counted as idle and this M is the only one that spins.
fn assert_counts_at_rest(sched: &Sched) {
    assert!(
        !sched.idlers.any_idle() && sched.idlers.spin_alone(),
        "the counts of idle and spinning Ms have drifted"
    );
}

#[test]
fn a_goroutine_readied_elsewhere_runs_on_its_m() {
    check(|| {
        let owner = ModelSched::new(1, 1);
        let (sched, mail) = (owner.get(), Arc::new(Mail::new()));
        let m = thread::spawn({
            let mail = mail.clone();
            move || {
                assert_eq!(run(sched, 0, 1), [7]);
                assert_eq!(mail.get(), 1);
            }
        });
        mail.put(1);
        sched.ready(Waiter::G(parked(7, 0)));
        m.join().unwrap();
    });
}

#[test]
fn two_goroutines_readied_at_once_share_a_wake() {
    check(|| {
        let owner = ModelSched::new(1, 1);
        let sched = owner.get();
        let m = thread::spawn(move || {
            let mut ran = run(sched, 0, 2);
            ran.sort();
            assert_eq!(ran, [1, 2]);
        });
        let other = thread::spawn(move || sched.ready(Waiter::G(parked(1, 0))));
        sched.ready(Waiter::G(parked(2, 0)));
        other.join().unwrap();
        m.join().unwrap();
    });
}

#[test]
fn a_fresh_goroutine_offered_to_an_m_that_goes_to_sleep_is_started() {
    check(|| {
        let owner = ModelSched::new(2, 2);
        let sched = owner.get();
        let light = thread::spawn(move || assert_eq!(run(sched, 0, 1), [1]));
        let heavy = here(sched, 1);
        heavy.m.counts.started.set(2);
        if let Some(kept) = sched.keep(&heavy, goroutine(1)) {
            // The other M has not begun to search.
            sched.push_anywhere(&heavy, kept);
            sched.wake_idle();
        }
        light.join().unwrap();
    });
}

#[test]
fn a_fresh_goroutine_offered_to_an_m_that_wakes_for_another_is_started() {
    check(|| {
        let owner = ModelSched::new(2, 2);
        let sched = owner.get();
        // This M may find number 1 first. It runs number 7, which is at home here, forever.
        let light = thread::spawn(move || {
            let mut here = here(sched, 0);
            if finish(sched.next(&mut here)) == 1 {
                assert_eq!(finish(sched.next(&mut here)), 7);
                sched.submit(goroutine(2));
            }
        });
        let mut heavy = here(sched, 1);
        heavy.m.counts.started.set(2);
        sched.push_anywhere(&heavy, goroutine(1));
        sched.wake_idle();
        sched.ready(Waiter::G(parked(7, 0)));
        let ran = finish(sched.next(&mut heavy));
        assert!(ran == 1 || ran == 2);
        light.join().unwrap();
    });
}

#[test]
fn a_fresh_goroutine_offered_to_an_m_that_wakes_for_another_is_started_by_a_third() {
    check(|| {
        let owner = ModelSched::new(3, 3);
        let sched = owner.get();
        // This M may find number 1 first. It runs number 7, which is at home here, forever.
        let light = thread::spawn(move || {
            let mut here = here(sched, 0);
            if finish(sched.next(&mut here)) == 1 {
                assert_eq!(finish(sched.next(&mut here)), 7);
                sched.ready(Waiter::G(parked(2, 2)));
            }
        });
        let third = thread::spawn(move || {
            let ran = run(sched, 2, 1);
            assert!(ran == [1] || ran == [2]);
        });
        let heavy = here(sched, 1);
        heavy.m.counts.started.set(2);
        // The third M has too many goroutines at home for an offer.
        sched.m(2).counts.started.set(2);
        sched.ready(Waiter::G(parked(7, 0)));
        // This M starts number 1 and runs it forever, or has offered it and runs another forever.
        if let Some(kept) = sched.keep(&heavy, goroutine(1)) {
            finish(kept);
            sched.ready(Waiter::G(parked(2, 2)));
        }
        light.join().unwrap();
        third.join().unwrap();
    });
}

#[test]
fn a_fresh_goroutine_goes_to_the_searching_m_with_clearly_the_fewest_at_home() {
    check(|| {
        let owner = ModelSched::new(4, 4);
        let sched = owner.get();
        let heavy = here(sched, 3);
        let left_to = |at_home: [u64; 4], free: [bool; 3]| {
            for (index, m) in sched.ms().enumerate() {
                m.counts.started.set(at_home[index]);
                m.searches
                    .store(index < 3 && free[index], Ordering::Relaxed);
            }
            let kept = sched.keep(&heavy, goroutine(1)).map(finish);
            let left = sched
                .ps
                .iter()
                .position(|p| p.ring.take_next().map(finish).is_some());
            assert_ne!(kept.is_some(), left.is_some());
            left
        };
        assert_eq!(left_to([3, 1, 2, 9], [true; 3]), Some(1));
        assert_eq!(left_to([3, 1, 2, 9], [true, false, true]), Some(2));
        assert_eq!(left_to([3, 1, 2, 9], [false; 3]), None);
        assert_eq!(left_to([0, 1, 1, 1], [true; 3]), None, "one fewer");
        assert_eq!(left_to([0, 1, 1, 2], [true; 3]), Some(0));
        assert_eq!(
            left_to([16, 40, 40, 19], [true; 3]),
            None,
            "less than an eighth fewer"
        );
        assert_eq!(left_to([16, 40, 40, 20], [true; 3]), Some(0));
    });
}

#[test]
fn an_m_on_its_futex_is_woken_like_one_in_the_poller() {
    check(|| {
        let owner = ModelSched::new(2, 1);
        let sched = owner.get();
        // The other M sleeps in the poller.
        assert!(sched.pollers[0].try_enter());
        let m = thread::spawn(move || assert_eq!(run(sched, 0, 2), [1, 2]));
        sched.ready(Waiter::G(parked(1, 0)));
        sched.ready(Waiter::G(parked(2, 0)));
        m.join().unwrap();
        assert_counts_at_rest(sched);
    });
}

#[test]
fn a_goroutine_submitted_from_a_thread_is_found_by_an_m_that_goes_to_sleep() {
    check(|| {
        let owner = ModelSched::new(2, 2);
        let sched = owner.get();
        let m = thread::spawn(move || assert_eq!(run(sched, 0, 1), [5]));
        sched.submit(goroutine(5));
        m.join().unwrap();
        assert_counts_at_rest(sched);
    });
}

#[test]
fn a_submitter_that_relies_on_another_waker_loses_no_goroutine() {
    check(|| {
        let owner = ModelSched::new(2, 2);
        let sched = owner.get();
        let m = thread::spawn(move || run(sched, 0, 2));
        let others = [1, 2].map(|id| thread::spawn(move || sched.submit(goroutine(id))));
        for other in others {
            other.join().unwrap();
        }
        let mut ran = m.join().unwrap();
        ran.sort();
        assert_eq!(ran, [1, 2]);
        assert_counts_at_rest(sched);
    });
}

#[test]
fn a_goroutine_on_the_ring_of_a_busy_m_is_stolen_by_an_m_about_to_sleep() {
    check(|| {
        let owner = ModelSched::new(2, 2);
        let sched = owner.get();
        let thief = thread::spawn(move || assert_eq!(run(sched, 0, 1), [3]));
        let busy = here(sched, 1);
        sched.push_anywhere(&busy, goroutine(3));
        sched.wake_idle();
        thief.join().unwrap();
        assert_counts_at_rest(sched);
    });
}

#[test]
fn two_submitted_goroutines_occupy_two_ms() {
    check(|| {
        let owner = ModelSched::new(2, 2);
        let sched = owner.get();
        let ms = [0, 1].map(|index| thread::spawn(move || run(sched, index, 1)));
        sched.submit(goroutine(1));
        sched.submit(goroutine(2));
        for m in ms {
            m.join().unwrap();
        }
        assert_counts_at_rest(sched);
    });
}

/// Parks a goroutine of M `home` on descriptor 3 in the shared poller. Returns the event that wakes
/// it.
fn waits_for_event(sched: &'static Sched, id: u64, home: usize) -> Event {
    let desc = sched.poll_open(3);
    assert!(desc.slot(Mode::Read).announce() == Announced::Waiting);
    assert!(
        desc.slot(Mode::Read)
            .commit(Waiter::G(parked(id, home)))
            .is_ok()
    );
    Event {
        token: desc.token(),
        ready: Ready::READ,
    }
}

fn poller(sched: &'static Sched) -> &'static ModelPoller {
    let backend: *const dyn crate::os::Netpoll = sched.poller(0).backend();
    // SAFETY: `ModelSched` gives every scheduler a `ModelPoller`.
    unsafe { &*backend.cast::<ModelPoller>() }
}

#[test]
fn an_event_finds_an_m_in_the_poller_after_another_has_left_it() {
    check(|| {
        let owner = ModelSched::new(2, 1);
        let sched = owner.get();
        let event = waits_for_event(sched, 9, 1);
        // M 0 leaves the poller for a goroutine that never ends. M 1 must then sleep in the poller,
        // or it misses the event.
        let ms = [0, 1].map(|index| thread::spawn(move || run(sched, index, 1)));
        sched.ready(Waiter::G(parked(4, 0)));
        poller(sched).post(event);
        let ran = ms.map(|m| m.join().unwrap());
        assert_eq!(ran, [[4], [9]]);
    });
}

#[test]
fn an_event_delivered_by_one_m_wakes_the_home_of_its_goroutine() {
    check(|| {
        let owner = ModelSched::new(1, 1);
        let sched = owner.get();
        let event = waits_for_event(sched, 9, 0);
        let m = thread::spawn(move || assert_eq!(run(sched, 0, 1), [9]));
        let mut woken = WaiterList::new();
        // SAFETY: the token is that of a live poll descriptor.
        unsafe { crate::polldesc::deliver(&[event], &mut woken) };
        sched.ready_list(woken);
        m.join().unwrap();
    });
}

unsafe fn wake(slot: NonNull<()>, _: u32, woken: &mut WaiterList) {
    // SAFETY: the model keeps the slot until the M has found the goroutine.
    woken.extend(unsafe { slot.cast::<WaitSlot>().as_ref() }.notify());
}

#[test]
fn a_timer_armed_by_a_thread_wakes_an_m_that_sleeps_without_a_limit() {
    check(|| {
        let owner = ModelSched::new(1, 1);
        let sched = owner.get();
        let slot = Immortal::new(WaitSlot::new());
        let timer = Immortal::new(Timer::new(NonNull::from(slot.get()).cast()));
        assert!(slot.get().announce() == Announced::Waiting);
        assert!(slot.get().commit(Waiter::G(parked(6, 0))).is_ok());

        let m = thread::spawn(move || assert_eq!(run(sched, 0, 1), [6]));
        let heap = sched.timers();
        // SAFETY: slot and timer outlive the model's threads, and the timer is armed once.
        if let Some(heap) = unsafe { timer.get().arm(heap, 1_000, 0, wake) } {
            sched.look_again(heap);
        }
        m.join().unwrap();
    });
}
