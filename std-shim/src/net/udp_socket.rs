//! [`UdpSocket`].

use super::handle::{deadlines, descriptor};
use super::message::{ControlBuffer, ControlMessage, Message};
use super::options::options;
use super::socket::{Socket, ip};
use super::{SocketAddr, ToSocketAddrs, each_address};
use crate::builder::sched;
use gopark_backends::linux::io;
use gopark_backends::linux::message::{peek_from, recv_from, send_to};
use gopark_backends::linux::socket::Address;
use gopark_core::os::Mode;
use socket2::{Domain, Protocol, Type};
use std::fmt;
use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result};
use std::net;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{RefUnwindSafe, UnwindSafe};

/// A UDP socket: [`std::net::UdpSocket`], Go's `net.UDPConn`. The [module](super) lists the
/// differences.
///
/// Sending and receiving are independent and work on `&UdpSocket`, so one goroutine may receive
/// while another sends. Dropping the last handle closes the socket.
///
/// Each datagram arrives whole or not at all. A datagram of no bytes is one as well. If a datagram
/// is longer than the buffer, the rest of it is lost without an error: [`recv_msg`](Self::recv_msg)
/// reports that.
///
/// After [`connect`](Self::connect), the socket sends to one address and receives from that address
/// only, and an operation returns the error `ConnectionRefused` once for each report that no socket
/// is bound there. An unconnected socket gets no such reports.
///
/// Options that must be set before the bind, such as `SO_REUSEPORT`, can be set with the crate
/// `socket2`, whose sockets convert to [`OwnedFd`] and this type. `SO_REUSEADDR` is off. So is
/// `SO_BROADCAST`, as in `std`, unlike Go: see [`set_broadcast`](Self::set_broadcast).
///
/// ```
/// use gopark::net::UdpSocket;
///
/// # fn main() -> std::io::Result<()> {
/// gopark::run(|| {
///     let server = UdpSocket::bind("127.0.0.1:0")?;
///     let addr = server.local_addr()?;
///     gopark::go(move || {
///         let mut buffer = [0; 1500];
///         while let Ok((len, client)) = server.recv_from(&mut buffer) {
///             let _ = server.send_to(&buffer[..len], client);
///         }
///     });
///
///     let client = UdpSocket::bind("127.0.0.1:0")?;
///     client.connect(addr)?;
///     client.send(b"ping")?;
///     let mut buffer = [0; 16];
///     assert_eq!(client.recv(&mut buffer)?, 4);
///     Ok(())
/// })
/// # }
/// ```
#[doc(alias = "UDPConn")]
#[doc(alias = "PacketConn")]
pub struct UdpSocket {
    pub(super) socket: Socket,
}

static_assertions::assert_impl_all!(UdpSocket: Send, Sync, UnwindSafe, RefUnwindSafe);

impl UdpSocket {
    /// Binds to the first address of `addr` that can be bound. Port 0 is one that the kernel
    /// chooses.
    ///
    /// The address `[::]:0` also receives from IPv4, unless `net.ipv6.bindv6only` is set. Host
    /// names are looked up as in [`TcpStream::connect`](super::TcpStream::connect).
    ///
    /// Starts the runtime with the defaults if it is not running.
    ///
    /// # Errors
    ///
    /// The error of the last address: `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`.
    /// `InvalidInput` if `addr` resolves to no address.
    ///
    /// # Panics
    ///
    /// If the runtime is not running and cannot be started.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// assert!(socket.local_addr()?.port() > 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "ListenUDP")]
    #[doc(alias = "ListenPacket")]
    #[track_caller]
    pub fn bind<A: ToSocketAddrs>(addr: A) -> Result<UdpSocket> {
        // Starts the runtime here, so that a failed start panics with the location of the caller.
        sched();
        each_address(addr, |addr| {
            Ok(UdpSocket {
                socket: Socket::new(bound(addr)?),
            })
        })
    }

    /// Connects to the first address of `addr` for which the kernel has a route: sets the address
    /// for [`send`](Self::send), and the only one to receive from. Nothing is sent. A later call
    /// replaces the address. It does not wait, except for the look-up of a host name.
    ///
    /// # Errors
    ///
    /// The error of the last address, such as `NetworkUnreachable`, or `PermissionDenied` for a
    /// broadcast address. `InvalidInput` if `addr` resolves to no address.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let [near, far] = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
    /// near.connect(far.local_addr()?)?;
    /// assert_eq!(near.peer_addr()?, far.local_addr()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "DialUDP")]
    pub fn connect<A: ToSocketAddrs>(&self, addr: A) -> Result<()> {
        each_address(addr, |addr| self.socket.connect(&addr.into(), None))
    }

