//! Models of timers: threads that arm, move and stop a timer, against the owner of the heap, which
//! fires the timers that are due.
#![allow(unsafe_code, reason = "a timer's callback gets a pointer")]

use super::{Heap, Timer};
use crate::models::{Immortal, Mail, check};
use crate::os::Nanos;
use crate::waiter::WaiterList;
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
