//! Look-ups of host names that do not end, under a cancel.
//!
//! This file defines `getaddrinfo`, which the program then calls in place of that of the C library.
//! A name of the form `NUMBER.hangs.test` has no answer until it is released. No name exists.
#![allow(
    unsafe_code,
    reason = "a function of the C library is replaced for this process"
)]

use super::cancel::{everywhere, is_cancelled, member};
use super::sync::until_waits;
use gopark::net::{SocketAddr, TcpListener, TcpStream};
use gopark::shield;
use gopark::sync::Cancel;
use gopark_core::watch::{Descriptor, Wait};
use gopark_tests::{join, until};
use socket2::{Domain, Socket, Type};
use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::{net, thread};

/// The names that are being looked up and have no answer yet.
static ASKED: Mutex<Vec<String>> = Mutex::new(Vec::new());
static ANSWERED: Condvar = Condvar::new();

#[unsafe(no_mangle)]
unsafe extern "C" fn getaddrinfo(
    node: *const c_char,
    _service: *const c_char,
    _hints: *const libc::addrinfo,
    _found: *mut *mut libc::addrinfo,
) -> c_int {
    // SAFETY: the caller passes a string.
    let name = unsafe { CStr::from_ptr(node) }.to_str().unwrap();
    if name.ends_with(".hangs.test") {
        let mut asked = ASKED.lock().unwrap();
        asked.push(name.into());
        while asked.iter().any(|it| it == name) {
            asked = ANSWERED.wait(asked).unwrap();
        }
    }
    libc::EAI_NONAME
}

/// A name without an answer, which was not used before.
fn fresh() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{}.hangs.test", COUNT.fetch_add(1, SeqCst))
}

fn is_asked(name: &str) -> bool {
    ASKED.lock().unwrap().iter().any(|it| it == name)
}

#[track_caller]
fn until_asked(name: &str) {
    until("the name is looked up", || is_asked(name));
}

/// Answers that there is no such name.
fn release(name: &str) {
    ASKED.lock().unwrap().retain(|it| it != name);
    ANSWERED.notify_all();
}

/// Whether a look-up of the name was cancelled.
type Operation = fn(String) -> bool;

const OPERATIONS: [Operation; 4] = [
    |name| is_cancelled(TcpStream::connect((name, 80))),
    |name| is_cancelled(TcpStream::connect((name.as_str(), 80))),
    |name| is_cancelled(TcpStream::connect(format!("{name}:80"))),
    |name| is_cancelled(TcpListener::bind(format!("{name}:0").as_str())),
];

#[test]
fn a_cancel_ends_look_ups_at_once_and_leaves_them_behind() {
    everywhere(|| {
        let cancel = Cancel::new();
        let waiting = OPERATIONS.map(|operation| {
            let names = [fresh(), fresh()];
            let [one, other] = names.clone();
            let goroutine = member(&cancel, move || operation(one));
            let cancel = cancel.clone();
            let thread = thread::spawn(move || cancel.run(|| operation(other)));
            names.iter().for_each(|name| until_asked(name));
            (goroutine, thread, names)
        });
        cancel.cancel();
        for (goroutine, thread, names) in waiting {
            assert!(join(goroutine) && thread.join().unwrap());
            for name in names {
                assert!(is_asked(&name));
                release(&name);
            }
        }
        // Later ones do not begin.
        let name = fresh();
        assert!(cancel.run(|| OPERATIONS.iter().all(|it| it(name.clone()))));
        assert!(!is_asked(&name));
    });
}

#[test]
fn a_look_up_in_a_shield_is_not_reached_and_its_error_is_that_of_std() {
    everywhere(|| {
        let cancel = Cancel::new();
        let name = fresh();
        let theirs = name.clone();
        let shielded = member(&cancel, move || {
            shield(|| TcpStream::connect((theirs, 80)).unwrap_err())
        });
        until_asked(&name);
        cancel.cancel();
        release(&name);
        let error = join(shielded);
        let expected = net::TcpStream::connect("missing.test:80").unwrap_err();
        assert_eq!(error.to_string(), expected.to_string());
        assert_eq!(error.kind(), expected.kind());
    });
}

#[test]
fn a_cancel_ends_a_connect_to_several_addresses() {
    everywhere(|| {
        // One connection fills the queue, and the kernel does not answer the next.
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        full.bind(&any.into()).unwrap();
        full.listen(0).unwrap();
        let silent = full.local_addr().unwrap().as_socket().unwrap();
        let _first = net::TcpStream::connect(silent).unwrap();
        let listener = TcpListener::bind(any).unwrap();
        let addrs = [silent, listener.local_addr().unwrap()];
        let cancel = Cancel::new();
        let connect = member(&cancel, move || {
            is_cancelled(TcpStream::connect(&addrs[..]))
        });
        let connecting = Wait::Write(Descriptor {
            fd: 0,
            deadline: None,
        });
        until_waits(&connect, connecting);
        cancel.cancel();
        assert!(join(connect));
    });
}
