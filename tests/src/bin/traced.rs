//! A server, its clients, goroutines that are cancelled, and one that blocks its thread:
//! `suites/trace.rs` checks their timeline. `traced ROUNDS [abort|migrate]` prints the numbers of
//! its goroutines.
#![allow(unsafe_code, reason = "migrating is a promise")]

use gopark::net::{TcpListener, TcpStream};
use gopark::sync::Cancel;
use gopark::{Builder, JoinHandle, go};
use gopark_tests::{join, thread_names, until};
use std::fs;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const CLIENTS: usize = 3;

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let rounds = args
        .next()
        .and_then(|rounds| rounds.parse().ok())
        .expect("how many rounds");
    let extra = args.next();
    let settings = match extra.as_deref() {
        // SAFETY: no goroutine here keeps anything bound to a thread.
        Some("migrate") => unsafe { Builder::new().migrate() },
        _ => Builder::new(),
    };
    settings.start()?;
    gopark::run(|| {
        talk(rounds)?;
        cancel();
        occupy_a_thread();
        // More than once: the last wake-up of this goroutine may come too late for the timeline.
        (0..5).for_each(|_| gopark::sleep(Duration::from_millis(1)));
        Ok::<(), io::Error>(())
    })?;
    let dies = extra.as_deref() == Some("abort");
    if dies {
        let path = std::env::var("GOPARK_TRACE").expect("a trace is wanted");
        until("the timeline grows", || {
            fs::read(&path).is_ok_and(|text| text.len() > 5000 && text.ends_with(b"\n"))
        });
    }
    println!("threads: {}", thread_names().join(", "));
    if dies { std::process::abort() } else { Ok(()) }
}

fn named<T>(name: &str, goroutine: JoinHandle<T>) -> JoinHandle<T> {
    println!("{name} {}", goroutine.id());
    goroutine
}

fn talk(rounds: usize) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let acceptor = named(
        "acceptor",
        go(move || -> io::Result<()> {
            let servers = (0..CLIENTS)
                .map(|_| Ok(named("server", go_echo(listener.accept()?.0))))
                .collect::<io::Result<Vec<_>>>()?;
            servers.into_iter().try_for_each(join)
        }),
    );
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| named("client", go(move || call(addr, rounds))))
        .collect();
    clients.into_iter().try_for_each(join)?;
    join(acceptor)
}

fn go_echo(mut stream: TcpStream) -> JoinHandle<io::Result<()>> {
    go(move || {
        gopark::set_name("echo \"it\"");
        let mut byte = [0];
        while stream.read(&mut byte)? > 0 {
            stream.write_all(&byte)?;
        }
        Ok(())
    })
}

fn call(addr: std::net::SocketAddr, rounds: usize) -> io::Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    for round in 0..rounds {
        let mut byte = [round as u8];
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
    }
    Ok(())
}

/// Cancels a goroutine that sleeps, once by a call and once by a deadline.
fn cancel() {
    let cancel = Cancel::new();
    let [called, late] = ["cancelled", "late"].map(|name| {
        let cancel = cancel.child();
        let theirs = cancel.clone();
        let sleeper = go(move || theirs.run(|| gopark::sleep(Duration::from_secs(3600))));
        let sleeper = named(name, sleeper);
        let asleep = format!("goroutine {} [sleep", sleeper.id());
        until("it sleeps", || {
            let mut text = Vec::new();
            gopark::dump(&mut text).unwrap();
            String::from_utf8(text).unwrap().contains(&asleep)
        });
        (cancel, sleeper)
    });
    let canceller = go(move || called.0.cancel());
    assert!(join(named("canceller", canceller)));
    join(called.1);
    late.0.set_timeout(Duration::from_millis(1));
    join(late.1);
}

/// Blocks its thread until another goroutine has run: with one P, on another thread.
fn occupy_a_thread() {
    let occupier = go(|| {
        static RAN: AtomicBool = AtomicBool::new(false);
        let other = named("other", go(|| RAN.store(true, SeqCst)));
        while !RAN.load(SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        join(other);
    });
    join(named("occupier", occupier));
}
