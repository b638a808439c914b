//! tokio: one task for each connection. `--flavor ct` takes the current_thread runtime, and
//! `--offload 1` runs the special requests of the workload `stalls` in `block_in_place`.

use peers::{is_special, opts, special};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::{task, time};

async fn serve(mut stream: TcpStream, size: usize, deadline: Option<Duration>, offload: bool) {
    let mut buffer = vec![0u8; size];
    loop {
        let read = stream.read(&mut buffer);
        let read = match deadline {
            None => read.await,
            Some(limit) => match time::timeout(limit, read).await {
                Ok(read) => read,
                Err(_) => return,
            },
        };
        let count = match read {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        if is_special(buffer[0]) {
            match offload {
                true => task::block_in_place(|| special(buffer[0])),
                false => special(buffer[0]),
            }
        }
        if stream.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

fn main() {
    let o = opts();
    let mut runtime = match o.flavor.as_str() {
        "ct" => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = runtime.worker_threads(o.workers).enable_all().build();
    runtime.unwrap().block_on(async move {
        let listener = TcpListener::bind(&o.addr).await.unwrap();
        // A task runs on a worker, `block_on` on a thread of its own.
        let accept = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(stream, o.buf, o.deadline, o.offload));
            }
        });
        accept.await.unwrap();
    });
}
