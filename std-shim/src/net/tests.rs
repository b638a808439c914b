//! Tests of the network types over the loopback interface.

#![allow(unsafe_code, reason = "TCP_INFO, which socket2 does not read")]

use super::dial::is_self_connected;
use super::{SocketAddr, TcpListener, TcpStream};
use crate::PollError;
use crate::error::poll_error;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs, net, thread};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(20);

/// Returns both ends of a connection, with a deadline that fails a test that hangs.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_deadline(Some(Instant::now() + LONG)).unwrap();
    }
    (client, server)
}

/// Runs `test` in a goroutine and on an ordinary thread.
fn everywhere(test: fn()) {
    crate::run(test);
    test();
}

#[track_caller]
fn assert_options_of_go(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
    assert_eq!(
        socket.tcp_keepalive_time().unwrap(),
        Duration::from_secs(15)
    );
    assert_eq!(
        socket.tcp_keepalive_interval().unwrap(),
        Duration::from_secs(15)
    );
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 9);
    assert!(socket.nonblocking().unwrap());
}

#[test]
fn dialled_and_accepted_connections_have_the_options_of_go() {
    let (client, server) = pair();
    assert_options_of_go(&client);
    assert_options_of_go(&server);
}

#[test]
fn queued_connections_of_an_adopted_listener_get_the_options_of_go() {
    let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let _queued = net::TcpStream::connect(addr).unwrap();
    let listener = TcpListener::from(listener);
    let _later = net::TcpStream::connect(addr).unwrap();
    assert_options_of_go(&listener.accept().unwrap().0);
    assert_options_of_go(&listener.try_clone().unwrap().accept().unwrap().0);
}

#[test]
fn an_adopted_connection_gets_the_options_of_go() {
    let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    assert_options_of_go(&TcpStream::from(client));
    assert_options_of_go(&TcpStream::from(listener.accept().unwrap().0));
}

#[test]
fn options_that_the_program_has_set_are_kept() {
    let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let hour = Duration::from_secs(3600);
    let chosen = TcpKeepalive::new().with_time(hour);
    SockRef::from(&listener).set_tcp_keepalive(&chosen).unwrap();
    let client = net::TcpStream::connect(addr).unwrap();
    SockRef::from(&client).set_tcp_keepalive(&chosen).unwrap();
    let listener = TcpListener::from(listener);
    for stream in [TcpStream::from(client), listener.accept().unwrap().0] {
        assert!(stream.nodelay().unwrap());
        assert_eq!(SockRef::from(&stream).tcp_keepalive_time().unwrap(), hour);
    }
    SockRef::from(&listener).set_tcp_nodelay(false).unwrap();
    let _client = net::TcpStream::connect(addr).unwrap();
    assert!(!listener.accept().unwrap().0.nodelay().unwrap());
}

#[test]
fn incoming_ends_at_close_and_returns_a_passed_deadline_as_an_error() {
    everywhere(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let closer = listener.try_clone().unwrap();
        listener.set_deadline(Some(Instant::now())).unwrap();
        let mut incoming = listener.incoming();
        for _ in 0..3 {
            assert_eq!(
                incoming.next().unwrap().unwrap_err().kind(),
                ErrorKind::TimedOut
            );
        }
        listener.set_deadline(None).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = incoming.next().unwrap().unwrap();
        assert_eq!(accepted.peer_addr().unwrap(), client.local_addr().unwrap());
        let closing = crate::go(move || closer.close());
        assert!(incoming.next().is_none());
        assert!(incoming.next().is_none());
        closing.join().unwrap().unwrap();
    });
}

#[test]
fn a_listener_queues_as_much_as_the_system_allows() {
    let limit = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // SAFETY: all fields of tcp_info are integers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: `info` is writable for `len` bytes.
    let result = unsafe {
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::SOL_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &mut len,
        )
    };
    assert_eq!(result, 0);
    // For a listener, the kernel stores the backlog in `tcpi_sacked`.
    assert_eq!(info.tcpi_sacked.to_string(), limit.trim());
}

#[test]
fn a_wildcard_listener_accepts_both_families() {
    let listener = TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in ["127.0.0.1", "::1"] {
        let client = TcpStream::connect((host, port)).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.port(), client.local_addr().unwrap().port());
    }
}

