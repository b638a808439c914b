//! Models of alarms: a timer that fires while its owner stops or resets it.

use super::Alarm;
use crate::models::{ModelSched, explore};
use crate::sched::Sched;
use crate::waiter::WaiterList;
use loom::thread;

fn run<F: Fn(&'static Sched) + Send + Sync + 'static>(model: F) {
    explore::<F>(move || {
        let owner = ModelSched::new(1, 1);
        model(owner.get());
    });
}

fn fire(sched: &'static Sched, now: i64) {
    let mut woken = WaiterList::new();
    sched.timers().run(now, &mut woken);
    sched.ready_list(woken);
}

#[test]
fn after_a_stop_there_is_no_value() {
    run(|sched| {
        let alarm = Alarm::new(sched);
        alarm.reset(10, None);
        let other = thread::spawn(move || fire(sched, 10));
        assert!(alarm.stop());
        assert!(alarm.receiver().try_recv().is_err());
        other.join().unwrap();
        assert!(alarm.receiver().try_recv().is_err() && !alarm.stop());
        assert!(sched.timers().is_empty());
    });
}

#[test]
fn after_a_reset_the_alarm_fires_for_its_new_time_only() {
    run(|sched| {
        let alarm = Alarm::new(sched);
        alarm.reset(10, None);
        let other = thread::spawn(move || fire(sched, 10));
        alarm.reset(20, None);
        other.join().unwrap();
        assert!(alarm.receiver().try_recv().is_err());
        fire(sched, 20);
        assert!(alarm.receiver().try_recv().is_ok());
        assert!(sched.timers().is_empty());
    });
}

#[test]
fn a_tick_arms_the_ticker_again_unless_it_was_stopped() {
    run(|sched| {
        let alarm = Alarm::new(sched);
        alarm.reset(10, Some(10));
        let other = thread::spawn(move || fire(sched, 10));
        assert!(alarm.stop());
        other.join().unwrap();
        assert!(sched.timers().is_empty());
        assert!(alarm.receiver().try_recv().is_err());
    });
}
