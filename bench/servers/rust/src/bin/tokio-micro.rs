//! tokio without sockets. `--flavor ct` takes the current_thread runtime. Its `mpsc` has no
//! capacity of 0, so `chan0` and `select0` have 1, and one receiver.

use peers::{Opts, Random, cpu_seconds, opts, resident_bytes, timed};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::sync::mpsc::{self, Receiver};
use tokio::sync::{Mutex, Notify, RwLock};
use tokio::task::{JoinHandle, unconstrained, yield_now};
use tokio::time::Sleep;

async fn join<T>(tasks: Vec<JoinHandle<T>>) -> Vec<T> {
    let mut values = Vec::with_capacity(tasks.len());
    for task in tasks {
        values.push(task.await.unwrap());
    }
    values
}

async fn spawn(n: usize) {
    for _ in 0..n / 1000 {
        join((0..1000).map(|_| tokio::spawn(async {})).collect()).await;
    }
}

async fn yields(n: usize) {
    let yields = || async move {
        for _ in 0..n / 2 {
            yield_now().await;
        }
    };
    join(vec![tokio::spawn(yields()), tokio::spawn(yields())]).await;
}

async fn pingpong(n: usize) {
    let ((a, mut from_a), (b, mut from_b)) = (mpsc::channel(1), mpsc::channel(1));
    tokio::spawn(async move {
        while let Some(value) = from_a.recv().await {
            b.send(value).await.unwrap();
        }
    });
    for i in 0..n / 2 {
        a.send(i).await.unwrap();
        from_b.recv().await.unwrap();
    }
}

fn sent(n: usize, capacity: usize) -> Receiver<usize> {
    let (sender, receiver) = mpsc::channel(capacity);
    tokio::spawn(async move {
        for i in 0..n {
            sender.send(i).await.unwrap();
        }
    });
    receiver
}

async fn channel(n: usize, capacity: usize) {
    let mut receiver = sent(n, capacity);
    while receiver.recv().await.is_some() {}
}

async fn unbounded(n: usize) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move { (0..n).for_each(|i| sender.send(i).unwrap()) });
    while receiver.recv().await.is_some() {}
}

async fn ready_channel(n: usize) {
    let (sender, mut receiver) = mpsc::channel(1);
    for i in 0..n {
        sender.send(i).await.unwrap();
        receiver.recv().await.unwrap();
    }
}

async fn selects(n: usize, capacity: usize) {
    let (mut a, mut b) = (sent(n / 2, capacity), sent(n / 2, capacity));
    loop {
        // A channel whose sender is gone disables its branch.
        tokio::select! {
            Some(_) = a.recv() => {}
            Some(_) = b.recv() => {}
            else => return,
        }
    }
}

async fn parked(o: &Opts, n: usize) {
    let before = resident_bytes();
    let end = Arc::new(Notify::new());
    for _ in 0..n {
        let end = end.clone();
        tokio::spawn(async move { end.notified().await });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    o.report_parked(n, before);
    end.notify_waiters();
}

/// A timer is set by its first poll.
fn set_timer(context: &mut Context<'_>, time: Duration) -> Pin<Box<Sleep>> {
    let mut timer = Box::pin(tokio::time::sleep(time));
    assert!(timer.as_mut().poll(context).is_pending());
    timer
}

async fn timers(o: &Opts, n: usize) {
    let start = Instant::now();
    let set_and_stop = poll_fn(|context| {
        (0..n).for_each(|_| drop(set_timer(context, Duration::from_secs(30))));
        Poll::Ready(())
    });
    unconstrained(set_and_stop).await;
    o.per_op("timer_create_stop", n, start);
    let mut random = Random::default();
    let mut timers = Vec::with_capacity(n);
    let start = Instant::now();
    let set = poll_fn(|context| {
        for _ in 0..n {
            let spread = random.below(Duration::from_secs(50));
            timers.push(set_timer(context, Duration::from_secs(10) + spread));
        }
        Poll::Ready(())
    });
    unconstrained(set).await;
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
        tokio::time::sleep(time).await;
        start.elapsed().saturating_sub(time).as_micros() as u64
    };
    let tasks = (0..n).map(|_| tokio::spawn(sleeper(random.below(Duration::from_secs(1)))));
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
    let tasks = (0..8).map(|_| tokio::spawn(body(mutex.clone())));
    join(tasks.collect()).await;
}

async fn run(o: Opts) {
    timed!(o, "spawn", "spawn_join", 1_000_000, n => spawn(n).await);
    timed!(o, "yield", "yield", 2_000_000, n => yields(n).await);
    timed!(o, "pingpong", "pingpong_switch", 1_000_000, n => pingpong(n).await);
    timed!(o, "chan0", "chan_unbuffered", 1_000_000, n => channel(n, 1).await);
    timed!(o, "chan1", "chan_1", 1_000_000, n => channel(n, 1).await);
    timed!(o, "chan128", "chan_128", 2_000_000, n => channel(n, 128).await);
    timed!(o, "unbounded", "chan_unbounded", 2_000_000, n => unbounded(n).await);
    timed!(o, "trychan", "chan_ready_send_recv", 4_000_000, n => ready_channel(n).await);
    timed!(o, "select0", "select_unbuffered", 1_000_000, n => selects(n, 1).await);
    timed!(o, "select128", "select_128", 1_000_000, n => selects(n, 128).await);
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
    let mut runtime = match o.flavor.as_str() {
        "ct" => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(o.workers).enable_all().build();
    let runtime = runtime.unwrap();
    runtime.block_on(async move { tokio::spawn(run(o)).await.unwrap() });
}
