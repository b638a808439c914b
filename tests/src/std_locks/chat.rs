//! A chat server with one Mutex over the map of its connections.

use crate::join;
use crate::sockets::listener;
use gopark::net::{TcpListener, TcpStream};
use gopark::{JoinHandle, go};
use socket2::SockRef;
use std::collections::{BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

/// How long a client may take no byte before the server drops it. A server that has no CPU for as
/// long drops one that reads.
const PATIENCE: Duration = Duration::from_millis(500);

/// The length of a line. All lines fit into buffers of the usual size, so the server never drops a
/// client that reads, however late that runs.
const LINE: usize = 128;

/// What a client sends first.
const READS: u8 = b'r';
const IS_SILENT: u8 = b's';

/// The connections by the addresses of their clients.
type Members = Arc<Mutex<HashMap<SocketAddr, TcpStream>>>;

/// Serves `clients` clients, and fails unless each that reads gets a line of each that reads. The
/// last `silent` of them do not read: the server drops them, while it holds the Mutex.
pub fn chat(clients: usize, silent: usize) {
    let listener = listener();
    let address = listener.local_addr().unwrap();
    let members = Members::default();
    let theirs = members.clone();
    let server = go(move || serve(&listener, clients, &theirs));
    let all_are_in = Arc::new(Barrier::new(clients));
    let over = Arc::new(Barrier::new(clients));
    let readers = clients - silent;
    let clients: Vec<_> = (0..clients)
        .map(|number| {
            let (all_are_in, over) = (all_are_in.clone(), over.clone());
            go(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                if number < readers {
                    stream.write_all(&[READS]).unwrap();
                } else {
                    SockRef::from(&stream).set_recv_buffer_size(0).unwrap();
                    stream.write_all(&[IS_SILENT]).unwrap();
                }
                let mut lines = BufReader::new(&stream).lines();
                assert_eq!(lines.next().unwrap().unwrap(), "welcome");
                all_are_in.wait();
                if number < readers {
                    writeln!(&stream, "{number:>width$}", width = LINE - 1).unwrap();
                    let heard = lines.by_ref().take(readers).map(|line| {
                        let line = line.expect("the server keeps a client that reads");
                        line.trim_start().parse().unwrap()
                    });
                    let heard: BTreeSet<usize> = heard.collect();
                    assert!(
                        heard.into_iter().eq(0..readers),
                        "client {number} lacks lines"
                    );
                }
                over.wait();
            })
        })
        .collect();
    clients.into_iter().for_each(join);
    join(server).into_iter().for_each(join);
    assert!(members.lock().unwrap().is_empty());
}

fn serve(listener: &TcpListener, clients: usize, members: &Members) -> Vec<JoinHandle<()>> {
    let accept = |_| {
        let (stream, client) = listener.accept().unwrap();
        let members = members.clone();
        go(move || serve_client(stream, client, &members))
    };
    (0..clients).map(accept).collect()
}

fn serve_client(mut stream: TcpStream, client: SocketAddr, members: &Members) {
    let mut kind = [0];
    stream.read_exact(&mut kind).unwrap();
    if kind == [IS_SILENT] {
        SockRef::from(&stream).set_send_buffer_size(0).unwrap();
    }
    members
        .lock()
        .unwrap()
        .insert(client, stream.try_clone().unwrap());
    stream.write_all(b"welcome\n").unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let line = line + "\n";
        // The Mutex is held over all writes.
        let mut members = members.lock().unwrap();
        members.retain(|_, member| member.write_all(line.as_bytes()).is_ok());
    }
    members.lock().unwrap().remove(&client);
}
