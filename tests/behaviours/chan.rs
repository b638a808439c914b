//! Channels: what Go and the crate crossbeam-channel promise.

mod closing;
mod limits;
mod traffic;
mod values;

use super::check_on_thread;
use crate::check;
use gopark::chan::{self, Receiver, Sender, TryRecvError, TrySendError};
use gopark::{JoinHandle, go};
use gopark_core::watch::{State, Wait};
use gopark_tests::{join, until};
use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

/// Waits until the goroutine waits for a channel or in a select.
pub(super) fn until_waits<T>(goroutine: &JoinHandle<T>) {
    until_all_wait(std::slice::from_ref(goroutine));
}

/// As [`until_waits`], for several goroutines: a snapshot looks at all goroutines of the process.
fn until_all_wait<T>(goroutines: &[JoinHandle<T>]) {
    until("the goroutines wait", || {
        let mut waiting = HashSet::new();
        gopark::scheduler().snapshot(None, |goroutine| {
            if let State::Waiting { wait, .. } = goroutine.state {
                if matches!(wait, Wait::ChanReceive | Wait::ChanSend | Wait::Select) {
                    waiting.insert(goroutine.id);
                }
            }
        });
        goroutines
            .iter()
            .all(|goroutine| waiting.contains(&goroutine.id()))
    });
}

/// Values that count how many of them were dropped.
#[derive(Clone, Default)]
pub(super) struct Drops(Arc<AtomicUsize>);

impl Drops {
    pub(super) fn value(&self, id: usize) -> Counted {
        Counted {
            id,
            drops: self.clone(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.0.load(SeqCst)
    }
}

/// A value that is not `Clone`. A second drop of it would drop its `Arc` twice.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) id: usize,
    drops: Drops,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.drops.0.fetch_add(1, SeqCst);
    }
}

impl std::fmt::Debug for Drops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[test]
fn a_rendezvous_send_ends_when_its_value_is_received() {
    check(|| {
        let (sender, receiver) = chan::bounded(0);
        let sent = Arc::new(AtomicBool::new(false));
        let flag = sent.clone();
        let sends = go(move || {
            sender.send(7).unwrap();
            flag.store(true, SeqCst);
        });
        until_waits(&sends);
        assert!(!sent.load(SeqCst) && receiver.is_empty());
        assert_eq!(receiver.recv(), Ok(7));
        join(sends);
        assert!(sent.load(SeqCst));
    });
}

#[test]
fn a_rendezvous_receive_gets_the_value_of_a_later_send() {
    check(|| {
        let (sender, receiver) = chan::bounded(0);
        let receives = go(move || receiver.recv());
        until_waits(&receives);
        sender.send("hello").unwrap();
        assert_eq!(join(receives), Ok("hello"));
    });
}

#[test]
fn operations_that_do_not_wait_meet_those_that_do() {
    check(|| {
        let (sender, receiver) = chan::bounded(0);
        assert_eq!(sender.try_send(1), Err(TrySendError::Full(1)));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        let theirs = receiver.clone();
        let receives = go(move || theirs.recv());
        until_waits(&receives);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(sender.try_send(2), Ok(()));
        assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
        assert_eq!(join(receives), Ok(2));
        let theirs = sender.clone();
        let sends = go(move || theirs.send(4));
        until_waits(&sends);
        assert_eq!(sender.try_send(5), Err(TrySendError::Full(5)));
        assert_eq!(receiver.try_recv(), Ok(4));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(join(sends), Ok(()));
    });
}

#[test]
fn a_send_waits_while_a_bounded_channel_is_full() {
    check(|| {
        for capacity in [1, 2, 3, 31, 32, 33, 100] {
            let (sender, receiver) = chan::bounded(capacity);
            (0..capacity).for_each(|i| sender.try_send(i).unwrap());
            assert_eq!(sender.try_send(capacity), Err(TrySendError::Full(capacity)));
            let sends = go(move || sender.send(capacity));
            until_waits(&sends);
            assert!(receiver.is_full() && receiver.len() == capacity);
            assert_eq!(receiver.recv(), Ok(0));
            // The room went to the value of the sender that waited.
            assert_eq!(receiver.len(), capacity);
            assert_eq!(join(sends), Ok(()));
            assert!(receiver.iter().eq(1..=capacity));
        }
    });
}