    /// Sends one datagram to the address of [`connect`](Self::connect), and returns its length.
    /// Waits until the socket's buffer has room.
    ///
    /// # Errors
    ///
    /// Those of the [module](super#errors). An error of the system can be `EDESTADDRREQ` if the
    /// socket is not connected, `EMSGSIZE` if the datagram is too long, or `ConnectionRefused`
    /// because of an earlier datagram. Nothing was sent then.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let [near, far] = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
    /// near.connect(far.local_addr()?)?;
    /// assert_eq!(near.send(b"hello")?, 5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn send(&self, buf: &[u8]) -> Result<usize> {
        self.socket.operate(Mode::Write, |fd| io::send(fd, buf))
    }

    /// Waits for a datagram, copies it to `buf` and returns how many bytes it copied. The rest of a
    /// longer datagram is lost. Usual on a connected socket.
    ///
    /// # Errors
    ///
    /// Those of the [module](super#errors), and `ConnectionRefused` as an error of the system.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let [near, far] = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
    /// near.send_to(b"hello", far.local_addr()?)?;
    /// let mut buffer = [0; 4];
    /// assert_eq!(far.recv(&mut buffer)?, 4);
    /// assert_eq!(&buffer, b"hell");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn recv(&self, buf: &mut [u8]) -> Result<usize> {
        self.socket.operate(Mode::Read, |fd| io::recv(fd, buf))
    }

    /// Sends one datagram to the first address of `addr`, and returns its length. Waits until the
    /// socket's buffer has room. On a connected socket, only this datagram goes to `addr`.
    ///
    /// Host names are looked up for each datagram. A [`SocketAddr`] costs nothing.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send), and `InvalidInput` if `addr` resolves to no address. An
    /// address of the other version of IP is an error of the system.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let [near, far] = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
    /// assert_eq!(near.send_to(b"hello", far.local_addr()?)?, 5);
    /// assert_eq!(near.send_to(b"", ("127.0.0.1", far.local_addr()?.port()))?, 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "WriteTo")]
    #[doc(alias = "WriteToUDPAddrPort")]
    pub fn send_to<A: ToSocketAddrs>(&self, buf: &[u8], addr: A) -> Result<usize> {
        let addr = Address::from(first_address(addr)?);
        self.socket
            .operate(Mode::Write, |fd| send_to(fd, buf, &addr))
    }

    /// Waits for a datagram, copies it to `buf` and returns how many bytes it copied, and the
    /// sender. The rest of a longer datagram is lost.
    ///
    /// # Errors
    ///
    /// Those of [`recv`](Self::recv).
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let [near, far] = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
    /// near.send_to(b"hello", far.local_addr()?)?;
    /// let mut buffer = [0; 16];
    /// let (len, sender) = far.recv_from(&mut buffer)?;
    /// assert_eq!((&buffer[..len], sender), (b"hello".as_slice(), near.local_addr()?));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "ReadFrom")]
    #[doc(alias = "ReadFromUDPAddrPort")]
    pub fn recv_from(&self, buf: &mut [u8]) -> Result<(usize, SocketAddr)> {
        let (len, sender) = self.socket.operate(Mode::Read, |fd| recv_from(fd, buf))?;
        Ok((len, ip(&sender)?))
    }

    /// As [`recv`](Self::recv), but leaves the datagram queued: the next call returns it again
    /// (`MSG_PEEK`).
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let [near, far] = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
    /// near.send_to(b"hello", far.local_addr()?)?;
    /// let mut buffer = [0; 16];
    /// assert_eq!(far.peek(&mut buffer)?, 5);
    /// assert_eq!(far.recv(&mut buffer)?, 5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "MSG_PEEK")]
    pub fn peek(&self, buf: &mut [u8]) -> Result<usize> {
        self.socket.peek(buf)
    }

    /// As [`recv_from`](Self::recv_from), but leaves the datagram queued: the next call returns it
    /// again (`MSG_PEEK`).
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let [near, far] = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
    /// near.send_to(b"hello", far.local_addr()?)?;
    /// let mut buffer = [0; 16];
    /// assert_eq!(far.peek_from(&mut buffer)?, far.recv_from(&mut buffer)?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn peek_from(&self, buf: &mut [u8]) -> Result<(usize, SocketAddr)> {
        let (len, sender) = self.socket.operate(Mode::Read, |fd| peek_from(fd, buf))?;
        Ok((len, ip(&sender)?))
    }

    /// As [`send`](Self::send), without a wait.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the socket's buffer is full, or if another send is in progress. Deadlines
    /// and timeouts do not count.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let [near, far] = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
    /// near.connect(far.local_addr()?)?;
    /// assert_eq!(near.try_send(b"hello")?, 5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_send(&self, buf: &[u8]) -> Result<usize> {
        self.socket.attempt(Mode::Write, |fd| io::send(fd, buf))
    }

    /// As [`recv`](Self::recv), without a wait.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if no datagram has arrived, or if another receive is in progress. Deadlines and
    /// timeouts do not count.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// use std::io::ErrorKind;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// assert_eq!(socket.try_recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_recv(&self, buf: &mut [u8]) -> Result<usize> {
        self.socket.attempt(Mode::Read, |fd| io::recv(fd, buf))
    }

    /// As [`send_to`](Self::send_to), without a wait, except for the look-up of a host name.
    ///
    /// # Errors
    ///
    /// `WouldBlock` as of [`try_send`](Self::try_send).
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let [near, far] = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
    /// assert_eq!(near.try_send_to(b"hello", far.local_addr()?)?, 5);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_send_to<A: ToSocketAddrs>(&self, buf: &[u8], addr: A) -> Result<usize> {
        let addr = Address::from(first_address(addr)?);
        self.socket
            .attempt(Mode::Write, |fd| send_to(fd, buf, &addr))
    }

    /// As [`recv_from`](Self::recv_from), without a wait.
    ///
    /// # Errors
    ///
    /// `WouldBlock` as of [`try_recv`](Self::try_recv).
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// use std::io::ErrorKind;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// assert_eq!(socket.try_recv_from(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_recv_from(&self, buf: &mut [u8]) -> Result<(usize, SocketAddr)> {
        let (len, sender) = self.socket.attempt(Mode::Read, |fd| recv_from(fd, buf))?;
        Ok((len, ip(&sender)?))
    }

    /// Waits for a datagram, copies it to `bufs` in turn, and its control messages to `control`.
    ///
    /// Only the first 1024 buffers are filled. Which control messages arrive is a matter of options
    /// such as [`set_recv_packet_info`](Self::set_recv_packet_info). Go's `ReadMsgUDP`,
    /// `recvmsg(2)`.
    ///
    /// # Errors
    ///
    /// Those of [`recv`](Self::recv).
    ///
    /// ```
    /// # use gopark::net::{ControlBuffer, UdpSocket};
    /// use std::io::IoSliceMut;
    ///
    /// let [near, far] = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
    /// near.send_to(b"hello", far.local_addr()?)?;
    /// let mut buffer = [0; 4];
    /// let mut control = ControlBuffer::with_capacity(0);
    /// let message = far.recv_msg(&mut [IoSliceMut::new(&mut buffer)], &mut control)?;
    /// assert_eq!((message.len, message.addr), (4, near.local_addr()?));
    /// assert!(message.truncated);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "recvmsg")]
    #[doc(alias = "ReadMsgUDP")]
    pub fn recv_msg(
        &self,
        bufs: &mut [IoSliceMut<'_>],
        control: &mut ControlBuffer,
    ) -> Result<Message<SocketAddr>> {
        let received = self.socket.recv_msg(bufs, control)?;
        Ok(Message::new(&received, ip(&received.sender)?))
    }

    /// Sends one datagram, whose data is that of `bufs` together, with control messages. `None` as
    /// the address is the one of [`connect`](Self::connect). Returns how many bytes it has sent.
    ///
    /// Go's `WriteMsgUDP`, `sendmsg(2)`.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send). The kernel refuses control messages that do not fit the
    /// socket with errors of the system, usually `InvalidInput`, or ignores them. `InvalidInput`
    /// also for more than 1024 buffers.
    ///
    /// ```
    /// # use gopark::net::{ControlMessage, UdpSocket};
    /// use std::io::IoSlice;
    ///
    /// let [near, far] = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
    /// let bufs = [IoSlice::new(b"hello, "), IoSlice::new(b"world")];
    /// let tos = [ControlMessage::Tos(0x10)];
    /// assert_eq!(near.send_msg(&bufs, Some(far.local_addr()?), &tos)?, 12);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "sendmsg")]
    #[doc(alias = "WriteMsgUDP")]
    pub fn send_msg(
        &self,
        bufs: &[IoSlice<'_>],
        addr: Option<SocketAddr>,
        control: &[ControlMessage<'_>],
    ) -> Result<usize> {
        if bufs.len() > io::IOV_MAX {
            // The datagram would lack the data of the others.
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "a datagram of more than 1024 buffers: join some of them",
            ));
        }
        let addr = addr.map(Address::from);
        self.socket.send_msg(bufs, addr.as_ref(), control)
    }

    /// Returns the address that the socket is bound to: `getsockname(2)`.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// assert!(socket.local_addr()?.ip().is_loopback());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Returns the address that the socket is connected to: `getpeername(2)`.
    ///
    /// # Errors
    ///
    /// `NotConnected` if it is not connected.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// use std::io::ErrorKind;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// assert_eq!(socket.peer_addr().unwrap_err().kind(), ErrorKind::NotConnected);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn peer_addr(&self) -> Result<SocketAddr> {
        self.socket.peer_addr()
    }

    /// Returns another handle of this socket, with the same descriptor and the same deadlines. It
    /// never fails.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// assert_eq!(socket.try_clone()?.local_addr()?, socket.local_addr()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_clone(&self) -> Result<UdpSocket> {
        Ok(UdpSocket {
            socket: self.socket.clone(),
        })
    }

    /// Closes the socket under all its handles. Returns when the descriptor is closed.
    ///
    /// Operations in progress, and all later operations, fail with
    /// [`PollError::Closing`](crate::PollError::Closing).
    ///
    /// # Errors
    ///
    /// [`PollError::Closing`](crate::PollError::Closing) if the socket is already closed.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # gopark::run(|| {
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// let receiver = socket.try_clone()?;
    /// let blocked = gopark::go(move || receiver.recv(&mut [0]));
    /// gopark::yield_now();
    /// socket.close()?;
    /// let error = blocked.join().unwrap().unwrap_err();
    /// assert_eq!(error.to_string(), "use of closed network connection");
    /// assert!(socket.close().is_err());
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub fn close(&self) -> Result<()> {
        self.socket.close()
    }

    /// Takes the socket out of the runtime and returns it as a blocking socket of `std`, without
    /// its deadlines and timeouts.
    ///
    /// # Errors
    ///
    /// `ResourceBusy` if other handles from [`try_clone`](Self::try_clone) exist.
    /// [`PollError::Closing`](crate::PollError::Closing) if the socket is closed. This handle is
    /// dropped even on an error.
    ///
    /// ```
    /// # use gopark::net::UdpSocket;
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// let addr = socket.local_addr()?;
    /// let socket: std::net::UdpSocket = socket.into_std()?;
    /// assert_eq!(socket.local_addr()?, addr);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_std(self) -> Result<net::UdpSocket> {
        self.socket.into_blocking().map(net::UdpSocket::from)
    }

    fn adopt(fd: OwnedFd) -> Self {
        UdpSocket {
            socket: Socket::adopt(fd),
        }
    }

    fn into_fd(self) -> OwnedFd {
        self.socket.into_fd()
    }
}

