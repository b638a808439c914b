//! Waits over core alone: deadlines, sleeps, semaphores, and the count of goroutines that wait in a
//! poller.

use super::{
    MILLISECOND, TIMEOUT, check, check_in, go, join, pair, pipe_in, read, sched, start,
    undisturbed, write,
};
use gopark_core::join::Join;
use gopark_core::os::Nanos;
use gopark_core::polldesc::Deadline;
use gopark_core::sched::{Config, Sched};
use gopark_core::semaphore::RawSemaphore;
use gopark_tests::LIMIT;
use std::cell::RefCell;
use std::panic::Location;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Instant;

#[test]
fn a_sooner_deadline_from_a_thread_reaches_a_runtime_that_sleeps() {
    let sched = start(Config {
        pollers: 1,
        stack_size: 64 * 1024,
        max_threads: 8,
        ..Config::new(2)
    });
    for _ in 0..20 {
        let [reader, _writer] = pipe_in(sched);
        reader
            .set_deadline(None, Deadline::At(sched.now() + 3_600_000 * MILLISECOND))
            .unwrap();
        let theirs = reader.clone();
        let blocked = go(sched, move || read(&theirs, &mut [0; 1]));
        let start = Instant::now();
        while sched.num_poll_waiters() == 0 {
            assert!(
                start.elapsed() < LIMIT / 2,
                "the reader does not wait in the poller"
            );
            thread::yield_now();
        }
        thread::sleep(std::time::Duration::from_millis(1));
        let when = sched.now() + 2 * MILLISECOND;
        reader.set_deadline(None, Deadline::At(when)).unwrap();
        assert_eq!(join(blocked), Err(TIMEOUT));
        let late = sched.now() - when;
        assert!(
            (0..60_000 * MILLISECOND).contains(&late),
            "the wake-up came {late} ns after the deadline"
        );
    }
}

#[test]
fn both_ends_of_every_connection_park_at_once() {
    let sched = start(Config {
        stack_size: 64 * 1024,
        max_threads: 8,
        ..Config::new(2)
    });
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let connection = |_| {
        // SAFETY: room for two descriptors.
        pair(sched, |fds| unsafe {
            libc::socketpair(libc::AF_UNIX, kind, 0, fds)
        })
    };
    let ends: Vec<_> = (0..150).flat_map(connection).collect();
    let readers: Vec<_> = ends
        .iter()
        .cloned()
        .map(|end| go(sched, move || read(&end, &mut [0; 16])))
        .collect();
    let start = Instant::now();
    while sched.num_poll_waiters() != ends.len() {
        assert!(
            start.elapsed() < LIMIT / 2,
            "{} of {} wait",
            sched.num_poll_waiters(),
            ends.len()
        );
        thread::yield_now();
    }
    ends.iter().for_each(|end| write(end, b"go on").unwrap());
    readers
        .into_iter()
        .for_each(|reader| assert_eq!(join(reader), Ok(5)));
    assert_eq!(sched.num_poll_waiters(), 0);
}

#[test]
fn waiters_are_counted_while_they_wait() {
    let sched = start(Config {
        pollers: 1,
        stack_size: 64 * 1024,
        max_threads: 8,
        ..Config::new(2)
    });
    let pairs: Vec<_> = (0..100).map(|_| pipe_in(sched)).collect();
    let count = move |expected| {
        let start = Instant::now();
        while sched.num_poll_waiters() != expected {
            assert!(
                start.elapsed() < LIMIT / 2,
                "{} waiters instead of {expected}",
                sched.num_poll_waiters()
            );
            thread::yield_now();
        }
    };
    for round in 0..10 {
        let deadline = |ms: Nanos| Deadline::At(sched.now() + ms * MILLISECOND);
        pairs
            .iter()
            .for_each(|[reader, _]| reader.set_deadline(None, Deadline::None).unwrap());
        let readers: Vec<_> = pairs
            .iter()
            .map(|[fd, _]| fd.clone())
            .map(|fd| go(sched, move || read(&fd, &mut [0; 1])))
            .collect();
        let thread = {
            let fd = pairs[0][0].clone();
            thread::spawn(move || read(&fd, &mut [0; 1]))
        };
        // The thread waits for the goroutine that holds the reading side, so it is not counted as a
        // waiter of the poller.
        count(100);
        match round % 3 {
            0 => pairs
                .iter()
                .for_each(|[_, writer]| write(writer, b"xx").unwrap()),
            1 => pairs
                .iter()
                .for_each(|[reader, _]| reader.set_deadline(None, Deadline::Passed).unwrap()),
            _ => pairs
                .iter()
                .for_each(|[reader, _]| reader.set_deadline(None, deadline(2)).unwrap()),
        }
        let expected = if round % 3 == 0 { Ok(1) } else { Err(TIMEOUT) };
        readers
            .into_iter()
            .for_each(|reader| assert_eq!(join(reader), expected));
        assert_eq!(thread.join().unwrap(), expected);
        count(0);
        if round % 3 == 0 {
            pairs[1..]
                .iter()
                .for_each(|[reader, _]| assert_eq!(read(reader, &mut [0; 2]), Ok(1)));
        }
    }
}

