//! Messages: data in several buffers, with control messages beside it (sendmsg(2), recvmsg(2)).
#![allow(
    unsafe_code,
    reason = "descriptors and buffers cross into system calls"
)]

use super::IpAddr;
use super::socket::{Socket, vector, vector_mut};
use gopark_backends::linux::control::{Ancillary, numbers};
use gopark_backends::linux::message::{
    Control, Received, control_space, controls, recv_message, send_message,
};
use gopark_backends::linux::socket::Address;
use gopark_core::os::{Borrowed, Mode, Outcome};
use std::fmt;
use std::io::{Error, ErrorKind, IoSlice, IoSliceMut, Result};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::slice;
use std::time::{Duration, SystemTime};

/// Information beside the data of a message (cmsg(3)): to send with it, or received with it in a
/// [`ControlBuffer`].
///
/// Each needs a socket of the right kind, and the kernel reports most of them only after an option
/// has been set, such as
/// [`UdpSocket::set_recv_packet_info`](super::UdpSocket::set_recv_packet_info).
///
/// ```
/// use gopark::net::{ControlBuffer, ControlMessage, UdpSocket};
/// use std::io::{IoSlice, IoSliceMut};
///
/// let [near, far] = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
/// far.set_recv_ttl(true)?;
/// let ttl = [ControlMessage::Ttl(7)];
/// near.send_msg(&[IoSlice::new(b"hello")], Some(far.local_addr()?), &ttl)?;
///
/// let mut buffer = [0; 16];
/// let mut control = ControlBuffer::with_capacity(64);
/// far.recv_msg(&mut [IoSliceMut::new(&mut buffer)], &mut control)?;
/// assert!(control.messages().eq(ttl));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ControlMessage<'a> {
    /// Descriptors for the receiver, which gets duplicates of them (`SCM_RIGHTS`). Only for Unix
    /// sockets, at most 253, and only sent: [`ControlBuffer::take_fds`] returns those received.
    Fds(&'a [BorrowedFd<'a>]),
    /// The sending process on a Unix socket (`SCM_CREDENTIALS`). The kernel checks it when it is
    /// sent.
    Credentials {
        /// The process.
        pid: i32,
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// The address in this machine: of a received packet the destination, of a sent one the source
    /// (`IP_PKTINFO`, `IPV6_PKTINFO`).
    PacketInfo {
        /// The address. When it is sent, the unspecified one leaves the choice to the kernel.
        addr: IpAddr,
        /// The index of the interface. When it is sent, 0 leaves the choice to the kernel.
        interface: u32,
    },
    /// The time to live of a packet, the hop limit in IPv6 (`IP_TTL`, `IPV6_HOPLIMIT`). The kernel
    /// refuses to send 0.
    Ttl(u8),
    /// The type of service of a packet, the traffic class in IPv6 (`IP_TOS`, `IPV6_TCLASS`). Its
    /// lower two bits are those of congestion notification (ECN).
    Tos(u8),
    /// The data consists of datagrams of this many bytes; the last may be shorter (`UDP_SEGMENT`,
    /// `UDP_GRO`).
    #[doc(alias = "UDP_SEGMENT")]
    SegmentSize(u16),
    /// When the kernel received the packet (`SO_TIMESTAMPNS`). Only received.
    Timestamp(SystemTime),
    /// How many packets the kernel has dropped since the socket was made because the socket's
    /// buffer was full (`SO_RXQ_OVFL`). Only received.
    Dropped(u32),
    /// Any other message.
    Other {
        /// The protocol, such as `SOL_SOCKET`.
        level: i32,
        /// The kind of the message.
        kind: i32,
        /// What it contains.
        data: &'a [u8],
    },
}

/// Two lists of descriptors are equal if they have the same numbers.
impl PartialEq for ControlMessage<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (ControlMessage::Timestamp(one), ControlMessage::Timestamp(other)) => one == other,
            _ => self.ancillary() == other.ancillary(),
        }
    }
}

