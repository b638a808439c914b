//! Unix sockets: streams, datagrams, messages, their names and their files.
#![allow(unsafe_code, reason = "a descriptor is taken over by number")]

use super::cancel::{everywhere, is_cancelled, member};
use super::sync::until_waits;
use gopark::net::{
    ControlBuffer, ControlMessage, Shutdown, UnixAddr, UnixDatagram, UnixListener, UnixSeqpacket,
    UnixSeqpacketListener, UnixStream,
};
use gopark::sync::Cancel;
use gopark::{go, select};
use gopark_core::watch::{Descriptor, Wait};
use gopark_tests::join;
use gopark_tests::sockets::{assert_closing, assert_timeout, pattern};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use std::{env, fs, process};

const SHORT: Duration = Duration::from_millis(20);

fn reading() -> Wait {
    Wait::Read(Descriptor {
        fd: 0,
        deadline: None,
    })
}

fn writing() -> Wait {
    Wait::Write(Descriptor {
        fd: 0,
        deadline: None,
    })
}

/// A path at which there is no file.
fn fresh_path() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, SeqCst);
    env::temp_dir().join(format!("gopark-test-{}-{number}", process::id()))
}

/// An address at which the kernel chooses the name.
fn unnamed() -> UnixAddr {
    UnixAddr::from_pathname("").unwrap()
}

fn listener() -> UnixListener {
    UnixListener::bind_addr(&unnamed()).unwrap()
}

#[test]
fn a_stream_carries_every_byte_in_order_in_both_directions() {
    everywhere(|| {
        let listener = listener();
        let addr = listener.local_addr().unwrap();
        let mut near = UnixStream::connect_addr(&addr).unwrap();
        let (mut far, peer) = listener.accept().unwrap();
        assert!(peer.is_unnamed());
        let echo = go(move || {
            let copied = io::copy(&mut far.try_clone()?, &mut far)?;
            far.shutdown(Shutdown::Both)?;
            io::Result::Ok(copied)
        });
        let data = pattern(1 << 20);
        let writer = {
            let (mut near, data) = (near.try_clone().unwrap(), data.clone());
            go(move || {
                near.write_all(&data)?;
                near.shutdown(Shutdown::Write)
            })
        };
        let mut read = Vec::new();
        near.read_to_end(&mut read).unwrap();
        assert!(read == data);
        join(writer).unwrap();
        assert_eq!(join(echo).unwrap(), data.len() as u64);
    });
}

#[test]
fn a_thousand_clients_are_served() {
    everywhere(|| {
        let listener = listener();
        let addr = listener.local_addr().unwrap();
        let acceptor = listener.try_clone().unwrap();
        let server = go(move || {
            for stream in acceptor.incoming() {
                let mut stream = stream.unwrap();
                go(move || io::copy(&mut stream.try_clone()?, &mut stream));
            }
        });
        let clients = Vec::from_iter((0..1000_u32).map(|number| {
            let addr = addr.clone();
            go(move || {
                let mut stream = UnixStream::connect_addr(&addr).unwrap();
                stream.write_all(&number.to_le_bytes()).unwrap();
                let mut reply = [0; 4];
                stream.read_exact(&mut reply).unwrap();
                assert_eq!(u32::from_le_bytes(reply), number);
            })
        }));
        clients.into_iter().for_each(join);
        listener.close().unwrap();
        join(server);
    });
}

#[test]
fn close_deadlines_and_cancels_end_every_wait() {
    everywhere(|| {
        type Operation = fn(&UnixDatagram) -> io::Result<usize>;
        let waits: [(Operation, fn() -> Wait); 4] = [
            (|socket| socket.recv(&mut [0; 8]), reading),
            (|socket| Ok(socket.recv_from(&mut [0; 8])?.0), reading),
            (|socket| socket.peek(&mut [0; 8]), reading),
            (
                |socket| loop {
                    socket.send(&[7; 1024])?;
                },
                writing,
            ),
        ];
        for (operation, wait) in waits {
            let (near, _far) = UnixDatagram::pair().unwrap();
            near.set_deadline(Some(Instant::now() + SHORT)).unwrap();
            assert_timeout(operation(&near));
            near.set_deadline(None).unwrap();

            let cancel = Cancel::new();
            let socket = near.try_clone().unwrap();
            let waiter = member(&cancel, move || is_cancelled(operation(&socket)));
            until_waits(&waiter, wait());
            cancel.cancel();
            assert!(join(waiter));

            let socket = near.try_clone().unwrap();
            let waiter = go(move || operation(&socket));
            until_waits(&waiter, wait());
            near.close().unwrap();
            assert_closing(join(waiter));
        }
        let listener = listener();
        listener.set_deadline(Some(Instant::now())).unwrap();
        assert_timeout(listener.accept().map(drop));
        listener.set_deadline(None).unwrap();
        let acceptor = listener.try_clone().unwrap();
        let waiter = go(move || acceptor.accept().map(drop));
        until_waits(&waiter, reading());
        listener.close().unwrap();
        assert_closing(join(waiter));
    });
}

