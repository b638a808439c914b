//! Making sockets: addresses, options, listeners. [`io`](super::io) has what is done on a
//! connection.

#![allow(unsafe_code, reason = "system calls on addresses and integers")]

use super::{OwnedFd, check};
use core::fmt;
use core::mem;
use core::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use core::ptr;
use gopark_core::os::{Borrowed, Errno};

/// A socket address as the kernel represents it.
#[derive(Clone, Copy)]
pub struct Address {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl Address {
    /// Room for any address.
    pub(super) fn empty() -> Self {
        Address {
            // SAFETY: all zeroes is an unspecified address.
            storage: unsafe { mem::zeroed() },
            len: size_of::<libc::sockaddr_storage>() as libc::socklen_t,
        }
    }

    pub(super) fn as_ptr(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        (ptr::from_ref(&self.storage).cast(), self.len)
    }

    /// For a message header, with room for any address.
    pub(super) fn room(&mut self) -> (*mut libc::c_void, libc::socklen_t) {
        (ptr::from_mut(&mut self.storage).cast(), self.len)
    }

    /// Records how many bytes the kernel has filled in. The kernel returns the length of the whole
    /// address, even if it has cut the address.
    pub(super) fn set_len(&mut self, len: libc::socklen_t) {
        self.len = len;
    }

    /// For the kernel to fill in. It writes at most as many bytes as the length says on entry.
    pub(super) fn as_mut_ptr(&mut self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        (ptr::from_mut(&mut self.storage).cast(), &mut self.len)
    }

    fn from_name<T>(name: T) -> Self {
        const { assert!(size_of::<T>() <= size_of::<libc::sockaddr_storage>()) };
        let mut address = Self::empty();
        address.len = size_of::<T>() as libc::socklen_t;
        // SAFETY: there is room, as just asserted. The write is unaligned: any alignment will do.
        unsafe {
            ptr::from_mut(&mut address.storage)
                .cast::<T>()
                .write_unaligned(name)
        };
        address
    }

    /// The address as a `T`, if it is of `family` and not cut short.
    fn name<T: Copy>(&self, family: libc::c_int) -> Option<T> {
        let fits = libc::c_int::from(self.storage.ss_family) == family
            && self.len as usize >= size_of::<T>();
        // SAFETY: `from_name` has asserted that the storage is large enough for the types in use,
        // which consist of integers.
        fits.then(|| unsafe { ptr::from_ref(&self.storage).cast::<T>().read_unaligned() })
    }

    /// The IP address and port. `None` for an address of another family.
    pub fn ip(&self) -> Option<SocketAddr> {
        if let Some(name) = self.name::<libc::sockaddr_in>(libc::AF_INET) {
            return Some(
                SocketAddrV4::new(
                    u32::from_be(name.sin_addr.s_addr).into(),
                    u16::from_be(name.sin_port),
                )
                .into(),
            );
        }
        let name = self.name::<libc::sockaddr_in6>(libc::AF_INET6)?;
        let ip = name.sin6_addr.s6_addr.into();
        Some(
            SocketAddrV6::new(
                ip,
                u16::from_be(name.sin6_port),
                name.sin6_flowinfo,
                name.sin6_scope_id,
            )
            .into(),
        )
    }
}

impl Address {
    /// The most bytes of a path or abstract name. A path of 108 bytes has no room for the zero that
    /// ends it, which Linux permits (unix(7)), but other programs may not read.
    const UNIX_MAX: usize = 107;

    /// The address of a Unix socket in the file system. `None` if `path` is empty, has more than
    /// 107 bytes, or contains a zero byte.
    #[doc(alias = "AF_UNIX")]
    pub fn unix_path(path: &[u8]) -> Option<Self> {
        let fits = !path.is_empty() && path.len() <= Self::UNIX_MAX && !path.contains(&0);
        // The byte after the path is zero, and counts.
        fits.then(|| Self::unix(path, path.len() + 1))
    }

