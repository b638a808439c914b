//! Ten thousand connections in one process: an echo server and its clients over loopback, each end a goroutine. Each client sends
//! patterns of its own, reads with a deadline, and checks what comes back. Exit status 1: a byte was lost or wrong.
//!
//! `cargo run --release --example herd -- [--clients 10000] [--secs 10]`
#![allow(unsafe_code, reason = "RLIMIT_NOFILE")]

use gopark::net::{SocketAddr, TcpListener, TcpStream};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{array, env, fs};

const MESSAGE: usize = 64;
static STOP: AtomicBool = AtomicBool::new(false);
static SENT: AtomicU64 = AtomicU64::new(0);
static RIGHT: AtomicU64 = AtomicU64::new(0);
static TIMEOUTS: AtomicU64 = AtomicU64::new(0);

fn main() -> Result<()> {
    let option = |name, default| env::args().skip_while(|arg| arg != name).nth(1).map_or(default, |n| n.parse().expect(name));
    let (wanted, limit) = (option("--clients", 10_000), descriptor_limit());
    let clients = wanted.min(limit.saturating_sub(64) / 2);
    println!("{clients} of {wanted} clients: each takes two descriptors, and RLIMIT_NOFILE is {limit}");
    gopark::run(|| {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (addr, acceptor) = (listener.local_addr()?, listener.try_clone()?);
        let serve = |conn| gopark::go(move || echo(conn));
        let server = gopark::go(move || acceptor.incoming().map_while(Result::ok).map(serve).collect::<Vec<_>>());
        let herd: Vec<_> = (0..clients).map(|id| gopark::go(move || client(addr, id))).collect();
        for second in 1..=option("--secs", 10) {
            let before = RIGHT.load(Relaxed);
            gopark::sleep(Duration::from_secs(1));
            let trips = (RIGHT.load(Relaxed) - before) / MESSAGE as u64;
            let (goroutines, threads) = (gopark::num_goroutines(), fs::read_dir("/proc/self/task")?.count());
            println!("{second:3} s: {trips} round trips/s, {goroutines} goroutines, {threads} threads, {TIMEOUTS:?} timeouts");
        }
        STOP.store(true, Relaxed);
        let failed: Vec<_> = herd.into_iter().filter_map(|client| client.join().unwrap().err()).collect();
        listener.close()?;
        let echoed: u64 = server.join().unwrap().into_iter().map(|conn| conn.join().unwrap()).sum();
        println!("{SENT:?} bytes sent, {echoed} echoed, {RIGHT:?} came back right; failed clients: {failed:?}");
        if [echoed, RIGHT.load(Relaxed)] == [SENT.load(Relaxed); 2] { Ok(()) } else { Err(Error::other("bytes were lost or wrong")) }
    })
}

fn echo(mut conn: TcpStream) -> u64 {
    let (mut buffer, mut echoed) = ([0; MESSAGE], 0);
    while let Ok(count @ 1..) = conn.read(&mut buffer) {
        echoed += conn.write_all(&buffer[..count]).map_or(0, |()| count as u64);
    }
    echoed
}

fn client(addr: SocketAddr, id: u64) -> Result<()> {
    let mut conn = TcpStream::connect(addr)?;
    let mut reply = [0; MESSAGE];
    for round in (0..).take_while(|_| !STOP.load(Relaxed)) {
        let message: [u8; MESSAGE] = array::from_fn(|i| (id * 31 + round * 7 + i as u64) as u8);
        conn.write_all(&message)?;
        SENT.fetch_add(MESSAGE as u64, Relaxed);
        conn.set_read_deadline(Some(Instant::now() + Duration::from_secs(10)))?;
        let count_timeout = |error: &Error| _ = TIMEOUTS.fetch_add((error.kind() == ErrorKind::TimedOut).into(), Relaxed);
        conn.read_exact(&mut reply).inspect_err(count_timeout)?;
        RIGHT.fetch_add(if reply == message { MESSAGE as u64 } else { 0 }, Relaxed);
    }
    Ok(())
}

/// How many descriptors this process may have, after asking for as many as it may ask for.
fn descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is readable and writable. A refusal leaves the limit as it was.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    limit.rlim_cur
}
