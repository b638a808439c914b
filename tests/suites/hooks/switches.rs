//! What a hook of `Builder::on_switch` is told.

use crate::{check, start};
use gopark::thread::{Thread, current};
use gopark::{JoinHandle, blocking, chan, go, go_local, sleep, yield_now};
use gopark_tests::turns::{check_pairs, run_a_mix, turn_here, turns_of};
use gopark_tests::{LIMIT, join, on_thread, until, until_on_thread};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::Duration;

fn me() -> u64 {
    let number = |thread: Thread| thread.id().goroutine();
    number(current()).expect("this is a goroutine")
}

/// Joins a goroutine, and waits for the end of its last turn. Returns how many turns it had.
#[track_caller]
fn turns_until_end<T>(goroutine: JoinHandle<T>) -> usize {
    let id = goroutine.id();
    let _ = goroutine.join();
    until("its last turn ends", || turns_of(id).1);
    turns_of(id).0.len()
}

#[test]
fn in_and_out_alternate_on_each_thread_and_for_each_goroutine() {
    check(|| {
        let before = check_pairs();
        run_a_mix();
        assert!(check_pairs() > before + 8 * 50);
    });
}

#[test]
fn a_turn_has_the_number_of_the_goroutine_that_runs() {
    check(|| {
        let goroutine = go(|| {
            assert_eq!(turn_here(), me());
            yield_now();
            assert_eq!(turn_here(), me());
            sleep(Duration::from_millis(1));
            assert_eq!(turn_here(), me());
            let id = me();
            assert_eq!(blocking(turn_here), 0, "a thread of the pool has no turns");
            assert_eq!(turn_here(), id);
            id
        });
        let id = goroutine.id();
        assert_eq!(join(goroutine), id);
    });
}

#[test]
fn each_yield_ends_a_turn_and_so_does_the_return() {
    check(|| {
        assert_eq!(turns_until_end(go(|| ())), 1);
        assert_eq!(turns_until_end(go(|| (0..5).for_each(|_| yield_now()))), 6);
    });
}

#[test]
fn a_park_ends_a_turn_once() {
    check(|| {
        let (sender, receiver) = chan::bounded::<()>(0);
        // Both are on this thread: the send finds the receiver parked.
        let receives = go_local(move || receiver.recv().unwrap());
        let id = receives.id();
        until("it has parked", || {
            let (turns, ended) = turns_of(id);
            ended && turns.len() == 1
        });
        sender.send(()).unwrap();
        assert_eq!(turns_until_end(receives), 2);
    });
}

#[test]
fn a_panic_ends_the_last_turn() {
    check(|| assert_eq!(turns_until_end(go(|| panic!("the last turn"))), 1));
}

#[test]
fn blocking_ends_a_turn_as_a_park_does() {
    check(|| {
        let parks = go(|| {
            let id = me();
            blocking(|| until_on_thread("its turn ends", || turns_of(id).1));
        });
        assert_eq!(turns_until_end(parks), 2);
    });
}

/// Three block their threads at the same time. One of them, at least, has lost its P, since there
/// are two.
#[test]
fn a_turn_goes_on_after_its_thread_has_lost_its_p() {
    start();
    on_thread(|| {
        let blocked = Arc::new(AtomicUsize::new(0));
        let (senders, goroutines): (Vec<_>, Vec<_>) = (0..3)
            .map(|_| {
                let (sender, news) = mpsc::channel::<()>();
                let blocked = blocked.clone();
                let goroutine = go(move || {
                    blocked.fetch_add(1, SeqCst);
                    news.recv_timeout(LIMIT / 2).unwrap();
                    turn_here() == me()
                });
                (sender, goroutine)
            })
            .unzip();
        until_on_thread("they block", || blocked.load(SeqCst) == 3);
        for goroutine in &goroutines {
            assert!(!turns_of(goroutine.id()).1);
        }
        check_pairs();
        senders.iter().for_each(|sender| sender.send(()).unwrap());
        for goroutine in goroutines {
            let id = goroutine.id();
            assert!(join(goroutine));
            until_on_thread("its only turn ends", || turns_of(id).1);
            assert_eq!(turns_of(id).0.len(), 1);
        }
        check_pairs();
    });
}
