//! The contract of [`Netpoll`], for whichever poller was chosen: over descriptors of every kind.
//!
//! Edges and levels both pass. A test arms before it expects anything, takes spurious readiness, and fails if readiness is lost. The
//! contract in words is on the trait; `docs/backends.md` says how to run this over a new poller.
#![allow(unsafe_code, reason = "some descriptors are made by libc")]

#[allow(unreachable_pub, reason = "core includes it too")]
#[path = "../../core/fuzz/check.rs"]
mod check;
#[path = "conformance/ends.rs"]
mod ends;
#[path = "conformance/kinds.rs"]
mod kinds;
#[path = "conformance/numbers.rs"]
mod numbers;
#[path = "conformance/queues.rs"]
mod queues;
#[path = "conformance/readiness.rs"]
mod readiness;
#[path = "conformance/sleep.rs"]
mod sleep;

use gopark_backends::Poller;
use gopark_backends::linux::Linux;
use gopark_core::os::{Delay, Nanos, Netpoll, Os};
use gopark_tests::watch::{asleep, nonblocking, poll, thread_id};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::thread;

const MILLISECOND: Nanos = 1_000_000;
const SECOND: Nanos = 1_000_000_000;

fn now() -> Nanos {
    Linux::new().now()
}

fn unix_pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (nonblocking(ours), theirs)
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (nonblocking(listener.accept().unwrap().0), theirs)
}

/// A thread that polls once, asleep by now; what it says is the events' tags.
fn sleep_in(poller: &Arc<Poller>, delay: Delay) -> (thread::JoinHandle<Vec<u32>>, i32) {
    let (sender, receiver) = mpsc::channel();
    let poller = poller.clone();
    let sleeper = thread::spawn(move || {
        sender.send(thread_id()).unwrap();
        poll(&poller, delay)
            .iter()
            .map(|event| event.token.tag())
            .collect()
    });
    let id = receiver.recv().unwrap();
    asleep(id);
    (sleeper, id)
}

fn poller() -> Arc<Poller> {
    Arc::new(Poller::init().unwrap())
}

#[test]
fn random_programs_agree_with_what_poll_says() {
    check::check("backend", 2_000, gopark_tests::readiness::fuzz);
}
