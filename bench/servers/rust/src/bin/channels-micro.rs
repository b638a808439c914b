//! Channels alone: `--flavor kanal` and `flume` between tasks of tokio, `kanal-threads` and
//! `crossbeam` between kernel threads, for which run.sh runs one worker on one CPU.

use peers::{Opts, opts, timed};
use std::thread;

/// The benchmarks over channels whose operations are futures.
macro_rules! tasks {
    ($name:ident, $bounded:expr, $unbounded:expr, $send:ident, $recv:ident) => {
        mod $name {
            use super::*;

            /// Sends `n` values from `ends` tasks to the caller and `ends` - 1 others.
            async fn channel(n: usize, ends: usize, capacity: Option<usize>) {
                let (sender, receiver) = match capacity {
                    Some(capacity) => $bounded(capacity),
                    None => $unbounded(),
                };
                for _ in 0..ends {
                    let sender = sender.clone();
                    tokio::spawn(async move {
                        for i in 0..n / ends {
                            sender.$send(i).await.unwrap();
                        }
                    });
                }
                drop(sender);
                let mut others = Vec::new();
                for _ in 1..ends {
                    let receiver = receiver.clone();
                    let drain = async move { while receiver.$recv().await.is_ok() {} };
                    others.push(tokio::spawn(drain));
                }
                while receiver.$recv().await.is_ok() {}
                for other in others {
                    other.await.unwrap();
                }
            }

            async fn pingpong(n: usize) {
                let ((a, from_a), (b, from_b)) = ($bounded(0), $bounded(0));
                tokio::spawn(async move {
                    while let Ok(value) = from_a.$recv().await {
                        b.$send(value).await.unwrap();
                    }
                });
                for i in 0..n / 2 {
                    a.$send(i).await.unwrap();
                    from_b.$recv().await.unwrap();
                }
            }

            async fn ready(n: usize) {
                let (sender, receiver) = $bounded(1);
                for i in 0..n {
                    sender.$send(i).await.unwrap();
                    receiver.$recv().await.unwrap();
                }
            }

            async fn all(o: Opts) {
                timed!(o, "pingpong", "pingpong_switch", 1_000_000, n => pingpong(n).await);
                timed!(o, "chan0", "chan_unbuffered", 1_000_000, n => channel(n, 1, Some(0)).await);
                timed!(o, "chan1", "chan_1", 1_000_000, n => channel(n, 1, Some(1)).await);
                timed!(o, "chan128", "chan_128", 2_000_000, n => channel(n, 1, Some(128)).await);
                timed!(o, "unbounded", "chan_unbounded", 2_000_000, n => channel(n, 1, None).await);
                timed!(o, "mpmc0", "mpmc_unbuffered", 1_000_000, n => channel(n, 4, Some(0)).await);
                timed!(o, "mpmc1", "mpmc_1", 1_000_000, n => channel(n, 4, Some(1)).await);
                timed!(o, "mpmc128", "mpmc_128", 2_000_000, n => channel(n, 4, Some(128)).await);
                timed!(o, "mpmcunb", "mpmc_unbounded", 2_000_000, n => channel(n, 4, None).await);
                timed!(o, "trychan", "chan_ready_send_recv", 4_000_000, n => ready(n).await);
            }

            pub fn run(o: Opts) {
                let mut runtime = tokio::runtime::Builder::new_multi_thread();
                let runtime = runtime.worker_threads(o.workers).build().unwrap();
                runtime.block_on(async move { tokio::spawn(all(o)).await.unwrap() });
            }
        }
    };
}

