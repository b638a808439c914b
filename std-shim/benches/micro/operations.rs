//! What is measured without a socket: each function does `n` operations.
//!
//! `micro` times them, and the programs in `benches/plain` count their instructions.

use gopark::chan::{self, Receiver, Sender};
use gopark::sync::{Arc, Mutex, RwLock};
use gopark::time::{Duration, Timer};
use gopark::{JoinHandle, go, select, thread, yield_now};

pub(crate) fn spawn(n: usize) {
    for _ in 0..n / 1000 {
        join_all((0..1000).map(|_| go(|| {})).collect());
    }
}

pub(crate) fn join_all(goroutines: Vec<JoinHandle<()>>) {
    for goroutine in goroutines {
        goroutine.join().unwrap();
    }
}

pub(crate) fn wait_group(n: usize) {
    for _ in 0..n / 1000 {
        let group = Arc::new(gopark::sync::WaitGroup::new());
        (0..1000).for_each(|_| drop(group.go(|| {})));
        group.wait();
    }
}

/// Runs `f` in several goroutines at once.
fn together(goroutines: usize, f: impl FnOnce() + Clone + Send + 'static) {
    join_all((0..goroutines).map(|_| go(f.clone())).collect());
}

pub(crate) fn yields(n: usize) {
    together(2, move || (0..n / 2).for_each(|_| yield_now()));
}

pub(crate) fn pingpong(n: usize) {
    let ((a, from_a), (b, from_b)) = (chan::bounded(0), chan::bounded(0));
    let echo = go(move || from_a.iter().for_each(|value| b.send(value).unwrap()));
    for i in 0..n / 2 {
        a.send(i).unwrap();
        from_b.recv().unwrap();
    }
    drop(a);
    echo.join().unwrap();
}

fn make(capacity: Option<usize>) -> (Sender<usize>, Receiver<usize>) {
    capacity.map_or_else(chan::unbounded, chan::bounded)
}

/// Sends `n` values from `ends` goroutines to the caller and `ends` - 1 others.
pub(crate) fn channel(n: usize, ends: usize, capacity: Option<usize>) {
    let (sender, receiver) = make(capacity);
    for _ in 0..ends {
        let sender = sender.clone();
        go(move || (0..n / ends).for_each(|i| sender.send(i).unwrap()));
    }
    drop(sender);
    let others = (1..ends).map(|_| receiver.clone());
    let others = others.map(|receiver| go(move || receiver.iter().for_each(drop)));
    let others = others.collect();
    receiver.iter().for_each(drop);
    join_all(others);
}

/// A send and a receive by one goroutine.
pub(crate) fn ready_channel(n: usize) {
    let (sender, receiver) = chan::bounded(1);
    for i in 0..n {
        sender.send(i).unwrap();
        receiver.recv().unwrap();
    }
}

pub(crate) fn selects(n: usize, capacity: usize) {
    let (a, b) = (make(Some(capacity)), make(Some(capacity)));
    for sender in [a.0, b.0] {
        go(move || (0..n / 2).for_each(|i| sender.send(i).unwrap()));
    }
    for _ in 0..n / 2 * 2 {
        // A channel whose sender is gone would always be ready.
        select! {
            recv(a.1) -> value => if value.is_err() { return b.1.iter().for_each(drop) },
            recv(b.1) -> value => if value.is_err() { return a.1.iter().for_each(drop) },
        }
    }
}

pub(crate) fn select_default(n: usize) {
    let (_senders, receivers) = (make(Some(0)), make(Some(0)));
    for _ in 0..n {
        select! {
            recv(receivers.1) -> _ => {}
            recv(_senders.1) -> _ => {}
            default => {}
        }
    }
}

pub(crate) fn mutex_alone(n: usize) {
    let mutex = Mutex::new(0_u64);
    for _ in 0..n {
        *mutex.lock().unwrap() += 1;
    }
}

pub(crate) fn rwlock_alone(n: usize) {
    let lock = RwLock::new(0_u64);
    for _ in 0..n {
        drop(lock.read().unwrap());
    }
}

pub(crate) fn mutex(n: usize) {
    let mutex = Arc::new(Mutex::new(0_u64));
    together(8, move || {
        (0..n / 8).for_each(|_| *mutex.lock().unwrap() += 1)
    });
}

/// The owner yields in its critical section, so that each other goroutine has to park.
pub(crate) fn mutex_yields(n: usize) {
    let mutex = Arc::new(Mutex::new(0_u64));
    together(8, move || {
        for _ in 0..n / 8 {
            let mut count = mutex.lock().unwrap();
            *count += 1;
            yield_now();
        }
    });
}

/// Two goroutines want the lock at once: the owner yields in its critical section, so the other has
/// to park. The owner yields once more after it, so the other takes its turn: if the owner locked
/// again at once, the other would get the lock after a millisecond.
pub(crate) fn mutex_contended(n: usize) {
    let mutex = Arc::new(Mutex::new(0_u64));
    together(2, move || {
        for _ in 0..n / 2 {
            let mut count = mutex.lock().unwrap();
            *count += 1;
            yield_now();
            drop(count);
            yield_now();
        }
    });
}

/// Two goroutines ready each other and park in turn. Each time is one `unpark` and one park.
pub(crate) fn park_ready(n: usize) {
    let caller = thread::current();
    let other = go(move || {
        for _ in 0..n / 2 {
            thread::park();
            caller.unpark();
        }
    });
    for _ in 0..n / 2 {
        other.thread().unpark();
        thread::park();
    }
    other.join().unwrap();
}

/// A timer is armed and stopped.
pub(crate) fn timers(n: usize) {
    (0..n).for_each(|_| _ = Timer::new(Duration::from_secs(30)).stop());
}
