//! Returns each datagram to its sender. Each worker has a socket of its own, all on one port, among
//! which the kernel distributes the clients.
//!
//! `cargo run --release --example udp_echo -- 127.0.0.1:7000 2`, then `nc -u 127.0.0.1 7000`. A
//! third argument is how many datagrams one system call may receive or send.

use gopark::net::{DatagramBatch, UdpSocket};
use gopark::{Builder, scope};
use socket2::{Domain, Socket, Type};
use std::io::Result;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::{env, thread};

fn main() -> Result<()> {
    let mut args = env::args().skip(1);
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:7000".into());
    let addr = addr.parse().expect("the first argument is an address");
    let workers = match args.next() {
        Some(number) => number.parse().expect("the second argument is a number"),
        None => thread::available_parallelism()?.get(),
    };
    let batch = args.next().map_or(1, |number| {
        number.parse().expect("the third argument is a number")
    });
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
