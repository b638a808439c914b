//! Sleep: a wait that only its time limit ends. Choice and timer lie on the sleeper's stack.
#![allow(unsafe_code, reason = "the timer refers to the choice beside it")]

use crate::choice::Choice;
use crate::os::Nanos;
use crate::sched::Sched;
use crate::sync::AtomicU32;
use crate::timer::Timer;
use crate::wait_info::Wait;
use core::ptr::NonNull;

impl Sched {
    /// Sleeps until the monotonic clock shows `when`, or the caller is cancelled: a goroutine
    /// parks, an ordinary thread sleeps.
    #[doc(alias = "timeSleep")]
    pub fn sleep_until(&'static self, when: Nanos) {
        if when <= self.now() {
            return;
        }
        if self.sleep_as_member(when) {
            return;
        }
        if self.current().is_none() {
            return self.sleep_thread(when);
        }
        let choice = Choice::new();
        let timer = Timer::new(NonNull::from(&choice).cast());
        let heap = self.timers();
        // SAFETY: the timer expires before this function returns. The heap then uses neither: a
        // parked sleeper is readied after the heap is unlocked, another one waits for that below.
        let moved = unsafe { timer.arm_expiry(heap, when) };
        if let Some(heap) = moved {
            self.look_again(heap);
        }
        if !self.wait_served(&choice, Wait::Sleep(when).encode()) {
            heap.wait_for_owner();
        }
    }

    fn sleep_thread(&self, when: Nanos) {
        let never_woken = AtomicU32::new(0);
        loop {
            match when - self.now() {
                ..=0 => return,
                rest => self.os().futex_wait(&never_woken, 0, Some(rest)),
            }
        }
    }
}
