//! A thread that sleeps in the poller while other threads open, arm, close and wake, and how long
//! it sleeps.

use super::{MILLISECOND, POLLER, SECOND, now, poller, sleep_in, unix_pair};
use gopark_backends::linux::io;
use gopark_core::os::{Delay, Errno, Mode, Nanos, Outcome};
use gopark_tests::LIMIT;
use gopark_tests::watch::{
    INTERRUPTS, Watch, asleep, interrupt, lend, nonblocking, pipe, poll, thread_id, token,
};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

#[test]
fn a_descriptor_opened_and_armed_while_a_thread_polls_is_reported() {
    for _ in 0..200 {
        let poller = poller();
        let (sleeper, _) = sleep_in(&poller, Delay::Forever);
        let (ours, mut theirs) = unix_pair();
        theirs.write_all(b"x").unwrap();
        poller.open(ours.as_raw_fd(), token(3)).unwrap();
        poller.arm(ours.as_raw_fd(), token(3), Mode::Read);
        assert_eq!(sleeper.join().unwrap(), [3]);
    }
}

#[test]
fn a_descriptor_armed_while_a_thread_polls_wakes_it_later() {
    for _ in 0..200 {
        let poller = poller();
        let (ours, mut theirs) = unix_pair();
        poller.open(ours.as_raw_fd(), token(3)).unwrap();
        while !poll(&poller, Delay::None).is_empty() {}
        let (sleeper, id) = sleep_in(&poller, Delay::Forever);
        poller.arm(ours.as_raw_fd(), token(3), Mode::Read);
        asleep(id);
        theirs.write_all(b"x").unwrap();
        assert_eq!(sleeper.join().unwrap(), [3]);
    }
}

#[test]
fn a_descriptor_closed_while_a_thread_polls_is_released_at_once() {
    for _ in 0..200 {
        let poller = poller();
        let (ours, theirs) = unix_pair();
        let (reader, writer) = pipe();
        for (fd, tag) in [(ours.as_raw_fd(), 3), (reader.as_raw_fd(), 4)] {
            poller.open(fd, token(tag)).unwrap();
            poller.arm(fd, token(tag), Mode::Read);
        }
        while !poll(&poller, Delay::None).is_empty() {}
        let (sleeper, _) = sleep_in(&poller, Delay::AtMost(60 * SECOND));
        poller.close(ours.as_raw_fd());
        drop(ours);
        let theirs = nonblocking(theirs);
        assert_eq!(
            io::read(lend(&theirs), &mut [0; 8]),
            Outcome::Done(0),
            "the peer sees the end"
        );
        poller.close(reader.as_raw_fd());
        drop(reader);
        assert_eq!(
            io::write(lend(&writer), b"x"),
            Outcome::Failed(Errno::new(libc::EPIPE))
        );
        poller.wake();
        assert_eq!(sleeper.join().unwrap(), []);
    }
}

