//! Dialling with limits, over two families of addresses, and what it leaves open: nothing.

use super::cancel::{everywhere, member};
use super::sync::until_waits;
use gopark::net::{Dialer, SocketAddr, TcpListener, TcpStream};
use gopark::sync::Cancel;
use gopark::{PollError, poll_error, with_timeout};
use gopark_core::watch::{Descriptor, Wait};
use gopark_tests::{Dice, join, rounds, until};
use socket2::{Domain, SockRef, Socket, Type};
use std::error::Error as _;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, net};

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(5);
const CONNECTING: Wait = Wait::Write(Descriptor {
    fd: 0,
    deadline: None,
});

fn v4() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn v6() -> SocketAddr {
    SocketAddr::from((net::Ipv6Addr::LOCALHOST, 0))
}

/// An address that does not answer: the queue of its listener is full.
struct Silent {
    addr: SocketAddr,
    _listener: Socket,
    _queued: net::TcpStream,
}

impl Silent {
    fn new(at: SocketAddr) -> Self {
        let listener = Socket::new(Domain::for_address(at), Type::STREAM, None).unwrap();
        listener.bind(&at.into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        Silent {
            addr,
            _listener: listener,
            _queued: net::TcpStream::connect(addr).unwrap(),
        }
    }

    /// How many sockets of this machine are connecting to it.
    fn dials(&self) -> usize {
        sockets_to(self.addr, "02")
    }
}

/// An address that refuses connections. No other socket can take its port while this exists.
struct Refusing {
    addr: SocketAddr,
    _bound: Socket,
}

impl Refusing {
    fn new(at: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, None).unwrap();
        socket.bind(&at.into()).unwrap();
        Refusing {
            addr: socket.local_addr().unwrap().as_socket().unwrap(),
            _bound: socket,
        }
    }
}

fn listener(at: SocketAddr) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(at).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// How many sockets have `peer` as their peer, in a state of `/proc/net/tcp`.
fn sockets_to(peer: SocketAddr, state: &str) -> usize {
    let tables = ["tcp", "tcp6"].map(|it| fs::read_to_string(format!("/proc/net/{it}")));
    let port = format!(":{:04X}", peer.port());
    let is_such = |line: &&str| {
        let mut fields = line.split_whitespace().skip(2);
        let is_peer = fields.next().is_some_and(|it| it.ends_with(&port));
        is_peer && fields.next() == Some(state)
    };
    let lines = tables.iter().flatten().flat_map(|table| table.lines());
    lines.filter(is_such).count()
}

#[track_caller]
fn assert_fails<T: std::fmt::Debug>(dialled: io::Result<T>, addr: SocketAddr, why: PollError) {
    let error = dialled.unwrap_err();
    assert_eq!(poll_error(&error), Some(why), "{error:?}");
    assert_eq!(error.to_string(), why.to_string(), "dialling {addr}");
    let is_timeout = error.kind() == ErrorKind::TimedOut;
    assert_eq!(is_timeout, why == PollError::Timeout);
}

#[test]
fn each_limit_ends_a_dial_without_an_answer() {
    everywhere(|| {
        let silent = Silent::new(v4());
        let addr = silent.addr;
        let dialer = Dialer::new();
        let soon = || Instant::now() + SHORT;
        let timed: [fn(Dialer, Instant) -> Dialer; 4] = [
            |dialer, _| dialer.timeout(SHORT),
            |dialer, soon| dialer.timeout(LONG).deadline(soon),
            |dialer, soon| dialer.timeout(SHORT).deadline(soon + LONG),
            |dialer, _| dialer.timeout(SHORT).fallback_delay(None),
        ];
        for limit in timed {
            let dialled = limit(dialer.clone(), soon()).dial(addr);
            assert_fails(dialled, addr, PollError::Timeout);
            assert_eq!(silent.dials(), 0);
        }
        let cancel = Cancel::new();
        cancel.set_timeout(SHORT);
        let dialled = dialer.clone().cancel(&cancel).dial(addr);
        assert_fails(dialled, addr, PollError::Cancelled);
        let dialled = with_timeout(SHORT, || dialer.clone().timeout(LONG).dial(addr));
        assert_fails(
            dialled.unwrap_err().into_inner(),
            addr,
            PollError::Cancelled,
        );
        assert_eq!(silent.dials(), 0);
    });
}

#[test]
fn a_limit_that_has_passed_makes_no_socket() {
    everywhere(|| {
        let (listener, addr) = listener(v4());
        let made = Arc::new(AtomicUsize::new(0));
        let count = made.clone();
        let dialer = Dialer::new().control(move |_, _| {
            count.fetch_add(1, SeqCst);
            Ok(())
        });
        let passed = [
            dialer.clone().timeout(Duration::ZERO),
            dialer.clone().deadline(Instant::now()),
        ];
        for dialer in passed {
            let error = dialer.dial(addr).unwrap_err();
            assert_eq!(poll_error(&error), Some(PollError::Timeout));
        }
        assert_eq!(made.load(SeqCst), 0);
        dialer.timeout(LONG).dial(addr).unwrap();
        assert_eq!(made.load(SeqCst), 1);
        drop(listener);
    });
}

