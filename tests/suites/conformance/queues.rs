//! Sockets with an error queue: the poller reports an error as long as the queue has an entry, but
//! no read or write of data fails with it. Readers and writers of data must go on without spinning.

use super::{MILLISECOND, POLLER, SECOND, now};
use gopark_backends::linux::{Linux, io};
use gopark_core::fd::{Fd, FdError};
use gopark_core::os::{Borrowed, Errno, Mode, Nanos, Outcome};
use gopark_core::sched::{Config, Sched};
use gopark_tests::watch::{Watch, nonblocking};
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::panic::Location;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

static LINUX: Linux = Linux::new();

fn sched() -> &'static Sched {
    static SCHED: OnceLock<&Sched> = OnceLock::new();
    SCHED.get_or_init(|| {
        // SAFETY: the configuration does not migrate goroutines.
        unsafe {
            Sched::start(
                &LINUX,
                Config {
                    max_threads: 8,
                    ..Config::new(2)
                },
                || POLLER.init(),
            )
        }
        .unwrap()
    })
}

fn own(socket: impl IntoRawFd) -> Fd {
    // SAFETY: ownership is passed on here, and callers make the socket non-blocking.
    unsafe { Fd::new(sched(), socket.into_raw_fd()) }
}

fn set(socket: &impl AsRawFd, level: i32, name: i32, value: i32) {
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: `value` is readable for `len` bytes.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            len,
        )
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

fn udp_pair() -> (UdpSocket, UdpSocket) {
    let [ours, theirs] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    ours.connect(theirs.local_addr().unwrap()).unwrap();
    theirs.connect(ours.local_addr().unwrap()).unwrap();
    (nonblocking(ours), theirs)
}

/// Makes the kernel add an entry to the error queue when a packet is sent.
fn stamp_sent(socket: &impl AsRawFd) {
    let stamps = libc::SOF_TIMESTAMPING_TX_SOFTWARE
        | libc::SOF_TIMESTAMPING_SOFTWARE
        | libc::SOF_TIMESTAMPING_OPT_TSONLY;
    set(
        socket,
        libc::SOL_SOCKET,
        libc::SO_TIMESTAMPING,
        stamps as i32,
    );
}

/// Takes one entry of the error queue.
fn take_entry(fd: Borrowed<'_>) -> Outcome<()> {
    let mut control = [0u64; 64];
    // SAFETY: all zeroes is a message without address and data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the control bytes are writable for their length.
    match unsafe {
        libc::recvmsg(
            fd.raw(),
            &mut message,
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
        )
    } {
        0.. => Outcome::Done(()),
        _ => match std::io::Error::last_os_error().raw_os_error().unwrap() {
            libc::EAGAIN => Outcome::WouldBlock,
            errno => Outcome::Failed(Errno::new(errno)),
        },
    }
}

/// How long a reader waits for nothing, and how often it may be woken: a level-triggered poller
/// without another way wakes it a hundred times a second.
const LONG: Duration = Duration::from_millis(300);
const TRIES_MAX: usize = 30 * 3 + 20;

/// Reads once from `fd` in a goroutine, which has to wait for `send`. Returns how many bytes came,
/// and how often it tried.
fn read_late(fd: Fd, send: impl FnOnce()) -> Result<(usize, usize), FdError> {
    let polls = sched().metrics(&LINUX).polls;
    let reader = sched().go(
        move || {
            let mut tries = 0;
            let read = fd.operate(Mode::Read, |lent| {
                tries += 1;
                io::recv(lent, &mut [0; 64])
            });
            read.map(|bytes| (bytes, tries))
        },
        Location::caller(),
    );
    thread::sleep(LONG);
    let polled = sched().metrics(&LINUX).polls - polls;
    assert!(polled <= 1000, "{polled} polls while nothing came");
    send();
    reader.unwrap().join()
}

fn check(read: Result<(usize, usize), FdError>) {
    let (bytes, tries) = read.expect("data came");
    assert_eq!(bytes, 4);
    assert!(tries <= TRIES_MAX, "it was woken {tries} times for nothing");
}

