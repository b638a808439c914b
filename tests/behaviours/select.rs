//! `select!` and `Select`: what Go and the crate crossbeam-channel promise.

mod forms;
mod traffic;

use super::chan::{Drops, assert_yields, until_waits};
use super::check_on_thread;
use crate::check;
use gopark::chan::{self, TryRecvError, TrySendError};
use gopark::{Select, go, select};
use gopark_tests::{LIMIT, join};
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(3);

#[test]
fn the_arm_that_is_ready_happens() {
    check(|| {
        let (sender, receiver) = chan::bounded(1);
        let (_other, empty) = chan::bounded::<u8>(1);
        let (full, _receiver) = chan::bounded(0);
        for i in 0..100 {
            select! {
                recv(empty) -> _ => panic!("it is empty"),
                send(full, i) -> _ => panic!("it is full"),
                send(sender, i) -> result => result.unwrap(),
            }
            let value = select! {
                send(full, i) -> _ => panic!("it is full"),
                recv(receiver) -> value => value.unwrap(),
                recv(empty) -> _ => panic!("it is empty"),
            };
            assert_eq!(value, i);
        }
    });
}

#[test]
fn a_select_waits_for_the_first_event() {
    check(|| {
        let (first, from_first) = chan::bounded(0);
        let (_second, from_second) = chan::bounded::<u8>(0);
        let (third, from_third) = chan::bounded(0);
        let rest = from_third.clone();
        let selects = go(move || {
            (0..2)
                .map(|_| {
                    select! {
                        recv(from_first) -> value => value.unwrap(),
                        recv(from_second) -> _ => panic!("nothing is sent there"),
                        send(third, 5) -> result => { result.unwrap(); 0 }
                    }
                })
                .sum::<u8>()
        });
        until_waits(&selects);
        first.send(9).unwrap();
        until_waits(&selects);
        assert_eq!(rest.recv(), Ok(5));
        assert_eq!(join(selects), 9);
        // The select has left no node in a queue.
        assert_eq!(first.try_send(1).unwrap_err().into_inner(), 1);
        assert_eq!(rest.try_recv(), Err(TryRecvError::Disconnected));
    });
}

#[test]
fn the_arms_that_lost_leave_nothing_behind() {
    check(|| {
        let drops = Drops::default();
        let (sender, receiver) = chan::bounded::<usize>(0);
        let (other, empty) = chan::bounded::<usize>(0);
        let (full, values) = chan::bounded(0);
        let selects = go({
            let (full, value) = (full.clone(), drops.value(1));
            let (receiver, empty) = (receiver.clone(), empty.clone());
            move || {
                select! {
                    recv(receiver) -> value => value.unwrap(),
                    recv(empty) -> value => value.unwrap(),
                    send(full, value) -> _ => panic!("it is not received"),
                }
            }
        });
        until_waits(&selects);
        sender.try_send(7).unwrap();
        assert_eq!(join(selects), 7);
        assert_eq!(drops.count(), 1, "the value that was not sent is dropped");
        assert_eq!(other.try_send(8), Err(TrySendError::Full(8)));
        assert_eq!(sender.try_send(8), Err(TrySendError::Full(8)));
        assert!(values.try_recv().is_err());
        // Those that come later are served.
        let waits = go(move || empty.recv());
        until_waits(&waits);
        other.try_send(9).unwrap();
        assert_eq!(join(waits), Ok(9));
    });
}

#[test]
fn the_values_of_losers_are_dropped_before_the_arm_runs() {
    check(|| {
        let drops = Drops::default();
        let (sender, receiver) = chan::unbounded();
        let (full, _receiver) = chan::bounded(0);
        sender.send(()).unwrap();
        select! {
            send(full, drops.value(1)) -> _ => panic!("it is full"),
            recv(receiver) -> _ => assert_eq!(drops.count(), 2),
            send(full, drops.value(2)) -> _ => panic!("it is full"),
        }
    });
}

#[test]
fn selects_and_plain_operations_are_served_in_the_order_in_which_they_came() {
    check(|| {
        let (sender, receiver) = chan::bounded(0);
        let (_other, never) = chan::bounded::<usize>(0);
        let waiters: Vec<_> = (0..20)
            .map(|i| {
                let (receiver, never) = (receiver.clone(), never.clone());
                let waiter = go(move || match i % 2 {
                    0 => receiver.recv(),
                    _ => select! {
                        recv(never) -> value => value,
                        recv(receiver) -> value => value,
                    },
                });
                until_waits(&waiter);
                waiter
            })
            .collect();
        (0..20).for_each(|i| sender.try_send(i).unwrap());
        let received: Vec<_> = waiters.into_iter().map(|w| join(w).unwrap()).collect();
        assert!(received.into_iter().eq(0..20));
    });
}

