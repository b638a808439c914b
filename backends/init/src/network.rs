//! Network interfaces: addresses, and delay and loss for tests. Source: netdevice(7), rtnetlink(7).
#![allow(
    unsafe_code,
    reason = "ioctl and netlink; each argues that the memory it passes is valid for the call"
)]

use crate::system::{check, close};
use core::mem;
use core::net::Ipv4Addr;
use core::ptr;
use gopark_core::os::Errno;

const INVALID: Errno = Errno::new(libc::EINVAL);

/// A request about the interface with this name.
fn request(interface: &[u8]) -> Result<libc::ifreq, Errno> {
    // SAFETY: all zeroes is a request without a name.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // The name ends with a zero.
    if interface.len() >= request.ifr_name.len() {
        return Err(INVALID);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface) {
        *to = *from as _;
    }
    Ok(request)
}

fn ioctl(code: libc::Ioctl, request: &mut libc::ifreq) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    let socket = check(
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into(),
    )? as i32;
    // SAFETY: the ioctls of this module read and write an `ifreq`.
    let result = check(unsafe { libc::ioctl(socket, code, ptr::from_mut(request)) }.into());
    close(socket);
    result.map(drop)
}

/// Brings an interface up.
pub fn up(interface: &[u8]) -> Result<(), Errno> {
    let mut request = request(interface)?;
    ioctl(libc::SIOCGIFFLAGS as _, &mut request)?;
    // SAFETY: the kernel has filled in the flags.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    ioctl(libc::SIOCSIFFLAGS as _, &mut request)
}

/// `INTERFACE/ADDRESS/BITS`: sets the address, in a network with a prefix of BITS bits, and brings
/// the interface up.
pub fn set_address(text: &str) -> Result<(), Errno> {
    let mut parts = text.split('/');
    let interface = parts.next().unwrap_or_default().as_bytes();
    let address: Ipv4Addr = parts
        .next()
        .and_then(|text| text.parse().ok())
        .ok_or(INVALID)?;
    let bits: u32 = parts
        .next()
        .and_then(|text| text.parse().ok())
        .filter(|bits| *bits <= 32)
        .ok_or(INVALID)?;
    let mask = !u32::MAX.checked_shr(bits).unwrap_or(0);
    for (code, value) in [
        (libc::SIOCSIFADDR, u32::from(address)),
        (libc::SIOCSIFNETMASK, mask),
    ] {
        let mut request = request(interface)?;
        let name = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr {
                s_addr: value.to_be(),
            },
            sin_zero: [0; 8],
        };
        // SAFETY: both types are 16 bytes of integers.
        request.ifr_ifru.ifru_addr =
            unsafe { mem::transmute::<libc::sockaddr_in, libc::sockaddr>(name) };
        ioctl(code as _, &mut request)?;
    }
    up(interface)
}

/// The netlink message of `tc qdisc add dev INTERFACE root netem delay D loss L`.
#[repr(C)]
struct NewQueue {
    header: libc::nlmsghdr,
    family: u32,
    interface: i32,
    handle: u32,
    parent: u32,
    info: u32,
    kind: Attribute<[u8; 8]>,
    options: Attribute<Netem>,
}

#[repr(C)]
struct Attribute<T> {
    len: u16,
    kind: u16,
    value: T,
}

/// `struct tc_netem_qopt` of `linux/pkt_sched.h`.
#[repr(C)]
struct Netem {
    /// In units of 64 ns.
    latency: u32,
    /// Packets.
    limit: u32,
    /// A fraction of `u32::MAX`.
    loss: u32,
    gap: u32,
    duplicate: u32,
    jitter: u32,
}

const RTM_NEWQDISC: u16 = 36;
const TC_H_ROOT: u32 = u32::MAX;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const NLM_F_CREATE: libc::c_int = 0x400;

/// `INTERFACE/MILLISECONDS/PERCENT`: delays what leaves the interface, and loses this part of it.
#[doc(alias = "tc")]
pub fn set_netem(text: &str) -> Result<(), Errno> {
    let mut parts = text.split('/');
    let interface = parts.next().unwrap_or_default().as_bytes();
    let mut number = || {
        parts
            .next()
            .and_then(|text| text.parse::<u32>().ok())
            .ok_or(INVALID)
    };
    let (delay, loss) = (number()?, number()?.min(100));
    let mut request = request(interface)?;
    ioctl(libc::SIOCGIFINDEX as _, &mut request)?;
    let len = size_of::<NewQueue>();
    let message = NewQueue {
        header: libc::nlmsghdr {
            nlmsg_len: len as u32,
            nlmsg_type: RTM_NEWQDISC,
            nlmsg_flags: (libc::NLM_F_REQUEST | libc::NLM_F_ACK | NLM_F_CREATE) as u16,
            nlmsg_seq: 1,
            nlmsg_pid: 0,
        },
        family: 0,
        // SAFETY: the kernel has filled in the index.
        interface: unsafe { request.ifr_ifru.ifru_ifindex },
        handle: 0,
        parent: TC_H_ROOT,
        info: 0,
        kind: Attribute {
            len: 4 + 6,
            kind: TCA_KIND,
            value: *b"netem\0\0\0",
        },
        options: Attribute {
            len: size_of::<Attribute<Netem>>() as u16,
            kind: TCA_OPTIONS,
            value: Netem {
                latency: delay.saturating_mul(1_000_000 / 64),
                limit: 1000,
                loss: u32::MAX / 100 * loss,
                gap: 0,
                duplicate: 0,
                jitter: 0,
            },
        },
    };
    // SAFETY: no memory is passed.
    let socket = check(
        unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                libc::NETLINK_ROUTE,
            )
        }
        .into(),
    )? as i32;
    let mut answer = [0u32; 64];
    // SAFETY: `message` is readable for `len` bytes.
    let sent = unsafe { libc::send(socket, ptr::from_ref(&message).cast(), len, 0) };
    let room = size_of_val(&answer);
    let asked = check(sent as _).and_then(|_| {
        // SAFETY: `answer` is writable for `room` bytes.
        check(unsafe { libc::recv(socket, answer.as_mut_ptr().cast(), room, 0) } as _)
    });
    close(socket);
    asked?;
    // The first word after the header: 0, or a negative error number (netlink(7), NLMSG_ERROR).
    match answer[4] as i32 {
        0 => Ok(()),
        errno => Err(Errno::new(-errno)),
    }
}
