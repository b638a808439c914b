//! Connections that wait without a stack.

use super::check_on_thread;
use crate::check;
use gopark::chan::{self, Receiver};
use gopark::net::{Descriptor, TcpStream, UdpSocket, UnixStream, on_readable};
use gopark::sync::Cancel;
use gopark::{PollError, go, go_local, metrics, yield_now};
use gopark_tests::sockets::{assert_closing, assert_timeout, pair, poll_error};
use gopark_tests::{join, until};
use socket2::SockRef;
use std::io::{self, ErrorKind, Read, Write};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(3600);

/// What a handler's first read has returned, and the stream.
type First = (io::Result<Vec<u8>>, TcpStream);

/// Hands `stream` over. The handler reads once and sends what came of it.
#[track_caller]
fn first_read(stream: TcpStream) -> Receiver<First> {
    let (tx, rx) = chan::bounded(1);
    on_readable(stream, move |mut stream| {
        let mut buffer = [0; 64];
        let read = stream.read(&mut buffer).map(|n| buffer[..n].to_vec());
        tx.send((read, stream)).unwrap();
    })
    .unwrap();
    rx
}

#[track_caller]
fn assert_read(reads: &Receiver<First>, expected: &[u8]) -> TcpStream {
    let (read, stream) = reads.recv().unwrap();
    assert_eq!(read.unwrap(), expected);
    stream
}

#[test]
fn a_handler_starts_when_data_comes() {
    check(|| {
        let (mut near, far) = pair();
        let reads = first_read(far);
        assert!(reads.try_recv().is_err(), "it has started without data");
        near.write_all(b"hello").unwrap();
        assert_read(&reads, b"hello");
    });
}

#[test]
fn a_handler_starts_at_once_if_data_is_there() {
    check(|| {
        let (mut near, mut far) = pair();
        // It runs when the read waits, whose wait then uses up what the poller reports of the bytes.
        let writer = go_local(move || near.write_all(b"hello").map(|()| near));
        far.read_exact(&mut [0; 1]).unwrap();
        let _near = join(writer).unwrap();
        assert_read(&first_read(far), b"ello");
    });
}

#[test]
fn bytes_that_were_read_do_not_start_a_handler() {
    check(|| {
        let (mut near, mut far) = pair();
        near.write_all(b"x").unwrap();
        // The buffer is full, so it is not known that no more is there.
        far.read_exact(&mut [0; 1]).unwrap();
        let (tx, rx) = chan::bounded(1);
        on_readable(far, move |far| tx.send(far.try_read(&mut [0; 64])).unwrap()).unwrap();
        (0..10).for_each(|_| yield_now());
        near.write_all(b"hello").unwrap();
        assert_eq!(rx.recv().unwrap().unwrap(), 5);
    });
}

#[test]
fn a_handler_starts_after_a_read_that_has_emptied_the_buffer() {
    check(|| {
        let (mut near, mut far) = pair();
        for message in [&b"one"[..], b"two", b"three"] {
            near.write_all(b"short").unwrap();
            assert_eq!(far.read(&mut [0; 64]).unwrap(), 5);
            let reads = first_read(far);
            near.write_all(message).unwrap();
            far = assert_read(&reads, message);
        }
    });
}

#[test]
fn data_that_comes_while_a_connection_is_handed_over_is_not_lost() {
    check(|| {
        let (near, mut far) = pair();
        let near = Arc::new(near);
        for round in 0..gopark_tests::rounds(500) {
            let writer = go({
                let near = near.clone();
                move || (&*near).write_all(b"x").unwrap()
            });
            if round % 2 == 0 {
                yield_now();
            }
            far = assert_read(&first_read(far), b"x");
            join(writer);
        }
    });
}

#[test]
fn a_handler_finds_the_end_of_the_stream() {
    check(|| {
        let (near, far) = pair();
        let reads = first_read(far);
        drop(near);
        let far = assert_read(&reads, b"");
        // The end stays: no further edge comes.
        assert_read(&first_read(far), b"");
    });
}

