//! UDP sockets: datagrams arrive whole or not at all, with their senders.

mod messages;
mod options;

use super::cancel::{is_cancelled, member};
use super::check_on_thread;
use super::sync::until_waits;
use crate::check;
use gopark::net::{SocketAddr, UdpSocket};
use gopark::sync::Cancel;
use gopark::{go, select, yield_now};
use gopark_core::watch::{Descriptor, Wait};
use gopark_tests::join;
use gopark_tests::sockets::{assert_closing, assert_timeout};
use std::io::{self, ErrorKind};
use std::net;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(600);
const READING: Wait = Wait::Read(Descriptor {
    fd: 0,
    deadline: None,
});

/// Runs `behaviour` in a goroutine and on an ordinary thread.
fn everywhere(behaviour: fn()) {
    check(behaviour);
    check_on_thread(behaviour);
}

fn addr(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().unwrap()
}

/// A socket on a free port of the loopback.
fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

/// Two sockets that are connected to each other.
fn pair() -> (UdpSocket, UdpSocket) {
    let (near, far) = (socket(), socket());
    near.connect(addr(&far)).unwrap();
    far.connect(addr(&near)).unwrap();
    (near, far)
}

fn raw_error<T: std::fmt::Debug>(result: io::Result<T>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

/// A port of the loopback to which no socket is bound. Another test may bind it, but the kernel
/// takes free ports at random.
fn unbound() -> SocketAddr {
    addr(&socket())
}

#[test]
fn datagrams_keep_their_boundaries_and_their_senders() {
    everywhere(|| {
        for ip in ["127.0.0.1:0", "[::1]:0"] {
            let [near, far] = [ip; 2].map(|ip| UdpSocket::bind(ip).unwrap());
            for len in [1, 0, 1400, 9000, 0, 30_000] {
                let data = vec![len as u8; len];
                assert_eq!(near.send_to(&data, addr(&far)).unwrap(), len);
            }
            let mut buffer = [0; 40_000];
            for len in [1, 0, 1400, 9000, 0, 30_000] {
                assert_eq!(far.recv_from(&mut buffer).unwrap(), (len, addr(&near)));
                assert!(buffer[..len].iter().all(|&byte| byte == len as u8));
            }
            let error = far.try_recv(&mut buffer).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
    });
}

#[test]
fn a_datagram_without_bytes_wakes_a_receiver() {
    everywhere(|| {
        let (near, far) = (socket(), socket());
        for round in 0..50 {
            let receiver = {
                let far = far.try_clone().unwrap();
                go(move || far.recv_from(&mut [0; 8]))
            };
            if round % 2 == 0 {
                until_waits(&receiver, READING);
            }
            near.send_to(&[], addr(&far)).unwrap();
            assert_eq!(join(receiver).unwrap(), (0, addr(&near)));
        }
    });
}

#[test]
fn what_does_not_fit_is_lost_without_an_error() {
    everywhere(|| {
        let (near, far) = pair();
        near.send(b"0123456789").unwrap();
        near.send(b"next").unwrap();
        near.send(b"no room").unwrap();
        near.send(b"last").unwrap();
        let mut buffer = [0; 4];
        assert_eq!((far.recv(&mut buffer).unwrap(), &buffer), (4, b"0123"));
        assert_eq!((far.recv(&mut buffer).unwrap(), &buffer), (4, b"next"));
        assert_eq!(far.recv(&mut []).unwrap(), 0);
        assert_eq!((far.recv(&mut buffer).unwrap(), &buffer), (4, b"last"));
    });
}

#[test]
fn a_datagram_that_is_too_long_is_an_error_and_not_sent() {
    everywhere(|| {
        let (near, far) = pair();
        assert_eq!(raw_error(near.send(&[0; 65_508])), Some(libc::EMSGSIZE));
        near.send(b"after").unwrap();
        assert_eq!(far.recv(&mut [0; 70_000]).unwrap(), 5);
    });
}

#[test]
fn a_peek_leaves_the_datagram() {
    everywhere(|| {
        let (near, far) = (socket(), socket());
        let peeker = {
            let far = far.try_clone().unwrap();
            go(move || {
                let mut buffer = [0; 2];
                let first = far.peek_from(&mut buffer).unwrap();
                (first, far.peek(&mut buffer).unwrap(), buffer)
            })
        };
        yield_now();
        near.send_to(b"data", addr(&far)).unwrap();
        assert_eq!(join(peeker), ((2, addr(&near)), 2, *b"da"));
        assert_eq!(far.recv(&mut [0; 8]).unwrap(), 4);
    });
}

#[test]
fn an_unconnected_socket_needs_an_address() {
    everywhere(|| {
        let near = socket();
        assert_eq!(raw_error(near.send(b"x")), Some(libc::EDESTADDRREQ));
        assert_eq!(
            near.peer_addr().unwrap_err().kind(),
            ErrorKind::NotConnected
        );
        let v6: SocketAddr = "[::1]:9".parse().unwrap();
        assert_eq!(raw_error(near.send_to(b"x", v6)), Some(libc::EAFNOSUPPORT));
        let none: &[SocketAddr] = &[];
        let error = near.send_to(b"x", none).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn a_connected_socket_receives_from_its_peer_only_and_sends_elsewhere_on_demand() {
    everywhere(|| {
        let (near, far) = pair();
        let other = socket();
        other.send_to(b"stranger", addr(&near)).unwrap();
        far.send(b"peer").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(near.recv_from(&mut buffer).unwrap(), (4, addr(&far)));
        assert_eq!(
            near.try_recv(&mut buffer).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        near.send_to(b"hello", addr(&other)).unwrap();
        assert_eq!(other.recv_from(&mut buffer).unwrap(), (5, addr(&near)));

        near.connect(addr(&other)).unwrap();
        assert_eq!(near.peer_addr().unwrap(), addr(&other));
        near.send(b"again").unwrap();
        assert_eq!(other.recv(&mut buffer).unwrap(), 5);
    });
}

#[test]
fn a_refusal_is_reported_once_and_to_connected_sockets_only() {
    everywhere(|| {
        let near = socket();
        near.connect(unbound()).unwrap();
        for round in 0..20 {
            near.send(b"hello?").unwrap();
            // The loopback answers before the send returns, so that the order is certain.
            let error = match round % 2 {
                0 => near.recv(&mut [0; 8]).unwrap_err(),
                _ => near.send(b"again").unwrap_err(),
            };
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            assert_eq!(
                near.try_recv(&mut [0]).unwrap_err().kind(),
                ErrorKind::WouldBlock
            );
        }
        near.send(b"hello?").unwrap();
        let error = near.take_error().unwrap().unwrap();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(near.take_error().unwrap().is_none());

        let unconnected = socket();
        unconnected.send_to(b"hello?", unbound()).unwrap();
        unconnected.send_to(b"x", addr(&unconnected)).unwrap();
        assert_eq!(unconnected.recv(&mut [0; 8]).unwrap(), 1);
    });
}

#[test]
fn a_refusal_wakes_a_receiver() {
    everywhere(|| {
        let near = socket();
        near.connect(unbound()).unwrap();
        let receiver = {
            let near = near.try_clone().unwrap();
            go(move || near.recv(&mut [0; 8]))
        };
        until_waits(&receiver, READING);
        near.send(b"hello?").unwrap();
        let error = join(receiver).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn close_wakes_all_receivers_and_frees_the_port() {
    everywhere(|| {
        for round in 0..30 {
            let socket = socket();
            let here = addr(&socket);
            let receivers: Vec<_> = (0..4)
                .map(|_| {
                    let socket = socket.try_clone().unwrap();
                    go(move || socket.recv_from(&mut [0; 8]))
                })
                .collect();
            (0..round % 3).for_each(|_| yield_now());
            socket.close().unwrap();
            let again = UdpSocket::bind(here).unwrap();
            receivers.into_iter().map(join).for_each(assert_closing);
            assert_closing(socket.close());
            assert_closing(socket.recv(&mut [0]));
            assert_closing(socket.send_to(b"x", here));
            assert_closing(socket.try_recv(&mut [0]));
            drop(again);
        }
    });
}

#[test]
fn a_bound_port_is_refused_to_another_socket() {
    everywhere(|| {
        let first = socket();
        let error = UdpSocket::bind(addr(&first)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        let [taken, free] = [addr(&first), "127.0.0.1:0".parse().unwrap()];
        let second = UdpSocket::bind(&[taken, free][..]).unwrap();
        assert_ne!(addr(&second), taken);
        assert!(!first.reuse_address().unwrap());
    });
}

#[test]
fn deadlines_end_receives_and_sends_and_lose_nothing() {
    everywhere(|| {
        let (near, far) = pair();
        let before = Instant::now();
        near.set_read_deadline(Some(before + Duration::from_millis(3)))
            .unwrap();
        assert_timeout(near.recv(&mut [0; 8]));
        assert!(before.elapsed() >= Duration::from_millis(3));
        far.send(b"data").unwrap();
        assert_timeout(near.recv_from(&mut [0; 8]));
        assert_timeout(near.peek(&mut [0; 8]));
        near.set_read_deadline(None).unwrap();
        assert_eq!(near.recv(&mut [0; 8]).unwrap(), 4);

        near.set_write_deadline(Some(before)).unwrap();
        assert_timeout(near.send(b"x"));
        assert_timeout(near.send_to(b"x", addr(&far)));
        assert_eq!(near.try_send(b"try").unwrap(), 3);
        near.set_deadline(None).unwrap();
        near.send(b"yes!").unwrap();
        let mut buffer = [0; 8];
        assert_eq!(far.recv(&mut buffer).unwrap(), 3);
        assert_eq!(far.recv(&mut buffer).unwrap(), 4);
    });
}

#[test]
fn a_deadline_wakes_a_receiver_that_waits() {
    everywhere(|| {
        let socket = socket();
        for round in 0..20 {
            let receiver = {
                let socket = socket.try_clone().unwrap();
                go(move || socket.recv_from(&mut [0; 8]))
            };
            if round % 2 == 0 {
                until_waits(&receiver, READING);
            }
            socket.set_read_deadline(Some(Instant::now())).unwrap();
            assert_timeout(join(receiver));
            socket.set_read_deadline(None).unwrap();
        }
    });
}

#[test]
fn a_timeout_limits_each_receive() {
    everywhere(|| {
        let (near, far) = pair();
        let limit = Duration::from_millis(2);
        near.set_read_timeout(Some(limit)).unwrap();
        near.set_write_timeout(Some(LONG)).unwrap();
        for _ in 0..3 {
            let before = Instant::now();
            assert_timeout(near.recv(&mut [0]));
            assert!(before.elapsed() >= limit);
        }
        assert_eq!(near.read_timeout().unwrap(), Some(limit));
        near.set_read_timeout(None).unwrap();
        far.send(b"x").unwrap();
        assert_eq!(near.recv(&mut [0]).unwrap(), 1);
    });
}

#[test]
fn a_cancel_ends_a_receive_and_the_socket_works_on() {
    everywhere(|| {
        let (near, far) = pair();
        let cancel = Cancel::new();
        let [one, other] = [0; 2].map(|_| near.try_clone().unwrap());
        let receiver = member(&cancel, move || is_cancelled(one.recv(&mut [0; 8])));
        until_waits(&receiver, READING);
        let behind = member(&cancel, move || is_cancelled(other.recv_from(&mut [0; 8])));
        until_waits(&behind, Wait::Semaphore);
        cancel.cancel();
        assert!(join(receiver) && join(behind));
        far.send(b"x").unwrap();
        assert_eq!(near.recv(&mut [0; 8]).unwrap(), 1);
    });
}

#[test]
fn a_select_waits_for_a_datagram() {
    everywhere(|| {
        let (near, far) = pair();
        select! {
            readable(near) -> _ => panic!("nothing has arrived"),
            writable(near) -> result => result.unwrap(),
        }
        let selecting = {
            let near = near.try_clone().unwrap();
            go(move || {
                select! {
                    readable(near) -> result => result.unwrap(),
                    default(LONG) => panic!("late"),
                }
                near.try_recv(&mut [0; 8]).unwrap()
            })
        };
        yield_now();
        // A datagram without bytes is one.
        far.send(b"").unwrap();
        assert_eq!(join(selecting), 0);
        select! {
            readable(Arc::new(near)) -> _ => panic!("it was received"),
            default => {}
        }
    });
}

#[test]
fn a_mode_without_waits_fails_with_would_block() {
    everywhere(|| {
        let (near, far) = pair();
        near.set_nonblocking(true).unwrap();
        for result in [
            near.recv(&mut [0]),
            near.peek(&mut [0]),
            near.recv_from(&mut [0]).map(|(len, _)| len),
            near.try_recv_from(&mut [0]).map(|(len, _)| len),
        ] {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::WouldBlock);
        }
        far.send(b"x").unwrap();
        assert_eq!(near.try_recv_from(&mut [0]).unwrap(), (1, addr(&far)));
        assert_eq!(near.try_send_to(b"x", addr(&far)).unwrap(), 1);
        near.set_nonblocking(false).unwrap();
        let receiver = go(move || near.recv(&mut [0]));
        yield_now();
        far.send(b"x").unwrap();
        assert_eq!(join(receiver).unwrap(), 1);
    });
}

/// Returns datagrams to their senders until one without bytes, and returns the sum of those before.
fn echo(socket: &UdpSocket) -> u64 {
    let mut buffer = [0; 8];
    let mut sum = 0;
    loop {
        let (len, sender) = socket.recv_from(&mut buffer).unwrap();
        if len == 0 {
            return sum;
        }
        assert_eq!(socket.send_to(&buffer[..len], sender).unwrap(), 8);
        sum += u64::from_ne_bytes(buffer);
    }
}

#[test]
fn concurrent_senders_and_receivers_lose_no_datagram() {
    const SENDERS: u64 = 4;
    const EACH: u64 = 500;
    everywhere(|| {
        let server = socket();
        let receivers: Vec<_> = (0..3)
            .map(|_| {
                let server = server.try_clone().unwrap();
                go(move || echo(&server))
            })
            .collect();
        // The kernel drops what its buffer has no room for, so senders wait for the echoes.
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let target = addr(&server);
                go(move || {
                    let socket = socket();
                    for i in 0..EACH {
                        let number = (sender * EACH + i).to_ne_bytes();
                        socket.send_to(&number, target).unwrap();
                        let mut buffer = [0; 8];
                        assert_eq!(socket.recv_from(&mut buffer).unwrap(), (8, target));
                        assert_eq!(buffer, number);
                    }
                })
            })
            .collect();
        senders.into_iter().for_each(join);
        let near = socket();
        for _ in &receivers {
            near.send_to(b"", addr(&server)).unwrap();
        }
        let all: u64 = receivers.into_iter().map(join).sum();
        assert_eq!(all, (0..SENDERS * EACH).sum());
    });
}

#[test]
fn goroutines_and_threads_share_a_socket() {
    check(|| {
        let (near, far) = pair();
        let echo = thread::spawn(move || {
            let mut buffer = [0; 8];
            loop {
                match far.recv(&mut buffer).unwrap() {
                    0 => return,
                    len => _ = far.send(&buffer[..len]).unwrap(),
                }
            }
        });
        for i in 0..200_u64 {
            near.send(&i.to_ne_bytes()).unwrap();
            let mut buffer = [0; 8];
            assert_eq!(near.recv(&mut buffer).unwrap(), 8);
            assert_eq!(u64::from_ne_bytes(buffer), i);
        }
        near.send(b"").unwrap();
        gopark::blocking(|| echo.join().unwrap());
    });
}

#[test]
fn receivers_that_wait_on_one_socket_each_get_a_datagram() {
    everywhere(|| {
        let (near, far) = pair();
        let receivers: Vec<_> = (0..8)
            .map(|_| {
                let far = far.try_clone().unwrap();
                go(move || {
                    let mut byte = [0];
                    assert_eq!(far.recv(&mut byte).unwrap(), 1);
                    byte[0]
                })
            })
            .collect();
        yield_now();
        (0..8).for_each(|i| _ = near.send(&[i]).unwrap());
        let mut bytes: Vec<_> = receivers.into_iter().map(join).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, [0, 1, 2, 3, 4, 5, 6, 7]);
    });
}

#[test]
fn sockets_cross_to_std_and_back() {
    everywhere(|| {
        let near = socket();
        let here = addr(&near);
        let clone = near.try_clone().unwrap();
        assert_eq!(near.as_raw_fd(), clone.as_raw_fd());
        let busy = near.try_clone().unwrap().into_std().unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::ResourceBusy);
        drop(clone);
        let near: net::UdpSocket = near.into_std().unwrap();
        near.set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        // It blocks until the timeout of `std`, unless a signal of another test comes.
        let late = loop {
            match near.recv(&mut [0]).unwrap_err().kind() {
                ErrorKind::Interrupted => {}
                kind => break kind,
            }
        };
        assert_eq!(late, ErrorKind::WouldBlock);
        let near = UdpSocket::from(near);
        near.as_fd();
        let near = UdpSocket::from(OwnedFd::from(near));
        assert_eq!(addr(&near), here);
        near.send_to(b"self", here).unwrap();
        assert_eq!(near.recv(&mut [0; 8]).unwrap(), 4);
        assert!(format!("{near:?}").contains("UdpSocket"), "{near:?}");
    });
}

#[test]
fn a_socket_of_all_addresses_receives_from_both_versions_of_ip() {
    everywhere(|| {
        let server = UdpSocket::bind("[::]:0").unwrap();
        let port = addr(&server).port();
        for (from, to) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1")] {
            let client = UdpSocket::bind(from).unwrap();
            client.connect((to, port)).unwrap();
            client.send(b"hello").unwrap();
            let mut buffer = [0; 8];
            let (len, sender) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(sender.ip().to_canonical(), addr(&client).ip());
            server.send_to(&buffer[..len], sender).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 5);
        }
        assert!(!server.only_v6().unwrap());
    });
}
