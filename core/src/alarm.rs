//! Alarms: a channel that gets the time when it has come, once or again and again.
//!
//! They follow Go 1.23. After [`Alarm::stop`] or [`Alarm::reset`] returns, no receive returns a
//! value of before. A tick that is not received before the next one is dropped, and later ticks
//! stay in phase with the first.
//!
//! The race: the timer fires while its owner stops or resets it. Then its callback is on its way
//! without a lock. Both lock `state`. A stop marks the alarm as not armed, and each arming makes a
//! new sequence number. A callback that finds the alarm not armed, or another number, does nothing.
//! The value that a callback has left in the channel is taken out under the same lock.
//!
//! The heap refers to an alarm by one reference count, from the arming until the callback has run
//! or the timer was removed. Lock order: the state, then the channel's gate, then the heap.
#![allow(unsafe_code, reason = "the timer refers to the alarm by address")]

use crate::chan::{Delivery, Receiver, Source};
use crate::must::Must;
use crate::os::Nanos;
use crate::runtime::Runtime;
use crate::sync::Lock;
use crate::timer::{Heap, Timer};
use crate::waiter::WaiterList;
use alloc::sync::{Arc, Weak};
use core::ptr::NonNull;

/// A timer with a channel, or a ticker if it has a period. It stays armed when it is dropped, until
/// the channel has no receiver.
pub struct Alarm<R: Runtime> {
    inner: Arc<Inner<R>>,
    receiver: Receiver<R::Instant, R>,
}

struct Inner<R: Runtime> {
    timer: Timer,
    state: Lock<State>,
    delivery: Delivery<R::Instant, R>,
    runtime: R,
}

struct State {
    seq: u32,
    /// When the timer is due. `None` if it is not armed.
    due: Option<Nanos>,
    /// Nanoseconds between ticks. `None` for a timer that fires once.
    period: Option<Nanos>,
    /// The heap that the timer was armed in last. `None` once it was disarmed.
    heap: Option<&'static Heap>,
}

impl<R: Runtime> Alarm<R>
where
    R::Instant: Send,
{
    /// An alarm that is not armed.
    pub fn new(runtime: R) -> Self {
        let mut receiver = None;
        let inner = Arc::new_cyclic(|this: &Weak<Inner<R>>| {
            let (delivery, end) = Delivery::new(runtime, this.clone());
            receiver = Some(end);
            Inner {
                // Where `Arc::into_raw` will point.
                timer: Timer::new(
                    NonNull::new(this.as_ptr().cast_mut().cast()).must("an Arc is null"),
                ),
                state: Lock::new(State {
                    seq: 0,
                    due: None,
                    period: None,
                    heap: None,
                }),
                delivery,
                runtime,
            }
        });
        let receiver = receiver.must("an alarm has no channel");
        Alarm { inner, receiver }
    }

    /// The channel that gets the time.
    pub fn receiver(&self) -> &Receiver<R::Instant, R> {
        &self.receiver
    }

    /// The channel alone. The alarm stays armed.
    pub fn into_receiver(self) -> Receiver<R::Instant, R> {
        self.receiver
    }

    /// Arms the alarm for `when`, and then for each `period` (more than 0) after it. An alarm that
    /// is armed is stopped first. Returns what [`stop`](Self::stop) returns.
    pub fn reset(&self, when: Nanos, period: Option<Nanos>) -> bool {
        let sched = self.inner.runtime.sched();
        let fresh = sched.timers();
        let (was_active, moved) = {
            let mut state = self.inner.state.lock();
            let was_active = Inner::disarm(&self.inner, &mut state);
            state.period = period;
            let moved = Inner::arm(&self.inner, &mut state, fresh, when.max(1));
            (was_active, moved)
        };
        if let Some(heap) = moved {
            sched.look_again(heap);
        }
        was_active
    }

    /// Stops the alarm. Returns whether it was armed, or had a value that was not received.
    pub fn stop(&self) -> bool {
        Inner::disarm(&self.inner, &mut self.inner.state.lock())
    }
}

impl<R: Runtime> Source for Inner<R>
where
    R::Instant: Send,
{
    fn no_receiver(self: Arc<Self>) {
        Inner::disarm(&self, &mut self.state.lock());
    }
}

impl<R: Runtime> Inner<R> {
    /// Arms the timer. The heap owns one reference from here on.
    fn arm(
        this: &Arc<Self>,
        state: &mut State,
        heap: &'static Heap,
        when: Nanos,
    ) -> Option<&'static Heap> {
        state.seq = state.seq.wrapping_add(1);
        state.due = Some(when);
        state.heap = Some(heap);
        _ = Arc::into_raw(this.clone());
        // SAFETY: the reference keeps the timer in place until the callback runs, or `disarm` takes
        // it back after `remove`. The lock of the state orders calls for this timer.
        unsafe { this.timer.arm(heap, when, state.seq, fire::<R>) }
    }

    /// Disarms the timer and empties the channel. Returns whether there was anything.
    fn disarm(this: &Arc<Self>, state: &mut State) -> bool {
        let was_armed = state.due.take().is_some();
        if state
            .heap
            .take()
            .is_some_and(|heap| heap.remove(&this.timer))
        {
            // SAFETY: the heap had a reference, and its callback will not run.
            drop(unsafe { Arc::from_raw(Arc::as_ptr(this)) });
        }
        this.delivery.withdraw() || was_armed
    }
}

