//! Options that TCP and UDP sockets have in common, as a macro: a type with a field `socket` gets
//! the methods.

use socket2::{Domain, SockRef};
use std::io::Result;

/// The literals are lines of the examples, which make a `socket`, and whether `SO_REUSEADDR` is on.
macro_rules! options {
    ($type:ident, [$($setup:literal)*], $reuses:literal) => {
        /// Options of the socket. Each call is one or two system calls. An error of the system says
        /// that the kernel refuses the value, or [`PollError::Closing`](crate::PollError::Closing)
        /// that the socket is closed.
        impl $type {
            /// Returns the bytes that the kernel's buffer for received data has room for, with its
            /// own data structures (`SO_RCVBUF`).
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// assert!(socket.recv_buffer_size()? > 0);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn recv_buffer_size(&self) -> std::io::Result<usize> {
                self.socket.with(|socket| socket.recv_buffer_size())
            }

            /// Sets the size of the kernel's buffer for received data in bytes (`SO_RCVBUF`), up to
            /// `net.core.rmem_max`. The kernel doubles it to make room for its own data structures.
            ///
            /// Go's `SetReadBuffer`.
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// socket.set_recv_buffer_size(64 << 10)?;
            /// assert!(socket.recv_buffer_size()? >= 64 << 10);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "SO_RCVBUF")]
            pub fn set_recv_buffer_size(&self, bytes: usize) -> std::io::Result<()> {
                self.socket.with(|socket| socket.set_recv_buffer_size(bytes))
            }

            /// Returns the bytes that the kernel's buffer for data to send has room for, with its
            /// own data structures (`SO_SNDBUF`).
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// assert!(socket.send_buffer_size()? > 0);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn send_buffer_size(&self) -> std::io::Result<usize> {
                self.socket.with(|socket| socket.send_buffer_size())
            }

            /// Sets the size of the kernel's buffer for data to send in bytes (`SO_SNDBUF`), up to
            /// `net.core.wmem_max`. The kernel doubles it to make room for its own data structures.
            ///
            /// Go's `SetWriteBuffer`.
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// socket.set_send_buffer_size(64 << 10)?;
            /// assert!(socket.send_buffer_size()? >= 64 << 10);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "SO_SNDBUF")]
            pub fn set_send_buffer_size(&self, bytes: usize) -> std::io::Result<()> {
                self.socket.with(|socket| socket.set_send_buffer_size(bytes))
            }

            /// Returns the type of service of packets, or the traffic class of an IPv6 socket
            /// (`IP_TOS`, `IPV6_TCLASS`).
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// assert_eq!(socket.tos()?, 0);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn tos(&self) -> std::io::Result<u32> {
                self.socket.with(|socket| match $crate::net::options::is_v6(&socket)? {
                    true => socket.tclass_v6(),
                    false => socket.tos_v4(),
                })
            }

            /// Sets the type of service of packets, 0 to 255 (`IP_TOS`), and of an IPv6 socket the
            /// traffic class (`IPV6_TCLASS`). The upper six bits are the class of differentiated
            /// services.
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// socket.set_tos(0x10)?;
            /// assert_eq!(socket.tos()?, 0x10);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "IP_TOS")]
            pub fn set_tos(&self, tos: u32) -> std::io::Result<()> {
                self.socket.with(|socket| {
                    if $crate::net::options::is_v6(&socket)? {
                        socket.set_tclass_v6(tos)?;
                    }
                    // An IPv6 socket may also send to IPv4.
                    socket.set_tos_v4(tos)
                })
            }

            /// Returns the mark of packets for the rules of routing and of the firewall
            /// (`SO_MARK`).
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// assert_eq!(socket.mark()?, 0);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn mark(&self) -> std::io::Result<u32> {
                self.socket.with(|socket| socket.mark())
            }

            /// Sets the mark of packets for the rules of routing and of the firewall (`SO_MARK`).
            ///
            /// # Errors
            ///
            /// `PermissionDenied` without the capability `CAP_NET_ADMIN` or `CAP_NET_RAW`.
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// if let Err(error) = socket.set_mark(7) {
            ///     assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            /// }
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "SO_MARK")]
            pub fn set_mark(&self, mark: u32) -> std::io::Result<()> {
                self.socket.with(|socket| socket.set_mark(mark))
            }

            /// Returns the name of the network interface that the socket is bound to.
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// assert_eq!(socket.device()?, None);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            pub fn device(&self) -> std::io::Result<Option<Vec<u8>>> {
                self.socket.with(|socket| socket.device())
            }

            /// Binds the socket to the network interface of this name: packets use no other one
            /// (`SO_BINDTODEVICE`). `None` ends that.
            ///
            /// # Errors
            ///
            /// Errors of the system: `ENODEV` if there is no such interface, `PermissionDenied` if
            /// the socket is bound to another one and the process lacks the capability
            /// `CAP_NET_RAW`.
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// if socket.bind_device(Some(b"lo")).is_ok() {
            ///     assert_eq!(socket.device()?.as_deref(), Some(b"lo".as_slice()));
            /// }
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "SO_BINDTODEVICE")]
            pub fn bind_device(&self, interface: Option<&[u8]>) -> std::io::Result<()> {
                self.socket.with(|socket| socket.bind_device(interface))
            }

            /// Returns whether the socket may share its address with others (`SO_REUSEADDR`). It
            /// must be set before the bind.
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            #[doc = concat!("assert_eq!(socket.reuse_address()?, ", $reuses, ");")]
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "SO_REUSEADDR")]
            pub fn reuse_address(&self) -> std::io::Result<bool> {
                self.socket.with(|socket| socket.reuse_address())
            }

            /// Returns whether several sockets may be bound to the same port, among which the
            /// kernel distributes what arrives (`SO_REUSEPORT`). It must be set before the bind.
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// assert!(!socket.reuse_port()?);
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "SO_REUSEPORT")]
            pub fn reuse_port(&self) -> std::io::Result<bool> {
                self.socket.with(|socket| socket.reuse_port())
            }

            /// Returns whether an IPv6 socket refuses IPv4 (`IPV6_V6ONLY`). It must be set before
            /// the bind.
            ///
            /// # Errors
            ///
            /// An error of the system for an IPv4 socket.
            ///
            /// ```
            /// # use gopark::net::*;
            $(#[doc = $setup])*
            /// // It is bound to an IPv4 address.
            /// assert!(socket.only_v6().is_err());
            /// # Ok::<(), std::io::Error>(())
            /// ```
            #[doc(alias = "IPV6_V6ONLY")]
            pub fn only_v6(&self) -> std::io::Result<bool> {
                self.socket.with(|socket| socket.only_v6())
            }
        }
    };
}

pub(super) use options;

pub(super) fn is_v6(socket: &SockRef<'_>) -> Result<bool> {
    Ok(socket.domain()? == Domain::IPV6)
}
