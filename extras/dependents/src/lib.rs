//! Programs that use crates of crates.io whose locks are those of this workspace: `r2d2`, and what
//! uses `parking_lot` itself. Its tests run them on one and on two Ps.
//!
//! A connection here is a stream to an echo server of gopark. A user holds it over several parks,
//! so with the original `parking_lot` the first user that waits for a connection keeps the thread
//! that the others need to give theirs back.

use gopark::net::{TcpListener, TcpStream};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Starts an echo server, and returns its address. It serves until the process ends.
///
/// # Errors
///
/// If the socket cannot be bound.
pub fn echo_server() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    gopark::go(move || {
        for stream in listener.incoming().flatten() {
            gopark::go(move || io::copy(&mut stream.try_clone()?, &mut &stream));
        }
    });
    Ok(address)
}

/// Makes connections for a pool. It counts how many there are.
#[derive(Debug)]
pub struct Dialer {
    address: SocketAddr,
    made: Arc<AtomicUsize>,
}

/// A connection of a [`Dialer`].
#[derive(Debug)]
pub struct Connection(TcpStream);

impl Connection {
    /// Sends bytes one by one, waits for each to come back, and gives others a turn in between.
    ///
    /// # Errors
    ///
    /// Of the stream, or if another byte comes back.
    pub fn exchange(&mut self, bytes: &[u8]) -> io::Result<()> {
        for (turn, byte) in bytes.iter().enumerate() {
            self.0.write_all(&[*byte])?;
            match turn % 2 {
                0 => gopark::yield_now(),
                _ => gopark::sleep(Duration::from_micros(50)),
            }
            let mut back = [0];
            self.0.read_exact(&mut back)?;
            if back != [*byte] {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(())
    }
}

impl r2d2::ManageConnection for Dialer {
    type Connection = Connection;
    type Error = io::Error;

    fn connect(&self) -> io::Result<Connection> {
        self.made.fetch_add(1, Ordering::Relaxed);
        TcpStream::connect(self.address).map(Connection)
    }

    fn is_valid(&self, connection: &mut Connection) -> io::Result<()> {
        connection.exchange(b"?")
    }

    fn has_broken(&self, _: &mut Connection) -> bool {
        false
    }
}

/// Makes a pool of so many connections, and the count of those that were made.
///
/// # Errors
///
/// If the server or the connections cannot be made.
pub fn pool(size: u32) -> io::Result<(r2d2::Pool<Dialer>, Arc<AtomicUsize>)> {
    let made = Arc::new(AtomicUsize::new(0));
    let dialer = Dialer {
        address: echo_server()?,
        made: made.clone(),
    };
    let pool = r2d2::Pool::builder()
        .max_size(size)
        .connection_timeout(Duration::from_secs(60))
        .build(dialer)
        .map_err(io::Error::other)?;
    Ok((pool, made))
}

/// Takes a connection, holds it over several parks, and gives it back.
///
/// # Errors
///
/// If there is no connection within the pool's limit, and those of the connection.
pub fn use_connection(pool: &r2d2::Pool<Dialer>) -> io::Result<()> {
    let mut connection = pool.get().map_err(io::Error::other)?;
    connection.exchange(b"gopher")
}

/// A goroutine that counts its turns.
pub struct Ticker {
    over: Arc<AtomicBool>,
    turns: Arc<AtomicUsize>,
    goroutine: gopark::JoinHandle<()>,
}

impl Ticker {
    /// Starts one on the thread of the calling goroutine.
    ///
    /// # Panics
    ///
    /// If the caller is no goroutine.
    pub fn start() -> Self {
        let (over, turns) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (ends, counts): (_, Arc<AtomicUsize>) = (over.clone(), Arc::clone(&turns));
        let goroutine = gopark::go_local(move || {
            while !ends.load(Ordering::Relaxed) {
                counts.fetch_add(1, Ordering::Relaxed);
                gopark::yield_now();
            }
        });
        Ticker {
            over,
            turns,
            goroutine,
        }
    }

    /// Returns how many turns it has had.
    pub fn turns(&self) -> usize {
        self.turns.load(Ordering::Relaxed)
    }

    /// Ends it.
    ///
    /// # Panics
    ///
    /// If the goroutine has panicked.
    pub fn stop(self) {
        self.over.store(true, Ordering::Relaxed);
        self.goroutine.join().expect("a ticker does not panic");
    }
}
