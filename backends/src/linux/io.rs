//! Non-blocking I/O: one system call in each function.
//!
//! Descriptors are lent ([`Borrowed`]), so each function works on an open descriptor that the
//! caller may use. `EINTR` is reported and not retried, because the caller's loop checks its
//! deadline first.
//!
//! The frequent calls go through `syscall(2)`. libc's own wrappers are cancellation points
//! (pthreads(7)), which costs two more atomic operations a call in a process with threads.

#![allow(unsafe_code, reason = "system calls on the caller's buffers")]

use super::socket::Address;
use super::{OwnedFd, check};
use core::mem;
use core::ptr;
use gopark_core::os::{Borrowed, Errno, Mode, Outcome};

/// The most buffers that one call moves. The kernel refuses longer vectors with `EINVAL`
/// (readv(2)), so longer ones are cut to this length.
pub const IOV_MAX: usize = 1024;

/// `read(2)`. Zero is the end of the stream.
pub fn read(fd: Borrowed<'_>, buffer: &mut [u8]) -> Outcome<usize> {
    // SAFETY: `buffer` is writable for its length.
    outcome(unsafe { libc::read(fd.raw(), buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// `write(2)`. Raises `SIGPIPE` if the reader is gone; for sockets see [`send`].
pub fn write(fd: Borrowed<'_>, buffer: &[u8]) -> Outcome<usize> {
    // SAFETY: `buffer` is readable for its length.
    outcome(unsafe { libc::write(fd.raw(), buffer.as_ptr().cast(), buffer.len()) })
}

/// `poll(2)` without a wait: whether an operation in direction `mode` would not block now, because
/// there is data, room, an end or an error. True if the system refuses to say.
pub fn is_ready(fd: Borrowed<'_>, mode: Mode) -> bool {
    let mut entry = libc::pollfd {
        fd: fd.raw(),
        events: match mode {
            Mode::Read => libc::POLLIN,
            Mode::Write => libc::POLLOUT,
        },
        revents: 0,
    };
    // SAFETY: the list has one entry.
    unsafe { libc::poll(&mut entry, 1, 0) != 0 }
}

/// `readv(2)` into the first 1024 buffers.
///
/// # Safety
///
/// - Each of `buffers` names memory that may be written and that no other code uses during the
///   call.
pub unsafe fn readv(fd: Borrowed<'_>, buffers: &[libc::iovec]) -> Outcome<usize> {
    // SAFETY: the caller vouches for the buffers; the count is not above the slice's length.
    outcome(unsafe {
        libc::readv(
            fd.raw(),
            buffers.as_ptr(),
            buffers.len().min(IOV_MAX) as libc::c_int,
        )
    })
}

/// `writev(2)` of the first 1024 buffers. Raises `SIGPIPE` as [`write()`] does.
///
/// # Safety
///
/// - Each of `buffers` names memory that may be read during the call.
pub unsafe fn writev(fd: Borrowed<'_>, buffers: &[libc::iovec]) -> Outcome<usize> {
    // SAFETY: the caller vouches for the buffers; the count is not above the slice's length.
    outcome(unsafe {
        libc::writev(
            fd.raw(),
            buffers.as_ptr(),
            buffers.len().min(IOV_MAX) as libc::c_int,
        )
    })
}

/// `recv(2)`: [`read`] for sockets, without the detour through the file layer.
///
/// Like all functions here that send or receive, it does not block even if another process has made
/// the file blocking through a duplicate of the descriptor (golang/go #68273).
#[doc(alias = "MSG_DONTWAIT")]
#[inline]
pub fn recv(fd: Borrowed<'_>, buffer: &mut [u8]) -> Outcome<usize> {
    recv_with(fd, buffer, 0)
}

/// `recv(2)` that leaves the data in the kernel's buffer.
#[doc(alias = "MSG_PEEK")]
pub fn recv_peek(fd: Borrowed<'_>, buffer: &mut [u8]) -> Outcome<usize> {
    recv_with(fd, buffer, libc::MSG_PEEK)
}

#[inline]
fn recv_with(fd: Borrowed<'_>, buffer: &mut [u8], flags: libc::c_int) -> Outcome<usize> {
    let no_address = ptr::null_mut::<libc::sockaddr>();
    // SAFETY: `buffer` is writable for its length; the peer's address is not asked for.
    outcome(unsafe {
        libc::syscall(
            libc::SYS_recvfrom,
            fd.raw(),
            buffer.as_mut_ptr(),
            buffer.len(),
            flags | libc::MSG_DONTWAIT,
            no_address,
            no_address,
        )
    } as isize)
}

/// `send(2)` without `SIGPIPE`: a closed peer is `EPIPE` only.
#[doc(alias = "MSG_NOSIGNAL")]
#[inline]
pub fn send(fd: Borrowed<'_>, buffer: &[u8]) -> Outcome<usize> {
    let no_address = ptr::null::<libc::sockaddr>();
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: `buffer` is readable for its length; no address is given.
    outcome(unsafe {
        libc::syscall(
            libc::SYS_sendto,
            fd.raw(),
            buffer.as_ptr(),
            buffer.len(),
            flags,
            no_address,
            0usize,
        )
    } as isize)
}

/// `sendmsg(2)` of the first 1024 buffers, without `SIGPIPE`: [`writev`] for a stream socket.
///
/// # Safety
///
/// - Each of `buffers` names memory that may be read during the call.
pub unsafe fn send_vectored(fd: Borrowed<'_>, buffers: &[libc::iovec]) -> Outcome<usize> {
    // SAFETY: the header counts at most as many buffers as there are, and the caller vouches for
    // them.
    outcome(unsafe {
        libc::sendmsg(
            fd.raw(),
            &header(buffers),
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        )
    })
}

/// `recvmsg(2)` into the first 1024 buffers: [`readv`] for a stream socket.
///
/// # Safety
///
/// - Each of `buffers` names memory that may be written and that no other code uses during the
///   call.
pub unsafe fn recv_vectored(fd: Borrowed<'_>, buffers: &[libc::iovec]) -> Outcome<usize> {
    // SAFETY: as in `send_vectored`.
    outcome(unsafe { libc::recvmsg(fd.raw(), &mut header(buffers), libc::MSG_DONTWAIT) })
}

/// A message header for the first 1024 buffers. The kernel only reads the vector.
pub(super) fn header(buffers: &[libc::iovec]) -> libc::msghdr {
    // SAFETY: all zeroes is a message without address, data and control bytes.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = buffers.as_ptr().cast_mut();
    header.msg_iovlen = buffers.len().min(IOV_MAX) as _;
    header
}

/// `accept4(2)`: a new non-blocking, close-on-exec descriptor, and its peer's address.
///
/// `ECONNABORTED` counts as `Interrupted`: the connection was reset while it sat in the queue,
/// which says nothing about the listener or the next connection. Go retries it silently too
/// (`src/internal/poll/fd_unix.go`, `Accept`).
pub fn accept4(fd: Borrowed<'_>) -> Outcome<(i32, Address)> {
    let mut peer = Address::empty();
    let (name, len) = peer.as_mut_ptr();
    // SAFETY: `name` is writable for `len` bytes.
    let accepted = unsafe {
        libc::accept4(
            fd.raw(),
            name,
            len,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    };
    match check(accepted as isize) {
        Ok(new) => Outcome::Done((new as i32, peer)),
        Err(errno) if errno.raw() == libc::ECONNABORTED => Outcome::Interrupted,
        Err(errno) => failure(errno),
    }
}

/// `connect(2)`. After `WouldBlock` the attempt goes on by itself: wait for
/// [`Write`](gopark_core::os::Mode::Write), then ask [`take_socket_error`] and [`is_connected`]. Do
/// not call `connect` again.
///
/// `EINTR` becomes `WouldBlock`, because the attempt goes on (connect(2)). `EAGAIN` is a failure: a
/// Unix listener's queue is full, and no event reports when it has room.
pub fn connect(fd: Borrowed<'_>, address: &Address) -> Outcome<()> {
    let (name, len) = address.as_ptr();
    // SAFETY: the address is readable for its length.
    let Err(errno) = check(unsafe { libc::connect(fd.raw(), name, len) } as isize) else {
        return Outcome::Done(());
    };
    match errno.raw() {
        libc::EISCONN => Outcome::Done(()),
        libc::EINPROGRESS | libc::EALREADY | libc::EINTR => Outcome::WouldBlock,
        _ => Outcome::Failed(errno),
    }
}

/// Takes the pending error of a socket, such as a failed connect. The kernel reports it once.
#[doc(alias = "SO_ERROR")]
pub fn take_socket_error(fd: Borrowed<'_>) -> Result<(), Errno> {
    let mut pending: libc::c_int = 0;
    let mut len = size_of_val(&pending) as libc::socklen_t;
    // SAFETY: `pending` is writable for `len` bytes.
    check(unsafe {
        libc::getsockopt(
            fd.raw(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut pending).cast(),
            &mut len,
        )
    } as isize)?;
    if pending == 0 {
        Ok(())
    } else {
        Err(Errno::new(pending))
    }
}

/// Whether the socket has a peer; an error if the kernel does not tell.
///
/// A connecting socket without a pending error and without a peer was woken spuriously: a socket
/// that was registered before its `connect` reports `OUT` and `HUP` at once.
#[doc(alias = "getpeername")]
pub fn is_connected(fd: Borrowed<'_>) -> Result<bool, Errno> {
    let mut address = libc::sockaddr {
        sa_family: 0,
        sa_data: [0; 14],
    };
    let mut len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` is writable for `len` bytes; the kernel cuts a longer address.
    match check(unsafe { libc::getpeername(fd.raw(), &mut address, &mut len) } as isize) {
        Ok(_) => Ok(true),
        Err(errno) if errno.raw() == libc::ENOTCONN => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// `close(2)`, never retried: Linux releases the number even if it answers `EINTR` (close(2)).
pub(crate) fn close(fd: i32) {
    // SAFETY: no memory is passed.
    unsafe { libc::close(fd) };
}

/// Releases the file behind `fd`, and puts an inert file in its place, so that the number stays
/// taken. Code that still holds the number then cannot reach an unrelated file through it. For
/// [`Fd::reserve_number`](gopark_core::fd::Fd::reserve_number).
///
/// The inert file is an unconnected Unix socket: socket calls on the stale number fail as they do
/// on an unconnected socket. If the descriptor table is full, there is no second number for it. The
/// function then shuts the connection down, so that the peer sees its end; the file stays until the
/// number itself is closed.
///
/// # Safety
///
/// - The caller owns `fd`, which is open.
pub unsafe fn close_keeping_number(fd: i32) {
    let replaced = inert_file().is_some_and(|inert| replace(fd, &inert));
    if !replaced {
        // SAFETY: no memory is passed.
        unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
    }
}

/// Puts a duplicate of `inert` under the number `fd`. `EBUSY`: another thread is opening that
/// number (dup(2)).
fn replace(fd: i32, inert: &OwnedFd) -> bool {
    loop {
        // SAFETY: no memory is passed.
        match check(unsafe { libc::dup3(inert.0, fd, libc::O_CLOEXEC) } as isize) {
            Ok(_) => return true,
            Err(errno) if matches!(errno.raw(), libc::EINTR | libc::EBUSY) => {}
            Err(_) => return false,
        }
    }
}

/// An inert file, or `None` if the descriptor table is full.
fn inert_file() -> Option<OwnedFd> {
    // SAFETY: no memory is passed.
    let socket = unsafe {
        libc::socket(
            libc::AF_UNIX,
            libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            0,
        )
    };
    // A kernel may lack Unix sockets, and a container may lack /dev, but there is always a root.
    // O_PATH refuses all I/O.
    // SAFETY: the path is a C string.
    let path = || unsafe { libc::open(c"/".as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
    let file = if socket >= 0 { socket } else { path() };
    (file >= 0).then_some(OwnedFd(file))
}

#[inline]
pub(super) fn outcome(result: isize) -> Outcome<usize> {
    check(result).map_or_else(failure, Outcome::Done)
}

/// Maps an error number to an outcome.
#[inline]
pub(super) fn failure<T>(errno: Errno) -> Outcome<T> {
    match errno.raw() {
        libc::EAGAIN => Outcome::WouldBlock,
        libc::EINTR => Outcome::Interrupted,
        _ => Outcome::Failed(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::socket;
    use crate::linux::tests::{in_child, is_open, lend, pipe, without_children};
    use gopark_core::os::Outcome::{Done, Failed, Interrupted, WouldBlock};
    use std::io::{IoSlice, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
    use std::os::unix::net::UnixStream;

    fn failed<T>(errno: i32) -> Outcome<T> {
        Failed(Errno::new(errno))
    }

    fn stream_pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    #[test]
    fn a_read_blocks_then_has_data_then_ends() {
        let _alone = without_children();
        let (reader, mut writer) = pipe();
        let mut buffer = [0; 8];
        assert_eq!(read(lend(reader.as_raw_fd()), &mut buffer), WouldBlock);
        writer.write_all(b"abc").unwrap();
        assert_eq!(read(lend(reader.as_raw_fd()), &mut buffer), Done(3));
        assert_eq!(&buffer[..3], b"abc");
        drop(writer);
        assert_eq!(read(lend(reader.as_raw_fd()), &mut buffer), Done(0));
        assert_eq!(read(lend(-1), &mut buffer), failed(libc::EBADF));
    }

    #[test]
    fn a_write_is_done_until_the_pipe_is_full() {
        let (_reader, writer) = pipe();
        while write(lend(writer.as_raw_fd()), &[0; 4096]) == Done(4096) {}
        assert_eq!(write(lend(writer.as_raw_fd()), &[0; 4096]), WouldBlock);
    }

    fn iovecs<'a>(slices: &'a [IoSlice<'_>]) -> &'a [libc::iovec] {
        // SAFETY: std gives IoSlice the layout of iovec.
        unsafe { core::slice::from_raw_parts(slices.as_ptr().cast(), slices.len()) }
    }

    #[test]
    fn vectors_keep_their_order() {
        let (ours, theirs) = stream_pair();
        let text = [IoSlice::new(b"ab"), IoSlice::new(b"cd")];
        // SAFETY: the slices are borrowed.
        let written = unsafe { writev(lend(ours.as_raw_fd()), iovecs(&text)) };
        assert_eq!(written, Done(4));
        // SAFETY: the slices are borrowed.
        let written = unsafe { send_vectored(lend(ours.as_raw_fd()), iovecs(&text)) };
        assert_eq!(written, Done(4));
        let (mut head, mut tail) = ([0u8; 3], [0u8; 8]);
        let buffers = [
            libc::iovec {
                iov_base: head.as_mut_ptr().cast(),
                iov_len: head.len(),
            },
            libc::iovec {
                iov_base: tail.as_mut_ptr().cast(),
                iov_len: tail.len(),
            },
        ];
        // SAFETY: both arrays are borrowed, and not used until the call is over.
        let read = unsafe { readv(lend(theirs.as_raw_fd()), &buffers) };
        assert_eq!(read, Done(8));
        assert_eq!((&head, &tail[..5]), (b"abc", &b"dabcd"[..]));
    }

    #[test]
    fn a_vector_longer_than_iov_max_is_written_up_to_it() {
        let (ours, _theirs) = stream_pair();
        let long = [IoSlice::new(b"x"); IOV_MAX + 1];
        // SAFETY: the slices are borrowed.
        let written = unsafe { writev(lend(ours.as_raw_fd()), iovecs(&long)) };
        assert_eq!(written, Done(IOV_MAX));
        // SAFETY: the slices are borrowed.
        let written = unsafe { send_vectored(lend(ours.as_raw_fd()), iovecs(&long)) };
        assert_eq!(written, Done(IOV_MAX));
    }

    #[test]
    fn a_peek_leaves_the_data() {
        let (ours, mut theirs) = stream_pair();
        let mut buffer = [0; 8];
        assert_eq!(recv_peek(lend(ours.as_raw_fd()), &mut buffer), WouldBlock);
        theirs.write_all(b"abc").unwrap();
        for _ in 0..2 {
            assert_eq!(recv_peek(lend(ours.as_raw_fd()), &mut buffer), Done(3));
        }
        assert_eq!(read(lend(ours.as_raw_fd()), &mut buffer), Done(3));
    }

    #[test]
    fn sending_to_a_closed_peer_raises_no_signal() {
        let (ours, theirs) = stream_pair();
        drop(theirs);
        let status = in_child(|| {
            // std ignores the signal.
            // SAFETY: the default action is no function.
            unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
            // SAFETY: the slice is borrowed.
            let vectored =
                unsafe { send_vectored(lend(ours.as_raw_fd()), iovecs(&[IoSlice::new(b"x")])) };
            [send(lend(ours.as_raw_fd()), b"x"), vectored] == [failed(libc::EPIPE); 2]
        });
        assert_eq!(status, 0);
    }

    #[test]
    fn an_accepted_socket_is_non_blocking_and_its_peer_known() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        assert!(matches!(accept4(lend(listener.as_raw_fd())), WouldBlock));
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let Done((fd, peer)) = accept4(lend(listener.as_raw_fd())) else {
            panic!("a connection waits")
        };
        // SAFETY: the descriptor is new, and no other code has it.
        let accepted = unsafe { TcpStream::from_raw_fd(fd) };
        assert_eq!(accepted.peer_addr().unwrap(), client.local_addr().unwrap());
        assert_eq!(peer.ip(), client.local_addr().ok());
        assert_eq!(read(lend(fd), &mut [0]), WouldBlock);
        // SAFETY: no memory is passed.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_GETFD) }, libc::FD_CLOEXEC);
    }

    fn tcp_socket() -> i32 {
        socket::tcp(std::net::Ipv4Addr::LOCALHOST.into()).unwrap()
    }

    fn wait_writable(fd: i32) {
        let mut poll = libc::pollfd {
            fd,
            events: libc::POLLOUT,
            revents: 0,
        };
        // SAFETY: one element.
        assert_eq!(unsafe { libc::poll(&mut poll, 1, -1) }, 1);
    }

    #[test]
    fn a_connect_that_would_block_completes_by_itself() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fd = tcp_socket();
        assert_eq!(is_connected(lend(fd)), Ok(false));
        assert_eq!(
            connect(lend(fd), &listener.local_addr().unwrap().into()),
            WouldBlock
        );
        wait_writable(fd);
        assert_eq!(take_socket_error(lend(fd)), Ok(()));
        assert_eq!(is_connected(lend(fd)), Ok(true));
        // The first call fetches the outcome, the second finds it fetched.
        for _ in 0..2 {
            assert_eq!(
                connect(lend(fd), &listener.local_addr().unwrap().into()),
                Done(())
            );
        }
        close(fd);
    }

    #[test]
    fn a_refused_connect_is_an_error_once() {
        let _alone = without_children();
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let fd = tcp_socket();
        assert!(matches!(connect(lend(fd), &free.into()), WouldBlock));
        wait_writable(fd);
        assert_eq!(
            take_socket_error(lend(fd)),
            Err(Errno::new(libc::ECONNREFUSED))
        );
        assert_eq!(take_socket_error(lend(fd)), Ok(()));
        assert_eq!(is_connected(lend(fd)), Ok(false));
        close(fd);
    }

    #[test]
    fn asking_a_pipe_or_a_bad_number_for_a_peer_is_an_error() {
        let (reader, _writer) = pipe();
        assert_eq!(
            is_connected(lend(reader.as_raw_fd())),
            Err(Errno::new(libc::ENOTSOCK))
        );
        assert_eq!(is_connected(lend(-1)), Err(Errno::new(libc::EBADF)));
    }

    #[test]
    fn closing_keeps_the_number_and_frees_the_port() {
        let _alone = without_children();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let fd = listener.into_raw_fd();
        // SAFETY: the test owns the descriptor.
        unsafe { close_keeping_number(fd) };
        TcpListener::bind(address).unwrap();
        assert!(is_open(fd) && is_connected(lend(fd)) == Ok(false));
        assert_eq!(write(lend(fd), b"x"), failed(libc::ENOTCONN));
        assert_eq!(read(lend(fd), &mut [0]), failed(libc::EINVAL));
        close(fd);
    }

    #[test]
    fn with_a_full_table_the_number_is_kept_and_the_peer_sees_the_end() {
        let (ours, theirs) = stream_pair();
        let fd = ours.as_raw_fd();
        let status = in_child(|| {
            let full = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: `full` is readable.
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &full) };
            // SAFETY: this process has its own copy of the descriptor.
            unsafe { close_keeping_number(fd) };
            is_open(fd) && read(lend(theirs.as_raw_fd()), &mut [0]) == Done(0)
        });
        assert_eq!(status, 0);
    }

    #[test]
    fn an_interrupted_call_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        crate::linux::tests::handle_signal(libc::SIGALRM);
        let status = in_child(|| {
            let millisecond = libc::timeval {
                tv_sec: 0,
                tv_usec: 1000,
            };
            // Repeated, since a single alarm might come before the accept.
            let alarms = libc::itimerval {
                it_interval: millisecond,
                it_value: millisecond,
            };
            // SAFETY: `alarms` is readable.
            unsafe { libc::setitimer(libc::ITIMER_REAL, &alarms, ptr::null_mut()) };
            matches!(accept4(lend(listener.as_raw_fd())), Interrupted)
        });
        assert_eq!(status, 0);
    }
}
