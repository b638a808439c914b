//! Servers: accept loops, their limit and their end.
#![allow(unsafe_code, reason = "TCP_INFO of a listener is read through libc")]

use super::cancel::everywhere;
use crate::check;
use gopark::net::{ListenConfig, Server, SocketAddr, TcpListener, TcpStream};
use gopark::sync::Cancel;
use gopark::{JoinHandle, PollError, go, poll_error};
use gopark_tests::{join, until};
use std::collections::HashSet;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{panic, thread};

const LONG: Duration = Duration::from_secs(3600);

/// A server that runs.
struct Serving {
    addr: SocketAddr,
    stop: Cancel,
    goroutine: JoinHandle<io::Result<()>>,
}

impl Serving {
    fn start<T: Send + 'static>(
        server: Server,
        handler: impl Fn(TcpStream, SocketAddr) -> T + Send + Sync + 'static,
    ) -> Self {
        let stop = Cancel::new();
        let server = server.cancel(&stop);
        Serving {
            addr: server.local_addr().unwrap(),
            stop,
            goroutine: go(move || server.serve(handler)),
        }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).unwrap()
    }

    fn end(self) {
        self.stop.cancel();
        join(self.goroutine).unwrap();
    }
}

fn server() -> Server {
    Server::bind("127.0.0.1:0").unwrap().grace(LONG)
}

fn echo(mut stream: TcpStream, _: SocketAddr) -> io::Result<u64> {
    io::copy(&mut stream.try_clone()?, &mut stream)
}

fn assert_echoes(mut client: &TcpStream) {
    client.write_all(b"hello").unwrap();
    let mut reply = [0; 5];
    client.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"hello");
}

/// One listener, and one for each P.
fn each_kind(behaviour: fn(Server)) {
    let one = TcpListener::bind("127.0.0.1:0").unwrap();
    behaviour(Server::new(vec![one]).grace(LONG));
    behaviour(server());
    let three = ListenConfig::new().listen_group("127.0.0.1:0", 3).unwrap();
    behaviour(Server::new(three).grace(LONG));
}

#[test]
fn each_connection_has_a_handler_that_knows_its_peer() {
    everywhere(|| {
        each_kind(|server| {
            let serving = Serving::start(server, |mut stream, peer: SocketAddr| {
                stream.write_all(&peer.port().to_be_bytes()).unwrap();
                echo(stream, peer)
            });
            let mut clients: Vec<_> = (0..40).map(|_| serving.connect()).collect();
            for client in &mut clients {
                let mut port = [0; 2];
                client.read_exact(&mut port).unwrap();
                assert_eq!(
                    u16::from_be_bytes(port),
                    client.local_addr().unwrap().port()
                );
            }
            clients.iter().for_each(assert_echoes);
            drop(clients);
            serving.end();
        });
    });
}

#[test]
fn a_cancel_ends_accepting_and_waits_for_handlers() {
    everywhere(|| {
        each_kind(|server| {
            let serving = Serving::start(server, echo);
            let clients: Vec<_> = (0..10).map(|_| serving.connect()).collect();
            clients.iter().for_each(assert_echoes);
            serving.stop.cancel();
            until("the listeners are closed", || {
                match TcpStream::connect(serving.addr) {
                    Ok(_) => false,
                    Err(error) => error.kind() == ErrorKind::ConnectionRefused,
                }
            });
            clients.iter().for_each(assert_echoes);
            assert!(!serving.goroutine.is_finished());
            drop(clients);
            join(serving.goroutine).unwrap();
            TcpListener::bind(serving.addr).unwrap();
        });
    });
}

#[test]
fn handlers_that_outlast_the_grace_are_cancelled() {
    everywhere(|| {
        each_kind(|server| {
            let cancelled = Arc::new(AtomicUsize::new(0));
            let theirs = cancelled.clone();
            let server = server.grace(Duration::from_millis(1));
            let serving = Serving::start(server, move |mut stream, _| {
                stream.write_all(b"x").unwrap();
                let error = stream.read(&mut [0]).unwrap_err();
                assert_eq!(poll_error(&error), Some(PollError::Cancelled));
                theirs.fetch_add(1, SeqCst);
            });
            let mut clients: Vec<_> = (0..5).map(|_| serving.connect()).collect();
            for client in &mut clients {
                client.read_exact(&mut [0]).unwrap();
            }
            serving.end();
            assert_eq!(cancelled.load(SeqCst), clients.len());
        });
    });
}

