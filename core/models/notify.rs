//! Models of notifications.

use super::RawNotify;
use crate::models::{Immortal, Mail, ModelSched, explore};
use crate::sched::Sched;
use loom::thread;

type Shared = (RawNotify<&'static Sched>, Mail);

fn run<F: Fn(&'static Shared) + Send + Sync + 'static>(model: F) {
    explore::<F>(move || {
        let owner = ModelSched::new(1, 1);
        let shared = Immortal::new((RawNotify::new(owner.get()), Mail::new()));
        model(shared.get());
    });
}

#[test]
fn a_notification_is_taken_once_and_not_lost() {
    run(|(notify, mail)| {
        let notifier = thread::spawn(|| {
            mail.put(1);
            notify.notify_one();
        });
        notify.wait();
        assert_eq!(mail.get(), 1);
        notifier.join().unwrap();
        assert!(!notify.wait_until(0));
    });
}

#[test]
fn two_notifications_wake_two_waiters() {
    run(|(notify, _)| {
        let waiter = thread::spawn(|| notify.wait());
        notify.notify_one();
        waiter.join().unwrap();
        let waiter = thread::spawn(|| notify.wait());
        notify.notify_one();
        waiter.join().unwrap();
    });
}
