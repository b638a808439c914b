//! Random operations at the same time: three Ms, and ordinary threads beside them, spawn, join,
//! send, wait with deadlines that others move, and close what others use. Every byte is checked,
//! and at the end every goroutine and descriptor is gone.
//!
//! `cargo run --release -p gopark-tests --bin stress -- SECONDS [migrate]`
#![allow(
    unsafe_code,
    reason = "`migrate` asks for goroutines that stand it, which these do"
)]

use gopark::net::{Shutdown, TcpListener, TcpStream};
use gopark::{Builder, JoinHandle, PollError, go, go_local, num_goroutines, yield_now};
use gopark_tests::sockets::{listener, narrow_pair, poll_error};
use gopark_tests::{Dice, LIMIT, join, open_files, until_on_thread};
use std::io::{self, ErrorKind, Read, Write};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};
use std::{env, thread};

const GOROUTINES: u64 = 12;
const THREADS: u64 = 2;

/// What an actor does, and how often it was done.
struct Act {
    name: &'static str,
    perform: fn(&Dice),
    done: AtomicU64,
}

impl Act {
    const fn new(name: &'static str, perform: fn(&Dice)) -> Self {
        Act {
            name,
            perform,
            done: AtomicU64::new(0),
        }
    }
}

static ACTS: [Act; 4] = [
    Act::new("streams", stream),
    Act::new("closes", close),
    Act::new("listeners", listen),
    Act::new("trees", tree),
];
static BYTES: AtomicU64 = AtomicU64::new(0);
static TIMEOUTS: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);

fn main() {
    let mut args = env::args().skip(1);
    let seconds = args
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .expect("a number of seconds");
    let mut settings = Builder::new().max_procs(3);
    settings = match args.next().as_deref() {
        None => settings.pollers(2),
        // SAFETY: no goroutine of this process keeps anything bound to a thread across a call that
        // parks.
        Some("migrate") => unsafe { settings.migrate() },
        Some(word) => panic!("{word}? `migrate` or nothing"),
    };
    settings.start().expect("the runtime starts");

    let before = open_files(1024);
    let (done, outcomes) = mpsc::channel();
    for seed in 0..GOROUTINES {
        let done = done.clone();
        drop(go(move || act(seed, &done)));
    }
    for seed in GOROUTINES..GOROUTINES + THREADS {
        let done = done.clone();
        thread::spawn(move || act(seed, &done));
    }
    thread::sleep(Duration::from_secs(seconds));
    STOP.store(true, Relaxed);
    for _ in 0..GOROUTINES + THREADS {
        if let Err(panic) = outcomes.recv_timeout(LIMIT).expect("no actor hangs") {
            panic::resume_unwind(panic);
        }
    }
    until_on_thread("all goroutines have returned", || num_goroutines() == 0);
    assert_eq!(open_files(1024), before);
    for act in &ACTS {
        print!("{} {}, ", act.done.load(Relaxed), act.name);
    }
    println!(
        "{} bytes checked, {} timeouts in {seconds} s",
        BYTES.load(Relaxed),
        TIMEOUTS.load(Relaxed)
    );
}

/// The life of a goroutine or a thread.
fn act(seed: u64, done: &Sender<thread::Result<()>>) {
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        let dice = Dice::new(seed + 1);
        // The first actors do each act once, however short the run.
        let mut choice = seed % ACTS.len() as u64;
        loop {
            let act = &ACTS[choice as usize];
            (act.perform)(&dice);
            act.done.fetch_add(1, Relaxed);
            if STOP.load(Relaxed) {
                return;
            }
            choice = dice.below(ACTS.len() as u64);
        }
    }));
    done.send(outcome).expect("main waits for all");
}

