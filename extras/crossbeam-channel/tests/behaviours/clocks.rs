//! `after`, `at`, `tick` and `never`.

use super::{LONG, SHORT, until};
use crate::{check, thread};
use crossbeam_channel::{
    Receiver, RecvTimeoutError, Select, TryRecvError, after, at, bounded, never, select, tick,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[test]
fn after_delivers_once_the_time_at_which_it_was_due() {
    check(|| {
        let before = Instant::now();
        let receiver = after(SHORT);
        let latest = Instant::now() + SHORT;
        let message = receiver.recv().unwrap();
        assert!(Instant::now() >= message);
        assert!(before + SHORT <= message && message <= latest);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(receiver.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout));
    });
}

#[test]
fn at_delivers_its_time() {
    check(|| {
        for when in [Instant::now(), Instant::now() + SHORT] {
            assert_eq!(at(when).recv(), Ok(when));
            assert!(Instant::now() >= when);
            let receiver = at(when);
            assert_eq!(receiver.try_recv(), Ok(when));
            assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        }
    });
}

#[test]
fn the_length_follows_the_clock() {
    check(|| {
        for make in [after, tick] {
            let receiver = make(LONG);
            assert!(receiver.is_empty() && !receiver.is_full() && matches!(receiver.len(), 0));
            assert_eq!(receiver.capacity(), Some(1));
            let receiver = make(SHORT);
            until(|| !receiver.is_empty());
            assert!(receiver.is_full() && receiver.len() == 1);
            receiver.try_recv().unwrap();
            let receiver = make(Duration::MAX);
            assert!(receiver.is_empty());
            assert_eq!(receiver.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout));
        }
    });
}

#[test]
fn a_limit_before_the_time_passes_and_one_after_it_does_not() {
    check(|| {
        for make in [after, tick] {
            let receiver = make(SHORT * 4);
            let early = Instant::now();
            assert_eq!(
                receiver.recv_deadline(early),
                Err(RecvTimeoutError::Timeout)
            );
            assert!(receiver.recv_timeout(LONG).is_ok());
        }
    });
}

#[test]
fn one_of_the_receivers_of_after_gets_the_message() {
    check(|| {
        let receiver = after(SHORT);
        let got = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                let (receiver, got) = (receiver.clone(), &got);
                scope.spawn(move || {
                    if receiver.recv_timeout(SHORT * 10).is_ok() {
                        got.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(got.into_inner(), 1);
    });
}

#[test]
fn ticks_that_are_waited_for_are_in_phase() {
    check(|| {
        let period = Duration::from_millis(50);
        let receiver = tick(period);
        let first = receiver.recv().unwrap();
        let mut last = first;
        for _ in 0..4 {
            let next = receiver.recv().unwrap();
            assert!(Instant::now() >= next && next >= last + period);
            last = next;
        }
    });
}

#[test]
fn one_tick_waits_at_most_and_the_next_comes_a_period_after_it_is_received() {
    check(|| {
        let start = Instant::now();
        let receiver = tick(SHORT);
        let made = Instant::now();
        until(|| start.elapsed() >= SHORT * 4);
        assert_eq!(receiver.len(), 1);
        let began = Instant::now();
        // The tick that waits is the first one.
        let late = receiver.try_recv().unwrap();
        assert!(start + SHORT <= late && late <= made + SHORT);
        assert!(receiver.recv().unwrap() >= began + SHORT);
    });
}

#[test]
fn a_tick_goes_to_one_receiver() {
    check(|| {
        let receiver = tick(SHORT);
        let times = std::sync::Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..4 {
                let (receiver, times) = (receiver.clone(), &times);
                scope.spawn(move || {
                    for _ in 0..3 {
                        let time = receiver.recv().unwrap();
                        times.lock().unwrap().push(time);
                    }
                });
            }
        });
        let mut times = times.into_inner().unwrap();
        times.sort();
        assert!(times.windows(2).all(|pair| pair[0] + SHORT <= pair[1]));
    });
}

#[test]
fn a_period_of_zero_ticks_always() {
    check(|| {
        let receiver = tick(Duration::ZERO);
        (0..100).for_each(|_| assert!(receiver.try_recv().is_ok()));
    });
}

#[test]
fn never_delivers_nothing() {
    check(|| {
        const NEVER: Receiver<String> = never();
        let receiver = NEVER;
        assert!(receiver.is_empty() && receiver.is_full() && matches!(receiver.len(), 0));
        assert_eq!(receiver.capacity(), Some(0));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(receiver.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout));
        assert_eq!(
            receiver.recv_deadline(Instant::now()),
            Err(RecvTimeoutError::Timeout)
        );
        assert_eq!(receiver.try_iter().next(), None);
        let mut select = Select::new();
        select.recv(&receiver);
        assert!(select.select_timeout(SHORT).is_err());
        assert!(select.ready_timeout(SHORT).is_err());
    });
}

#[test]
fn clocks_in_selects() {
    check(|| {
        let (_sender, receiver) = bounded::<u8>(0);
        let start = Instant::now();
        let ticks = tick(SHORT);
        let end = after(SHORT * 8);
        let mut count = 0;
        loop {
            select! {
                recv(receiver) -> _ => panic!("received"),
                recv(ticks) -> time => {
                    assert!(time.unwrap() >= start + SHORT);
                    count += 1;
                }
                recv(end) -> time => {
                    assert!(time.unwrap() >= start + SHORT * 8);
                    break;
                }
            }
        }
        assert!(count >= 1);
        select! {
            recv(end) -> _ => panic!("a second message"),
            recv(after(LONG)) -> _ => panic!("too early"),
            recv(at(Instant::now())) -> _ => {}
        }
        select! {
            recv(after(LONG)) -> _ => panic!("too early"),
            default(SHORT) => {}
        }
    });
}

#[test]
fn clocks_that_are_due_are_selected_at_random() {
    check(|| {
        let mut hits = [0; 3];
        for _ in 0..300 {
            let (a, b, c) = (
                after(Duration::ZERO),
                at(Instant::now()),
                tick(Duration::ZERO),
            );
            select! {
                recv(a) -> _ => hits[0] += 1,
                recv(b) -> _ => hits[1] += 1,
                recv(c) -> _ => hits[2] += 1,
            }
        }
        assert!(hits.iter().all(|&times| times >= 30), "{hits:?}");
        // Two whose times come during the wait.
        let mut hits = [0; 2];
        for _ in 0..300 {
            let when = Instant::now() + Duration::from_micros(50);
            let (a, b) = (at(when), at(when + Duration::from_nanos(1)));
            select! {
                recv(a) -> _ => hits[0] += 1,
                recv(b) -> _ => hits[1] += 1,
            }
        }
        assert!(hits.iter().all(|&times| times >= 30), "{hits:?}");
    });
}

#[test]
fn clocks_become_ready() {
    check(|| {
        let (early, late) = (after(SHORT), tick(LONG));
        let mut select = Select::new();
        let late = select.recv(&late);
        let first = select.recv(&early);
        assert!(select.try_ready().is_err());
        assert_eq!(select.ready(), first);
        early.try_recv().unwrap();
        assert!(select.try_ready().is_err());
        assert_ne!(late, first);
    });
}