impl<'a> ControlMessage<'a> {
    /// `None` for descriptors, and for a time that no `SystemTime` can represent.
    fn received(control: Control<'a>) -> Option<Self> {
        Some(match Ancillary::from(control) {
            Ancillary::Rights(_) => return None,
            Ancillary::Credentials { pid, uid, gid } => {
                ControlMessage::Credentials { pid, uid, gid }
            }
            Ancillary::PacketInfo { addr, interface } => {
                ControlMessage::PacketInfo { addr, interface }
            }
            Ancillary::Ttl(ttl) => ControlMessage::Ttl(ttl),
            Ancillary::Tos(tos) => ControlMessage::Tos(tos),
            Ancillary::SegmentSize(size) => ControlMessage::SegmentSize(size),
            Ancillary::Timestamp {
                seconds,
                nanoseconds,
            } => {
                let since = Duration::new(seconds.try_into().ok()?, nanoseconds);
                ControlMessage::Timestamp(SystemTime::UNIX_EPOCH.checked_add(since)?)
            }
            Ancillary::Dropped(dropped) => ControlMessage::Dropped(dropped),
            Ancillary::Other(Control { level, kind, data }) => {
                ControlMessage::Other { level, kind, data }
            }
        })
    }

    /// As the kernel takes it. `None` if it is only received.
    fn ancillary(&self) -> Option<Ancillary<'a>> {
        Some(match *self {
            ControlMessage::Fds(fds) => {
                // SAFETY: std documents that a BorrowedFd has the representation of a number, whose
                // bytes are initialized.
                let bytes =
                    unsafe { slice::from_raw_parts(fds.as_ptr().cast::<u8>(), size_of_val(fds)) };
                Ancillary::Rights(bytes)
            }
            ControlMessage::Credentials { pid, uid, gid } => {
                Ancillary::Credentials { pid, uid, gid }
            }
            ControlMessage::PacketInfo { addr, interface } => {
                Ancillary::PacketInfo { addr, interface }
            }
            ControlMessage::Ttl(ttl) => Ancillary::Ttl(ttl),
            ControlMessage::Tos(tos) => Ancillary::Tos(tos),
            ControlMessage::SegmentSize(size) => Ancillary::SegmentSize(size),
            ControlMessage::Timestamp(_) => return None,
            ControlMessage::Dropped(dropped) => Ancillary::Dropped(dropped),
            ControlMessage::Other { level, kind, data } => {
                Ancillary::Other(Control { level, kind, data })
            }
        })
    }
}

/// Room for the control messages of one received message: the `oob` of Go's `ReadMsgUDP`.
///
/// It owns the descriptors received until [`take_fds`](Self::take_fds), and closes them when it is
/// used again or dropped. One buffer can receive any number of messages.
///
/// ```
/// use gopark::net::ControlBuffer;
///
/// // Room for eight descriptors.
/// let control = ControlBuffer::for_fds(8);
/// assert_eq!(control.messages().count(), 0);
/// ```
#[derive(Default)]
pub struct ControlBuffer {
    bytes: Box<[u8]>,
    /// How many of the bytes the last message has filled.
    len: usize,
    fds: Vec<OwnedFd>,
}

static_assertions::assert_impl_all!(ControlBuffer: Send, Sync);

impl ControlBuffer {
    /// Makes room for `bytes` bytes. A message with a number or an address takes at most 40 bytes.
    /// Room for no bytes discards the control messages.
    ///
    /// ```
    /// let control = gopark::net::ControlBuffer::with_capacity(256);
    /// # drop(control);
    /// ```
    pub fn with_capacity(bytes: usize) -> Self {
        ControlBuffer {
            bytes: vec![0; bytes].into(),
            len: 0,
            fds: Vec::new(),
        }
    }

    /// Makes room for one message with `n` descriptors. The kernel passes at most 253 in one.
    ///
    /// ```
    /// let mut control = gopark::net::ControlBuffer::for_fds(1);
    /// assert!(control.take_fds().is_empty());
    /// ```
    #[doc(alias = "SCM_RIGHTS")]
    pub fn for_fds(n: usize) -> Self {
        Self::with_capacity(control_space(n * size_of::<OwnedFd>()))
    }

