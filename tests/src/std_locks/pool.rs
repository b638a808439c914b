//! A pool of connections as clients of databases have them: it dials while it holds its Mutex, and
//! those that find no free connection wait in a Condvar with a time limit.

use crate::join;
use crate::sockets::listener;
use gopark::net::{TcpListener, TcpStream};
use gopark::{go, sleep, yield_now};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const CONNECTIONS: usize = 4;
const CLIENTS: u8 = 20;
const QUERIES: u8 = 10;

struct Pool {
    server: SocketAddr,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    free: Vec<TcpStream>,
    opened: usize,
}

impl Pool {
    fn get(&self) -> TcpStream {
        let mut state = self.state.lock().unwrap();
        loop {
            if let Some(stream) = state.free.pop() {
                return stream;
            }
            if state.opened < CONNECTIONS {
                state.opened += 1;
                let mut stream = TcpStream::connect(self.server).unwrap();
                // The greeting: with the Mutex held.
                stream.read_exact(&mut [0]).unwrap();
                return stream;
            }
            let wait = self.freed.wait_timeout(state, crate::LIMIT / 2);
            let (locked, result) = wait.unwrap();
            assert!(!result.timed_out(), "no connection comes back");
            state = locked;
        }
    }

    fn put(&self, stream: TcpStream) {
        self.state.lock().unwrap().free.push(stream);
        self.freed.notify_one();
    }
}

/// Goroutines ask a server over the connections of a pool.
pub fn pool() {
    let listener = Arc::new(listener());
    let pool = Arc::new(Pool {
        server: listener.local_addr().unwrap(),
        state: Mutex::default(),
        freed: Condvar::new(),
    });
    let theirs = listener.clone();
    let server = go(move || serve(&theirs));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let pool = pool.clone();
            go(move || {
                for query in 0..QUERIES {
                    let mut stream = pool.get();
                    let question = [client, query];
                    stream.write_all(&question).unwrap();
                    let mut answer = [0; 2];
                    stream.read_exact(&mut answer).unwrap();
                    assert_eq!(answer, question);
                    pool.put(stream);
                    yield_now();
                }
            })
        })
        .collect();
    clients.into_iter().for_each(join);
    drop(pool);
    listener.close().unwrap();
    join(server);
}

fn serve(listener: &TcpListener) {
    let mut connections = Vec::new();
    while let Ok((mut stream, _)) = listener.accept() {
        connections.push(go(move || {
            sleep(Duration::from_micros(200));
            stream.write_all(b"!").unwrap();
            let mut question = [0; 2];
            while stream.read_exact(&mut question).is_ok() {
                stream.write_all(&question).unwrap();
            }
        }));
    }
    connections.into_iter().for_each(join);
}
