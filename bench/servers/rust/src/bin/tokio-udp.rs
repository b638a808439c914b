//! tokio: echoes datagrams, by a task for each worker. Each has a socket of its own on the port.

use peers::opts;
use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;
use tokio::net::UdpSocket;
use tokio::runtime::Builder;

async fn echo(addr: SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&addr.into()).unwrap();
    let socket = UdpSocket::from_std(socket.into()).unwrap();
    let mut buffer = [0; 2048];
    loop {
        if let Ok((count, client)) = socket.recv_from(&mut buffer).await {
            // The client may have left.
            _ = socket.send_to(&buffer[..count], client).await;
        }
    }
}

fn main() {
    let o = opts();
    let addr = o.addr.parse().unwrap();
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.worker_threads(o.workers).enable_all().build();
    runtime.unwrap().block_on(async move {
        let tasks: Vec<_> = (0..o.workers).map(|_| tokio::spawn(echo(addr))).collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}