/// Returns a non-blocking socket that is bound to `addr`. Never inlined, for the reason given at
/// [`Socket::with`].
#[inline(never)]
fn bound(addr: SocketAddr) -> Result<OwnedFd> {
    let socket = socket2::Socket::new(
        Domain::for_address(addr),
        Type::DGRAM.nonblocking(),
        Some(Protocol::UDP),
    )?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// Returns the first address that `addr` resolves to.
fn first_address<A: ToSocketAddrs>(addr: A) -> Result<SocketAddr> {
    each_address(addr, Ok)
}

options!(
    UdpSocket,
    ["let socket = UdpSocket::bind(\"127.0.0.1:0\")?;"],
    "false"
);
descriptor!(
    UdpSocket,
    ["let socket = UdpSocket::bind(\"127.0.0.1:0\")?;"],
    "socket.recv(&mut [0])"
);
deadlines!(
    UdpSocket,
    ["let socket = UdpSocket::bind(\"127.0.0.1:0\")?;"],
    "socket.recv(&mut [0])"
);

/// Takes a socket of `std` into the runtime and makes it non-blocking, as Go's `net.FilePacketConn`
/// does.
///
/// # Panics
///
/// If the runtime is not running and cannot be started.
impl From<net::UdpSocket> for UdpSocket {
    fn from(socket: net::UdpSocket) -> Self {
        Self::adopt(socket.into())
    }
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("UdpSocket");
        if let Ok(addr) = self.local_addr() {
            debug.field("addr", &addr);
        }
        if let Ok(peer) = self.peer_addr() {
            debug.field("peer", &peer);
        }
        debug.field("fd", &self.as_raw_fd()).finish()
    }
}