#[test]
fn a_cancel_reaches_a_dial_in_progress_and_not_its_connection() {
    everywhere(|| {
        let silent = Silent::new(v4());
        let cancel = Cancel::new();
        let dialer = Dialer::new().cancel(&cancel);
        let addr = silent.addr;
        let theirs = dialer.clone();
        let waiting = member(&Cancel::new(), move || theirs.dial(addr));
        until_waits(&waiting, CONNECTING);
        let (listener, open) = listener(v4());
        let mut near = dialer.dial(open).unwrap();
        cancel.cancel();
        assert_fails(join(waiting), addr, PollError::Cancelled);
        assert_eq!(silent.dials(), 0);
        let (mut far, _) = listener.accept().unwrap();
        near.write_all(b"x").unwrap();
        far.read_exact(&mut [0]).unwrap();
        far.write_all(b"y").unwrap();
        near.read_exact(&mut [0]).unwrap();
        assert_fails(dialer.dial(open), open, PollError::Cancelled);
    });
}

#[test]
fn a_cancel_during_the_dial_closes_the_connection_even_if_it_is_made() {
    everywhere(|| {
        let (_listener, addr) = listener(v4());
        for _ in 0..20 {
            let cancel = Cancel::new();
            let theirs = cancel.clone();
            let dialer = Dialer::new().cancel(&cancel).control(move |_, _| {
                theirs.cancel();
                Ok(())
            });
            let error = dialer.dial(addr).unwrap_err();
            assert_eq!(poll_error(&error), Some(PollError::Cancelled));
        }
        until("all are closed", || sockets_to(addr, "01") == 0);
    });
}

#[test]
fn dials_that_are_cancelled_at_any_moment_leave_no_socket() {
    everywhere(|| {
        let (listener, addr) = listener(v4());
        let (other, fallback) = self::listener(v6());
        let dice = Dice::new(7);
        let mut made = 0;
        for _ in 0..rounds(200) {
            let cancel = Cancel::new();
            cancel.set_timeout(Duration::from_micros(dice.below(150)));
            let dialer = Dialer::new()
                .cancel(&cancel)
                .fallback_delay(Some(Duration::ZERO));
            match dialer.dial(&[addr, fallback][..]) {
                Ok(stream) => {
                    made += 1;
                    stream.set_linger(Some(Duration::ZERO)).unwrap();
                }
                Err(error) => assert_eq!(poll_error(&error), Some(PollError::Cancelled)),
            }
        }
        println!("{made} connections");
        until("all are closed", || {
            [addr, fallback]
                .iter()
                .all(|&addr| sockets_to(addr, "01") + sockets_to(addr, "02") == 0)
        });
        drop((listener, other));
    });
}

#[test]
fn the_second_family_is_tried_after_the_delay_and_the_loser_closed() {
    everywhere(|| {
        for (silent, open) in [(v6(), v4()), (v4(), v6())] {
            let silent = Silent::new(silent);
            let (_listener, open) = listener(open);
            let addrs = [silent.addr, silent.addr, open];
            for delay in [Duration::ZERO, SHORT] {
                let dialer = Dialer::new().fallback_delay(Some(delay));
                for dialer in [dialer.clone(), dialer.timeout(LONG)] {
                    let stream = dialer.dial(&addrs[..]).unwrap();
                    assert_eq!(stream.peer_addr().unwrap(), open);
                    assert_eq!(silent.dials(), 0);
                }
            }
        }
    });
}

#[test]
fn the_second_family_is_tried_at_once_when_the_first_has_failed() {
    everywhere(|| {
        let (refusing, alone) = (Refusing::new(v6()), Refusing::new(v4()));
        let (_listener, open) = listener(v4());
        for delay in [Some(LONG), None] {
            let dialer = Dialer::new().fallback_delay(delay);
            let stream = dialer.dial(&[refusing.addr, open][..]).unwrap();
            assert_eq!(stream.peer_addr().unwrap(), open);
            // All fail: the error is that of the first address.
            let error = dialer.dial(&[refusing.addr, alone.addr][..]).unwrap_err();
            let text = format!(
                "dial tcp {}: Connection refused (os error 111)",
                refusing.addr
            );
            assert_eq!(
                (error.kind(), error.to_string()),
                (ErrorKind::ConnectionRefused, text)
            );
            let cause = error.source().unwrap().downcast_ref::<io::Error>().unwrap();
            assert_eq!(cause.raw_os_error(), Some(libc::ECONNREFUSED));
        }
    });
}

#[test]
fn the_first_family_wins_if_it_answers_before_the_delay() {
    everywhere(|| {
        let (_one, first) = listener(v6());
        let (_other, second) = listener(v4());
        let dialer = Dialer::new().fallback_delay(Some(LONG));
        let stream = dialer.dial(&[second, first][..]).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), second);
        let stream = dialer.dial(&[first, second][..]).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), first);
        assert_eq!(sockets_to(second, "02"), 0);
    });
}

