//! One kernel thread for each connection, with stacks of 64 KiB. It ignores `--workers`.

use peers::{is_special, opts, special};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::Builder;
use std::time::Duration;

fn serve(mut stream: TcpStream, size: usize, deadline: Option<Duration>) {
    let mut buffer = vec![0u8; size];
    loop {
        if deadline.is_some() && stream.set_read_timeout(deadline).is_err() {
            return;
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
    let listener = TcpListener::bind(&o.addr).unwrap();
    loop {
        let (stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let (size, deadline) = (o.buf, o.deadline);
        let thread = Builder::new().stack_size(64 << 10);
        thread.spawn(move || serve(stream, size, deadline)).unwrap();
    }
}
