//! Programs whose goroutines hold the locks of `std` while they park. Each comes to an end if a
//! goroutine that waits for a lock does not keep its thread from the others, and may hang
//! otherwise.

mod chat;
mod pool;

pub use chat::chat;
pub use pool::pool;

use crate::sockets::{listener, pair};
use crate::{Dice, join};
use gopark::net::TcpStream;
use gopark::{JoinHandle, go, sleep, yield_now};
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Condvar, LazyLock, Mutex, Once, OnceLock, RwLock};
use std::thread;
use std::time::Duration;

/// The programs by name.
pub const PROGRAMS: [(&str, fn()); 9] = [
    ("writes", writes),
    ("chat", || chat(200, 3)),
    ("meeting", || meeting(1_000)),
    ("barrier", barrier),
    ("initializers", initializers),
    ("readers", readers),
    ("pool", pool),
    ("nested", nested),
    ("thread", with_a_thread),
];

#[track_caller]
fn start<F: FnOnce() + Send + 'static>(count: usize, make: impl Fn(usize) -> F) -> Workers {
    let mut workers = Vec::with_capacity(count);
    for number in 0..count {
        workers.push(go(make(number)));
    }
    Workers(workers)
}

struct Workers(Vec<JoinHandle<()>>);

impl Workers {
    #[track_caller]
    fn join(self) {
        self.0.into_iter().for_each(join);
    }
}

/// Two goroutines write to one connection, byte by byte, under one Mutex. Operations that need not
/// wait yield now and then.
pub fn writes() {
    const BYTES: usize = 200;
    let (stream, mut peer) = pair();
    let reads = go(move || io::copy(&mut peer, &mut io::sink()).unwrap());
    let stream = Arc::new(Mutex::new(stream));
    start(2, |_| {
        let stream = stream.clone();
        move || {
            let mut stream = stream.lock().unwrap();
            (0..BYTES).for_each(|_| stream.write_all(b"x").unwrap());
        }
    })
    .join();
    drop(stream);
    assert_eq!(join(reads), 2 * BYTES as u64);
}

/// Each of `members` goroutines waits in a Condvar until all have come.
pub fn meeting(members: usize) {
    let shared = Arc::new((Mutex::new(0), Condvar::new()));
    start(members, |_| {
        let shared = shared.clone();
        move || {
            let mut come = shared.0.lock().unwrap();
            *come += 1;
            if *come == members {
                shared.1.notify_all();
            }
            let all = shared.1.wait_while(come, |come| *come < members).unwrap();
            assert_eq!(*all, members);
        }
    })
    .join();
}

/// Goroutines meet at a Barrier, twice a turn.
pub fn barrier() {
    const MEMBERS: usize = 30;
    const TURNS: usize = 10;
    let shared = Arc::new((
        Barrier::new(MEMBERS),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    ));
    start(MEMBERS, |_| {
        let shared = shared.clone();
        move || {
            let (barrier, come, leaders) = &*shared;
            for turn in 1..=TURNS {
                come.fetch_add(1, SeqCst);
                if barrier.wait().is_leader() {
                    leaders.fetch_add(1, SeqCst);
                }
                assert!(come.load(SeqCst) >= turn * MEMBERS);
                barrier.wait();
            }
        }
    })
    .join();
    assert_eq!(shared.2.load(SeqCst), TURNS);
}

/// Initializers of a OnceLock, a LazyLock and a Once that park. The first dials.
pub fn initializers() {
    type Lazy = LazyLock<u8, Box<dyn FnOnce() -> u8 + Send>>;
    let listener = listener();
    let address = listener.local_addr().unwrap();
    let server = go(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(&[byte[0] + 1]).unwrap();
    });
    let dial = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let mut byte = [6];
        stream.write_all(&byte).unwrap();
        stream.read_exact(&mut byte).unwrap();
        byte[0]
    };
    let lazy: Lazy = LazyLock::new(Box::new(|| {
        sleep(Duration::from_micros(100));
        8
    }));
    let shared = Arc::new((OnceLock::new(), lazy, Once::new(), AtomicUsize::new(0)));
    start(20, |_| {
        let shared = shared.clone();
        move || {
            let (cell, lazy, once, runs) = &*shared;
            assert_eq!(*cell.get_or_init(dial), 7);
            assert_eq!(**lazy, 8);
            once.call_once(|| {
                yield_now();
                runs.fetch_add(1, SeqCst);
            });
            assert_eq!(runs.load(SeqCst), 1);
        }
    })
    .join();
    join(server);
}

/// Goroutines read and write a pair of numbers under a RwLock, and park in between.
pub fn readers() {
    const TURNS: u32 = 20;
    let shared = Arc::new(RwLock::new((0, 0)));
    start(9, |number| {
        let shared = shared.clone();
        move || {
            for _ in 0..TURNS {
                if number % 3 == 0 {
                    let mut pair = shared.write().unwrap();
                    pair.0 += 1;
                    sleep(Duration::from_micros(50));
                    pair.1 += 1;
                } else {
                    let pair = shared.read().unwrap();
                    let first = pair.0;
                    yield_now();
                    assert_eq!((first, first), *pair);
                }
            }
        }
    })
    .join();
    assert_eq!(*shared.read().unwrap(), (3 * TURNS, 3 * TURNS));
}

/// Goroutines lock a second Mutex while they hold a first one.
pub fn nested() {
    const TURNS: usize = 20;
    let shared = Arc::new((Mutex::new(0), Mutex::new(0)));
    start(8, |number| {
        let shared = shared.clone();
        move || {
            for _ in 0..TURNS {
                let outer = (number % 2 == 0).then(|| {
                    let mut outer = shared.0.lock().unwrap();
                    *outer += 1;
                    yield_now();
                    outer
                });
                let mut inner = shared.1.lock().unwrap();
                yield_now();
                *inner += 1;
                drop(outer);
                yield_now();
            }
        }
    })
    .join();
    assert_eq!(*shared.0.lock().unwrap(), 4 * TURNS);
    assert_eq!(*shared.1.lock().unwrap(), 8 * TURNS);
}

/// Goroutines and an ordinary thread share a Mutex, which they hold while they park. All go on
/// until both sides have done their steps.
pub fn with_a_thread() {
    const STEPS: usize = 100;
    let steps = Arc::new(Mutex::new([0; 2]));
    let side = |side: usize, seed: u64, pause: fn()| {
        let steps = steps.clone();
        move || {
            let dice = Dice::new(seed);
            loop {
                let mut steps = steps.lock().unwrap();
                steps[side] += 1;
                if steps.iter().all(|&steps| steps >= STEPS) {
                    return;
                }
                pause();
                drop(steps);
                (0..=dice.below(2)).for_each(|_| pause());
            }
        }
    };
    let thread = thread::spawn(side(0, 0, thread::yield_now));
    start(4, |number| side(1, number as u64 + 1, yield_now)).join();
    gopark::blocking(|| thread.join().unwrap());
}
