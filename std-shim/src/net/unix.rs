//! What Unix sockets have in common: addresses, connecting, and the methods that all of them have.
#![allow(unsafe_code, reason = "new descriptors arrive by number")]

use super::socket::Socket;
use super::unix_listener::SocketFile;
use gopark_backends::linux::socket::{self as sys, Address, UnixName};
use gopark_core::os::{Errno, Outcome};
use std::ffi::OsStr;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr as UnixAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The address as the kernel represents it.
pub(super) fn to_kernel(addr: &UnixAddr) -> Result<Address> {
    let address = match (addr.as_pathname(), addr.as_abstract_name()) {
        (Some(path), _) => Address::unix_path(path.as_os_str().as_bytes()),
        (None, Some(name)) => Address::unix_abstract(name),
        (None, None) => Some(Address::unix_unnamed()),
    };
    address.ok_or_else(|| invalid("the name of a Unix socket has more than 107 bytes"))
}

/// The address as `std` represents it.
pub(super) fn from_kernel(address: &Address) -> Result<UnixAddr> {
    match address.unix_name() {
        Some(UnixName::Path(path)) => UnixAddr::from_pathname(OsStr::from_bytes(path)),
        Some(UnixName::Abstract(name)) => UnixAddr::from_abstract_name(name),
        // std makes an unnamed address of an empty path.
        Some(UnixName::Unnamed) => UnixAddr::from_pathname(""),
        None => Err(invalid("the address is not that of a Unix socket")),
    }
}

fn invalid(text: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, text)
}

/// Makes a socket of `kind`, such as `SOCK_STREAM`.
pub(super) fn unbound(kind: i32) -> Result<Socket> {
    sys::unix(kind).map(own).map_err(os)
}

/// Makes two connected sockets of `kind`.
pub(super) fn pair(kind: i32) -> Result<(Socket, Socket)> {
    let [one, other] = sys::unix_pair(kind).map_err(os)?;
    Ok((own(one), own(other)))
}

fn own(fd: i32) -> Socket {
    // SAFETY: the kernel has just opened the descriptor, and this is its only owner.
    Socket::new(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn os(errno: Errno) -> Error {
    Error::from_raw_os_error(errno.raw())
}

/// Makes a socket of `kind` that is bound to `addr`.
pub(super) fn bound(kind: i32, addr: &UnixAddr) -> Result<Socket> {
    let address = to_kernel(addr)?;
    let socket = unbound(kind)?;
    socket.ask(|fd| sys::bind(fd, &address))?;
    Ok(socket)
}

/// Makes a socket of `kind` that listens at `addr`, and returns the file that it has made.
pub(super) fn listening(kind: i32, addr: &UnixAddr) -> Result<(Socket, Option<Arc<SocketFile>>)> {
    /// The kernel limits it to `net.core.somaxconn`.
    const BACKLOG: i32 = i32::MAX;
    let socket = bound(kind, addr)?;
    // From here on, an error removes the file.
    let file = addr.as_pathname().map(SocketFile::new);
    socket.ask(|fd| sys::listen(fd, BACKLOG))?;
    Ok((socket, file))
}

/// Makes a socket of `kind` that is connected to `addr`.
pub(super) fn connected(kind: i32, addr: &UnixAddr) -> Result<Socket> {
    let socket = unbound(kind)?;
    connect(&socket, addr)?;
    Ok(socket)
}

/// Connects to `addr`. While the listener's queue is full, the kernel refuses with `EAGAIN`, and no
/// event tells when there is room: asks again after pauses.
pub(super) fn connect(socket: &Socket, addr: &UnixAddr) -> Result<()> {
    let address = to_kernel(addr)?;
    let mut pause = Pause::new();
    loop {
        match socket.connect(&address, None) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => pause.rest()?,
            result => return result,
        }
    }
}

/// Repeats `send` while the receiver's queue is full. `send` returns `None` when the kernel has
/// refused although the socket itself has room. An event then tells nothing, unless the socket is
/// connected, for which the kernel says that it has no room. `limit` is the time of one operation.
pub(super) fn send_patiently<T>(
    limit: Option<Duration>,
    mut send: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = std::time::Instant::now();
    let mut pause = Pause::new();
    loop {
        if let Some(sent) = send()? {
            return Ok(sent);
        }
        if limit.is_some_and(|limit| start.elapsed() >= limit) {
            return Err(crate::PollError::Timeout.into());
        }
        pause.rest()?;
    }
}

/// Turns `EAGAIN` of a socket that has room into `None`.
pub(super) fn unless_receiver_is_full<T>(
    fd: gopark_core::os::Borrowed<'_>,
    tried: Outcome<T>,
) -> Outcome<Option<T>> {
    use gopark_backends::linux::io::is_ready;
    match tried {
        Outcome::Done(value) => Outcome::Done(Some(value)),
        Outcome::WouldBlock if is_ready(fd, gopark_core::os::Mode::Write) => Outcome::Done(None),
        Outcome::WouldBlock => Outcome::WouldBlock,
        Outcome::Interrupted => Outcome::Interrupted,
        Outcome::Failed(errno) => Outcome::Failed(errno),
    }
}

/// Pauses between tries that no event tells when to repeat: 0.1 ms at first, doubled up to 10 ms.
struct Pause(Duration);

impl Pause {
    const LONGEST: Duration = Duration::from_millis(10);

    fn new() -> Self {
        Pause(Duration::from_micros(100))
    }

    fn rest(&mut self) -> Result<()> {
        crate::check_cancel()?;
        crate::sleep(self.0);
        self.0 = (self.0 * 2).min(Self::LONGEST);
        Ok(())
    }
}

/// The address of a path.
pub(super) fn of_path(path: &Path) -> Result<UnixAddr> {
    UnixAddr::from_pathname(path)
}

/// The process at the other end of a Unix socket: `std`'s and tokio's `UCred`.
///
/// The kernel records it when the connection is made, so it stays the same if the socket is passed
/// on. For the client of a listener it is the process that has called `listen`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UCred {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The process. `None` if it is in another PID namespace.
    pub pid: Option<i32>,
}