    /// The address of a Unix socket with an abstract name, which is no file (unix(7)). `None` if
    /// `name` has more than 107 bytes.
    pub fn unix_abstract(name: &[u8]) -> Option<Self> {
        let mut path = [0; 1 + Self::UNIX_MAX];
        path.get_mut(1..=name.len())?.copy_from_slice(name);
        Some(Self::unix(&path[..=name.len()], 1 + name.len()))
    }

    /// The address to bind a Unix socket to that lets the kernel choose an abstract name.
    #[doc(alias = "autobind")]
    pub fn unix_unnamed() -> Self {
        Self::unix(&[], 0)
    }

    fn unix(path: &[u8], len: usize) -> Self {
        // SAFETY: all zeroes is an unnamed address.
        let mut name: libc::sockaddr_un = unsafe { mem::zeroed() };
        name.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (to, &from) in name.sun_path.iter_mut().zip(path) {
            *to = from as libc::c_char;
        }
        let mut address = Self::from_name(name);
        address.len = (mem::offset_of!(libc::sockaddr_un, sun_path) + len) as libc::socklen_t;
        address
    }

    /// The name of a Unix socket. `None` for an address of another family.
    pub fn unix_name(&self) -> Option<UnixName<'_>> {
        let family = libc::c_int::from(self.storage.ss_family);
        let path = mem::offset_of!(libc::sockaddr_un, sun_path);
        // A socket without a name can have an address of length zero.
        if self.len != 0 && family != libc::AF_UNIX {
            return None;
        }
        let len = (self.len as usize).min(size_of::<libc::sockaddr_un>());
        // SAFETY: the storage is larger than a `sockaddr_un`, and its bytes are initialized.
        let bytes = unsafe {
            core::slice::from_raw_parts(
                ptr::from_ref(&self.storage).cast::<u8>().add(path),
                len.saturating_sub(path),
            )
        };
        Some(match bytes {
            [] => UnixName::Unnamed,
            [0, name @ ..] => UnixName::Abstract(name),
            path => {
                let end = path.iter().position(|&byte| byte == 0);
                UnixName::Path(&path[..end.unwrap_or(path.len())])
            }
        })
    }
}

/// The name of a Unix socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnixName<'a> {
    /// The socket is not bound.
    Unnamed,
    /// A name that is no file, without the zero byte before it.
    Abstract(&'a [u8]),
    /// A path, without the zero byte after it.
    Path(&'a [u8]),
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => Address::from_name(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from(*address.ip()).to_be(),
                },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(address) => Address::from_name(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr {
                    s6_addr: address.ip().octets(),
                },
                sin6_scope_id: address.scope_id(),
            }),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_tuple("Address");
        match self.ip() {
            Some(ip) => debug.field(&ip),
            None => debug.field(&self.unix_name()),
        }
        .finish()
    }
}

/// Makes a non-blocking, close-on-exec TCP socket of the address family of `ip`.
#[doc(alias = "SOCK_STREAM")]
pub fn tcp(ip: IpAddr) -> Result<i32, Errno> {
    make(family(ip), libc::SOCK_STREAM, libc::IPPROTO_TCP)
}

/// Makes a non-blocking, close-on-exec UDP socket of the address family of `ip`.
#[doc(alias = "SOCK_DGRAM")]
pub fn udp(ip: IpAddr) -> Result<i32, Errno> {
    make(family(ip), libc::SOCK_DGRAM, libc::IPPROTO_UDP)
}

/// Makes a non-blocking, close-on-exec Unix socket: `SOCK_STREAM`, `SOCK_DGRAM` or
/// `SOCK_SEQPACKET`.
#[doc(alias = "SOCK_SEQPACKET")]
pub fn unix(kind: i32) -> Result<i32, Errno> {
    make(libc::AF_UNIX, kind, 0)
}

fn family(ip: IpAddr) -> libc::c_int {
    if ip.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }
}

/// `socket(2)`.
fn make(family: libc::c_int, kind: i32, protocol: libc::c_int) -> Result<i32, Errno> {
    // SAFETY: no memory is passed.
    let made = unsafe {
        libc::syscall(
            libc::SYS_socket,
            family,
            kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            protocol,
        )
    };
    check(made as isize).map(|fd| fd as i32)
}

