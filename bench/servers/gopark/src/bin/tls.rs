//! A TLS echo server: one goroutine for each connection, and rustls over its blocking reads and
//! writes. `tls --addr 127.0.0.1:PORT --workers N --cert FILE --key FILE [--buf BYTES]`.

use gopark::net::{TcpListener, TcpStream};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::env;
use std::error::Error;
use std::io::{self, Read, Write};
use std::sync::Arc;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let workers = option("--workers", "2").parse()?;
    let size = option("--buf", "4096").parse()?;
    let cert = CertificateDer::from_pem_file(option("--cert", "cert.pem"))?;
    let key = PrivateKeyDer::from_pem_file(option("--key", "key.pem"))?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)?;
    let config = Arc::new(config);
    gopark::Builder::new().max_procs(workers).start()?;
    gopark::run(|| {
        let listener = TcpListener::bind(option("--addr", "127.0.0.1:7000"))?;
        loop {
            let (stream, _) = listener.accept()?;
            let tls = ServerConnection::new(config.clone())?;
            gopark::go(move || echo(StreamOwned::new(tls, stream), size));
        }
    })
}

/// Returns the value after `name` on the command line.
fn option(name: &str, default: &str) -> String {
    let value = env::args().skip_while(|arg| arg != name).nth(1);
    value.unwrap_or_else(|| default.into())
}

fn echo(mut stream: StreamOwned<ServerConnection, TcpStream>, size: usize) -> io::Result<()> {
    let mut buffer = vec![0; size];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}
