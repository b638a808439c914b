//! Closing: by `close`, or by the drop of the last handle of one end.

use super::{Drops, until_all_wait};
use crate::check;
use gopark::chan::{self, Receiver, RecvTimeoutError, SendTimeoutError, Sender, TryRecvError};
use gopark::{go, select};
use gopark_tests::{LIMIT, join, rounds, until};
use std::thread;
use std::time::Duration;

type Ends = (Sender<usize>, Receiver<usize>);

#[derive(Clone, Copy)]
enum Close {
    BySender,
    ByReceiver,
    DropSender,
    DropReceiver,
}
use Close::{ByReceiver, BySender, DropReceiver, DropSender};

/// Closes a channel. Returns the ends that are left.
fn close(how: Close, (sender, receiver): Ends) -> (Option<Sender<usize>>, Option<Receiver<usize>>) {
    match how {
        BySender => assert!(sender.close()),
        ByReceiver => assert!(receiver.close()),
        DropSender => return (None, Some(receiver)),
        DropReceiver => return (Some(sender), None),
    }
    (Some(sender), Some(receiver))
}

#[test]
fn after_a_close_receivers_get_what_was_sent_and_then_the_end() {
    check(|| {
        for how in [BySender, ByReceiver, DropSender] {
            for capacity in [0, 3, usize::MAX] {
                let (sender, receiver) = chan::bounded(capacity);
                let count = capacity.min(3);
                (0..count).for_each(|i| sender.send(i).unwrap());
                let (_sender, receiver) = close(how, (sender, receiver));
                let receiver = receiver.unwrap();
                assert!(receiver.is_closed());
                assert!((0..count).all(|i| receiver.recv() == Ok(i)));
                assert!(receiver.recv().is_err());
                assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
                assert_eq!(
                    receiver.recv_timeout(Duration::MAX),
                    Err(RecvTimeoutError::Disconnected)
                );
                assert_eq!(receiver.iter().next(), None);
                assert!(!receiver.close());
            }
        }
    });
}

#[test]
fn after_a_close_each_send_returns_its_value() {
    check(|| {
        for how in [BySender, ByReceiver, DropReceiver] {
            for capacity in [0, 3, usize::MAX] {
                let ends = chan::bounded(capacity);
                if capacity > 0 {
                    ends.0.send(0).unwrap();
                }
                let (sender, _receiver) = close(how, ends);
                let sender = sender.unwrap();
                assert!(sender.is_closed());
                assert_eq!(sender.send(1).unwrap_err().into_inner(), 1);
                let error = sender.try_send(2).unwrap_err();
                assert!(error.is_disconnected() && error.into_inner() == 2);
                assert_eq!(
                    sender.send_timeout(3, Duration::MAX),
                    Err(SendTimeoutError::Disconnected(3))
                );
                assert!(!sender.close());
            }
        }
    });
}

#[test]
fn a_close_wakes_all_senders_that_wait_and_each_gets_its_value_back() {
    check(|| {
        for how in [BySender, ByReceiver, DropReceiver] {
            for capacity in [0, 2] {
                let (sender, receiver) = chan::bounded(capacity);
                (0..capacity).for_each(|i| sender.send(i).unwrap());
                // More than a close wakes at once.
                let senders: Vec<_> = (0..70)
                    .map(|i| {
                        let sender = sender.clone();
                        go(move || match i % 3 {
                            0 => sender.send(i).unwrap_err().into_inner(),
                            1 => match sender.send_timeout(i, LIMIT).unwrap_err() {
                                SendTimeoutError::Disconnected(value) => value,
                                SendTimeoutError::Timeout(_) => panic!("it timed out"),
                            },
                            _ => select! {
                                send(sender, i) -> result => result.unwrap_err().into_inner(),
                            },
                        })
                    })
                    .collect();
                until_all_wait(&senders);
                let (_sender, receiver) = close(how, (sender, receiver));
                for (i, waits) in senders.into_iter().enumerate() {
                    assert_eq!(join(waits), i);
                }
                if let Some(receiver) = receiver {
                    assert!(receiver.iter().eq(0..capacity));
                }
            }
        }
    });
}

#[test]
fn a_close_wakes_all_receivers_that_wait() {
    check(|| {
        for how in [BySender, ByReceiver, DropSender] {
            for capacity in [0, 2, usize::MAX] {
                let (sender, receiver) = chan::bounded::<usize>(capacity);
                let receivers: Vec<_> = (0..70)
                    .map(|i| {
                        let receiver = receiver.clone();
                        go(move || match i % 3 {
                            0 => receiver.recv().is_err(),
                            1 => {
                                receiver.recv_timeout(LIMIT) == Err(RecvTimeoutError::Disconnected)
                            }
                            _ => select! { recv(receiver) -> result => result.is_err() },
                        })
                    })
                    .collect();
                until_all_wait(&receivers);
                let _ends = close(how, (sender, receiver));
                assert!(receivers.into_iter().all(join));
            }
        }
    });
}

