//! may: one coroutine for each connection, with the default size of stacks. `--flavor nopin` does
//! not bind workers to CPUs, as may does by default.

use may::net::{TcpListener, TcpStream};
use peers::{is_special, opts, special};
use std::io::{Read, Write};
use std::time::Duration;

fn serve(mut stream: TcpStream, size: usize, deadline: Option<Duration>) {
    let mut buffer = vec![0u8; size];
    loop {
        if deadline.is_some() {
            stream.set_read_timeout(deadline).unwrap();
        }
        let count = match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        if is_special(buffer[0]) {
            special(buffer[0]);
        }
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

fn main() {
    let o = opts();
    may::config().set_workers(o.workers);
    if o.flavor == "nopin" {
        may::config().set_worker_pin(false);
    }
    let accept = may::go!(move || {
        let listener = TcpListener::bind(&o.addr).unwrap();
        loop {
            let (stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            let (size, deadline) = (o.buf, o.deadline);
            may::go!(move || serve(stream, size, deadline));
        }
    });
    accept.join().unwrap();
}
