//! Channels of capacity 0.

use super::until;
use crate::{check, thread};
use crossbeam_channel::{RecvError, TryRecvError, TrySendError, bounded, select};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[test]
fn a_send_returns_after_its_receive_has_begun() {
    check(|| {
        let (sender, receiver) = bounded(0);
        let begun = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..500 {
                    begun.store(i + 1, Ordering::SeqCst);
                    assert_eq!(receiver.recv(), Ok(i));
                }
            });
            for i in 0..500 {
                sender.send(i).unwrap();
                assert!(begun.load(Ordering::SeqCst) > i);
                assert!(sender.is_empty() && sender.is_full() && matches!(sender.len(), 0));
            }
        });
    });
}

#[test]
fn what_does_not_wait_needs_a_partner_that_waits() {
    check(|| {
        let (sender, receiver) = bounded(0);
        assert_eq!(sender.try_send(1), Err(TrySendError::Full(1)));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        thread::scope(|scope| {
            scope.spawn(|| assert_eq!(receiver.recv(), Ok(2)));
            until(|| sender.try_send(2).is_ok());
        });
        thread::scope(|scope| {
            scope.spawn(|| sender.send(3).unwrap());
            until(|| match receiver.try_recv() {
                Ok(message) => message == 3,
                Err(error) => {
                    assert!(error.is_empty());
                    false
                }
            });
        });
        drop(sender);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
    });
}

#[test]
fn a_select_does_not_meet_itself() {
    check(|| {
        let (sender, receiver) = bounded::<u8>(0);
        for _ in 0..100 {
            select! {
                send(sender, 1) -> _ => panic!("sent to itself"),
                recv(receiver) -> _ => panic!("received from itself"),
                default => {}
            }
        }
        select! {
            send(sender, 1) -> _ => panic!("sent to itself"),
            recv(receiver) -> _ => panic!("received from itself"),
            default(super::SHORT) => {}
        }
    });
}

#[test]
fn selects_over_both_ends_pair_up() {
    check(|| {
        const MEMBERS: usize = 20;
        let (sender, receiver) = bounded(0);
        let (sent, received) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for i in 0..MEMBERS {
                let (sender, receiver) = (&sender, &receiver);
                let (sent, received) = (&sent, &received);
                scope.spawn(move || {
                    select! {
                        recv(receiver) -> message => {
                            assert_ne!(message.unwrap(), i);
                            received.fetch_add(1, Ordering::Relaxed);
                        }
                        send(sender, i) -> result => {
                            result.unwrap();
                            sent.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(sent.into_inner(), MEMBERS / 2);
        assert_eq!(received.into_inner(), MEMBERS / 2);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    });
}

#[test]
fn an_odd_number_of_selects_leaves_one() {
    check(|| {
        let (sender, receiver) = bounded(0);
        thread::scope(|scope| {
            for i in 0..21 {
                let (sender, receiver) = (&sender, &receiver);
                scope.spawn(move || {
                    select! {
                        recv(receiver) -> message => assert_ne!(message, Ok(i)),
                        send(sender, i) -> result => result.unwrap(),
                    }
                });
            }
            sender.send(99).unwrap();
        });
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    });
}

#[test]
fn a_receiver_waits_while_the_message_of_its_select_is_made() {
    check(|| {
        let (sender, receiver) = bounded(0);
        let is_made = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let make = || {
                    (0..100).for_each(|_| thread::yield_now());
                    is_made.store(true, Ordering::SeqCst);
                    "made"
                };
                select! { send(sender, make()) -> result => result.unwrap() }
            });
            assert_eq!(receiver.recv(), Ok("made"));
            assert!(is_made.load(Ordering::SeqCst));
        });
    });
}

#[test]
fn senders_that_wait_are_served_before_the_channel_disconnects_for_a_receiver() {
    check(|| {
        let (sender, receiver) = bounded(0);
        thread::scope(|scope| {
            for i in 0..3 {
                let sender = sender.clone();
                scope.spawn(move || sender.send(i).unwrap());
            }
            drop(sender);
            let mut messages: Vec<_> = receiver.iter().collect();
            messages.sort();
            assert_eq!(messages, [0, 1, 2]);
            assert_eq!(receiver.recv(), Err(RecvError));
        });
    });
}
