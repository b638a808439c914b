//! Faults that the system itself causes: a limit that is reached, peers that are killed or reset,
//! descriptors that other processes hold.
//!
//! Each is a program of its own, which fails by a panic. Its last line is the remark.
#![allow(
    unsafe_code,
    reason = "limits and timers are set, and CPU time is read, through libc"
)]

use super::{THIS_PROGRAM, Tally, seccomp};
use crate::{join, open_files, until};
use gopark::net::{TcpListener, TcpStream};
use gopark::{Builder, JoinHandle, go};
use socket2::SockRef;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// Runs all programs that are cases.
pub fn cases(tally: &mut Tally) {
    tally.child("no descriptors left, under a flood", &["real", "flood"]);
    tally.child(
        "peers killed in the middle of a message",
        &["real", "killed"],
    );
    tally.child("connections reset by the thousand", &["real", "resets"]);
    tally.child(
        "a descriptor that lives on in a dup after close",
        &["real", "dup"],
    );
    tally.child("short sleeps under a 1 kHz signal", &["real", "ticks"]);
    tally.child(
        "short sleeps under a 1 kHz signal, without epoll_pwait2",
        &["real", "ticks", "no-epoll-pwait2"],
    );
}

/// Runs one program, or a child of one.
pub fn main(program: &str, rest: &[&str]) -> ExitCode {
    match (program, rest) {
        ("flood", []) => with_bystanders(flood),
        ("killed", []) => with_bystanders(killed),
        ("resets", []) => with_bystanders(resets),
        ("dup", []) => with_bystanders(dup),
        ("ticks", profile) => ticks(profile),
        ("flood-clients", [addr]) => flood_clients(addr.parse().expect("an address")),
        ("half-client", [addr]) => half_client(addr.parse().expect("an address")),
        _ => panic!("no program {program}"),
    }
    ExitCode::SUCCESS
}

fn child(program: &str, addr: SocketAddr) -> Child {
    let mut command = Command::new(THIS_PROGRAM);
    command
        .args(["real", program, &addr.to_string()])
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    // SAFETY: all zeroes is a `rusage`, which the call fills.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut usage), 0);
        usage
    };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Runs `fault` while other connections echo all the time. None of them may see it, and nothing may
/// be left behind.
fn with_bystanders(fault: fn() -> String) {
    Builder::new().max_procs(2).start().unwrap();
    let before = open_files(1024);
    let said = gopark::run(move || {
        let over = Arc::new(AtomicBool::new(false));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bystanders: Vec<JoinHandle<usize>> = (0..4)
            .map(|_| {
                let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let far = listener.accept().unwrap().0;
                let over = over.clone();
                drop(go(move || echo(far)));
                go(move || chat(near, &over))
            })
            .collect();
        let said = fault();
        over.store(true, SeqCst);
        let turns: usize = bystanders.into_iter().map(join).sum();
        format!("{said}; bystanders {turns} echoes")
    });
    gopark::run(|| until("the others have returned", || gopark::num_goroutines() == 1));
    assert_eq!(open_files(1024), before);
    println!("{said}");
}

fn echo(mut stream: TcpStream) {
    let mut message = [0; 64];
    while stream.read_exact(&mut message).is_ok() {
        stream.write_all(&message).unwrap();
    }
}

fn chat(mut stream: TcpStream, over: &AtomicBool) -> usize {
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut turns = 0;
    while !over.load(SeqCst) {
        let message = [turns as u8; 64];
        stream.write_all(&message).unwrap();
        let mut answer = [0; 64];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, message);
        turns += 1;
        gopark::sleep(Duration::from_millis(1));
    }
    turns
}

const FLOOD: usize = 300;

