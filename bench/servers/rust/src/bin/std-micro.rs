//! Kernel threads and `std::sync`, with smaller counts. `--workers` only names the lines: run.sh
//! runs with one worker on one CPU. std has no timers.

use peers::{Opts, Random, cpu_seconds, opts, resident_bytes, timed};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

fn go<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let thread = thread::Builder::new().stack_size(64 << 10);
    thread.spawn(f).unwrap()
}

fn join<T>(handles: Vec<JoinHandle<T>>) -> Vec<T> {
    let handles = handles.into_iter();
    handles.map(|handle| handle.join().unwrap()).collect()
}

fn spawn(n: usize) {
    for _ in 0..n / 1000 {
        join((0..1000).map(|_| go(|| {})).collect());
    }
}

fn yields(n: usize) {
    let yields = move || (0..n / 2).for_each(|_| thread::yield_now());
    join(vec![go(yields), go(yields)]);
}

fn pingpong(n: usize) {
    let ((a, from_a), (b, from_b)) = (sync_channel(0), sync_channel(0));
    let echo = go(move || from_a.iter().for_each(|value| b.send(value).unwrap()));
    for i in 0..n / 2 {
        a.send(i).unwrap();
        from_b.recv().unwrap();
    }
    drop(a);
    echo.join().unwrap();
}

fn channel(n: usize, capacity: usize) {
    let (sender, receiver) = sync_channel(capacity);
    go(move || (0..n).for_each(|i| sender.send(i).unwrap()));
    receiver.iter().for_each(drop);
}

fn ready_channel(n: usize) {
    let (sender, receiver) = sync_channel(1);
    for i in 0..n {
        sender.send(i).unwrap();
        receiver.recv().unwrap();
    }
}

fn parked(o: &Opts, n: usize) {
    let before = resident_bytes();
    let end = Arc::new((Mutex::new(false), Condvar::new()));
    let wait = |end: Arc<(Mutex<bool>, Condvar)>| {
        let (done, changed) = &*end;
        drop(changed.wait_while(done.lock().unwrap(), |done| !*done));
    };
    let handles = (0..n).map(|_| {
        let end = end.clone();
        go(move || wait(end))
    });
    let handles = handles.collect();
    thread::sleep(Duration::from_secs(1));
    o.report_parked(n, before);
    *end.0.lock().unwrap() = true;
    end.1.notify_all();
    join(handles);
}

fn sleepers(o: &Opts, n: usize) {
    let (cpu, start) = (cpu_seconds(), Instant::now());
    let mut random = Random::default();
    let handles = (0..n).map(|_| {
        let time = random.below(Duration::from_secs(1));
        go(move || {
            let start = Instant::now();
            thread::sleep(time);
            (start.elapsed() - time).as_micros() as u64
        })
    });
    let late = join(handles.collect());
    o.report_sleepers(late, cpu, start);
}

fn mutex_alone(n: usize) {
    let mutex = Mutex::new(0u64);
    for _ in 0..n {
        *mutex.lock().unwrap() += 1;
    }
}

fn rwlock_alone(n: usize) {
    let lock = RwLock::new(0u64);
    for _ in 0..n {
        drop(lock.read().unwrap());
    }
}

/// `yields` makes the owner yield, so that each other thread has to wait.
fn mutex(n: usize, yields: bool) {
    let mutex = Arc::new(Mutex::new(0u64));
    let handles = (0..8).map(|_| {
        let mutex = mutex.clone();
        go(move || {
            for _ in 0..n / 8 {
                let mut count = mutex.lock().unwrap();
                *count += 1;
                if yields {
                    thread::yield_now();
                }
            }
        })
    });
    join(handles.collect());
}

fn main() {
    let o = opts();
    timed!(o, "spawn", "spawn_join", 20_000, n => spawn(n));
    timed!(o, "yield", "yield", 500_000, n => yields(n));
    timed!(o, "pingpong", "pingpong_switch", 100_000, n => pingpong(n));
    timed!(o, "chan0", "chan_unbuffered", 100_000, n => channel(n, 0));
    timed!(o, "chan1", "chan_1", 100_000, n => channel(n, 1));
    timed!(o, "chan128", "chan_128", 1_000_000, n => channel(n, 128));
    timed!(o, "trychan", "chan_ready_send_recv", 4_000_000, n => ready_channel(n));
    timed!(o, "mutex1", "mutex_1task", 10_000_000, n => mutex_alone(n));
    timed!(o, "mutex", "mutex_8tasks", 2_000_000, n => mutex(n, false));
    timed!(o, "mutexpark", "mutex_8tasks_yield", 100_000, n => mutex(n, true));
    timed!(o, "rwlock1", "rwlock_read_1task", 10_000_000, n => rwlock_alone(n));
    if o.wants("sleepers") {
        sleepers(&o, o.count(10_000));
    }
    if o.wants("parked") {
        parked(&o, o.count(10_000));
    }
}
