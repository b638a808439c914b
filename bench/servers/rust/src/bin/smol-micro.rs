//! smol without sockets: its global executor, and the channels of `async-channel`, which have no
//! capacity of 0. `chan0` has a capacity of 1.

use async_channel::{Receiver, Sender};
use peers::{Opts, Random, cpu_seconds, opts, resident_bytes, timed};
use smol::future::{poll_once, yield_now};
use smol::lock::{Mutex, RwLock};
use smol::{Task, Timer};
use std::sync::Arc;
use std::time::{Duration, Instant};

async fn join<T>(tasks: Vec<Task<T>>) -> Vec<T> {
    let mut values = Vec::with_capacity(tasks.len());
    for task in tasks {
        values.push(task.await);
    }
    values
}

async fn spawn(n: usize) {
    for _ in 0..n / 1000 {
        join((0..1000).map(|_| smol::spawn(async {})).collect()).await;
    }
}

async fn yields(n: usize) {
    let yields = || async move {
        for _ in 0..n / 2 {
            yield_now().await;
        }
    };
    join(vec![smol::spawn(yields()), smol::spawn(yields())]).await;
}

async fn pingpong(n: usize) {
    let ((a, from_a), (b, from_b)) = (async_channel::bounded(1), async_channel::bounded(1));
    let echo = smol::spawn(async move {
        while let Ok(value) = from_a.recv().await {
            b.send(value).await.unwrap();
        }
    });
    for i in 0..n / 2 {
        a.send(i).await.unwrap();
        from_b.recv().await.unwrap();
    }
    drop(a);
    echo.await;
}

async fn drain(receiver: Receiver<usize>) {
    while receiver.recv().await.is_ok() {}
}

/// Sends `n` values from `ends` tasks to the caller and `ends` - 1 others.
async fn channel(n: usize, ends: usize, (sender, receiver): (Sender<usize>, Receiver<usize>)) {
    for _ in 0..ends {
        let sender = sender.clone();
        let sends = async move {
            for i in 0..n / ends {
                sender.send(i).await.unwrap();
            }
        };
        smol::spawn(sends).detach();
    }
    drop(sender);
    let others = (1..ends).map(|_| smol::spawn(drain(receiver.clone())));
    let others = others.collect();
    drain(receiver).await;
    join(others).await;
}

async fn ready_channel(n: usize) {
    let (sender, receiver) = async_channel::bounded(1);
    for i in 0..n {
        sender.send(i).await.unwrap();
        receiver.recv().await.unwrap();
    }
}

async fn parked(o: &Opts, n: usize) {
    let before = resident_bytes();
    let (sender, receiver) = async_channel::bounded::<()>(1);
    for _ in 0..n {
        let receiver = receiver.clone();
        smol::spawn(async move { receiver.recv().await.ok() }).detach();
    }
    Timer::after(Duration::from_secs(1)).await;
    o.report_parked(n, before);
    sender.close();
}

/// A timer is set by its first poll.
async fn set_timer(time: Duration) -> std::pin::Pin<Box<Timer>> {
    let mut timer = Box::pin(Timer::after(time));
    assert!(poll_once(&mut timer).await.is_none());
    timer
}

async fn timers(o: &Opts, n: usize) {
    let start = Instant::now();
    for _ in 0..n {
        set_timer(Duration::from_secs(30)).await;
    }
    o.per_op("timer_create_stop", n, start);
    let mut random = Random::default();
    let mut timers = Vec::with_capacity(n);
    let start = Instant::now();
    for _ in 0..n {
        let spread = random.below(Duration::from_secs(50));
        timers.push(set_timer(Duration::from_secs(10) + spread).await);
    }
    o.per_op("timer_bulk_create", n, start);
    let start = Instant::now();
    drop(timers);
    o.per_op("timer_bulk_stop", n, start);
}

async fn sleepers(o: &Opts, n: usize) {
    let (cpu, start) = (cpu_seconds(), Instant::now());
    let mut random = Random::default();
    let sleeper = |time: Duration| async move {
        let start = Instant::now();
        Timer::after(time).await;
        start.elapsed().saturating_sub(time).as_micros() as u64
    };
    let tasks = (0..n).map(|_| smol::spawn(sleeper(random.below(Duration::from_secs(1)))));
    let late = join(tasks.collect()).await;
    o.report_sleepers(late, cpu, start);
}

async fn mutex_alone(n: usize) {
    let mutex = Mutex::new(0u64);
    for _ in 0..n {
        *mutex.lock().await += 1;
    }
}

async fn rwlock_alone(n: usize) {
    let lock = RwLock::new(0u64);
    for _ in 0..n {
        drop(lock.read().await);
    }
}

/// `yields` makes the owner yield, so that each other task has to wait.
async fn mutex(n: usize, yields: bool) {
    let mutex = Arc::new(Mutex::new(0u64));
    let body = |mutex: Arc<Mutex<u64>>| async move {
        for _ in 0..n / 8 {
            let mut count = mutex.lock().await;
            *count += 1;
            if yields {
                yield_now().await;
            }
        }
    };
    let tasks = (0..8).map(|_| smol::spawn(body(mutex.clone())));
    join(tasks.collect()).await;
}

async fn run(o: Opts) {
    let bounded = async_channel::bounded;
    let unbounded = async_channel::unbounded;
    timed!(o, "spawn", "spawn_join", 1_000_000, n => spawn(n).await);
    timed!(o, "yield", "yield", 2_000_000, n => yields(n).await);
    timed!(o, "pingpong", "pingpong_switch", 1_000_000, n => pingpong(n).await);
    timed!(o, "chan0", "chan_unbuffered", 1_000_000, n => channel(n, 1, bounded(1)).await);
    timed!(o, "chan1", "chan_1", 1_000_000, n => channel(n, 1, bounded(1)).await);
    timed!(o, "chan128", "chan_128", 2_000_000, n => channel(n, 1, bounded(128)).await);
    timed!(o, "unbounded", "chan_unbounded", 2_000_000, n => channel(n, 1, unbounded()).await);
    timed!(o, "mpmc1", "mpmc_1", 1_000_000, n => channel(n, 4, bounded(1)).await);
    timed!(o, "mpmc128", "mpmc_128", 2_000_000, n => channel(n, 4, bounded(128)).await);
    timed!(o, "mpmcunb", "mpmc_unbounded", 2_000_000, n => channel(n, 4, unbounded()).await);
    timed!(o, "trychan", "chan_ready_send_recv", 4_000_000, n => ready_channel(n).await);
    timed!(o, "mutex1", "mutex_1task", 10_000_000, n => mutex_alone(n).await);
    timed!(o, "mutex", "mutex_8tasks", 2_000_000, n => mutex(n, false).await);
    timed!(o, "mutexpark", "mutex_8tasks_yield", 500_000, n => mutex(n, true).await);
    timed!(o, "rwlock1", "rwlock_read_1task", 10_000_000, n => rwlock_alone(n).await);
    if o.wants("timers") {
        timers(&o, o.count(1_000_000)).await;
    }
    if o.wants("sleepers") {
        sleepers(&o, o.count(100_000)).await;
    }
    if o.wants("parked") {
        parked(&o, o.count(1_000_000)).await;
    }
}

fn main() {
    let o = opts();
    o.set_smol_threads();
    smol::future::block_on(smol::spawn(run(o)));
}
