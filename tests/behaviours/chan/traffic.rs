//! Many senders and receivers at once.

use super::{Counted, Drops};
use crate::check;
use gopark::chan::{self, Receiver, Sender, TryRecvError, TrySendError};
use gopark::{JoinHandle, go, select, yield_now};
use gopark_tests::{Dice, join, rounds};
use std::thread;
use std::time::Duration;

/// A goroutine or an ordinary thread.
enum Worker<T> {
    Goroutine(JoinHandle<T>),
    Thread(thread::JoinHandle<T>),
}

impl<T: Send + 'static> Worker<T> {
    fn new(on_thread: bool, work: impl FnOnce() -> T + Send + 'static) -> Self {
        match on_thread {
            true => Worker::Thread(thread::spawn(work)),
            false => Worker::Goroutine(go(work)),
        }
    }

    fn join(self) -> T {
        match self {
            Worker::Goroutine(goroutine) => join(goroutine),
            Worker::Thread(thread) => gopark::blocking(|| thread.join().unwrap()),
        }
    }
}

/// Sends a value in one of all ways.
fn send(dice: &Dice, sender: &Sender<Counted>, mut value: Counted) {
    loop {
        let result = match dice.below(5) {
            0 => sender.try_send(value).map_err(TrySendError::into_inner),
            1 => sender
                .send_timeout(value, Duration::from_micros(dice.below(100)))
                .map_err(|error| error.into_inner()),
            2 => select! {
                send(sender, value) -> result => result.map_err(|error| error.into_inner()),
            },
            _ => sender.send(value).map_err(|error| error.into_inner()),
        };
        match result {
            Ok(()) => return,
            Err(back) => value = back,
        }
        yield_now();
    }
}

/// Receives a value in one of all ways. `None` at the end.
fn receive(dice: &Dice, receiver: &Receiver<Counted>) -> Option<Counted> {
    loop {
        let result = match dice.below(5) {
            0 => receiver.try_recv().map_err(TryRecvError::is_disconnected),
            1 => receiver
                .recv_timeout(Duration::from_micros(dice.below(100)))
                .map_err(|error| error.is_disconnected()),
            2 => select! { recv(receiver) -> result => result.map_err(|_| true) },
            _ => receiver.recv().map_err(|_| true),
        };
        match result {
            Ok(value) => return Some(value),
            Err(true) => return None,
            Err(false) => yield_now(),
        }
    }
}

/// Each value arrives at one receiver, each receiver gets those of one sender in the order in which
/// they were sent, and each value is dropped once.
fn conserve(capacity: usize, senders: usize, receivers: usize, threads: bool) {
    let count = rounds(1000) as usize;
    let drops = Drops::default();
    let (sender, receiver) = chan::bounded(capacity);
    let senders: Vec<_> = (0..senders)
        .map(|s| {
            let (sender, drops) = (sender.clone(), drops.clone());
            Worker::new(threads && s % 2 == 0, move || {
                let dice = Dice::new(s as u64);
                (0..count).for_each(|i| send(&dice, &sender, drops.value(s * count + i)));
            })
        })
        .collect();
    drop(sender);
    let receivers: Vec<_> = (0..receivers)
        .map(|r| {
            let receiver = receiver.clone();
            Worker::new(threads && r % 2 == 0, move || {
                let dice = Dice::new(100 + r as u64);
                let mut received = Vec::new();
                while let Some(value) = receive(&dice, &receiver) {
                    received.push(value.id);
                }
                received
            })
        })
        .collect();
    let total = senders.len() * count;
    senders.into_iter().for_each(Worker::join);
    let mut all = Vec::new();
    for received in receivers.into_iter().map(Worker::join) {
        for sender in 0..total / count {
            let from_it = received.iter().filter(|&id| id / count == sender);
            assert!(from_it.is_sorted(), "values of one sender change places");
        }
        all.extend(received);
    }
    all.sort_unstable();
    assert!(all.into_iter().eq(0..total), "values are lost or doubled");
    assert_eq!(drops.count(), total);
}

#[test]
fn one_sender_and_one_receiver_keep_all_values_in_order() {
    check(|| {
        for capacity in [0, 1, 50, usize::MAX] {
            conserve(capacity, 1, 1, false);
            conserve(capacity, 1, 1, true);
        }
    });
}

#[test]
fn many_senders_to_one_receiver_keep_all_values() {
    check(|| {
        for capacity in [0, 1, 50, usize::MAX] {
            conserve(capacity, 6, 1, false);
            conserve(capacity, 6, 1, true);
        }
    });
}

#[test]
fn one_sender_to_many_receivers_keeps_all_values() {
    check(|| {
        for capacity in [0, 1, 50, usize::MAX] {
            conserve(capacity, 1, 6, false);
            conserve(capacity, 1, 6, true);
        }
    });
}

#[test]
fn many_senders_and_receivers_keep_all_values() {
    check(|| {
        for capacity in [0, 1, 50, usize::MAX] {
            conserve(capacity, 5, 5, false);
            conserve(capacity, 5, 5, true);
        }
    });
}

/// The goroutines of one thread, whose values cross no other thread.
#[test]
fn goroutines_of_one_thread_exchange_values() {
    check(|| {
        for capacity in [0, 1, 10] {
            let (sender, receiver) = chan::bounded(capacity);
            let sends = gopark::go_local(move || (0..2000).for_each(|i| sender.send(i).unwrap()));
            assert!(receiver.iter().eq(0..2000));
            join(sends);
        }
    });
}

/// Go's idiom: a channel of permits bounds how many goroutines are in a section.
#[test]
fn a_channel_of_permits_is_a_semaphore() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    check(|| {
        let (acquire, release) = chan::bounded(3);
        let inside = Arc::new(AtomicUsize::new(0));
        let workers: Vec<_> = (0..12)
            .map(|i| {
                let (acquire, release) = (acquire.clone(), release.clone());
                let inside = inside.clone();
                Worker::new(i % 4 == 0, move || {
                    for _ in 0..100 {
                        acquire.send(()).unwrap();
                        assert!(inside.fetch_add(1, SeqCst) < 3);
                        yield_now();
                        inside.fetch_sub(1, SeqCst);
                        release.recv().unwrap();
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(Worker::join);
        assert!(acquire.is_empty());
    });
}
