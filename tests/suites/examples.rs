//! The example programs of `std-shim/examples`, in processes of their own.

use gopark_tests::LIMIT;
use gopark_tests::process::{Ended, run};
use socket2::{Domain, Socket, Type};
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Clients of the chat that read.
const CLIENTS: usize = 194;
/// Clients that do not read.
const SILENT: usize = 6;
/// How many lines each of `CLIENTS` says. The queues of the server have room for all lines.
const LINES: usize = 4;
/// Bytes of a line. All lines together are more than the buffers of a silent connection.
const LENGTH: usize = 800;

/// A server in a process of its own. Dropping it kills it.
struct Server {
    process: Child,
    addr: SocketAddr,
}

/// A client, and the number that the server gave it.
struct Client {
    conn: BufReader<TcpStream>,
    number: String,
}

impl Server {
    /// Starts a program, whose first line is `prefix` and an address.
    fn start(program: &str, args: &[&str], prefix: &str) -> Self {
        let mut process = Command::new(program)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let stdout = process.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut said).unwrap();
        let addr = said.trim().strip_prefix(prefix).unwrap();
        let addr = addr.parse().unwrap();
        Server { process, addr }
    }

    fn chat(design: &str) -> Self {
        let args = [design, "127.0.0.1:0"];
        Server::start(env!("CARGO_BIN_EXE_chat"), &args, "chat on ")
    }

    fn http(timeout_ms: &str) -> Self {
        let args = ["--addr", "127.0.0.1:0", "--timeout-ms", timeout_ms];
        Server::start(env!("CARGO_BIN_EXE_http"), &args, "listening on ")
    }

    /// A client of the HTTP server.
    fn connect(&self) -> BufReader<TcpStream> {
        let conn = TcpStream::connect(self.addr).unwrap();
        conn.set_read_timeout(Some(LIMIT / 2)).unwrap();
        BufReader::new(conn)
    }

    /// A client that has joined. The others are silent until then, so the first line is about it.
    fn join(&self, narrow: bool) -> Client {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if narrow {
            // The kernel derives the server's send buffer from the size of segments. So the buffers
            // hold 50 to 150 KB in most cases, where they usually hold megabytes.
            socket.set_recv_buffer_size(4096).unwrap();
            socket.set_tcp_mss(536).unwrap();
        }
        socket.connect(&self.addr.into()).unwrap();
        socket.set_read_timeout(Some(LIMIT / 2)).unwrap();
        let mut client = Client {
            conn: BufReader::new(socket.into()),
            number: String::new(),
        };
        let line = client.read_line().unwrap().unwrap();
        let number = line.strip_prefix("* ").unwrap().strip_suffix(" has joined");
        client.number = number.expect(&line).into();
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if it has ended.
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

impl Client {
    /// The next line, without its newline. `None` at the end.
    fn read_line(&mut self) -> io::Result<Option<String>> {
        (&mut self.conn).lines().next().transpose()
    }

    /// Says its lines, and reads those of the others: all of them, in order for each sender.
    fn talk(&mut self) {
        for i in 0..LINES {
            writeln!(self.conn.get_mut(), "{i} {:LENGTH$}", "").unwrap();
        }
        let mut heard = HashMap::new();
        let mut lines = 0;
        while lines < (CLIENTS - 1) * LINES {
            let line = self.read_line().unwrap().unwrap();
            if line.starts_with("* ") {
                continue;
            }
            let (sender, said) = line.split_once(": ").unwrap();
            let next = heard.entry(String::from(sender)).or_insert(0);
            assert!(said.starts_with(&format!("{next} ")), "{sender}: {said}");
            *next += 1;
            lines += 1;
        }
        assert!(!heard.contains_key(&self.number));
        assert_eq!(heard.len(), CLIENTS - 1);
    }
}

/// Clients talk while others do not read. The talk goes on.
#[track_caller]
fn chat(design: &str) {
    let mut chat = Server::chat(design);
    let silent: Vec<_> = (0..SILENT).map(|_| chat.join(true)).collect();
    let clients: Vec<_> = (0..CLIENTS).map(|_| chat.join(false)).collect();
    let start = Instant::now();
    let threads: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            thread::spawn(move || {
                client.talk();
                client
            })
        })
        .collect();
    let talked: Vec<_> = threads.into_iter().map(|it| it.join().unwrap()).collect();
    println!("{design}: {:?}", start.elapsed());
    drop(silent);
    writeln!(talked[0].conn.get_ref(), "/quit").unwrap();
    assert!(chat.process.wait().unwrap().success());
}