/// More clients than descriptors: each is served when others have gone, and waiting for that takes
/// little CPU time.
fn flood() -> String {
    let limit = libc::rlimit {
        rlim_cur: open_files(1024).len() as u64 + 20,
        rlim_max: 1024,
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut clients = child("flood-clients", listener.local_addr().unwrap());
    // SAFETY: a valid structure, read during the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    let (start, cpu) = (Instant::now(), cpu_time());
    let (mut served, mut refused) = (Vec::new(), 0);
    listener
        .set_deadline(Some(start + Duration::from_secs(30)))
        .unwrap();
    while served.len() < FLOOD {
        match listener.accept() {
            Ok((stream, _)) => served.push(go(move || {
                // The time of a request, which holds its descriptor.
                gopark::sleep(Duration::from_millis(10));
                echo(stream);
            })),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
                refused += 1;
                gopark::sleep(Duration::from_millis(1));
            }
        }
    }
    served.into_iter().for_each(join);
    assert!(clients.wait().unwrap().success());
    let (elapsed, used) = (start.elapsed(), cpu_time() - cpu);
    assert!(refused > 0, "the limit has no effect");
    // A busy loop would take all of a CPU or more.
    assert!(used < elapsed * 3 / 4, "{used:?} of CPU in {elapsed:?}");
    format!("{FLOOD} clients served, {refused} times EMFILE, {used:.0?} of CPU in {elapsed:.0?}")
}

fn flood_clients(addr: SocketAddr) {
    let clients = (0..FLOOD).map(|i| {
        thread::Builder::new().stack_size(64 << 10).spawn(move || {
            let mut stream = std::net::TcpStream::connect(addr).unwrap();
            let message = [i as u8; 64];
            stream.write_all(&message).unwrap();
            let mut answer = [0; 64];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, message);
        })
    });
    let clients: Vec<_> = clients.collect::<io::Result<_>>().unwrap();
    clients
        .into_iter()
        .for_each(|client| client.join().unwrap());
}

/// Peers that die after half a message, and while an answer to them is being written.
fn killed() -> String {
    const PEERS: usize = 30;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut ends, mut resets) = (0, 0);
    for peer in 0..PEERS {
        let mut process = child("half-client", listener.local_addr().unwrap());
        let mut stream = listener.accept().unwrap().0;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream.read_exact(&mut [0; 100]).unwrap();
        let answering = (peer % 2 == 0).then(|| {
            let mut stream = stream.try_clone().unwrap();
            go(move || {
                stream
                    .write_all(&vec![7; 16 << 20])
                    .map_err(|error| error.kind())
            })
        });
        let reading = go(move || {
            stream
                .read_exact(&mut [0; 100])
                .map_err(|error| error.kind())
        });
        gopark::sleep(Duration::from_millis(peer as u64 % 5));
        process.kill().unwrap();
        process.wait().unwrap();
        match join(reading).unwrap_err() {
            io::ErrorKind::UnexpectedEof => ends += 1,
            io::ErrorKind::ConnectionReset => resets += 1,
            other => panic!("{other:?}"),
        }
        if let Some(answering) = answering {
            let error = join(answering).unwrap_err();
            assert!(
                matches!(
                    error,
                    io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                ),
                "{error:?}"
            );
        }
    }
    format!("{PEERS} killed: {ends} ends, {resets} resets")
}

fn half_client(addr: SocketAddr) {
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    stream.write_all(&[7; 150]).unwrap();
    loop {
        thread::park();
    }
}

