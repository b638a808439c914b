//! The example programs of `std-shim/examples`, in processes of their own.

use gopark_tests::LIMIT;
use gopark_tests::process::{Ended, run};
use socket2::{Domain, Socket, Type};
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
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

/// A chat server. Dropping it kills it.
struct Chat {
    process: Child,
    addr: SocketAddr,
}

/// A client, and the number that the server gave it.
struct Client {
    conn: BufReader<TcpStream>,
    number: String,
}

impl Chat {
    fn start(design: &str) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_chat"))
            .args([design, "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let stdout = process.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut said).unwrap();
        let addr = said.trim().strip_prefix("chat on ").unwrap();
        let addr = addr.parse().unwrap();
        Chat { process, addr }
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

impl Drop for Chat {
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
    let mut chat = Chat::start(design);
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
    let chat = Chat::start("select");
    thread::sleep(Duration::from_secs(1));
    chat.join(false);
}

#[test]
fn a_chat_removes_a_client_whose_line_has_no_end() {
    let chat = Chat::start("select");
    let mut client = chat.join(false);
    let mut other = chat.join(false);
    // Fails if the server ends the connection earlier.
    _ = client.conn.get_mut().write_all(&[b'x'; 1 << 20]);
    let gone = format!("* {} has left", client.number);
    assert_eq!(other.read_line().unwrap(), Some(gone));
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