#[test]
fn a_cancel_of_the_caller_ends_the_server() {
    everywhere(|| {
        let server = server();
        let addr = server.local_addr().unwrap();
        let cancel = Cancel::new();
        let theirs = cancel.clone();
        let serving = go(move || theirs.run(|| server.serve(echo)));
        let client = TcpStream::connect(addr).unwrap();
        assert_echoes(&client);
        cancel.cancel();
        assert_echoes(&client);
        drop(client);
        join(serving).unwrap();
    });
}

#[test]
fn a_limit_pauses_accepting() {
    everywhere(|| {
        each_kind(|server| {
            const MOST: usize = 2;
            let running = Arc::new(AtomicUsize::new(0));
            let theirs = running.clone();
            let serving = Serving::start(server.max_connections(MOST), move |mut stream, _| {
                assert!(theirs.fetch_add(1, SeqCst) < MOST);
                stream.write_all(b"x").unwrap();
                _ = stream.read(&mut [0]);
                theirs.fetch_sub(1, SeqCst);
            });
            let mut clients: Vec<_> = (0..10).map(|_| serving.connect()).collect();
            for handled in 0..clients.len() {
                // Which of them are handled next depends on the listeners.
                let mut next = None;
                until("another one is handled", || {
                    next = clients.iter_mut().position(|client| {
                        client
                            .set_read_timeout(Some(Duration::from_micros(100)))
                            .unwrap();
                        client.read(&mut [0]).is_ok()
                    });
                    next.is_some()
                });
                assert!(running.load(SeqCst) <= MOST, "{handled}");
                drop(clients.swap_remove(next.unwrap()));
            }
            serving.end();
        });
    });
}

/// How many connections wait to be accepted: what Linux says of a listener in `tcpi_unacked`.
fn queued(listener: &TcpListener) -> u32 {
    // SAFETY: all zeroes is a `tcp_info`, which consists of integers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: `info` is writable for `len` bytes.
    let result = unsafe {
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &mut len,
        )
    };
    assert_eq!(result, 0);
    info.tcpi_unacked
}

#[test]
fn a_connection_that_was_accepted_is_served_although_the_server_ends() {
    everywhere(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let queue = listener.try_clone().unwrap();
        let server = Server::new(vec![listener]).grace(LONG).max_connections(1);
        let server = Serving::start(server, echo);
        let first = server.connect();
        assert_echoes(&first);
        // Accepted, and without a place.
        let second = server.connect();
        until("the second connection is accepted", || queued(&queue) == 0);
        drop(queue);
        server.stop.cancel();
        assert_echoes(&second);
        drop((first, second));
        server.end();
    });
}

#[test]
fn a_panic_of_a_handler_ends_its_connection_only() {
    everywhere(|| {
        each_kind(|server| {
            let serving = Serving::start(server.max_connections(4), |mut stream, peer| {
                let mut first = [0];
                stream.read_exact(&mut first).unwrap();
                if first == *b"!" {
                    // Without the panic hook.
                    panic::resume_unwind(Box::new("as asked"));
                }
                stream.write_all(&first).unwrap();
                _ = echo(stream, peer);
            });
            let healthy = serving.connect();
            assert_echoes(&healthy);
            for _ in 0..10 {
                let mut doomed = serving.connect();
                doomed.write_all(b"!").unwrap();
                assert_eq!(doomed.read(&mut [0]).unwrap(), 0);
            }
            assert_echoes(&healthy);
            assert_echoes(&serving.connect());
            drop(healthy);
            serving.end();
        });
    });
}

#[test]
fn a_listener_that_does_not_work_is_an_error() {
    everywhere(|| {
        let group = ListenConfig::new().listen_group("127.0.0.1:0", 2).unwrap();
        group[1].set_deadline(Some(Instant::now())).unwrap();
        let error = Server::new(group).serve(echo).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        Server::new(Vec::new()).serve(echo).unwrap();
    });
}

#[test]
fn each_acceptor_finds_a_thread_of_its_own() {
    check(|| {
        let config = gopark::scheduler().config();
        if config.migrate {
            return;
        }
        // When other tests keep the Ps busy, acceptors share a thread.
        until("a server has a thread for each acceptor", || {
            let threads = Arc::new(Mutex::new(HashSet::new()));
            let theirs = threads.clone();
            let serving = Serving::start(server(), move |mut stream, _| {
                theirs.lock().unwrap().insert(thread::current().id());
                _ = stream.write_all(b"x");
            });
            for _ in 0..20 * config.procs {
                serving.connect().read_exact(&mut [0]).unwrap();
            }
            serving.end();
            let count = threads.lock().unwrap().len();
            assert!(count <= config.procs);
            count == config.procs
        });
    });
}
