//! Listeners that processes pass on: a server replaces itself under load, and no client notices.

use gopark_tests::LIMIT;
use gopark_tests::process::run;
use socket2::{Domain, Socket, Type};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

fn handover() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handover"));
    command.env("GOPARK_MAXPROCS", "2").env_remove("LISTEN_FDS");
    command
}

/// Asks the server with one byte. Returns the number of the process that has answered.
fn ask(addr: SocketAddr, request: u8) -> io::Result<u32> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(&[request])?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply)?;
    // A reset: no port of the clients stays in TIME_WAIT.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(u32::from_be_bytes(reply))
}

#[test]
fn no_connection_is_lost_while_servers_replace_each_other() {
    const CONNECTIONS: usize = 10_000;
    const RESTARTS: usize = 5;
    let each = CONNECTIONS / (RESTARTS + 2);
    let arguments = [RESTARTS, each].map(|it| it.to_string());
    let mut first = handover();
    first.arg("serve").args(arguments).stdout(Stdio::piped());
    let mut first = first.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(first.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let addr: SocketAddr = line.trim().parse().unwrap();

    let asked = AtomicUsize::new(0);
    // In the order of their first answers.
    let servers = Mutex::new(Vec::new());
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let all_came = || servers.lock().unwrap().len() > RESTARTS;
                while asked.fetch_add(1, SeqCst) < CONNECTIONS || !all_came() {
                    let server = ask(addr, b'x').expect("a connection is served");
                    let mut servers = servers.lock().unwrap();
                    if !servers.contains(&server) {
                        servers.push(server);
                    }
                    assert!(start.elapsed() < LIMIT, "{servers:?}");
                }
            });
        }
    });
    let servers = servers.into_inner().unwrap();
    assert_eq!(servers.len(), RESTARTS + 1, "{servers:?}");
    assert!(first.wait().unwrap().success());
    // The one before the last may still accept.
    while ask(addr, b'q').unwrap() != servers[RESTARTS] {
        assert!(start.elapsed() < LIMIT, "{servers:?}");
    }
}

/// Passes sockets of each kind to a process, which names them.
#[test]
fn a_process_tells_the_passed_sockets_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let folder = std::env::temp_dir().join(format!("gopark-handover-{}", std::process::id()));
    let unix = UnixListener::bind(&folder).unwrap();
    std::fs::remove_file(&folder).unwrap();
    let datagrams = UnixDatagram::unbound().unwrap();
    let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let mut command = handover();
    command.arg("describe");
    // Variables from the start of this process are for this process.
    command.env("LISTEN_PID", "1");
    let sockets = [
        ("udp", udp.as_fd()),
        ("web", listener.as_fd()),
        ("unix", unix.as_fd()),
        ("", datagrams.as_fd()),
        ("other", other.as_fd()),
    ];
    gopark::net::pass_listeners(&mut command, &sockets).unwrap();
    let client = thread::spawn(move || io::read_to_string(TcpStream::connect(addr)?));
    run(&mut command).assert_success();
    let expected = "udp Udp\nweb TcpListener\nunix UnixListener\n UnixDatagram\nother Other\n";
    assert_eq!(client.join().unwrap().unwrap(), expected);
}

#[test]
fn variables_for_another_process_and_wrong_ones_are_no_sockets() {
    for (variable, value) in [("LISTEN_PID", "1"), ("LISTEN_INODES", "1"), ("X", "1")] {
        let mut command = handover();
        command
            .arg("describe")
            .env("LISTEN_FDS", "1")
            .env(variable, value);
        run(&mut command).assert_said("a listener");
    }
    for value in ["x", "-1", "99999999999"] {
        let mut command = handover();
        command.arg("describe").env("LISTEN_FDS", value);
        run(&mut command).assert_said("LISTEN_FDS is not a number");
    }
}

#[test]
fn a_name_with_a_colon_is_refused_and_a_failed_exec_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = Command::new("/does/not/exist");
    let error = gopark::net::pass_listeners(&mut command, &[("a:b", listener.as_fd())]);
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    // The descriptor by which the child reports this is not overwritten.
    let many = [("web", listener.as_fd()); 20];
    gopark::net::pass_listeners(&mut command, &many).unwrap();
    assert_eq!(command.spawn().unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn systemd_starts_a_server_at_its_first_connection() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = free.local_addr().unwrap();
    drop(free);
    let mut command = Command::new("systemd-socket-activate");
    command.arg(format!("--listen={addr}")).arg("--fdname=web");
    command
        .arg(env!("CARGO_BIN_EXE_handover"))
        .arg("describe")
        .stderr(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return println!("skipped: systemd-socket-activate: {error}"),
    };
    let start = Instant::now();
    let stream = loop {
        match TcpStream::connect(addr) {
            Ok(stream) => break stream,
            Err(_) if start.elapsed() < Duration::from_secs(60) => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(io::read_to_string(stream).unwrap(), "web TcpListener\n");
    assert!(child.wait().unwrap().success());
}
