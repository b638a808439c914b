//! Options, broadcast and multicast.

use super::{addr, everywhere, pair, raw_error, socket};
use gopark::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpState, TcpStream, UdpSocket};
use gopark_tests::sockets::listener;
use socket2::SockRef;
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

#[test]
fn a_broadcast_needs_permission() {
    everywhere(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let broadcast = SocketAddr::from(([127, 255, 255, 255], addr(&socket).port()));
        assert_eq!(
            raw_error(socket.send_to(b"all", broadcast)),
            Some(libc::EACCES)
        );
        socket.set_broadcast(true).unwrap();
        socket.send_to(b"all", broadcast).unwrap();
        assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 3);
    });
}

/// Whether the system refuses multicast on the loopback, which its routes may not have.
fn is_refused<T>(result: &std::io::Result<T>) -> bool {
    let refused = result
        .as_ref()
        .is_err_and(|error| matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENETUNREACH)));
    if refused {
        eprintln!("skipped: this system has no route for multicast");
    }
    refused
}

#[test]
fn members_of_a_group_get_its_datagrams_until_they_leave() {
    everywhere(|| {
        let group = Ipv4Addr::new(239, 67, 71, 1);
        let members = [(); 2].map(|()| UdpSocket::bind("0.0.0.0:0").unwrap());
        for member in &members {
            // Off, it gets no datagrams of groups that other sockets have joined.
            SockRef::from(member).set_multicast_all_v4(false).unwrap();
            let joined = member.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST);
            if is_refused(&joined) {
                return;
            }
            joined.unwrap();
            let again = member.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST);
            assert_eq!(again.unwrap_err().kind(), ErrorKind::AddrInUse);
        }
        // The interface of the sender's address is the one that datagrams leave by.
        let sender = socket();
        assert!(sender.multicast_loop_v4().unwrap());
        for member in &members {
            let sent = sender.send_to(b"members", (group, addr(member).port()));
            if is_refused(&sent) {
                return;
            }
            sent.unwrap();
            let received = member.recv_from(&mut [0; 8]).unwrap();
            assert_eq!(received, (7, addr(&sender)));
        }
        let [member, _] = members;
        member
            .leave_multicast_v4(&group, &Ipv4Addr::LOCALHOST)
            .unwrap();
        let left = member.leave_multicast_v4(&group, &Ipv4Addr::LOCALHOST);
        assert_eq!(left.unwrap_err().kind(), ErrorKind::AddrNotAvailable);
        let to = SocketAddr::from((group, addr(&member).port()));
        sender.send_to(b"nothing", to).unwrap();
        let direct = SocketAddr::from(([127, 0, 0, 1], to.port()));
        sender.send_to(b"x", direct).unwrap();
        assert_eq!(member.recv(&mut [0; 8]).unwrap(), 1);
    });
}

#[test]
fn members_of_a_group_of_ipv6_get_its_datagrams() {
    everywhere(|| {
        const LOOPBACK: u32 = 1;
        let group: Ipv6Addr = "ff01::4751".parse().unwrap();
        let member = UdpSocket::bind("[::]:0").unwrap();
        let joined = member.join_multicast_v6(&group, LOOPBACK);
        if is_refused(&joined) {
            return;
        }
        joined.unwrap();
        let sender = UdpSocket::bind("[::1]:0").unwrap();
        let to = std::net::SocketAddrV6::new(group, addr(&member).port(), 0, LOOPBACK);
        let sent = sender.send_to(b"members", to);
        if is_refused(&sent) {
            return;
        }
        sent.unwrap();
        assert_eq!(member.recv(&mut [0; 8]).unwrap(), 7);
        member.leave_multicast_v6(&group, LOOPBACK).unwrap();
        let left = member.leave_multicast_v6(&group, LOOPBACK);
        assert_eq!(left.unwrap_err().kind(), ErrorKind::AddrNotAvailable);
    });
}

/// The options that all sockets have.
macro_rules! assert_options {
    ($socket:expr) => {
        let socket = &$socket;
        for (set, get) in [
            (
                socket.set_recv_buffer_size(20_000),
                socket.recv_buffer_size(),
            ),
            (
                socket.set_send_buffer_size(20_000),
                socket.send_buffer_size(),
            ),
        ] {
            set.unwrap();
            assert!(get.unwrap() > 0);
        }
        // The kernel doubles them.
        assert_eq!(socket.recv_buffer_size().unwrap(), 40_000);
        assert_eq!(socket.send_buffer_size().unwrap(), 40_000);
        socket.set_tos(0x48).unwrap();
        assert_eq!(socket.tos().unwrap(), 0x48);
        assert_eq!(socket.device().unwrap(), None);
        let missing = socket.bind_device(Some(b"no-such-device")).unwrap_err();
        assert!(matches!(
            missing.raw_os_error(),
            Some(libc::ENODEV | libc::EPERM)
        ));
        assert_eq!(socket.mark().unwrap(), 0);
        match socket.set_mark(5) {
            Ok(()) => assert_eq!(socket.mark().unwrap(), 5),
            Err(error) => assert_eq!(error.kind(), ErrorKind::PermissionDenied),
        }
        assert!(!socket.reuse_port().unwrap());
    };
}

#[test]
fn the_options_of_all_sockets_are_read_as_they_were_set() {
    everywhere(|| {
        for ip in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(ip).unwrap();
            assert_options!(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            assert_options!(listener);
            assert!(listener.reuse_address().unwrap());
            assert_options!(UdpSocket::bind(ip).unwrap());
        }
        // The kernel sets it for an address that is IPv6 only.
        for (ip, only_v6) in [("[::]:0", false), ("[::1]:0", true)] {
            assert_eq!(UdpSocket::bind(ip).unwrap().only_v6().unwrap(), only_v6);
        }
        assert!(pair().0.only_v6().is_err());
    });
}

#[test]
fn the_options_of_connections_are_read_as_they_were_set() {
    everywhere(|| {
        let listener = listener();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(near.keepalive().unwrap(), seconds(15));
        near.set_keepalive(Some(Duration::from_millis(1001)))
            .unwrap();
        assert_eq!(near.keepalive().unwrap(), seconds(2));
        near.set_keepalive(None).unwrap();
        assert_eq!(near.keepalive().unwrap(), None);
        for wrong in [0, 1 << 40] {
            let error = near.set_keepalive(seconds(wrong)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{wrong}");
        }
        near.set_user_timeout(seconds(3)).unwrap();
        assert_eq!(near.user_timeout().unwrap(), seconds(3));
        near.set_cork(true).unwrap();
        assert!(near.cork().unwrap());
        near.set_quickack(false).unwrap();
        assert!(!near.quickack().unwrap());
        assert!(near.mss().unwrap() >= 500);
        let name = near.congestion().unwrap();
        near.set_congestion(&name).unwrap();
        let missing = near.set_congestion("no-such-name").unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);

        // The peer reads what the cork held back.
        near.write_all(b"hello").unwrap();
        near.set_cork(false).unwrap();
        far.read_exact(&mut [0; 5]).unwrap();
        let info = near.info().unwrap();
        assert_eq!(info.state, TcpState::Established);
        assert!(info.congestion_window > 0 && info.send_mss > 0 && info.rto > info.rtt);
        drop(far);
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
        assert_eq!(near.info().unwrap().state, TcpState::CloseWait);
    });
}