/// The benchmarks over channels whose operations block their thread.
macro_rules! threads {
    ($name:ident, $bounded:expr, $unbounded:expr) => {
        mod $name {
            use super::*;

            /// Sends `n` values from `ends` threads to the caller and `ends` - 1 others.
            fn channel(n: usize, ends: usize, capacity: Option<usize>) {
                let (sender, receiver) = match capacity {
                    Some(capacity) => $bounded(capacity),
                    None => $unbounded(),
                };
                thread::scope(|scope| {
                    for _ in 0..ends {
                        let sender = sender.clone();
                        scope.spawn(move || (0..n / ends).for_each(|i| sender.send(i).unwrap()));
                    }
                    drop(sender);
                    for _ in 1..ends {
                        let receiver = receiver.clone();
                        scope.spawn(move || while receiver.recv().is_ok() {});
                    }
                    while receiver.recv().is_ok() {}
                });
            }

            fn pingpong(n: usize) {
                let ((a, from_a), (b, from_b)) = ($bounded(0), $bounded(0));
                thread::spawn(move || {
                    while let Ok(value) = from_a.recv() {
                        b.send(value).unwrap();
                    }
                });
                for i in 0..n / 2 {
                    a.send(i).unwrap();
                    from_b.recv().unwrap();
                }
            }

            fn ready(n: usize) {
                let (sender, receiver) = $bounded(1);
                for i in 0..n {
                    sender.send(i).unwrap();
                    receiver.recv().unwrap();
                }
            }

            pub fn run(o: &Opts) {
                timed!(o, "pingpong", "pingpong_switch", 100_000, n => pingpong(n));
                timed!(o, "chan0", "chan_unbuffered", 100_000, n => channel(n, 1, Some(0)));
                timed!(o, "chan1", "chan_1", 100_000, n => channel(n, 1, Some(1)));
                timed!(o, "chan128", "chan_128", 1_000_000, n => channel(n, 1, Some(128)));
                timed!(o, "unbounded", "chan_unbounded", 2_000_000, n => channel(n, 1, None));
                timed!(o, "mpmc0", "mpmc_unbuffered", 100_000, n => channel(n, 4, Some(0)));
                timed!(o, "mpmc1", "mpmc_1", 100_000, n => channel(n, 4, Some(1)));
                timed!(o, "mpmc128", "mpmc_128", 1_000_000, n => channel(n, 4, Some(128)));
                timed!(o, "mpmcunb", "mpmc_unbounded", 2_000_000, n => channel(n, 4, None));
                timed!(o, "trychan", "chan_ready_send_recv", 4_000_000, n => ready(n));
            }
        }
    };
}

tasks!(
    kanal_tasks,
    kanal::bounded_async,
    kanal::unbounded_async,
    send,
    recv
);
tasks!(
    flume_tasks,
    flume::bounded,
    flume::unbounded,
    send_async,
    recv_async
);
threads!(kanal_threads, kanal::bounded, kanal::unbounded);
threads!(
    crossbeam_threads,
    crossbeam_channel::bounded,
    crossbeam_channel::unbounded
);

fn sent(n: usize, capacity: usize) -> crossbeam_channel::Receiver<usize> {
    let (sender, receiver) = crossbeam_channel::bounded(capacity);
    thread::spawn(move || (0..n).for_each(|i| sender.send(i).unwrap()));
    receiver
}

fn selects(n: usize, capacity: usize) {
    let (a, b) = (sent(n / 2, capacity), sent(n / 2, capacity));
    loop {
        // A channel whose sender is gone would always be ready.
        crossbeam_channel::select! {
            recv(a) -> value => if value.is_err() { return b.iter().for_each(drop) },
            recv(b) -> value => if value.is_err() { return a.iter().for_each(drop) },
        }
    }
}

fn select_default(n: usize) {
    let (_sender_a, a) = crossbeam_channel::bounded::<()>(0);
    let (_sender_b, b) = crossbeam_channel::bounded::<()>(0);
    for _ in 0..n {
        crossbeam_channel::select! {
            recv(a) -> _ => {}
            recv(b) -> _ => {}
            default => {}
        }
    }
}

fn run_selects(o: &Opts) {
    timed!(o, "select0", "select_unbuffered", 100_000, n => selects(n, 0));
    timed!(o, "select128", "select_128", 1_000_000, n => selects(n, 128));
    timed!(o, "selectdef", "select_default", 4_000_000, n => select_default(n));
}

fn main() {
    let o = opts();
    match o.flavor.as_str() {
        "kanal" => kanal_tasks::run(o),
        "flume" => flume_tasks::run(o),
        "kanal-threads" => kanal_threads::run(&o),
        "crossbeam" => {
            crossbeam_threads::run(&o);
            run_selects(&o);
        }
        other => panic!("{other}: the flavors are kanal, flume, kanal-threads and crossbeam"),
    }
}
