//! Models of selects: threads that wait for several channels at once.

use super::Limit;
use crate::chan::{Receiver, Sender, bounded};
use crate::models::{Mail, ModelSched, explore, goroutine};
use crate::sched::{self, Sched};
use loom::thread;

type Tx = Sender<Mail, &'static Sched>;
type Rx = Receiver<Mail, &'static Sched>;

fn mail(value: u32) -> Mail {
    let mail = Mail::new();
    mail.put(value);
    mail
}

/// Makes two channels of capacity 0. A select locks them by their addresses, and loom repeats an
/// execution only if that order is the same in each.
fn channels(sched: &'static Sched) -> [(Tx, Rx); 2] {
    let mut both = [bounded(0, sched), bounded(0, sched)];
    both.sort_by_key(|(_, rx): &(Tx, Rx)| core::ptr::from_ref(rx.arm().case().gate).addr());
    both
}

/// Explores a model of one scheduler.
fn run<F: Fn(&'static Sched) + Send + Sync + 'static>(model: F) {
    explore::<F>(move || {
        let owner = ModelSched::new(1, 1);
        model(owner.get());
    });
}

#[test]
fn two_selects_that_face_each_other_agree_on_one_channel() {
    run(|sched| {
        let [(to_a, from_a), (to_b, from_b)] = channels(sched);
        let (there, back) = (from_a.clone(), to_b.clone());
        // The two list the channels in opposite orders.
        let other = thread::spawn(move || {
            let (send, receive) = (back.arm(mail(2)), there.arm());
            let cases = [send.case(), receive.case()];
            let chosen = sched.select(&cases, true, Limit::Never);
            (chosen, receive.finish().map(|mail| mail.get()))
        });
        let (send, receive) = (to_a.arm(mail(1)), from_b.arm());
        let chosen = sched.select(&[send.case(), receive.case()], true, Limit::Never);
        let received = receive.finish().map(|mail| mail.get());
        let (other_chosen, other_received) = other.join().unwrap();
        match chosen {
            Some(0) => {
                assert_eq!((other_chosen, other_received), (Some(1), Ok(1)));
                assert!(received.is_err() && send.finish().is_ok());
            }
            _ => {
                assert_eq!((chosen, other_chosen), (Some(1), Some(0)));
                assert!(received == Ok(2) && other_received.is_err());
                assert!(send.finish().is_err_and(|error| error.0.get() == 1));
            }
        }
        // No node is left.
        assert!(to_a.try_send(mail(3)).is_err() && from_b.try_recv().is_err());
    });
}

#[test]
fn a_select_of_two_receives_takes_one_of_two_values() {
    run(|sched| {
        let [(to_a, from_a), (to_b, from_b)] = channels(sched);
        let senders = [(to_a, 1), (to_b, 2)]
            .map(|(tx, value)| thread::spawn(move || tx.send(mail(value)).unwrap()));
        let receivers = [from_a, from_b];
        let (a, b) = (receivers[0].arm(), receivers[1].arm());
        let chosen = sched.select(&[a.case(), b.case()], true, Limit::Never);
        let chosen = chosen.expect("the select has no limit");
        let taken = [a.finish(), b.finish()].map(|taken| taken.map(|mail| mail.get()).ok());
        assert_eq!(taken[chosen], Some(chosen as u32 + 1));
        assert_eq!(taken[1 - chosen], None);
        let rest = receivers[1 - chosen].recv().unwrap().get();
        assert_eq!(rest, 2 - chosen as u32);
        for sender in senders {
            sender.join().unwrap();
        }
    });
}

#[test]
fn a_close_wakes_a_select_that_waits_twice_for_one_channel() {
    run(|sched| {
        let (tx, rx) = bounded::<Mail, _>(0, sched);
        let other = thread::spawn(move || drop(tx));
        let (a, b) = (rx.arm(), rx.arm());
        let chosen = sched.select(&[a.case(), b.case()], true, Limit::Never);
        assert_eq!(chosen, Some(0));
        assert!(a.finish().is_err() && b.finish().is_err());
        other.join().unwrap();
    });
}

#[test]
fn a_select_whose_limit_has_passed_takes_a_value_that_came_first() {
    run(|sched| {
        let (tx, rx) = bounded::<Mail, _>(0, sched);
        let receiver = thread::spawn(move || {
            let arm = rx.arm();
            let chosen = sched.select(&[arm.case()], true, Limit::At(1));
            assert_eq!(
                chosen.is_some(),
                arm.finish().is_ok_and(|mail| mail.get() == 7)
            );
            chosen.is_some()
        });
        let sent = tx.try_send(mail(7)).is_ok();
        assert_eq!(receiver.join().unwrap(), sent);
    });
}

#[test]
fn a_select_takes_the_value_or_its_limit_comes_and_the_sender_keeps_it() {
    run(|sched| {
        const SOON: crate::os::Nanos = 2_000;
        let m = thread::spawn(move || assert_eq!(sched::models::run(sched, 0, 1), [1]));
        let (tx, rx) = bounded::<Mail, _>(0, sched);
        let receiver = thread::spawn(move || {
            let arm = rx.arm();
            let chosen = sched.select(&[arm.case()], true, Limit::At(SOON));
            let received = arm.finish().is_ok_and(|mail| mail.get() == 7);
            assert_eq!(chosen.is_some(), received);
            received
        });
        let sent = tx.send(mail(7)).is_ok();
        assert_eq!(receiver.join().unwrap(), sent);
        sched.submit(goroutine(1));
        m.join().unwrap();
    });
}