    /// Returns the control messages of the last message received, except those with descriptors.
    ///
    /// ```
    /// # let control = gopark::net::ControlBuffer::with_capacity(64);
    /// for message in control.messages() {
    ///     println!("{message:?}");
    /// }
    /// ```
    pub fn messages(&self) -> impl Iterator<Item = ControlMessage<'_>> {
        controls(&self.bytes[..self.len]).filter_map(ControlMessage::received)
    }

    /// Takes the descriptors of the last message received. They are close-on-exec.
    ///
    /// ```
    /// # let mut control = gopark::net::ControlBuffer::for_fds(2);
    /// for fd in control.take_fds() {
    ///     let _file = std::fs::File::from(fd);
    /// }
    /// ```
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// Closes descriptors that were not taken, and forgets the messages.
    fn clear(&mut self) {
        self.len = 0;
        self.fds.clear();
    }

    /// Takes over what the kernel has written to `bytes`.
    ///
    /// # Safety
    ///
    /// - The first `len` bytes are control messages that the kernel has just written there, with
    ///   descriptors that no other code owns.
    unsafe fn fill(&mut self, len: usize) {
        self.len = len.min(self.bytes.len());
        for control in controls(&self.bytes[..self.len]) {
            if let Ancillary::Rights(rights) = Ancillary::from(control) {
                // SAFETY: the caller's promise. The kernel counts only descriptors that it has
                // opened, also if it has cut the message.
                let own = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
                self.fds.extend(numbers(rights).map(own));
            }
        }
    }
}

impl fmt::Debug for ControlBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlBuffer")
            .field("capacity", &self.bytes.len())
            .field("messages", &self.messages().collect::<Vec<_>>())
            .field("fds", &self.fds)
            .finish()
    }
}

/// A message that was received: how much data, and the sender's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Message<A> {
    /// The bytes of data in the buffers.
    pub len: usize,
    /// The sender.
    pub addr: A,
    /// The data did not fit into the buffers, and the rest is lost (`MSG_TRUNC`).
    pub truncated: bool,
    /// The control messages did not fit into the [`ControlBuffer`], or there were too many
    /// descriptors for this process. The rest is lost (`MSG_CTRUNC`).
    pub control_truncated: bool,
}

impl<A> Message<A> {
    pub(super) fn new(received: &Received, addr: A) -> Self {
        Message {
            len: received.len,
            addr,
            truncated: received.flags & libc::MSG_TRUNC != 0,
            control_truncated: received.flags & libc::MSG_CTRUNC != 0,
        }
    }
}

