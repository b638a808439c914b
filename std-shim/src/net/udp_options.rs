//! The options of a [`UdpSocket`]: broadcast, multicast, and what
//! [`recv_msg`](UdpSocket::recv_msg) reports.
#![allow(unsafe_code, reason = "options are set by number")]

use super::message::ControlMessage;
use super::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use gopark_backends::linux::socket::{local_address, option, set_option};
use gopark_core::os::Borrowed;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::sync::atomic::{AtomicBool, Ordering};

impl UdpSocket {
    /// Returns whether the socket may send to broadcast addresses (`SO_BROADCAST`).
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// assert!(!socket.broadcast()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn broadcast(&self) -> Result<bool> {
        self.socket.with(|socket| socket.broadcast())
    }

    /// Sets whether the socket may send to broadcast addresses (`SO_BROADCAST`). Off by default, so
    /// that a send there fails with `PermissionDenied`; Go has it on.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.set_broadcast(true)?;
    /// assert!(socket.broadcast()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "SO_BROADCAST")]
    pub fn set_broadcast(&self, broadcast: bool) -> Result<()> {
        self.socket.with(|socket| socket.set_broadcast(broadcast))
    }

    /// Returns the time to live of packets: the number of routers that one may pass (`IP_TTL`).
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// assert!(socket.ttl()? > 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn ttl(&self) -> Result<u32> {
        self.socket.with(|socket| socket.ttl_v4())
    }

    /// Sets the time to live of packets, 1 to 255 routers (`IP_TTL`).
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a value outside of that range.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.set_ttl(7)?;
    /// assert_eq!(socket.ttl()?, 7);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "IP_TTL")]
    pub fn set_ttl(&self, ttl: u32) -> Result<()> {
        self.socket.with(|socket| socket.set_ttl_v4(ttl))
    }
}

/// Multicast: one datagram for all members of a group of addresses.
impl UdpSocket {
    /// Returns whether members on this machine get the datagrams that this socket sends to an IPv4
    /// group (`IP_MULTICAST_LOOP`). On by default; Go's `ListenMulticastUDP` turns it off.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// assert!(socket.multicast_loop_v4()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn multicast_loop_v4(&self) -> Result<bool> {
        self.socket.with(|socket| socket.multicast_loop_v4())
    }

    /// Sets whether members on this machine get the datagrams that this socket sends to an IPv4
    /// group (`IP_MULTICAST_LOOP`).
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.set_multicast_loop_v4(false)?;
    /// assert!(!socket.multicast_loop_v4()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "IP_MULTICAST_LOOP")]
    pub fn set_multicast_loop_v4(&self, multicast_loop_v4: bool) -> Result<()> {
        self.socket
            .with(|socket| socket.set_multicast_loop_v4(multicast_loop_v4))
    }

    /// Returns how many routers a datagram to an IPv4 group may pass (`IP_MULTICAST_TTL`). 1 by
    /// default: it stays in the local network.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// assert_eq!(socket.multicast_ttl_v4()?, 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn multicast_ttl_v4(&self) -> Result<u32> {
        self.socket.with(|socket| socket.multicast_ttl_v4())
    }

    /// Sets how many routers a datagram to an IPv4 group may pass (`IP_MULTICAST_TTL`), 0 to 255.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.set_multicast_ttl_v4(3)?;
    /// assert_eq!(socket.multicast_ttl_v4()?, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "IP_MULTICAST_TTL")]
    pub fn set_multicast_ttl_v4(&self, multicast_ttl_v4: u32) -> Result<()> {
        self.socket
            .with(|socket| socket.set_multicast_ttl_v4(multicast_ttl_v4))
    }

    /// As [`multicast_loop_v4`](Self::multicast_loop_v4), of an IPv6 socket
    /// (`IPV6_MULTICAST_LOOP`).
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("[::1]:0")?;
    /// assert!(socket.multicast_loop_v6()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn multicast_loop_v6(&self) -> Result<bool> {
        self.socket.with(|socket| socket.multicast_loop_v6())
    }

    /// As [`set_multicast_loop_v4`](Self::set_multicast_loop_v4), of an IPv6 socket
    /// (`IPV6_MULTICAST_LOOP`).
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("[::1]:0")?;
    /// socket.set_multicast_loop_v6(false)?;
    /// assert!(!socket.multicast_loop_v6()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "IPV6_MULTICAST_LOOP")]
    pub fn set_multicast_loop_v6(&self, multicast_loop_v6: bool) -> Result<()> {
        self.socket
            .with(|socket| socket.set_multicast_loop_v6(multicast_loop_v6))
    }

    /// Joins an IPv4 group: the socket also receives datagrams to `multiaddr` at its port, if it is
    /// bound to that address or to the unspecified one. `interface` is an address of the network
    /// interface, or the unspecified address to let the kernel choose (`IP_ADD_MEMBERSHIP`).
    ///
    /// # Errors
    ///
    /// Errors of the system: `InvalidInput` if `multiaddr` is no group, `ENODEV` if no interface
    /// has the address, `AddrInUse` if the socket is already a member.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// use std::net::Ipv4Addr;
    ///
    /// let socket = UdpSocket::bind("0.0.0.0:0")?;
    /// let error = socket.join_multicast_v4(&Ipv4Addr::LOCALHOST, &Ipv4Addr::UNSPECIFIED);
    /// assert!(error.is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "IP_ADD_MEMBERSHIP")]
    #[doc(alias = "ListenMulticastUDP")]
    pub fn join_multicast_v4(&self, multiaddr: &Ipv4Addr, interface: &Ipv4Addr) -> Result<()> {
        self.socket
            .with(|socket| socket.join_multicast_v4(multiaddr, interface))
    }

    /// Joins an IPv6 group on the interface of this index, or with 0 on one that the kernel chooses
    /// (`IPV6_ADD_MEMBERSHIP`), as [`join_multicast_v4`](Self::join_multicast_v4) does.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// use std::net::Ipv6Addr;
    ///
    /// let socket = UdpSocket::bind("[::]:0")?;
    /// assert!(socket.join_multicast_v6(&Ipv6Addr::LOCALHOST, 0).is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "IPV6_ADD_MEMBERSHIP")]
    pub fn join_multicast_v6(&self, multiaddr: &Ipv6Addr, interface: u32) -> Result<()> {
        self.socket
            .with(|socket| socket.join_multicast_v6(multiaddr, interface))
    }

    /// Leaves an IPv4 group (`IP_DROP_MEMBERSHIP`). The arguments are those of
    /// [`join_multicast_v4`](Self::join_multicast_v4).
    ///
    /// # Errors
    ///
    /// `AddrNotAvailable` if the socket is no member.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// use std::net::Ipv4Addr;
    ///
    /// let socket = UdpSocket::bind("0.0.0.0:0")?;
    /// let group = Ipv4Addr::new(239, 1, 2, 3);
    /// assert!(socket.leave_multicast_v4(&group, &Ipv4Addr::LOCALHOST).is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "IP_DROP_MEMBERSHIP")]
    pub fn leave_multicast_v4(&self, multiaddr: &Ipv4Addr, interface: &Ipv4Addr) -> Result<()> {
        self.socket
            .with(|socket| socket.leave_multicast_v4(multiaddr, interface))
    }

    /// Leaves an IPv6 group (`IPV6_DROP_MEMBERSHIP`). The arguments are those of
    /// [`join_multicast_v6`](Self::join_multicast_v6).
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// use std::net::Ipv6Addr;
    ///
    /// let socket = UdpSocket::bind("[::]:0")?;
    /// let group = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 2);
    /// assert!(socket.leave_multicast_v6(&group, 0).is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "IPV6_DROP_MEMBERSHIP")]
    pub fn leave_multicast_v6(&self, multiaddr: &Ipv6Addr, interface: u32) -> Result<()> {
        self.socket
            .with(|socket| socket.leave_multicast_v6(multiaddr, interface))
    }
}

