//! A chat server in three designs. Each line of a client goes to all the other clients.
//!
//! ```text
//! cargo run --release --example chat -- mutex|mpsc|select [127.0.0.1:7000]
//! nc 127.0.0.1 7000     # in several terminals. The line /quit ends the server.
//! ```
//!
//! | design | the clients are | a client that does not read |
//! |---|---|---|
//! | `mutex` | in a map, written to under its lock | delays all until a write to it times out |
//! | `mpsc` | in a map, each with a queue and a writer | delays others when its queue is full |
//! | `select` | known to one goroutine, the hub | delays none; removed when its queue is full |
//!
//! In each design a client is removed when a write to it has made no progress for [`PATIENCE`].

use gopark::net::{Shutdown, TcpListener, TcpStream};
use gopark::sync::{Arc, Mutex, RwLock, mpsc};
use gopark::{chan, go, select};
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::time::Duration;

/// How long a write waits for a client that does not read.
const PATIENCE: Duration = Duration::from_millis(500);
/// How many lines a client may lag behind, in addition to the buffers of its connection.
const QUEUE: usize = 1024;
/// Bytes. A client that sends a longer line is removed.
const LONGEST_LINE: u64 = 4096;
/// The sender of announcements. Clients have the numbers from 1.
const SERVER: u64 = 0;

/// With its newline. All clients share the bytes.
type Line = Arc<[u8]>;

/// What the designs do differently.
trait Room: Send + Sync {
    /// Adds a client. It gets the lines that are said from now on.
    fn join(&self, id: u64, conn: &Arc<TcpStream>);
    /// Sends a line to all clients except `from`.
    fn say(&self, from: u64, line: Line);
    /// Removes a client, if it is still there.
    fn leave(&self, id: u64);
}

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let design = args.next().unwrap_or_default();
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:7000".into());
    gopark::run(|| {
        let room: Arc<dyn Room> = match design.as_str() {
            "mutex" => Arc::new(Locked::default()),
            "mpsc" => Arc::new(Queued::default()),
            "select" => Arc::new(Hub::start()),
            _ => {
                let text = "the first argument is a design: mutex, mpsc or select";
                return Err(io::Error::new(ErrorKind::InvalidInput, text));
            }
        };
        serve(&TcpListener::bind(addr)?, &room)
    })
}

/// Accepts clients until one of them quits the server.
fn serve(listener: &TcpListener, room: &Arc<dyn Room>) -> io::Result<()> {
    println!("chat on {}", listener.local_addr()?);
    let (quit, has_quit) = chan::bounded(1);
    for id in SERVER + 1.. {
        select! {
            acceptable(listener) -> ready => ready?,
            recv(has_quit) -> _ => return Ok(()),
        }
        match listener.accept() {
            Ok((conn, _)) => {
                let (room, quit) = (room.clone(), quit.clone());
                go(move || session(id, &Arc::new(conn), &*room, &quit));
            }
            // Out of descriptors, say. The next accept waits a moment.
            Err(error) => eprintln!("accept: {error}"),
        }
    }
    unreachable!("2^64 clients")
}

/// Serves one client, from its arrival until it has left.
fn session(id: u64, conn: &Arc<TcpStream>, room: &dyn Room, quit: &chan::Sender<()>) {
    let limited = conn.set_write_timeout(Some(PATIENCE));
    limited.expect("the connection is open");
    let announce = |what| room.say(SERVER, format!("* {id} {what}\n").into_bytes().into());
    room.join(id, conn);
    announce("has joined");
    match listen(id, conn, room) {
        // If another client has quit at the same time, the channel is full.
        Ok(true) => drop(quit.try_send(())),
        Ok(false) => {}
        Err(error) => eprintln!("client {id}: {error}"),
    }
    room.leave(id);
    hang_up(conn);
    announce("has left");
}

/// Says what the client says. Returns whether it has quit the server.
fn listen(id: u64, conn: &TcpStream, room: &dyn Room) -> io::Result<bool> {
    let mut reader = BufReader::new(conn);
    loop {
        let mut line = format!("{id}: ").into_bytes();
        let start = line.len();
        let limited = &mut reader.by_ref().take(LONGEST_LINE);
        match limited.read_until(b'\n', &mut line)? {
            0 => return Ok(false),
            _ if line[start..].trim_ascii_end() == b"/quit" => return Ok(true),
            _ if line.ends_with(b"\n") => room.say(id, line.into()),
            _ => return Err(io::Error::new(ErrorKind::InvalidData, "a line has no end")),
        }
    }
}

