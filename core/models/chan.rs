//! Models of channels between threads, and between a thread and a goroutine. The value is a
//! [`Mail`]: loom reports a race if a receiver does not see what the sender wrote. A packet is
//! `Owned`: loom reports a race if two threads use one at once.
#![allow(unsafe_code, reason = "a model queues the node of a goroutine")]

use super::{Packet, Receiver, SendError, Sender, TrySendError, bounded};
use crate::choice::{Choice, End, Outcome, WaitNode};
use crate::models::{Immortal, Mail, ModelSched, explore, finish, goroutine, parked};
use crate::os::Nanos;
use crate::sched::{self, Sched};
use crate::waiter::Waiter;
use core::ptr::NonNull;
use loom::thread;

type Tx = Sender<Mail, &'static Sched>;
type Rx = Receiver<Mail, &'static Sched>;

/// The clock of the model shows later times already, or will after one or two looks.
const SOON: Nanos = 2_000;

fn mail(value: u32) -> Mail {
    let mail = Mail::new();
    mail.put(value);
    mail
}

/// Explores a model of one channel.
fn run<F: Fn(&'static Sched, Tx, Rx) + Send + Sync + 'static>(capacity: usize, model: F) {
    explore::<F>(move || {
        let owner = ModelSched::new(1, 1);
        let (tx, rx) = bounded(capacity, owner.get());
        model(owner.get(), tx, rx);
    });
}

/// The thread of M 0, which runs timers until goroutine 1 is submitted.
fn m(sched: &'static Sched) -> thread::JoinHandle<()> {
    thread::spawn(move || assert_eq!(sched::models::run(sched, 0, 1), [1]))
}

#[test]
fn a_rendezvous_hands_the_value_over() {
    run(0, |_, tx, rx| {
        let sender = thread::spawn(move || tx.send(mail(7)).unwrap());
        assert_eq!(rx.recv().unwrap().get(), 7);
        sender.join().unwrap();
        assert!(rx.recv().is_err());
    });
}

#[test]
fn two_senders_share_a_buffer_of_one() {
    run(1, |_, tx, rx| {
        let other = tx.clone();
        let senders = [(tx, 1), (other, 2)]
            .map(|(tx, value)| thread::spawn(move || tx.send(mail(value)).unwrap()));
        let sum = rx.recv().unwrap().get() + rx.recv().unwrap().get();
        assert_eq!(sum, 3);
        for sender in senders {
            sender.join().unwrap();
        }
        assert!(rx.recv().is_err());
    });
}

#[test]
fn a_close_wakes_a_receiver_after_the_last_value() {
    run(0, |_, tx, rx| {
        let receiver =
            thread::spawn(move || (rx.recv().map(|mail| mail.get()), rx.recv().is_err()));
        tx.send(mail(7)).unwrap();
        assert!(tx.close());
        assert_eq!(receiver.join().unwrap(), (Ok(7), true));
    });
}

#[test]
fn a_close_gives_the_value_back_to_a_sender() {
    run(0, |_, tx, rx| {
        let sender = thread::spawn(move || tx.send(mail(7)).map_err(|SendError(mail)| mail.get()));
        drop(rx);
        assert_eq!(sender.join().unwrap(), Err(7));
    });
}

#[test]
fn a_close_wakes_all_receivers_and_one_has_the_value() {
    run(0, |_, tx, rx| {
        let receivers = [rx.clone(), rx]
            .map(|rx| thread::spawn(move || rx.recv().is_ok_and(|mail| mail.get() == 7)));
        tx.send(mail(7)).unwrap();
        drop(tx);
        let [first, second] = receivers.map(|receiver| receiver.join().unwrap());
        assert_ne!(first, second);
    });
}

#[test]
fn a_send_that_does_not_wait_meets_the_receiver_or_keeps_the_value() {
    run(0, |_, tx, rx| {
        let receiver = thread::spawn(move || rx.recv().map(|mail| mail.get()));
        let sent = match tx.try_send(mail(7)) {
            Ok(()) => true,
            Err(TrySendError::Full(mail)) => mail.get() != 7,
            Err(TrySendError::Disconnected(_)) => panic!("the receiver waits"),
        };
        drop(tx);
        assert_eq!(receiver.join().unwrap().is_ok(), sent);
    });
}

#[test]
fn a_receive_gets_the_value_or_its_limit_comes_and_the_sender_keeps_it() {
    run(0, |sched, tx, rx| {
        let m = m(sched);
        let receiver =
            thread::spawn(move || rx.recv_deadline(SOON).is_ok_and(|mail| mail.get() == 7));
        let sent = tx.send(mail(7));
        assert_eq!(receiver.join().unwrap(), sent.is_ok());
        assert!(sent.is_ok_and(|()| true) || tx.is_closed());
        sched.submit(goroutine(1));
        m.join().unwrap();
    });
}

#[test]
fn a_send_is_received_or_its_limit_comes_and_it_keeps_the_value() {
    run(0, |sched, tx, rx| {
        let m = m(sched);
        let sender = thread::spawn(move || match tx.send_deadline(mail(7), SOON) {
            Ok(()) => true,
            Err(error) => error.into_inner().get() != 7,
        });
        let received = rx.recv().is_ok_and(|mail| mail.get() == 7);
        assert_eq!(sender.join().unwrap(), received);
        sched.submit(goroutine(1));
        m.join().unwrap();
    });
}

/// What a goroutine that receives has on its stack.
struct Stack {
    choice: Choice,
    packet: Packet<Mail>,
}

#[test]
fn a_thread_sends_to_a_goroutine_that_its_m_commits() {
    run(0, |sched, tx, rx| {
        let stack = Immortal::new(Stack {
            choice: Choice::new(),
            packet: Packet::empty(),
        });
        let Stack { choice, packet } = stack.get();
        let node = WaitNode::new(choice, 0, NonNull::from(packet).cast());
        let channel = rx.channel();
        // SAFETY: node, choice and packet stay until the value has come.
        channel.with(|state| unsafe { state.receivers.push(&node, End::Back) });
        let sender = thread::spawn(move || tx.send(mail(7)).unwrap());
        match choice.commit(Waiter::G(parked(5, 0))) {
            Ok(()) => assert_eq!(sched::models::run(sched, 0, 1), [5]),
            Err(Waiter::G(g)) => {
                assert_eq!(finish(g), 5);
                // SAFETY: the node is in this queue or in none.
                channel.with(|state| unsafe { state.receivers.remove(&node) });
            }
            Err(Waiter::Thread(_)) => panic!("it was a goroutine"),
        }
        assert_eq!(choice.outcome(), Some(Outcome::Arm(0)));
        assert_eq!(packet.take().map(|mail| mail.get()), Some(7));
        sender.join().unwrap();
    });
}
