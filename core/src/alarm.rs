//! Alarms: a channel that gets the time when it has come, once or again and again.
//!
//! They follow Go 1.23. After [`Alarm::stop`] or [`Alarm::reset`] returns, no receive returns a
//! value of before. A tick that is not received before the next one is dropped, and later ticks
//! stay in phase with the first.
//!
//! The race: the timer fires while its owner stops or resets it. Both lock `period`: the callback
//! claims the timer and sends the value under it, a stop disarms the timer and takes out a value
//! that was not received.
//!
//! Lock order: the period, then the channel's gate or the timer, then the heap.

use crate::chan::{Delivery, Receiver, Source};
use crate::must::Must;
use crate::os::Nanos;
use crate::runtime::Runtime;
use crate::sync::Lock;
use crate::timed::{OnTime, Timed};
use crate::waiter::WaiterList;
use alloc::sync::{Arc, Weak};

/// A timer with a channel, or a ticker if it has a period. It stays armed when it is dropped, until
/// the channel has no receiver.
pub struct Alarm<R: Runtime> {
    inner: Arc<Timed<Inner<R>>>,
    receiver: Receiver<R::Instant, R>,
}

struct Inner<R: Runtime> {
    /// Nanoseconds between ticks. `None` for a timer that fires once.
    period: Lock<Option<Nanos>>,
    delivery: Delivery<R::Instant, R>,
    runtime: R,
}

impl<R: Runtime> Alarm<R> {
    /// An alarm that is not armed.
    pub fn new(runtime: R) -> Self {
        let mut receiver = None;
        let inner = Timed::new(|this: &Weak<Timed<Inner<R>>>| {
            let (delivery, end) = Delivery::new(runtime, this.clone());
            receiver = Some(end);
            Inner {
                period: Lock::new(None),
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
            let mut current = self.inner.period.lock();
            *current = period;
            (self.inner.disarm_and_empty(), self.inner.arm(fresh, when))
        };
        if let Some(heap) = moved {
            sched.look_again(heap);
        }
        was_active
    }

    /// Stops the alarm. Returns whether it was armed, or had a value that was not received.
    pub fn stop(&self) -> bool {
        let _period = self.inner.period.lock();
        self.inner.disarm_and_empty()
    }
}

impl<R: Runtime> Timed<Inner<R>> {
    /// Returns whether there was anything. The caller has locked the period.
    fn disarm_and_empty(self: &Arc<Self>) -> bool {
        let was_armed = self.disarm();
        self.delivery.withdraw() || was_armed
    }
}

impl<R: Runtime> Source for Timed<Inner<R>> {
    fn no_receiver(self: Arc<Self>) {
        let _period = self.period.lock();
        self.disarm_and_empty();
    }
}

impl<R: Runtime> OnTime for Inner<R> {
    fn on_time(this: &Arc<Timed<Self>>, arming: u32, woken: &mut WaiterList) {
        let sched = this.runtime.sched();
        let moved = {
            let period = this.period.lock();
            let Some((due, heap)) = this.claim(arming) else {
                return;
            };
            let is_open = this.delivery.deliver(this.runtime.now(), woken);
            period.filter(|_| is_open).and_then(|period| {
                // Ticks that the program was too late for are left out.
                let missed = (sched.now() - due).max(0) / period;
                let next = due.saturating_add(period.saturating_mul(missed + 1));
                this.arm(heap, next)
            })
        };
        if let Some(heap) = moved {
            sched.look_again(heap);
        }
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
    fn a_ticker_whose_channel_is_closed_ends_with_its_next_tick() {
        let alarm = Ticker::new(sched());
        alarm.reset(100, Some(10));
        alarm.receiver().close();
        assert!(!sched().timers().is_empty());
        pass(100);
        assert!(sched().timers().is_empty() && !alarm.stop());
    }

    #[test]
    fn an_alarm_without_a_receiver_is_stopped() {
        let alarm = Ticker::new(sched());
        let inner = Arc::downgrade(&alarm.inner);
        alarm.reset(100, Some(10));
        pass(100);
        assert_eq!(value(&alarm), Some(100));
        let receiver = alarm.into_receiver();
        assert!(!sched().timers().is_empty());
        drop(receiver);
        assert!(sched().timers().is_empty() && inner.upgrade().is_none());
    }
}
