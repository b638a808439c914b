//! Operations with a time limit.

use super::{Drops, until_waits};
use crate::{check, start};
use gopark::chan::{self, RecvTimeoutError, SendTimeoutError, TrySendError};
use gopark::go;
use gopark_tests::{Dice, LIMIT, join, on_thread, rounds};
use std::thread;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(3);

/// Runs `behaviour` in a goroutine, and on an ordinary thread.
fn check_both(behaviour: fn()) {
    check(behaviour);
    start();
    on_thread(behaviour);
}

#[test]
fn a_wait_is_never_shorter_than_its_limit() {
    check_both(|| {
        let (sender, receiver) = chan::bounded(0);
        for _ in 0..5 {
            let begin = Instant::now();
            assert_eq!(receiver.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout));
            assert!(begin.elapsed() >= SHORT);
            let deadline = Instant::now() + SHORT;
            assert_eq!(
                sender.send_deadline(1, deadline),
                Err(SendTimeoutError::Timeout(1))
            );
            assert!(Instant::now() >= deadline);
        }
    });
}

#[test]
fn a_limit_that_has_passed_permits_what_needs_no_wait() {
    check_both(|| {
        let (sender, receiver) = chan::bounded(1);
        let past = Instant::now() - Duration::from_millis(1);
        assert_eq!(sender.send_deadline(1, past), Ok(()));
        assert_eq!(
            sender.send_timeout(2, Duration::ZERO),
            Err(SendTimeoutError::Timeout(2))
        );
        assert_eq!(receiver.recv_timeout(Duration::ZERO), Ok(1));
        assert_eq!(receiver.recv_deadline(past), Err(RecvTimeoutError::Timeout));
    });
}

#[test]
fn a_limit_that_never_comes_is_none() {
    check(|| {
        let (sender, receiver) = chan::bounded(0);
        let century = Instant::now() + Duration::from_secs(3_000_000_000);
        let receives = go(move || {
            let first = receiver.recv_timeout(Duration::MAX);
            (first, receiver.recv_deadline(century))
        });
        until_waits(&receives);
        sender.send_timeout(1, Duration::MAX).unwrap();
        sender.send_deadline(2, century).unwrap();
        assert_eq!(join(receives), (Ok(1), Ok(2)));
    });
}

#[test]
fn a_receive_that_has_expired_leaves_its_value_to_the_next() {
    check(|| {
        for capacity in [0, 1] {
            let (sender, receiver) = chan::bounded(capacity);
            let next = receiver.clone();
            let expires = go({
                let receiver = receiver.clone();
                move || receiver.recv_timeout(SHORT)
            });
            until_waits(&expires);
            let next = go(move || next.recv_timeout(LIMIT));
            until_waits(&next);
            assert_eq!(join(expires), Err(RecvTimeoutError::Timeout));
            sender.send_timeout(7, LIMIT).unwrap();
            assert_eq!(join(next), Ok(7));
            // No receiver waits any more.
            if capacity == 0 {
                assert_eq!(sender.try_send(8), Err(TrySendError::Full(8)));
            }
        }
    });
}

#[test]
fn a_send_that_has_expired_leaves_no_value() {
    check(|| {
        let drops = Drops::default();
        let (sender, receiver) = chan::bounded(0);
        let expires = go({
            let (sender, value) = (sender.clone(), drops.value(1));
            move || sender.send_timeout(value, SHORT)
        });
        until_waits(&expires);
        let next = go({
            let (sender, value) = (sender.clone(), drops.value(2));
            move || sender.send_timeout(value, LIMIT)
        });
        until_waits(&next);
        let back = join(expires).unwrap_err();
        assert!(back.is_timeout() && back.into_inner().id == 1);
        assert_eq!(receiver.recv().unwrap().id, 2);
        join(next).unwrap();
        assert!(receiver.try_recv().unwrap_err().is_empty());
        assert_eq!(drops.count(), 2);
    });
}

/// Senders and receivers with limits of about the time that they need to meet. What a sender was
/// told is what happened to the value.
fn meet_or_expire(capacity: usize, on_threads: bool) {
    let count = rounds(3000) as usize;
    let drops = Drops::default();
    let (sender, receiver) = chan::bounded(capacity);
    let theirs = drops.clone();
    let sends = move || {
        let dice = Dice::new(1);
        let mut sent = Vec::new();
        for i in 0..count {
            let limit = Duration::from_nanos(dice.below(60_000));
            match sender.send_timeout(theirs.value(i), limit) {
                Ok(()) => sent.push(i),
                Err(error) => assert_eq!(error.into_inner().id, i),
            }
        }
        sent
    };
    let receives = move || {
        let dice = Dice::new(2);
        let mut received = Vec::new();
        loop {
            let limit = Duration::from_nanos(dice.below(60_000));
            match receiver.recv_timeout(limit) {
                Ok(value) => received.push(value.id),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return received,
            }
        }
    };
    let (sent, received) = if on_threads {
        let (sends, receives) = (thread::spawn(sends), thread::spawn(receives));
        gopark::blocking(|| (sends.join().unwrap(), receives.join().unwrap()))
    } else {
        let (sends, receives) = (go(sends), go(receives));
        (join(sends), join(receives))
    };
    assert_eq!(sent, received);
    assert_eq!(drops.count(), count);
}

#[test]
fn an_expiry_in_the_race_with_a_partner_loses_no_value() {
    check(|| {
        for capacity in [0, 1, 3] {
            meet_or_expire(capacity, false);
            meet_or_expire(capacity, true);
        }
    });
}

#[test]
fn many_waits_that_expire_at_once_all_end() {
    check(|| {
        let (sender, receiver) = chan::bounded::<usize>(0);
        let deadline = Instant::now() + Duration::from_millis(50);
        let waiters: Vec<_> = (0..2000)
            .map(|i| {
                let receiver = receiver.clone();
                go(move || receiver.recv_deadline(deadline + Duration::from_micros(i % 100)))
            })
            .collect();
        for waiter in waiters {
            assert_eq!(join(waiter), Err(RecvTimeoutError::Timeout));
        }
        assert_eq!(sender.try_send(1), Err(TrySendError::Full(1)));
    });
}
