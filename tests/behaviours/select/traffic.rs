//! Selects at random, in the race against each other, and their fairness.

use crate::behaviours::chan::{Counted, Drops};
use crate::check;
use gopark::chan::{self, Receiver, Sender};
use gopark::{Select, go, select};
use gopark_tests::{Dice, join, rounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const TRIALS: u64 = 100_000;

#[test]
fn a_default_never_happens_while_a_value_is_there() {
    check(|| {
        let (sender, receiver) = chan::bounded(1);
        let (_other, empty) = chan::bounded::<u64>(0);
        for i in 0..rounds(TRIALS) {
            sender.send(i).unwrap();
            select! {
                recv(empty) -> _ => panic!("nothing is sent there"),
                recv(receiver) -> value => assert_eq!(value, Ok(i)),
                default => panic!("a value is there"),
            }
        }
    });
}

/// A token is in at least one of two channels at each moment, because its mover sends a second one
/// to the other channel before it takes the first. A select that looks at the channels one after
/// the other could miss both.
#[test]
fn a_default_never_happens_while_a_value_moves_between_the_channels() {
    check(|| {
        let [(to_a, from_a), (to_b, from_b)] = [(); 2].map(|()| chan::bounded(2));
        let stop = Arc::new(AtomicBool::new(false));
        to_a.send(0).unwrap();
        let moves = thread::spawn({
            let (stop, to_a, to_b) = (stop.clone(), to_a.clone(), to_b.clone());
            let (from_a, from_b) = (from_a.clone(), from_b.clone());
            move || {
                while !stop.load(SeqCst) {
                    to_b.send(1).unwrap();
                    from_a.recv().unwrap();
                    to_a.send(0).unwrap();
                    from_b.recv().unwrap();
                }
            }
        });
        for _ in 0..rounds(TRIALS) {
            // What is taken goes back to where it was: the mover waits for it there.
            select! {
                recv(from_a) -> value => to_a.send(value.unwrap()).unwrap(),
                recv(from_b) -> value => to_b.send(value.unwrap()).unwrap(),
                default => panic!("a token is there"),
            }
        }
        stop.store(true, SeqCst);
        gopark::blocking(|| moves.join().unwrap());
    });
}

/// Fails unless each of the counts is within 5 % of the mean.
#[track_caller]
fn assert_even(counts: &[u64]) {
    let mean = counts.iter().sum::<u64>() / counts.len() as u64;
    for &count in counts {
        assert!(count.abs_diff(mean) * 20 <= mean, "{counts:?}");
    }
}

#[test]
fn arms_that_are_all_ready_happen_equally_often() {
    check(|| {
        let receivers = [(); 3].map(|()| chan::bounded::<u8>(0).1);
        let (sender, receiver) = chan::unbounded();
        let mut counts = [0; 4];
        for _ in 0..TRIALS {
            let arm = select! {
                recv(receivers[0]) -> _ => 0,
                recv(receivers[1]) -> _ => 1,
                send(sender, ()) -> _ => 2,
                recv(receivers[2]) -> _ => 3,
            };
            counts[arm] += 1;
        }
        assert_even(&counts);
        assert_eq!(receiver.len() as u64, counts[2]);
        let mut counts = [0; 2];
        for _ in 0..TRIALS {
            let arm = select! { recv(receivers[0]) -> _ => 0, recv(receivers[1]) -> _ => 1 };
            counts[arm] += 1;
        }
        assert_even(&counts);
    });
}

#[test]
fn cases_of_a_select_made_at_run_time_happen_equally_often() {
    check(|| {
        let receivers = [(); 10].map(|()| chan::bounded::<u8>(0).1);
        let mut counts = [0; 10];
        for _ in 0..TRIALS {
            let mut select = Select::new();
            for (i, receiver) in receivers.iter().enumerate() {
                select.recv(receiver, move |_| i);
            }
            counts[select.wait()] += 1;
        }
        assert_even(&counts);
    });
}

#[test]
fn a_biased_select_takes_the_first_arm_that_is_ready() {
    check(|| {
        let (sender, receiver) = chan::bounded(1);
        let (_other, never) = chan::bounded::<u8>(0);
        let closed = chan::bounded::<u8>(0).1;
        for i in 0..2000 {
            if i % 3 == 0 {
                sender.send(i).unwrap();
            }
            let first = select! {
                biased;
                recv(never) -> _ => panic!("nothing is sent there"),
                recv(receiver) -> value => { assert_eq!(value, Ok(i)); true }
                recv(closed) -> _ => false,
            };
            assert_eq!(first, i % 3 == 0);
            let mut select = Select::new();
            select.recv(&closed, |_| 1).recv(&closed, |_| 2).biased();
            assert_eq!(select.wait(), 1);
        }
    });
}

/// The channels of a test: two rendezvous, a short buffer and a longer one.
const CAPACITIES: [usize; 4] = [0, 0, 1, 7];

/// Sends `count` values, each to the channel that is ready first. Returns their numbers. The number
/// modulo 4 is the channel.
fn send_to_any(
    senders: &[Sender<Counted>; 4],
    first: usize,
    count: usize,
    drops: &Drops,
) -> Vec<usize> {
    let [a, b, c, d] = senders;
    let mut sent = Vec::new();
    for id in (first..first + count).map(|id| id * 4) {
        let channel = select! {
            send(a, drops.value(id)) -> result => { result.unwrap(); 0 }
            send(b, drops.value(id + 1)) -> result => { result.unwrap(); 1 }
            send(c, drops.value(id + 2)) -> result => { result.unwrap(); 2 }
            send(d, drops.value(id + 3)) -> result => { result.unwrap(); 3 }
        };
        sent.push(id + channel);
    }
    sent
}

/// Receives from the channel that is ready first until all are closed. Returns what came.
fn receive_from_any(receivers: &[Receiver<Counted>; 4], dice: &Dice) -> Vec<usize> {
    let [a, b, c, d] = receivers;
    let mut received = Vec::new();
    loop {
        let limit = match dice.below(10) {
            0 => Duration::from_micros(dice.below(50)),
            _ => Duration::MAX,
        };
        let (channel, value) = select! {
            recv(a) -> value => (0, value),
            recv(b) -> value => (1, value),
            recv(c) -> value => (2, value),
            recv(d) -> value => (3, value),
            default(limit) => continue,
        };
        let Ok(value) = value else { break };
        assert_eq!(value.id % 4, channel);
        received.push(value.id);
    }
    // The senders are gone, and the other channels may still have values.
    let rest = receivers.iter().flat_map(|receiver| receiver.iter());
    received.extend(rest.map(|value| value.id));
    received
}

#[test]
fn ten_goroutines_that_select_on_four_channels_lose_no_value() {
    check(|| {
        let count = rounds(10_000) as usize;
        let drops = Drops::default();
        let (senders, receivers) = ends(CAPACITIES);
        let sends: Vec<_> = (0..5)
            .map(|s| {
                let (senders, drops) = (senders.clone(), drops.clone());
                go(move || send_to_any(&senders, s * count, count, &drops))
            })
            .collect();
        drop(senders);
        let receives: Vec<_> = (0..5)
            .map(|r| {
                let receivers = receivers.clone();
                go(move || receive_from_any(&receivers, &Dice::new(r)))
            })
            .collect();
        let mut sent: Vec<_> = sends.into_iter().flat_map(join).collect();
        let mut received: Vec<_> = receives.into_iter().flat_map(join).collect();
        sent.sort_unstable();
        received.sort_unstable();
        assert!(sent == received, "values are lost or doubled");
        assert_eq!(drops.count(), 5 * count * 4);
    });
}

fn ends(capacities: [usize; 4]) -> ([Sender<Counted>; 4], [Receiver<Counted>; 4]) {
    let [(a, b), (c, d), (e, f), (g, h)] = capacities.map(chan::bounded);
    ([a, c, e, g], [b, d, f, h])
}

#[test]
fn selects_of_threads_and_goroutines_lose_no_value() {
    check(|| {
        let count = rounds(2000) as usize;
        let drops = Drops::default();
        let (senders, receivers) = ends(CAPACITIES);
        let (theirs, their_drops) = (senders.clone(), drops.clone());
        let thread_sends = thread::spawn(move || send_to_any(&theirs, 0, count, &their_drops));
        let (theirs, their_drops) = (senders, drops.clone());
        let sends = go(move || send_to_any(&theirs, count, count, &their_drops));
        let theirs = receivers.clone();
        let thread_receives = thread::spawn(move || receive_from_any(&theirs, &Dice::new(1)));
        let receives = go(move || receive_from_any(&receivers, &Dice::new(2)));
        let (mut sent, mut received) = (join(sends), join(receives));
        gopark::blocking(|| {
            sent.extend(thread_sends.join().unwrap());
            received.extend(thread_receives.join().unwrap());
        });
        sent.sort_unstable();
        received.sort_unstable();
        assert!(sent == received, "values are lost or doubled");
        assert_eq!(drops.count(), 2 * count * 4);
    });
}

/// Each goroutine offers both ends of a channel, so each event is a meeting of the two.
#[test]
fn two_selects_that_send_and_receive_on_one_channel_meet_each_other() {
    check(|| {
        let count = rounds(10_000) as usize;
        let (sender, receiver) = chan::bounded(0);
        let both = [0, 1].map(|id| {
            let (sender, receiver) = (sender.clone(), receiver.clone());
            go(move || {
                let mut sent = 0;
                for _ in 0..count {
                    select! {
                        send(sender, id) -> result => { result.unwrap(); sent += 1; }
                        recv(receiver) -> from => assert_eq!(from, Ok(1 - id)),
                    }
                }
                sent
            })
        });
        assert_eq!(both.map(join).iter().sum::<usize>(), count);
    });
}

#[test]
fn two_selects_that_cross_two_channels_meet_each_other() {
    check(|| {
        let count = rounds(10_000) as usize;
        let [(to_a, from_a), (to_b, from_b)] = [(); 2].map(|()| chan::bounded(0));
        let ends = [(to_a, from_b), (to_b, from_a)];
        let both = ends.map(|(sender, receiver)| {
            go(move || {
                let (mut sent, mut received) = (0, 0);
                while sent + received < count {
                    select! {
                        recv(receiver) -> value => {
                            assert_eq!(value, Ok(received));
                            received += 1;
                        }
                        send(sender, sent) -> result => { result.unwrap(); sent += 1; }
                    }
                }
                (sent, received)
            })
        });
        let [(sent, received), other] = both.map(join);
        assert_eq!((received, sent), other);
    });
}

/// Selects over the same channels in opposite orders, which would deadlock if each locked them in
/// its own order.
#[test]
fn selects_that_name_the_channels_in_opposite_orders_all_go_on() {
    check(|| {
        let count = rounds(5000);
        let (a, from_a) = chan::bounded(1);
        let (b, from_b) = chan::bounded(1);
        let threads = [false, true].map(|reversed| {
            let (a, b, from_a, from_b) = (a.clone(), b.clone(), from_a.clone(), from_b.clone());
            thread::spawn(move || {
                for i in 0..count {
                    match reversed {
                        false => select! {
                            send(a, i) -> _ => {}
                            recv(from_b) -> _ => {}
                            recv(from_a) -> _ => {}
                            send(b, i) -> _ => {}
                        },
                        true => select! {
                            send(b, i) -> _ => {}
                            recv(from_a) -> _ => {}
                            recv(from_b) -> _ => {}
                            send(a, i) -> _ => {}
                        },
                    }
                }
            })
        });
        gopark::blocking(|| threads.map(|thread| thread.join().unwrap()));
    });
}

/// A value and a close race for selects that wait: the value arrives, or comes back.
#[test]
fn a_close_in_the_race_with_a_select_loses_no_value() {
    check(|| {
        for round in 0..rounds(crate::CLOSES / 10) {
            let drops = Drops::default();
            let (sender, receiver) = chan::bounded(round as usize % 2);
            let (_other, never) = chan::bounded::<u8>(0);
            let value = drops.value(1);
            let closer = sender.clone();
            let sends = go({
                let never = never.clone();
                move || {
                    select! {
                        recv(never) -> _ => panic!("nothing is sent there"),
                        send(sender, value) -> result => result.is_ok(),
                    }
                }
            });
            let receives = go(move || {
                select! {
                    recv(receiver) -> value => value.is_ok(),
                    recv(never) -> _ => panic!("nothing is sent there"),
                }
            });
            let closes = thread::spawn(move || {
                (0..round % 50).for_each(|_| std::hint::spin_loop());
                closer.close();
            });
            let (sent, received) = (join(sends), join(receives));
            gopark::blocking(|| closes.join().unwrap());
            assert!(sent == received, "round {round}");
            assert_eq!(drops.count(), 1, "round {round}");
        }
    });
}