/// Runs `f` in a goroutine, or now and then on a thread of its own.
fn aside(dice: &Dice, f: impl FnOnce(Dice) + Send + 'static) -> JoinHandle<()> {
    let dice = Dice::new(dice.below(u64::MAX));
    match dice.below(16) {
        0 => go(move || {
            let thread = thread::spawn(move || f(dice));
            while !thread.is_finished() {
                gopark::sleep(Duration::from_micros(500));
            }
            thread
                .join()
                .unwrap_or_else(|panic| panic::resume_unwind(panic));
        }),
        _ => go(move || f(dice)),
    }
}

fn pause(dice: &Dice) {
    match dice.below(3) {
        0 => {}
        1 => yield_now(),
        _ => gopark::sleep(Duration::from_micros(dice.below(300))),
    }
}

/// A time near now, so that either outcome is likely; sometimes none, sometimes one that has
/// passed.
fn deadline(dice: &Dice) -> Option<Instant> {
    let micros = dice.below(600);
    (micros < 500)
        .then(|| Instant::now() + Duration::from_micros(micros) - Duration::from_micros(50))
}

/// The byte of a stream at an offset.
fn byte(seed: u64, offset: usize) -> u8 {
    (offset % 251 + offset / 4096) as u8 ^ seed as u8
}

fn assert_timeout(error: &io::Error) {
    assert_eq!(poll_error(error), Some(PollError::Timeout), "{error}");
    TIMEOUTS.fetch_add(1, Relaxed);
    // With a deadline in the past no operation parks, so the goroutine that is to move the deadline
    // might never get this M.
    yield_now();
}

/// How many bytes an operation moved, or `None` if its deadline passed.
fn moved(result: io::Result<usize>) -> Option<usize> {
    result.map_err(|error| assert_timeout(&error)).ok()
}

/// One end writes, the other reads, both with deadlines, and a third goroutine moves the reader's:
/// all bytes arrive, once and in order.
fn stream(dice: &Dice) {
    let (near, far) = narrow_pair();
    let (seed, len) = (dice.below(256), 1 + dice.below(96 << 10) as usize);
    let writer = aside(dice, move |dice| write(far, seed, len, &dice));
    let mover = {
        let near = near.try_clone().unwrap();
        aside(dice, move |dice| {
            for _ in 0..dice.below(20) {
                near.set_read_deadline(deadline(&dice)).unwrap();
                pause(&dice);
            }
        })
    };
    read(near, seed, len, dice);
    join(writer);
    join(mover);
}