#[test]
fn a_chat_under_a_mutex_goes_on_beside_clients_that_do_not_read() {
    chat("mutex");
}

#[test]
fn a_chat_with_writers_behind_queues_goes_on_beside_clients_that_do_not_read() {
    chat("mpsc");
}

#[test]
fn a_chat_with_a_hub_goes_on_beside_clients_that_do_not_read() {
    chat("select");
}

/// A process in which all goroutines wait in a `select!`, one of them for a socket, is not dead.
#[test]
fn a_chat_waits_for_its_first_client() {
    let chat = Server::chat("select");
    thread::sleep(Duration::from_secs(1));
    chat.join(false);
}

#[test]
fn a_chat_removes_a_client_whose_line_has_no_end() {
    let chat = Server::chat("select");
    let mut client = chat.join(false);
    let mut other = chat.join(false);
    // Fails if the server ends the connection earlier.
    _ = client.conn.get_mut().write_all(&[b'x'; 1 << 20]);
    let gone = format!("* {} has left", client.number);
    assert_eq!(other.read_line().unwrap(), Some(gone));
}

/// Reads the head of a reply, and `body` bytes after it. Returns its lines without the date.
fn reply(conn: &mut BufReader<TcpStream>, body: usize) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let line = conn.by_ref().lines().next().unwrap().unwrap();
        match line.strip_prefix("Date: ") {
            Some(date) => assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}"),
            None if line.is_empty() => break,
            None => lines.push(line),
        }
    }
    let mut rest = vec![0; body];
    conn.read_exact(&mut rest).unwrap();
    lines.push(String::from_utf8(rest).unwrap());
    lines
}

const OK: [&str; 3] = [
    "HTTP/1.1 200 OK",
    "Content-Type: text/plain",
    "Content-Length: 13",
];

#[test]
fn an_http_server_answers_requests_in_a_row_and_in_pieces() {
    let server = Server::http("60000");
    let mut conn = server.connect();
    let get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let head = "HEAD /a?b HTTP/1.1\r\nhost: x\r\n\r\n";
    let with_body = "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nGET / HTT";
    let many = [get, head, with_body, get].concat();
    // In one piece, and byte by byte.
    for size in [many.len(), 1] {
        for piece in many.as_bytes().chunks(size) {
            conn.get_mut().write_all(piece).unwrap();
        }
        for body in ["Hello, World!", "", "Hello, World!", "Hello, World!"] {
            let lines = reply(&mut conn, body.len());
            assert_eq!(lines, [&OK[..], &[body]].concat());
        }
    }
    // More at once than a buffer holds.
    conn.get_mut()
        .write_all(get.repeat(2000).as_bytes())
        .unwrap();
    for _ in 0..2000 {
        assert_eq!(reply(&mut conn, 13)[0], OK[0]);
    }
    let last = "GET / HTTP/1.1\r\nHost: x\r\nConnection: te, Close\r\n\r\n";
    let ignored = [last, get].concat();
    conn.get_mut().write_all(ignored.as_bytes()).unwrap();
    let lines = reply(&mut conn, 13);
    assert_eq!(lines[3..], ["Connection: close", "Hello, World!"]);
    assert_eq!(conn.read(&mut [0]).unwrap(), 0);
}

