//! Sleep: a timer and a slot, both on the sleeper's own stack.
#![allow(unsafe_code, reason = "the timer refers to the slot beside it")]

use crate::os::Nanos;
use crate::sched::Sched;
use crate::sync::AtomicU32;
use crate::timer::Timer;
use crate::wait_info::Wait;
use crate::waiter::{WaitSlot, WaiterList};
use core::ptr::NonNull;

impl Sched {
    /// Sleeps until the monotonic clock shows `when`: a goroutine parks, an ordinary thread sleeps.
    #[doc(alias = "timeSleep")]
    pub fn sleep_until(&'static self, when: Nanos) {
        if when <= self.now() {
            return;
        }
        if self.current().is_none() {
            return self.sleep_thread(when);
        }
        let slot = WaitSlot::new();
        let timer = Timer::new(NonNull::from(&slot).cast());
        let heap = self.timers();
        // SAFETY: slot and timer stay until `wait_for` has seen the notification, which is the
        // only and last thing that the callback does to them. The timer is armed once and never
        // stopped.
        let moved = unsafe { timer.arm(heap, when, 0, wake) };
        if let Some(heap) = moved {
            self.look_again(heap);
        }
        self.wait_for(&slot, Wait::Sleep(when).encode());
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

unsafe fn wake(slot: NonNull<()>, _seq: u32, woken: &mut WaiterList) {
    // SAFETY: the sleeper waits for this notification, so its slot is alive.
    woken.extend(unsafe { slot.cast::<WaitSlot>().as_ref() }.notify());
}