#[test]
fn a_read_after_a_peek_sees_the_data_again() {
    everywhere(|| {
        let (mut client, mut server) = pair();
        let mut buffer = [0; 100];
        // This read waits, which registers the socket: only then can an edge be missed.
        server.set_read_timeout(Some(SHORT)).unwrap();
        server.read(&mut buffer).unwrap_err();
        server.set_read_timeout(Some(LONG)).unwrap();
        client.write_all(b"abc").unwrap();
        assert_eq!(server.read(&mut buffer).unwrap(), 3);
        client.write_all(b"def").unwrap();
        // The sleep lets the poller report the data before the peek.
        crate::sleep(SHORT);
        assert_eq!(server.peek(&mut buffer).unwrap(), 3);
        assert_eq!(server.read(&mut buffer).unwrap(), 3);
        assert_eq!(&buffer[..3], b"def");
    });
}

#[test]
fn vectors_of_any_length_arrive_in_order() {
    let (mut client, mut server) = pair();
    let bytes: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
    let mut slices: Vec<_> = bytes.chunks(2).map(IoSlice::new).collect();
    slices.insert(0, IoSlice::new(&[]));
    assert_eq!(client.write_vectored(&slices).unwrap(), 2 * 1024);
    client.write_all(&bytes[2 * 1024..]).unwrap();

    let mut received = vec![0; 5000];
    server.peek(&mut [0]).unwrap();
    let mut slices: Vec<_> = received.chunks_mut(2).map(IoSliceMut::new).collect();
    let count = server.read_vectored(&mut slices).unwrap();
    assert!(count > 0 && count <= 2 * 1024);
    server.read_exact(&mut received[count..]).unwrap();
    assert_eq!(received, bytes);
    assert_eq!(server.read_vectored(&mut []).unwrap(), 0);
    assert_eq!(client.write_vectored(&[IoSlice::new(&[])]).unwrap(), 0);
}

#[test]
fn concurrent_write_alls_do_not_interleave() {
    crate::run(|| {
        const LEN: usize = 4 << 20;
        let (client, mut server) = pair();
        let writers = [b'a', b'b'].map(|byte| {
            let mut client = client.try_clone().unwrap();
            crate::go(move || client.write_all(&vec![byte; LEN]).unwrap())
        });
        let mut received = vec![0; 2 * LEN];
        server.read_exact(&mut received).unwrap();
        assert_eq!(
            received
                .chunk_by(|a, b| a == b)
                .map(<[u8]>::len)
                .collect::<Vec<_>>(),
            [LEN, LEN]
        );
        for writer in writers {
            writer.join().unwrap();
        }
    });
}

#[test]
fn a_blocked_read_does_not_block_a_write() {
    everywhere(|| {
        let (client, mut server) = pair();
        let mut reader = client.try_clone().unwrap();
        let blocked = crate::go(move || reader.read(&mut [0]));
        (&client).write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
        server.write_all(b"y").unwrap();
        assert_eq!(blocked.join().unwrap().unwrap(), 1);
    });
}

#[test]
fn the_later_of_timeout_and_deadline_applies() {
    everywhere(|| {
        let (_client, mut server) = pair();
        server.set_read_timeout(Some(SHORT)).unwrap();
        for _ in 0..2 {
            let start = Instant::now();
            let error = server.read(&mut [0]).unwrap_err();
            assert_eq!(
                (error.kind(), poll_error(&error)),
                (ErrorKind::TimedOut, Some(PollError::Timeout))
            );
            assert!(start.elapsed() >= SHORT);
        }
        server
            .set_read_deadline(Some(Instant::now() - SHORT))
            .unwrap();
        let error = server.read(&mut [0]).unwrap_err();
        assert_eq!(
            (error.kind(), server.read_timeout().unwrap()),
            (ErrorKind::TimedOut, None)
        );
        server.set_read_timeout(None).unwrap();
        server.set_write_timeout(Some(Duration::MAX)).unwrap();
        assert_eq!(server.write(b"x").unwrap(), 1);
        assert!(server.write_timeout().unwrap() > Some(LONG));
    });
}

#[test]
fn connect_times_out_when_the_peer_does_not_answer() {
    everywhere(|| {
        // The queue has room for one connection. The kernel drops SYNs while it is full.
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        let _queued = TcpStream::connect(addr).unwrap();
        let start = Instant::now();
        let error = TcpStream::connect_timeout(&addr, SHORT).unwrap_err();
        assert_eq!(poll_error(&error), Some(PollError::Timeout));
        assert!((SHORT..LONG).contains(&start.elapsed()));
        assert_eq!(
            TcpStream::connect_timeout(&addr, Duration::ZERO)
                .unwrap_err()
                .kind(),
            ErrorKind::InvalidInput
        );
    });
}

