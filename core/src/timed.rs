//! A shared value with a timer.
//!
//! The heap refers to the value by one reference count, from the arming until the callback has run
//! or the timer was removed.
//!
//! | `due` | in the heap | the timer is |
//! |---|---|---|
//! | none | no | off |
//! | some | yes | armed |
//! | some | no | about to call back |
//! | none | no | off, with a callback on its way that will claim nothing |
//!
//! The race: the timer is due while its user disarms it or arms it again. The callback is then on
//! its way without a lock. Each arming has a number, and the callback [claims](Timed::claim) that
//! number under the lock before it does anything.
#![allow(unsafe_code, reason = "the timer refers to the value by address")]

use crate::must::Must;
use crate::os::Nanos;
use crate::sync::Lock;
use crate::timer::{Heap, Timer};
use crate::waiter::WaiterList;
use alloc::sync::{Arc, Weak};
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

/// A value of type `T` with a timer.
pub(crate) struct Timed<T> {
    timer: Timer,
    schedule: Lock<Schedule>,
    value: T,
}

struct Schedule {
    /// The number of the last arming.
    arming: u32,
    /// When the timer is due.
    due: Option<Nanos>,
    /// The heap that the timer was armed in last.
    heap: Option<&'static Heap>,
}

/// What happens when the timer of a [`Timed`] is due.
pub(crate) trait OnTime: Send + Sync + Sized {
    /// Runs on a scheduler's stack without locks, and must not park. Waiters that it wakes go into
    /// `woken`.
    fn on_time(this: &Arc<Timed<Self>>, arming: u32, woken: &mut WaiterList);
}

impl<T: OnTime> Timed<T> {
    /// The value that `make` returns. Its timer is off.
    pub(crate) fn new(make: impl FnOnce(&Weak<Self>) -> T) -> Arc<Self> {
        Arc::new_cyclic(|this: &Weak<Self>| Timed {
            // Where `Arc::into_raw` will point.
            timer: Timer::new(NonNull::new(this.as_ptr().cast_mut().cast()).must("an Arc is null")),
            schedule: Lock::new(Schedule {
                arming: 0,
                due: None,
                heap: None,
            }),
            value: make(this),
        })
    }

    /// When the timer is due. `None` if it is off.
    pub(crate) fn due(&self) -> Option<Nanos> {
        self.schedule.lock().due
    }

    /// Arms the timer for `when`, in place of an earlier time.
    ///
    /// Returns the heap if this is now its earliest timer: the M that sleeps for that heap must
    /// look again.
    #[must_use = "the M that sleeps for this heap must look again"]
    pub(crate) fn arm(self: &Arc<Self>, heap: &'static Heap, when: Nanos) -> Option<&'static Heap> {
        let mut schedule = self.schedule.lock();
        self.remove(&mut schedule);
        schedule.arming = schedule.arming.wrapping_add(1);
        schedule.due = Some(when);
        schedule.heap = Some(heap);
        _ = Arc::into_raw(self.clone());
        // SAFETY: this reference keeps the timer in place until `fire` or `remove` drops it. The
        // lock of the schedule orders calls for this timer.
        unsafe {
            self.timer
                .arm(heap, when.max(1), schedule.arming, fire::<T>)
        }
    }

    /// Disarms the timer. Returns whether it was armed, and no callback has claimed that.
    pub(crate) fn disarm(self: &Arc<Self>) -> bool {
        let mut schedule = self.schedule.lock();
        self.remove(&mut schedule);
        schedule.due.take().is_some()
    }

    /// Called by the callback: the timer is off from now on. Returns when it was due, and the heap
    /// that it was in; `None` if it was disarmed or armed again since `arming`.
    pub(crate) fn claim(&self, arming: u32) -> Option<(Nanos, &'static Heap)> {
        let mut schedule = self.schedule.lock();
        match schedule.arming == arming {
            true => schedule.due.take().zip(schedule.heap),
            false => None,
        }
    }

    /// Takes the timer out of the heap, if it is there.
    fn remove(self: &Arc<Self>, schedule: &mut Schedule) {
        let heap = schedule.heap.take();
        if heap.is_some_and(|heap| heap.remove(&self.timer)) {
            // SAFETY: the heap had a reference, and its callback will not run.
            drop(unsafe { Arc::from_raw(Arc::as_ptr(self)) });
        }
    }
}

impl<T> Deref for Timed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Timed<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// The callback of the timer.
unsafe fn fire<T: OnTime>(this: NonNull<()>, arming: u32, woken: &mut WaiterList) {
    // SAFETY: `arm` gave the heap this reference.
    let this = unsafe { Arc::from_raw(this.cast::<Timed<T>>().as_ptr()) };
    T::on_time(&this, arming, woken);
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::sync::{AtomicU32, Ordering};
    use alloc::boxed::Box;

    #[derive(Default)]
    struct Claims(AtomicU32);

    impl OnTime for Claims {
        fn on_time(this: &Arc<Timed<Self>>, arming: u32, _: &mut WaiterList) {
            if this.claim(arming).is_some() {
                this.0.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn pass(heap: &'static Heap, now: Nanos) {
        heap.run(now, &mut WaiterList::new());
    }

    #[test]
    fn the_heap_has_one_reference_while_the_timer_is_armed() {
        let heap: &Heap = Box::leak(Box::new(Heap::new(0)));
        let timed = Timed::new(|_| Claims::default());
        for when in [100, 50, 200] {
            _ = timed.arm(heap, when);
            assert_eq!((timed.due(), Arc::strong_count(&timed)), (Some(when), 2));
        }
        assert!(timed.disarm() && !timed.disarm());
        assert_eq!((timed.due(), Arc::strong_count(&timed)), (None, 1));
        assert!(heap.is_empty());
        _ = timed.arm(heap, 300);
        pass(heap, 299);
        assert_eq!(timed.0.load(Ordering::Relaxed), 0);
        pass(heap, 300);
        assert_eq!(timed.0.load(Ordering::Relaxed), 1);
        assert_eq!((timed.due(), Arc::strong_count(&timed)), (None, 1));
        assert!(!timed.disarm());
    }

    #[test]
    fn a_callback_of_before_claims_nothing() {
        let heap: &Heap = Box::leak(Box::new(Heap::new(0)));
        let timed = Timed::new(|_| Claims::default());
        let arm = |when| {
            _ = timed.arm(heap, when);
            timed.schedule.lock().arming
        };
        let (old, new) = (arm(100), arm(200));
        assert!(timed.claim(old).is_none());
        let (due, _) = timed.claim(new).unwrap();
        assert_eq!(due, 200);
        assert!(timed.claim(new).is_none() && timed.due().is_none());
        assert!(!timed.disarm() && heap.is_empty());
        let disarmed = arm(300);
        assert!(timed.disarm() && timed.claim(disarmed).is_none());
    }
}
