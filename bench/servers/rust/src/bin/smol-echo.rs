//! smol: one task for each connection on its global executor.

use peers::{is_special, opts, special};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream};
use smol::{Timer, future};
use std::io::ErrorKind;
use std::time::Duration;

async fn serve(mut stream: TcpStream, size: usize, deadline: Option<Duration>) {
    let mut buffer = vec![0u8; size];
    loop {
        let read = stream.read(&mut buffer);
        let read = match deadline {
            None => read.await,
            Some(limit) => {
                let late = async {
                    Timer::after(limit).await;
                    Err(ErrorKind::TimedOut.into())
                };
                future::or(read, late).await
            }
        };
        let count = match read {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        if is_special(buffer[0]) {
            special(buffer[0]);
        }
        if stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

fn main() {
    let o = opts();
    o.set_smol_threads();
    let accept = smol::spawn(async move {
        let listener = TcpListener::bind(&o.addr).await.unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            smol::spawn(serve(stream, o.buf, o.deadline)).detach();
        }
    });
    smol::future::block_on(accept);
}
