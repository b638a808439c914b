//! The tests of the contract, and what they share.

#[path = "ends.rs"]
mod ends;
#[path = "kinds.rs"]
mod kinds;
#[path = "numbers.rs"]
mod numbers;
#[path = "queues.rs"]
mod queues;
#[path = "readiness.rs"]
mod readiness;
#[path = "sleep.rs"]
mod sleep;

use super::POLLER;
use crate::check;
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

/// Starts a thread that polls once, and returns when it sleeps. Its result is the tags of the
/// events.
fn sleep_in(poller: &Arc<dyn Netpoll>, delay: Delay) -> (thread::JoinHandle<Vec<u32>>, i32) {
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

fn poller() -> Arc<dyn Netpoll> {
    POLLER.init().unwrap().into()
}

#[test]
fn random_programs_agree_with_what_poll_says() {
    check::check("backend", 2_000, |input| {
        gopark_tests::readiness::fuzz(POLLER, input)
    });
}