#[test]
fn two_goroutines_that_always_ready_each_other_do_not_starve_a_third() {
    let sched = undisturbed();
    check_in(sched, move || {
        type Sema = RawSemaphore<&'static Sched>;
        let [left, right] = [(); 2].map(|()| Arc::new(RawSemaphore::new(0, sched)));
        let exchanges = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let player = |mine: &Arc<Sema>, other: &Arc<Sema>| {
            let (mine, other, exchanges, stop) =
                (mine.clone(), other.clone(), exchanges.clone(), stop.clone());
            let play = move || {
                while !stop.load(SeqCst) {
                    mine.acquire(1);
                    exchanges.fetch_add(1, SeqCst);
                    other.release(1);
                }
            };
            sched.go_local(play, Location::caller()).unwrap()
        };
        let players = [player(&left, &right), player(&right, &left)];
        left.release(1);
        sched.yield_now();
        for _ in 0..200 {
            let before = exchanges.load(SeqCst);
            sched.yield_now();
            let between = exchanges.load(SeqCst) - before;
            assert!(
                between <= 100,
                "{between} exchanges between two turns of the third goroutine"
            );
        }
        assert!(
            exchanges.load(SeqCst) > 100,
            "the two goroutines must take turns"
        );
        stop.store(true, SeqCst);
        players.into_iter().for_each(Join::join);
    });
}

#[test]
fn sleepers_wake_in_the_order_of_their_deadlines() {
    const SLEEPERS: Nanos = 1000;

    /// Returns whether all slept before the first deadline, and woke in order.
    fn in_order(sched: &'static Sched, lead: Nanos) -> bool {
        let first = sched.now() + lead * MILLISECOND;
        let woken = Rc::new(RefCell::new(Vec::new()));
        let sleepers: Vec<_> = (0..SLEEPERS)
            .map(|i| {
                let woken = woken.clone();
                let sleeper = move || {
                    let place = i * 7919 % SLEEPERS;
                    sched.sleep_until(first + place * MILLISECOND / 1000);
                    woken.borrow_mut().push(place);
                };
                sched.go_local(sleeper, Location::caller()).unwrap()
            })
            .collect();
        sched.yield_now();
        let in_time = sched.now() < first;
        sleepers.into_iter().for_each(Join::join);
        in_time && woken.borrow().is_sorted()
    }

    let sched = undisturbed();
    check_in(sched, move || {
        let leads = [20, 200, 500, 1000, 2000];
        assert!(
            leads.into_iter().any(|lead| in_order(sched, lead)),
            "{SLEEPERS} goroutines wake out of order, or take more than two seconds to fall asleep"
        );
    });
}

#[test]
fn permits_of_a_semaphore_are_never_lost() {
    const GOROUTINES: usize = 20;
    const ROUNDS: usize = 500;
    check(|| {
        let sema = Arc::new(RawSemaphore::new(0, sched()));
        let inside = Arc::new(AtomicUsize::new(0));
        let users: Vec<_> = (0..GOROUTINES)
            .map(|_| {
                let (sema, inside) = (sema.clone(), inside.clone());
                go(sched(), move || {
                    for _ in 0..ROUNDS {
                        sema.acquire(1);
                        assert!(inside.fetch_add(1, SeqCst) < 3);
                        sched().yield_now();
                        inside.fetch_sub(1, SeqCst);
                        sema.release(1);
                    }
                })
            })
            .collect();
        sema.release(3);
        users.into_iter().for_each(join);
        for _ in 0..3 {
            sema.acquire(1);
        }
    });
}