#[test]
fn a_handler_finds_a_reset() {
    check(|| {
        let (near, far) = pair();
        let reads = first_read(far);
        SockRef::from(&near)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(near);
        let error = reads.recv().unwrap().0.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_deadline_starts_the_handler_whose_read_times_out() {
    check(|| {
        let (_near, far) = pair();
        far.set_read_deadline(Some(Instant::now() + Duration::from_millis(2)))
            .unwrap();
        let (read, far) = first_read(far).recv().unwrap();
        assert_timeout(read);
        // It has passed already.
        assert_timeout(first_read(far).recv().unwrap().0);
    });
}

#[test]
fn a_deadline_set_through_another_handle_counts() {
    check(|| {
        let (_near, far) = pair();
        let other = far.try_clone().unwrap();
        other
            .set_read_deadline(Some(Instant::now() + LONG))
            .unwrap();
        let reads = first_read(far);
        other.set_read_deadline(Some(Instant::now())).unwrap();
        assert_timeout(reads.recv().unwrap().0);
    });
}

#[test]
fn a_deadline_that_is_moved_does_not_start_the_handler() {
    check(|| {
        let (mut near, far) = pair();
        let other = far.try_clone().unwrap();
        let soon = Duration::from_millis(2);
        other
            .set_read_deadline(Some(Instant::now() + soon))
            .unwrap();
        let reads = first_read(far);
        other.set_read_deadline(None).unwrap();
        gopark::sleep(2 * soon);
        // If the deadline came first, the handler waits in its read now.
        near.write_all(b"late").unwrap();
        let (read, _) = reads.recv().unwrap();
        assert!(read.is_err() || read.unwrap() == b"late");
    });
}

#[test]
fn a_read_timeout_counts_from_the_hand_over_and_anew_from_the_second_read() {
    check(|| {
        let (mut near, far) = pair();
        let limit = Some(Duration::from_millis(2));
        far.set_read_timeout(limit).unwrap();
        let other = far.try_clone().unwrap();
        let (read, mut far) = first_read(far).recv().unwrap();
        assert_timeout(read);
        assert_eq!(other.read_timeout().unwrap(), limit);
        assert_timeout(far.read(&mut [0; 1]));
        other.set_read_timeout(Some(LONG)).unwrap();
        let reads = first_read(far);
        near.write_all(b"in time").unwrap();
        assert_read(&reads, b"in time");
    });
}

#[test]
fn a_read_timeout_that_has_passed_fails_the_first_read_even_if_data_has_come_since() {
    check(|| {
        let (mut near, far) = pair();
        far.set_read_timeout(Some(Duration::from_millis(2)))
            .unwrap();
        let (started, starts) = chan::bounded(1);
        let (written, writes) = chan::bounded(1);
        let (tx, rx) = chan::bounded(1);
        on_readable(far, move |mut far| {
            started.send(()).unwrap();
            writes.recv().unwrap();
            let first = far.read(&mut [0; 64]);
            tx.send((first, far.read(&mut [0; 64]))).unwrap();
        })
        .unwrap();
        starts.recv().unwrap();
        near.write_all(b"late").unwrap();
        written.send(()).unwrap();
        let (first, second) = rx.recv().unwrap();
        assert_timeout(first);
        assert_eq!(second.unwrap(), 4);
    });
}

#[test]
fn a_close_through_another_handle_starts_the_handler() {
    check(|| {
        let (_near, far) = pair();
        let other = far.try_clone().unwrap();
        let reads = first_read(far);
        other.close().unwrap();
        let (read, far) = reads.recv().unwrap();
        assert_closing(read);
        assert_closing(on_readable(far, drop));
    });
}

#[test]
fn a_close_in_the_race_with_data_starts_the_handler_once() {
    check(|| {
        for _ in 0..gopark_tests::rounds(200) {
            let (mut near, far) = UnixStream::pair().unwrap();
            let other = far.try_clone().unwrap();
            let (tx, rx) = chan::bounded(2);
            let closer = go(move || other.close().unwrap());
            let writer = go(move || near.write_all(b"x"));
            let made = on_readable(far, move |far| tx.send(far).unwrap());
            match made {
                Ok(()) => drop(rx.recv().unwrap()),
                refused => assert_closing(refused),
            }
            assert!(rx.recv().is_err(), "it has started twice");
            join(closer);
            // The reader may have closed its end first.
            _ = join(writer);
        }
    });
}

#[test]
fn a_read_of_another_handle_waits_for_its_turn() {
    check(|| {
        let (mut near, far) = pair();
        let other = far.try_clone().unwrap();
        let reads = first_read(far);
        let error = other.try_read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let reader = go(move || {
            let mut buffer = [0; 64];
            (&other).read(&mut buffer).map(|n| buffer[..n].to_vec())
        });
        yield_now();
        near.write_all(b"one").unwrap();
        let (first, far) = reads.recv().unwrap();
        near.write_all(b"two").unwrap();
        let mut got = [first.unwrap(), join(reader).unwrap()].concat();
        drop(near);
        (&far).read_to_end(&mut got).unwrap();
        got.sort_unstable();
        assert_eq!(got, b"enootw");
    });
}

#[test]
fn a_connection_is_idle_once() {
    check(|| {
        let (mut near, far) = pair();
        let other = far.try_clone().unwrap();
        let reads = first_read(far);
        let error = on_readable(other, drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        near.write_all(b"hello").unwrap();
        assert_read(&reads, b"hello");
    });
}

#[test]
fn a_writer_is_not_held_up() {
    check(|| {
        let (mut near, far) = pair();
        let mut other = far.try_clone().unwrap();
        let reads = first_read(far);
        other.write_all(b"news").unwrap();
        near.read_exact(&mut [0; 4]).unwrap();
        near.write_all(b"thanks").unwrap();
        assert_read(&reads, b"thanks");
    });
}

#[test]
fn a_handler_that_panics_drops_its_connection() {
    check(|| {
        let (mut near, far) = pair();
        let before = metrics().unseen_panics;
        on_readable(far, |_far: TcpStream| {
            panic::resume_unwind(Box::new("on purpose"))
        })
        .unwrap_or_else(|error: io::Error| panic!("{error}"));
        near.write_all(b"x").unwrap();
        near.read_to_end(&mut Vec::new()).unwrap_err();
        until("the panic is counted", || metrics().unseen_panics > before);
    });
}

#[test]
fn a_handler_that_fails_is_one_whose_error_nothing_reads() {
    check(|| {
        let (near, far) = pair();
        let before = metrics().unseen_errors;
        on_readable(far, |_| Err::<(), _>(io::Error::other("on purpose"))).unwrap();
        drop(near);
        until("the error is counted", || metrics().unseen_errors > before);
    });
}

/// Hands a connection over again after each message, and echoes it. Counts the messages.
fn echo(stream: TcpStream, count: Arc<AtomicUsize>) -> io::Result<()> {
    on_readable(stream, move |mut stream| {
        let mut buffer = [0; 64];
        match stream.read(&mut buffer)? {
            0 => Ok(()),
            n => {
                count.fetch_add(1, SeqCst);
                stream.write_all(&buffer[..n])?;
                echo(stream, count)
            }
        }
    })
}

#[test]
fn a_connection_is_handed_over_a_thousand_times() {
    check(|| {
        let (mut near, far) = pair();
        let count = Arc::new(AtomicUsize::new(0));
        echo(far, count.clone()).unwrap();
        let mut answer = [0; 8];
        for round in 0..gopark_tests::rounds(1000) {
            near.write_all(&round.to_ne_bytes()).unwrap();
            near.read_exact(&mut answer).unwrap();
            assert_eq!(answer, round.to_ne_bytes());
        }
        assert_eq!(count.load(SeqCst) as u64, gopark_tests::rounds(1000));
        near.shutdown(gopark::net::Shutdown::Write).unwrap();
        assert_eq!(near.read(&mut answer).unwrap(), 0, "the last handler ends");
    });
}

#[test]
fn a_connection_that_always_has_data_lets_others_run() {
    check(|| {
        let (mut near, far) = pair();
        let stop = Arc::new(AtomicUsize::new(0));
        fn spin(stream: TcpStream, stop: Arc<AtomicUsize>) {
            on_readable(stream, move |stream| {
                if stop.load(SeqCst) == 0 {
                    spin(stream, stop);
                }
            })
            .unwrap();
        }
        near.write_all(b"never read").unwrap();
        spin(far, stop.clone());
        for _ in 0..100 {
            join(go(|| ()));
        }
        stop.store(1, SeqCst);
        near.read_to_end(&mut Vec::new()).unwrap_err();
    });
}

#[test]
fn a_thousand_connections_each_get_their_message() {
    check(|| {
        const CONNECTIONS: u32 = 1000;
        let (tx, rx) = chan::bounded(CONNECTIONS as usize);
        let mut clients: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let (client, server) = UnixStream::pair().unwrap();
                let tx = tx.clone();
                on_readable(server, move |mut server| {
                    let mut buffer = [0; 4];
                    server.read_exact(&mut buffer).unwrap();
                    tx.send(u32::from_ne_bytes(buffer)).unwrap();
                })
                .unwrap();
                client
            })
            .collect();
        for (number, client) in clients.iter_mut().enumerate().rev() {
            client.write_all(&(number as u32).to_ne_bytes()).unwrap();
        }
        let mut got: Vec<_> = (0..CONNECTIONS).map(|_| rx.recv().unwrap()).collect();
        got.sort_unstable();
        assert!(got.into_iter().eq(0..CONNECTIONS));
    });
}

#[test]
fn an_ordinary_thread_hands_a_connection_over() {
    check_on_thread(|| {
        let (mut near, far) = pair();
        let reads = first_read(far);
        near.write_all(b"hello").unwrap();
        let far = assert_read(&reads, b"hello");
        near.write_all(b"again").unwrap();
        assert_read(&first_read(far), b"again");
    });
}

#[test]
fn other_sockets_are_handed_over() {
    check(|| {
        let (tx, rx) = chan::bounded(1);
        let near = UdpSocket::bind("127.0.0.1:0").unwrap();
        let far = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = far.local_addr().unwrap();
        let sent = tx.clone();
        on_readable(far, move |far| {
            sent.send(far.recv(&mut [0; 64]).unwrap()).unwrap();
        })
        .unwrap();
        near.send_to(b"datagram", addr).unwrap();
        assert_eq!(rx.recv(), Ok(8));

        let (mut near, far) = UnixStream::pair().unwrap();
        let sent = tx.clone();
        on_readable(Arc::new(far), move |far| {
            sent.send((&*far).read(&mut [0; 64]).unwrap()).unwrap();
        })
        .unwrap();
        near.write_all(b"shared").unwrap();
        assert_eq!(rx.recv(), Ok(6));

        let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        on_readable(Descriptor::new(far).unwrap(), move |mut far| {
            tx.send(far.read(&mut [0; 64]).unwrap()).unwrap();
        })
        .unwrap();
        near.write_all(b"lent").unwrap();
        assert_eq!(rx.recv(), Ok(4));
    });
}

#[test]
fn a_cancelled_caller_is_refused_and_a_handler_is_no_member() {
    check(|| {
        let (mut near, far) = pair();
        let cancel = Cancel::new();
        let reads = cancel.run(|| first_read(far));
        cancel.cancel();
        near.write_all(b"hello").unwrap();
        let far = assert_read(&reads, b"hello");
        let error = cancel.run(|| on_readable(far, drop)).unwrap_err();
        assert_eq!(poll_error(&error), Some(PollError::Cancelled));
    });
}