impl Socket {
    /// Waits for a message.
    pub(super) fn recv_msg(
        &self,
        bufs: &mut [IoSliceMut<'_>],
        control: &mut ControlBuffer,
    ) -> Result<Received> {
        self.operate(Mode::Read, receiver(bufs, control))
    }

    /// Waits for room for a message, and sends it.
    pub(super) fn send_msg(
        &self,
        bufs: &[IoSlice<'_>],
        addr: Option<&Address>,
        control: &[ControlMessage<'_>],
    ) -> Result<usize> {
        let bytes = encoded(control)?;
        self.operate(Mode::Write, sender(bufs, addr, &bytes))
    }
}

fn receiver<'a>(
    bufs: &'a mut [IoSliceMut<'_>],
    control: &'a mut ControlBuffer,
) -> impl FnMut(Borrowed<'_>) -> Outcome<Received> + 'a {
    control.clear();
    let vector = vector_mut(bufs);
    move |fd| {
        // SAFETY: the buffers are mutably borrowed as long as this closure.
        let outcome = unsafe { recv_message(fd, vector, &mut control.bytes) };
        if let Outcome::Done(received) = &outcome {
            // SAFETY: the kernel has just written as many bytes.
            unsafe { control.fill(received.control) };
        }
        outcome
    }
}

/// Sends a message. `control` comes from [`encoded`].
pub(super) fn sender<'a>(
    bufs: &'a [IoSlice<'_>],
    addr: Option<&'a Address>,
    control: &'a [u8],
) -> impl FnMut(Borrowed<'_>) -> Outcome<usize> + 'a {
    let vector = vector(bufs);
    // SAFETY: the buffers are borrowed as long as this closure. The descriptors in `control` were
    // borrowed, and their owners lend them for this call.
    move |fd| unsafe { send_message(fd, vector, addr, control) }
}

/// The bytes of control messages to send.
pub(super) fn encoded(control: &[ControlMessage<'_>]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for message in control {
        let Some(ancillary) = message.ancillary() else {
            continue;
        };
        if ancillary.is_unsafe() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "a control message with descriptors or addresses as bytes: use ControlMessage::Fds",
            ));
        }
        let len = bytes.len();
        bytes.resize(len + ancillary.space(), 0);
        let pushed = ancillary.push(&mut bytes[len..]).unwrap_or(0);
        bytes.truncate(len + pushed);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    /// Two ends of a stream. Reading ends when the last descriptor of the other end is closed.
    fn pipe() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    /// Sends `fds` descriptors of the pipe whose reading end is returned, and receives them with
    /// room for `room`.
    fn cross(fds: usize, room: usize) -> (File, Message<()>, ControlBuffer) {
        let (near, far) = UnixDatagram::pair().unwrap();
        let [near, far] = [near, far].map(|socket| Socket::adopt(socket.into()));
        let (reader, writer) = pipe();
        let borrowed = vec![writer.as_fd(); fds];
        let sent = near.send_msg(
            &[IoSlice::new(b"x")],
            None,
            &[ControlMessage::Fds(&borrowed)],
        );
        assert_eq!(sent.unwrap(), 1);
        let mut control = ControlBuffer::for_fds(room);
        let received = far
            .recv_msg(&mut [IoSliceMut::new(&mut [0])], &mut control)
            .unwrap();
        let reader = File::from(OwnedFd::from(reader));
        (reader, Message::new(&received, ()), control)
    }

    /// The pipe has no other writers: reading ends.
    #[track_caller]
    fn assert_closed(mut reader: File) {
        crate::blocking(|| assert_eq!(reader.read(&mut [0]).unwrap(), 0));
    }

    #[test]
    fn descriptors_are_taken_or_closed() {
        let (reader, message, mut control) = cross(3, 3);
        assert!(!message.control_truncated);
        assert_eq!(control.messages().count(), 0);
        let mut fds = control.take_fds();
        assert_eq!((fds.len(), control.take_fds().len()), (3, 0));
        fds.truncate(1);
        drop(control);
        let mut writer = File::from(fds.remove(0));
        writer.write_all(b"x").unwrap();
        drop(writer);
        let mut reader = reader;
        assert_eq!(reader.read(&mut [0; 8]).unwrap(), 1);
        assert_closed(reader);

        let (reader, _, control) = cross(253, 253);
        assert_eq!(control.fds.len(), 253);
        drop(control);
        assert_closed(reader);
    }

    #[test]
    fn a_message_that_was_cut_leaks_no_descriptor() {
        for room in 0..6 {
            let (reader, message, mut control) = cross(8, room);
            assert!(message.control_truncated);
            let taken = control.take_fds();
            // Room is in whole words, with two descriptors each.
            assert!(taken.len() <= room + 1, "{} in {room}", taken.len());
            drop((taken, control));
            assert_closed(reader);
        }
        // Not even room for the header.
        let (near, far) = UnixDatagram::pair().unwrap();
        let [near, far] = [near, far].map(|socket| Socket::adopt(socket.into()));
        let (reader, writer) = pipe();
        let fds = [writer.as_fd()];
        near.send_msg(&[], None, &[ControlMessage::Fds(&fds)])
            .unwrap();
        let mut control = ControlBuffer::with_capacity(7);
        let received = far.recv_msg(&mut [], &mut control).unwrap();
        assert!(Message::new(&received, ()).control_truncated);
        drop(writer);
        assert_closed(File::from(OwnedFd::from(reader)));
    }

    #[test]
    fn a_buffer_that_is_used_again_closes_what_was_not_taken() {
        let (near, far) = UnixDatagram::pair().unwrap();
        let [near, far] = [near, far].map(|socket| Socket::adopt(socket.into()));
        let (reader, writer) = pipe();
        let fds = [writer.as_fd()];
        near.send_msg(&[], None, &[ControlMessage::Fds(&fds)])
            .unwrap();
        near.send_msg(&[], None, &[]).unwrap();
        drop(writer);
        let mut control = ControlBuffer::for_fds(1);
        far.recv_msg(&mut [], &mut control).unwrap();
        assert_eq!(control.fds.len(), 1);
        far.recv_msg(&mut [], &mut control).unwrap();
        assert_eq!(control.fds.len(), 0);
        assert_closed(File::from(OwnedFd::from(reader)));
    }
}
