//! Look-ups of host names that do not end: under a cancel, shared, and a thousand at once.
//!
//! This file defines `getaddrinfo`, which the program then calls in place of that of the C library.
//! A name of the form `NUMBER.hangs.test` has no answer until it is released. No name exists.
#![allow(
    unsafe_code,
    reason = "a function of the C library is replaced for this process"
)]

use super::cancel::{everywhere, is_cancelled, member};
use super::sync::{until_all_wait, until_waits};
use gopark::net::{Dialer, SocketAddr, TcpListener, TcpStream};
use gopark::sync::Cancel;
use gopark::{PollError, go, poll_error, shield, yield_now};
use gopark_core::watch::{Descriptor, Wait};
use gopark_tests::{join, until};
use socket2::{Domain, Socket, Type};
use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;
use std::{io, net, thread};

/// The names that are being looked up and have no answer yet, once for each call.
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

/// Runs a behaviour while no other test of this file runs: some take all places for look-ups.
fn apart(behaviour: fn()) {
    static APART: Mutex<()> = Mutex::new(());
    let _apart = APART.lock().unwrap_or_else(PoisonError::into_inner);
    everywhere(behaviour);
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
    apart(|| {
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
    apart(|| {
        let cancel = Cancel::new();
        let name = fresh();
        let theirs = name.clone();
        let shielded = member(&cancel, move || {
            shield(|| TcpStream::connect((theirs, 80)).unwrap_err())
        });
        until_asked(&name);
        cancel.cancel();
        release(&name);
        assert_is_missing(&name, &join(shielded));
    });
}

/// Fails unless it is the error of `std`, with the name before it.
#[track_caller]
fn assert_is_missing(name: &str, error: &io::Error) {
    let expected = net::TcpStream::connect("missing.test:80").unwrap_err();
    assert_eq!(error.to_string(), format!("lookup {name}: {expected}"));
    assert_eq!(error.kind(), expected.kind());
}

fn count_asked(name: &str) -> usize {
    ASKED
        .lock()
        .unwrap()
        .iter()
        .filter(|it| *it == name)
        .count()
}

#[test]
fn look_ups_of_one_name_share_a_call_which_outlives_the_first() {
    apart(|| {
        let name = fresh();
        let connect = |cancel: &Cancel| {
            let name = name.clone();
            member(cancel, move || TcpStream::connect((name, 80)).unwrap_err())
        };
        let [first, rest] = [(); 2].map(|()| Cancel::new());
        let leader = connect(&first);
        until_asked(&name);
        let followers = [(); 5].map(|()| connect(&rest));
        until_all_wait(&followers, Wait::Semaphore);
        let leaves = connect(&first);
        until_waits(&leaves, Wait::Semaphore);
        first.cancel();
        for left in [leader, leaves] {
            assert_eq!(poll_error(&join(left)), Some(PollError::Cancelled));
        }
        assert_eq!(count_asked(&name), 1);
        release(&name);
        for follower in followers {
            assert_is_missing(&name, &join(follower));
        }
        // The next one asks again. Another port is another call.
        let again = connect(&rest);
        until_asked(&name);
        let other = name.clone();
        let other = go(move || TcpStream::connect((other, 81)).unwrap_err());
        until("both are asked", || count_asked(&name) == 2);
        release(&name);
        for look_up in [again, other] {
            assert_is_missing(&name, &join(look_up));
        }
    });
}

/// The limit for look-ups at once, with the default of `Builder::max_threads`.
const MOST: usize = 64;

#[test]
fn a_thousand_names_at_once_stop_no_other_goroutine_and_end_in_time() {
    apart(|| {
        let names: Vec<_> = (0..1000).map(|_| fresh()).collect();
        let asked = || names.iter().filter(|name| is_asked(name)).count();
        let cancel = Cancel::new();
        let timeout = Duration::from_millis(50);
        let connects: Vec<_> = names
            .iter()
            .cloned()
            .enumerate()
            .map(|(at, name)| match at % 2 {
                0 => member(&cancel, move || {
                    is_cancelled(TcpStream::connect((name, 80)))
                }),
                _ => go(move || {
                    let error = Dialer::new().timeout(timeout).dial((name, 80)).unwrap_err();
                    poll_error(&error) == Some(PollError::Timeout)
                }),
            })
            .collect();
        until("a look-up hangs", || asked() > 0);
        assert_eq!(gopark::blocking(|| 6 * 7), 42);
        join(go(yield_now));
        let (cancelled, late): (Vec<_>, Vec<_>) = connects
            .into_iter()
            .enumerate()
            .partition(|(at, _)| at % 2 == 0);
        assert!(late.into_iter().all(|(_, connect)| join(connect)));
        cancel.cancel();
        assert!(cancelled.into_iter().all(|(_, connect)| join(connect)));
        assert!((1..=MOST).contains(&asked()), "{}", asked());
        names.iter().for_each(|name| release(name));
        // The calls that were left behind have given their places back.
        let fresh = [(); MOST].map(|()| fresh());
        let later = fresh
            .clone()
            .map(|name| go(move || TcpStream::connect((name, 80)).is_err()));
        until("all are looked up", || {
            fresh.iter().all(|name| is_asked(name))
        });
        fresh.iter().for_each(|name| release(name));
        assert!(later.into_iter().all(join));
    });
}

#[test]
fn a_look_up_that_waits_for_its_turn_leaves_it_to_those_that_share_it() {
    apart(|| {
        let busy = [(); MOST].map(|()| fresh());
        let held = busy
            .clone()
            .map(|name| go(move || TcpStream::connect((name, 80)).is_err()));
        until("all are looked up", || {
            busy.iter().all(|name| is_asked(name))
        });
        let name = fresh();
        let connect = |cancel: &Cancel| {
            let name = name.clone();
            member(cancel, move || TcpStream::connect((name, 80)).unwrap_err())
        };
        let [first, rest] = [(); 2].map(|()| Cancel::new());
        let leader = connect(&first);
        until_waits(&leader, Wait::Semaphore);
        let follower = connect(&rest);
        until_waits(&follower, Wait::Semaphore);
        first.cancel();
        assert_eq!(poll_error(&join(leader)), Some(PollError::Cancelled));
        assert!(!is_asked(&name));
        busy.iter().for_each(|name| release(name));
        assert!(held.into_iter().all(join));
        until_asked(&name);
        release(&name);
        assert_is_missing(&name, &join(follower));
    });
}

#[test]
fn a_cancel_ends_a_connect_to_several_addresses() {
    apart(|| {
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