#[test]
fn a_listener_removes_the_file_that_it_has_made_once() {
    everywhere(|| {
        let path = fresh_path();
        let listener = UnixListener::bind(&path).unwrap();
        let error = UnixListener::bind(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        drop(listener.try_clone().unwrap());
        assert!(path.exists(), "another handle is left");
        listener.close().unwrap();
        assert!(!path.exists());
        // A file that is put there later is another's.
        fs::write(&path, "").unwrap();
        assert_closing(listener.close());
        drop(listener);
        assert!(path.exists());
        fs::remove_file(&path).unwrap();

        let listener = UnixListener::bind(&path).unwrap();
        drop(listener);
        assert!(!path.exists());

        let seqpacket = UnixSeqpacketListener::bind(&path).unwrap();
        drop(seqpacket);
        assert!(!path.exists());
    });
}

#[test]
fn a_listener_leaves_the_file_of_its_successor() {
    everywhere(|| {
        let path = fresh_path();
        let old = UnixListener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let new = UnixListener::bind(&path).unwrap();
        drop(old);
        assert!(path.exists());
        UnixStream::connect(&path).unwrap();
        drop(new);
        assert!(!path.exists());
    });
}

#[test]
fn a_listener_made_from_a_descriptor_leaves_the_file() {
    everywhere(|| {
        let path = fresh_path();
        let owned = OwnedFd::from(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = UnixListener::from(owned);
        listener.set_unlink_on_close(true);
        let raw = listener.into_raw_fd();
        // SAFETY: `into_raw_fd` has given up the descriptor.
        let listener = unsafe { UnixListener::from_raw_fd(raw) };
        let client = UnixStream::connect(&path).unwrap();
        listener.accept().unwrap();
        drop((listener, client));
        assert!(path.exists());
        let refused = UnixStream::connect(&path).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        fs::remove_file(&path).unwrap();
        let missing = UnixStream::connect(&path).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn names_need_not_be_files() {
    everywhere(|| {
        let name = fresh_path().display().to_string();
        let addr = UnixAddr::from_abstract_name(&name).unwrap();
        let listener = UnixListener::bind_addr(&addr).unwrap();
        let stream = UnixStream::connect_addr(&addr).unwrap();
        let peer = stream.peer_addr().unwrap();
        assert_eq!(peer.as_abstract_name(), Some(name.as_bytes()));
        drop(listener);
        let refused = UnixStream::connect_addr(&addr).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

        let too_long = fresh_path().join("n".repeat(108));
        let error = UnixListener::bind(&too_long).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn the_peer_is_known() {
    everywhere(|| {
        let listener = listener();
        let near = UnixStream::connect_addr(&listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        for stream in [near, far] {
            let peer = stream.peer_cred().unwrap();
            assert_eq!(peer.pid, Some(process::id() as i32));
        }
    });
}

/// Sends until the receiver's queue is full.
fn fill(socket: &UnixDatagram, to: &UnixAddr) -> usize {
    socket.set_nonblocking(true).unwrap();
    let sent = (0..)
        .take_while(|_| socket.send_to_addr(&[7; 8], to).is_ok())
        .count();
    socket.set_nonblocking(false).unwrap();
    sent
}

#[test]
fn a_send_waits_for_a_receiver_whose_queue_is_full() {
    everywhere(|| {
        let receiver = UnixDatagram::bind("").unwrap();
        let addr = receiver.local_addr().unwrap();
        let sender = UnixDatagram::bind("").unwrap();
        let mut sent = fill(&sender, &addr);
        assert!(sent > 0);

        // No event tells a sender that is not connected that there is room.
        sender.set_write_timeout(Some(SHORT)).unwrap();
        assert_timeout(sender.send_to_addr(b"late", &addr));
        sender
            .set_write_deadline(Some(Instant::now() + SHORT))
            .unwrap();
        assert_timeout(sender.send_to_addr(b"late", &addr));
        sender.set_write_deadline(None).unwrap();
        let cancel = Cancel::new();
        let waiter = {
            let (sender, addr) = (sender.try_clone().unwrap(), addr.clone());
            member(&cancel, move || {
                is_cancelled(sender.send_to_addr(b"late", &addr))
            })
        };
        gopark::yield_now();
        cancel.cancel();
        assert!(join(waiter));

        for connected in [false, true] {
            let blocked = {
                let (sender, addr) = (sender.try_clone().unwrap(), addr.clone());
                go(move || match connected {
                    true => {
                        sender.connect_addr(&addr)?;
                        sender.send(b"in time")
                    }
                    false => sender.send_to_addr(b"in time", &addr),
                })
            };
            if connected {
                until_waits(&blocked, writing());
            }
            let (len, from) = receiver.recv_from(&mut [0; 16]).unwrap();
            assert_eq!(len, 8);
            assert!(from.as_abstract_name().is_some());
            assert_eq!(join(blocked).unwrap(), 7);
        }
        sent += 2;
        for _ in 2..sent {
            receiver.recv(&mut [0; 16]).unwrap();
        }
        receiver.set_nonblocking(true).unwrap();
        let empty = receiver.recv(&mut [0; 16]).unwrap_err();
        assert_eq!(empty.kind(), ErrorKind::WouldBlock);
    });
}

#[test]
fn datagrams_keep_their_bounds() {
    everywhere(|| {
        let (near, far) = UnixDatagram::pair().unwrap();
        near.send(b"").unwrap();
        near.send(b"longer than the buffer").unwrap();
        near.send(b"next").unwrap();
        let mut buffer = [0; 6];
        assert_eq!(far.recv(&mut buffer).unwrap(), 0);
        assert_eq!(far.peek(&mut buffer).unwrap(), 6);
        assert_eq!(far.peek_from(&mut buffer).unwrap().0, 6);
        assert_eq!(far.recv(&mut buffer).unwrap(), 6);
        assert_eq!(&buffer, b"longer");
        assert_eq!(far.recv_from(&mut buffer).unwrap().0, 4);
        assert_eq!(&buffer[..4], b"next");

        drop(far);
        let refused = near.send(b"x").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let unconnected = UnixDatagram::unbound().unwrap().send(b"x").unwrap_err();
        assert_eq!(unconnected.kind(), ErrorKind::NotConnected);
    });
}

#[test]
fn messages_keep_their_bounds_and_the_connection_ends() {
    everywhere(|| {
        let listener = UnixSeqpacketListener::bind_addr(&unnamed()).unwrap();
        let near = UnixSeqpacket::connect_addr(&listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let receiver = go(move || {
            let mut buffer = [0; 6];
            let lens = [(); 3].map(|()| far.recv(&mut buffer).unwrap());
            (lens, far)
        });
        until_waits(&receiver, reading());
        near.send(b"longer than the buffer").unwrap();
        near.send(b"next").unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        let (lens, far) = join(receiver);
        assert_eq!(lens, [6, 4, 0]);
        far.send(b"back").unwrap();
        assert_eq!(near.peek(&mut [0; 16]).unwrap(), 4);
        assert_eq!(near.recv(&mut [0; 16]).unwrap(), 4);
        drop(far);
        let broken = near.send(b"x").unwrap_err();
        assert_eq!(broken.kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_connect_waits_while_the_queue_of_the_listener_is_full() {
    everywhere(|| {
        let socket =
            socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        let path = fresh_path();
        socket
            .bind(&socket2::SockAddr::unix(&path).unwrap())
            .unwrap();
        socket.listen(0).unwrap();
        let listener = UnixListener::from(OwnedFd::from(socket));
        let first = UnixStream::connect(&path).unwrap();

        let cancel = Cancel::new();
        let connect = path.clone();
        let waiter = member(&cancel, move || is_cancelled(UnixStream::connect(connect)));
        gopark::yield_now();
        cancel.cancel();
        assert!(join(waiter), "the queue holds one connection");

        let connect = path.clone();
        let second = go(move || UnixStream::connect(connect));
        gopark::yield_now();
        drop(listener.accept().unwrap());
        let second = join(second).unwrap();
        listener.accept().unwrap();
        fs::remove_file(&path).unwrap();
        drop((first, second));
    });
}

#[test]
fn a_select_waits_for_unix_sockets() {
    everywhere(|| {
        let listener = listener();
        let (near, far) = UnixDatagram::pair().unwrap();
        let selecting = || {
            let (listener, near) = (listener.try_clone().unwrap(), near.try_clone().unwrap());
            go(move || {
                select! {
                    acceptable(listener) -> ready => ready.map(|()| "a connection"),
                    readable(near) -> ready => ready.map(|()| "a datagram"),
                }
            })
        };
        let first = selecting();
        far.send(b"x").unwrap();
        assert_eq!(join(first).unwrap(), "a datagram");
        near.recv(&mut [0; 8]).unwrap();

        let second = selecting();
        let client = UnixStream::connect_addr(&listener.local_addr().unwrap()).unwrap();
        assert_eq!(join(second).unwrap(), "a connection");
        listener.accept().unwrap();
        select! { writable(&client) -> ready => ready.unwrap() }
    });
}

#[test]
fn descriptors_cross_and_none_is_left_behind() {
    everywhere(|| {
        let (near, far) = UnixStream::pair().unwrap();
        let (given, kept) = UnixStream::pair().unwrap();
        let fds = [given.as_fd(), given.as_fd()];
        let rights = [ControlMessage::Fds(&fds)];
        let send = || near.send_msg(&[IoSlice::new(b"x")], &rights).unwrap();
        let mut buffer = [0; 8];
        let mut receive = |control: &mut ControlBuffer| {
            far.recv_msg(&mut [IoSliceMut::new(&mut buffer)], control)
                .unwrap()
        };

        let receiver = {
            let far = far.try_clone().unwrap();
            go(move || {
                let mut control = ControlBuffer::for_fds(2);
                let mut byte = [0];
                let message = far.recv_msg(&mut [IoSliceMut::new(&mut byte)], &mut control);
                assert_eq!(message.unwrap().len, 1);
                control.take_fds()
            })
        };
        until_waits(&receiver, reading());
        send();
        let fds = join(receiver);
        assert_eq!(fds.len(), 2);
        let passed = fds.into_iter().map(UnixStream::from).collect::<Vec<_>>();
        assert_eq!(passed[1].try_write(b"through").unwrap(), 7);

        // Not taken, no room, room for one: all others are closed.
        let mut control = ControlBuffer::for_fds(2);
        send();
        assert!(!receive(&mut control).control_truncated);
        send();
        assert!(receive(&mut ControlBuffer::default()).control_truncated);
        send();
        let mut small = ControlBuffer::with_capacity(20);
        assert!(receive(&mut small).control_truncated);
        assert_eq!(small.take_fds().len(), 1);
        send();
        receive(&mut control);
        drop((control, small, passed, given));
        let mut rest = Vec::new();
        let mut kept = kept;
        kept.read_to_end(&mut rest).unwrap();
        assert_eq!(
            rest, b"through",
            "the end comes when the last duplicate is closed"
        );
    });
}

#[test]
fn credentials_arrive_with_each_message() {
    everywhere(|| {
        let (near, far) = UnixDatagram::pair().unwrap();
        far.set_passcred(true).unwrap();
        near.send_msg(&[IoSlice::new(b"hello")], None, &[]).unwrap();
        let mut buffer = [0; 3];
        let mut control = ControlBuffer::with_capacity(64);
        let message = far
            .recv_msg(&mut [IoSliceMut::new(&mut buffer)], &mut control)
            .unwrap();
        assert!(message.truncated && message.len == 3 && message.addr.is_unnamed());
        let found = control.messages().collect::<Vec<_>>();
        let [ControlMessage::Credentials { pid, .. }] = found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(pid, process::id() as i32);

        // To a full receiver, with an address.
        let receiver = UnixDatagram::bind("").unwrap();
        let addr = receiver.local_addr().unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        fill(&sender, &addr);
        sender.set_write_timeout(Some(SHORT)).unwrap();
        assert_timeout(sender.send_msg(&[IoSlice::new(b"late")], Some(&addr), &[]));
    });
}
