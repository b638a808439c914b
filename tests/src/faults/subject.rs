//! The program in which faults are injected. It ends by itself whatever fails, and prints what
//! failed:
//!
//! | line | meaning |
//! |---|---|
//! | `trouble WHAT: ERROR` | an operation failed; it was repeated, or its connection was given up |
//! | `broken FACT` | a failure that no fault explains |
//! | `survived` | the end was reached, and one round went without trouble |
//!
//! Its goroutines pass results by `join` alone, except in the arrangement `locks`: there they share
//! a lock of `std`. An unlock whose wake fails is found by sysmon a second later.
#![allow(
    unsafe_code,
    reason = "descriptors are counted, the process stops itself, and limits are set through libc"
)]

use super::{others, seccomp};
use crate::open_files;
use crate::sockets::poll_error;
use gopark::net::{Shutdown, TcpListener, TcpStream};
use gopark::{Builder, JoinHandle, PollError, try_go};
use socket2::SockRef;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Connections in each round.
const CLIENTS: usize = 4;

/// An operation that takes longer has lost its wake-up.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// A dial that takes longer was never started by the kernel.
const DIAL_LIMIT: Duration = Duration::from_secs(1);

/// Bytes of a message and of its echo.
const MESSAGE: usize = 16;

/// Bytes: more than a connection with small buffers takes, so that the writer waits.
const LARGE: usize = 200_000;

/// At most so many rounds, until one is without trouble.
const ROUNDS: usize = 8;

/// How often an operation is repeated after a fault.
const TRIES: usize = 4;

pub(super) struct Trouble {
    what: &'static str,
    error: io::Error,
}

pub(super) type Troubles = Vec<Trouble>;

/// `settings`: the arrangement, then the names of seccomp profiles, and `stop` to raise SIGSTOP
/// before the runtime starts.
pub fn main(settings: &[&str]) -> ExitCode {
    let (arrangement, rest) = settings.split_first().expect("an arrangement");
    for name in rest.iter().filter(|name| **name != "stop") {
        seccomp::enter(name);
    }
    if rest.contains(&"stop") {
        // SAFETY: no memory is passed.
        unsafe { libc::raise(libc::SIGSTOP) };
    }
    if start(arrangement) {
        match *arrangement {
            "locks" => live(contend, |_| {}, 0),
            "others" => {
                let outside = |troubles: &mut Troubles| troubles.extend(others::round());
                live(others::round, outside, others::SPARE_PIPES);
            }
            _ => live(round, outside, 0),
        }
    }
    ExitCode::SUCCESS
}

fn start(arrangement: &str) -> bool {
    let builder = match arrangement {
        "one" => Builder::new().max_procs(1),
        "two" | "locks" | "others" => Builder::new().max_procs(2),
        "shared" => Builder::new().max_procs(2).pollers(1),
        // SAFETY: no goroutine here depends on its thread.
        "migrating" => unsafe { Builder::new().max_procs(2).migrate() },
        "default" => Builder::new(),
        _ => panic!("no arrangement {arrangement}"),
    };
    let before = open_files(256);
    for _ in 0..TRIES {
        match builder.clone().start() {
            Ok(()) => return true,
            Err(error) => tell(&Trouble {
                what: "start",
                error,
            }),
        }
        let after = open_files(256);
        if after != before {
            say(&format!(
                "broken: a failed start has left {before:?} open as {after:?}"
            ));
        }
    }
    say("no start");
    false
}

/// Runs `round` in a goroutine and `outside` on this thread, until both went without trouble. Both
/// ends of at most `pipes` pipes may then be open in addition.
fn live(round: fn() -> Troubles, outside: fn(&mut Troubles), pipes: usize) {
    let before = open_files(256);
    let clean = (0..ROUNDS).any(|_| {
        let mut troubles = Troubles::new();
        if let Some(round) = spawn(&mut troubles, round) {
            collect(&mut troubles, round);
        }
        outside(&mut troubles);
        settle();
        troubles.iter().for_each(tell);
        troubles.is_empty()
    });
    let after = open_files(256);
    let is_pipe = |path: &&PathBuf| path.to_string_lossy().starts_with("pipe:");
    let count = |paths: &[PathBuf]| paths.iter().filter(is_pipe).count();
    let more = count(&after).saturating_sub(count(&before));
    if after.len() != before.len() + more || more > 2 * pipes || pipes == 0 && after != before {
        say(&format!("broken: {before:?} have become {after:?}"));
    }
    if gopark::num_goroutines() != 0 {
        say(&format!(
            "broken: {} goroutines are lost",
            gopark::num_goroutines()
        ));
    }
    if clean {
        say("survived");
    }
}