/// Ends the connection. The session of the client then reads its end.
fn hang_up(conn: &TcpStream) {
    // Fails if the client has closed the connection already.
    _ = conn.shutdown(Shutdown::Both);
}

/// Writes the lines of a queue to a client, until the queue is closed or a write fails. The end of
/// `lines` closes the queue.
fn write_lines(mut conn: &TcpStream, lines: impl Iterator<Item = Line>) {
    for line in lines {
        if conn.write_all(&line).is_err() {
            break;
        }
    }
    hang_up(conn);
}

/// The design `mutex`.
#[derive(Default)]
struct Locked(Mutex<HashMap<u64, Arc<TcpStream>>>);

impl Room for Locked {
    fn join(&self, id: u64, conn: &Arc<TcpStream>) {
        self.0.lock().unwrap().insert(id, conn.clone());
    }

    fn say(&self, from: u64, line: Line) {
        let mut clients = self.0.lock().unwrap();
        // The lock is held while writes wait. With a mutex of std this would hang the program.
        clients.retain(|&id, conn| {
            let served = id == from || (&**conn).write_all(&line).is_ok();
            if !served {
                hang_up(conn);
            }
            served
        });
    }

    fn leave(&self, id: u64) {
        self.0.lock().unwrap().remove(&id);
    }
}

/// The design `mpsc`.
#[derive(Default)]
struct Queued(RwLock<HashMap<u64, mpsc::SyncSender<Line>>>);

impl Room for Queued {
    fn join(&self, id: u64, conn: &Arc<TcpStream>) {
        let (queue, lines) = mpsc::sync_channel(QUEUE);
        let conn = conn.clone();
        go(move || write_lines(&conn, lines.into_iter()));
        self.0.write().unwrap().insert(id, queue);
    }

    fn say(&self, from: u64, line: Line) {
        for (_, queue) in self.0.read().unwrap().iter().filter(|(id, _)| **id != from) {
            // Waits if the queue is full, until the writer takes a line or gives up. Then the send
            // fails, and the session of that client is about to leave.
            _ = queue.send(line.clone());
        }
    }

    fn leave(&self, id: u64) {
        self.0.write().unwrap().remove(&id);
    }
}

/// The design `select`. The channels have no capacity, so when a send returns, the hub has received
/// its value: a client that has joined is in the room before it speaks.
struct Hub {
    join: chan::Sender<(u64, chan::Sender<Line>)>,
    say: chan::Sender<(u64, Line)>,
    leave: chan::Sender<u64>,
}

impl Hub {
    fn start() -> Self {
        let (join, joins) = chan::bounded::<(u64, chan::Sender<Line>)>(0);
        let (say, lines) = chan::bounded::<(u64, Line)>(0);
        let (leave, leaves) = chan::bounded(0);
        go(move || {
            let mut queues = HashMap::new();
            loop {
                select! {
                    recv(joins) -> client => queues.extend(client),
                    recv(leaves) -> id => drop(id.map(|id| queues.remove(&id))),
                    recv(lines) -> said => {
                        // The room is gone, and the other channels with it.
                        let Ok((from, line)) = said else { return };
                        // A client whose queue is full is removed. Its writer then hangs up.
                        queues.retain(|&id, queue| {
                            id == from || queue.try_send(line.clone()).is_ok()
                        });
                    }
                }
            }
        });
        Hub { join, say, leave }
    }
}

impl Room for Hub {
    fn join(&self, id: u64, conn: &Arc<TcpStream>) {
        let (queue, lines) = chan::bounded(QUEUE);
        let conn = conn.clone();
        go(move || write_lines(&conn, lines.into_iter()));
        self.join.send((id, queue)).expect("the hub runs");
    }

    fn say(&self, from: u64, line: Line) {
        self.say.send((from, line)).expect("the hub runs");
    }

    fn leave(&self, id: u64) {
        self.leave.send(id).expect("the hub runs");
    }
}