fn write(mut to: TcpStream, seed: u64, len: usize, dice: &Dice) {
    let mut sent = 0;
    while sent < len {
        let end = len.min(sent + 1 + dice.below(16 << 10) as usize);
        let block: Vec<u8> = (sent..end).map(|offset| byte(seed, offset)).collect();
        to.set_write_deadline(deadline(dice)).unwrap();
        sent += moved(to.write(&block)).unwrap_or(0);
    }
    to.shutdown(Shutdown::Write).unwrap();
    // The other end resets the connection when it has everything.
    assert_eq!(
        to.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

/// Makes the close a reset: an orderly close would keep the port busy for a minute, and there are
/// only 28 000.
fn leave_no_trace(stream: &TcpStream) {
    stream.set_linger(Some(Duration::ZERO)).unwrap();
}

fn read(mut from: TcpStream, seed: u64, len: usize, dice: &Dice) {
    let mut buffer = vec![0; 1 + dice.below(16 << 10) as usize];
    let mut received = 0;
    loop {
        match moved(from.read(&mut buffer)) {
            None => from.set_read_deadline(None).unwrap(),
            Some(0) => break,
            Some(n) => {
                let expected = |i| byte(seed, received + i);
                assert!(
                    buffer[..n]
                        .iter()
                        .enumerate()
                        .all(|(i, &byte)| byte == expected(i)),
                    "wrong bytes at {received}..+{n}"
                );
                received += n;
            }
        }
    }
    assert_eq!(received, len, "bytes are lost");
    BYTES.fetch_add(len as u64, Relaxed);
    leave_no_trace(&from);
}

/// Closes a connection while others read, write and move deadlines.
fn close(dice: &Dice) {
    let (near, far) = narrow_pair();
    let clone = || near.try_clone().unwrap();
    let (mut reads, mut writes, moves) = (clone(), clone(), clone());
    let ended = |result: io::Result<()>| {
        let error = result.unwrap_err();
        assert_eq!(poll_error(&error), Some(PollError::Closing), "{error}");
    };
    let users = [
        aside(dice, move |_| {
            ended(loop {
                match reads.read(&mut [0; 100]) {
                    Err(error) if error.kind() == ErrorKind::TimedOut => assert_timeout(&error),
                    result => break result.map(|n| panic!("{n} bytes of nothing")),
                }
            })
        }),
        aside(dice, move |_| {
            ended(loop {
                match writes.write_all(&[0; 10_000]) {
                    Err(error) if error.kind() == ErrorKind::TimedOut => assert_timeout(&error),
                    Err(error) => break Err(error),
                    Ok(()) => {}
                }
            })
        }),
        aside(dice, move |dice| {
            ended(loop {
                pause(&dice);
                if let Err(error) = moves.set_deadline(deadline(&dice)) {
                    break Err(error);
                }
            })
        }),
    ];
    pause(dice);
    if dice.below(2) == 0 {
        yield_now();
    }
    leave_no_trace(&near);
    near.close().unwrap();
    users.into_iter().for_each(join);
    drop(far);
}

/// Accepts with deadlines while others connect, until the listener is closed.
fn listen(dice: &Dice) {
    let listener = listener();
    let addr = listener.local_addr().unwrap();
    let acceptors: Vec<_> = (0..1 + dice.below(3))
        .map(|_| {
            let listener = listener.try_clone().unwrap();
            aside(dice, move |dice| accept(&listener, &dice))
        })
        .collect();
    let clients: Vec<_> = (0..dice.below(6))
        .map(|_| {
            aside(dice, move |dice| {
                let mut stream = TcpStream::connect(addr).unwrap();
                let word = dice.below(u64::MAX).to_le_bytes();
                stream.write_all(&word).unwrap();
                let mut back = [0; 8];
                stream.read_exact(&mut back).unwrap();
                assert_eq!(back, word);
                BYTES.fetch_add(8, Relaxed);
                leave_no_trace(&stream);
            })
        })
        .collect();
    clients.into_iter().for_each(join);
    listener.close().unwrap();
    acceptors.into_iter().for_each(join);
}

fn accept(listener: &TcpListener, dice: &Dice) {
    loop {
        if listener.set_deadline(deadline(dice)).is_err() {
            return;
        }
        match listener.accept() {
            Ok((mut stream, _)) => drop(go(move || {
                let mut word = [0; 8];
                stream.read_exact(&mut word).unwrap();
                stream.write_all(&word).unwrap();
            })),
            Err(error) if poll_error(&error) == Some(PollError::Closing) => return,
            Err(error) => assert_timeout(&error),
        }
    }
}

/// Goroutines that spawn goroutines, some detached, some bound to their thread: each counts once.
fn tree(dice: &Dice) {
    let depth = 1 + dice.below(6);
    let seed = dice.below(u64::MAX);
    assert_eq!(
        join(go(move || leaves(depth, &Dice::new(seed)))),
        1 << depth
    );
}

fn leaves(depth: u64, dice: &Dice) -> u64 {
    pause(dice);
    if depth == 0 {
        return 1;
    }
    drop(go(yield_now));
    let half = |local: bool| {
        let seed = dice.below(u64::MAX);
        let grow = move || leaves(depth - 1, &Dice::new(seed));
        if local { go_local(grow) } else { go(grow) }
    };
    let halves = [half(false), half(dice.below(4) == 0)];
    halves.into_iter().map(join).sum()
}
