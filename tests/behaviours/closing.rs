//! Close: which operations it ends and refuses, and what the next owner of the descriptor sees.

use super::check_on_thread;
use crate::check;
use gopark::net::{Shutdown, TcpListener, TcpStream};
use gopark::{PollError, go, yield_now};
use gopark_tests::sockets::{assert_closing, listener, narrow_pair, pair, pair_at, poll_error};
use gopark_tests::{Dice, join};
use socket2::SockRef;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Gives spawned goroutines time to park. The result does not depend on it, but without it the
/// tested case would be rare.
fn settle(round: u64) {
    match round % 3 {
        0 => gopark::sleep(Duration::from_micros(300)),
        1 => yield_now(),
        _ => {}
    }
}

#[test]
fn close_wakes_a_blocked_reader_writer_and_peeker() {
    type Operation = fn(&mut TcpStream) -> io::Result<()>;
    let operations: [Operation; 3] = [
        |stream| stream.read(&mut [0; 16]).map(drop),
        |stream| stream.write_all(&vec![7; 1 << 20]),
        |stream| stream.peek(&mut [0; 16]).map(drop),
    ];
    check(move || {
        for round in 0..30 {
            for operation in operations {
                let (near, _far) = narrow_pair();
                let blocked = {
                    let mut near = near.try_clone().unwrap();
                    go(move || operation(&mut near))
                };
                settle(round);
                near.close().unwrap();
                assert_closing(join(blocked));
            }
        }
    });
}

#[test]
fn close_wakes_all_acceptors() {
    check(|| {
        for round in 0..30 {
            let listener = listener();
            let acceptors: Vec<_> = (0..5)
                .map(|_| {
                    let listener = listener.try_clone().unwrap();
                    go(move || listener.accept())
                })
                .collect();
            settle(round);
            listener.close().unwrap();
            acceptors
                .into_iter()
                .for_each(|acceptor| assert_closing(join(acceptor)));
            assert_closing(listener.close());
        }
    });
}

#[test]
fn close_wakes_ordinary_threads() {
    check_on_thread(|| {
        for _ in 0..20 {
            let (near, _far) = pair();
            let listener = listener();
            let reader = {
                let mut near = near.try_clone().unwrap();
                thread::spawn(move || near.read(&mut [0; 16]))
            };
            let acceptor = {
                let listener = listener.try_clone().unwrap();
                thread::spawn(move || listener.accept())
            };
            thread::sleep(Duration::from_micros(200));
            near.close().unwrap();
            listener.close().unwrap();
            assert_closing(reader.join().unwrap());
            assert_closing(acceptor.join().unwrap());
        }
    });
}

#[test]
fn a_closed_connection_refuses_everything() {
    check(|| {
        let (near, _far) = pair();
        near.close().unwrap();
        let mut near = near;
        assert_closing(near.close());
        assert_closing(near.read(&mut [0; 16]));
        assert_closing(near.write(b"x"));
        assert_closing(near.write_all(b"x"));
        assert_closing(near.peek(&mut [0; 16]));
        assert_closing(near.shutdown(Shutdown::Both));
        assert_closing(near.set_deadline(None));
        assert_closing(near.set_read_deadline(Some(Instant::now())));
        assert_closing(near.set_write_timeout(None));
        assert_closing(near.set_nodelay(true));
        assert_closing(near.local_addr());
        assert_closing(near.peer_addr());

        let listener = listener();
        listener.close().unwrap();
        assert_closing(listener.accept());
        assert_closing(listener.set_deadline(None));
        assert_closing(listener.local_addr());
    });
}

#[test]
fn exactly_one_of_many_concurrent_closes_succeeds() {
    check(|| {
        for _ in 0..50 {
            let (near, mut far) = pair();
            let closers: Vec<_> = (0..8)
                .map(|_| {
                    let near = near.try_clone().unwrap();
                    go(move || near.close())
                })
                .collect();
            let (closed, refused): (Vec<_>, Vec<_>) = closers
                .into_iter()
                .map(join)
                .partition(|result| result.is_ok());
            assert_eq!((closed.len(), refused.len()), (1, 7));
            refused.into_iter().for_each(assert_closing);
            assert_eq!(far.read(&mut [0; 1]).unwrap(), 0);
        }
    });
}

#[test]
fn the_port_is_free_when_close_returns() {
    check(|| {
        let mut listener = listener();
        let addr = listener.local_addr().unwrap();
        for round in 0..50 {
            let acceptor = {
                let listener = listener.try_clone().unwrap();
                go(move || listener.accept())
            };
            settle(round);
            listener.close().unwrap();
            let next = TcpListener::bind(addr).expect("the port can be bound again");
            assert_closing(join(acceptor));
            listener = next;
        }
    });
}

#[test]
fn the_peer_sees_the_end_when_the_last_handle_is_dropped() {
    check(|| {
        let (near, mut far) = pair();
        let clone = near.try_clone().unwrap();
        drop(near);
        (&clone).write_all(b"still open").unwrap();
        drop(clone);
        assert_eq!(far.read(&mut [0; 100]).unwrap(), 10);
        assert_eq!(far.read(&mut [0; 100]).unwrap(), 0);
    });
}

#[test]
fn what_was_written_before_a_close_arrives() {
    check(|| {
        for _ in 0..50 {
            let (mut near, mut far) = pair();
            near.write_all(&[7; 1000]).unwrap();
            near.close().unwrap();
            let mut all = Vec::new();
            far.read_to_end(&mut all).unwrap();
            assert_eq!(all, [7; 1000]);
        }
    });
}

