//! may without sockets. Its channels are unbounded, and it has no timer that can be stopped.
//! `vm.max_map_count` bounds how many coroutines live at once, so `sleepers` and `parked` have
//! fewer.

use may::coroutine::{self, JoinHandle};
use may::go;
use may::sync::{Mutex, mpmc, mpsc};
use peers::{Opts, Random, cpu_seconds, opts, resident_bytes, timed};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn join<T>(handles: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
    let handles = handles.into_iter();
    handles.map(|handle| handle.join().unwrap()).collect()
}

fn spawn(n: usize) {
    for _ in 0..n / 1000 {
        let handles: Vec<_> = (0..1000).map(|_| go!(|| {})).collect();
        join(handles);
    }
}

fn yields(n: usize) {
    let yields = move || (0..n / 2).for_each(|_| coroutine::yield_now());
    let handles = [go!(yields), go!(yields)];
    join(handles);
}

fn pingpong(n: usize) {
    let ((a, from_a), (b, from_b)) = (mpsc::channel(), mpsc::channel());
    let echo = go!(move || from_a.iter().for_each(|value| b.send(value).unwrap()));
    for i in 0..n / 2 {
        a.send(i).unwrap();
        from_b.recv().unwrap();
    }
    drop(a);
    echo.join().unwrap();
}

fn channel(n: usize) {
    let (sender, receiver) = mpsc::channel();
    let sends = go!(move || (0..n).for_each(|i| sender.send(i).unwrap()));
    receiver.iter().for_each(drop);
    sends.join().unwrap();
}

fn parked(o: &Opts, n: usize) {
    let before = resident_bytes();
    let (sender, receiver) = mpmc::channel::<()>();
    let handles: Vec<_> = (0..n)
        .map(|_| {
            let receiver = receiver.clone();
            go!(move || _ = receiver.recv())
        })
        .collect();
    coroutine::sleep(Duration::from_secs(1));
    o.report_parked(n, before);
    (0..n).for_each(|_| sender.send(()).unwrap());
    join(handles);
}

fn sleepers(o: &Opts, n: usize) {
    let (cpu, start) = (cpu_seconds(), Instant::now());
    let mut random = Random::default();
    let handles: Vec<_> = (0..n)
        .map(|_| {
            let time = random.below(Duration::from_secs(1));
            go!(move || {
                let start = Instant::now();
                coroutine::sleep(time);
                start.elapsed().saturating_sub(time).as_micros() as u64
            })
        })
        .collect();
    let late = join(handles);
    o.report_sleepers(late, cpu, start);
}

fn mutex_alone(n: usize) {
    let mutex = Mutex::new(0u64);
    for _ in 0..n {
        *mutex.lock().unwrap() += 1;
    }
}

/// `yields` makes the owner yield, so that each other coroutine has to park.
fn mutex(n: usize, yields: bool) {
    let mutex = Arc::new(Mutex::new(0u64));
    let handles: Vec<_> = (0..8)
        .map(|_| {
            let mutex = mutex.clone();
            go!(move || for _ in 0..n / 8 {
                let mut count = mutex.lock().unwrap();
                *count += 1;
                if yields {
                    coroutine::yield_now();
                }
            })
        })
        .collect();
    join(handles);
}

fn run(o: &Opts) {
    timed!(o, "spawn", "spawn_join", 1_000_000, n => spawn(n));
    timed!(o, "yield", "yield", 2_000_000, n => yields(n));
    timed!(o, "pingpong", "pingpong_switch", 1_000_000, n => pingpong(n));
    timed!(o, "unbounded", "chan_unbounded", 2_000_000, n => channel(n));
    timed!(o, "mutex1", "mutex_1task", 10_000_000, n => mutex_alone(n));
    timed!(o, "mutex", "mutex_8tasks", 2_000_000, n => mutex(n, false));
    timed!(o, "mutexpark", "mutex_8tasks_yield", 500_000, n => mutex(n, true));
    if o.wants("sleepers") {
        sleepers(o, o.count(20_000));
    }
    if o.wants("parked") {
        parked(o, o.count(20_000));
    }
}

fn main() {
    let o = opts();
    may::config().set_workers(o.workers);
    go!(move || run(&o)).join().unwrap();
}
