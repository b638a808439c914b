//! Datagrams and messages: system calls with addresses and control messages, and the layout of
//! control messages (cmsg(3)).

#![allow(unsafe_code, reason = "system calls on the caller's buffers")]

use super::check;
use super::io::{IOV_MAX, failure, header};
use super::socket::Address;
use core::mem;
use core::ptr;
use gopark_core::os::{Borrowed, Outcome};

/// `recvfrom(2)`: one datagram and its sender. The part of the datagram that does not fit is lost.
#[doc(alias = "recvfrom")]
pub fn recv_from(fd: Borrowed<'_>, buffer: &mut [u8]) -> Outcome<(usize, Address)> {
    recv_from_with(fd, buffer, 0)
}

/// [`recv_from`] that leaves the datagram in the kernel's buffer.
pub fn peek_from(fd: Borrowed<'_>, buffer: &mut [u8]) -> Outcome<(usize, Address)> {
    recv_from_with(fd, buffer, libc::MSG_PEEK)
}

fn recv_from_with(
    fd: Borrowed<'_>,
    buffer: &mut [u8],
    flags: libc::c_int,
) -> Outcome<(usize, Address)> {
    let mut sender = Address::empty();
    let (name, len) = sender.as_mut_ptr();
    // SAFETY: `buffer` is writable for its length, and `name` for `len` bytes.
    let received = unsafe {
        libc::syscall(
            libc::SYS_recvfrom,
            fd.raw(),
            buffer.as_mut_ptr(),
            buffer.len(),
            flags | libc::MSG_DONTWAIT,
            name,
            len,
        )
    };
    check(received as isize).map_or_else(failure, |len| Outcome::Done((len, sender)))
}

/// `sendto(2)` without `SIGPIPE`: one datagram to `receiver`.
#[doc(alias = "sendto")]
pub fn send_to(fd: Borrowed<'_>, buffer: &[u8], receiver: &Address) -> Outcome<usize> {
    let (name, len) = receiver.as_ptr();
    // SAFETY: `buffer` is readable for its length, and `name` for `len` bytes.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_sendto,
            fd.raw(),
            buffer.as_ptr(),
            buffer.len(),
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
            name,
            len,
        )
    };
    check(sent as isize).map_or_else(failure, Outcome::Done)
}

/// A message that was received.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// The bytes of data.
    pub len: usize,
    /// The sender. A message of a stream has none.
    pub sender: Address,
    /// The bytes of control messages.
    pub control: usize,
    /// The flags `MSG_TRUNC`, `MSG_CTRUNC`, `MSG_EOR` and others (recvmsg(2)).
    pub flags: i32,
}

/// `recvmsg(2)`: one message into the first 1024 buffers, and its control messages into `control`.
/// Descriptors in them are close-on-exec, and belong to the caller.
///
/// # Safety
///
/// - Each of `buffers` names memory that may be written and that no other code uses during the
///   call.
#[doc(alias = "recvmsg")]
pub unsafe fn recv_message(
    fd: Borrowed<'_>,
    buffers: &[libc::iovec],
    control: &mut [u8],
) -> Outcome<Received> {
    let mut sender = Address::empty();
    let mut header = header(buffers);
    (header.msg_name, header.msg_namelen) = sender.room();
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = control.len() as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header counts at most as many buffers as there are, for which the caller vouches.
    // Name and control bytes are writable for their lengths.
    let received = unsafe { libc::recvmsg(fd.raw(), &mut header, flags) };
    check(received).map_or_else(failure, |len| {
        sender.set_len(header.msg_namelen);
        Outcome::Done(Received {
            len,
            sender,
            // musl has other types for the lengths.
            #[allow(clippy::unnecessary_cast)]
            control: header.msg_controllen as usize,
            flags: header.msg_flags,
        })
    })
}

/// `sendmsg(2)` without `SIGPIPE`: one message of the first 1024 buffers, to `receiver` if there is
/// one, with the control messages in `control`, which [`push_control`] has written.
///
/// # Safety
///
/// - Each of `buffers` names memory that may be read during the call.
/// - The owner of each descriptor in `control` permits that it is sent.
#[doc(alias = "sendmsg")]
pub unsafe fn send_message(
    fd: Borrowed<'_>,
    buffers: &[libc::iovec],
    receiver: Option<&Address>,
    control: &[u8],
) -> Outcome<usize> {
    let mut header = header(buffers);
    if let Some(receiver) = receiver {
        let (name, len) = receiver.as_ptr();
        (header.msg_name, header.msg_namelen) = (name.cast_mut().cast(), len);
    }
    header.msg_control = control.as_ptr().cast_mut().cast();
    header.msg_controllen = control.len() as _;
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the header counts at most as many buffers as there are, for which the caller vouches.
    // The kernel only reads name and control bytes.
    let sent = unsafe { libc::sendmsg(fd.raw(), &header, flags) };
    check(sent).map_or_else(failure, Outcome::Done)
}