/// The callback of an alarm.
unsafe fn fire<R: Runtime>(inner: NonNull<()>, seq: u32, woken: &mut WaiterList) {
    // SAFETY: `arm` gave the heap this reference.
    let inner = unsafe { Arc::from_raw(inner.cast::<Inner<R>>().as_ptr()) };
    let sched = inner.runtime.sched();
    let moved = {
        let mut state = inner.state.lock();
        let (Some(due), true) = (state.due, state.seq == seq) else {
            return;
        };
        let has_receivers = inner.delivery.deliver(inner.runtime.now(), woken);
        state.due = None;
        let period = state.period.filter(|_| has_receivers);
        period.zip(state.heap).and_then(|(period, heap)| {
            // Ticks that the program was too late for are left out.
            let missed = (sched.now() - due).max(0) / period;
            let next = due.saturating_add(period.saturating_mul(missed + 1));
            Inner::arm(&inner, &mut state, heap, next)
        })
    };
    if let Some(heap) = moved {
        sched.look_again(heap);
    }
}

#[cfg(all(test, loom))]
#[path = "../models/alarm.rs"]
mod models;

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::fuzz::base::{FuzzOs, sched};
    use crate::sched::Sched;

    type Ticker = Alarm<&'static Sched>;

    /// The clock shows `now`, and timers that are due fire.
    fn pass(now: Nanos) {
        FuzzOs::set_now(now);
        let mut woken = WaiterList::new();
        sched().timers().run(now, &mut woken);
        assert!(woken.is_empty());
    }

    fn value(alarm: &Ticker) -> Option<Nanos> {
        alarm.receiver().try_recv().ok()
    }

    #[test]
    fn late_ticks_are_left_out_and_the_next_is_in_phase() {
        let alarm = Ticker::new(sched());
        assert!(!alarm.reset(100, Some(10)));
        pass(99);
        assert_eq!(value(&alarm), None);
        for (now, next) in [(100, 110), (137, 140), (140, 150), (159, 160)] {
            pass(now);
            assert_eq!((value(&alarm), value(&alarm)), (Some(now), None));
            assert_eq!(sched().timers().next(), Some(next));
        }
        assert!(alarm.stop() && sched().timers().is_empty());
    }

    #[test]
    fn a_stop_takes_the_value_back() {
        let alarm = Ticker::new(sched());
        for period in [None, Some(10)] {
            alarm.reset(100, period);
            pass(100);
            assert!(alarm.stop());
            assert_eq!(value(&alarm), None);
            assert!(!alarm.stop());
        }
    }

    #[test]
    fn the_heap_has_one_reference_while_the_timer_is_armed() {
        let alarm = Ticker::new(sched());
        let inner = alarm.inner.clone();
        let references = || Arc::strong_count(&inner) - 1;
        for _ in 0..2 {
            alarm.reset(100, None);
            assert_eq!(references(), 2);
        }
        assert!(alarm.stop() && !alarm.stop());
        assert_eq!(references(), 1);
        alarm.reset(100, None);
        pass(100);
        assert_eq!((references(), value(&alarm)), (1, Some(100)));
        assert!(!alarm.stop());
        assert_eq!(references(), 1);
        alarm.reset(200, Some(10));
        pass(200);
        assert_eq!(references(), 2);
        // Without a receiver it is stopped.
        let receiver = alarm.into_receiver();
        assert_eq!(references(), 1);
        drop(receiver);
        assert_eq!(references(), 0);
        assert!(sched().timers().is_empty());
    }

    #[test]
    fn a_callback_of_before_a_reset_does_nothing() {
        let alarm = Ticker::new(sched());
        alarm.reset(100, Some(10));
        let old = alarm.inner.state.lock().seq;
        alarm.reset(200, Some(10));
        let reference = Arc::into_raw(alarm.inner.clone()).cast_mut();
        let reference = NonNull::new(reference.cast()).must("an Arc is null");
        // SAFETY: the callback gets a reference, as from the heap.
        unsafe { fire::<&'static Sched>(reference, old, &mut WaiterList::new()) };
        assert_eq!(value(&alarm), None);
        pass(200);
        assert_eq!(value(&alarm), Some(200));
        assert!(alarm.stop() && sched().timers().is_empty());
        assert_eq!(Arc::strong_count(&alarm.inner), 1);
    }
}
