//! `Select` and the operations that it begins.

use super::{CAPACITIES, LONG, SHORT, channel, until};
use crate::{check, thread};
use crossbeam_channel::{
    Receiver, RecvError, Select, SelectTimeoutError, SendError, TryRecvError, TrySelectError,
    bounded, never, unbounded,
};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Receives from one of `receivers`.
fn recv_any<T>(receivers: &[Receiver<T>]) -> (usize, Result<T, RecvError>) {
    let mut select = Select::new();
    for receiver in receivers {
        select.recv(receiver);
    }
    let selected = select.select();
    let index = selected.index();
    (index, selected.recv(&receivers[index]))
}

#[test]
fn the_operation_that_is_ready_is_selected() {
    check(|| {
        let channels: Vec<_> = (0..20).map(|_| unbounded()).collect();
        let receivers: Vec<_> = channels
            .iter()
            .map(|(_, receiver)| receiver.clone())
            .collect();
        for i in [3, 0, 19, 7] {
            channels[i].0.send(i).unwrap();
            assert_eq!(recv_any(&receivers), (i, Ok(i)));
        }
    });
}

#[test]
fn sends_are_selected_if_there_is_room() {
    check(|| {
        let channels: Vec<_> = (0..5).map(|_| bounded(1)).collect();
        for i in [0, 1, 3, 4] {
            channels[i].0.send(0).unwrap();
        }
        let mut select = Select::new();
        channels
            .iter()
            .for_each(|(sender, _)| _ = select.send(sender));
        let selected = select.select();
        assert_eq!(selected.index(), 2);
        selected.send(&channels[2].0, 5).unwrap();
        assert!(select.try_select().is_err());
        assert_eq!(channels[2].1.recv(), Ok(5));
    });
}

#[test]
fn what_is_not_ready_is_not_selected() {
    check(|| {
        let (sender, receiver) = bounded(1);
        sender.send(1).unwrap();
        let other = never::<u8>();
        let mut select = Select::new();
        select.send(&sender);
        select.recv(&other);
        assert_eq!(select.try_select().unwrap_err(), TrySelectError);
        let before = Instant::now();
        assert_eq!(
            select.select_timeout(SHORT).unwrap_err(),
            SelectTimeoutError
        );
        assert!(before.elapsed() >= SHORT);
        let deadline = Instant::now() + SHORT;
        assert_eq!(
            select.select_deadline(deadline).unwrap_err(),
            SelectTimeoutError
        );
        assert!(Instant::now() >= deadline);
        assert_eq!(
            (receiver.recv(), receiver.try_recv()),
            (Ok(1), Err(TryRecvError::Empty))
        );
        for limit in [Duration::ZERO, LONG] {
            let selected = select.select_timeout(limit).unwrap();
            selected.send(&sender, 2).unwrap();
            assert_eq!(receiver.recv(), Ok(2));
            let selected = select.select_deadline(Instant::now() + limit).unwrap();
            selected.send(&sender, 3).unwrap();
            assert_eq!(receiver.recv(), Ok(3));
        }
    });
}

#[test]
fn a_channel_that_disconnects_is_ready() {
    check(|| {
        for capacity in CAPACITIES {
            let (sender, receiver) = channel::<u8>(capacity);
            let (gone, _) = channel(capacity);
            let mut select = Select::new();
            let recv = select.recv(&receiver);
            assert!(select.try_select().is_err());
            drop(sender);
            let selected = select.select();
            assert_eq!(selected.index(), recv);
            assert_eq!(selected.recv(&receiver), Err(RecvError));
            select.remove(recv);
            let send = select.send(&gone);
            assert_ne!(send, recv);
            let selected = select.select_timeout(LONG).unwrap();
            assert_eq!(
                (selected.index(), selected.send(&gone, 9)),
                (send, Err(SendError(9)))
            );
        }
    });
}

#[test]
fn a_disconnect_wakes_a_select() {
    check(|| {
        for capacity in CAPACITIES {
            let (sender, receiver) = channel::<u8>(capacity);
            let (full, at_full) = bounded(0);
            let began = AtomicUsize::new(0);
            thread::scope(|scope| {
                scope.spawn(|| {
                    began.fetch_add(1, Ordering::SeqCst);
                    let mut select = Select::new();
                    select.recv(&receiver);
                    assert_eq!(select.select().recv(&receiver), Err(RecvError));
                });
                scope.spawn(|| {
                    began.fetch_add(1, Ordering::SeqCst);
                    let mut select = Select::new();
                    select.send(&full);
                    assert_eq!(select.select().send(&full, 1), Err(SendError(1)));
                });
                until(|| began.load(Ordering::SeqCst) == 2);
                drop((sender, at_full));
            });
        }
    });
}

#[test]
fn a_select_without_operations_ends_with_its_limit_or_panics() {
    check(|| {
        let mut select = Select::new();
        assert!(select.try_select().is_err());
        let before = Instant::now();
        assert!(select.select_timeout(SHORT).is_err());
        assert!(before.elapsed() >= SHORT);
        assert!(panic::catch_unwind(|| Select::new().select()).is_err());
        assert!(panic::catch_unwind(|| Select::default().ready()).is_err());
    });
}

