//! The fuzz target `control`: control messages against a plain reader of their layout, and pushed
//! messages against a list.

use gopark_backends::linux::control::{Ancillary, numbers};
use gopark_backends::linux::message::{Control, control_space, controls};
use std::net::IpAddr;

/// Reads `input` as what a kernel has written, then as a list of messages to push.
pub fn fuzz(input: &[u8]) {
    read(input);
    push(input);
}

const WORD: usize = size_of::<usize>();
const HEADER: usize = WORD + 8;

/// A header is a length of one word, which counts the header, and two numbers of four bytes. The
/// next message begins at a multiple of a word.
fn read(input: &[u8]) {
    let mut read = controls(input);
    let mut at = 0;
    while let Some(header) = input.get(at..at + HEADER) {
        let word = |at: usize| i32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
        // musl takes half of the word, and calls the rest padding.
        let len = match cfg!(target_env = "musl") {
            true => word(0) as u32 as usize,
            false => usize::from_ne_bytes(header[..WORD].try_into().unwrap()),
        };
        if len < HEADER || len > input.len() - at {
            break;
        }
        let control = Control {
            level: word(WORD),
            kind: word(WORD + 4),
            data: &input[at + HEADER..at + len],
        };
        assert_eq!(read.next(), Some(control), "at byte {at}");
        check_contents(control);
        at += len.next_multiple_of(WORD).min(input.len() - at);
    }
    assert_eq!(read.next(), None, "at byte {at}");
}

/// What is understood is as long as its values, and what is not stays as it is.
fn check_contents(control: Control<'_>) {
    let len = control.data.len();
    let fits = match Ancillary::from(control) {
        Ancillary::Rights(data) => data == control.data && numbers(data).count() == len / 4,
        Ancillary::Credentials { .. } => len == 12,
        Ancillary::PacketInfo { addr, .. } => len == if addr.is_ipv4() { 12 } else { 20 },
        Ancillary::Ttl(_) | Ancillary::Tos(_) => len == 1 || len == 4,
        Ancillary::SegmentSize(_) => len == 2 || len == 4,
        Ancillary::Timestamp { nanoseconds, .. } => {
            (len == 8 || len == 16) && nanoseconds < 1_000_000_000
        }
        Ancillary::Dropped(_) => len == 4,
        Ancillary::Other(other) => other == control,
    };
    assert!(fits, "{control:?}");
}

/// A byte chooses the kind of a message, the next ones its values.
fn push(input: &[u8]) {
    let (room, mut rest) = input.split_first().unwrap_or((&0, &[]));
    let mut bytes = vec![0xa5; usize::from(*room) * 4];
    let (mut len, mut pushed) = (0, Vec::new());
    while let Some((message, after)) = message(rest) {
        rest = after;
        match message.push(&mut bytes[len..]) {
            Some(used) => {
                assert!(used <= message.space(), "{message:?} takes {used} bytes");
                assert_eq!(used % WORD, 0);
                len += used;
                pushed.push(message);
            }
            None => assert!(message.space() > bytes.len() - len, "{message:?}"),
        }
    }
    let mut read = controls(&bytes[..len]).map(Ancillary::from);
    for message in pushed {
        let copies = match message {
            Ancillary::Ttl(_) | Ancillary::Tos(_) => 2,
            _ => 1,
        };
        for _ in 0..copies {
            assert_eq!(read.next(), Some(message));
        }
    }
    assert_eq!(read.next(), None);
}

fn message(input: &[u8]) -> Option<(Ancillary<'_>, &[u8])> {
    let (&[kind, a, b, c], rest) = input.split_first_chunk()?;
    let word = u32::from_ne_bytes([a, b, c, kind]);
    let (data, rest) = rest.split_at(rest.len().min(usize::from(a % 24)));
    let message = match kind % 8 {
        0 => Ancillary::Rights(data),
        1 => Ancillary::Credentials {
            pid: word as i32,
            uid: b.into(),
            gid: !word,
        },
        2 => Ancillary::PacketInfo {
            addr: IpAddr::from([a, b, c, kind]),
            interface: word,
        },
        3 => Ancillary::PacketInfo {
            addr: IpAddr::from([word as u16; 8]),
            interface: word,
        },
        4 => Ancillary::Ttl(a),
        5 => Ancillary::Tos(a),
        6 => Ancillary::SegmentSize(word as u16),
        _ => Ancillary::Other(Control {
            // No level of the kernel.
            level: -1,
            kind: word as i32,
            data,
        }),
    };
    assert_eq!(control_space(data.len()) % WORD, 0);
    Some((message, rest))
}
