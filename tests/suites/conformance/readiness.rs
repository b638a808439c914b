//! Readiness is reported to a waiter, once, in either direction.

use super::{MILLISECOND, POLLER, tcp_pair, unix_pair};
use gopark_backends::linux::io;
use gopark_core::os::{Delay, EVENT_BATCH, Mode, Outcome, Ready};
use gopark_core::tagptr::{ALIGN, TaggedPtr};
use gopark_tests::watch::{Watch, eventfd, fill, lend, nonblocking, pipe, poll, token};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::thread;

#[test]
fn readiness_from_before_open_is_reported() {
    let (ours, mut theirs) = unix_pair();
    theirs.write_all(b"x").unwrap();
    let watch = Watch::of(POLLER, &ours);
    watch.wait(&ours, 1, Mode::Read);
    watch.wait(&ours, 1, Mode::Write);
}

#[test]
fn readiness_that_comes_before_its_waiter_is_not_lost() {
    let (ours, mut theirs) = unix_pair();
    let watch = Watch::of(POLLER, &ours);
    watch.poll(Delay::None);
    theirs.write_all(b"x").unwrap();
    watch.poll(Delay::None);
    watch.wait(&ours, 1, Mode::Read);
}

#[test]
fn every_message_is_reported() {
    for round_trips in [tcp_round_trips, unix_round_trips] {
        round_trips(2000);
    }
}

fn tcp_round_trips(n: usize) {
    let (ours, theirs) = tcp_pair();
    ours.set_nodelay(true).unwrap();
    theirs.set_nodelay(true).unwrap();
    round_trips(n, ours, theirs);
}

fn unix_round_trips(n: usize) {
    let (ours, theirs) = unix_pair();
    round_trips(n, ours, theirs);
}

fn round_trips<T: Read + Write + AsRawFd + Send + 'static>(n: usize, ours: T, mut theirs: T) {
    let peer = thread::spawn(move || {
        let mut byte = [0];
        for i in 0..n {
            theirs.write_all(&[i as u8]).unwrap();
            theirs.read_exact(&mut byte).unwrap();
        }
    });
    let watch = Watch::of(POLLER, &ours);
    for i in 0..n {
        let mut buffer = [0; 8];
        assert_eq!(watch.read(&ours, 1, &mut buffer), Ok(1));
        assert_eq!(buffer[0], i as u8);
        assert_eq!(io::write(lend(&ours), &buffer[..1]), Outcome::Done(1));
    }
    peer.join().unwrap();
}

#[test]
fn after_a_read_that_emptied_the_buffer_no_second_one_is_needed() {
    let (ours, theirs) = tcp_pair();
    read_in_short_reads(ours, theirs);
    let (ours, theirs) = unix_pair();
    read_in_short_reads(ours, theirs);
    // Linux 5.5 to 5.13 reported only the first data in a pipe, unless the pipe was emptied (linux
    // 3a34b13a).
    let (ours, theirs) = pipe();
    read_in_short_reads(ours, theirs);
}

fn read_in_short_reads<T: AsRawFd, U: Write + Send + 'static>(ours: T, mut theirs: U) {
    let watch = Watch::of(POLLER, &ours);
    let peer = thread::spawn(move || {
        for _ in 0..3000 {
            theirs.write_all(b"abc").unwrap();
            thread::yield_now();
        }
        theirs
    });
    assert_eq!(watch.read_spent(&ours, 1, 9000).unwrap().len(), 9000);
    peer.join().unwrap();
}

/// The poller must tell its wake-up from a descriptor whatever the token is: golang/go #72900,
/// #67056.
#[test]
fn tokens_of_every_value_come_back() {
    let fd = eventfd();
    for addr in [ALIGN, 0x7fff_ff00, usize::MAX >> 17 & !(ALIGN - 1)] {
        for tag in [0, 1, u32::MAX >> 1, u32::MAX] {
            let token = TaggedPtr::pack(addr, tag);
            let watch = Watch::new(POLLER);
            watch.poller.open(fd.as_raw_fd(), token).unwrap();
            watch.poller.wake();
            let mut reported = Vec::new();
            while reported.is_empty() {
                watch.poller.arm(fd.as_raw_fd(), token, Mode::Write);
                reported.extend(
                    poll(&watch.poller, Delay::Forever)
                        .iter()
                        .map(|event| event.token),
                );
            }
            assert_eq!(reported, [token]);
        }
    }
}

#[test]
fn a_direction_that_fires_leaves_the_other_armed() {
    let (ours, theirs) = unix_pair();
    let mut theirs = nonblocking(theirs);
    let watch = Watch::of(POLLER, &ours);
    for round in 0..100 {
        fill(&ours);
        for mode in [Mode::Read, Mode::Write] {
            watch.forget(1, mode);
            watch.poller.arm(ours.as_raw_fd(), token(1), mode);
        }
        // Takes events that are left from before.
        watch.poll(Delay::None);
        watch.forget(1, Mode::Write);
        let drain = |theirs: &UnixStream| {
            while let Outcome::Done(1..) = io::read(lend(theirs), &mut [0; 65536]) {}
        };
        if round % 2 == 0 {
            drain(&theirs);
            watch.wait_armed(1, Mode::Write);
            theirs.write_all(b"x").unwrap();
            watch.wait_armed(1, Mode::Read);
        } else {
            theirs.write_all(b"x").unwrap();
            watch.wait_armed(1, Mode::Read);
            drain(&theirs);
            watch.wait_armed(1, Mode::Write);
        }
        assert_eq!(io::read(lend(&ours), &mut [0; 8]), Outcome::Done(1));
    }
}

#[test]
fn a_timed_out_wait_does_not_disturb_the_next() {
    let (ours, mut theirs) = unix_pair();
    let watch = Watch::of(POLLER, &ours);
    for _ in 0..10 {
        watch.poller.arm(ours.as_raw_fd(), token(1), Mode::Read);
        watch.poll(Delay::AtMost(MILLISECOND / 10));
        theirs.write_all(b"x").unwrap();
        assert_eq!(watch.read(&ours, 1, &mut [0; 8]), Ok(1));
    }
}

#[test]
fn unread_data_is_not_reported_again_and_again() {
    let (ours, mut theirs) = unix_pair();
    let watch = Watch::of(POLLER, &ours);
    theirs.write_all(b"x").unwrap();
    watch.wait(&ours, 1, Mode::Read);
    watch.wait(&ours, 1, Mode::Write);
    watch.assert_quiet(1);
}

#[test]
fn an_idle_descriptor_is_not_reported() {
    let (ours, _theirs) = unix_pair();
    let watch = Watch::of(POLLER, &ours);
    watch.poller.arm(ours.as_raw_fd(), token(1), Mode::Read);
    watch.assert_quiet(1);
    assert!(
        !watch
            .seen(1)
            .intersects(Ready::READ | Ready::ERROR | Ready::HANGUP),
        "{:?}",
        watch.seen(1)
    );
}

#[test]
fn events_beyond_a_batch_stay_for_the_next_poll() {
    const WATCHED: usize = 3 * EVENT_BATCH / 2;
    let fds: Vec<_> = (0..WATCHED).map(|_| eventfd()).collect();
    let watch = Watch::new(POLLER);
    for (tag, fd) in (0..).zip(&fds) {
        watch.open(fd, tag);
        watch.poller.arm(fd.as_raw_fd(), token(tag), Mode::Write);
    }
    for tag in 0..WATCHED as u32 {
        watch.wait_armed(tag, Mode::Write);
    }
    watch.assert_quiet(WATCHED);
}