#[test]
fn a_closed_channel_is_an_event() {
    check(|| {
        let (sender, receiver) = chan::bounded::<u8>(0);
        let (_other, never) = chan::bounded::<u8>(0);
        receiver.close();
        for _ in 0..10 {
            select! {
                recv(never) -> _ => panic!("nothing is sent there"),
                recv(receiver) -> value => assert!(value.is_err()),
            }
            select! {
                recv(never) -> _ => panic!("nothing is sent there"),
                send(sender, 3) -> result => assert_eq!(result.unwrap_err().into_inner(), 3),
            }
        }
    });
}

#[test]
fn a_close_ends_a_select_that_waits() {
    check(|| {
        let drops = Drops::default();
        let (sender, receiver) = chan::bounded::<u8>(0);
        let (_other, never) = chan::bounded::<u8>(0);
        let (full, closes) = chan::bounded(0);
        let never2 = never.clone();
        let receives = go(move || {
            select! {
                recv(never2) -> _ => false,
                recv(receiver) -> value => value.is_err(),
            }
        });
        let value = drops.value(4);
        let sends = go(move || {
            select! {
                recv(never) -> _ => 0,
                send(full, value) -> result => result.unwrap_err().into_inner().id,
            }
        });
        until_waits(&receives);
        until_waits(&sends);
        drop(sender);
        drop(closes);
        assert!(join(receives));
        assert_eq!(join(sends), 4);
        assert_eq!(drops.count(), 1);
    });
}

/// A select that offers both ends of a channel does not exchange a value with itself.
#[test]
fn a_select_never_meets_itself() {
    check(|| {
        let (sender, receiver) = chan::bounded(0);
        for _ in 0..100 {
            select! {
                send(sender, 1) -> _ => panic!("it received its own value"),
                recv(receiver) -> _ => panic!("it sent to itself"),
                default => {}
            }
        }
        select! {
            recv(receiver) -> _ => panic!("it sent to itself"),
            send(sender, 1) -> _ => panic!("it received its own value"),
            recv(receiver) -> _ => panic!("it sent to itself"),
            default(SHORT) => {}
        }
        let both = |sender: &chan::Sender<u8>, receiver: &chan::Receiver<u8>| {
            let (sender, receiver) = (sender.clone(), receiver.clone());
            let selects = go(move || {
                select! {
                    send(sender, 1) -> result => { result.unwrap(); 0 }
                    recv(receiver) -> value => value.unwrap(),
                }
            });
            until_waits(&selects);
            selects
        };
        let sends = both(&sender, &receiver);
        assert_eq!(receiver.try_recv(), Ok(1));
        assert_eq!(join(sends), 0);
        let receives = both(&sender, &receiver);
        assert_eq!(sender.try_send(9), Ok(()));
        assert_eq!(join(receives), 9);
        assert!(receiver.try_recv().is_err() && sender.try_send(1).is_err());
    });
}

#[test]
fn one_buffer_can_be_both_arms() {
    check(|| {
        let (sender, receiver) = chan::bounded(1);
        for _ in 0..50 {
            select! {
                send(sender, 1) -> result => result.unwrap(),
                recv(receiver) -> _ => panic!("it was empty"),
            }
            select! {
                send(sender, 2) -> _ => panic!("it was full"),
                recv(receiver) -> value => assert_eq!(value, Ok(1)),
            }
        }
    });
}

#[test]
fn a_channel_that_is_in_several_arms_gives_its_value_to_one() {
    check(|| {
        let (sender, receiver) = chan::bounded(0);
        let selects = go(move || {
            let mut counts = [0; 3];
            for i in 0..300 {
                let arm = select! {
                    recv(receiver) -> value => { assert_eq!(value, Ok(i)); 0 }
                    recv(receiver) -> value => { assert_eq!(value, Ok(i)); 1 }
                    recv(receiver) -> value => { assert_eq!(value, Ok(i)); 2 }
                };
                counts[arm] += 1;
            }
            counts
        });
        (0..300).for_each(|i| sender.send(i).unwrap());
        assert_eq!(join(selects).iter().sum::<i32>(), 300);
        assert!(sender.try_send(0).is_err());
    });
}

#[test]
fn time_limits_are_never_early_and_the_earliest_comes_first() {
    check(|| {
        let (_sender, receiver) = chan::bounded::<u8>(0);
        for _ in 0..3 {
            let begin = Instant::now();
            select! {
                recv(receiver) -> _ => panic!("nothing is sent"),
                default(SHORT) => assert!(begin.elapsed() >= SHORT),
            }
            let begin = Instant::now();
            select! {
                at(begin + LIMIT) => panic!("it comes later"),
                recv(receiver) -> _ => panic!("nothing is sent"),
                at(begin + SHORT) => assert!(begin.elapsed() >= SHORT),
                default(Duration::MAX) => panic!("it never comes"),
                at(begin + LIMIT) => panic!("it comes later"),
            }
        }
    });
}

#[test]
fn an_event_that_is_there_comes_before_a_limit_that_has_passed() {
    check(|| {
        let (sender, receiver) = chan::bounded(1);
        for i in 0..100 {
            sender.send(i).unwrap();
            select! {
                default(Duration::ZERO) => panic!("a value is there"),
                recv(receiver) -> value => assert_eq!(value, Ok(i)),
            }
            select! {
                recv(receiver) -> _ => panic!("nothing is sent"),
                default(Duration::ZERO) => {}
            }
        }
    });
}

