//! Sends and receives on channels of all capacities.

use super::{CAPACITIES, LONG, SHORT, channel, until};
use crate::{check, thread};
use crossbeam_channel::{
    Receiver, RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError,
    bounded, unbounded,
};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[test]
fn messages_of_a_sender_arrive_in_order() {
    check(|| {
        for capacity in CAPACITIES {
            let (sender, receiver) = channel(capacity);
            thread::scope(|scope| {
                scope.spawn(move || (0..1000).for_each(|i| sender.send(i).unwrap()));
                for i in 0..1000 {
                    assert_eq!(receiver.recv(), Ok(i));
                }
                assert_eq!(receiver.recv(), Err(RecvError));
            });
        }
    });
}

#[test]
fn each_message_of_many_senders_goes_to_one_of_many_receivers() {
    check(|| {
        for capacity in CAPACITIES {
            let (sender, receiver) = channel::<usize>(capacity);
            let seen: Vec<_> = (0..400).map(|_| AtomicUsize::new(0)).collect();
            thread::scope(|scope| {
                for _ in 0..4 {
                    let receiver = receiver.clone();
                    let seen = &seen;
                    scope.spawn(move || {
                        for i in receiver {
                            seen[i].fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                for quarter in 0..4 {
                    let sender = sender.clone();
                    scope.spawn(move || {
                        (quarter * 100..(quarter + 1) * 100).for_each(|i| sender.send(i).unwrap());
                    });
                }
                drop(sender);
            });
            assert!(seen.iter().all(|times| times.load(Ordering::Relaxed) == 1));
        }
    });
}

#[test]
fn capacities_and_lengths_are_told() {
    check(|| {
        for capacity in CAPACITIES {
            let (sender, receiver) = channel::<u8>(capacity);
            assert_eq!(
                (sender.capacity(), receiver.capacity()),
                (capacity, capacity)
            );
            let room = capacity.unwrap_or(20);
            for sent in 0..=room {
                assert_eq!((sender.len(), receiver.len()), (sent, sent));
                assert_eq!(
                    (sender.is_empty(), receiver.is_empty()),
                    (sent == 0, sent == 0)
                );
                let is_full = capacity == Some(sent);
                assert_eq!((sender.is_full(), receiver.is_full()), (is_full, is_full));
                if sent < room {
                    sender.try_send(0).unwrap();
                }
            }
            if capacity.is_some() {
                assert_eq!(sender.try_send(1), Err(TrySendError::Full(1)));
            }
        }
    });
}

#[test]
#[should_panic = "the behaviour has panicked"]
fn a_capacity_that_no_memory_has_panics() {
    check(|| drop(bounded::<u64>(usize::MAX)));
}

#[test]
fn a_large_capacity_takes_no_memory_at_once() {
    check(|| {
        let (sender, receiver) = bounded(1 << 40);
        sender.send([0_u8; 64]).unwrap();
        assert_eq!((receiver.len(), receiver.capacity()), (1, Some(1 << 40)));
    });
}

#[test]
fn messages_are_received_after_all_senders_are_gone() {
    check(|| {
        for capacity in [Some(3), None] {
            let (sender, receiver) = channel(capacity);
            let other = sender.clone();
            (0..3).for_each(|i| sender.send(i).unwrap());
            drop(sender);
            assert_eq!(receiver.try_recv(), Ok(0));
            drop(other);
            assert_eq!(
                (receiver.recv(), receiver.recv_timeout(LONG)),
                (Ok(1), Ok(2))
            );
            assert_eq!(receiver.recv(), Err(RecvError));
            assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
            assert_eq!(
                receiver.recv_timeout(LONG),
                Err(RecvTimeoutError::Disconnected)
            );
            let deadline = Instant::now() + LONG;
            assert_eq!(
                receiver.recv_deadline(deadline),
                Err(RecvTimeoutError::Disconnected)
            );
        }
    });
}

#[test]
fn a_send_without_a_receiver_gives_the_message_back() {
    check(|| {
        for capacity in CAPACITIES {
            let (sender, receiver) = channel(capacity);
            let other = receiver.clone();
            drop(receiver);
            assert!(!matches!(
                sender.try_send("a"),
                Err(TrySendError::Disconnected(_))
            ));
            drop(other);
            assert_eq!(sender.send("b"), Err(SendError("b")));
            assert_eq!(sender.try_send("c"), Err(TrySendError::Disconnected("c")));
            let late = sender.send_timeout("d", LONG);
            assert_eq!(late, Err(SendTimeoutError::Disconnected("d")));
            let late = sender.send_deadline("e", Instant::now() + LONG);
            assert_eq!(late, Err(SendTimeoutError::Disconnected("e")));
            // What was in the channel is gone with the last receiver.
            assert!(sender.is_empty());
        }
    });
}

#[test]
fn the_last_sender_that_goes_wakes_receivers() {
    check(|| {
        for capacity in CAPACITIES {
            let (sender, receiver) = channel::<u8>(capacity);
            let began = AtomicUsize::new(0);
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        began.fetch_add(1, Ordering::SeqCst);
                        assert_eq!(receiver.recv(), Err(RecvError));
                    });
                }
                until(|| began.load(Ordering::SeqCst) == 3);
                drop(sender);
            });
        }
    });
}

