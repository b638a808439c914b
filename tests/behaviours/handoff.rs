//! A goroutine that blocks in the system or computes delays no other goroutine.

use crate::check;
use gopark::net::{TcpListener, TcpStream};
use gopark::{go, yield_now};
use gopark_tests::{Dice, LIMIT, join};
use std::hint;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Never inlined: the compiler could keep the address of a thread-local across a park.
#[inline(never)]
fn thread_here() -> thread::ThreadId {
    thread::current().id()
}

#[test]
fn goroutines_start_while_all_threads_are_blocked() {
    check(|| {
        const BLOCKED: usize = 12;
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..BLOCKED).map(|_| mpsc::channel()).unzip();
        let blocked: Vec<_> = receivers
            .into_iter()
            .map(|news| go(move || news.recv_timeout(LIMIT / 2).expect("the news comes")))
            .collect();
        join(go(move || {
            senders.iter().for_each(|sender| sender.send(()).unwrap())
        }));
        blocked.into_iter().for_each(join);
    });
}

#[test]
fn goroutines_start_while_all_threads_compute() {
    check(|| {
        let stop = Arc::new(AtomicBool::new(false));
        let computing: Vec<_> = (0..6)
            .map(|_| {
                let stop = stop.clone();
                go(move || {
                    let start = Instant::now();
                    while !stop.load(SeqCst) {
                        assert!(start.elapsed() < LIMIT / 2, "the test does not end it");
                        hint::spin_loop();
                    }
                })
            })
            .collect();
        join(go(move || stop.store(true, SeqCst)));
        computing.into_iter().for_each(join);
    });
}

#[test]
fn connections_are_served_while_a_thread_is_blocked() {
    check(|| {
        let (done, news) = mpsc::channel();
        let server = go(move || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let addr = listener.local_addr().unwrap();
            let client = thread::spawn(move || {
                let mut stream = std::net::TcpStream::connect(addr).unwrap();
                for i in 0..100u8 {
                    stream.write_all(&[i]).unwrap();
                    let mut echo = [0];
                    stream.read_exact(&mut echo).unwrap();
                    assert_eq!(echo, [i]);
                }
                done.send(()).unwrap();
            });
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            while stream.read(&mut byte).unwrap() == 1 {
                stream.write_all(&byte).unwrap();
            }
            client.join().unwrap();
        });
        // This thread is blocked from here on, and with one P the server has not started yet.
        news.recv_timeout(LIMIT / 2).expect("the client is served");
        join(server);
    });
}