/// Waits until joined goroutines are no longer counted.
fn settle() {
    let start = Instant::now();
    while gopark::num_goroutines() != 0 && start.elapsed() < LIMIT {
        gopark::sleep(Duration::from_micros(200));
    }
}

/// Connections between goroutines. Returns the troubles.
fn round() -> Troubles {
    let mut troubles = Troubles::new();
    let Some((listener, addr, server)) = serve(&mut troubles) else {
        return troubles;
    };
    let clients: Vec<_> = (0..CLIENTS)
        .filter_map(|n| spawn(&mut troubles, move || client(addr, n)))
        .collect();
    let start = Instant::now();
    gopark::sleep(Duration::from_micros(300));
    if start.elapsed() < Duration::from_micros(300) {
        say("broken: a sleep was too short");
    }
    clients
        .into_iter()
        .for_each(|client| collect(&mut troubles, client));
    note(&mut troubles, "close", listener.close());
    collect(&mut troubles, server);
    troubles
}

/// Goroutines that own a lock of `std` while they sleep. Each blocks its thread when it waits for
/// the lock, until sysmon ends the wait, and parks from then on.
fn contend() -> Troubles {
    const TURNS: usize = 3;
    let mut troubles = Troubles::new();
    let shared = Arc::new((Mutex::new(0), Condvar::new()));
    let owners: Vec<_> = (0..CLIENTS)
        .filter_map(|_| {
            let shared = shared.clone();
            spawn(&mut troubles, move || {
                for _ in 0..TURNS {
                    let mut count = shared.0.lock().unwrap();
                    gopark::sleep(Duration::from_micros(700));
                    *count += 1;
                    shared.1.notify_one();
                    // It ends by a notification, or late.
                    _ = shared.1.wait_timeout(count, Duration::from_millis(2));
                }
                Troubles::new()
            })
        })
        .collect();
    let turns = TURNS * owners.len();
    owners
        .into_iter()
        .for_each(|owner| collect(&mut troubles, owner));
    let count = *shared.0.lock().unwrap();
    if count != turns {
        say(&format!("broken: {turns} turns under a lock count {count}"));
    }
    troubles
}

/// A connection from an ordinary thread.
fn outside(troubles: &mut Troubles) {
    let Some((listener, addr, server)) = serve(troubles) else {
        return;
    };
    troubles.extend(client(addr, CLIENTS));
    note(troubles, "close", listener.close());
    collect(troubles, server);
}

fn serve(troubles: &mut Troubles) -> Option<(TcpListener, SocketAddr, JoinHandle<Troubles>)> {
    let listener = insist(troubles, "bind", || TcpListener::bind("127.0.0.1:0"))?;
    // Connections inherit the size from their listener.
    insist(troubles, "buffer", || {
        SockRef::from(&listener).set_send_buffer_size(16 << 10)
    })?;
    let addr = insist(troubles, "local_addr", || listener.local_addr())?;
    let acceptor = listener.try_clone().expect("a handle costs nothing");
    let server = spawn_once(troubles, move || accept(acceptor))?;
    Some((listener, addr, server))
}

fn accept(listener: TcpListener) -> Troubles {
    let mut troubles = Troubles::new();
    let mut connections = Vec::new();
    loop {
        match listener.accept() {
            Ok((stream, _)) => connections.extend(spawn_once(&mut troubles, move || echo(stream))),
            Err(error) if poll_error(&error) == Some(PollError::Closing) => break,
            Err(error) => {
                troubles.push(Trouble {
                    what: "accept",
                    error,
                });
                if troubles.len() > CLIENTS * TRIES {
                    break;
                }
                gopark::sleep(Duration::from_millis(1));
            }
        }
    }
    connections
        .into_iter()
        .for_each(|connection| collect(&mut troubles, connection));
    troubles
}

/// Echoes messages. The answer to a message that begins with `L` is large.
fn echo(mut stream: TcpStream) -> Troubles {
    let mut troubles = Troubles::new();
    let mut serve = || {
        stream.set_deadline(Some(Instant::now() + LIMIT))?;
        let mut message = [0; MESSAGE];
        loop {
            match stream.read_exact(&mut message) {
                Ok(()) if message[0] == b'L' => stream.write_all(&vec![b'L'; LARGE])?,
                Ok(()) => stream.write_all(&message)?,
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return stream.shutdown(Shutdown::Write);
                }
                Err(error) => return Err(error),
            }
        }
    };
    let served = serve();
    note(&mut troubles, "serve", served);
    troubles
}

