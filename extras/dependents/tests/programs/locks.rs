//! A program that uses `parking_lot` itself, as one for threads does.

use crate::check;
use dependents::{Ticker, echo_server};
use gopark::net::TcpStream;
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::Arc;

/// A mutex is held over 400 writes and reads of one byte. The second goroutine wants it at once.
#[test]
fn a_mutex_is_held_over_many_writes() {
    check(|| {
        let stream = TcpStream::connect(echo_server().unwrap()).unwrap();
        let stream = Arc::new(Mutex::new(stream));
        let ticker = Ticker::start();
        let writers = [b'a', b'b'].map(|byte| {
            let stream = stream.clone();
            gopark::go_local(move || {
                let mut stream = stream.lock();
                for _ in 0..400 {
                    stream.write_all(&[byte]).unwrap();
                }
                let mut back = [0; 400];
                stream.read_exact(&mut back).unwrap();
                assert!(back.iter().all(|back| *back == byte));
            })
        });
        for writer in writers {
            writer.join().unwrap();
        }
        assert!(ticker.turns() > 0);
        ticker.stop();
    });
}

#[test]
fn a_condition_variable_is_a_barrier_of_a_thousand() {
    const ALL: usize = 1_000;
    check(|| {
        let shared = Arc::new((Mutex::new(0), Condvar::new()));
        let all = Vec::from_iter((0..ALL).map(|_| {
            let shared = shared.clone();
            gopark::go(move || {
                let mut arrived = shared.0.lock();
                *arrived += 1;
                match *arrived {
                    ALL => assert_eq!(shared.1.notify_all(), ALL - 1),
                    _ => shared.1.wait_while(&mut arrived, |arrived| *arrived < ALL),
                }
            })
        }));
        for one in all {
            one.join().unwrap();
        }
    });
}

#[test]
fn readers_hold_a_lock_over_parks_while_writers_wait() {
    check(|| {
        let table = Arc::new(RwLock::new(HashMap::new()));
        let writers = Vec::from_iter((0..10).map(|key| {
            let table = table.clone();
            gopark::go(move || {
                for value in 0..20 {
                    let mut table = table.write();
                    gopark::yield_now();
                    table.insert(key, value);
                }
            })
        }));
        let readers = Vec::from_iter((0..40).map(|_| {
            let table = table.clone();
            gopark::go(move || {
                for _ in 0..20 {
                    let table = table.read();
                    let before = table.clone();
                    gopark::yield_now();
                    assert_eq!(*table, before);
                }
            })
        }));
        for goroutine in writers.into_iter().chain(readers) {
            goroutine.join().unwrap();
        }
        assert_eq!(table.read().values().sum::<i32>(), 190);
    });
}