/// Connections that are reset in the queue, before their first byte, in the middle of a message,
/// and under a blocked writer.
fn resets() -> String {
    const CONNECTIONS: usize = 5000;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let handled = Arc::new(AtomicUsize::new(0));
    let acceptor = {
        let (listener, handled) = (listener.try_clone().unwrap(), handled.clone());
        go(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let handled = handled.clone();
                drop(go(move || {
                    let mut message = [0; 64];
                    if stream.read_exact(&mut message).is_ok() {
                        while stream.write_all(&[7; 4096]).is_ok() {}
                    }
                    handled.fetch_add(1, SeqCst);
                }));
            }
        })
    };
    let storm = thread::spawn(move || {
        for i in 0..CONNECTIONS {
            let mut stream = std::net::TcpStream::connect(addr).unwrap();
            match i % 4 {
                0 => {}
                1 => stream.write_all(&[7; 10]).unwrap(),
                2 => stream.write_all(&[7; 64]).unwrap(),
                _ => {
                    stream.write_all(&[7; 64]).unwrap();
                    stream.read_exact(&mut [0; 4096]).unwrap();
                }
            }
            SockRef::from(&stream)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
    });
    until("the storm is over", || storm.is_finished());
    storm.join().unwrap();
    // The goroutines of the bystanders, the acceptor, and this one.
    until("every end has seen the reset", || {
        gopark::num_goroutines() == 2 * 4 + 2
    });
    listener.close().unwrap();
    join(acceptor);
    let handled = handled.load(SeqCst);
    assert!(handled > CONNECTIONS / 2, "{handled}");
    format!("{CONNECTIONS} connections, {handled} accepted and all of them ended")
}

/// After a close, epoll keeps reporting a file that another process has open. The report must wake
/// no goroutine and use no CPU time.
fn dup() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut kept = Vec::new();
    for _ in 0..20 {
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut stream = listener.accept().unwrap().0;
        let sent = go(move || {
            gopark::sleep(Duration::from_micros(200));
            peer.write_all(b"x").map(|()| peer)
        });
        // It waits, so it is registered.
        stream.read_exact(&mut [0]).unwrap();
        let copy = stream.as_fd().try_clone_to_owned().unwrap();
        stream.close().unwrap();
        kept.push((join(sent).unwrap(), stream, copy));
    }
    let (start, cpu) = (Instant::now(), cpu_time());
    for _ in 0..50 {
        for (peer, _, _) in &mut kept {
            peer.write_all(b"y").unwrap();
        }
        gopark::sleep(Duration::from_millis(2));
    }
    for (_, stream, _) in &mut kept {
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.to_string(), "use of closed network connection");
    }
    let (elapsed, used) = (start.elapsed(), cpu_time() - cpu);
    assert!(used < elapsed / 2, "{used:?} of CPU in {elapsed:?}");
    format!("1000 messages without a reader, {used:.0?} of CPU in {elapsed:.0?}")
}

/// A timed sleep that a signal interrupts continues with the rest of its time, and does not spin.
fn ticks(profile: &[&str]) {
    extern "C" fn nothing(_: i32) {}
    profile.iter().for_each(|name| seccomp::enter(name));
    Builder::new().max_procs(2).start().unwrap();
    let tick = libc::timeval {
        tv_sec: 0,
        tv_usec: 1000,
    };
    let ticks = libc::itimerval {
        it_interval: tick,
        it_value: tick,
    };
    // SAFETY: all zeroes is an action with an empty mask and no flags, so that calls are
    // interrupted; the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        assert_eq!(
            libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut()),
            0
        );
        assert_eq!(
            libc::setitimer(libc::ITIMER_REAL, &ticks, std::ptr::null_mut()),
            0
        );
    }
    let worst = gopark::run(|| {
        let sleeps = [300, 700, 2500, 20_000]
            .into_iter()
            .cycle()
            .map(Duration::from_micros)
            .take(100);
        sleeps.map(sleep_once).max().unwrap_or_default()
    });
    let start = (Instant::now(), cpu_time());
    gopark::run(|| gopark::sleep(Duration::from_millis(500)));
    let (elapsed, used) = (start.0.elapsed(), cpu_time() - start.1);
    assert!(used < elapsed / 2, "{used:?} of CPU in {elapsed:?}");
    println!("at most {worst:.0?} late; {used:.0?} of CPU in a sleep of 500 ms");
}

/// Sleeps, and returns how late the sleep ended.
fn sleep_once(time: Duration) -> Duration {
    let start = Instant::now();
    gopark::sleep(time);
    let late = start
        .elapsed()
        .checked_sub(time)
        .expect("a sleep is not too short");
    // A sleep that starts again at each tick would never end. A loaded machine may be late.
    assert!(late < Duration::from_secs(5), "{late:?}");
    late
}
