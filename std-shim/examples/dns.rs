//! A name server over UDP: answers questions for the addresses of the names that it is told.
//!
//!     cargo run --example dns -- 127.0.0.1:5353 one.test=192.0.2.1 six.test=2001:db8::6
//!     dig @127.0.0.1 -p 5353 one.test
//!
//! Each question is answered in a goroutine of its own, so a slow answer holds up no other.

use gopark::net::UdpSocket;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::{env, io, process};

/// Bytes of a message without extensions (RFC 1035, 4.2.1).
const MAX: usize = 512;

/// Bytes of a header.
const HEADER: usize = 12;

/// Seconds for which an answer may be kept.
const TTL: u32 = 60;

type Names = HashMap<String, Vec<IpAddr>>;

fn main() -> io::Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let Some((addr, records)) = arguments.split_first() else {
        eprintln!("usage: dns ADDRESS NAME=IP...");
        process::exit(2);
    };
    let names = Arc::new(names(records));
    gopark::run(|| {
        let socket = UdpSocket::bind(addr)?;
        println!("listening on {}", socket.local_addr()?);
        loop {
            let mut question = [0; MAX];
            let (len, client) = socket.recv_from(&mut question)?;
            let (socket, names) = (socket.try_clone()?, names.clone());
            gopark::go(move || {
                if let Some(answer) = answer(&question[..len], &names) {
                    // A client that is gone is no failure of the server.
                    let _ = socket.send_to(&answer, client);
                }
            });
        }
    })
}

/// The names with their addresses, from records such as `one.test=192.0.2.1`.
fn names(records: &[String]) -> Names {
    let mut names = Names::new();
    for record in records {
        let parsed = record.split_once('=').and_then(|(name, ip)| {
            let ip = ip.parse().ok()?;
            Some((name.to_ascii_lowercase(), ip))
        });
        let Some((name, ip)) = parsed else {
            eprintln!("{record} is not of the form NAME=IP");
            process::exit(2);
        };
        names.entry(name).or_default().push(ip);
    }
    names
}

/// The answer to `message`. `None` if it is no question.
fn answer(message: &[u8], names: &Names) -> Option<Vec<u8>> {
    /// Query types: an IPv4 and an IPv6 address.
    const A: u16 = 1;
    const AAAA: u16 = 28;
    /// A pointer to the name in the question.
    const NAME: [u8; 2] = [0xc0, HEADER as u8];
    const NO_SUCH_NAME: u8 = 3;

    let header = message.get(..HEADER)?;
    let is_answer = header[2] & 0x80 != 0;
    let questions = u16::from_be_bytes([header[4], header[5]]);
    if is_answer || questions != 1 {
        return None;
    }
    let (name, end) = name(message)?;
    let kind = u16::from_be_bytes(message.get(end..end + 2)?.try_into().ok()?);
    let question = message.get(HEADER..end + 4)?;

    let known = names.get(&name);
    let ips = known.map_or(&[][..], Vec::as_slice).iter();
    let found: Vec<_> = ips
        .filter_map(|ip| match ip {
            IpAddr::V4(ip) if kind == A => Some(ip.octets().to_vec()),
            IpAddr::V6(ip) if kind == AAAA => Some(ip.octets().to_vec()),
            _ => None,
        })
        .collect();

    let mut reply = Vec::with_capacity(MAX);
    reply.extend(&header[..2]);
    // It is an answer, with authority. The wish for recursion is repeated.
    reply.push(0x84 | header[2] & 1);
    reply.push(if known.is_some() { 0 } else { NO_SUCH_NAME });
    for count in [1, found.len() as u16, 0, 0] {
        reply.extend(count.to_be_bytes());
    }
    reply.extend(question);
    for octets in found {
        reply.extend(NAME);
        reply.extend(kind.to_be_bytes());
        reply.extend(&question[question.len() - 2..]);
        reply.extend(TTL.to_be_bytes());
        reply.extend((octets.len() as u16).to_be_bytes());
        reply.extend(octets);
    }
    Some(reply)
}

/// The name in the question of `message`, in lower case, and where it ends.
fn name(message: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = HEADER;
    loop {
        let len = usize::from(*message.get(at)?);
        at += 1;
        match len {
            0 => return Some((labels.join("."), at)),
            // Longer ones are pointers, which a question does not need.
            1..64 => labels.push(label(message.get(at..at + len)?)),
            _ => return None,
        }
        at += len;
    }
}

fn label(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).to_ascii_lowercase()
}
