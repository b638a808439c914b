//! Programs in the manner of Go: pipelines, servers and races of selects.

use super::{LONG, until};
use crate::{check, thread};
use crossbeam_channel::{Receiver, Sender, after, bounded, select, unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Go's sieve: a filter for each prime.
#[test]
fn a_chain_of_filters_sieves_primes() {
    check(|| {
        let (numbers, mut receiver) = bounded(0);
        thread::spawn(move || (2..).take_while(|&i| numbers.send(i).is_ok()).count());
        let mut primes = Vec::new();
        for _ in 0..25 {
            let prime = receiver.recv().unwrap();
            primes.push(prime);
            let (filtered, next) = bounded(0);
            thread::spawn(move || {
                let mut rest = receiver.into_iter().filter(|i| i % prime != 0);
                rest.all(|i| filtered.send(i).is_ok())
            });
            receiver = next;
        }
        assert_eq!((primes[0], primes[10], primes[24]), (2, 31, 97));
    });
}

#[test]
fn fibonacci_until_told_to_quit() {
    check(|| {
        let (numbers, from_numbers) = bounded(0);
        let (quit, from_quit) = bounded::<()>(0);
        thread::scope(|scope| {
            scope.spawn(move || {
                let (mut x, mut y) = (0_u64, 1);
                loop {
                    select! {
                        send(numbers, x) -> result => {
                            result.unwrap();
                            (x, y) = (y, x + y);
                        }
                        recv(from_quit) -> _ => break,
                    }
                }
            });
            let first: Vec<_> = from_numbers.iter().take(12).collect();
            assert_eq!(first, [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89]);
            drop(quit);
        });
    });
}

/// A request carries the channel for its reply.
#[test]
fn a_server_replies_to_each_client() {
    check(|| {
        let (requests, from_requests) = bounded::<(u64, Sender<u64>)>(2);
        thread::scope(|scope| {
            for _ in 0..3 {
                let from_requests = from_requests.clone();
                scope.spawn(move || {
                    for (number, reply) in from_requests {
                        reply.send(number * number).unwrap();
                    }
                });
            }
            drop(from_requests);
            thread::scope(|scope| {
                for number in 0..50 {
                    let requests = &requests;
                    scope.spawn(move || {
                        let (reply, from_reply) = bounded(1);
                        requests.send((number, reply)).unwrap();
                        assert_eq!(from_reply.recv(), Ok(number * number));
                    });
                }
            });
            drop(requests);
        });
    });
}

/// A broadcast by closing: every worker stops.
#[test]
fn a_channel_without_messages_stops_workers() {
    check(|| {
        let (work, from_work) = unbounded();
        let (stop, from_stop) = bounded::<()>(0);
        let done = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..5 {
                let (from_work, from_stop, done) = (from_work.clone(), from_stop.clone(), &done);
                scope.spawn(move || loop {
                    select! {
                        recv(from_work) -> item => done.fetch_add(item.unwrap(), Ordering::SeqCst),
                        recv(from_stop) -> _ => break,
                    };
                });
            }
            (0..100).for_each(|_| work.send(1).unwrap());
            until(|| done.load(Ordering::SeqCst) == 100);
            drop(stop);
        });
    });
}

/// A semaphore is a channel with room for its permits.
#[test]
fn a_channel_bounds_the_number_of_workers() {
    check(|| {
        let (permits, back) = bounded(3);
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..30 {
                scope.spawn(|| {
                    permits.send(()).unwrap();
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                    back.recv().unwrap();
                });
            }
        });
        assert!(most.into_inner() <= 3);
    });
}

#[test]
fn two_merge_into_one() {
    fn merge(inputs: [Receiver<u32>; 2], output: Sender<u32>) {
        let mut open = inputs.map(Some);
        let never = crossbeam_channel::never();
        while open.iter().any(Option::is_some) {
            let (input, message) = select! {
                recv(open[0].as_ref().unwrap_or(&never)) -> message => (0, message),
                recv(open[1].as_ref().unwrap_or(&never)) -> message => (1, message),
            };
            match message {
                Ok(message) => output.send(message).unwrap(),
                Err(_) => open[input] = None,
            }
        }
    }
    check(|| {
        let (evens, from_evens) = bounded(0);
        let (odds, from_odds) = bounded(3);
        let (output, from_output) = bounded(1);
        thread::scope(|scope| {
            scope.spawn(move || (0..100).step_by(2).for_each(|i| evens.send(i).unwrap()));
            scope.spawn(move || (1..100).step_by(2).for_each(|i| odds.send(i).unwrap()));
            scope.spawn(move || merge([from_evens, from_odds], output));
            let mut numbers: Vec<_> = from_output.iter().collect();
            let evens: Vec<_> = numbers.iter().copied().filter(|i| i % 2 == 0).collect();
            assert!(evens.is_sorted());
            numbers.sort();
            assert!(numbers.into_iter().eq(0..100));
        });
    });
}

/// Several goroutines or threads in both selects at once, with channels in different orders.
#[test]
fn selects_in_different_orders_do_not_block_each_other() {
    check(|| {
        let (to_a, from_a) = bounded::<u64>(0);
        let (to_b, from_b) = bounded::<u64>(0);
        let sums = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        thread::scope(|scope| {
            for member in 0..4_u64 {
                let (to_a, from_a) = (to_a.clone(), from_a.clone());
                let (to_b, from_b, sums) = (to_b.clone(), from_b.clone(), sums.clone());
                scope.spawn(move || {
                    for _ in 0..200 {
                        let received = match member % 2 {
                            0 => select! {
                                send(to_a, member) -> result => result.map(|()| None).unwrap(),
                                recv(from_b) -> message => Some(message.unwrap()),
                                default(LONG) => panic!("too late"),
                            },
                            _ => select! {
                                send(to_b, member) -> result => result.map(|()| None).unwrap(),
                                recv(from_a) -> message => Some(message.unwrap()),
                                default(LONG) => panic!("too late"),
                            },
                        };
                        sums[usize::from(received.is_some())].fetch_add(1, Ordering::SeqCst);
                        if let Some(from) = received {
                            assert_ne!(from % 2, member % 2);
                        }
                    }
                });
            }
        });
        assert_eq!(sums[0].load(Ordering::SeqCst), 400);
        assert_eq!(sums[1].load(Ordering::SeqCst), 400);
    });
}

#[test]
fn a_deadline_for_a_whole_exchange() {
    check(|| {
        let (pings, from_pings) = bounded(0);
        let (pongs, from_pongs) = bounded(0);
        thread::scope(|scope| {
            scope.spawn(move || {
                from_pings
                    .iter()
                    .for_each(|i: u32| pongs.send(i + 1).unwrap())
            });
            let limit = after(LONG);
            for i in 0..100 {
                select! {
                    send(pings, i) -> result => result.unwrap(),
                    recv(limit) -> _ => panic!("too late"),
                }
                select! {
                    recv(from_pongs) -> pong => assert_eq!(pong, Ok(i + 1)),
                    recv(limit) -> _ => panic!("too late"),
                }
            }
            drop(pings);
        });
    });
}