#[test]
fn a_connect_timeout_does_not_limit_later_writes() {
    crate::run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client =
            TcpStream::connect_timeout(&listener.local_addr().unwrap(), SHORT).unwrap();
        crate::sleep(2 * SHORT);
        client.write_all(b"x").unwrap();
    });
}

#[test]
fn connect_tries_the_next_address_after_a_refusal() {
    everywhere(|| {
        let closed = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        assert_eq!(
            TcpStream::connect(closed).unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(&[closed, open.local_addr().unwrap()][..]).unwrap();
        assert_eq!(client.peer_addr().unwrap(), open.local_addr().unwrap());
        assert_eq!(
            TcpStream::connect(&[][..]).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    });
}

#[test]
fn a_self_connection_is_recognized() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    let addr = socket.local_addr().unwrap();
    socket.connect(&addr).unwrap();
    let stream = TcpStream::from(net::TcpStream::from(socket));
    assert!(is_self_connected(&stream, addr.as_socket().unwrap()));
    let (client, server) = pair();
    assert!(!is_self_connected(&client, server.local_addr().unwrap()));
}

#[test]
fn closing_wakes_readers_and_acceptors_and_frees_the_port() {
    everywhere(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let acceptors = [(); 3].map(|_| {
            let listener = listener.try_clone().unwrap();
            crate::go(move || poll_error(&listener.accept().unwrap_err()))
        });
        crate::sleep(SHORT);
        listener.close().unwrap();
        TcpListener::bind(addr).unwrap();
        for acceptor in acceptors {
            assert_eq!(acceptor.join().unwrap(), Some(PollError::Closing));
        }
        assert_eq!(
            poll_error(&listener.close().unwrap_err()),
            Some(PollError::Closing)
        );
        assert_eq!(
            poll_error(&listener.local_addr().unwrap_err()),
            Some(PollError::Closing)
        );
    });
}

#[test]
fn the_number_of_a_borrowed_descriptor_stays_taken_after_close() {
    let (client, mut server) = pair();
    let borrowed = client.as_fd();
    client.close().unwrap();
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    assert_eq!(
        SockRef::from(&borrowed).peer_addr().unwrap_err().kind(),
        ErrorKind::NotConnected
    );
    let other = fs::File::open("/proc/self/stat").unwrap();
    assert_ne!(other.as_raw_fd(), borrowed.as_raw_fd());
    assert!(panic::catch_unwind(AssertUnwindSafe(|| client.as_fd().as_raw_fd())).is_err());
}

#[test]
fn into_std_blocks_and_needs_the_only_handle() {
    crate::run(|| {
        let (client, server) = pair();
        let other = client.try_clone().unwrap();
        assert_eq!(
            client.into_std().unwrap_err().kind(),
            ErrorKind::ResourceBusy
        );
        let mut client = other.into_std().unwrap();
        assert!(!SockRef::from(&client).nonblocking().unwrap());
        let writer = crate::go(move || {
            crate::sleep(SHORT);
            (&server).write_all(b"x").map(|()| server)
        });
        let reader = thread::spawn(move || client.read(&mut [0]).map(|count| (count, client)));
        let mut server = writer.join().unwrap().unwrap();
        let (count, client) = reader.join().unwrap().unwrap();
        assert_eq!(count, 1);
        let mut client = TcpStream::from(client);
        server.write_all(b"back").unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
    });
}

#[test]
fn debug_shows_addresses_and_descriptor_as_std_does() {
    let (client, server) = pair();
    let (addr, peer, fd) = (
        client.local_addr().unwrap(),
        server.local_addr().unwrap(),
        client.as_raw_fd(),
    );
    assert_eq!(
        format!("{client:?}"),
        format!("TcpStream {{ addr: {addr}, peer: {peer}, fd: {fd} }}")
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, fd) = (listener.local_addr().unwrap(), listener.as_raw_fd());
    assert_eq!(
        format!("{listener:?}"),
        format!("TcpListener {{ addr: {addr}, fd: {fd} }}")
    );
}