#[test]
fn data_is_read_beside_timestamps_that_are_never_fetched() {
    let (ours, theirs) = udp_pair();
    stamp_sent(&ours);
    ours.send(b"stamped").unwrap();
    theirs.recv(&mut [0; 16]).unwrap();
    check(read_late(own(ours), || {
        assert_eq!(theirs.send(b"data").unwrap(), 4)
    }));
}

#[test]
fn an_error_that_a_peer_has_sent_is_reported_once_and_data_comes_after_it() {
    let (ours, theirs) = udp_pair();
    set(&ours, libc::IPPROTO_IP, libc::IP_RECVERR, 1);
    let (address, peer) = (theirs.local_addr().unwrap(), ours.local_addr().unwrap());
    drop(theirs);
    ours.send(b"no receiver").unwrap();
    let ours = own(ours);
    let refused = ours.operate(Mode::Read, |lent| io::recv(lent, &mut [0; 64]));
    assert_eq!(refused, Err(FdError::Os(Errno::new(libc::ECONNREFUSED))));
    let theirs = UdpSocket::bind(address).unwrap();
    check(read_late(ours, || {
        assert_eq!(theirs.send_to(b"data", peer).unwrap(), 4)
    }));
}

#[test]
fn a_stream_is_read_while_its_zero_copy_sends_are_not_acknowledged_to_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut theirs, _) = listener.accept().unwrap();
    set(&ours, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1);
    let bytes = vec![7u8; 1 << 16];
    // SAFETY: `bytes` is readable, and not changed.
    let sent = unsafe {
        libc::send(
            ours.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_ZEROCOPY,
        )
    };
    assert!(sent > 0);
    std::io::Read::read_exact(&mut theirs, &mut vec![0; sent as usize]).unwrap();
    ours.set_nonblocking(true).unwrap();
    check(read_late(own(ours), || theirs.write_all(b"data").unwrap()));
}

/// No data comes. The entry arrives while its reader waits.
#[test]
fn an_entry_of_the_error_queue_wakes_a_waiter_for_it() {
    let (ours, _theirs) = udp_pair();
    stamp_sent(&ours);
    let sender = ours.try_clone().unwrap();
    let ours = own(ours);
    for _ in 0..3 {
        let sender = sender.try_clone().unwrap();
        let late = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            sender.send(b"stamped").unwrap();
        });
        let mut tries = 0;
        let entry = ours.operate(Mode::Read, |lent| {
            tries += 1;
            take_entry(lent)
        });
        assert_eq!(entry, Ok(()));
        assert!(tries <= 10, "{tries} tries");
        late.join().unwrap();
    }
}

#[test]
fn a_poller_with_an_unfetched_error_lets_its_thread_sleep() {
    let (ours, theirs) = udp_pair();
    stamp_sent(&ours);
    ours.send(b"stamped").unwrap();
    theirs.recv(&mut [0; 16]).unwrap();
    let watch = Watch::of(POLLER, &ours);
    let waits = |limit: Nanos| {
        let (end, mut polls) = (now() + limit, 0);
        while now() < end {
            watch
                .poller
                .arm(ours.as_raw_fd(), gopark_tests::watch::token(1), Mode::Read);
            watch.poll(gopark_core::os::Delay::AtMost((end - now()).max(1)));
            polls += 1;
        }
        polls
    };
    let polls = waits(200 * MILLISECOND);
    assert!(polls <= 2 * 20 + 10, "{polls} polls in 200 ms");
    theirs.send(b"data").unwrap();
    let start = now();
    assert_eq!(watch.read(&ours, 1, &mut [0; 16]), Ok(4));
    assert!(now() - start < SECOND);
    // When the entry is fetched, the level is gone.
    assert_eq!(
        take_entry(gopark_tests::watch::lend(&ours)),
        Outcome::Done(())
    );
    assert!(waits(100 * MILLISECOND) <= 15);
    theirs.send(b"more").unwrap();
    assert_eq!(watch.read(&ours, 1, &mut [0; 16]), Ok(4));
}