#[test]
fn operations_are_removed_and_their_indices_are_not_used_again() {
    check(|| {
        let (_sender, receiver) = bounded::<u8>(0);
        let mut select = Select::new();
        assert_eq!([0, 1, 2].map(|_| select.recv(&receiver)), [0, 1, 2]);
        select.remove(1);
        assert_eq!(select.recv(&receiver), 3);
        for index in [1, 4, usize::MAX] {
            let mut select = select.clone();
            assert!(panic::catch_unwind(AssertUnwindSafe(|| select.remove(index))).is_err());
        }
        [0, 2, 3].iter().for_each(|&index| select.remove(index));
        assert!(select.try_select().is_err());
        assert_eq!(select.recv(&receiver), 4);
    });
}

#[test]
fn a_select_is_used_again_and_cloned() {
    check(|| {
        let (numbers, from_numbers) = bounded(1);
        let (sender, receiver) = bounded(1);
        let mut select = Select::new();
        let recv = select.recv(&from_numbers);
        let send = select.send(&sender);
        let mut counts = [0; 2];
        for i in 0..200 {
            if i % 2 == 0 {
                numbers.send(i).unwrap();
                sender.send(0).unwrap();
            }
            let selected = if i % 3 == 0 {
                select.clone().select()
            } else {
                select.select()
            };
            let index = selected.index();
            counts[index] += 1;
            if index == recv {
                selected.recv(&from_numbers).unwrap();
                receiver.recv().unwrap();
            } else {
                assert_eq!(index, send);
                selected.send(&sender, i).unwrap();
                assert_eq!(receiver.recv(), Ok(i));
            }
        }
        assert_eq!(counts, [100, 100]);
    });
}

#[test]
fn selects_on_many_threads_share_their_list() {
    check(|| {
        let (sender, receiver) = bounded::<usize>(0);
        let mut select = Select::new();
        let recv = select.recv(&receiver);
        select.send(&sender);
        let select = &select;
        thread::scope(|scope| {
            for i in 0..20 {
                let (sender, receiver) = (&sender, &receiver);
                scope.spawn(move || {
                    let selected = select.clone().select();
                    if selected.index() == recv {
                        assert_ne!(selected.recv(receiver), Ok(i));
                    } else {
                        selected.send(sender, i).unwrap();
                    }
                });
            }
        });
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    });
}

#[test]
fn operations_that_are_ready_are_selected_at_random() {
    check(|| {
        for count in 2..6 {
            for capacity in [Some(500), None] {
                let channels: Vec<_> = (0..count).map(|_| channel(capacity)).collect();
                for (sender, _) in &channels {
                    (0..500).for_each(|i| sender.send(i).unwrap());
                }
                let receivers: Vec<_> = channels.iter().map(|(_, end)| end.clone()).collect();
                let mut hits = vec![0; count];
                (0..500).for_each(|_| hits[recv_any(&receivers).0] += 1);
                assert!(hits.iter().all(|&times| times >= 30), "{hits:?}");
            }
        }
    });
}

#[test]
fn an_event_takes_each_of_equal_operations_that_wait() {
    check(|| {
        let (sender, receiver) = bounded(0);
        let mut hits = [0; 5];
        thread::scope(|scope| {
            // Succeeds only if the select waits.
            scope.spawn(move || (0..500).for_each(|i| until(|| sender.try_send(i).is_ok())));
            let mut select = Select::new();
            (0..5).for_each(|_| _ = select.recv(&receiver));
            for i in 0..500 {
                let selected = select.select();
                hits[selected.index()] += 1;
                assert_eq!(selected.recv(&receiver), Ok(i));
            }
        });
        assert!(hits.iter().all(|&times| times >= 25), "{hits:?}");
    });
}

#[test]
fn a_biased_select_takes_the_first() {
    check(|| {
        let channels: Vec<_> = (0..12).map(|_| unbounded()).collect();
        let mut select = Select::new_biased();
        let never = never::<u8>();
        select.recv(&never);
        channels
            .iter()
            .for_each(|(_, receiver)| _ = select.recv(receiver));
        for first in (0..12).rev() {
            channels[first].0.send(first).unwrap();
            for _ in 0..20 {
                assert_eq!(select.try_ready(), Ok(first + 1));
                let selected = select.clone().select();
                assert_eq!(selected.index(), first + 1);
                selected.recv(&channels[first].1).unwrap();
                channels[first].0.send(first).unwrap();
            }
        }
    });
}

