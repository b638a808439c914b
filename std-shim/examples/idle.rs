//! Connections that are quiet, as those of WebSockets: what each of them costs in memory, with a
//! stack and without, and that each is answered. The clients are another process.
//!
//! ```text
//! cargo run --release --example idle -- [--connections 9500]
//! ```
//!
//! Exit status 1: a connection failed or got a wrong answer.
#![allow(unsafe_code, reason = "RLIMIT_NOFILE is read and raised through libc")]

use gopark::net::{TcpListener, TcpStream, on_readable};
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;
use std::{env, fs};

const MESSAGE: usize = 16;

/// How often each client sends a message and waits for the answer.
const ROUNDS: usize = 2;

const USAGE: &str = "idle [--connections 9500]";

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    raise_descriptor_limit();
    match args[..] {
        [] => compare(9500),
        ["--connections", number] => compare(count(number)?),
        ["serve", wait, number] => serve(wait == "with", count(number)?),
        ["clients", addr, number] => clients(addr, count(number)?),
        _ => Err(Error::new(ErrorKind::InvalidInput, USAGE)),
    }
}

fn count(number: &str) -> Result<usize> {
    let wrong = |_| Error::new(ErrorKind::InvalidInput, format!("{number:?}: not a number"));
    number.parse().map_err(wrong)
}

/// Starts this program again, to play another part.
fn play(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.args(args);
    Ok(command)
}

/// Runs a server of each kind in a process of its own, so that none finds memory of the other.
fn compare(connections: usize) -> Result<()> {
    for wait in ["with", "without"] {
        let status = play(&["serve", wait, &connections.to_string()])?.status()?;
        if !status.success() {
            return Err(Error::other(format!("the server {wait} stacks has failed")));
        }
    }
    Ok(())
}

/// Accepts `connections` connections, and answers each message with the same bytes.
fn serve(with_stack: bool, connections: usize) -> Result<()> {
    gopark::run(|| {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?.to_string();
        let mut clients = Clients::start(&addr, connections)?;
        let before = memory()?;
        for _ in 0..connections {
            let (conn, _) = listener.accept()?;
            match with_stack {
                true => drop(gopark::go(|| answer_all(conn))),
                false => answer_next(conn)?,
            }
        }
        all_wait(connections);
        let idle = memory()?;
        for _ in 0..ROUNDS {
            clients.exchange()?;
            all_wait(connections);
        }
        let later = memory()?;
        let each = |now: usize, before: usize| now.saturating_sub(before) / connections.max(1);
        println!(
            "{connections} connections {} a stack: {} bytes of memory each, and {} of page tables; \
             {} and {} after {ROUNDS} messages, all of them answered",
            if with_stack { "with" } else { "without" },
            each(idle.resident, before.resident),
            each(idle.page_tables, before.page_tables),
            each(later.resident, before.resident),
            each(later.page_tables, before.page_tables),
        );
        clients.end()
    })
}

/// The ordinary server: its goroutine keeps a stack while it waits.
fn answer_all(mut conn: TcpStream) -> Result<()> {
    let mut message = [0; MESSAGE];
    loop {
        conn.read_exact(&mut message)?;
        conn.write_all(&message)?;
    }
}

/// Waits without a stack for the next message.
fn answer_next(conn: TcpStream) -> Result<()> {
    on_readable(conn, |mut conn| {
        let mut message = [0; MESSAGE];
        // What follows the first byte comes soon, so the rest of the message may wait with a stack.
        conn.read_exact(&mut message)?;
        conn.write_all(&message)?;
        answer_next(conn)
    })
}

/// Waits until all connections wait for data.
fn all_wait(connections: usize) {
    while gopark::metrics().poll_waiters < connections as u64 {
        gopark::sleep(Duration::from_millis(1));
    }
}

/// The process of the clients.
struct Clients {
    process: Child,
    said: BufReader<ChildStdout>,
}

impl Clients {
    fn start(addr: &str, connections: usize) -> Result<Self> {
        let mut process = play(&["clients", addr, &connections.to_string()])?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = process.stdout.take().expect("it is a pipe");
        Ok(Clients {
            process,
            said: BufReader::new(said),
        })
    }

    /// Lets each client send a message and wait for the answer.
    fn exchange(&mut self) -> Result<()> {
        let stdin = self.process.stdin.as_mut().expect("it is a pipe");
        writeln!(stdin, "go")?;
        let mut line = String::new();
        gopark::blocking(|| self.said.read_line(&mut line))?;
        match line.as_str() {
            "answered\n" => Ok(()),
            _ => Err(Error::other("the clients have failed")),
        }
    }

    fn end(mut self) -> Result<()> {
        drop(self.process.stdin.take());
        gopark::blocking(|| self.process.wait()).map(drop)
    }
}

/// The other process: plain sockets, one thread.
fn clients(addr: &str, connections: usize) -> Result<()> {
    let connect = |_| std::net::TcpStream::connect(addr);
    let mut conns = (0..connections).map(connect).collect::<Result<Vec<_>>>()?;
    for (round, line) in std::io::stdin().lines().enumerate() {
        line?;
        let message = |id: usize| format!("{:16}", id * ROUNDS + round).into_bytes();
        for (id, conn) in conns.iter_mut().enumerate() {
            conn.write_all(&message(id))?;
        }
        for (id, conn) in conns.iter_mut().enumerate() {
            let mut answer = [0; MESSAGE];
            conn.read_exact(&mut answer)?;
            assert_eq!(&answer[..], message(id), "the answer to client {id}");
        }
        println!("answered");
    }
    Ok(())
}

/// What this process takes of the RAM, in bytes.
struct Memory {
    resident: usize,
    page_tables: usize,
}

/// `Rss` of `smaps_rollup` is exact; `VmRSS` lags behind.
fn memory() -> Result<Memory> {
    Ok(Memory {
        resident: kibibytes("/proc/self/smaps_rollup", "Rss:")? * 1024,
        page_tables: kibibytes("/proc/self/status", "VmPTE:")? * 1024,
    })
}

fn kibibytes(file: &str, field: &str) -> Result<usize> {
    let text = fs::read_to_string(file)?;
    let value = text.lines().find_map(|line| line.strip_prefix(field));
    value
        .and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok())
        .ok_or_else(|| Error::other(format!("{file} without {field}")))
}

/// Raises the soft limit of descriptors to the hard limit.
fn raise_descriptor_limit() {
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
}
