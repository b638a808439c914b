//! Listeners with settings.

use super::cancel::everywhere;
use gopark::net::{Dialer, ListenConfig, SocketAddr, TcpListener, TcpStream};
use gopark::{PollError, poll_error};
use socket2::SockRef;
use std::io::{ErrorKind, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(5);

fn connect(listener: &TcpListener) -> TcpStream {
    TcpStream::connect(listener.local_addr().unwrap()).unwrap()
}

#[test]
fn a_backlog_limits_the_queue() {
    everywhere(|| {
        for backlog in 0..3 {
            let listener = ListenConfig::new()
                .backlog(backlog)
                .listen("127.0.0.1:0")
                .unwrap();
            let addr = listener.local_addr().unwrap();
            let _queued: Vec<_> = (0..=backlog).map(|_| connect(&listener)).collect();
            let error = Dialer::new().timeout(SHORT).dial(addr).unwrap_err();
            assert_eq!(poll_error(&error), Some(PollError::Timeout));
        }
    });
}

#[test]
fn a_wildcard_takes_both_families_unless_told_otherwise() {
    everywhere(|| {
        let both = ListenConfig::new().listen("[::]:0").unwrap();
        let port = both.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        TcpStream::connect(("::1", port)).unwrap();
        assert!(!SockRef::from(&both).only_v6().unwrap());

        let six = ListenConfig::new().only_v6(true).listen("[::]:0").unwrap();
        let port = six.local_addr().unwrap().port();
        TcpStream::connect(("::1", port)).unwrap();
        let error = TcpStream::connect(("127.0.0.1", port)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_port_is_shared_if_all_its_listeners_say_so() {
    everywhere(|| {
        let shared = ListenConfig::new().reuse_port(true);
        let first = shared.listen("127.0.0.1:0").unwrap();
        let addr = first.local_addr().unwrap();
        let _second = shared.listen(addr).unwrap();
        let error = TcpListener::bind(addr).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    });
}

#[test]
fn a_group_has_its_port_for_itself_and_shares_the_connections() {
    everywhere(|| {
        let config = ListenConfig::new();
        let group = config.listen_group("127.0.0.1:0", 3).unwrap();
        let addr = group[0].local_addr().unwrap();
        for error in [
            TcpListener::bind(addr).unwrap_err(),
            config.listen_group(addr, 2).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
        }
        // The kernel chooses by a hash. That one of three gets none of 200 has a chance of 10^-35.
        let clients = [(); 200].map(|()| connect(&group[0]));
        let mut accepted = [0; 3];
        while accepted.iter().sum::<usize>() < clients.len() {
            for (listener, accepted) in group.iter().zip(&mut accepted) {
                listener.set_deadline(Some(Instant::now() + SHORT)).unwrap();
                while listener.accept().is_ok() {
                    *accepted += 1;
                }
            }
        }
        assert!(!accepted.contains(&0), "{accepted:?}");
        drop(group);
        TcpListener::bind(addr).unwrap();
    });
}

#[test]
fn a_deferred_connection_is_accepted_when_it_has_data() {
    everywhere(|| {
        let config = ListenConfig::new().defer_accept(Duration::from_secs(60));
        let listener = config.listen("127.0.0.1:0").unwrap();
        let mut client = connect(&listener);
        listener.set_deadline(Some(Instant::now() + SHORT)).unwrap();
        let error = listener.accept().unwrap_err();
        assert_eq!(poll_error(&error), Some(PollError::Timeout));
        listener.set_deadline(None).unwrap();
        client.write_all(b"x").unwrap();
        assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
    });
}

#[test]
fn connections_inherit_options_and_the_hook_sees_the_socket_first() {
    everywhere(|| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let theirs = seen.clone();
        let config = ListenConfig::new()
            .mptcp(true)
            .keep_alive(None)
            .control(move |fd, addr| {
                let local = SockRef::from(&fd).local_addr()?.as_socket().unwrap();
                theirs.lock().unwrap().push((local.port(), addr));
                Ok(())
            });
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listener = config.listen(any).unwrap();
        assert_eq!(*seen.lock().unwrap(), [(0, any)]);
        let _client = connect(&listener);
        let (accepted, _) = listener.accept().unwrap();
        assert!(!SockRef::from(&accepted).keepalive().unwrap());

        let refused = ListenConfig::new().control(|_, _| Err(ErrorKind::PermissionDenied.into()));
        let error = refused.listen(any).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    });
}