#[test]
fn sends_and_receives_of_selects_meet_on_all_channels() {
    check(|| {
        for capacity in CAPACITIES {
            let (numbers, from_numbers) = channel(capacity);
            let (words, from_words) = channel(capacity);
            thread::scope(|scope| {
                scope.spawn(move || {
                    let mut left = [100; 2];
                    let mut select = Select::new();
                    select.send(&numbers);
                    select.send(&words);
                    while left != [0, 0] {
                        let selected = select.select();
                        let index = selected.index();
                        left[index] -= 1;
                        match index {
                            0 => selected.send(&numbers, left[0]).unwrap(),
                            _ => selected.send(&words, left[1].to_string()).unwrap(),
                        }
                        if left[index] == 0 {
                            select.remove(index);
                        }
                    }
                });
                let mut left = [100; 2];
                let mut select = Select::new();
                select.recv(&from_numbers);
                select.recv(&from_words);
                while left != [0, 0] {
                    let selected = select.select();
                    let index = selected.index();
                    let received = match index {
                        0 => selected.recv(&from_numbers).ok(),
                        _ => selected
                            .recv(&from_words)
                            .ok()
                            .map(|word| word.parse().unwrap()),
                    };
                    match received {
                        Some(received) => {
                            left[index] -= 1;
                            assert_eq!(received, left[index]);
                        }
                        None => select.remove(index),
                    }
                }
            });
        }
    });
}

#[test]
fn an_operation_is_completed_after_others() {
    check(|| {
        let (sender, receiver) = unbounded();
        let (mut sends, mut receives) = (Select::new(), Select::new());
        sends.send(&sender);
        receives.recv(&receiver);
        let first = sends.select();
        sender.send(2).unwrap();
        let received = receives.select();
        assert_eq!(receiver.len(), 1);
        first.send(&sender, 1).unwrap();
        assert_eq!((received.recv(&receiver), receiver.recv()), (Ok(1), Ok(2)));
    });
}

#[test]
fn an_operation_that_is_not_completed_panics_and_sends_nothing() {
    check(|| {
        let (sender, receiver) = unbounded();
        let mut select = Select::new();
        select.send(&sender);
        let dropped = panic::catch_unwind(AssertUnwindSafe(|| drop(select.select())));
        assert!(dropped.is_err());
        sender.send(1).unwrap();
        assert_eq!(receiver.recv(), Ok(1));
        let mut select = Select::new();
        select.recv(&receiver);
        sender.send(2).unwrap();
        let dropped = panic::catch_unwind(AssertUnwindSafe(|| drop(select.select())));
        assert!(dropped.is_err());
        sender.send(3).unwrap();
        assert_eq!(receiver.recv(), Ok(3));
    });
}

#[test]
fn a_receiver_that_waits_for_a_send_that_is_not_completed_gets_the_next_message() {
    check(|| {
        for capacity in CAPACITIES {
            let (sender, receiver) = channel(capacity);
            thread::scope(|scope| {
                scope.spawn(|| assert_eq!(receiver.recv(), Ok(1)));
                let mut select = Select::new();
                select.send(&sender);
                let dropped = panic::catch_unwind(AssertUnwindSafe(|| drop(select.select())));
                assert!(dropped.is_err());
                sender.send(1).unwrap();
            });
        }
    });
}

#[test]
fn another_handle_does_not_complete_an_operation() {
    check(|| {
        let (sender, receiver) = unbounded();
        let other = sender.clone();
        let mut select = Select::new();
        select.send(&sender);
        let wrong = panic::catch_unwind(AssertUnwindSafe(|| select.select().send(&other, 1)));
        assert!(wrong.is_err());
        sender.send(2).unwrap();
        let other = receiver.clone();
        let mut select = Select::new();
        select.recv(&receiver);
        let wrong = panic::catch_unwind(AssertUnwindSafe(|| select.select().recv(&other)));
        assert!(wrong.is_err());
    });
}

#[test]
fn a_message_of_a_select_is_dropped_with_its_channel() {
    check(|| {
        let counted = Arc::new(());
        for capacity in [Some(1), None] {
            let (sender, receiver) = channel(capacity);
            let mut select = Select::new();
            select.send(&sender);
            select.select().send(&sender, counted.clone()).unwrap();
            assert_eq!(Arc::strong_count(&counted), 2);
            drop(receiver);
            assert_eq!(Arc::strong_count(&counted), 1);
            // The channel disconnects between the selection and its completion.
            let (sender, receiver) = channel(capacity);
            let mut select = Select::new();
            select.send(&sender);
            let selected = select.select();
            drop(receiver);
            assert!(selected.send(&sender, counted.clone()).is_ok());
            assert_eq!(Arc::strong_count(&counted), 1);
        }
    });
}

#[test]
fn at_every_moment_one_of_two_channels_has_the_message() {
    check(|| {
        for capacity in [Some(2), None] {
            let (to_here, here) = channel(capacity);
            let (to_there, there) = channel(capacity);
            to_here.send(0).unwrap();
            to_there.send(0).unwrap();
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        for _ in 0..2000 {
                            let mut select = Select::new();
                            let first = select.recv(&here);
                            select.recv(&there);
                            let selected = select.try_select();
                            let selected = selected.expect("there are two messages for two takers");
                            match selected.index() == first {
                                true => to_there.send(selected.recv(&here).unwrap()).unwrap(),
                                false => to_here.send(selected.recv(&there).unwrap()).unwrap(),
                            }
                        }
                    });
                }
            });
        }
    });
}