#[test]
fn a_send_to_a_channel_without_a_bound_never_waits() {
    check(|| {
        let (sender, receiver) = chan::unbounded();
        for round in 0..3 {
            (0..50_000).for_each(|i| sender.try_send(i).unwrap());
            assert!(!sender.is_full() && sender.len() == 50_000, "round {round}");
            assert!(receiver.try_iter().eq(0..50_000), "round {round}");
        }
    });
}

#[test]
fn receivers_are_served_in_the_order_in_which_they_came() {
    check(|| {
        for capacity in [0, 5] {
            let (sender, receiver) = chan::bounded(capacity);
            let waiters: Vec<_> = (0..20)
                .map(|_| {
                    let receiver = receiver.clone();
                    let waiter = go(move || receiver.recv());
                    until_waits(&waiter);
                    waiter
                })
                .collect();
            (0..20).for_each(|i| sender.try_send(i).unwrap());
            let received: Vec<_> = waiters.into_iter().map(|w| join(w).unwrap()).collect();
            assert!(received.into_iter().eq(0..20));
        }
    });
}

#[test]
fn senders_are_served_in_the_order_in_which_they_came() {
    check(|| {
        for capacity in [0, 1, 5] {
            let (sender, receiver) = chan::bounded(capacity);
            (0..capacity).for_each(|i| sender.try_send(i).unwrap());
            let waiters: Vec<_> = (capacity..20)
                .map(|i| {
                    let sender = sender.clone();
                    let waiter = go(move || sender.send(i));
                    until_waits(&waiter);
                    waiter
                })
                .collect();
            assert!((0..20).all(|i| receiver.try_recv() == Ok(i)));
            waiters.into_iter().for_each(|w| join(w).unwrap());
        }
    });
}

#[test]
fn a_receiver_that_waits_is_served_before_one_that_comes_later() {
    check(|| {
        let (sender, receiver) = chan::bounded(1);
        let theirs = receiver.clone();
        let waits = go(move || theirs.recv());
        until_waits(&waits);
        sender.send(1).unwrap();
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(join(waits), Ok(1));
    });
}

#[test]
fn both_ends_tell_the_state_of_the_channel() {
    check(|| {
        let (sender, receiver) = chan::bounded(2);
        let states = |sender: &Sender<u8>, receiver: &Receiver<u8>| {
            let ours = (sender.len(), sender.is_empty(), sender.is_full());
            assert_eq!(
                ours,
                (receiver.len(), receiver.is_empty(), receiver.is_full())
            );
            ours
        };
        assert_eq!(states(&sender, &receiver), (0, true, false));
        sender.send(1).unwrap();
        assert_eq!(states(&sender, &receiver), (1, false, false));
        sender.send(2).unwrap();
        assert_eq!(states(&sender, &receiver), (2, false, true));
        assert_eq!((sender.capacity(), receiver.capacity()), (Some(2), Some(2)));
        let (rendezvous, other) = chan::bounded::<u8>(0);
        assert_eq!(states(&rendezvous, &other), (0, true, true));
        assert_eq!(rendezvous.capacity(), Some(0));
        let (endless, endless_receiver) = chan::unbounded::<u8>();
        assert_eq!(states(&endless, &endless_receiver), (0, true, false));
        assert_eq!(endless.capacity(), None);
        assert!(sender.same_channel(&sender.clone()) && !sender.same_channel(&rendezvous));
        assert!(receiver.same_channel(&receiver.clone()) && !receiver.same_channel(&other));
        let text = format!("{sender:?} {receiver:?}");
        assert!(
            text.contains("Sender {") && text.contains("Receiver {"),
            "{text}"
        );
    });
}