#[test]
fn an_http_server_refuses_what_it_cannot_serve_and_closes() {
    let server = Server::http("60000");
    let field = |field: &str| format!("GET / HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n");
    let refused = [
        ("nonsense\r\n\r\n".into(), "400 Bad Request"),
        ("GET / HTTP/1.1\r\n\r\n".into(), "400 Bad Request"),
        (field("Host: y"), "400 Bad Request"),
        (field("no colon"), "400 Bad Request"),
        (field("Content-Length: +1"), "400 Bad Request"),
        (field("Content-Length:"), "400 Bad Request"),
        (
            field("Content-Length: 1\r\nContent-Length: 1"),
            "400 Bad Request",
        ),
        (field("Content-Length: 65537"), "413 Content Too Large"),
        (
            field("Content-Length: 99999999999999999999"),
            "413 Content Too Large",
        ),
        (field("Transfer-Encoding: chunked"), "501 Not Implemented"),
        (
            field(&"A: b\r\n".repeat(32)),
            "431 Request Header Fields Too Large",
        ),
        (
            field(&format!("A: {}", "b".repeat(9000))),
            "431 Request Header Fields Too Large",
        ),
        (
            "GET / HTTP/2.0\r\nHost: x\r\n\r\n".into(),
            "505 HTTP Version Not Supported",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\n\r\n".into(),
            "405 Method Not Allowed",
        ),
    ];
    for (request, status) in refused {
        let mut conn = server.connect();
        // Behind a request that is answered, and with more after it.
        let all = [&field("A: b"), &request, "more"].concat();
        conn.get_mut().write_all(all.as_bytes()).unwrap();
        assert_eq!(reply(&mut conn, 13)[0], OK[0]);
        let lines = reply(&mut conn, 0);
        assert_eq!(lines[0], format!("HTTP/1.1 {status}"), "{request}");
        assert!(lines.contains(&"Connection: close".into()));
        assert_eq!(conn.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn an_http_server_gives_up_clients_that_send_no_whole_request_in_time() {
    let server = Server::http("200");
    let mut silent = server.connect();
    let mut half = server.connect();
    half.get_mut().write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let mut slow = server.connect();
    let mut sends = slow.get_ref().try_clone().unwrap();
    // Each byte comes in time. Ends when the server has closed the connection.
    let slow_sends = thread::spawn(move || {
        while sends.write_all(b"G").is_ok() {
            thread::sleep(Duration::from_millis(10));
        }
    });
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    for conn in [&mut half, &mut slow] {
        assert_eq!(reply(conn, 0)[0], "HTTP/1.1 408 Request Timeout");
    }
    slow_sends.join().unwrap();
}

#[test]
fn a_program_for_threads_prints_the_same_with_goroutines() {
    let [ported, original] = [
        env!("CARGO_BIN_EXE_ported"),
        env!("CARGO_BIN_EXE_ported_std"),
    ]
    .map(|program| run(&mut Command::new(program)));
    ported.assert_success();
    original.assert_success();
    ported.assert_said("7 lines\n1 leader\n");
    assert_eq!(ported.output, original.output);
}

#[test]
fn all_that_std_has_for_threads_does_the_same_with_goroutines() {
    let [ported, original] =
        [env!("CARGO_BIN_EXE_parts"), env!("CARGO_BIN_EXE_parts_std")].map(|program| {
            let ended = run(Command::new(program).env("RUST_BACKTRACE", "0"));
            ended.assert_success();
            let (said, times) = ended.output.split_once("life took ").unwrap();
            assert!(times.contains("panics took "), "{times}");
            String::from(said)
        });
    assert_eq!(ported.lines().count(), 9);
    assert_eq!(ported, original);
}

#[test]
fn a_server_that_shuts_down_answers_what_is_short_and_tells_the_others() {
    let mut server = Command::new(env!("CARGO_BIN_EXE_shutdown"))
        .arg("127.0.0.1:0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(server.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let addr = line.trim().strip_prefix("listening on ").unwrap();
    let clients = ["1", "100", "3600000"].map(|millis| {
        let mut conn = TcpStream::connect(addr).unwrap();
        conn.set_read_timeout(Some(LIMIT / 2)).unwrap();
        writeln!(conn, "{millis}").unwrap();
        let mut lines = BufReader::new(conn).lines();
        let working = lines.next().unwrap().unwrap();
        assert_eq!(working, format!("working for {millis} ms"));
        lines
    });
    let [mut idle, short, long] = clients;
    assert_eq!(idle.next().unwrap().unwrap(), "done");
    // Ctrl-D.
    drop(server.stdin.take());
    for (mut lines, last) in [(short, "done"), (long, "cut off: the server shuts down")] {
        assert_eq!(lines.next().unwrap().unwrap(), last);
        assert!(lines.next().is_none());
    }
    assert!(idle.next().is_none());
    let rest = io::read_to_string(said).unwrap();
    assert_eq!(
        rest,
        "no more requests are accepted\n2 requests were answered, 1 cut off\n"
    );
    assert!(server.wait().unwrap().success());
}

#[test]
fn a_crawler_reads_each_page_once_and_stops_in_time() {
    let start = Instant::now();
    let ended = run(&mut Command::new(env!("CARGO_BIN_EXE_crawler")));
    ended.assert_success();
    assert_eq!(ended.output, "in time: false; 98 pages, without {77}\n");
    assert!(start.elapsed() < LIMIT);
}

#[test]
fn a_supervisor_starts_failed_parts_again_and_ends_all_when_it_gives_one_up() {
    let ended = run(&mut Command::new(env!("CARGO_BIN_EXE_supervisor")));
    ended.assert_success();
    let failures = |part| ended.output.matches(part).count();
    assert_eq!(failures("flaky has failed: a panic\n"), 1);
    assert_eq!(failures("broken has failed: no luck\n"), 5);
    assert_eq!(failures(" has ended\n"), 2);
    ended.assert_said("\nbroken is given up after 5 failures: no luck\n");
}

/// Runs the example `deadlock`, which must report `wait` for `alice` and `bob`.
#[track_caller]
#[test]
fn idle_connections_are_answered_with_stacks_and_without() {
    let ended = run(Command::new(env!("CARGO_BIN_EXE_idle")).args(["--connections", "100"]));
    ended.assert_success();
    for wait in ["with", "without"] {
        ended.assert_said(&format!("100 connections {wait} a stack: "));
    }
    assert_eq!(ended.output.matches("all of them answered").count(), 2);
}

fn deadlock(which: &str, wait: &str) -> Ended {
    let ended: Ended = run(Command::new(env!("CARGO_BIN_EXE_deadlock"))
        .arg(which)
        .env_remove("GOPARK_REPORTS"));
    assert_eq!(ended.status.code(), Some(2), "{}", ended.output);
    ended.assert_said("fatal error: all goroutines are asleep - deadlock!");
    for name in ["alice", "bob"] {
        ended.assert_said(&format!(" \"{name}\" [{wait}, "));
    }
    ended.assert_said("std-shim/examples/deadlock.rs:");
    ended
}

#[test]
#[cfg_attr(
    gopark_sanitize = "thread",
    ignore = "ThreadSanitizer's own thread could wake a goroutine, as far as gopark knows"
)]
fn a_deadlock_over_channels_names_the_wait_of_both_goroutines() {
    deadlock("channels", "chan receive");
}

#[test]
#[cfg_attr(
    gopark_sanitize = "thread",
    ignore = "ThreadSanitizer's own thread could wake a goroutine, as far as gopark knows"
)]
fn a_deadlock_over_mutexes_names_the_goroutine_that_holds_each() {
    let ended = deadlock("mutexes", "sync.Mutex.Lock");
    let holders = ended.output.matches(", locked by goroutine ").count();
    assert_eq!(holders, 2, "{}", ended.output);
}
