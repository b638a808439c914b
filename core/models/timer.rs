//! Models of timers: threads that arm, move and stop a timer, against the owner of the heap, which
//! fires the timers that are due. A waiter with a time limit removes its timer at once.
#![allow(unsafe_code, reason = "a timer's callback gets a pointer")]

use super::{Heap, Timer};
use crate::choice::{Choice, Outcome};
use crate::models::{Immortal, Mail, ModelOs, check};
use crate::os::Nanos;
use crate::sync::UnsafeCell;
use crate::waiter::{Thread, Waiter, WaiterList};
use core::ptr::NonNull;
use loom::sync::Mutex;
use loom::thread;
use std::vec::Vec;

struct Alarm {
    timer: Timer,
    /// The sequence numbers that the timer fired with.
    fired: Mutex<Vec<u32>>,
    mail: Mail,
}

unsafe fn fire(alarm: NonNull<()>, seq: u32, _: &mut WaiterList) {
    // SAFETY: an alarm lives as long as its model's threads.
    let alarm = unsafe { alarm.cast::<Alarm>().as_ref() };
    assert_eq!(alarm.mail.get(), 1);
    alarm.fired.lock().unwrap().push(seq);
}

impl Alarm {
    fn new() -> Immortal<Self> {
        let mut alarm = std::boxed::Box::new(Alarm {
            timer: Timer::new(NonNull::dangling()),
            fired: Mutex::new(Vec::new()),
            mail: Mail::new(),
        });
        alarm.timer.arg = NonNull::from(&*alarm).cast();
        alarm.mail.put(1);
        // SAFETY: the box is leaked here, and only the returned owner frees it.
        unsafe { Immortal::adopt(std::boxed::Box::leak(alarm)) }
    }

    /// Arms the timer. Returns whether the M that sleeps until the heap's next timer must wake.
    fn arm(&'static self, heap: &'static Heap, when: Nanos, seq: u32) -> bool {
        // SAFETY: the alarm outlives the model's threads, and one of them arms it.
        unsafe { self.timer.arm(heap, when, seq, fire) }.is_some()
    }

    fn fired(&self) -> Vec<u32> {
        self.fired.lock().unwrap().clone()
    }
}

fn run(heap: &'static Heap, now: Nanos) {
    heap.run(now, &mut WaiterList::new());
}

#[test]
fn a_timer_moved_earlier_fires_by_its_new_time() {
    check(|| {
        let (heap_owner, alarm_owner) = (Immortal::new(Heap::new(0)), Alarm::new());
        let (heap, alarm) = (heap_owner.get(), alarm_owner.get());
        alarm.arm(heap, 50, 1);
        let owner = thread::spawn(move || {
            run(heap, 10);
            heap.next()
        });
        let told = alarm.arm(heap, 20, 2);
        // The owner saw the new time before it went to sleep, or the caller must wake it.
        assert!(owner.join().unwrap() == Some(20) || told);
        assert_eq!(heap.next(), Some(20));
        run(heap, 20);
        assert_eq!(alarm.fired(), [2]);
    });
}

#[test]
fn a_timer_moved_while_it_is_due_fires_for_its_latest_time() {
    check(|| {
        let (heap_owner, alarm_owner) = (Immortal::new(Heap::new(0)), Alarm::new());
        let (heap, alarm) = (heap_owner.get(), alarm_owner.get());
        alarm.arm(heap, 10, 1);
        let owner = thread::spawn(move || {
            run(heap, 10);
            run(heap, 30);
        });
        alarm.arm(heap, 30, 2);
        alarm.arm(heap, 20, 3);
        owner.join().unwrap();
        assert!(heap.next().is_none_or(|next| next <= 20));
        run(heap, 30);
        let fired = alarm.fired();
        assert!(
            fired.is_sorted_by(|a, b| a < b) && fired.last() == Some(&3),
            "{fired:?}"
        );
        assert!(heap.is_empty());
    });
}

#[test]
fn a_stopped_timer_is_armed_again_while_the_owner_removes_it() {
    check(|| {
        let (heap_owner, alarm_owner) = (Immortal::new(Heap::new(0)), Alarm::new());
        let (heap, alarm) = (heap_owner.get(), alarm_owner.get());
        alarm.arm(heap, 10, 1);
        let owner = thread::spawn(move || run(heap, 15));
        alarm.timer.stop();
        alarm.arm(heap, 20, 2);
        owner.join().unwrap();
        run(heap, 20);
        assert!(alarm.fired() == [2] || alarm.fired() == [1, 2]);
        assert!(heap.is_empty());
        assert_eq!(heap.zombies.load(crate::sync::Ordering::Relaxed), 0);
    });
}

#[test]
fn timers_armed_at_once_are_all_in_the_heap() {
    check(|| {
        let heap = Immortal::new(Heap::new(0));
        let alarms = [Alarm::new(), Alarm::new(), Alarm::new()];
        let (heap, [a, b, c]) = (heap.get(), [0, 1, 2].map(|i: usize| alarms[i].get()));
        let others =
            [(a, 10), (b, 5)].map(|(alarm, when)| thread::spawn(move || alarm.arm(heap, when, 1)));
        c.arm(heap, 7, 1);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(heap.next(), Some(5));
        // Three timers are more than one batch.
        run(heap, 10);
        assert_eq!([a, b, c].map(Alarm::fired), [[1], [1], [1]]);
    });
}

