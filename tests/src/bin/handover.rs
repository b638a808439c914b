//! A server that replaces itself under load, and one that is started by its first connection.
//! `suites/handover.rs` runs it.

use gopark::net::{self, Inherited, Server, SocketKind, TcpListener, TcpStream};
use gopark::sync::Cancel;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use std::{env, process, thread};

/// No process of a test that failed stays for longer.
const LIFE: Duration = Duration::from_secs(100);

fn main() {
    thread::spawn(|| {
        thread::sleep(LIFE);
        process::exit(1);
    });
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", left, each] => serve(left.parse().unwrap(), each.parse().unwrap()),
        ["describe"] => describe(),
        _ => panic!("unknown arguments {arguments:?}"),
    }
}

/// Serves until the server has handled `each` connections. Then starts the next process with the
/// same listeners. `left` processes follow this one. The last one ends when a client sends `q`.
fn serve(left: usize, each: usize) {
    let passed = net::listeners_from_env().unwrap();
    assert!(passed.iter().all(|it| it.kind() == SocketKind::TcpListener));
    let listeners: Vec<_> = passed
        .into_iter()
        .map(|it| TcpListener::try_from(it).unwrap())
        .collect();
    let server = match listeners.is_empty() {
        true => Server::bind("127.0.0.1:0").unwrap(),
        false => Server::new(listeners),
    };
    let stop = Cancel::new();
    let server = server.cancel(&stop).grace(LIFE);
    let mut next = Command::new(env::current_exe().unwrap());
    let arguments = [left.wrapping_sub(1), each].map(|it| it.to_string());
    next.arg("serve").args(arguments).stdout(Stdio::piped());
    let listeners: Vec<_> = server
        .listeners()
        .iter()
        .map(|it| ("web", it.as_fd()))
        .collect();
    net::pass_listeners(&mut next, &listeners).unwrap();
    println!("{}", server.local_addr().unwrap());
    if left == 0 {
        drop(next);
        let theirs = stop.clone();
        server
            .serve(move |stream, _| _ = answer(stream).then(|| theirs.cancel()))
            .unwrap();
        return;
    }
    let handled = AtomicUsize::new(0);
    let (full, is_full) = gopark::chan::bounded(1);
    let restart = gopark::go(move || {
        is_full.recv().unwrap();
        gopark::blocking(|| {
            let mut child = next.spawn().unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap())
                .read_line(&mut line)
                .unwrap();
            assert!(line.ends_with('\n'), "{line:?}");
            // The child outlives this process.
            thread::spawn(move || child.wait());
        });
        stop.cancel();
    });
    let count = move |stream, _| {
        answer(stream);
        if handled.fetch_add(1, SeqCst) == each {
            full.send(()).unwrap();
        }
    };
    server.serve(count).unwrap();
    restart.join().unwrap();
}

/// Answers with the number of the process. Returns whether it shall end.
fn answer(mut stream: TcpStream) -> bool {
    let mut request = [0];
    stream.read_exact(&mut request).unwrap();
    stream.write_all(&process::id().to_be_bytes()).unwrap();
    request == *b"q"
}

/// Answers the first connection with what was passed on.
fn describe() {
    let mut passed = net::listeners_from_env().unwrap();
    assert!(passed.is_empty() || net::listeners_from_env().is_err());
    let text: Vec<_> = passed
        .iter()
        .map(|it| format!("{} {:?}\n", it.name(), it.kind()))
        .collect();
    let at = passed
        .iter()
        .position(|it| it.kind() == SocketKind::TcpListener);
    let refused = passed
        .iter()
        .position(|it| it.kind() != SocketKind::TcpListener);
    let listener: Inherited = passed.remove(at.expect("a listener"));
    let listener = TcpListener::try_from(listener).unwrap();
    if refused.is_some() {
        let error = TcpListener::try_from(passed.remove(0)).unwrap_err();
        assert!(error.to_string().contains("is no TcpListener"));
    }
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(text.concat().as_bytes()).unwrap();
}
