//! Thousands of descriptors, duplicates, and numbers that are used again.

use super::{POLLER, poller, unix_pair};
use gopark_backends::Poller;
use gopark_backends::linux::io;
use gopark_core::os::{Delay, Mode, Outcome, Ready};
use gopark_tests::watch::{Watch, eventfd, lend, poll, token};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

#[test]
fn thousands_of_ready_descriptors_are_all_reported() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is writable, then readable.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    // The other tests need a few hundred, and this one runs over several pollers at the same time.
    let count = (limit.rlim_cur as usize).saturating_sub(1000) / Poller::ALL.len();
    let count = count.min(10_000);
    let fds: Vec<_> = (0..count).map(|_| eventfd()).collect();
    let watch = Watch::new(POLLER);
    for (tag, fd) in (0..).zip(&fds) {
        watch.open(fd, tag);
        watch.poller.arm(fd.as_raw_fd(), token(tag), Mode::Read);
    }
    while watch.poll(Delay::None) > 0 {}
    for round in 0..3 {
        let chosen = |tag: u32| tag % 7 == round;
        for (tag, fd) in (0..).zip(&fds).filter(|&(tag, _)| chosen(tag)) {
            assert_eq!(
                io::write(lend(fd), &1u64.to_ne_bytes()),
                Outcome::Done(8),
                "tag {tag}"
            );
        }
        for (tag, fd) in (0..).zip(&fds).filter(|&(tag, _)| chosen(tag)) {
            watch.wait_armed(tag, Mode::Read);
            assert_eq!(io::read(lend(fd), &mut [0; 8]), Outcome::Done(8));
        }
        for tag in (0..count as u32).filter(|&tag| tag % 7 > round) {
            assert!(
                !watch.seen(tag).contains(Ready::READ),
                "tag {tag} is not ready"
            );
        }
    }
    // All at once, more than the queue of a ring holds: silk #80.
    for fd in &fds {
        assert_eq!(io::write(lend(fd), &1u64.to_ne_bytes()), Outcome::Done(8));
    }
    for (tag, fd) in (0..).zip(&fds) {
        watch.wait(fd, tag, Mode::Read);
    }
    for fd in &fds {
        watch.poller.close(fd.as_raw_fd());
    }
}

/// libuv #1099, #1468.
#[test]
fn a_closed_descriptor_reports_nothing_although_a_duplicate_is_open() {
    let (ours, mut theirs) = unix_pair();
    let watch = Watch::of(POLLER, &ours);
    let _duplicate = ours.try_clone().unwrap();
    watch.poller.arm(ours.as_raw_fd(), token(1), Mode::Read);
    watch.poll(Delay::None);
    watch.poller.close(ours.as_raw_fd());
    theirs.write_all(b"x").unwrap();
    watch.assert_quiet(0);
    watch.poller.close(ours.as_raw_fd());
}

#[test]
fn a_descriptor_can_be_opened_again_after_close() {
    let (ours, mut theirs) = unix_pair();
    let watch = Watch::new(POLLER);
    for tag in 1..10 {
        watch.open(&ours, tag);
        watch.poller.arm(ours.as_raw_fd(), token(tag), Mode::Write);
        if tag % 2 == 0 {
            theirs.write_all(b"x").unwrap();
            assert_eq!(watch.read(&ours, tag, &mut [0; 8]), Ok(1));
        }
        watch.poller.close(ours.as_raw_fd());
    }
}

#[test]
fn duplicates_are_watched_independently() {
    let (ours, mut theirs) = unix_pair();
    let duplicate = ours.try_clone().unwrap();
    let watch = Watch::new(POLLER);
    watch.open(&ours, 1);
    watch.open(&duplicate, 2);
    theirs.write_all(b"x").unwrap();
    watch.wait(&ours, 1, Mode::Read);
    watch.wait(&duplicate, 2, Mode::Read);
    watch.poller.close(ours.as_raw_fd());
    assert_eq!(watch.read(&duplicate, 2, &mut [0; 8]), Ok(1));
    drop(theirs);
    watch.wait(&duplicate, 2, Mode::Read);
}

#[test]
fn two_pollers_may_watch_one_descriptor() {
    let (ours, mut theirs) = unix_pair();
    let watches = [Watch::of(POLLER, &ours), Watch::of(POLLER, &ours)];
    theirs.write_all(b"x").unwrap();
    for watch in &watches {
        watch.wait(&ours, 1, Mode::Read);
    }
    watches[0].poller.close(ours.as_raw_fd());
    theirs.write_all(b"x").unwrap();
    watches[1].wait(&ours, 1, Mode::Read);
}

#[test]
fn a_number_can_be_opened_again_at_once() {
    let watch = Watch::new(POLLER);
    let number = eventfd();
    for tag in 1..2000 {
        let (ours, mut theirs) = unix_pair();
        // SAFETY: no memory is passed, and both descriptors are ours.
        assert!(unsafe { libc::dup2(ours.as_raw_fd(), number.as_raw_fd()) } >= 0);
        watch.open(&number, tag);
        watch.poller.arm(number.as_raw_fd(), token(tag), Mode::Read);
        if tag % 3 == 0 {
            // A hang-up that is not fetched before the number names another file.
            drop(theirs);
        } else {
            theirs.write_all(b"x").unwrap();
            if tag % 3 == 1 {
                watch.wait_armed(tag, Mode::Read);
                assert!(
                    !watch.seen(tag).intersects(Ready::HANGUP | Ready::ERROR),
                    "of the last use: {:?}",
                    watch.seen(tag)
                );
            }
        }
        watch.poller.close(number.as_raw_fd());
    }
}

#[test]
fn a_number_is_reused_while_others_poll() {
    const ROUNDS: u32 = 3000;
    let poller = poller();
    let reported: Arc<Vec<AtomicU32>> = Arc::new((0..=ROUNDS).map(|_| AtomicU32::new(0)).collect());
    let stop = Arc::new(AtomicBool::new(false));
    // One poller sleeps, the other polls without delay.
    let pollers = [Delay::Forever, Delay::None].map(|delay| {
        let (poller, reported, stop) = (poller.clone(), reported.clone(), stop.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                for event in poll(&poller, delay) {
                    reported[event.token.tag() as usize]
                        .fetch_or(u32::from(event.ready.bits()), Ordering::SeqCst);
                }
                if delay == Delay::None {
                    thread::yield_now();
                }
            }
        })
    });
    let number = eventfd();
    for tag in 1..=ROUNDS {
        let (ours, mut theirs) = unix_pair();
        // SAFETY: no memory is passed, and both descriptors are ours.
        assert!(unsafe { libc::dup2(ours.as_raw_fd(), number.as_raw_fd()) } >= 0);
        poller.open(number.as_raw_fd(), token(tag)).unwrap();
        poller.arm(number.as_raw_fd(), token(tag), Mode::Read);
        let ready = || Ready::from_bits_retain(reported[tag as usize].load(Ordering::SeqCst) as u8);
        if tag % 2 == 0 {
            // The hang-up may come late, but not under the next tag.
            drop(theirs);
        } else {
            theirs.write_all(b"x").unwrap();
            gopark_tests::until_on_thread("the data is reported", || ready().contains(Ready::READ));
            assert!(
                !ready().intersects(Ready::HANGUP | Ready::ERROR),
                "of the last use: {:?}",
                ready()
            );
        }
        poller.close(number.as_raw_fd());
    }
    stop.store(true, Ordering::SeqCst);
    poller.wake();
    pollers
        .into_iter()
        .for_each(|poller| poller.join().unwrap());
}