pub(super) fn peer_cred(socket: &Socket) -> Result<UCred> {
    let peer = socket.ask(sys::peer_credentials)?;
    Ok(UCred {
        uid: peer.uid,
        gid: peer.gid,
        pid: (peer.pid != 0).then_some(peer.pid),
    })
}

/// The methods of a Unix socket that is connected or can be. `setup` makes two connected ones,
/// `socket` and `_peer`. `send` sends `fds` to `peer`.
macro_rules! unix_socket {
    ($type:ident, [$($setup:literal)*], $send:literal) => {
        unix_socket!($type, [$($setup)*], "let peer = _peer;", $send);
    };
    ($type:ident, [$($setup:literal)*], $peer:literal, $send:literal) => {
        impl $type {
            /// Returns the address of this end: `getsockname(2)`.
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// assert!(socket.local_addr()?.is_unnamed());
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn local_addr(&self) -> std::io::Result<super::UnixAddr> {
                unix::from_kernel(&self.socket.ask(gopark_backends::linux::socket::local_address)?)
            }

            /// Returns the address of the peer: `getpeername(2)`.
            ///
            /// # Errors
            ///
            /// `NotConnected` if there is none.
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// assert!(socket.peer_addr()?.is_unnamed());
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn peer_addr(&self) -> std::io::Result<super::UnixAddr> {
                unix::from_kernel(&self.socket.ask(gopark_backends::linux::socket::peer_address)?)
            }

            /// Returns user, group and process of the peer (`SO_PEERCRED`).
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// assert_eq!(socket.peer_cred()?.pid, Some(std::process::id() as i32));
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "SO_PEERCRED")]
            pub fn peer_cred(&self) -> std::io::Result<super::UCred> {
                unix::peer_cred(&self.socket)
            }

            /// Shuts down reading, writing or both, for all handles: `shutdown(2)`, Go's
            /// `CloseRead` and `CloseWrite`. Operations in progress in that direction end.
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// socket.shutdown(Shutdown::Write)?;
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "CloseWrite")]
            pub fn shutdown(&self, how: super::Shutdown) -> std::io::Result<()> {
                self.socket.with(|socket| socket.shutdown(how))
            }

            /// Returns another handle of this socket, with the same descriptor and the same
            /// deadlines. It never fails.
            ///
            /// ```
            /// # use gopark::net::*;
            /// # use std::os::fd::AsRawFd;
            $(#[doc = $setup])*
            /// assert_eq!(socket.try_clone()?.as_raw_fd(), socket.as_raw_fd());
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn try_clone(&self) -> std::io::Result<$type> {
                Ok($type {
                    socket: self.socket.clone(),
                })
            }

            /// Closes the socket under all its handles. Returns when the descriptor is closed.
            /// Operations in progress, and all later operations, fail with
            /// [`PollError::Closing`](crate::PollError::Closing).
            ///
            /// # Errors
            ///
            /// [`PollError::Closing`](crate::PollError::Closing) if the socket is already closed.
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// socket.close()?;
            /// assert!(socket.close().is_err());
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn close(&self) -> std::io::Result<()> {
                self.socket.close()
            }

            /// Waits for a message. Returns the length of its data, its sender, and whether
            /// something did not fit. Descriptors and other control messages are in `control`. Go's
            /// `ReadMsgUnix`.
            ///
            /// A read of a stream that has sent descriptors should use this method: the kernel
            /// discards descriptors that arrive with data for which a plain read has asked.
            ///
            /// ```
            /// # use gopark::net::*;
            /// # use std::fs::File;
            /// # use std::io::{IoSlice, IoSliceMut};
            /// # use std::os::fd::AsFd;
            $(#[doc = $setup])*
            #[doc = $peer]
            /// let file = File::open("/proc/self/comm")?;
            /// let fds = [file.as_fd()];
            #[doc = $send]
            ///
            /// let mut buffer = [0; 16];
            /// let mut control = ControlBuffer::for_fds(1);
            /// let message = peer.recv_msg(&mut [IoSliceMut::new(&mut buffer)], &mut control)?;
            /// assert_eq!(message.len, 1);
            /// let passed = File::from(control.take_fds().remove(0));
            /// assert!(std::io::read_to_string(passed)?.len() > 1);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "ReadMsgUnix")]
            #[doc(alias = "SCM_RIGHTS")]
            pub fn recv_msg(
                &self,
                bufs: &mut [std::io::IoSliceMut<'_>],
                control: &mut super::ControlBuffer,
            ) -> std::io::Result<super::Message<super::UnixAddr>> {
                let received = self.socket.recv_msg(bufs, control)?;
                let sender = unix::from_kernel(&received.sender)?;
                Ok(super::Message::new(&received, sender))
            }

            /// Sets whether messages arrive with the process, user and group of their sender:
            /// [`ControlMessage::Credentials`](super::ControlMessage::Credentials)
            /// (`SO_PASSCRED`).
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// socket.set_passcred(true)?;
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "SO_PASSCRED")]
            pub fn set_passcred(&self, passcred: bool) -> std::io::Result<()> {
                self.socket.with(|socket| socket.set_passcred(passcred))
            }

            fn adopt(fd: std::os::fd::OwnedFd) -> Self {
                $type {
                    socket: Socket::adopt(fd),
                }
            }

            fn into_fd(self) -> std::os::fd::OwnedFd {
                self.socket.into_fd()
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut debug = f.debug_struct(stringify!($type));
                if let Ok(addr) = self.local_addr() {
                    debug.field("addr", &addr);
                }
                if let Ok(peer) = self.peer_addr() {
                    debug.field("peer", &peer);
                }
                debug.field("fd", &self.socket.raw()).finish()
            }
        }

        static_assertions::assert_impl_all!(
            $type: Send, Sync, std::panic::UnwindSafe, std::panic::RefUnwindSafe
        );
    };
}

