//! Networks that drop, refuse, lose or delay packets: each program has a network namespace of its
//! own, with a loopback interface only.
#![allow(unsafe_code, reason = "a namespace is entered by a raw system call")]

use super::Tally;
use crate::sockets::{assert_timeout, pattern};
use crate::{join, open_files, until};
use gopark::go;
use gopark::net::{TcpListener, TcpStream};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// How late a deadline may expire on a loaded machine.
const SLACK: Duration = Duration::from_millis(500);

/// Runs all programs.
pub fn cases(tally: &mut Tally) {
    tally.child("a SYN without an answer", &["network", "black-hole"]);
    tally.child(
        "a connection refused by a reset, and by ICMP",
        &["network", "refused"],
    );
    tally.child("a tenth of all packets lost", &["network", "loss"]);
    tally.child("a slow line with a queue", &["network", "slow"]);
    tally.child(
        "a link that goes down in the middle of a transfer",
        &["network", "link"],
    );
}

/// Runs one.
pub fn main(program: &str) -> ExitCode {
    if let Err(reason) = enter() {
        println!("skip: {reason}");
        return ExitCode::SUCCESS;
    }
    let before = open_files(1024);
    let said = match program {
        "black-hole" => gopark::run(black_hole),
        "refused" => gopark::run(refused),
        "loss" => gopark::run(loss),
        "slow" => gopark::run(slow),
        "link" => gopark::run(link),
        _ => panic!("no program {program}"),
    };
    gopark::run(|| until("the others have returned", || gopark::num_goroutines() == 1));
    assert_eq!(open_files(1024), before);
    println!("{said}");
    ExitCode::SUCCESS
}

/// Enters a new network namespace, before there is a second thread. The runtime starts in it.
fn enter() -> Result<(), String> {
    // SAFETY: the call takes flags only.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(format!(
            "no network namespace: {}",
            io::Error::last_os_error()
        ));
    }
    try_command("ip link set lo mtu 1500 gso_max_segs 1 up")?;
    try_command("nft add table inet faults")?;
    try_command("nft add chain inet faults in { type filter hook input priority 0 ; }")?;
    gopark::Builder::new().max_procs(2).start().unwrap();
    Ok(())
}