#[test]
fn arming_the_earliest_timer_reports_that_it_is_the_earliest() {
    check(|| {
        let heap = Immortal::new(Heap::new(0));
        let alarms = [Alarm::new(), Alarm::new()];
        let (heap, [a, b]) = (heap.get(), [0, 1].map(|i: usize| alarms[i].get()));
        let other = thread::spawn(move || a.arm(heap, 10, 1));
        let told = b.arm(heap, 20, 1);
        let first = other.join().unwrap();
        assert!(first, "the earliest timer is not reported");
        assert!(!told || heap.next() == Some(10));
    });
}

/// What a waiter with a time limit has on its stack.
struct Limited {
    choice: UnsafeCell<Choice>,
    timer: Timer,
    os: ModelOs,
}

// SAFETY: the waiter replaces the choice after no other thread refers to it.
unsafe impl Sync for Limited {}

impl Limited {
    /// A waiter whose limit comes at 10.
    fn new(heap: &'static Heap) -> Immortal<Self> {
        let mut limited = std::boxed::Box::new(Limited {
            choice: UnsafeCell::new(Choice::new()),
            timer: Timer::new(NonNull::dangling()),
            os: ModelOs::default(),
        });
        limited.timer.arg = NonNull::from(&limited.choice).cast();
        // SAFETY: the box is leaked here, and only the returned owner frees it.
        let limited = unsafe { Immortal::adopt(std::boxed::Box::leak(limited)) };
        // SAFETY: timer and choice outlive the model's threads.
        assert!(unsafe { limited.get().timer.arm_expiry(heap, 10) }.is_some());
        limited
    }

    fn choice(&self) -> &Choice {
        // SAFETY: the choice is replaced after no other thread refers to it.
        unsafe { &*self.choice.get() }
    }

    fn wake(&self, waiter: Option<Waiter>) {
        if let Some(Waiter::Thread(thread)) = waiter {
            thread.wake(&self.os);
        }
    }

    /// The end of the wait: the stack is used for another choice, which stays open.
    fn reuse(&self, heap: &'static Heap) {
        heap.remove(&self.timer);
        // SAFETY: after `remove` the heap does not refer to the choice.
        unsafe { *self.choice.get() = Choice::new() };
    }
}

#[test]
fn after_a_remove_the_heap_does_not_decide() {
    check(|| {
        let heap_owner = Immortal::new(Heap::new(0));
        let heap = heap_owner.get();
        let owner = Limited::new(heap);
        let limited = owner.get();
        let other = thread::spawn(move || run(heap, 10));
        let decided = limited.choice().decide(Outcome::Arm(0)).is_some();
        let outcome = limited.choice().outcome();
        assert_eq!(outcome == Some(Outcome::Arm(0)), decided);
        limited.reuse(heap);
        assert!(heap.is_empty());
        other.join().unwrap();
        assert_eq!(limited.choice().outcome(), None);
    });
}

#[test]
fn a_limit_and_an_event_wake_the_waiter_once() {
    check(|| {
        let heap_owner = Immortal::new(Heap::new(0));
        let heap = heap_owner.get();
        let owner = Limited::new(heap);
        let limited = owner.get();
        let expiry = thread::spawn(move || {
            let mut woken = WaiterList::new();
            heap.run(10, &mut woken);
            limited.wake(woken.pop());
            assert!(woken.is_empty());
        });
        let event = thread::spawn(|| {
            limited
                .choice()
                .decide(Outcome::Arm(0))
                .map(|waiter| limited.wake(waiter))
                .is_some()
        });
        let thread = Thread::new();
        if limited.choice().commit(thread.waiter()).is_ok() {
            thread.block(&limited.os);
        }
        let outcome = limited.choice().outcome().expect("it is decided");
        // The event's thread still refers to the choice, as a partner does to its lock's queue.
        let happened = event.join().unwrap();
        assert_eq!(happened, outcome == Outcome::Arm(0));
        limited.reuse(heap);
        expiry.join().unwrap();
        assert_eq!(limited.choice().outcome(), None);
        assert!(heap.is_empty());
    });
}

#[test]
fn a_timer_armed_while_another_is_removed_keeps_its_time() {
    check(|| {
        let heap_owner = Immortal::new(Heap::new(0));
        let heap = heap_owner.get();
        let (limited_owner, alarm_owner) = (Limited::new(heap), Alarm::new());
        let (limited, alarm) = (limited_owner.get(), alarm_owner.get());
        let other = thread::spawn(move || alarm.arm(heap, 20, 1));
        limited.reuse(heap);
        other.join().unwrap();
        assert_eq!(heap.next(), Some(20));
        run(heap, 20);
        assert_eq!(alarm.fired(), [1]);
    });
}
