//! Operations on sockets. The peer is a goroutine of the same worker.

use gopark::go;
use gopark::net::{TcpListener, TcpStream, UnixStream};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

const MESSAGE: usize = 64;

/// A read of one byte that is there. So the read locks the descriptor, calls `recv` and returns.
pub(crate) fn fdmutex(n: usize) {
    /// So many fit into the buffer of a socket.
    const BYTES: usize = 1000;
    let (mut reader, mut writer) = UnixStream::pair().unwrap();
    for _ in 0..n / BYTES {
        writer.write_all(&[0; BYTES]).unwrap();
        (0..BYTES).for_each(|_| reader.read_exact(&mut [0]).unwrap());
    }
}

/// A round trip: each end reads and writes a message.
pub(crate) fn echo(n: usize) {
    round_trips(n, None);
}

/// As `echo`, with a new deadline before each read of the server. It never passes, even on a
/// machine that is so busy that the program stands still for seconds.
pub(crate) fn deadline(n: usize) {
    round_trips(n, Some(Duration::from_secs(3600)));
}

fn round_trips(n: usize, limit: Option<Duration>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = go(move || {
        let (mut conn, _) = listener.accept().unwrap();
        let mut buffer = [0; 4096];
        loop {
            if let Some(limit) = limit {
                conn.set_read_deadline(Some(Instant::now() + limit))
                    .unwrap();
            }
            match conn.read(&mut buffer).unwrap() {
                0 => return,
                count => conn.write_all(&buffer[..count]).unwrap(),
            }
        }
    });
    let mut conn = TcpStream::connect(addr).unwrap();
    let mut buffer = [0; 4096];
    for _ in 0..n {
        conn.write_all(&[0; MESSAGE]).unwrap();
        assert_eq!(conn.read(&mut buffer).unwrap(), MESSAGE);
    }
    drop(conn);
    server.join().unwrap();
}

/// A connection is made, accepted and closed by both ends.
pub(crate) fn accept(n: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = go(move || (0..n).for_each(|_| drop(listener.accept().unwrap())));
    for _ in 0..n {
        let mut conn = TcpStream::connect(addr).unwrap();
        assert_eq!(conn.read(&mut [0]).unwrap(), 0);
    }
    server.join().unwrap();
}