fn client(addr: SocketAddr, n: usize) -> Troubles {
    let mut troubles = Troubles::new();
    if let Some(stream) = insist(&mut troubles, "dial", || {
        TcpStream::connect_timeout(&addr, DIAL_LIMIT)
    }) {
        let talked = talk(stream, n);
        note(&mut troubles, "talk", talked);
    }
    troubles
}

fn talk(mut stream: TcpStream, n: usize) -> io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    let nothing = |stream: &mut TcpStream| {
        stream.set_read_deadline(Some(Instant::now() + Duration::from_micros(500)))?;
        match stream.read(&mut [0]) {
            Err(error) if poll_error(&error) == Some(PollError::Timeout) => {
                stream.set_read_deadline(None)
            }
            Err(error) => Err(error),
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => Err(io::Error::other(format!("{n} bytes that were never sent"))),
        }
    };
    nothing(&mut stream)?;
    for turn in 0..3 {
        let message = [b'0' + (4 * n + turn) as u8; MESSAGE];
        let (head, tail) = message.split_at(turn + 1);
        match turn {
            0 => stream.write_all(&message)?,
            _ => whole(
                stream.write_vectored(&[IoSlice::new(head), IoSlice::new(tail)])?,
                MESSAGE,
            )?,
        }
        stream.peek(&mut [0])?;
        let mut answer = [0; MESSAGE];
        let (head, tail) = answer.split_at_mut(turn + 1);
        match turn {
            0 => whole(
                stream.read_vectored(&mut [IoSliceMut::new(head), IoSliceMut::new(tail)])?,
                MESSAGE,
            )?,
            _ => stream.read_exact(&mut answer)?,
        }
        whole(
            answer
                .iter()
                .zip(message)
                .filter(|(a, b)| **a == *b)
                .count(),
            MESSAGE,
        )?;
        gopark::sleep(Duration::from_micros(100 * n as u64));
    }
    stream.write_all(&[b'L'; MESSAGE])?;
    // The writer fills the buffers and waits.
    gopark::sleep(Duration::from_millis(1));
    let mut large = vec![0; LARGE];
    stream.read_exact(&mut large)?;
    stream.shutdown(Shutdown::Write)?;
    whole(stream.read(&mut [0])?, 0)?;
    if n == 0 {
        // The number of a borrowed descriptor stays in use after `close`, by an inert file.
        let _ = stream.as_fd();
        stream.close()?;
    }
    Ok(())
}

fn whole(n: usize, len: usize) -> io::Result<()> {
    if n == len {
        Ok(())
    } else {
        Err(io::Error::other(format!("{n} bytes of {len}")))
    }
}

pub(super) fn note(troubles: &mut Troubles, what: &'static str, result: io::Result<()>) {
    troubles.extend(result.err().map(|error| Trouble { what, error }));
}

fn insist<T>(
    troubles: &mut Troubles,
    what: &'static str,
    mut f: impl FnMut() -> io::Result<T>,
) -> Option<T> {
    for _ in 0..TRIES {
        match f() {
            Ok(value) => return Some(value),
            Err(error) => troubles.push(Trouble { what, error }),
        }
    }
    None
}

fn spawn<T: Send + 'static>(
    troubles: &mut Troubles,
    f: impl FnOnce() -> T + Clone + Send + 'static,
) -> Option<JoinHandle<T>> {
    insist(troubles, "go", || try_go(f.clone()))
}

/// If the goroutine cannot start, what `f` owns is dropped.
fn spawn_once<T: Send + 'static>(
    troubles: &mut Troubles,
    f: impl FnOnce() -> T + Send + 'static,
) -> Option<JoinHandle<T>> {
    try_go(f)
        .map_err(|error| troubles.push(Trouble { what: "go", error }))
        .ok()
}

fn collect(troubles: &mut Troubles, goroutine: JoinHandle<Troubles>) {
    match goroutine.join() {
        Ok(more) => troubles.extend(more),
        Err(payload) => {
            let text = payload
                .downcast_ref::<String>()
                .cloned()
                .unwrap_or_default();
            say(&format!("broken: a goroutine has panicked: {text}"));
        }
    }
}

fn tell(trouble: &Trouble) {
    say(&format!("trouble {}: {}", trouble.what, trouble.error));
}

/// Prints a line, even if some writes fail.
fn say(line: &str) {
    let line = format!("{line}\n");
    let mut rest = line.as_bytes();
    for _ in 0..100 {
        if rest.is_empty() {
            return;
        }
        // SAFETY: `rest` is readable for its length.
        let n = unsafe { libc::write(libc::STDOUT_FILENO, rest.as_ptr().cast(), rest.len()) };
        rest = &rest[n.max(0) as usize..];
    }
}