#[test]
fn a_goroutine_that_returns_from_a_blocking_call_can_use_the_whole_runtime() {
    check(|| {
        let here = go(|| {
            let mut client = None;
            for _ in 0..5 {
                let (sender, news) = mpsc::channel();
                let sends = go(move || sender.send(()).unwrap());
                news.recv_timeout(LIMIT / 2)
                    .expect("another goroutine sends");
                // Its thread has lost its P by now.
                assert_eq!(join(go(|| 7)), 7);
                gopark::go_local(yield_now).join().unwrap();
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                client = Some(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
                listener.accept().unwrap();
                gopark::sleep(Duration::from_micros(100));
                join(sends);
            }
            client.is_some()
        });
        assert!(join(here));
    });
}

#[test]
fn goroutines_bound_to_a_blocked_thread_go_on_when_it_returns() {
    check(|| {
        let (started, theirs) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let neighbours: Vec<_> = (0..4)
            .map(|_| {
                let (started, theirs, stop) = (started.clone(), theirs.clone(), stop.clone());
                go(move || {
                    started.fetch_add(1, SeqCst);
                    while !stop.load(SeqCst) {
                        theirs.fetch_add(1, SeqCst);
                        yield_now();
                    }
                })
            })
            .collect();
        gopark_tests::until("they have started", || started.load(SeqCst) == 4);
        thread::sleep(Duration::from_millis(30));
        let before = theirs.load(SeqCst);
        gopark_tests::until("they run", || theirs.load(SeqCst) > before + 100);
        stop.store(true, SeqCst);
        neighbours.into_iter().for_each(join);
    });
}

#[test]
fn threads_that_share_too_few_procs_take_turns() {
    check(|| {
        // Each of these runs on a thread of its own, because it started while the others blocked
        // their threads.
        const THREADS: usize = 8;
        let meet = Arc::new(std::sync::Barrier::new(THREADS));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let workers: Vec<_> = (0..THREADS)
            .map(|_| {
                let (meet, seen) = (meet.clone(), seen.clone());
                go(move || {
                    gopark::without_parking(|| meet.wait());
                    seen.lock().unwrap().push(thread_here());
                    for round in 0..200 {
                        match round % 3 {
                            0 => gopark::sleep(Duration::from_micros(50)),
                            1 => join(go(|| ())),
                            _ => yield_now(),
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(join);
        let mut seen = seen.lock().unwrap().clone();
        seen.sort_by_key(|id| format!("{id:?}"));
        seen.dedup();
        assert_eq!(seen.len(), THREADS);
    });
}

/// Each computes until it has lost its proc, so that the waiter has a thread of its own.
#[test]
fn a_goroutine_that_is_readied_on_a_thread_without_a_proc_runs_while_others_compute() {
    check(|| {
        const COMPUTING: usize = 6;
        let (sender, receiver) = gopark::chan::bounded::<()>(1);
        let (started, received) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let compute = |until: &dyn Fn() -> bool| {
            let start = Instant::now();
            while !until() {
                assert!(start.elapsed() < LIMIT / 2, "the others do not run");
                hint::spin_loop();
            }
        };
        let waiter = {
            let (started, received) = (started.clone(), received.clone());
            go(move || {
                compute(&|| started.load(SeqCst) == COMPUTING);
                receiver.recv().unwrap();
                received.store(true, SeqCst);
            })
        };
        let computing: Vec<_> = (0..COMPUTING)
            .map(|number| {
                let (sender, started, received) =
                    (sender.clone(), started.clone(), received.clone());
                go(move || {
                    started.fetch_add(1, SeqCst);
                    compute(&|| started.load(SeqCst) == COMPUTING);
                    if number == 0 {
                        sender.send(()).unwrap();
                    }
                    compute(&|| received.load(SeqCst));
                })
            })
            .collect();
        join(waiter);
        computing.into_iter().for_each(join);
    });
}

#[test]
fn all_kinds_of_blocking_at_once_come_to_an_end() {
    check(|| {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let addr = listener.local_addr().unwrap();
        let server = {
            let listener = listener.clone();
            go(move || {
                while let Ok((mut stream, _)) = listener.accept() {
                    go(move || {
                        let mut buffer = [0; 64];
                        while let Ok(n @ 1..) = stream.read(&mut buffer) {
                            stream.write_all(&buffer[..n]).unwrap();
                        }
                    });
                }
            })
        };
        let workers: Vec<_> = (0..24)
            .map(|seed| {
                go(move || {
                    let dice = Dice::new(seed);
                    let mut stream = TcpStream::connect(addr).unwrap();
                    for _ in 0..30 {
                        match dice.below(5) {
                            0 => thread::sleep(Duration::from_millis(dice.below(4))),
                            1 => gopark::sleep(Duration::from_micros(dice.below(500))),
                            2 => join(go(yield_now)),
                            3 => yield_now(),
                            _ => {
                                let (sent, mut got) = ([dice.below(256) as u8; 64], [0; 64]);
                                stream.write_all(&sent).unwrap();
                                stream.read_exact(&mut got).unwrap();
                                assert_eq!(sent, got);
                            }
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(join);
        listener.close().unwrap();
        join(server);
    });
}

#[test]
fn blocking_work_borrows_returns_and_panics_as_if_it_ran_here() {
    check(|| {
        let mut numbers = vec![1, 2, 3];
        let sum = gopark::blocking(|| {
            numbers.push(4);
            numbers.iter().sum::<i32>()
        });
        assert_eq!((sum, numbers.len()), (10, 4));
        let panicked = std::panic::catch_unwind(|| {
            gopark::blocking(|| -> () { std::panic::resume_unwind(Box::new(7)) })
        });
        assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&7));
    });
}

#[test]
fn goroutines_bound_to_the_thread_go_on_during_blocking_work() {
    check(|| {
        let (sender, news) = mpsc::channel();
        let neighbour = gopark::go_local(move || {
            for _ in 0..10 {
                gopark::sleep(Duration::from_micros(100));
            }
            sender.send(()).unwrap();
        });
        gopark::blocking(move || news.recv_timeout(LIMIT / 2).expect("the neighbour goes on"));
        neighbour.join().unwrap();
    });
}

#[test]
fn much_blocking_work_is_done_at_once() {
    check(|| {
        const COUNT: usize = 64;
        let meet = Arc::new(std::sync::Barrier::new(COUNT));
        let workers: Vec<_> = (0..COUNT)
            .map(|_| {
                let meet = meet.clone();
                go(move || gopark::blocking(|| meet.wait()).is_leader())
            })
            .collect();
        assert_eq!(
            workers
                .into_iter()
                .map(join)
                .filter(|&leader| leader)
                .count(),
            1
        );
    });
}