/// What [`recv_msg`](Self::recv_msg) reports about a datagram, as [`ControlMessage`]s. All of it is
/// off by default.
impl UdpSocket {
    /// Sets whether `recv_msg` reports the address that a datagram was sent to, and its interface:
    /// [`ControlMessage::PacketInfo`]. A server that is bound to the unspecified address answers
    /// from that address if it sends the same message back.
    ///
    /// On an IPv6 socket that also receives from IPv4, an IPv4 address is reported as an IPv6 one
    /// that maps it.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.set_recv_packet_info(true)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "IP_PKTINFO")]
    pub fn set_recv_packet_info(&self, on: bool) -> Result<()> {
        self.set_for_version(libc::IP_PKTINFO, libc::IPV6_RECVPKTINFO, on, false)
    }

    /// Sets whether `recv_msg` reports the time to live, or hop limit, of a datagram:
    /// [`ControlMessage::Ttl`].
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.set_recv_ttl(true)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "IP_RECVTTL")]
    pub fn set_recv_ttl(&self, on: bool) -> Result<()> {
        self.set_for_version(libc::IP_RECVTTL, libc::IPV6_RECVHOPLIMIT, on, true)
    }

    /// Sets whether `recv_msg` reports the type of service, or traffic class, of a datagram:
    /// [`ControlMessage::Tos`].
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.set_recv_tos(true)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "IP_RECVTOS")]
    pub fn set_recv_tos(&self, on: bool) -> Result<()> {
        self.set_for_version(libc::IP_RECVTOS, libc::IPV6_RECVTCLASS, on, true)
    }

    /// Sets whether `recv_msg` reports when the kernel received a datagram:
    /// [`ControlMessage::Timestamp`].
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.set_recv_timestamp(true)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "SO_TIMESTAMPNS")]
    pub fn set_recv_timestamp(&self, on: bool) -> Result<()> {
        self.set_int(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, on.into())
    }

    /// Sets whether `recv_msg` reports how many datagrams the kernel has dropped because the
    /// socket's buffer was full: [`ControlMessage::Dropped`]. The first report comes after the
    /// first loss.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.set_recv_dropped(true)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "SO_RXQ_OVFL")]
    pub fn set_recv_dropped(&self, on: bool) -> Result<()> {
        self.set_int(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, on.into())
    }

    /// Sets whether the kernel may join datagrams of the same sender and length into one message,
    /// whose segments have the length of [`ControlMessage::SegmentSize`] (generic receive offload).
    /// The last segment may be shorter. Use a buffer of 65 535 bytes: what does not fit is lost.
    ///
    /// # Errors
    ///
    /// An error of the system before Linux 5.0: `ENOPROTOOPT`.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.set_gro(true)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "UDP_GRO")]
    pub fn set_gro(&self, on: bool) -> Result<()> {
        self.set_int(libc::SOL_UDP, libc::UDP_GRO, on.into())
    }

    /// Sends `buf` as datagrams of `segment` bytes to `addr`, and returns how many bytes were sent.
    /// The last datagram may be shorter. `None` as the address is the one of
    /// [`connect`](Self::connect).
    ///
    /// The kernel takes up to 64 datagrams in one call (generic segmentation offload,
    /// [`ControlMessage::SegmentSize`]). Where it cannot, each datagram takes a call of its own:
    /// before Linux 4.18, or if the network device computes no checksums.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send) for the first datagram. If another one fails, the result is
    /// the count of bytes before it. `InvalidInput` if `segment` is zero.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let [near, far] = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
    /// near.send_segments(b"one, two", 5, Some(far.local_addr()?))?;
    /// let mut buffer = [0; 16];
    /// assert_eq!(far.recv(&mut buffer)?, 5);
    /// assert_eq!(far.recv(&mut buffer)?, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "UDP_SEGMENT")]
    #[doc(alias = "GSO")]
    pub fn send_segments(
        &self,
        buf: &[u8],
        segment: u16,
        addr: Option<SocketAddr>,
    ) -> Result<usize> {
        /// The most datagrams in one call: UDP_MAX_SEGMENTS.
        const SEGMENTS_MAX: usize = 64;
        /// The most bytes in one call: those of an IPv4 packet, without the headers.
        const BYTES_MAX: usize = 65_507;
        let len = usize::from(segment);
        if len == 0 {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "segments of 0 bytes: the length must be at least 1",
            ));
        }
        let together = len * SEGMENTS_MAX.min(BYTES_MAX / len).max(1);
        let mut sent = 0;
        for chunk in buf.chunks(together) {
            match self.send_together(chunk, segment, addr) {
                Ok(n) => sent += n,
                Err(error) if sent == 0 => return Err(error),
                Err(_) => break,
            }
            if sent % together != 0 {
                break;
            }
        }
        Ok(sent)
    }

    fn send_together(&self, buf: &[u8], segment: u16, addr: Option<SocketAddr>) -> Result<usize> {
        let len = usize::from(segment);
        if buf.len() > len && self.has_segments() {
            let size = [ControlMessage::SegmentSize(segment)];
            match self.send_msg(&[IoSlice::new(buf)], addr, &size) {
                Err(error) if is_refusal(&error) => {}
                result => return result,
            }
        }
        self.send_each(buf, len, addr)
    }

    /// Whether the kernel knows `UDP_SEGMENT`. An older one would ignore it, and send one datagram.
    fn has_segments(&self) -> bool {
        static HAS_SEGMENTS: AtomicBool = AtomicBool::new(false);
        if HAS_SEGMENTS.load(Ordering::Relaxed) {
            return true;
        }
        let segment = |fd: Borrowed<'_>| option(fd, libc::SOL_UDP, libc::UDP_SEGMENT);
        let has = self.socket.ask(segment).is_ok();
        HAS_SEGMENTS.store(has, Ordering::Relaxed);
        has
    }

    fn send_each(&self, buf: &[u8], segment: usize, addr: Option<SocketAddr>) -> Result<usize> {
        let mut sent = 0;
        for datagram in buf.chunks(segment) {
            match self.send_msg(&[IoSlice::new(datagram)], addr, &[]) {
                Ok(n) => sent += n,
                Err(error) if sent == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(sent)
    }

    fn set_int(&self, level: i32, name: i32, value: i32) -> Result<()> {
        // SAFETY: the options of this file take integers.
        self.socket
            .ask(|fd| unsafe { set_option(fd, level, name, value) })
    }

    /// Sets an option that has two names. An IPv6 socket may receive from IPv4: with `both`, the
    /// option is set for these datagrams, too.
    fn set_for_version(&self, v4: i32, v6: i32, on: bool, both: bool) -> Result<()> {
        let local = self.socket.ask(local_address)?;
        let is_v6 = local.ip().is_some_and(|addr| addr.is_ipv6());
        if is_v6 {
            self.set_int(libc::IPPROTO_IPV6, v6, on.into())?;
        }
        match is_v6 && !both {
            true => Ok(()),
            false => self.set_int(libc::IPPROTO_IP, v4, on.into()),
        }
    }
}

/// Whether the kernel or the network device cannot segment. The kernel also returns these errors
/// for wrong arguments, which the datagrams get on their own as well.
fn is_refusal(error: &Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::ENOPROTOOPT | libc::EOPNOTSUPP)
    )
}