/// Makes two connected Unix sockets of one kind, as [`unix`] makes one: `socketpair(2)`.
#[doc(alias = "socketpair")]
pub fn unix_pair(kind: i32) -> Result<[i32; 2], Errno> {
    let mut pair = [-1; 2];
    // SAFETY: there is room for two descriptors.
    check(unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            0,
            pair.as_mut_ptr(),
        )
    } as isize)
    .map(|_| pair)
}

/// `bind(2)`.
pub fn bind(fd: Borrowed<'_>, address: &Address) -> Result<(), Errno> {
    let (name, len) = address.as_ptr();
    // SAFETY: the address is readable for its length.
    check(unsafe { libc::syscall(libc::SYS_bind, fd.raw(), name, len) } as isize).map(drop)
}

/// `listen(2)`.
pub fn listen(fd: Borrowed<'_>, backlog: i32) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_listen, fd.raw(), backlog) } as isize).map(drop)
}

/// Sets an option that is an integer or a switch: `set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1)`.
///
/// # Safety
///
/// - If the option takes a descriptor (`SO_ATTACH_BPF`), its owner permits that.
#[doc(alias = "setsockopt")]
pub unsafe fn set_option(fd: Borrowed<'_>, level: i32, name: i32, value: i32) -> Result<(), Errno> {
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: `value` is readable for `len` bytes, and options that take more look at that first.
    check(unsafe {
        libc::syscall(
            libc::SYS_setsockopt,
            fd.raw(),
            level,
            name,
            ptr::from_ref(&value),
            len,
        )
    } as isize)
    .map(drop)
}

/// The socket's own address, with the port that the kernel has chosen.
#[doc(alias = "getsockname")]
pub fn local_address(fd: Borrowed<'_>) -> Result<Address, Errno> {
    let mut address = Address::empty();
    let (name, len) = address.as_mut_ptr();
    // SAFETY: `name` is writable for `len` bytes.
    check(unsafe { libc::getsockname(fd.raw(), name, len) } as isize).map(|_| address)
}

/// The address that the socket is connected to.
#[doc(alias = "getpeername")]
pub fn peer_address(fd: Borrowed<'_>) -> Result<Address, Errno> {
    let mut address = Address::empty();
    let (name, len) = address.as_mut_ptr();
    // SAFETY: `name` is writable for `len` bytes.
    check(unsafe { libc::getpeername(fd.raw(), name, len) } as isize).map(|_| address)
}

