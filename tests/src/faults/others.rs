//! The subject's round in the arrangement `others`: datagrams, Unix sockets, files, copies, a child
//! and a dialler. Each part checks what it moved, and fails with the first error.

use super::subject::{LIMIT, Troubles, note};
use gopark::fs::{self, File};
use gopark::io::copy;
use gopark::net::{
    ControlBuffer, ControlMessage, DatagramBatch, Dialer, TcpListener, UdpSocket, UnixDatagram,
    UnixListener, UnixSeqpacket, UnixStream,
};
use gopark::process::Command;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::{env, process};

/// Calls that only this round makes, and the calls of sockets of other kinds. None of them is made
/// by the child, which strace follows as well. `connect` is not among them: most of its faults are
/// answers that a Unix socket never gives.
pub(super) const CALLS: &[&str] = &[
    "accept4",
    "bind",
    "copy_file_range",
    "getsockname",
    "listen",
    "pidfd_open",
    "preadv2",
    "recvfrom",
    "recvmmsg",
    "recvmsg",
    "sendfile",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    "socket",
    "socketpair",
    "splice",
    "waitid",
];

/// Copies keep their pipes for the next ones. At most three use a pipe at a time.
pub(super) const SPARE_PIPES: usize = 3;

/// Bytes of a file that is copied.
const FILE: usize = 100_000;

/// Runs each part once.
pub(super) fn round() -> Troubles {
    let mut troubles = Troubles::new();
    type Part = fn() -> io::Result<()>;
    let parts: [(&'static str, Part); 6] = [
        ("udp", udp),
        ("unix", unix),
        ("descriptors", descriptors),
        ("files", files),
        ("child", child),
        ("dialler", dialler),
    ];
    for (what, part) in parts {
        note(&mut troubles, what, part());
    }
    troubles
}

fn same(left: &[u8], right: &[u8]) -> io::Result<()> {
    if left == right {
        Ok(())
    } else {
        Err(io::Error::other("other bytes than were sent"))
    }
}

fn udp() -> io::Result<()> {
    let near = UdpSocket::bind("127.0.0.1:0")?;
    let far = UdpSocket::bind("127.0.0.1:0")?;
    for socket in [&near, &far] {
        socket.set_read_timeout(Some(LIMIT))?;
    }
    let addr = far.local_addr()?;
    let mut buffer = [0; 64];
    near.send_to(b"to", addr)?;
    let (len, sender) = far.recv_from(&mut buffer)?;
    same(&buffer[..len], b"to")?;
    far.connect(sender)?;
    far.send(b"back")?;
    let len = near.recv(&mut buffer)?;
    same(&buffer[..len], b"back")?;

    let ttl = [ControlMessage::Ttl(9)];
    near.send_msg(&[IoSlice::new(b"message")], Some(addr), &ttl)?;
    let mut control = ControlBuffer::with_capacity(64);
    let message = far.recv_msg(&mut [IoSliceMut::new(&mut buffer)], &mut control)?;
    same(&buffer[..message.len], b"message")?;

    let mut batch = DatagramBatch::new(4, 64);
    for text in ["one", "two", "three"] {
        assert!(batch.push(text.as_bytes(), addr), "there is room");
    }
    let sent = near.send_batch(&mut batch)?;
    let mut received = 0;
    while received < sent {
        received += far.recv_batch(&mut batch)?;
    }
    near.close()
}

/// A path at which there is no file. Each process has one of each name.
fn path(name: &str) -> PathBuf {
    env::temp_dir().join(format!("gopark-faults-{}-{name}", process::id()))
}

fn unix() -> io::Result<()> {
    let path = path("socket");
    let listener = UnixListener::bind(&path)?;
    let mut near = UnixStream::connect(&path)?;
    let (mut far, _) = listener.accept()?;
    near.write_all(b"stream")?;
    let mut buffer = [0; 6];
    far.read_exact(&mut buffer)?;
    same(&buffer, b"stream")?;
    listener.close()?;

    let (near, far) = UnixDatagram::pair()?;
    near.send(b"datagram")?;
    let mut buffer = [0; 16];
    let (len, _) = far.recv_from(&mut buffer)?;
    same(&buffer[..len], b"datagram")?;
    let (near, far) = UnixSeqpacket::pair()?;
    near.send(b"message")?;
    let len = far.recv(&mut buffer)?;
    same(&buffer[..len], b"message")
}

/// Descriptors cross in a message. If it fails, none of them may stay open.
fn descriptors() -> io::Result<()> {
    let (near, far) = UnixStream::pair()?;
    let fds = [near.as_fd(), far.as_fd()];
    near.send_msg(&[IoSlice::new(b"x")], &[ControlMessage::Fds(&fds)])?;
    let mut control = ControlBuffer::for_fds(fds.len());
    far.recv_msg(&mut [IoSliceMut::new(&mut [0])], &mut control)?;
    same(&[control.take_fds().len() as u8], &[2])
}

fn files() -> io::Result<()> {
    let [from, to] = [path("from"), path("to")];
    let result = copies(&from, &to);
    for path in [from, to] {
        // It may not be there.
        let _ = fs::remove_file(path);
    }
    result
}

fn copies(from: &PathBuf, to: &PathBuf) -> io::Result<()> {
    let data = vec![7; FILE];
    fs::write(from, &data)?;
    let mut start = [0; 16];
    File::open(from)?.read_exact(&mut start)?;
    same(&start, &data[..16])?;
    copy(&File::open(from)?, &File::create(to)?)?;
    same(&fs::read(to)?, &data)?;

    // To a socket, from it to another, and from there to a file.
    let ((one, two), (three, four)) = (UnixStream::pair()?, UnixStream::pair()?);
    let (from, to) = (from.clone(), to.clone());
    let results = gopark::scope(|scope| {
        let send = scope.go(move || copy(&File::open(from)?, &one).map_err(io::Error::from));
        let relay = scope.go(move || copy(&two, &three).map_err(io::Error::from));
        let receive = {
            let to = to.clone();
            scope.go(move || copy(&four, &File::create(to)?).map_err(io::Error::from))
        };
        // An error of one ends the others, whose ends of connections are dropped.
        [send, relay, receive].map(|part| part.join().expect("it does not panic"))
    });
    // The others fail because the one with the fault has dropped its connection.
    let mut errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    errors.sort_by_key(|error| error.kind() == ErrorKind::BrokenPipe);
    if let Some(error) = errors.into_iter().next() {
        return Err(error);
    }
    same(&fs::read(to)?, &data)
}

fn child() -> io::Result<()> {
    let mut child = Command::new("true").spawn()?;
    let status = child.wait_timeout(LIMIT);
    // After a failed wait, the child is still there.
    let ended = status.or_else(|error| child.wait().and(Err(error)));
    match ended?.success() {
        true => Ok(()),
        false => Err(io::Error::other("the child has failed")),
    }
}

fn dialler() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let dialler = Dialer::new().timeout(LIMIT);
    let mut near = dialler.dial(listener.local_addr()?)?;
    listener.set_deadline(Some(std::time::Instant::now() + LIMIT))?;
    let (mut far, _) = listener.accept()?;
    near.write_all(b"x")?;
    far.read_exact(&mut [0])
}