#[test]
fn a_close_wakes_ordinary_threads() {
    check(|| {
        let (sender, receiver) = chan::bounded::<u8>(0);
        let (other, full) = chan::bounded(1);
        other.send(1).unwrap();
        let (begin, begun) = chan::bounded(0);
        let began = begin.clone();
        let receives = thread::spawn(move || {
            begin.send(()).unwrap();
            receiver.recv().is_err()
        });
        let sends = thread::spawn(move || {
            began.send(()).unwrap();
            other.send(2).unwrap_err().into_inner() == 2
        });
        assert_eq!(begun.iter().take(2).count(), 2);
        drop(sender);
        full.close();
        gopark::blocking(|| assert!(receives.join().unwrap() && sends.join().unwrap()));
        assert_eq!(full.recv(), Ok(1));
    });
}

#[test]
fn a_channel_stays_open_until_the_last_handle_of_an_end_is_dropped() {
    check(|| {
        let (sender, receiver) = chan::unbounded();
        let mut senders: Vec<_> = (0..5).map(|_| sender.clone()).collect();
        drop(sender);
        while let Some(last) = senders.pop() {
            assert!(!receiver.is_closed());
            last.send(1).unwrap();
        }
        assert!(receiver.is_closed());
        assert_eq!(receiver.iter().count(), 5);

        let (sender, receiver) = chan::unbounded();
        let receivers: Vec<_> = (0..5).map(|_| receiver.clone()).collect();
        drop(receiver);
        for receiver in receivers {
            assert!(!sender.is_closed());
            sender.send(1).unwrap();
            drop(receiver);
        }
        assert!(sender.is_closed());
    });
}

#[test]
fn one_of_many_closers_is_the_first() {
    check(|| {
        for _ in 0..rounds(200) {
            let (sender, receiver) = chan::bounded::<u8>(0);
            let closers: Vec<_> = (0..4)
                .map(|i| {
                    let (sender, receiver) = (sender.clone(), receiver.clone());
                    go(move || {
                        if i % 2 == 0 {
                            sender.close()
                        } else {
                            receiver.close()
                        }
                    })
                })
                .collect();
            let first = closers.into_iter().map(join).filter(|&first| first);
            assert_eq!(first.count(), 1);
        }
    });
}

/// Senders and receivers race with a close. A send that succeeded is received, one that failed is
/// not, and each value is dropped once.
#[test]
fn no_value_is_lost_or_doubled_by_a_close_in_the_race() {
    check(|| {
        for round in 0..rounds(crate::CLOSES / 10) {
            let capacity = [0, 1, 40][round as usize % 3];
            let drops = Drops::default();
            let (sender, receiver) = chan::bounded(capacity);
            let (begin, begun) = chan::bounded::<()>(0);
            let senders: Vec<_> = (0..3)
                .map(|_| {
                    let (sender, drops, begun) = (sender.clone(), drops.clone(), begun.clone());
                    go(move || {
                        _ = begun.recv();
                        let sent = (0..20).map(|i| sender.send(drops.value(i)).is_ok());
                        sent.filter(|&sent| sent).count()
                    })
                })
                .collect();
            let receivers: Vec<_> = (0..2)
                .map(|_| {
                    let receiver = receiver.clone();
                    go(move || receiver.iter().count())
                })
                .collect();
            let closes = thread::spawn(move || {
                drop(begin);
                (0..round % 20).for_each(|_| std::hint::spin_loop());
                if round % 2 == 0 {
                    sender.close();
                }
                drop((sender, receiver));
            });
            let sent: usize = senders.into_iter().map(join).sum();
            let received: usize = receivers.into_iter().map(join).sum();
            assert_eq!(sent, received, "round {round}");
            until("each value is dropped", || drops.count() == 60);
            gopark::blocking(|| closes.join().unwrap());
        }
    });
}

/// As above, with a close by the drop of the last receiver: what was sent and not received is
/// dropped then.
#[test]
fn the_drop_of_the_last_receiver_in_the_race_drops_each_value_once() {
    check(|| {
        for round in 0..rounds(crate::CLOSES / 10) {
            let capacity = [0, 1, 40, usize::MAX][round as usize % 4];
            let drops = Drops::default();
            let (sender, receiver) = chan::bounded(capacity);
            let theirs = drops.clone();
            let sends = thread::spawn(move || {
                for i in 0..50 {
                    if let Err(error) = sender.send(theirs.value(i)) {
                        return (i, error.into_inner().id);
                    }
                }
                (50, 50)
            });
            let receives = go(move || receiver.iter().take(round as usize % 50).count());
            let received = join(receives);
            let (sent, back) = gopark::blocking(|| sends.join().unwrap());
            assert_eq!(sent, back);
            assert!(sent >= received);
            let made = (sent + 1).min(50);
            assert_eq!(drops.count(), made, "round {round}");
        }
    });
}