/// `recvmmsg(2)`: waiting datagrams into the buffers of `headers`. Returns how many.
///
/// # Safety
///
/// - Each header names memory that the kernel may write during the call: name, buffers and control
///   bytes.
#[doc(alias = "recvmmsg")]
pub unsafe fn recv_many(fd: Borrowed<'_>, headers: &mut [libc::mmsghdr]) -> Outcome<usize> {
    // SAFETY: the caller vouches for the headers. Without a timeout, no memory is read for it.
    let received = unsafe {
        libc::syscall(
            libc::SYS_recvmmsg,
            fd.raw(),
            headers.as_mut_ptr(),
            headers.len().min(IOV_MAX),
            libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC,
            ptr::null_mut::<libc::timespec>(),
        )
    };
    check(received as isize).map_or_else(failure, Outcome::Done)
}

/// `sendmmsg(2)` without `SIGPIPE`. Returns how many datagrams the kernel has taken.
///
/// # Safety
///
/// - Each header names memory that may be read during the call: name, buffers and control bytes.
#[doc(alias = "sendmmsg")]
pub unsafe fn send_many(fd: Borrowed<'_>, headers: &mut [libc::mmsghdr]) -> Outcome<usize> {
    // SAFETY: the caller vouches for the headers, whose lengths the kernel writes.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_sendmmsg,
            fd.raw(),
            headers.as_mut_ptr(),
            headers.len().min(IOV_MAX),
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        )
    };
    check(sent as isize).map_or_else(failure, Outcome::Done)
}

/// One control message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Control<'a> {
    /// The protocol, such as `SOL_SOCKET`.
    pub level: i32,
    /// The kind of the message, such as `SCM_RIGHTS`.
    pub kind: i32,
    /// What it contains.
    pub data: &'a [u8],
}

const HEADER: usize = align(size_of::<libc::cmsghdr>());