/// A connected socket's method to send a message.
macro_rules! connected_send_msg {
    ($type:ident) => {
        impl $type {
            /// Waits for room, and sends a message with control messages, such as descriptors.
            /// Returns how many bytes of data the kernel has taken. On a stream these can be fewer
            /// than all; the control messages are then sent with them. Go's `WriteMsgUnix`.
            ///
            /// At least one byte of data is necessary to send descriptors on a stream.
            ///
            /// ```
            /// # use gopark::net::*;
            /// use std::io::IoSlice;
            /// use std::os::fd::AsFd;
            ///
            #[doc = concat!("let (one, other) = ", stringify!($type), "::pair()?;")]
            /// let stdin = std::io::stdin();
            /// let fds = [stdin.as_fd()];
            /// let rights = [ControlMessage::Fds(&fds)];
            /// assert_eq!(one.send_msg(&[IoSlice::new(b"x")], &rights)?, 1);
            /// # drop(other);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "WriteMsgUnix")]
            #[doc(alias = "SCM_RIGHTS")]
            pub fn send_msg(
                &self,
                bufs: &[std::io::IoSlice<'_>],
                control: &[super::ControlMessage<'_>],
            ) -> std::io::Result<usize> {
                self.socket.send_msg(bufs, None, control)
            }
        }
    };
}

pub(super) use {connected_send_msg, unix_socket};
