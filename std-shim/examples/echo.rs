//! A TCP echo server: one goroutine for each connection, reading and writing in straight lines.
//!
//! ```text
//! cargo run --release --example echo -- [--addr 127.0.0.1:7000] [--workers CPUS]
//!     [--deadline-ms NONE] [--buf 4096] [--sysmon true] [--migrate false] [--offload false]
//!     [--stall-ms NONE]
//! ```
//!
//! - `--deadline-ms`: closes a connection that sends nothing for so long.
//! - `--offload true`: runs requests that block or compute in `gopark::blocking`.
//! - `--migrate true`: lets goroutines move between threads.
//! - `--stall-ms`: reports goroutines that keep their thread for longer.
#![allow(unsafe_code, reason = "`Builder::migrate` has a contract")]

use gopark::net::{TcpListener, TcpStream};
use std::hint::black_box;
use std::io::{self, ErrorKind, Read, Write};
use std::str::FromStr;
use std::time::{Duration, Instant};
use std::{env, thread};

const OPTIONS: [&str; 8] = [
    "--addr",
    "--workers",
    "--deadline-ms",
    "--buf",
    "--sysmon",
    "--migrate",
    "--offload",
    "--stall-ms",
];

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    if let Some(wrong) = args
        .chunks(2)
        .find(|pair| pair.len() < 2 || !OPTIONS.contains(&pair[0].as_str()))
    {
        let text = format!(
            "{}: the options are {}, each with a value",
            wrong[0],
            OPTIONS.join(", ")
        );
        return Err(io::Error::new(ErrorKind::InvalidInput, text));
    }
    settings()?.start()?;
    let addr = option("--addr")?.unwrap_or_else(|| "127.0.0.1:7000".to_string());
    let idle = option("--deadline-ms")?.map(Duration::from_millis);
    let size = option("--buf")?.unwrap_or(4096);
    let offload = option("--offload")?.unwrap_or(false);
    gopark::run(|| {
        let listener = TcpListener::bind(addr)?;
        println!("echo on {}", listener.local_addr()?);
        loop {
            match listener.accept() {
                Ok((stream, _)) => drop(gopark::go(move || echo(stream, size, idle, offload))),
                // Probably out of descriptors: the connection stays queued until others are closed.
                Err(error) => {
                    eprintln!("accept: {error}");
                    gopark::sleep(Duration::from_millis(10));
                }
            }
        }
    })
}

fn settings() -> io::Result<gopark::Builder> {
    let mut settings = gopark::Builder::new().sysmon(option("--sysmon")?.unwrap_or(true));
    if let Some(workers) = option("--workers")? {
        settings = settings.max_procs(workers);
    }
    if let Some(limit) = option("--stall-ms")? {
        settings = settings.stall_after(Duration::from_millis(limit));
    }
    if option("--migrate")?.unwrap_or(false) {
        // SAFETY: the goroutines below hold nothing that is bound to a thread over a park.
        settings = unsafe { settings.migrate() };
    }
    Ok(settings)
}

fn echo(
    mut stream: TcpStream,
    size: usize,
    idle: Option<Duration>,
    offload: bool,
) -> io::Result<()> {
    let mut buffer = vec![0; size];
    loop {
        if let Some(idle) = idle {
            stream.set_read_deadline(Some(Instant::now() + idle))?;
        }
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => {
                match offload && b"SB".contains(&buffer[0]) {
                    true => gopark::blocking(|| misbehave(buffer[0])),
                    false => misbehave(buffer[0]),
                }
                stream.write_all(&buffer[..count])?;
            }
        }
    }
}

/// Keeps the thread busy at the request of a benchmark of stalls: `S` computes for about 200 ms,
/// `B` blocks the thread for 200 ms.
fn misbehave(request: u8) {
    match request {
        b'S' => {
            let mut x = 1u64;
            for _ in 0..100_000_000 {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
            }
            black_box(x);
        }
        b'B' => thread::sleep(Duration::from_millis(200)),
        _ => {}
    }
}

/// Returns the value after `name` on the command line.
fn option<T: FromStr>(name: &str) -> io::Result<Option<T>> {
    let Some(value) = env::args().skip_while(|arg| arg != name).nth(1) else {
        return Ok(None);
    };
    let invalid = || {
        io::Error::new(
            ErrorKind::InvalidInput,
            format!("{name}: cannot read {value:?}"),
        )
    };
    value.parse().map(Some).map_err(|_| invalid())
}