#[test]
fn limits_end_a_race_of_two_silent_families() {
    everywhere(|| {
        let (first, second) = (Silent::new(v6()), Silent::new(v4()));
        let addrs = [first.addr, second.addr];
        let dialer = Dialer::new().fallback_delay(Some(Duration::ZERO));
        let dialled = dialer.clone().timeout(SHORT).dial(&addrs[..]);
        assert_fails(dialled, first.addr, PollError::Timeout);
        let cancel = Cancel::new();
        let theirs = cancel.clone();
        let waiting = member(&cancel, move || dialer.dial(&addrs[..]));
        until("both are dialled", || {
            first.dials() == 1 && second.dials() == 1
        });
        theirs.cancel();
        assert_fails(join(waiting), first.addr, PollError::Cancelled);
        assert_eq!((first.dials(), second.dials()), (0, 0));
    });
}

#[test]
fn a_control_hook_sees_a_new_socket_and_can_refuse_it() {
    everywhere(|| {
        let (_listener, addr) = listener(v4());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let theirs = seen.clone();
        let dialer = Dialer::new().local_addr(v4()).control(move |fd, addr| {
            let local = SockRef::from(&fd).local_addr()?.as_socket().unwrap();
            theirs.lock().unwrap().push((local.port(), addr));
            SockRef::from(&fd).set_tos_v4(0x10)
        });
        let stream = dialer.dial(addr).unwrap();
        assert_eq!(SockRef::from(&stream).tos_v4().unwrap(), 0x10);
        assert_eq!(*seen.lock().unwrap(), [(0, addr)]);

        let refusing = Dialer::new().control(|_, _| Err(ErrorKind::PermissionDenied.into()));
        let error = refusing.dial(addr).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().starts_with(&format!("dial tcp {addr}: ")));
    });
}

#[test]
fn a_local_address_selects_the_family_and_its_port_is_kept() {
    everywhere(|| {
        let (_listener, addr) = listener(v4());
        let (_other, other) = listener(v6());
        let local = Refusing::new(SocketAddr::from(([127, 0, 0, 2], 0))).addr;
        let dialer = Dialer::new().local_addr(local);
        let stream = dialer.dial(&[other, addr][..]).unwrap();
        assert_eq!(stream.local_addr().unwrap(), local);
        assert_eq!(stream.peer_addr().unwrap(), addr);
        let error = dialer.dial(addr).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        let error = dialer.dial(other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        stream.set_linger(Some(Duration::ZERO)).unwrap();
    });
}

#[test]
fn options_of_a_dialler_reach_the_connection() {
    everywhere(|| {
        let (_listener, addr) = listener(v4());
        let keep_alive = |dialer: Dialer| {
            let stream: TcpStream = dialer.dial(addr).unwrap();
            let socket = SockRef::from(&stream);
            assert!(socket.tcp_nodelay().unwrap());
            let times = (socket.tcp_keepalive_time(), socket.tcp_keepalive_interval());
            socket
                .keepalive()
                .unwrap()
                .then(|| (times.0.unwrap(), times.1.unwrap()))
        };
        let seconds = Duration::from_secs;
        assert_eq!(keep_alive(Dialer::new()), Some((seconds(15), seconds(15))));
        assert_eq!(keep_alive(Dialer::new().keep_alive(None)), None);
        let uneven = Dialer::new().keep_alive(Some(Duration::from_millis(2001)));
        assert_eq!(keep_alive(uneven), Some((seconds(3), seconds(3))));
        let zero = Dialer::new().keep_alive(Some(Duration::ZERO));
        assert_eq!(keep_alive(zero), Some((seconds(1), seconds(1))));
        Dialer::new().mptcp(true).dial(addr).unwrap();
    });
}

#[test]
fn a_resolver_gets_names_only_and_its_errors_name_the_host() {
    everywhere(|| {
        let (_listener, addr) = listener(v4());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let theirs = asked.clone();
        let dialer = Dialer::new().resolver(Arc::new(move |host: &str, port| {
            theirs.lock().unwrap().push((host.to_owned(), port));
            match host {
                "here.test" => Ok(vec![addr]),
                "nothing.test" => Ok(vec![]),
                "waits.test" => Err(io::Error::other(
                    gopark::chan::never::<()>().recv().unwrap_err(),
                )),
                _ => Err(ErrorKind::NotFound.into()),
            }
        }));
        dialer.dial(addr.to_string()).unwrap();
        assert!(asked.lock().unwrap().is_empty());
        dialer.dial("here.test:7").unwrap();
        dialer.dial(("here.test", 8)).unwrap();
        let expected = [7, 8].map(|port| ("here.test".to_owned(), port));
        assert_eq!(*asked.lock().unwrap(), expected);
        let error = dialer.dial("nothing.test:7").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let error = dialer.dial("missing.test:7").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), "lookup missing.test: entity not found");
        // The limit of the dial is a cancel for the resolver.
        let error = dialer.timeout(SHORT).dial("waits.test:7").unwrap_err();
        assert_eq!(poll_error(&error), Some(PollError::Timeout));
    });
}
