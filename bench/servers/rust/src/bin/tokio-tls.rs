//! tokio-rustls: one task for each connection.

use peers::opts;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

async fn serve(stream: TcpStream, tls: TlsAcceptor, size: usize) {
    let Ok(mut stream) = tls.accept(stream).await else {
        return;
    };
    let mut buffer = vec![0u8; size];
    loop {
        let count = match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        let sent = stream.write_all(&buffer[..count]).await;
        if sent.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

fn main() {
    let o = opts();
    let cert = CertificateDer::from_pem_file(&o.cert).unwrap();
    let key = PrivateKeyDer::from_pem_file(&o.key).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.worker_threads(o.workers).enable_all().build();
    runtime.unwrap().block_on(async move {
        let listener = TcpListener::bind(&o.addr).await.unwrap();
        let accept = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(stream, tls.clone(), o.buf));
            }
        });
        accept.await.unwrap();
    });
}
