//! Ten thousand connections in one process: an echo server and its clients over loopback, with one
//! goroutine for each end. Each client sends its own byte pattern, reads with a deadline, and
//! checks the reply.
//!
//! ```text
//! cargo run --release --example herd -- [--clients 10000] [--secs 10]
//! ```
//!
//! Exit status 1: a byte was lost or wrong, a connection failed, or a reply did not come in time.
//! The last line says which.
#![allow(unsafe_code, reason = "RLIMIT_NOFILE is read and raised through libc")]

use gopark::net::{SocketAddr, TcpListener, TcpStream};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{array, env, fs};

const MESSAGE: usize = 64;

/// How long a client waits for a reply: longer than a busy machine takes.
const PATIENCE: Duration = Duration::from_secs(10);

const USAGE: &str = "herd [--clients 10000] [--secs 10]";

static STOP: AtomicBool = AtomicBool::new(false);
static CONNECTED: AtomicU64 = AtomicU64::new(0);
static ACCEPTED: AtomicU64 = AtomicU64::new(0);
static SENT: AtomicU64 = AtomicU64::new(0);
static RIGHT: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);
static TIMEOUTS: AtomicU64 = AtomicU64::new(0);

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        println!("{USAGE}");
        return Ok(());
    }
    if let Some(wrong) = args
        .chunks(2)
        .find(|pair| pair.len() < 2 || !["--clients", "--secs"].contains(&pair[0].as_str()))
    {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("{}: the options are {USAGE}, each with a number", wrong[0]),
        ));
    }
    let (wanted, secs, limit) = (
        option("--clients", 10_000)?,
        option("--secs", 10)?,
        descriptor_limit(),
    );
    let clients = wanted.min(limit.saturating_sub(64) / 2);
    println!(
        "{clients} of {wanted} clients: each needs two descriptors, and RLIMIT_NOFILE is {limit}"
    );
    gopark::run(|| {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (addr, acceptor) = (listener.local_addr()?, listener.try_clone()?);
        let server = gopark::go(move || accept_all(&acceptor, clients));
        let herd: Vec<_> = (0..clients)
            .map(|id| gopark::go(move || client(addr, id)))
            .collect();
        for second in 1..=secs {
            let before = RIGHT.load(Relaxed);
            gopark::sleep(Duration::from_secs(1));
            let trips = (RIGHT.load(Relaxed) - before) / MESSAGE as u64;
            let (goroutines, threads) = (
                gopark::num_goroutines(),
                fs::read_dir("/proc/self/task")?.count(),
            );
            println!(
                "{second:3} s: {CONNECTED:?} connected, {ACCEPTED:?} accepted, \
                 {trips} round trips/s, {goroutines} goroutines, {threads} threads, \
                 {TIMEOUTS:?} timeouts"
            );
        }
        STOP.store(true, Relaxed);
        let failed: Vec<_> = herd
            .into_iter()
            .filter_map(|client| client.join().unwrap().err())
            .collect();
        listener.close()?;
        let echoed: u64 = server
            .join()
            .unwrap()
            .into_iter()
            .map(|conn| conn.join().unwrap())
            .sum();
        println!(
            "{SENT:?} bytes sent, {echoed} echoed, {RIGHT:?} came back right, {WRONG:?} wrong"
        );
        judge(failed)
    })
}

/// Returns the worst failure as an error. A client that timed out lacks the reply to its last
/// message.
fn judge(failed: Vec<Error>) -> Result<()> {
    let timeouts = TIMEOUTS.load(Relaxed);
    let missing = SENT.load(Relaxed) - RIGHT.load(Relaxed) - WRONG.load(Relaxed);
    if let Some(error) = failed
        .iter()
        .find(|error| error.kind() != ErrorKind::TimedOut)
    {
        Err(Error::new(
            error.kind(),
            format!(
                "{} connections failed, the first with: {error}",
                failed.len() as u64 - timeouts
            ),
        ))
    } else if WRONG.load(Relaxed) > 0 || missing != timeouts * MESSAGE as u64 {
        Err(Error::other(format!(
            "bytes were lost or wrong: {missing} never came back, {WRONG:?} are not what was sent"
        )))
    } else if timeouts > 0 {
        Err(Error::new(
            ErrorKind::TimedOut,
            format!("{timeouts} clients got no reply within {PATIENCE:?}; no byte was wrong"),
        ))
    } else {
        Ok(())
    }
}

/// Returns the number after `name` on the command line.
fn option(name: &str, default: u64) -> Result<u64> {
    let Some(value) = env::args().skip_while(|arg| arg != name).nth(1) else {
        return Ok(default);
    };
    value.parse().map_err(|_| {
        Error::new(
            ErrorKind::InvalidInput,
            format!("{name}: {value:?} is not a number"),
        )
    })
}

/// Accepts until the listener is closed. Returns the goroutines of the connections.
fn accept_all(listener: &TcpListener, clients: u64) -> Vec<gopark::JoinHandle<u64>> {
    let start = Instant::now();
    let serve = |conn| {
        if ACCEPTED.fetch_add(1, Relaxed) + 1 == clients {
            println!(
                "all {clients} were accepted after {:.2} s",
                start.elapsed().as_secs_f64()
            );
        }
        gopark::go(move || echo(conn))
    };
    listener
        .incoming()
        .map_while(Result::ok)
        .map(serve)
        .collect()
}

fn echo(mut conn: TcpStream) -> u64 {
    let (mut buffer, mut echoed) = ([0; MESSAGE], 0);
    while let Ok(count @ 1..) = conn.read(&mut buffer) {
        echoed += conn
            .write_all(&buffer[..count])
            .map_or(0, |()| count as u64);
    }
    echoed
}

fn client(addr: SocketAddr, id: u64) -> Result<()> {
    let mut conn = TcpStream::connect(addr)?;
    CONNECTED.fetch_add(1, Relaxed);
    let mut reply = [0; MESSAGE];
    for round in (0..).take_while(|_| !STOP.load(Relaxed)) {
        let message: [u8; MESSAGE] = array::from_fn(|i| (id * 31 + round * 7 + i as u64) as u8);
        conn.write_all(&message)?;
        SENT.fetch_add(MESSAGE as u64, Relaxed);
        conn.set_read_deadline(Some(Instant::now() + PATIENCE))?;
        let count_timeout = |error: &Error| {
            _ = TIMEOUTS.fetch_add((error.kind() == ErrorKind::TimedOut).into(), Relaxed)
        };
        conn.read_exact(&mut reply).inspect_err(count_timeout)?;
        let count = if reply == message { &RIGHT } else { &WRONG };
        count.fetch_add(MESSAGE as u64, Relaxed);
    }
    Ok(())
}

/// Raises the soft limit of descriptors to the hard limit. Returns the limit that is then in force.
fn descriptor_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid rlimit. A call that fails leaves the limit unchanged.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    limit.rlim_cur
}
