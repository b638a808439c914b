//! Two classic deadlocks, and gopark's report: the process ends with exit code 2, as in Go, and
//! stderr says where each goroutine waits, and for a mutex, which goroutine holds it.
//!
//! ```text
//! cargo run --example deadlock -- channels|mutexes
//! ```

use gopark::chan::{self, Receiver, Sender};
use gopark::sync::{Arc, Mutex};
use gopark::{JoinHandle, go, set_name, yield_now};

fn main() {
    let deadlock = match std::env::args().nth(1).as_deref() {
        Some("channels") => channels,
        Some("mutexes") => mutexes,
        _ => panic!("the argument is channels or mutexes"),
    };
    gopark::run(|| {
        for goroutine in deadlock() {
            goroutine.join().unwrap();
        }
    });
    unreachable!("both goroutines wait for each other");
}

/// Each goroutine answers what it receives from the other, and none begins.
fn channels() -> [JoinHandle<()>; 2] {
    let (ping, pings) = chan::bounded(1);
    let (pong, pongs) = chan::bounded(1);
    [answer("alice", pings, pong), answer("bob", pongs, ping)]
}

fn answer(name: &'static str, questions: Receiver<u32>, answers: Sender<u32>) -> JoinHandle<()> {
    go(move || {
        set_name(name);
        for question in questions {
            answers.send(question + 1).unwrap();
        }
    })
}

/// Each goroutine moves money, and locks the account that it takes from first.
fn mutexes() -> [JoinHandle<()>; 2] {
    let savings = Arc::new(Mutex::new(100));
    let current = Arc::new(Mutex::new(100));
    [
        transfer("alice", savings.clone(), current.clone()),
        transfer("bob", current, savings),
    ]
}

fn transfer(name: &'static str, from: Arc<Mutex<i32>>, to: Arc<Mutex<i32>>) -> JoinHandle<()> {
    go(move || {
        set_name(name);
        for _ in 0.. {
            let mut from = from.lock().unwrap();
            // The other goroutine can lock its first account here. The remedy: lock accounts in the
            // same order everywhere, for example by their numbers.
            yield_now();
            *to.lock().unwrap() += 1;
            *from -= 1;
        }
    })
}
