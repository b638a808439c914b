//! `Select::ready` and its kin.

use super::{CAPACITIES, LONG, SHORT, channel, until};
use crate::{check, thread};
use crossbeam_channel::{
    ReadyTimeoutError, Select, TryReadyError, TryRecvError, after, bounded, never, unbounded,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

#[test]
fn what_is_ready_is_left_as_it_is() {
    check(|| {
        let (numbers, from_numbers) = unbounded();
        let (sender, receiver) = bounded(1);
        let mut select = Select::new();
        let recv = select.recv(&from_numbers);
        let send = select.send(&sender);
        sender.send(0).unwrap();
        assert_eq!(select.try_ready(), Err(TryReadyError));
        numbers.send(1).unwrap();
        for _ in 0..3 {
            assert_eq!(select.ready(), recv);
            assert_eq!(select.ready_timeout(SHORT), Ok(recv));
            assert_eq!(select.ready_deadline(Instant::now()), Ok(recv));
        }
        assert_eq!(
            (from_numbers.try_recv(), receiver.try_recv()),
            (Ok(1), Ok(0))
        );
        assert_eq!(select.ready(), send);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    });
}

#[test]
fn what_is_not_ready_ends_with_the_limit() {
    check(|| {
        for capacity in CAPACITIES {
            let (_sender, receiver) = channel::<u8>(capacity);
            let mut select = Select::new();
            select.recv(&receiver);
            let before = Instant::now();
            assert_eq!(select.ready_timeout(SHORT), Err(ReadyTimeoutError));
            assert!(before.elapsed() >= SHORT);
            let deadline = Instant::now() + SHORT;
            assert_eq!(select.ready_deadline(deadline), Err(ReadyTimeoutError));
            assert!(Instant::now() >= deadline);
        }
        assert_eq!(Select::new().ready_timeout(SHORT), Err(ReadyTimeoutError));
    });
}

#[test]
fn a_channel_that_disconnects_becomes_ready() {
    check(|| {
        for capacity in CAPACITIES {
            let (sender, receiver) = channel::<u8>(capacity);
            let (full, at_full) = bounded::<u8>(0);
            let began = AtomicUsize::new(0);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut select = Select::new();
                    select.recv(&receiver);
                    began.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(select.ready(), 0);
                    assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
                });
                scope.spawn(|| {
                    let mut select = Select::new();
                    select.send(&full);
                    began.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(select.ready_timeout(LONG), Ok(0));
                    assert!(full.try_send(0).unwrap_err().is_disconnected());
                });
                until(|| began.load(Ordering::SeqCst) == 2);
                drop((sender, at_full));
            });
        }
    });
}

/// Receives `count` messages by waiting for readiness. There is no other receiver, so what is ready
/// stays so.
fn receive_when_ready(receiver: &crossbeam_channel::Receiver<usize>, count: usize) {
    let mut select = Select::new();
    select.recv(receiver);
    for i in 0..count {
        assert_eq!(select.ready(), 0);
        assert_eq!(receiver.try_recv(), Ok(i));
    }
}

#[test]
fn a_send_makes_a_receive_ready() {
    check(|| {
        for capacity in CAPACITIES {
            let (sender, receiver) = channel(capacity);
            thread::scope(|scope| {
                scope.spawn(|| (0..200).for_each(|i| sender.send(i).unwrap()));
                receive_when_ready(&receiver, 200);
            });
        }
    });
}

/// Each message finds a watcher that sleeps, or is on its way to it.
#[test]
fn messages_that_come_alone_wake_a_watcher() {
    check(|| {
        for capacity in CAPACITIES {
            let (sender, receiver) = channel(capacity);
            let (to_go_on, go_on) = bounded(0);
            thread::scope(|scope| {
                scope.spawn(move || {
                    for i in 0..200 {
                        sender.send(i).unwrap();
                        go_on.recv().unwrap();
                    }
                });
                let mut select = Select::new();
                select.recv(&receiver);
                for i in 0..200 {
                    assert_eq!(select.ready_timeout(LONG), Ok(0));
                    assert_eq!(receiver.try_recv(), Ok(i));
                    to_go_on.send(()).unwrap();
                }
            });
        }
    });
}

#[test]
fn a_send_of_a_select_makes_a_receive_ready() {
    check(|| {
        for capacity in CAPACITIES {
            let (sender, receiver) = channel(capacity);
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut select = Select::new();
                    select.send(&sender);
                    (0..200).for_each(|i| select.select().send(&sender, i).unwrap());
                });
                receive_when_ready(&receiver, 200);
            });
        }
    });
}

#[test]
fn a_receive_makes_a_send_ready() {
    check(|| {
        for capacity in [0, 1, 7] {
            let (sender, receiver) = bounded(capacity);
            thread::scope(|scope| {
                scope.spawn(|| {
                    for i in 0..200 {
                        match i % 2 {
                            0 => assert_eq!(receiver.recv(), Ok(i)),
                            _ => {
                                let mut select = Select::new();
                                select.recv(&receiver);
                                assert_eq!(select.select().recv(&receiver), Ok(i));
                            }
                        }
                    }
                });
                let mut select = Select::new();
                select.send(&sender);
                for i in 0..200 {
                    assert_eq!(select.ready_timeout(LONG), Ok(0));
                    assert_eq!(sender.try_send(i), Ok(()));
                }
            });
        }
    });
}

#[test]
fn both_ends_of_one_channel_do_not_make_each_other_ready() {
    check(|| {
        let (sender, receiver) = bounded::<u8>(0);
        let mut select = Select::new();
        select.send(&sender);
        select.recv(&receiver);
        assert!(select.try_ready().is_err());
        assert!(select.ready_timeout(SHORT).is_err());
    });
}

#[test]
fn one_of_those_that_are_ready_is_chosen_at_random() {
    check(|| {
        let channels: Vec<_> = (0..3).map(|_| bounded(1)).collect();
        channels
            .iter()
            .for_each(|(sender, _)| sender.send(0).unwrap());
        let none = never::<u8>();
        let mut select = Select::new();
        select.recv(&none);
        channels
            .iter()
            .for_each(|(_, receiver)| _ = select.recv(receiver));
        let mut hits = [0; 4];
        (0..300).for_each(|_| hits[select.ready()] += 1);
        assert!(
            hits[0] == 0 && hits[1..].iter().all(|&times| times >= 30),
            "{hits:?}"
        );
    });
}

#[test]
fn many_watchers_of_one_channel_get_its_messages() {
    check(|| {
        let (sender, receiver) = unbounded();
        let received = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                let (receiver, received) = (receiver.clone(), &received);
                scope.spawn(move || {
                    let mut select = Select::new();
                    select.recv(&receiver);
                    loop {
                        select.ready();
                        match receiver.try_recv() {
                            Ok(_) => _ = received.fetch_add(1, Ordering::SeqCst),
                            Err(TryRecvError::Empty) => {}
                            Err(TryRecvError::Disconnected) => break,
                        }
                    }
                });
            }
            (0..400).for_each(|i| sender.send(i).unwrap());
            drop(sender);
        });
        assert_eq!(received.into_inner(), 400);
    });
}

#[test]
fn a_channel_is_ready_before_a_clock() {
    check(|| {
        let (sender, receiver) = bounded(1);
        let late = after(LONG);
        thread::scope(|scope| {
            scope.spawn(|| sender.send(1).unwrap());
            let mut select = Select::new();
            select.recv(&late);
            let recv = select.recv(&receiver);
            assert_eq!(select.ready(), recv);
        });
        assert_eq!(receiver.try_recv(), Ok(1));
    });
}
