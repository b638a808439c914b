//! Hang-ups, resets, errors and urgent marks: none of them hides data, and data hides none of them.

use super::{POLLER, tcp_pair, unix_pair};
use gopark_backends::linux::io;
use gopark_core::os::{Delay, Errno, Mode, Outcome, Ready};
use gopark_tests::watch::{Watch, fill, lend, pipe, token};
use socket2::SockRef;
use std::cell::RefCell;
use std::io::Write;
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

#[test]
fn data_and_an_end_at_once_are_both_found() {
    for (ours, mut theirs) in (0..200).map(|_| unix_pair()) {
        let watch = Watch::of(POLLER, &ours);
        watch.poller.arm(ours.as_raw_fd(), token(1), Mode::Read);
        watch.poll(Delay::None);
        theirs.write_all(b"abc").unwrap();
        drop(theirs);
        assert_eq!(watch.read_spent(&ours, 1, usize::MAX).unwrap(), b"abc");
    }
    for (ours, mut theirs) in (0..200).map(|_| tcp_pair()) {
        let watch = Watch::of(POLLER, &ours);
        theirs.write_all(b"abc").unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        assert_eq!(watch.read_spent(&ours, 1, usize::MAX).unwrap(), b"abc");
    }
}

#[test]
fn an_end_that_comes_after_the_data_is_found() {
    for (ours, mut theirs) in (0..100).map(|_| tcp_pair()) {
        let watch = Watch::of(POLLER, &ours);
        let peer = thread::spawn(move || {
            theirs.write_all(b"abc").unwrap();
            thread::yield_now();
        });
        assert_eq!(watch.read_spent(&ours, 1, usize::MAX).unwrap(), b"abc");
        peer.join().unwrap();
    }
}

#[test]
fn a_peer_that_stops_writing_is_a_hangup_for_readers() {
    let check = |ours: &dyn AsRawFd, stop: &dyn Fn()| {
        let ours = ours.as_raw_fd();
        let watch = Watch::of(POLLER, &ours);
        watch.poller.arm(ours, token(1), Mode::Read);
        watch.poll(Delay::None);
        stop();
        watch.wait_armed(1, Mode::Read);
        assert!(watch.seen(1).contains(Ready::HANGUP), "{:?}", watch.seen(1));
        assert_eq!(watch.read(&ours, 1, &mut [0; 8]), Ok(0));
        // The other half still works.
        assert_eq!(io::write(lend(&ours), b"x"), Outcome::Done(1));
    };
    let (ours, theirs) = unix_pair();
    check(&ours, &|| theirs.shutdown(Shutdown::Write).unwrap());
    let (ours, theirs) = tcp_pair();
    check(&ours, &|| theirs.shutdown(Shutdown::Write).unwrap());
}

#[test]
fn an_end_that_stops_writing_can_still_read() {
    let (ours, mut theirs) = tcp_pair();
    let watch = Watch::of(POLLER, &ours);
    ours.shutdown(Shutdown::Write).unwrap();
    for _ in 0..10 {
        theirs.write_all(b"x").unwrap();
        assert_eq!(watch.read(&ours, 1, &mut [0; 8]), Ok(1));
    }
    theirs.shutdown(Shutdown::Write).unwrap();
    watch.wait(&ours, 1, Mode::Read);
    watch.wait(&ours, 1, Mode::Write);
    assert!(watch.seen(1).contains(Ready::HANGUP));
}

#[test]
fn a_reset_ends_both_directions() {
    for waits_for_reader in [true, false] {
        let (ours, theirs) = tcp_pair();
        fill(&ours);
        let watch = Watch::of(POLLER, &ours);
        for mode in [Mode::Read, Mode::Write] {
            watch.poller.arm(ours.as_raw_fd(), token(1), mode);
        }
        watch.poll(Delay::None);
        SockRef::from(&theirs)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(theirs);
        if waits_for_reader {
            assert_eq!(
                watch.read(&ours, 1, &mut [0; 8]),
                Err(Errno::new(libc::ECONNRESET))
            );
            watch.wait(&ours, 1, Mode::Write);
        } else {
            let error = watch
                .operate(&ours, 1, Mode::Write, |fd| io::send(fd, b"x"))
                .unwrap_err();
            assert!(
                [libc::ECONNRESET, libc::EPIPE].contains(&error.raw()),
                "{error}"
            );
            watch.wait(&ours, 1, Mode::Read);
        }
        assert!(watch.seen(1).contains(Ready::HANGUP));
    }
}

#[test]
fn a_reset_after_data_is_found() {
    let check = |ours: &dyn AsRawFd, leave: &dyn Fn()| {
        let ours = ours.as_raw_fd();
        let watch = Watch::of(POLLER, &ours);
        // The peer does not read this.
        assert_eq!(io::write(lend(&ours), b"x"), Outcome::Done(1));
        watch.wait(&ours, 1, Mode::Read);
        leave();
        // Whether the data survives depends on the kernel.
        let read = watch.read_spent(&ours, 1, usize::MAX);
        assert!(matches!(read.as_deref(), Ok(b"abc") | Err(_)), "{read:?}");
        watch.wait(&ours, 1, Mode::Write);
        assert!(watch.seen(1).contains(Ready::HANGUP));
    };
    for _ in 0..20 {
        let (ours, mut theirs) = tcp_pair();
        theirs.write_all(b"abc").unwrap();
        let theirs = RefCell::new(Some(theirs));
        check(&ours, &|| drop(theirs.take()));
        let (ours, mut theirs) = unix_pair();
        theirs.write_all(b"abc").unwrap();
        let theirs = RefCell::new(Some(theirs));
        check(&ours, &|| drop(theirs.take()));
    }
}