fn try_command(line: &str) -> Result<(), String> {
    let mut words = line.split(' ');
    let output = Command::new(words.next().expect("a program"))
        .args(words)
        .output()
        .map_err(|error| format!("{line}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!(
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }
}

fn command(line: &str) {
    try_command(line).unwrap();
}

/// Sets what happens to incoming packets.
fn rule(rule: &str) {
    command(&format!("nft add rule inet faults in {rule}"));
}

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Fails unless `start` was `time` ago, within [`SLACK`]. Returns by how much it was late.
#[track_caller]
fn assert_elapsed(start: Instant, time: Duration) -> Duration {
    let late = start
        .elapsed()
        .checked_sub(time)
        .expect("not before its time");
    assert!(late < SLACK, "{late:?} late");
    late
}

/// Dials at once: each dial ends at its own timeout, and no dial delays a good connection.
fn black_hole() -> String {
    rule("tcp dport 9004 drop");
    let dials: Vec<_> = (1..=20)
        .map(|n| {
            go(move || {
                let (start, limit) = (Instant::now(), Duration::from_millis(50 * n));
                assert_timeout(TcpStream::connect_timeout(&addr(9004), limit));
                assert_elapsed(start, limit)
            })
        })
        .collect();
    let listener = TcpListener::bind(addr(9005)).unwrap();
    let start = Instant::now();
    let mut good = TcpStream::connect(addr(9005)).unwrap();
    listener.accept().unwrap().0.write_all(b"x").unwrap();
    good.read_exact(&mut [0]).unwrap();
    assert_elapsed(start, Duration::ZERO);
    let worst = dials.into_iter().map(join).max().unwrap();
    format!("20 dials timed out, {worst:.1?} late at most")
}

fn refused() -> String {
    rule("tcp dport 9004 reject with tcp reset");
    rule("tcp dport 9005 reject with icmpx type host-unreachable");
    let mut said = Vec::new();
    for port in [9004, 9005] {
        let start = Instant::now();
        let error = TcpStream::connect_timeout(&addr(port), Duration::from_secs(10)).unwrap_err();
        assert!(
            matches!(
                error.kind(),
                ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable
            ),
            "{error}"
        );
        assert!(start.elapsed() < Duration::from_secs(1), "at once");
        said.push(error.to_string());
    }
    said.join(", ")
}

/// Sends `len` bytes each way over `n` connections at once.
fn transfers(n: usize, len: usize) -> Duration {
    let start = Instant::now();
    let listener = TcpListener::bind(addr(0)).unwrap();
    let to = listener.local_addr().unwrap();
    let clients: Vec<_> = (0..n)
        .map(|_| {
            go(move || {
                let mut stream = TcpStream::connect(to).unwrap();
                let writer = {
                    let mut stream = stream.try_clone().unwrap();
                    go(move || stream.write_all(&pattern(len)).unwrap())
                };
                let mut back = vec![0; len];
                stream.read_exact(&mut back).unwrap();
                join(writer);
                assert_eq!(back, pattern(len));
            })
        })
        .collect();
    let servers: Vec<_> = (0..n)
        .map(|_| {
            let (mut stream, _) = listener.accept().unwrap();
            go(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap())
        })
        .collect();
    clients.into_iter().for_each(join);
    assert!(servers.into_iter().all(|server| join(server) == len as u64));
    start.elapsed()
}

fn loss() -> String {
    rule("numgen random mod 100 < 10 counter drop");
    let elapsed = transfers(8, 100_000);
    let listing = Command::new("nft")
        .args(["list", "ruleset"])
        .output()
        .unwrap();
    let listing = String::from_utf8_lossy(&listing.stdout);
    let lost = listing
        .split_once("counter packets ")
        .and_then(|(_, rest)| rest.split(' ').next()?.parse::<usize>().ok());
    let lost = lost
        .filter(|lost| *lost > 50)
        .unwrap_or_else(|| panic!("no packets are lost:\n{listing}"));
    format!("8 transfers of 100 kB there and back in {elapsed:.1?}, {lost} packets lost")
}

/// A queue that holds packets for up to 50 ms: data comes late, and a deadline expires in between,
/// on time.
fn slow() -> String {
    command("tc qdisc add dev lo root tbf rate 8mbit burst 10kb latency 50ms");
    let elapsed = transfers(4, 100_000);
    // 800 kB with their acknowledgements, at 1 MB a second.
    assert!(
        elapsed > Duration::from_millis(500),
        "the line is not slow: {elapsed:?}"
    );
    let late = interrupted(|| {});
    format!(
        "4 transfers of 100 kB each way in {elapsed:.1?}; a deadline in between {late:.1?} late"
    )
}

fn link() -> String {
    command("tc qdisc add dev lo root tbf rate 8mbit burst 10kb latency 50ms");
    let late = interrupted(|| command("ip link set lo down"));
    format!("a deadline {late:.1?} late, and all arrived when the link was up again")
}

/// A transfer whose reader times out after `fault` and then reads to the end. Returns how late the
/// timeout was.
fn interrupted(fault: fn()) -> Duration {
    const LEN: usize = 1 << 20;
    let listener = TcpListener::bind(addr(0)).unwrap();
    let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut reader = listener.accept().unwrap().0;
    let sending = go(move || sender.write_all(&pattern(LEN)));
    let mut data = vec![0; LEN];
    reader.read_exact(&mut data[..10_000]).unwrap();
    gopark::sleep(Duration::from_millis(20));
    fault();
    let (start, limit) = (Instant::now(), Duration::from_millis(100));
    reader.set_read_deadline(Some(start + limit)).unwrap();
    let mut got = 10_000;
    let late = loop {
        match reader.read(&mut data[got..]) {
            Ok(n) => got += n,
            Err(error) => {
                assert_timeout(Err::<(), _>(error));
                break assert_elapsed(start, limit);
            }
        }
    };
    assert!(got < LEN, "the deadline was too late to matter");
    command("ip link set lo up");
    reader.set_read_deadline(None).unwrap();
    reader.read_exact(&mut data[got..]).unwrap();
    join(sending).unwrap();
    assert_eq!(data, pattern(LEN));
    late
}
