//! The load generator for TLS: a thread for each connection, in a closed loop. It prints one JSON
//! object with the names of the other load generator.
//!
//! ```text
//! tls-load --addr 127.0.0.1:PORT --cert FILE [--mode echo|churn] [--conns 50] [--size 64]
//!     [--secs 3] [--warmup 0.5] [--pid SERVER]
//! ```
//!
//! `churn` makes a connection for each message: a full handshake, a round trip, and a close. All
//! connections use TLS 1.3, AES-128-GCM and X25519, whatever the server prefers.

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::error::Error;
use std::io::{Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

type Stream = StreamOwned<ClientConnection, TcpStream>;

static RECORDS: AtomicBool = AtomicBool::new(false);
static STOPS: AtomicBool = AtomicBool::new(false);

struct Load {
    addr: SocketAddr,
    config: Arc<ClientConfig>,
    size: usize,
    churns: bool,
}

/// What a thread saw: the time of each recorded round trip in nanoseconds, and failures.
#[derive(Default)]
struct Seen {
    nanos: Vec<u64>,
    errors: usize,
}

impl Load {
    fn connect(&self) -> Result<Stream> {
        let stream = TcpStream::connect(self.addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(self.config.clone(), name);
        Ok(StreamOwned::new(tls.unwrap(), stream))
    }

    fn round_trip(&self, stream: &mut Stream, buffer: &mut [u8]) -> Result<()> {
        stream.write_all(buffer)?;
        stream.flush()?;
        stream.read_exact(buffer)
    }

    /// Makes round trips until the end, or until a connection fails that is not for one trip.
    fn run(&self) -> Seen {
        let mut seen = Seen::default();
        let mut buffer = vec![b'x'; self.size];
        let mut kept = None;
        while !STOPS.load(Relaxed) {
            let start = Instant::now();
            let stream = match kept.take() {
                Some(stream) => Ok(stream),
                None => self.connect(),
            };
            let trip = stream.and_then(|mut stream| {
                self.round_trip(&mut stream, &mut buffer)?;
                Ok(stream)
            });
            match trip {
                Ok(stream) => kept = Some(stream).filter(|_| !self.churns),
                Err(error) => {
                    seen.errors += 1;
                    eprintln!("tls-load: {error}");
                    if !self.churns {
                        return seen;
                    }
                }
            }
            if RECORDS.load(Relaxed) {
                seen.nanos.push(start.elapsed().as_nanos() as u64);
            }
        }
        seen
    }
}

fn main() -> std::result::Result<(), Box<dyn Error + Send + Sync>> {
    let conns = option("--conns", 50)?;
    let secs = Duration::from_secs_f64(option("--secs", 3.0)?);
    let warmup = Duration::from_secs_f64(option("--warmup", 0.5)?);
    let pid: u32 = option("--pid", 0)?;
    let mode: String = option("--mode", "echo".into())?;
    let load = Load {
        addr: option("--addr", "127.0.0.1:9000".parse()?)?,
        config: Arc::new(config(&option::<String>("--cert", "cert.pem".into())?)?),
        size: option("--size", 64)?,
        churns: mode == "churn",
    };
    let (seen, cpu, took) = thread::scope(|scope| {
        let threads: Vec<_> = (0..conns).map(|_| scope.spawn(|| load.run())).collect();
        thread::sleep(warmup);
        let (start, cpu) = (Instant::now(), cpu_micros(pid));
        RECORDS.store(true, Relaxed);
        thread::sleep(secs);
        RECORDS.store(false, Relaxed);
        let (took, cpu) = (start.elapsed(), cpu_micros(pid) - cpu);
        STOPS.store(true, Relaxed);
        let seen: Vec<_> = threads.into_iter().map(|it| it.join().unwrap()).collect();
        (seen, cpu, took)
    });
    report(seen, cpu, took, pid);
    Ok(())
}

fn config(cert: &str) -> std::result::Result<ClientConfig, Box<dyn Error + Send + Sync>> {
    let mut provider = ring::default_provider();
    provider.cipher_suites = vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
    provider.kx_groups = vec![ring::kx_group::X25519];
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(cert)?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Returns the value after `name` on the command line.
fn option<T: FromStr>(name: &str, default: T) -> std::result::Result<T, T::Err> {
    let value = env::args().skip_while(|arg| arg != name).nth(1);
    value.map_or(Ok(default), |value| value.parse())
}

/// CPU time of the living threads of a process. No server here ends threads under load.
fn cpu_micros(pid: u32) -> f64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0.0;
    };
    let nanos = tasks.flatten().map(|task| {
        let stat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let first = stat.split(' ').next().and_then(|nanos| nanos.parse().ok());
        first.unwrap_or(0.0)
    });
    nanos.sum::<f64>() / 1000.0
}

/// A field of /proc/PID/status.
fn status(pid: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

fn report(seen: Vec<Seen>, cpu: f64, took: Duration, pid: u32) {
    let errors: usize = seen.iter().map(|seen| seen.errors).sum();
    let mut nanos: Vec<_> = seen.into_iter().flat_map(|seen| seen.nanos).collect();
    nanos.sort_unstable();
    let micros = |part: f64| {
        let at = (nanos.len().saturating_sub(1) as f64 * part) as usize;
        nanos.get(at).map_or(0.0, |nanos| *nanos as f64 / 1000.0)
    };
    let fields = [
        ("trips", nanos.len() as f64),
        ("secs", took.as_secs_f64()),
        ("rps", nanos.len() as f64 / took.as_secs_f64()),
        ("p50_us", micros(0.5)),
        ("p99_us", micros(0.99)),
        ("p999_us", micros(0.999)),
        ("max_us", micros(1.0)),
        ("errors", errors as f64),
        ("cpu_us_per_trip", cpu / nanos.len().max(1) as f64),
        ("hwm_kb", status(pid, "VmHWM:") as f64),
        ("threads", status(pid, "Threads:") as f64),
    ];
    let fields = fields.map(|(name, value)| format!("\"{name}\":{value:.3}"));
    println!("{{{}}}", fields.join(","));
}