#[test]
fn an_end_that_stops_reading_gets_an_event() {
    let check = |ours: &dyn AsRawFd, stop: &dyn Fn()| {
        let ours = ours.as_raw_fd();
        let watch = Watch::of(POLLER, &ours);
        watch.poller.arm(ours, token(1), Mode::Read);
        watch.poll(Delay::None);
        stop();
        watch.wait_armed(1, Mode::Read);
        assert_eq!(watch.read(&ours, 1, &mut [0; 8]), Ok(0));
        assert_eq!(
            io::write(lend(&ours), b"x"),
            Outcome::Done(1),
            "the other half works on"
        );
    };
    let (ours, _theirs) = unix_pair();
    check(&ours, &|| ours.shutdown(Shutdown::Read).unwrap());
    let (ours, _theirs) = tcp_pair();
    check(&ours, &|| ours.shutdown(Shutdown::Read).unwrap());
}

#[test]
fn both_halves_may_end_one_after_the_other() {
    let check = |ours: &dyn AsRawFd, stop: &dyn Fn()| {
        let ours = ours.as_raw_fd();
        let watch = Watch::of(POLLER, &ours);
        watch.poller.arm(ours, token(1), Mode::Read);
        watch.poll(Delay::None);
        stop();
        watch.wait_armed(1, Mode::Read);
        assert!(watch.seen(1).contains(Ready::HANGUP), "{:?}", watch.seen(1));
        assert_eq!(watch.read(&ours, 1, &mut [0; 8]), Ok(0));
        watch.wait(&ours, 1, Mode::Write);
        assert_eq!(
            io::send(lend(&ours), b"x"),
            Outcome::Failed(Errno::new(libc::EPIPE))
        );
    };
    let in_order = |ours_first: bool, ours: &dyn Fn(), theirs: &dyn Fn()| match ours_first {
        true => (ours(), theirs()),
        false => (theirs(), ours()),
    };
    for ours_first in [true, false] {
        let (ours, theirs) = unix_pair();
        let stop = |stream: &UnixStream| stream.shutdown(Shutdown::Write).unwrap();
        check(&ours, &|| {
            _ = in_order(ours_first, &|| stop(&ours), &|| stop(&theirs))
        });
        let (ours, theirs) = tcp_pair();
        let stop = |stream: &TcpStream| stream.shutdown(Shutdown::Write).unwrap();
        check(&ours, &|| {
            _ = in_order(ours_first, &|| stop(&ours), &|| stop(&theirs))
        });
    }
}

#[test]
fn a_full_pipe_without_reader_is_nothing_but_an_error() {
    let (reader, writer) = pipe();
    fill(&writer);
    let watch = Watch::of(POLLER, &writer);
    watch.poller.arm(writer.as_raw_fd(), token(1), Mode::Write);
    watch.assert_quiet(0);
    drop(reader);
    watch.wait_armed(1, Mode::Write);
    assert!(
        watch.seen(1).contains(Ready::ERROR | Ready::HANGUP),
        "{:?}",
        watch.seen(1)
    );
}

#[test]
fn a_broken_pipe_with_room_is_no_polling_error() {
    let (reader, writer) = pipe();
    drop(reader);
    let watch = Watch::of(POLLER, &writer);
    watch.wait(&writer, 1, Mode::Write);
    assert_eq!(watch.seen(1), Ready::READ | Ready::WRITE | Ready::HANGUP);
}

#[test]
fn an_urgent_mark_hides_no_data() {
    for _ in 0..50 {
        let (ours, mut theirs) = tcp_pair();
        let watch = Watch::of(POLLER, &ours);
        theirs.write_all(b"ab").unwrap();
        // SAFETY: one readable byte.
        let result =
            unsafe { libc::send(theirs.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) };
        assert_eq!(result, 1);
        theirs.write_all(b"cd").unwrap();
        // All edges have been reported by then. The first read stops at the mark, and no other
        // event follows.
        watch.wait(&ours, 1, Mode::Read);
        watch.poll(Delay::None);
        assert_eq!(watch.read_spent(&ours, 1, 4).unwrap(), b"abcd");
    }
}

#[test]
fn a_refused_datagram_is_reported_and_the_socket_goes_on() {
    let ours = UdpSocket::bind("127.0.0.1:0").unwrap();
    ours.set_nonblocking(true).unwrap();
    let theirs = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = theirs.local_addr().unwrap();
    ours.connect(address).unwrap();
    drop(theirs);
    let watch = Watch::of(POLLER, &ours);
    watch.poller.arm(ours.as_raw_fd(), token(1), Mode::Read);
    ours.send(b"x").unwrap();
    assert_eq!(
        watch.read(&ours, 1, &mut [0; 8]),
        Err(Errno::new(libc::ECONNREFUSED))
    );
    let theirs = UdpSocket::bind(address).unwrap();
    theirs.send_to(b"abc", ours.local_addr().unwrap()).unwrap();
    assert_eq!(watch.read(&ours, 1, &mut [0; 8]), Ok(3));
    assert!(
        !watch.seen(1).contains(Ready::ERROR),
        "it can be waited for: {:?}",
        watch.seen(1)
    );
}