#[test]
fn iterators_end_with_the_channel_or_where_they_would_wait() {
    check(|| {
        let (sender, receiver) = chan::bounded(4);
        let sends = go(move || {
            (0..100).for_each(|i| sender.send(i).unwrap());
            sender
        });
        assert!(receiver.iter().take(50).eq(0..50));
        let mut next = 50;
        for value in &receiver {
            assert_eq!(value, next);
            next += 1;
            if next == 80 {
                break;
            }
        }
        assert!(receiver.iter().take(20).eq(80..100));
        let sender = join(sends);
        assert_eq!(receiver.try_iter().next(), None);
        (0..3).for_each(|i| sender.send(i).unwrap());
        assert!(receiver.try_iter().eq(0..3));
        sender.send(3).unwrap();
        drop(sender);
        let mut rest = receiver.into_iter();
        assert_eq!(
            (rest.next(), rest.next(), rest.next()),
            (Some(3), None, None)
        );
    });
}

#[test]
fn ordinary_threads_wait_for_each_other() {
    check_on_thread(|| {
        for capacity in [0, 1, 10] {
            let (there, from_there) = chan::bounded(capacity);
            let (back, from_back) = chan::bounded(capacity);
            let echoes = std::thread::spawn(move || {
                for value in from_there {
                    back.send(value).unwrap();
                }
            });
            for i in 0..500 {
                there.send(i).unwrap();
                assert_eq!(from_back.recv(), Ok(i));
            }
            drop(there);
            echoes.join().unwrap();
            assert!(from_back.recv().is_err());
        }
    });
}

/// Fails unless a neighbour on the thread of the goroutine runs during many calls of `operate`.
pub(super) fn assert_yields(what: &str, mut operate: impl FnMut()) {
    let ran = Rc::new(Cell::new(false));
    let flag = ran.clone();
    let neighbour = gopark::go_local(move || flag.set(true));
    let mut count = 0;
    while !ran.get() {
        operate();
        count += 1;
        assert!(count < 1_000_000, "{what}: the neighbour does not run");
    }
    join(neighbour);
}

#[test]
fn a_goroutine_that_never_waits_yields_now_and_then_to_its_neighbours() {
    check(|| {
        let (sender, receiver) = chan::unbounded();
        assert_yields("sends and receives", || {
            sender.send(1).unwrap();
            receiver.recv().unwrap();
        });
        assert_yields("sends", || sender.send(1).unwrap());
        (0..1_000_000).for_each(|_| _ = sender.try_send(1));
        assert_yields("receives", || _ = receiver.recv().unwrap());
        let (full, empty) = chan::bounded(0);
        assert_yields("receives from an empty channel", || {
            _ = empty.try_recv().unwrap_err();
        });
        assert_yields("sends to a full channel", || {
            _ = full.try_send(1).unwrap_err()
        });
        let past = std::time::Instant::now();
        assert_yields("receives that have expired", || {
            _ = empty.recv_deadline(past).unwrap_err();
        });
        assert_yields("sends that have expired", || {
            _ = full.send_deadline(1, past).unwrap_err();
        });
        full.close();
        assert_yields("receives from a closed channel", || {
            _ = empty.recv().unwrap_err()
        });
        assert_yields("sends to a closed channel", || {
            _ = full.send(1).unwrap_err()
        });
    });
}

/// Go's test of a chain: each goroutine adds 1 to what it receives.
#[test]
fn a_chain_of_a_thousand_goroutines_passes_a_value_on() {
    check(|| {
        let (first, mut receiver) = chan::bounded(0);
        for _ in 0..1000 {
            let (sender, next) = chan::bounded(0);
            drop(go(move || {
                sender.send(receiver.recv().unwrap() + 1).unwrap()
            }));
            receiver = next;
        }
        first.send(0).unwrap();
        assert_eq!(receiver.recv(), Ok(1000));
    });
}

/// Go's sieve: a filter per prime.
#[test]
fn a_sieve_of_goroutines_finds_primes() {
    check(|| {
        let (sender, mut receiver) = chan::bounded(0);
        drop(go(move || (2..).try_for_each(|i| sender.send(i))));
        let mut primes = Vec::new();
        for _ in 0..40 {
            let prime: u32 = receiver.recv().unwrap();
            primes.push(prime);
            let (sender, filtered) = chan::bounded(0);
            drop(go(move || {
                let mut rest = receiver.iter().filter(|i| i % prime != 0);
                rest.try_for_each(|i| sender.send(i))
            }));
            receiver = filtered;
        }
        assert_eq!(primes[..8], [2, 3, 5, 7, 11, 13, 17, 19]);
        assert_eq!(primes[39], 173);
    });
}
