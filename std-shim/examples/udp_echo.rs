//! Returns each datagram to its sender. Each worker has a socket of its own, all on one port, among
//! which the kernel distributes the clients.
//!
//! ```text
//! cargo run --release --example udp_echo -- [--addr 127.0.0.1:7000] [--workers CPUS] [--batch 1]
//! nc -u 127.0.0.1 7000
//! ```
//!
//! `--batch` is how many datagrams one system call may receive or send.

use gopark::net::{DatagramBatch, UdpSocket};
use gopark::{Builder, scope};
use socket2::{Domain, Socket, Type};
use std::io::Result;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::{env, thread};

const USAGE: &str = "the options are --addr ADDRESS, --workers NUMBER and --batch NUMBER";

fn main() -> Result<()> {
    let mut addr = SocketAddr::from(([127, 0, 0, 1], 7000));
    let (mut workers, mut batch) = (thread::available_parallelism()?.get(), 1);
    let mut args = env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().expect(USAGE);
        match name.as_str() {
            "--addr" => addr = value.parse().expect(USAGE),
            "--workers" => workers = value.parse().expect(USAGE),
            "--batch" => batch = value.parse().expect(USAGE),
            _ => panic!("{name}: {USAGE}"),
        }
    }
    Builder::new().max_procs(workers).start()?;

    let first = shared(addr)?;
    let addr = first.local_addr()?;
    println!("listening on {addr}");
    let others = (1..workers).map(|_| shared(addr));
    let sockets = [Ok(first)].into_iter().chain(others);
    let sockets = sockets.collect::<Result<Vec<_>>>()?;
    gopark::run(|| {
        scope(|s| {
            for socket in &sockets {
                s.go(move || match batch {
                    1 => echo(socket),
                    _ => echo_batches(socket, batch),
                });
            }
        });
    });
    Ok(())
}

/// A socket that shares its port with others. The option must be set before the bind.
fn shared(addr: SocketAddr) -> Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    Ok(UdpSocket::from(OwnedFd::from(socket)))
}

fn echo(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        let sent = socket
            .recv_from(&mut buffer)
            .and_then(|(len, sender)| socket.send_to(&buffer[..len], sender));
        if let Err(error) = sent {
            eprintln!("{error}");
        }
    }
}

fn echo_batches(socket: &UdpSocket, count: usize) {
    let mut batch = DatagramBatch::new(count, 2048);
    loop {
        let mut sent = socket.recv_batch(&mut batch);
        while sent.is_ok() && !batch.is_empty() {
            sent = socket.send_batch(&mut batch);
        }
        if let Err(error) = sent {
            eprintln!("{error}");
        }
    }
}