#[test]
fn a_select_that_has_expired_leaves_no_node() {
    check(|| {
        let drops = Drops::default();
        let (sender, receiver) = chan::bounded(0);
        let (full, values) = chan::bounded(0);
        select! {
            recv(receiver) -> _ => panic!("nothing is sent"),
            send(full, drops.value(1)) -> _ => panic!("nothing is received"),
            default(SHORT) => assert_eq!(drops.count(), 1),
        }
        assert_eq!(sender.try_send(1), Err(TrySendError::Full(1)));
        assert!(values.try_recv().is_err());
        let waits = go(move || receiver.recv());
        until_waits(&waits);
        sender.try_send(2).unwrap();
        assert_eq!(join(waits), Ok(2));
    });
}

#[test]
fn ordinary_threads_select() {
    check_on_thread(|| {
        let (sender, receiver) = chan::bounded(0);
        let (end, ends) = chan::bounded::<()>(0);
        let sends = go(move || {
            (0..300).for_each(|i| sender.send(i).unwrap());
            drop(end);
        });
        let mut next = 0;
        loop {
            select! {
                recv(receiver) -> value => if let Ok(value) = value {
                    assert_eq!(value, next);
                    next += 1;
                },
                recv(ends) -> end => {
                    end.unwrap_err();
                    break;
                }
                default(LIMIT) => panic!("nothing comes"),
            }
        }
        assert_eq!(next, 300);
        sends.join().unwrap();
        let begin = Instant::now();
        let (_sender, never) = chan::bounded::<u8>(0);
        select! {
            recv(never) -> _ => panic!("nothing is sent"),
            default(SHORT) => assert!(begin.elapsed() >= SHORT),
        }
        let mut select = Select::new();
        select.recv(&never, |_| panic!("nothing is sent"));
        let begin = Instant::now();
        assert_eq!(select.wait_timeout(SHORT), None::<()>);
        assert!(begin.elapsed() >= SHORT);
    });
}

#[test]
fn a_goroutine_that_polls_yields_now_and_then_to_its_neighbours() {
    check(|| {
        let (sender, receiver) = chan::bounded(1);
        assert_yields("a default", || {
            select! { recv(receiver) -> _ => panic!("it is empty"), default => {} }
        });
        assert_yields("an expired select", || {
            select! {
                recv(receiver) -> _ => panic!("it is empty"),
                default(Duration::ZERO) => {}
            }
        });
        assert_yields("a select whose arm is ready", || {
            select! {
                recv(receiver) -> value => value.unwrap(),
                send(sender, ()) -> result => result.unwrap(),
            }
        });
        let never = receiver.clone();
        _ = receiver.try_recv();
        assert_yields("a Select", || {
            let mut select = Select::new();
            select.recv(&never, |_| ());
            assert_eq!(select.try_wait(), None);
        });
    });
}

#[test]
fn a_select_over_a_hundred_channels_waits_for_each() {
    check(|| {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..100).map(|_| chan::bounded(0)).unzip();
        let selects = go(move || {
            let mut seen = Vec::new();
            while seen.len() < 200 {
                let mut select = Select::new();
                for (i, receiver) in receivers.iter().enumerate() {
                    select.recv(receiver, move |value| (i, value.unwrap()));
                }
                seen.push(select.wait());
            }
            seen
        });
        let expected: Vec<_> = (0..200).map(|i| (i * 37 % 100, i)).collect();
        for &(channel, value) in &expected {
            senders[channel].send(value).unwrap();
        }
        assert_eq!(join(selects), expected);
        assert!(senders.iter().all(|sender| sender.is_closed()));
    });
}

#[test]
fn a_select_made_at_run_time_does_what_the_macro_does() {
    check(|| {
        let drops = Drops::default();
        let (full, values) = chan::bounded(0);
        let (sender, receiver) = chan::bounded(1);
        let make = |id| {
            let drops = &drops;
            let mut select = Select::new();
            select
                .send(&full, drops.value(id), |result| Some(result.is_ok()))
                .recv(&receiver, move |value: Result<(), _>| {
                    // The value of the send is dropped before.
                    value.ok().map(|()| drops.count() == id)
                });
            select
        };
        assert_eq!(make(1).try_wait(), None);
        assert_eq!(make(2).wait_timeout(SHORT), None);
        assert_eq!(make(3).wait_deadline(Instant::now()), None);
        assert_eq!(drops.count(), 3);
        assert!(values.try_recv().is_err());
        sender.send(()).unwrap();
        assert_eq!(make(4).wait(), Some(true));
        assert_eq!(drops.count(), 4);
        let receives = go({
            let values = values.clone();
            move || values.recv().unwrap().id
        });
        until_waits(&receives);
        assert_eq!(make(5).try_wait(), Some(Some(true)));
        assert_eq!(join(receives), 5);
        drop(values);
        assert_eq!(make(6).wait(), Some(false));
        assert_eq!(drops.count(), 6);
    });
}