#[test]
fn the_last_receiver_that_goes_wakes_senders() {
    check(|| {
        for capacity in [0, 1, 4] {
            let (sender, receiver) = bounded(capacity);
            (0..capacity).for_each(|i| sender.send(i).unwrap());
            let began = AtomicUsize::new(0);
            thread::scope(|scope| {
                for i in 10..13 {
                    let (sender, began) = (&sender, &began);
                    scope.spawn(move || {
                        began.fetch_add(1, Ordering::SeqCst);
                        assert_eq!(sender.send(i), Err(SendError(i)));
                    });
                }
                until(|| began.load(Ordering::SeqCst) == 3);
                drop(receiver);
            });
        }
    });
}

#[test]
fn a_full_channel_makes_senders_wait() {
    check(|| {
        let (sender, receiver) = bounded(2);
        let sent = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..10 {
                    sender.send(i).unwrap();
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            });
            for received in 0..10 {
                until(|| sent.load(Ordering::SeqCst) >= (received + 2).min(10));
                // The message that waits is not sent, so at most as many were sent as have room.
                assert!(sent.load(Ordering::SeqCst) <= received + 2);
                assert_eq!(receiver.recv(), Ok(received));
            }
        });
    });
}

#[test]
fn time_limits_pass() {
    check(|| {
        for capacity in CAPACITIES {
            let (sender, receiver) = channel::<u8>(capacity);
            let before = Instant::now();
            assert_eq!(receiver.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout));
            assert!(before.elapsed() >= SHORT);
            let deadline = Instant::now() + SHORT;
            assert_eq!(
                receiver.recv_deadline(deadline),
                Err(RecvTimeoutError::Timeout)
            );
            assert!(Instant::now() >= deadline);
            let Some(room) = capacity else { continue };
            (0..room).for_each(|_| sender.send(0).unwrap());
            let before = Instant::now();
            assert_eq!(
                sender.send_timeout(1, SHORT),
                Err(SendTimeoutError::Timeout(1))
            );
            assert!(before.elapsed() >= SHORT);
            let deadline = Instant::now() + SHORT;
            assert_eq!(
                sender.send_deadline(2, deadline),
                Err(SendTimeoutError::Timeout(2))
            );
            assert!(Instant::now() >= deadline);
            assert_eq!(sender.len(), room);
        }
    });
}

#[test]
fn a_limit_of_the_past_does_not_keep_from_what_needs_no_wait() {
    check(|| {
        for capacity in [Some(1), None] {
            let (sender, receiver) = channel(capacity);
            assert_eq!(sender.send_timeout(1, Duration::ZERO), Ok(()));
            assert_eq!(receiver.recv_timeout(Duration::ZERO), Ok(1));
            assert_eq!(sender.send_deadline(2, Instant::now()), Ok(()));
            assert_eq!(receiver.recv_deadline(Instant::now()), Ok(2));
        }
    });
}

#[test]
fn a_limit_that_the_clock_cannot_show_is_none() {
    check(|| {
        for capacity in CAPACITIES {
            let (sender, receiver) = channel(capacity);
            thread::scope(|scope| {
                scope.spawn(|| sender.send_timeout(1, Duration::MAX).unwrap());
                assert_eq!(receiver.recv_timeout(Duration::MAX), Ok(1));
            });
        }
    });
}

#[test]
fn a_wait_with_a_limit_ends_with_its_event() {
    check(|| {
        for capacity in CAPACITIES {
            let (sender, receiver) = channel(capacity);
            let (to_go_on, go_on) = bounded(0);
            thread::scope(|scope| {
                scope.spawn(move || {
                    for i in 0..20 {
                        sender.send_timeout(i, LONG).unwrap();
                        let _: Result<(), _> = go_on.recv();
                    }
                });
                for i in 0..20 {
                    assert_eq!(receiver.recv_timeout(LONG), Ok(i));
                    to_go_on.send(()).unwrap();
                }
                assert_eq!(
                    receiver.recv_timeout(LONG),
                    Err(RecvTimeoutError::Disconnected)
                );
            });
        }
    });
}

#[test]
fn iterators_end_with_the_senders_or_with_the_messages() {
    check(|| {
        let (sender, receiver) = unbounded();
        (0..4).for_each(|i| sender.send(i).unwrap());
        assert_eq!(receiver.iter().take(2).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [2, 3]);
        assert_eq!(receiver.try_iter().next(), None);
        (4..8).for_each(|i| sender.send(i).unwrap());
        for i in &receiver {
            if i == 5 {
                break;
            }
        }
        drop(sender);
        assert_eq!((&receiver).into_iter().next(), Some(6));
        let mut rest = receiver.into_iter();
        assert_eq!(
            (rest.next(), rest.next(), rest.next()),
            (Some(7), None, None)
        );
    });
}

