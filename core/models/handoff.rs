//! Models of the hand-off: an M whose P is retaken while the M returns from a goroutine, an M that
//! wants a P while the holder goes to sleep, and wakes that must reach the M that holds a P now.
#![allow(
    unsafe_code,
    reason = "a model's threads are the Ms, and its timers wake through a pointer"
)]

use crate::m::{Here, M};
use crate::models::{Immortal, Mail, ModelSched, check, finish, goroutine, parked};
use crate::sched::Sched;
use crate::timer::Timer;
use crate::waiter::{Announced, WaitSlot, Waiter, WaiterList};
use core::ptr::NonNull;
use loom::thread;
use std::sync::Arc;

fn playing(sched: &'static Sched, m: &'static M) -> Here {
    // SAFETY: each of a model's threads is one M, and uses only a P that was granted to that M.
    unsafe { Here::new(m, &sched.ps[0]) }
}

/// Queues a goroutine that has started on this M and is ready.
fn at_home(here: &Here, id: u64) {
    let g = goroutine(id);
    g.set_home(here.m.index);
    here.home(|home| home.queue.push_back(g));
}

/// Sleeps as the holder of a P until another M wants it, and grants it.
fn give_p_to_a_waiting_m(sched: &'static Sched, here: &Here) {
    loop {
        match sched.without_p.first_wanting() {
            Some(m) => return sched.grant(here.p.index, m),
            None => sched.sleep(here, None),
        }
    }
}

#[test]
fn a_p_retaken_from_a_returning_m_has_one_owner() {
    check(|| {
        let owner = ModelSched::new(1, 1);
        let (sched, p) = (owner.get(), Arc::new(Mail::new()));
        let other = sched.start_m().unwrap();
        sched.without_p.enlist(other, false);
        let mut here = sched.await_grant(sched.m(0));
        here.m.retake.leave();

        let back = thread::spawn({
            let p = p.clone();
            // `Here` belongs to the thread that is the M, which is this thread from here on.
            let m = here.m;
            move || {
                let mut here = playing(sched, m);
                at_home(&here, 5);
                if !m.retake.enter() {
                    here = sched.give_up_p(here, |_| ());
                }
                p.put(1);
                assert_eq!(finish(sched.next(&mut here)), 5);
            }
        });
        if sched.hand_off(0) {
            here = sched.await_grant(other);
            p.put(2);
            give_p_to_a_waiting_m(sched, &here);
        }
        back.join().unwrap();
    });
}

#[test]
fn an_m_that_wants_a_p_gets_it_from_a_holder_that_goes_to_sleep() {
    check(|| {
        let owner = ModelSched::new(1, 1);
        let sched = owner.get();
        let other = sched.start_m().unwrap();
        let holder = thread::spawn(move || {
            let here = sched.await_grant(sched.m(0));
            give_p_to_a_waiting_m(sched, &here);
        });
        let mut here = playing(sched, other);
        at_home(&here, 5);
        here = sched.give_up_p(here, |_| ());
        assert_eq!(finish(sched.next(&mut here)), 5);
        holder.join().unwrap();
    });
}

#[test]
fn a_spare_m_gets_a_p_for_a_goroutine_readied_at_its_home() {
    check(|| {
        let owner = ModelSched::new(1, 1);
        let sched = owner.get();
        let other = sched.start_m().unwrap();
        let holder = thread::spawn(move || {
            let here = sched.await_grant(sched.m(0));
            give_p_to_a_waiting_m(sched, &here);
        });
        let spare = thread::spawn(move || {
            let mut here = playing(sched, other);
            here = sched.give_up_p(here, |_| ());
            assert_eq!(finish(sched.next(&mut here)), 7);
        });
        sched.ready(Waiter::G(parked(7, other.index)));
        spare.join().unwrap();
        holder.join().unwrap();
    });
}

#[test]
fn an_m_chosen_for_a_retake_that_fails_loses_no_work() {
    check(|| {
        let owner = ModelSched::new(1, 1);
        let sched = owner.get();
        let other = sched.start_m().unwrap();
        let here = sched.await_grant(sched.m(0));
        sched.without_p.enlist(other, false);
        let spare = thread::spawn(move || {
            let mut here = sched.await_grant(other);
            assert_eq!(finish(sched.next(&mut here)), 7);
        });
        let waker = thread::spawn(move || sched.ready(Waiter::G(parked(7, 1))));
        // M 0 is inside the scheduler all the time, so the retake fails.
        assert!(!sched.hand_off(0));
        give_p_to_a_waiting_m(sched, &here);
        waker.join().unwrap();
        spare.join().unwrap();
    });
}

unsafe fn wake(slot: NonNull<()>, _: u32, woken: &mut WaiterList) {
    // SAFETY: the model keeps the slot until the M has found the goroutine.
    woken.extend(unsafe { slot.cast::<WaitSlot>().as_ref() }.notify());
}

#[test]
fn a_timer_armed_while_its_p_changes_hands_is_seen_by_the_new_holder() {
    check(|| {
        let owner = ModelSched::new(1, 1);
        let sched = owner.get();
        let other = sched.start_m().unwrap();
        let slot = Immortal::new(WaitSlot::new());
        let timer = Immortal::new(Timer::new(NonNull::from(slot.get()).cast()));
        assert!(slot.get().announce() == Announced::Waiting);
        assert!(slot.get().commit(Waiter::G(parked(6, other.index))).is_ok());
        let here = sched.await_grant(sched.m(0));
        let new = thread::spawn(move || {
            let mut here = sched.await_grant(other);
            assert_eq!(finish(sched.next(&mut here)), 6);
        });
        let arming = thread::spawn(move || {
            // SAFETY: slot and timer outlive the model's threads, and the timer is armed once.
            if let Some(heap) = unsafe { timer.get().arm(sched.timers(), 1_000, 0, wake) } {
                sched.look_again(heap);
            }
            timer
        });
        sched.grant(here.p.index, other);
        new.join().unwrap();
        drop(arming.join().unwrap());
    });
}

#[test]
fn sysmon_does_not_sleep_while_an_m_is_awake() {
    check(|| {
        let owner = ModelSched::new(1, 1);
        let sched = owner.get();
        sched.idlers.park();
        let sysmon = thread::spawn(move || sched.sysmon_sleeps(None));
        if sched.idlers.unpark() == 1 {
            sched.wake_sysmon();
        }
        sysmon.join().unwrap();
    });
}

#[test]
fn sysmon_does_not_sleep_through_a_request() {
    check(|| {
        let owner = ModelSched::new(1, 1);
        let sched = owner.get();
        sched.idlers.park();
        let sysmon = thread::spawn(move || sched.sysmon_sleeps(None));
        sched.ask();
        sysmon.join().unwrap();
    });
}