/// Runs in its own process, because the test uses up all its descriptors.
#[test]
fn accept_without_a_free_descriptor_leaves_the_connection_queued() {
    const CHILD: &str = "GOPARK_TEST_NO_DESCRIPTORS";
    if env::var_os(CHILD).is_none() {
        let name = "net::tests::accept_without_a_free_descriptor_leaves_the_connection_queued";
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", name])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(
            child.status.success(),
            "{}",
            String::from_utf8_lossy(&child.stdout)
        );
        return;
    }
    // sysmon opens files now and then, which would change how many descriptors are free.
    crate::Builder::new().sysmon(false).start().unwrap();
    crate::run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_deadline(Some(Instant::now() + LONG)).unwrap();
        let addr = listener.local_addr().unwrap();
        // After this the listener is registered and its edge is consumed.
        let first = TcpStream::connect(addr).unwrap();
        listener.accept().unwrap();
        let acceptor = listener.try_clone().unwrap();
        let waiting = crate::go(move || acceptor.accept().map(drop));
        let second = TcpStream::connect(addr).unwrap();
        waiting.join().unwrap().unwrap();

        let _third = TcpStream::connect(addr).unwrap();
        let hogs: Vec<fs::File> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
        for _ in 0..3 {
            assert_eq!(
                listener.accept().unwrap_err().raw_os_error(),
                Some(libc::EMFILE)
            );
        }
        // `incoming` sleeps longer after each error in a row.
        let start = Instant::now();
        let errors = listener.incoming().take(4).filter(|item| {
            item.as_ref()
                .is_err_and(|error| error.raw_os_error() == Some(libc::EMFILE))
        });
        assert_eq!(errors.count(), 4);
        assert!(start.elapsed() >= Duration::from_millis(5 + 10 + 20));
        drop((first, second, hogs));
        listener.accept().unwrap();
    });
}

#[test]
fn operations_that_never_wait_move_what_is_there() {
    everywhere(|| {
        let (client, mut server) = pair();
        let would_block = |result: std::io::Result<usize>| {
            result.is_err_and(|error| error.raw_os_error() == Some(libc::EAGAIN))
        };
        let mut buffer = [0; 8];
        assert!(would_block(server.try_read(&mut buffer)));
        assert!(would_block(server.try_peek(&mut buffer)));
        assert_eq!(client.try_write(b"hello").unwrap(), 5);
        // Waits until it has arrived, and leaves it there.
        server.peek(&mut buffer).unwrap();
        assert_eq!(server.try_peek(&mut buffer[..2]).unwrap(), 2);
        assert_eq!(server.try_read(&mut buffer[..3]).unwrap(), 3);
        assert_eq!(server.read(&mut buffer[3..]).unwrap(), 2);
        assert_eq!(&buffer[..5], b"hello");

        while client.try_write(&[0; 1 << 16]).is_ok() {}
        assert!(would_block(client.try_write(b"full")));
        client.close().unwrap();
        let closed = client.try_read(&mut buffer).unwrap_err();
        assert_eq!(poll_error(&closed), Some(PollError::Closing));
    });
}

#[test]
fn a_nonblocking_socket_returns_would_block_on_all_its_handles() {
    everywhere(|| {
        let (mut client, mut server) = pair();
        client.try_clone().unwrap().set_nonblocking(true).unwrap();
        let error = client.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert_eq!(client.read(&mut []).unwrap(), 0);
        let full = client.write_all(&vec![0; 64 << 20]).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        client.set_nonblocking(false).unwrap();
        server.write_all(b"x").unwrap();
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 1);

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        let mut items = listener.incoming();
        let error = items.next().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    });
}

#[test]
fn descriptors_go_in_and_out_of_the_runtime() {
    everywhere(|| {
        let (client, mut server) = pair();
        let number = client.as_raw_fd();
        let mut back = TcpStream::from(OwnedFd::from(client));
        assert_eq!(back.as_raw_fd(), number);
        back.write_all(b"x").unwrap();
        assert_eq!(server.read(&mut [0; 8]).unwrap(), 1);

        // With another handle, a duplicate leaves.
        let kept = back.try_clone().unwrap();
        let duplicate = OwnedFd::from(back);
        assert_ne!(duplicate.as_raw_fd(), number);
        drop(duplicate);
        assert_eq!(kept.try_write(b"x").unwrap(), 1);
        let raw = kept.into_raw_fd();
        // SAFETY: `into_raw_fd` has given up the descriptor.
        let mut again = unsafe { TcpStream::from_raw_fd(raw) };
        again.write_all(b"x").unwrap();
    });
}
