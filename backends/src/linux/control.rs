//! What control messages say: of those that this module knows, the contents as values.
//!
//! [`message`](super::message) has their layout. A message of the wrong length is
//! [`Ancillary::Other`].

use super::message::{Control, control_space, push_control};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The contents of a control message.
///
/// [`from`](Self::from) reads one that the kernel has written, and [`push`](Self::push) writes one
/// for the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ancillary<'a> {
    /// Numbers of descriptors, four bytes each (`SCM_RIGHTS`, `SCM_PIDFD`). [`numbers`] reads them.
    Rights(&'a [u8]),
    /// The sender of a message on a Unix socket (`SCM_CREDENTIALS`).
    Credentials {
        /// The process.
        pid: i32,
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// Of a received packet the destination, of a sent one the source (`IP_PKTINFO`,
    /// `IPV6_PKTINFO`).
    PacketInfo {
        /// The address.
        addr: IpAddr,
        /// The index of the interface.
        interface: u32,
    },
    /// The time to live (`IP_TTL`, `IPV6_HOPLIMIT`).
    Ttl(u8),
    /// The type of service (`IP_TOS`, `IPV6_TCLASS`).
    Tos(u8),
    /// The length of the datagrams that the data consists of (`UDP_SEGMENT`, `UDP_GRO`).
    SegmentSize(u16),
    /// When the kernel received the packet, since 1970 (`SO_TIMESTAMPNS`).
    Timestamp {
        /// Whole seconds.
        seconds: i64,
        /// The rest, below a second.
        nanoseconds: u32,
    },
    /// How many packets the kernel has dropped because the socket's buffer was full
    /// (`SO_RXQ_OVFL`).
    Dropped(u32),
    /// Any other message.
    Other(Control<'a>),
}

/// Not in libc for all targets.
const SCM_PIDFD: i32 = 4;
const SO_TIMESTAMPNS_OLD: i32 = 35;
const SO_TIMESTAMPNS_NEW: i32 = 64;
const SOL_UDP: i32 = libc::IPPROTO_UDP;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;
const SOL_RDS: i32 = 276;

impl<'a> From<Control<'a>> for Ancillary<'a> {
    fn from(control: Control<'a>) -> Self {
        known(control).unwrap_or(Ancillary::Other(control))
    }
}

fn known(control: Control<'_>) -> Option<Ancillary<'_>> {
    let data = control.data;
    Some(match (control.level, control.kind) {
        // The kernel writes whole numbers only.
        (libc::SOL_SOCKET, libc::SCM_RIGHTS | SCM_PIDFD) => Ancillary::Rights(data),
        (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
            let [pid, uid, gid] = words(data)?;
            Ancillary::Credentials {
                pid: pid as i32,
                uid,
                gid,
            }
        }
        (libc::SOL_SOCKET, SO_TIMESTAMPNS_OLD | SO_TIMESTAMPNS_NEW) => timestamp(data)?,
        (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => Ancillary::Dropped(words::<1>(data)?[0]),
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            // An in_pktinfo: the second word is the address to answer from.
            let [interface, _, addr] = words(data)?;
            Ancillary::PacketInfo {
                addr: Ipv4Addr::from(addr.to_ne_bytes()).into(),
                interface,
            }
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let (addr, interface) = data.split_first_chunk::<16>()?;
            Ancillary::PacketInfo {
                addr: Ipv6Addr::from(*addr).into(),
                interface: words::<1>(interface)?[0],
            }
        }
        (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
            Ancillary::Ttl(byte(data)?)
        }
        (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
            Ancillary::Tos(byte(data)?)
        }
        // `UDP_SEGMENT` has two bytes, `UDP_GRO` four.
        (SOL_UDP, UDP_SEGMENT | UDP_GRO) => match *data {
            [a, b] => Ancillary::SegmentSize(u16::from_ne_bytes([a, b])),
            _ => Ancillary::SegmentSize(words::<1>(data)?[0].try_into().ok()?),
        },
        _ => return None,
    })
}

/// The `N` words of four bytes that `data` consists of.
fn words<const N: usize>(data: &[u8]) -> Option<[u32; N]> {
    let mut words = [0; N];
    if data.len() != size_of_val(&words) {
        return None;
    }
    for (word, bytes) in words.iter_mut().zip(data.chunks_exact(4)) {
        *word = u32::from_ne_bytes(bytes.try_into().ok()?);
    }
    Some(words)
}

/// A value below 256, of one byte or four.
fn byte(data: &[u8]) -> Option<u8> {
    match *data {
        [byte] => Some(byte),
        _ => words::<1>(data)?[0].try_into().ok(),
    }
}

/// Two words of the C type `long`, or of 64 bits.
fn timestamp(data: &[u8]) -> Option<Ancillary<'static>> {
    let number = |bytes: &[u8]| match bytes.len() {
        4 => Some(i64::from(i32::from_ne_bytes(bytes.try_into().ok()?))),
        8 => Some(i64::from_ne_bytes(bytes.try_into().ok()?)),
        _ => None,
    };
    let (seconds, nanoseconds) = data.split_at(data.len() / 2);
    let nanoseconds = u32::try_from(number(nanoseconds)?).ok()?;
    (nanoseconds < 1_000_000_000).then_some(Ancillary::Timestamp {
        seconds: number(seconds)?,
        nanoseconds,
    })
}

/// The numbers of descriptors in [`Ancillary::Rights`].
pub fn numbers(rights: &[u8]) -> impl Iterator<Item = i32> {
    rights
        .chunks_exact(4)
        .map(|bytes| i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// The most bytes that one of the small messages takes: the two of [`Ancillary::Ttl`], or an
/// in6_pktinfo.
const SMALL_MAX: usize = 2 * control_space(size_of::<[u32; 5]>());

impl Ancillary<'_> {
    /// The bytes that suffice for [`push`](Self::push).
    pub const fn space(&self) -> usize {
        match self {
            Ancillary::Rights(data) | Ancillary::Other(Control { data, .. }) => {
                control_space(data.len())
            }
            _ => SMALL_MAX,
        }
    }

    /// Whether the kernel would take the contents for numbers of descriptors or for addresses of
    /// memory, although they are only bytes.
    pub fn is_unsafe(&self) -> bool {
        match self {
            Ancillary::Other(Control { level, kind, .. }) => {
                *level == SOL_RDS || (*level, *kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS)
            }
            _ => false,
        }
    }

    /// Writes the message to the beginning of `to` as `sendmsg(2)` takes it, and returns how many
    /// bytes it takes. `None` if there is no room.
    ///
    /// `Ttl` and `Tos` become two messages, one for each version of IP: the kernel skips that of
    /// the other version. `Timestamp` and `Dropped`, which are only received, take no bytes.
    pub fn push(&self, to: &mut [u8]) -> Option<usize> {
        let (socket, v4, v6) = (libc::SOL_SOCKET, libc::IPPROTO_IP, libc::IPPROTO_IPV6);
        match *self {
            Ancillary::Rights(data) => push(to, socket, libc::SCM_RIGHTS, data),
            Ancillary::Credentials { pid, uid, gid } => {
                let words = [pid as u32, uid, gid];
                push(to, socket, libc::SCM_CREDENTIALS, &bytes::<12>(&words))
            }
            Ancillary::PacketInfo {
                addr: IpAddr::V4(addr),
                interface,
            } => {
                // The kernel sends from the second word, and ignores the third.
                let addr = u32::from_ne_bytes(addr.octets());
                let words = [interface, addr, addr];
                push(to, v4, libc::IP_PKTINFO, &bytes::<12>(&words))
            }
            Ancillary::PacketInfo {
                addr: IpAddr::V6(addr),
                interface,
            } => {
                let mut data = [0; 20];
                data[..16].copy_from_slice(&addr.octets());
                data[16..].copy_from_slice(&interface.to_ne_bytes());
                push(to, v6, libc::IPV6_PKTINFO, &data)
            }
            Ancillary::Ttl(ttl) => {
                let data = u32::from(ttl).to_ne_bytes();
                let len = push(to, v4, libc::IP_TTL, &data)?;
                Some(len + push(&mut to[len..], v6, libc::IPV6_HOPLIMIT, &data)?)
            }
            Ancillary::Tos(tos) => {
                let data = u32::from(tos).to_ne_bytes();
                let len = push(to, v4, libc::IP_TOS, &data)?;
                Some(len + push(&mut to[len..], v6, libc::IPV6_TCLASS, &data)?)
            }
            Ancillary::SegmentSize(size) => push(to, SOL_UDP, UDP_SEGMENT, &size.to_ne_bytes()),
            Ancillary::Timestamp { .. } | Ancillary::Dropped(_) => Some(0),
            Ancillary::Other(control) => push_control(to, control),
        }
    }
}

fn push(to: &mut [u8], level: i32, kind: i32, data: &[u8]) -> Option<usize> {
    push_control(to, Control { level, kind, data })
}

fn bytes<const N: usize>(words: &[u32]) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::message::controls;
    use std::vec::Vec;

    #[test]
    fn messages_are_read_as_they_were_pushed() {
        let messages = [
            Ancillary::Rights(&[1, 0, 0, 0, 2, 0, 0, 0]),
            Ancillary::Credentials {
                pid: -1,
                uid: u32::MAX,
                gid: 3,
            },
            Ancillary::PacketInfo {
                addr: [127, 0, 0, 1].into(),
                interface: 1,
            },
            Ancillary::PacketInfo {
                addr: Ipv6Addr::LOCALHOST.into(),
                interface: 7,
            },
            Ancillary::SegmentSize(1200),
            Ancillary::Other(Control {
                level: 9,
                kind: 8,
                data: b"data",
            }),
        ];
        let mut bytes = [0; 1024];
        let mut len = 0;
        for message in messages {
            let pushed = message.push(&mut bytes[len..]).unwrap();
            assert!(pushed <= message.space(), "{message:?}");
            assert_eq!(message.push(&mut bytes[len..][..pushed - 1]), None);
            len += pushed;
        }
        assert!(controls(&bytes[..len]).map(Ancillary::from).eq(messages));
    }

    #[test]
    fn ttl_and_tos_are_pushed_for_both_versions_of_ip() {
        for message in [Ancillary::Ttl(64), Ancillary::Tos(255)] {
            let mut bytes = [0; SMALL_MAX];
            let len = message.push(&mut bytes).unwrap();
            let read: Vec<_> = controls(&bytes[..len]).collect();
            assert_eq!(
                read.iter().map(|control| control.level).collect::<Vec<_>>(),
                [libc::IPPROTO_IP, libc::IPPROTO_IPV6]
            );
            assert!(
                read.into_iter()
                    .all(|read| Ancillary::from(read) == message)
            );
            assert_eq!(message.push(&mut bytes[..len - 1]), None);
        }
    }

    #[test]
    fn what_the_kernel_only_reports_is_read_but_not_pushed() {
        let seconds = 1_700_000_000_i64;
        let mut data = [0; 16];
        data[..8].copy_from_slice(&seconds.to_ne_bytes());
        data[8..].copy_from_slice(&5_i64.to_ne_bytes());
        let timestamp = Ancillary::Timestamp {
            seconds,
            nanoseconds: 5,
        };
        let dropped = Ancillary::Dropped(3);
        for (level, kind, data, message) in [
            (libc::SOL_SOCKET, SO_TIMESTAMPNS_OLD, &data[..], timestamp),
            (
                libc::SOL_SOCKET,
                libc::SO_RXQ_OVFL,
                &3_u32.to_ne_bytes(),
                dropped,
            ),
            (
                SOL_UDP,
                UDP_GRO,
                &1200_u32.to_ne_bytes(),
                Ancillary::SegmentSize(1200),
            ),
            (libc::IPPROTO_IP, libc::IP_TOS, &[8], Ancillary::Tos(8)),
        ] {
            assert_eq!(Ancillary::from(Control { level, kind, data }), message);
        }
        for message in [timestamp, dropped] {
            assert_eq!(message.push(&mut []), Some(0));
        }
    }

    #[test]
    fn a_message_of_the_wrong_length_or_value_is_another() {
        let kinds = [
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS),
            (libc::SOL_SOCKET, SO_TIMESTAMPNS_NEW),
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL),
            (libc::IPPROTO_IP, libc::IP_PKTINFO),
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO),
            (libc::IPPROTO_IP, libc::IP_TTL),
            (SOL_UDP, UDP_GRO),
        ];
        for (level, kind) in kinds {
            for len in [0, 3, 5, 11, 13, 15, 17, 19, 21, 64] {
                let control = Control {
                    level,
                    kind,
                    data: &[255; 64][..len],
                };
                assert_eq!(Ancillary::from(control), Ancillary::Other(control));
            }
        }
        let ttl = Control {
            level: libc::IPPROTO_IP,
            kind: libc::IP_TTL,
            data: &256_u32.to_ne_bytes(),
        };
        assert_eq!(Ancillary::from(ttl), Ancillary::Other(ttl));
    }

    #[test]
    fn bytes_that_mean_descriptors_or_memory_are_unsafe() {
        let is_unsafe = |level, kind| {
            let data = &[0; 4];
            Ancillary::Other(Control { level, kind, data }).is_unsafe()
        };
        assert!(is_unsafe(libc::SOL_SOCKET, libc::SCM_RIGHTS));
        assert!(is_unsafe(SOL_RDS, 1));
        assert!(!is_unsafe(libc::SOL_SOCKET, libc::SCM_CREDENTIALS));
        assert!(!Ancillary::Rights(&[]).is_unsafe());
        assert_eq!(numbers(&[255; 9]).collect::<Vec<_>>(), [-1, -1]);
    }
}