#[test]
fn a_borrowed_descriptor_keeps_its_number_after_close_but_reaches_nothing() {
    check(|| {
        let (near, mut far) = pair();
        let borrowed = near.as_fd();
        near.close().unwrap();
        assert_eq!(
            far.read(&mut [0; 1]).unwrap(),
            0,
            "the connection is closed"
        );
        for _ in 0..20 {
            let (a, b) = pair();
            assert!(a.as_raw_fd() != borrowed.as_raw_fd() && b.as_raw_fd() != borrowed.as_raw_fd());
        }
        let socket = SockRef::from(&borrowed);
        assert_eq!(
            socket.peer_addr().unwrap_err().kind(),
            io::ErrorKind::NotConnected
        );
        assert!(
            borrowed.try_clone_to_owned().is_ok(),
            "the number is that of an open file"
        );
    });
}

/// Eight bytes, repeated: a byte that is lost, doubled or from another connection breaks the
/// pattern.
struct Tag {
    bytes: Vec<u8>,
    position: usize,
}

/// Bytes of a read. A write has a few more.
const CHUNK: usize = 512;

impl Tag {
    fn new(lane: u64, round: u64, direction: u64) -> Self {
        let bytes = (lane << 32 | round << 8 | direction).to_be_bytes();
        Tag {
            bytes: bytes.repeat(CHUNK / 8 + 1),
            position: 0,
        }
    }

    fn next(&self, len: usize) -> &[u8] {
        &self.bytes[self.position % 8..][..len]
    }

    fn advance(&mut self, bytes: &[u8]) {
        assert_eq!(
            bytes,
            self.next(bytes.len()),
            "at {} of {:?}",
            self.position,
            &self.bytes[..8]
        );
        self.position += bytes.len();
    }
}

/// Reads tagged bytes to the end of the stream, or to an error, which it returns.
fn read_tagged(mut stream: &TcpStream, mut tag: Tag) -> io::Result<()> {
    let mut buffer = [0; CHUNK];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => tag.advance(&buffer[..n]),
            Err(error) if poll_error(&error) == Some(PollError::Timeout) => yield_now(),
            Err(error) => return Err(error),
        }
    }
}

/// Writes tagged bytes until an error.
fn write_tagged(mut stream: &TcpStream, mut tag: Tag) -> io::Error {
    loop {
        match stream.write(tag.next(300)) {
            Ok(n) => tag.position += n,
            Err(error) if poll_error(&error) == Some(PollError::Timeout) => yield_now(),
            Err(error) => return error,
        }
    }
}

/// Changes deadlines until that fails.
fn nag(stream: &TcpStream, dice: &Dice) -> io::Error {
    loop {
        let deadline = match dice.below(3) {
            0 => None,
            1 => Some(Instant::now()),
            _ => Some(Instant::now() + Duration::from_micros(dice.below(200))),
        };
        let set = match dice.below(3) {
            0 => stream.set_deadline(deadline),
            1 => stream.set_read_deadline(deadline),
            _ => stream.set_write_deadline(deadline),
        };
        match set {
            Ok(()) => yield_now(),
            Err(error) => return error,
        }
    }
}

fn close_under_load(listener: &TcpListener, lane: u64, round: u64, dice: &Dice) {
    let (near, far) = pair_at(listener);
    // Writers block after a few dozen writes. With a smaller receive buffer, the kernel would
    // ignore resets outside its window.
    for stream in [&near, &far] {
        SockRef::from(stream).set_send_buffer_size(1).unwrap();
        SockRef::from(stream)
            .set_recv_buffer_size(16 << 10)
            .unwrap();
    }
    // Usually a reset: otherwise the kernel delivers the rest of the data first, at the pace of its
    // timers.
    if dice.below(64) > 0 {
        near.set_linger(Some(Duration::ZERO)).unwrap();
    }
    let (near, far) = (Arc::new(near), Arc::new(far));
    let with = |stream: &Arc<TcpStream>, f: fn(&TcpStream, Tag) -> io::Result<()>, direction| {
        let stream = stream.clone();
        go(move || f(&stream, Tag::new(lane, round, direction)))
    };
    let near_side = [
        with(&near, read_tagged, 1),
        with(&near, |stream, tag| Err(write_tagged(stream, tag)), 2),
    ];
    let far_side = [
        with(&far, read_tagged, 2),
        with(&far, |stream, tag| Err(write_tagged(stream, tag)), 1),
    ];
    let nagger = {
        let (near, seed) = (near.clone(), dice.below(u64::MAX));
        go(move || nag(&near, &Dice::new(seed)))
    };
    match dice.below(4) {
        0 => {}
        1 => gopark::sleep(Duration::from_micros(dice.below(200))),
        _ => (0..dice.below(10)).for_each(|_| yield_now()),
    }
    near.close().unwrap();
    assert_closing(near.close());
    for goroutine in near_side {
        assert_closing(join(goroutine));
    }
    assert_closing::<()>(Err(join(nagger)));
    for (goroutine, may_end) in far_side.into_iter().zip([true, false]) {
        match join(goroutine).map_err(|error| error.kind()) {
            Ok(()) if may_end => {}
            Err(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {}
            other => panic!("the peer of a closed connection saw {other:?}"),
        }
    }
}

#[test]
fn ten_thousand_closes_race_with_all_operations_and_no_byte_reaches_another_connection() {
    const LANES: u64 = 8;
    let rounds = gopark_tests::rounds(crate::CLOSES) / LANES;
    check(move || {
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| {
                go(move || {
                    let dice = Dice::new(lane);
                    let listener = listener();
                    (0..rounds).for_each(|round| close_under_load(&listener, lane, round, &dice));
                })
            })
            .collect();
        lanes.into_iter().for_each(join);
    });
}
