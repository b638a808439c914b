//! Descriptors of every kind, and those that cannot be polled.

use super::{POLLER, poller};
use gopark_backends::linux::io;
use gopark_core::os::{Delay, Errno, Mode, Outcome, Ready};
use gopark_tests::watch::{Watch, lend, nonblocking, pipe, poll, terminal, token};
use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

#[test]
fn connections_and_connects_are_reported() {
    let listener = nonblocking(TcpListener::bind("127.0.0.1:0").unwrap());
    let watch = Watch::of(POLLER, &listener);
    for tag in 2..50 {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        // The connect continues in the background; its outcome is checked below.
        let _ = socket.connect(&listener.local_addr().unwrap().into());
        watch.open(&socket, tag);
        watch.wait(&socket, tag, Mode::Write);
        watch
            .operate(&listener, 1, Mode::Read, |_| accept(&listener))
            .unwrap();
        assert_eq!(io::is_connected(lend(&socket)), Ok(true));
        watch.poller.close(socket.as_raw_fd());
    }
}

fn accept(listener: &TcpListener) -> Outcome<OwnedFd> {
    match listener.accept() {
        Ok((stream, _)) => Outcome::Done(stream.into()),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Outcome::WouldBlock,
        Err(error) => Outcome::Failed(Errno::new(error.raw_os_error().unwrap())),
    }
}

#[test]
fn a_refused_connect_is_reported() {
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    let _ = socket.connect(&address.into());
    let watch = Watch::of(POLLER, &socket);
    watch.wait(&socket, 1, Mode::Write);
    assert_eq!(
        io::take_socket_error(lend(&socket)),
        Err(Errno::new(libc::ECONNREFUSED))
    );
}

#[test]
fn pipes_carry_everything() {
    let (reader, writer) = pipe();
    let watch = Watch::new(POLLER);
    watch.open(&reader, 1);
    watch.open(&writer, 2);
    let (mut sent, mut received) = (0, 0);
    let mut buffer = [0; 3000];
    while received < 3_000_000 {
        while let Outcome::Done(n) = io::write(lend(&writer), &[1; 5000]) {
            sent += n;
        }
        received += watch.read(&reader, 1, &mut buffer).unwrap();
        while let Outcome::Done(n) = io::read(lend(&reader), &mut buffer) {
            received += n;
        }
        watch.wait(&writer, 2, Mode::Write);
    }
    assert_eq!(sent, received);
    watch.poller.close(writer.as_raw_fd());
    drop(writer);
    assert_eq!(watch.read(&reader, 1, &mut buffer), Ok(0));
}

#[test]
fn datagrams_are_reported() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let ours = nonblocking(ours);
    let udp = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    udp[0].set_nonblocking(true).unwrap();
    let watch = Watch::new(POLLER);
    watch.open(&ours, 1);
    watch.open(&udp[0], 2);
    for len in [0, 1, 100] {
        theirs.send(&[7; 100][..len]).unwrap();
        assert_eq!(watch.read(&ours, 1, &mut [0; 200]), Ok(len));
        udp[1]
            .send_to(&[7; 100][..len], udp[0].local_addr().unwrap())
            .unwrap();
        assert_eq!(
            watch.operate(&udp[0], 2, Mode::Read, |fd| io::read(fd, &mut [0; 200])),
            Ok(len)
        );
    }
    while theirs.set_nonblocking(true).is_ok() && theirs.send(&[0; 100]).is_ok() {}
    watch.open(&theirs, 3);
    watch.poll(Delay::None);
    watch.forget(3, Mode::Write);
    watch.poller.arm(theirs.as_raw_fd(), token(3), Mode::Write);
    while ours.recv(&mut [0; 200]).is_ok() {}
    watch.wait_armed(3, Mode::Write);
}

#[test]
fn a_unix_listener_is_reported() {
    let path = std::env::temp_dir().join(format!(
        "gopark-conformance-{POLLER}-{}",
        std::process::id()
    ));
    let listener = nonblocking(UnixListener::bind(&path).unwrap());
    let watch = Watch::of(POLLER, &listener);
    for _ in 0..10 {
        let _theirs = UnixStream::connect(&path).unwrap();
        watch.wait(&listener, 1, Mode::Read);
        while listener.accept().is_ok() {}
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn terminals_are_reported_and_hang_up() {
    let (mut master, mut slave) = terminal();
    let watch = Watch::new(POLLER);
    watch.open(&master, 1);
    watch.open(&slave, 2);
    for _ in 0..100 {
        master.write_all(b"abc").unwrap();
        assert_eq!(watch.read(&slave, 2, &mut [0; 3]), Ok(3));
        slave.write_all(b"de").unwrap();
        assert_eq!(watch.read(&master, 1, &mut [0; 2]), Ok(2));
    }
    watch.poller.close(master.as_raw_fd());
    watch.forget(2, Mode::Read);
    watch.poller.arm(slave.as_raw_fd(), token(2), Mode::Read);
    drop(master);
    watch.wait_armed(2, Mode::Read);
    assert_eq!(watch.read(&slave, 2, &mut [0; 3]), Ok(0));
    assert!(watch.seen(2).contains(Ready::HANGUP));

    let (master, mut slave) = terminal();
    let watch = Watch::of(POLLER, &master);
    slave.write_all(b"abc").unwrap();
    assert_eq!(watch.read(&master, 1, &mut [0; 3]), Ok(3));
    watch.poller.arm(master.as_raw_fd(), token(1), Mode::Read);
    drop(slave);
    watch.wait_armed(1, Mode::Read);
    assert_eq!(
        watch.read(&master, 1, &mut [0; 3]),
        Err(Errno::new(libc::EIO))
    );
}

#[test]
fn a_file_that_is_always_ready_cannot_be_polled() {
    let poller = poller();
    for path in ["/proc/self/exe", "/proc/self", "/dev/null", "/dev/zero"] {
        let file = File::open(path).unwrap();
        assert_eq!(
            poller.open(file.as_raw_fd(), token(1)),
            Err(Errno::new(libc::EPERM)),
            "{path}"
        );
        assert!(poll(&poller, Delay::None).is_empty());
    }
}

#[test]
fn a_bad_descriptor_is_refused() {
    for fd in [-1, i32::MAX] {
        assert_eq!(poller().open(fd, token(1)), Err(Errno::new(libc::EBADF)));
    }
}