#[test]
fn iterators_wait_for_messages() {
    check(|| {
        for capacity in CAPACITIES {
            let (numbers, from_numbers) = channel(capacity);
            let (sums, from_sums) = channel(capacity);
            thread::scope(|scope| {
                scope.spawn(move || {
                    let mut sum = 0;
                    for i in &from_numbers {
                        sum += i;
                        sums.send(sum).unwrap();
                    }
                });
                let mut sum = 0;
                for i in 1..=100 {
                    sum += i;
                    numbers.send(i).unwrap();
                    assert_eq!(from_sums.iter().next(), Some(sum));
                }
                drop(numbers);
                assert_eq!(from_sums.iter().next(), None);
            });
        }
    });
}

/// Counts its drops.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn each_message_is_dropped_once() {
    check(|| {
        for capacity in [Some(50), None] {
            let drops = Arc::new(AtomicUsize::new(0));
            let (sender, receiver) = channel(capacity);
            (0..50).for_each(|_| sender.send(Counted(drops.clone())).unwrap());
            (0..20).for_each(|_| drop(receiver.recv()));
            assert_eq!(drops.load(Ordering::SeqCst), 20);
            drop(receiver);
            assert_eq!(drops.load(Ordering::SeqCst), 50);
            assert!(sender.send(Counted(drops.clone())).is_err());
            assert_eq!(drops.load(Ordering::SeqCst), 51);
        }
    });
}

/// Panics in its drop, and counts it.
struct Fragile(Arc<AtomicUsize>);

impl Drop for Fragile {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("a message panics");
    }
}

#[test]
fn a_message_that_panics_in_its_drop_leaks_those_after_it() {
    check(|| {
        for capacity in [Some(3), None] {
            let drops = Arc::new(AtomicUsize::new(0));
            let (sender, receiver) = channel(capacity);
            (0..3).for_each(|_| sender.send(Fragile(drops.clone())).unwrap());
            let dropped = panic::catch_unwind(AssertUnwindSafe(|| drop(receiver)));
            assert!(dropped.is_err());
            assert!(sender.is_empty());
            drop(sender);
            assert_eq!(drops.load(Ordering::SeqCst), 1);
        }
    });
}

#[test]
fn a_channel_travels_through_a_channel() {
    check(|| {
        for capacity in CAPACITIES {
            type Link = (u32, Box<dyn std::any::Any + Send>);
            let (sender, receiver) = channel::<Link>(capacity);
            thread::scope(|scope| {
                scope.spawn(move || {
                    let mut sender = sender;
                    for i in 0..100 {
                        let (next, receiver) = channel::<Link>(capacity);
                        sender.send((i, Box::new(receiver))).unwrap();
                        sender = next;
                    }
                });
                let mut receiver = receiver;
                for i in 0..100 {
                    let (number, next) = receiver.recv().unwrap();
                    assert_eq!(number, i);
                    receiver = *next.downcast::<Receiver<Link>>().unwrap();
                }
                assert!(receiver.recv().is_err());
            });
        }
    });
}

#[test]
fn one_message_through_each_of_many_channels() {
    check(|| {
        for capacity in CAPACITIES {
            for i in 0..200 {
                let (sender, receiver) = channel(capacity);
                thread::scope(|scope| {
                    scope.spawn(|| sender.send(Box::new(i)).unwrap());
                    assert_eq!(*receiver.recv().unwrap(), i);
                });
            }
        }
    });
}

#[test]
fn an_end_that_goes_in_the_race_with_operations() {
    check(|| {
        for capacity in CAPACITIES {
            for i in 0..200 {
                let (sender, receiver) = channel(capacity);
                thread::scope(|scope| {
                    scope.spawn(move || while sender.send(i).is_ok() {});
                    scope.spawn(move || (0..3).for_each(|_| assert_eq!(receiver.recv(), Ok(i))));
                });
            }
        }
    });
}

#[test]
fn a_burst_is_received_as_it_was_sent() {
    check(|| {
        let (sender, receiver) = unbounded();
        for burst in [1, 31, 32, 33, 5000] {
            (0..burst).for_each(|i| sender.send(i).unwrap());
            assert_eq!(receiver.len(), burst);
            assert!(receiver.try_iter().eq(0..burst));
        }
    });
}

#[test]
fn messages_may_have_no_size() {
    check(|| {
        for capacity in [Some(10), None] {
            let (sender, receiver) = channel(capacity);
            (0..10).for_each(|_| sender.send(()).unwrap());
            drop(sender);
            assert_eq!(receiver.iter().count(), 10);
        }
    });
}
