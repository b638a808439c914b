//! Messages and batches: what comes beside the data of datagrams, and many of them at once.

use super::{addr, everywhere, pair, socket};
use gopark::net::{
    ControlBuffer, ControlMessage, DatagramBatch, IpAddr, Ipv4Addr, Ipv6Addr, Message, SocketAddr,
    UdpSocket,
};
use gopark::{go, yield_now};
use gopark_tests::join;
use gopark_tests::sockets::{assert_closing, pattern};
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

/// The index of the loopback interface on Linux.
const LOOPBACK: u32 = 1;

fn receive(socket: &UdpSocket, control: &mut ControlBuffer) -> Message<SocketAddr> {
    let mut buffer = [0; 64];
    socket
        .recv_msg(&mut [IoSliceMut::new(&mut buffer)], control)
        .unwrap()
}

/// The control message that `far` reports for a datagram with the control messages `sent`.
#[track_caller]
fn assert_reports(
    [near, far]: &[UdpSocket; 2],
    sent: &[ControlMessage<'_>],
    expected: &[ControlMessage<'_>],
) {
    let target = SocketAddr::new(
        match far.local_addr().unwrap().ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        },
        addr(far).port(),
    );
    let len = near.send_msg(&[IoSlice::new(b"hello")], Some(target), sent);
    assert_eq!(len.unwrap(), 5);
    let mut control = ControlBuffer::with_capacity(256);
    let message = receive(far, &mut control);
    assert_eq!((message.len, message.control_truncated), (5, false));
    let reported: Vec<_> = control.messages().collect();
    assert_eq!(reported, expected);
}

fn sockets(ip: &str) -> [UdpSocket; 2] {
    [ip; 2].map(|ip| UdpSocket::bind(ip).unwrap())
}

#[test]
fn a_message_is_gathered_and_scattered() {
    everywhere(|| {
        let (near, far) = pair();
        let bufs = [b"abc".as_slice(), b"", b"defgh"].map(IoSlice::new);
        assert_eq!(near.send_msg(&bufs, None, &[]).unwrap(), 8);
        let (mut one, mut two) = ([0; 2], [0; 16]);
        let mut control = ControlBuffer::default();
        let mut bufs = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
        let message = far.recv_msg(&mut bufs, &mut control).unwrap();
        assert_eq!((message.len, message.addr), (8, addr(&near)));
        assert!(!message.truncated && !message.control_truncated);
        assert_eq!((&one, &two[..6]), (b"ab", b"cdefgh".as_slice()));
    });
}

#[test]
fn a_message_tells_that_its_data_or_its_control_messages_did_not_fit() {
    everywhere(|| {
        let (near, far) = pair();
        far.set_recv_packet_info(true).unwrap();
        let mut control = ControlBuffer::with_capacity(8);
        near.send(&[7; 100]).unwrap();
        let message = receive(&far, &mut control);
        assert_eq!((message.len, message.truncated), (64, true));
        assert!(message.control_truncated);
        assert_eq!(control.messages().count(), 0);
        near.send(&[]).unwrap();
        let message = receive(&far, &mut ControlBuffer::with_capacity(64));
        assert_eq!((message.len, message.truncated), (0, false));
        assert!(!message.control_truncated);
    });
}

#[test]
fn a_close_and_a_datagram_each_end_the_wait_for_a_message() {
    everywhere(|| {
        let (near, far) = pair();
        for last in [false, true] {
            let receiver = {
                let far = far.try_clone().unwrap();
                go(move || far.recv_msg(&mut [], &mut ControlBuffer::default()))
            };
            yield_now();
            match last {
                false => {
                    near.send(b"x").unwrap();
                    let message = join(receiver).unwrap();
                    assert_eq!((message.len, message.truncated), (0, true));
                }
                true => {
                    far.close().unwrap();
                    assert_closing(join(receiver));
                }
            }
        }
        assert_closing(far.send_msg(&[], None, &[]));
    });
}

#[test]
fn the_destination_of_a_datagram_is_reported_and_can_be_its_source() {
    everywhere(|| {
        for (any, ip) in [
            ("0.0.0.0:0", IpAddr::from(Ipv4Addr::LOCALHOST)),
            ("[::]:0", Ipv6Addr::LOCALHOST.into()),
        ] {
            let pair = sockets(any);
            pair[1].set_recv_packet_info(true).unwrap();
            let info = ControlMessage::PacketInfo {
                addr: ip,
                interface: LOOPBACK,
            };
            assert_reports(&pair, &[], &[info]);
            assert_reports(&pair, &[info], &[info]);
        }
        // Any address of 127.0.0.0/8 is one of the loopback.
        let [near, far] = sockets("0.0.0.0:0");
        let source = ControlMessage::PacketInfo {
            addr: [127, 0, 0, 7].into(),
            interface: 0,
        };
        let target = SocketAddr::from(([127, 0, 0, 1], addr(&far).port()));
        near.send_msg(&[], Some(target), &[source]).unwrap();
        let (_, sender) = far.recv_from(&mut []).unwrap();
        assert_eq!(sender.ip(), IpAddr::from([127, 0, 0, 7]));
    });
}

#[test]
fn ttl_and_type_of_service_of_a_datagram_are_set_and_reported() {
    everywhere(|| {
        for ip in ["127.0.0.1:0", "[::1]:0"] {
            let pair = sockets(ip);
            let ttl = ControlMessage::Ttl(9);
            let tos = ControlMessage::Tos(0x2a);
            pair[1].set_recv_ttl(true).unwrap();
            assert_reports(&pair, &[ttl], &[ttl]);
            pair[1].set_recv_ttl(false).unwrap();
            pair[1].set_recv_tos(true).unwrap();
            assert_reports(&pair, &[ttl, tos], &[tos]);
            pair[0].set_tos(0x40).unwrap();
            assert_reports(&pair, &[], &[ControlMessage::Tos(0x40)]);
            pair[1].set_recv_tos(false).unwrap();
            assert_reports(&pair, &[tos], &[]);
        }
    });
}

#[test]
fn the_time_of_arrival_is_reported() {
    everywhere(|| {
        let (near, far) = pair();
        far.set_recv_timestamp(true).unwrap();
        near.send(b"x").unwrap();
        let mut control = ControlBuffer::with_capacity(64);
        receive(&far, &mut control);
        let Some(ControlMessage::Timestamp(time)) = control.messages().next() else {
            panic!("{control:?}")
        };
        let age = SystemTime::now().duration_since(time).unwrap_or_default();
        assert!(age < Duration::from_secs(600), "{age:?}");
    });
}

#[test]
fn datagrams_that_the_kernel_drops_are_counted() {
    everywhere(|| {
        let (near, far) = pair();
        far.set_recv_dropped(true).unwrap();
        far.set_recv_buffer_size(4096).unwrap();
        let mut control = ControlBuffer::with_capacity(64);
        let sent: usize = 100;
        (0..sent).for_each(|_| _ = near.send(&[0; 1000]).unwrap());
        let mut received = 0;
        while far.try_recv(&mut [0]).is_ok() {
            received += 1;
        }
        assert!((1..sent).contains(&received), "{received}");
        // The next datagram brings the count.
        near.send(b"x").unwrap();
        receive(&far, &mut control);
        let dropped = ControlMessage::Dropped((sent - received) as u32);
        assert!(control.messages().eq([dropped]), "{control:?}");
    });
}

#[test]
fn control_messages_that_would_name_descriptors_as_bytes_are_refused() {
    everywhere(|| {
        let (near, far) = pair();
        let rights = ControlMessage::Other {
            level: libc::SOL_SOCKET,
            kind: libc::SCM_RIGHTS,
            data: &[0; 4],
        };
        let error = near.send_msg(&[], None, &[rights]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        // The kernel ignores those that UDP does not have.
        let fds = [far.as_fd()];
        let fds = ControlMessage::Fds(&fds);
        assert_eq!(near.send_msg(&[], None, &[fds]).unwrap(), 0);
        let unknown = ControlMessage::Other {
            level: 250,
            kind: 1,
            data: b"ignored",
        };
        assert_eq!(near.send_msg(&[], None, &[unknown]).unwrap(), 0);
        let many = vec![IoSlice::new(b"x"); 1025];
        let error = near.send_msg(&many, None, &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn segments_arrive_as_datagrams_or_joined() {
    everywhere(|| {
        let (near, far) = pair();
        let data = pattern(2500);
        for addr in [None, Some(addr(&far))] {
            assert_eq!(near.send_segments(&data, 1000, addr).unwrap(), 2500);
            let mut buffer = [0; 4000];
            for part in data.chunks(1000) {
                let len = far.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..len], part);
            }
        }
        // More than the kernel takes in one call.
        let data = pattern(200 * 7);
        assert_eq!(near.send_segments(&data, 7, None).unwrap(), data.len());
        let mut buffer = [0; 4000];
        for part in data.chunks(7) {
            let len = far.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], part);
        }
        let error = near.send_segments(b"x", 0, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(near.send_segments(b"", 9, None).unwrap(), 0);
        assert_closing({
            near.close().unwrap();
            near.send_segments(&data, 7, None)
        });
    });
}

#[test]
fn joined_datagrams_come_with_the_length_of_their_segments() {
    everywhere(|| {
        let (near, far) = pair();
        far.set_gro(true).unwrap();
        let data = pattern(3 * 1000 + 10);
        near.send_segments(&data, 1000, None).unwrap();
        let mut all = Vec::new();
        while all.len() < data.len() {
            let mut buffer = vec![0; 65_535];
            let mut control = ControlBuffer::with_capacity(64);
            let message = far
                .recv_msg(&mut [IoSliceMut::new(&mut buffer)], &mut control)
                .unwrap();
            assert!(!message.truncated);
            if message.len > 1000 {
                assert!(control.messages().eq([ControlMessage::SegmentSize(1000)]));
            }
            all.extend_from_slice(&buffer[..message.len]);
        }
        assert_eq!(all, data);
    });
}

#[test]
fn batches_are_echoed_to_their_senders() {
    everywhere(|| {
        let server = socket();
        let clients = [(); 3].map(|()| socket());
        for (at, client) in clients.iter().enumerate() {
            for len in 0..3 {
                client.send_to(&vec![at as u8; len], addr(&server)).unwrap();
            }
        }
        let mut batch = DatagramBatch::new(4, 2);
        let mut received = 0;
        while received < 9 {
            let count = server.recv_batch(&mut batch).unwrap();
            assert!((1..=4).contains(&count) && batch.len() == count);
            assert!(batch.iter().all(|datagram| !datagram.truncated));
            received += count;
            while !batch.is_empty() {
                server.send_batch(&mut batch).unwrap();
            }
        }
        for (at, client) in clients.iter().enumerate() {
            for len in 0..3 {
                let mut buffer = [9; 2];
                assert_eq!(client.recv_from(&mut buffer).unwrap(), (len, addr(&server)));
                assert!(buffer[..len].iter().all(|&byte| byte == at as u8));
            }
        }
    });
}

#[test]
fn a_batch_waits_for_its_first_datagram_and_takes_what_has_come() {
    everywhere(|| {
        let (near, far) = pair();
        let receiver = {
            let far = far.try_clone().unwrap();
            go(move || {
                let mut batch = DatagramBatch::new(8, 4);
                far.recv_batch(&mut batch).unwrap();
                batch
            })
        };
        yield_now();
        near.send(b"longer").unwrap();
        let batch = join(receiver);
        let datagrams: Vec<_> = batch
            .iter()
            .map(|it| (it.addr, it.data, it.truncated))
            .collect();
        assert_eq!(datagrams, [(addr(&near), b"long".as_slice(), true)]);

        let receiver = {
            let far = far.try_clone().unwrap();
            go(move || far.recv_batch(&mut DatagramBatch::new(8, 4)))
        };
        yield_now();
        far.close().unwrap();
        assert_closing(join(receiver));
    });
}

#[test]
fn a_batch_keeps_the_datagram_that_failed() {
    everywhere(|| {
        let (near, far) = (socket(), socket());
        let v6: SocketAddr = "[::1]:9".parse().unwrap();
        let mut batch = DatagramBatch::new(3, 8);
        for target in [addr(&far), v6, addr(&far)] {
            assert!(batch.push(b"data", target));
        }
        assert!(!batch.push(b"data", v6));
        assert_eq!(near.send_batch(&mut batch).unwrap(), 1);
        let error = near.send_batch(&mut batch).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EAFNOSUPPORT));
        assert_eq!(batch.iter().next().unwrap().addr, v6);
        assert_eq!((batch.len(), far.recv(&mut [0; 8]).unwrap()), (2, 4));
        batch.clear();
        assert_eq!(near.send_batch(&mut batch).unwrap(), 0);
    });
}