/// Makes a TCP socket that listens at `address`. `SO_REUSEADDR` lets it bind although connections
/// of an earlier server are in TIME_WAIT (socket(7)). `TCP_NODELAY` makes accepted connections send
/// at once.
#[doc(alias = "SO_REUSEADDR")]
#[doc(alias = "TCP_NODELAY")]
pub fn listener(address: SocketAddr, backlog: i32) -> Result<i32, Errno> {
    let socket = OwnedFd(tcp(address.ip())?);
    let fd = socket.borrow();
    // SAFETY: the option takes an integer.
    unsafe { set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1) }?;
    // Accepted sockets inherit it on Linux.
    // SAFETY: the option takes an integer.
    unsafe { set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1) }?;
    bind(fd, &address.into())?;
    listen(fd, backlog)?;
    Ok(socket.into_raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::io;
    use crate::linux::tests::{lend, without_children};
    use gopark_core::os::Outcome::Done;
    use std::net::TcpStream;
    use std::os::fd::{AsRawFd, FromRawFd};

    #[test]
    fn ip_addresses_survive_the_conversion() {
        for text in [
            "127.0.0.1:80",
            "0.0.0.0:0",
            "[::1]:65535",
            "[fe80::1%7]:443",
        ] {
            let ip: SocketAddr = text.parse().unwrap();
            assert_eq!(Address::from(ip).ip(), Some(ip));
        }
    }

    #[test]
    fn an_address_of_another_family_or_cut_short_is_no_ip() {
        let mut address = Address::from("127.0.0.1:80".parse::<SocketAddr>().unwrap());
        address.len -= 1;
        assert_eq!(address.ip(), None);
        address = Address::unix_unnamed();
        assert_eq!(address.ip(), None);
    }

    #[test]
    fn unix_names_survive_the_conversion() {
        let longest = [b'n'; Address::UNIX_MAX];
        for path in [b"/tmp/x".as_slice(), b"x", &longest] {
            let address = Address::unix_path(path).unwrap();
            assert_eq!(address.unix_name(), Some(UnixName::Path(path)));
            let address = Address::unix_abstract(path).unwrap();
            assert_eq!(address.unix_name(), Some(UnixName::Abstract(path)));
        }
        let with_zero = Address::unix_abstract(b"a\0b\0").unwrap();
        assert_eq!(with_zero.unix_name(), Some(UnixName::Abstract(b"a\0b\0")));
        assert_eq!(Address::unix_unnamed().unix_name(), Some(UnixName::Unnamed));
    }

    #[test]
    fn what_is_no_unix_name_is_refused() {
        for path in [b"".as_slice(), b"a\0b", &[b'n'; Address::UNIX_MAX + 1]] {
            assert!(Address::unix_path(path).is_none(), "{path:?}");
        }
        assert!(Address::unix_abstract(&[b'n'; Address::UNIX_MAX + 1]).is_none());
        let ip = Address::from("127.0.0.1:80".parse::<SocketAddr>().unwrap());
        assert_eq!(ip.unix_name(), None);
    }

    #[test]
    fn a_unix_socket_that_was_not_bound_has_no_name() {
        let [ours, theirs] = unix_pair(libc::SOCK_SEQPACKET).unwrap();
        let unnamed = Some(UnixName::Unnamed);
        assert_eq!(local_address(lend(ours)).unwrap().unix_name(), unnamed);
        assert_eq!(peer_address(lend(ours)).unwrap().unix_name(), unnamed);
        bind(lend(ours), &Address::unix_unnamed()).unwrap();
        let chosen = local_address(lend(ours)).unwrap();
        assert!(matches!(chosen.unix_name(), Some(UnixName::Abstract(name)) if name.len() == 5));
        io::close(ours);
        io::close(theirs);
    }

    #[test]
    fn a_listener_can_be_dialled_and_knows_its_port() {
        for ip in ["127.0.0.1:0", "[::1]:0"] {
            let fd = listener(ip.parse().unwrap(), 1).unwrap();
            let address = local_address(lend(fd)).unwrap().ip().unwrap();
            let client = TcpStream::connect(address).unwrap();
            let Done((accepted, peer)) = io::accept4(lend(fd)) else {
                panic!("a connection waits")
            };
            // SAFETY: the descriptor is new, and no other code has it.
            let accepted = unsafe { TcpStream::from_raw_fd(accepted) };
            assert_eq!(peer.ip(), Some(client.local_addr().unwrap()));
            assert_eq!(
                peer_address(lend(accepted.as_raw_fd())).unwrap().ip(),
                peer.ip()
            );
            assert!(accepted.nodelay().unwrap());
            io::close(fd);
        }
    }

    #[test]
    fn a_port_that_is_taken_is_an_error() {
        let _alone = without_children();
        let fd = listener("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let taken = local_address(lend(fd)).unwrap().ip().unwrap();
        assert_eq!(listener(taken, 1), Err(Errno::new(libc::EADDRINUSE)));
        io::close(fd);
        assert_eq!(listener(taken, 1).map(io::close), Ok(()));
    }

    #[test]
    fn options_and_listen_on_a_bad_number_are_errors() {
        // SAFETY: the option takes an integer.
        let refused = unsafe { set_option(lend(-1), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1) };
        assert_eq!(refused, Err(Errno::new(libc::EBADF)));
        assert_eq!(listen(lend(-1), 1), Err(Errno::new(libc::EBADF)));
    }
}