/// Control messages start at multiples of a word (`CMSG_ALIGN`).
const fn align(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

/// The bytes that a control message with `len` bytes of data takes: `CMSG_SPACE`.
#[doc(alias = "CMSG_SPACE")]
pub const fn control_space(len: usize) -> usize {
    HEADER + align(len)
}

/// Writes `message` to the beginning of `to`, and returns how many bytes it takes. `None` if there
/// is no room.
pub fn push_control(to: &mut [u8], message: Control<'_>) -> Option<usize> {
    let space = control_space(message.data.len());
    let to = to.get_mut(..space)?;
    to.fill(0);
    // SAFETY: all zeroes is a header. The type may have padding.
    let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
    header.cmsg_len = (HEADER + message.data.len()) as _;
    header.cmsg_level = message.level;
    header.cmsg_type = message.kind;
    // SAFETY: `to` is longer than a header. The write is unaligned: any alignment will do.
    unsafe {
        to.as_mut_ptr()
            .cast::<libc::cmsghdr>()
            .write_unaligned(header)
    };
    to[HEADER..][..message.data.len()].copy_from_slice(message.data);
    Some(space)
}

/// The control messages in `bytes`, as the kernel has written them. The iterator ends at a message
/// that is not whole.
#[doc(alias = "CMSG_NXTHDR")]
pub fn controls(bytes: &[u8]) -> impl Iterator<Item = Control<'_>> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        if rest.len() < size_of::<libc::cmsghdr>() {
            return None;
        }
        // SAFETY: `rest` is at least as long as a header, which consists of integers.
        let header = unsafe { rest.as_ptr().cast::<libc::cmsghdr>().read_unaligned() };
        #[allow(clippy::unnecessary_cast)]
        let len = header.cmsg_len as usize;
        let data = rest.get(HEADER..len)?;
        rest = rest.get(align(len)..).unwrap_or_default();
        Some(Control {
            level: header.cmsg_level,
            kind: header.cmsg_type,
            data,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::io;
    use crate::linux::socket::{UnixName, bind, unix, unix_pair};
    use crate::linux::tests::lend;
    use core::slice;
    use gopark_core::os::Outcome::{Done, WouldBlock};
    use std::vec::Vec;

    fn vector(bytes: &[u8]) -> libc::iovec {
        libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        }
    }

    #[test]
    fn a_datagram_tells_its_sender() {
        let [ours, theirs] = [(); 2].map(|()| unix(libc::SOCK_DGRAM).unwrap());
        let name = Address::unix_abstract(b"gopark-message-test").unwrap();
        bind(lend(theirs), &name).unwrap();
        bind(lend(ours), &Address::unix_unnamed()).unwrap();
        assert!(matches!(recv_from(lend(theirs), &mut [0; 9]), WouldBlock));
        assert_eq!(send_to(lend(ours), b"hello", &name), Done(5));
        for receive in [peek_from, recv_from] {
            let mut buffer = [0; 9];
            let Done((len, sender)) = receive(lend(theirs), &mut buffer) else {
                panic!("a datagram waits")
            };
            assert_eq!(&buffer[..len], b"hello");
            assert!(matches!(sender.unix_name(), Some(UnixName::Abstract(_))));
        }
        io::close(ours);
        io::close(theirs);
    }

    #[test]
    fn a_descriptor_crosses_in_a_control_message() {
        let [ours, theirs] = unix_pair(libc::SOCK_STREAM).unwrap();
        let mut control = [0; control_space(4)];
        let rights = Control {
            level: libc::SOL_SOCKET,
            kind: libc::SCM_RIGHTS,
            data: &ours.to_ne_bytes(),
        };
        assert_eq!(push_control(&mut control, rights), Some(control.len()));
        let data = [vector(b"x")];
        // SAFETY: the vector names a string, and the descriptor is the test's.
        let sent = unsafe { send_message(lend(ours), &data, None, &control) };
        assert_eq!(sent, Done(1));

        let mut byte = 0_u8;
        let buffers = [libc::iovec {
            iov_base: (&raw mut byte).cast(),
            iov_len: 1,
        }];
        let mut control = [0; 64];
        // SAFETY: the vector names a byte of this function.
        let received = unsafe { recv_message(lend(theirs), &buffers, &mut control) };
        let Done(received) = received else {
            panic!("a message waits")
        };
        assert_eq!((received.len, byte), (1, b'x'));
        let found: Vec<_> = controls(&control[..received.control]).collect();
        let [Control { level, kind, data }] = found[..] else {
            panic!("one control message: {found:?}")
        };
        assert_eq!((level, kind), (libc::SOL_SOCKET, libc::SCM_RIGHTS));
        let passed = i32::from_ne_bytes(data.try_into().unwrap());
        // SAFETY: no memory is passed.
        let flags = unsafe { libc::fcntl(passed, libc::F_GETFD) };
        assert_eq!(flags, libc::FD_CLOEXEC);
        for fd in [ours, theirs, passed] {
            io::close(fd);
        }
    }

    #[test]
    fn many_datagrams_cross_in_two_calls() {
        let [ours, theirs] = unix_pair(libc::SOCK_DGRAM).unwrap();
        let texts = [b"one".as_slice(), b"", b"three"];
        let vectors = texts.map(vector);
        let headers = |vectors: &[libc::iovec]| {
            let of = |vector| libc::mmsghdr {
                msg_hdr: header(slice::from_ref(vector)),
                msg_len: 0,
            };
            vectors.iter().map(of).collect::<Vec<_>>()
        };
        // SAFETY: the headers name strings.
        let sent = unsafe { send_many(lend(ours), &mut headers(&vectors)) };
        assert_eq!(sent, Done(3));

        let mut buffers = [[0_u8; 8]; 4];
        let vectors: Vec<_> = buffers.iter_mut().map(|buffer| vector(buffer)).collect();
        let mut headers = headers(&vectors);
        // SAFETY: the headers name the buffers.
        let received = unsafe { recv_many(lend(theirs), &mut headers) };
        assert_eq!(received, Done(3));
        for (text, (buffer, header)) in texts.iter().zip(buffers.iter().zip(&headers)) {
            assert_eq!(&&buffer[..header.msg_len as usize], text);
        }
        io::close(ours);
        io::close(theirs);
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        let mut bytes = [0; 256];
        let data = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        let messages = [0, 1, 8, 9].map(|len| Control {
            level: 7,
            kind: len as i32,
            data: &data[..len],
        });
        let mut len = 0;
        for message in messages {
            len += push_control(&mut bytes[len..], message).unwrap();
        }
        assert!(controls(&bytes[..len]).eq(messages));
    }

    #[test]
    fn a_message_that_is_not_whole_ends_the_list() {
        let mut bytes = [0; 64];
        let message = Control {
            level: 1,
            kind: 2,
            data: &[3; 4],
        };
        let len = push_control(&mut bytes, message).unwrap();
        let whole = HEADER + message.data.len();
        for end in 0..=len {
            assert_eq!(controls(&bytes[..end]).count(), usize::from(end >= whole));
        }
        // Lengths that no kernel writes: too short for the header, and beyond the end.
        for len in [0, 1, HEADER - 1, 65, usize::MAX] {
            bytes[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(controls(&bytes).count(), 0, "{len}");
        }
        assert_eq!(push_control(&mut [0; 16], message), None);
    }
}