/// The kernel ends a ring's poll on the thread that submitted it, which is busy here.
#[test]
fn a_descriptor_opened_by_another_thread_is_released_when_it_is_closed() {
    const ROUNDS: usize = 300;
    let poller = poller();
    let (to_open, numbers) = mpsc::channel();
    let opened = Arc::new(AtomicUsize::new(0));
    let opener = {
        let (poller, opened) = (poller.clone(), opened.clone());
        thread::spawn(move || {
            loop {
                match numbers.try_recv() {
                    Ok(fd) => {
                        poller.open(fd, token(1)).unwrap();
                        opened.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(mpsc::TryRecvError::Empty) => thread::yield_now(),
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            }
        })
    };
    for round in 1..=ROUNDS {
        let (ours, theirs) = unix_pair();
        let theirs = nonblocking(theirs);
        to_open.send(ours.as_raw_fd()).unwrap();
        gopark_tests::until_on_thread("it is opened", || opened.load(Ordering::SeqCst) == round);
        poller.close(ours.as_raw_fd());
        drop(ours);
        assert_eq!(
            io::read(lend(&theirs), &mut [0; 8]),
            Outcome::Done(0),
            "the peer sees the end"
        );
    }
    drop(to_open);
    opener.join().unwrap();
}

#[test]
fn a_port_is_free_when_its_listener_is_closed() {
    let poller = poller();
    let (sleeper, _) = sleep_in(&poller, Delay::Forever);
    let mut address = "127.0.0.1:0".parse().unwrap();
    for _ in 0..200 {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&socket2::SockAddr::from(address)).unwrap();
        socket.listen(1).unwrap();
        address = socket.local_addr().unwrap().as_socket().unwrap();
        poller.open(socket.as_raw_fd(), token(1)).unwrap();
        poller.arm(socket.as_raw_fd(), token(1), Mode::Read);
        poller.close(socket.as_raw_fd());
    }
    poller.wake();
    assert_eq!(sleeper.join().unwrap(), []);
}

#[test]
fn a_descriptor_is_watched_after_the_thread_that_opened_it_has_ended() {
    let watch = Watch::new(POLLER);
    let (ours, mut theirs) = unix_pair();
    thread::scope(|scope| {
        let (poller, fd) = (&watch.poller, ours.as_raw_fd());
        scope.spawn(move || poller.open(fd, token(1)).unwrap());
    });
    for _ in 0..10 {
        watch.forget(1, Mode::Read);
        watch.poller.arm(ours.as_raw_fd(), token(1), Mode::Read);
        theirs.write_all(b"x").unwrap();
        watch.wait_armed(1, Mode::Read);
        assert_eq!(io::read(lend(&ours), &mut [0; 8]), Outcome::Done(1));
    }
}

#[test]
fn a_wake_ends_a_poll_that_sleeps() {
    for delay in [Delay::Forever, Delay::AtMost(3600 * SECOND)] {
        let poller = poller();
        let (sleeper, _) = sleep_in(&poller, delay);
        poller.wake();
        assert_eq!(sleeper.join().unwrap(), []);
    }
}

/// golang/go #42515, #42237, #35353.
#[test]
fn a_poll_without_delay_leaves_the_wake_to_one_that_waits() {
    let poller = poller();
    poller.wake();
    for delay in [Delay::None, Delay::None, Delay::Forever] {
        assert!(poll(&poller, delay).is_empty());
    }
}

#[test]
fn wakes_before_a_poll_count_as_one() {
    let poller = poller();
    for _ in 0..3 {
        poller.wake();
    }
    assert!(poll(&poller, Delay::Forever).is_empty());
    let start = now();
    poll(&poller, Delay::AtMost(2 * MILLISECOND));
    assert!(
        now() - start >= 2 * MILLISECOND,
        "a second wake was pending"
    );
}

#[test]
fn a_wake_beside_an_event_hides_neither() {
    let (ours, mut theirs) = unix_pair();
    let watch = Watch::of(POLLER, &ours);
    for _ in 0..100 {
        watch.poller.arm(ours.as_raw_fd(), token(1), Mode::Read);
        theirs.write_all(b"x").unwrap();
        watch.poller.wake();
        watch.wait_armed(1, Mode::Read);
        assert_eq!(io::read(lend(&ours), &mut [0; 8]), Outcome::Done(1));
        watch.poller.wake();
        watch.poll(Delay::Forever);
    }
}

/// boostorg/asio #320.
#[test]
fn no_wake_is_lost_in_a_storm() {
    const WAKERS: usize = 3;
    const WAKES: usize = 20_000;
    let poller = poller();
    let asked = Arc::new([const { AtomicUsize::new(0) }; WAKERS]);
    let wakers: Vec<_> = (0..WAKERS)
        .map(|waker| {
            let (poller, asked) = (poller.clone(), asked.clone());
            thread::spawn(move || {
                for i in 1..=WAKES {
                    asked[waker].store(i, Ordering::Relaxed);
                    poller.wake();
                }
            })
        })
        .collect();
    // Relaxed is enough: the poll that returns has acquired what the wakers wrote.
    while asked
        .iter()
        .any(|asked| asked.load(Ordering::Relaxed) < WAKES)
    {
        assert!(poll(&poller, Delay::Forever).is_empty());
    }
    wakers.into_iter().for_each(|waker| waker.join().unwrap());
}

/// golang/go #42515 again, as a race.
#[test]
fn a_wake_reaches_the_sleeper_while_others_look() {
    const ROUNDS: usize = 5000;
    let poller = poller();
    let (asked, taken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let sleeper = {
        let (poller, asked, taken) = (poller.clone(), asked.clone(), taken.clone());
        thread::spawn(move || {
            while taken.load(Ordering::SeqCst) < ROUNDS {
                poll(&poller, Delay::Forever);
                taken.store(asked.load(Ordering::SeqCst), Ordering::SeqCst);
            }
        })
    };
    let looker = {
        let (poller, taken) = (poller.clone(), taken.clone());
        thread::spawn(move || {
            while taken.load(Ordering::SeqCst) < ROUNDS {
                assert!(poll(&poller, Delay::None).is_empty());
            }
        })
    };
    for round in 1..=ROUNDS {
        asked.store(round, Ordering::SeqCst);
        poller.wake();
        gopark_tests::until_on_thread("the sleeper has seen it", || {
            taken.load(Ordering::SeqCst) == round
        });
    }
    sleeper.join().unwrap();
    looker.join().unwrap();
}

#[test]
fn a_timed_poll_never_returns_early() {
    let poller = poller();
    for limit in [1, 999, 50_000, MILLISECOND, MILLISECOND + 1, 2_500_000] {
        let start = now();
        assert!(poll(&poller, Delay::AtMost(limit)).is_empty());
        assert!(now() - start >= limit, "{limit} ns");
    }
}

/// golang/go #44343, #38860: a timer of a few microseconds must not wait for a millisecond.
#[test]
fn a_short_delay_is_not_rounded_up_to_a_millisecond() {
    let poller = poller();
    let took = (0..200).map(|_| {
        let start = now();
        poll(&poller, Delay::AtMost(50_000));
        now() - start
    });
    assert!(took.min().unwrap() < MILLISECOND, "every delay");
}

/// libuv #354, #922, netty #3398: a delay of more milliseconds than an `int` holds became none, or
/// wrapped.
#[test]
fn a_long_delay_does_not_become_a_short_one() {
    let poller = poller();
    for limit in [
        (1 << 31) * MILLISECOND,
        (1 << 32) * MILLISECOND + 1,
        1_000_000_000 * SECOND,
        Nanos::MAX - 1,
        Nanos::MAX,
    ] {
        let (sleeper, id) = sleep_in(&poller, Delay::AtMost(limit));
        thread::sleep(Duration::from_millis(2));
        asleep(id);
        assert!(!sleeper.is_finished(), "{limit} ns");
        poller.wake();
        sleeper.join().unwrap();
    }
}

#[test]
fn an_event_ends_the_longest_delay() {
    let (ours, _theirs) = unix_pair();
    let watch = Watch::of(POLLER, &ours);
    watch.poller.arm(ours.as_raw_fd(), token(1), Mode::Write);
    for delay in [Delay::AtMost(Nanos::MAX), Delay::Forever] {
        watch.poller.wake();
        watch.poll(delay);
    }
    watch.wait_armed(1, Mode::Write);
}

/// oven-sh/bun #34780.
#[test]
fn signals_do_not_keep_a_timed_poll_from_ending() {
    let poller = poller();
    let (sender, receiver) = mpsc::channel();
    let sleeper = thread::spawn(move || {
        sender.send(thread_id()).unwrap();
        let end = now() + 30 * MILLISECOND;
        while now() < end {
            assert!(poll(&poller, Delay::AtMost(end - now())).is_empty());
        }
    });
    let id = receiver.recv().unwrap();
    let start = now();
    while !sleeper.is_finished() {
        interrupt(id);
        thread::sleep(Duration::from_micros(300));
        assert!(
            now() - start < LIMIT.as_nanos() as Nanos / 2,
            "it does not end"
        );
    }
    sleeper.join().unwrap();
}

#[test]
fn a_signal_does_not_end_an_endless_poll() {
    let poller = poller();
    let (sleeper, id) = sleep_in(&poller, Delay::Forever);
    let before = INTERRUPTS.load(Ordering::SeqCst);
    interrupt(id);
    gopark_tests::until_on_thread("the handler has run", || {
        INTERRUPTS.load(Ordering::SeqCst) > before
    });
    asleep(id);
    assert!(!sleeper.is_finished(), "the signal ended the poll");
    poller.wake();
    assert_eq!(sleeper.join().unwrap(), []);
}
