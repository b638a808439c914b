//! Core's `Fd` over real pipes, sockets and eventfds: what `gopark::net` builds on, and what its
//! sockets do not show.
#![allow(
    unsafe_code,
    reason = "descriptors are made by libc, and a scheduler has a contract"
)]

#[path = "descriptors/waits.rs"]
mod waits;

use gopark_backends::linux::{Linux, io};
use gopark_core::fd::{Fd, FdError};
use gopark_core::join::Join;
use gopark_core::os::{Errno, Mode, Nanos, Outcome};
use gopark_core::polldesc::{Deadline, PollError};
use gopark_core::sched::{Config, Sched};
use gopark_tests::watch::lend;
use gopark_tests::{LIMIT, poller};
use std::fs::File;
use std::os::fd::IntoRawFd;
use std::panic::{self, AssertUnwindSafe, Location};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Instant;

const MILLISECOND: Nanos = 1_000_000;
const CLOSING: FdError = FdError::Poll(PollError::Closing);
const TIMEOUT: FdError = FdError::Poll(PollError::Timeout);
const NOT_POLLABLE: FdError = FdError::Poll(PollError::NotPollable);

static LINUX: Linux = Linux::new();

fn start(config: Config) -> &'static Sched {
    // SAFETY: no configuration here migrates goroutines.
    unsafe { Sched::start(&LINUX, config, || poller().init()) }.unwrap()
}

/// The scheduler of most tests.
fn sched() -> &'static Sched {
    static SCHED: OnceLock<&Sched> = OnceLock::new();
    SCHED.get_or_init(|| {
        start(Config {
            max_threads: 8,
            ..Config::new(2)
        })
    })
}

/// A scheduler with one thread and without sysmon, so that its goroutines run in a known order.
fn undisturbed() -> &'static Sched {
    start(Config {
        max_threads: 1,
        sysmon: None,
        ..Config::new(1)
    })
}

/// Spawns `f` and catches its panics: core aborts when a panic reaches the end of a goroutine.
fn go<T: Send + 'static>(
    sched: &'static Sched,
    f: impl FnOnce() -> T + Send + 'static,
) -> Join<thread::Result<T>> {
    sched
        .go(
            || panic::catch_unwind(AssertUnwindSafe(f)),
            Location::caller(),
        )
        .unwrap()
}

fn join<T>(goroutine: Join<thread::Result<T>>) -> T {
    goroutine
        .join()
        .unwrap_or_else(|payload| panic::resume_unwind(payload))
}

/// Runs `behaviour` in a goroutine. Fails if it panics or hangs.
fn check_in(sched: &'static Sched, behaviour: impl FnOnce() + Send + 'static) {
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || done.send(go(sched, behaviour).join()));
    match outcome.recv_timeout(LIMIT) {
        Ok(Ok(())) => {}
        Ok(Err(payload)) => panic::resume_unwind(payload),
        Err(_) => panic!("hung: it did not end within {LIMIT:?}"),
    }
}

fn check(behaviour: impl FnOnce() + Send + 'static) {
    check_in(sched(), behaviour);
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT / 2, "still waiting: {what}");
        sched().sleep_until(sched().now() + MILLISECOND / 10);
    }
}

/// Takes ownership of a descriptor that was just opened.
fn own(sched: &'static Sched, raw: i32) -> Fd {
    // SAFETY: callers pass a number that they have just opened, or one that is not open.
    unsafe { Fd::new(sched, raw) }
}

fn pair(sched: &'static Sched, make: impl FnOnce(*mut i32) -> i32) -> [Arc<Fd>; 2] {
    let mut fds = [0; 2];
    assert_eq!(make(fds.as_mut_ptr()), 0);
    fds.map(|fd| Arc::new(own(sched, fd)))
}

fn pipe_in(sched: &'static Sched) -> [Arc<Fd>; 2] {
    // SAFETY: room for two descriptors.
    pair(sched, |fds| unsafe {
        libc::pipe2(fds, libc::O_CLOEXEC | libc::O_NONBLOCK)
    })
}

/// The reading and the writing end of a pipe.
fn pipe() -> [Arc<Fd>; 2] {
    pipe_in(sched())
}

fn socket_pair() -> [Arc<Fd>; 2] {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: room for two descriptors.
    pair(sched(), |fds| unsafe {
        libc::socketpair(libc::AF_UNIX, kind, 0, fds)
    })
}

fn file(path: &str) -> Fd {
    own(sched(), File::open(path).unwrap().into_raw_fd())
}

fn read(fd: &Fd, buffer: &mut [u8]) -> Result<usize, FdError> {
    fd.transfer(Mode::Read, buffer.len(), |raw| io::read(raw, buffer))
}

fn write(fd: &Fd, bytes: &[u8]) -> Result<(), FdError> {
    fd.transfer_all(bytes.len(), |raw, rest| io::write(raw, &bytes[rest]))
        .map_err(|(_, error)| error)
}

/// Reads until `fd` ends.
fn read_to_end(fd: &Fd) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match read(fd, &mut buffer).unwrap() {
            0 => return all,
            n => all.extend_from_slice(&buffer[..n]),
        }
    }
}

/// Spawns a goroutine that reads once from `fd`.
fn reader(fd: &Arc<Fd>) -> Join<thread::Result<Result<usize, FdError>>> {
    let fd = fd.clone();
    go(sched(), move || read(&fd, &mut [0; 16]))
}

/// Gives spawned goroutines time to park. The result does not depend on it, but without it the
/// tested case would be rare.
fn settle() {
    sched().sleep_until(sched().now() + 2 * MILLISECOND);
}

#[test]
fn a_file_that_is_always_ready_is_not_pollable_but_can_be_read() {
    check(|| {
        for path in ["/proc/self/exe", "/dev/null", "/dev/zero"] {
            let fd = file(path);
            assert_eq!(fd.register(), Err(NOT_POLLABLE), "{path}");
            assert_eq!(
                read(&fd, &mut [0; 4]).unwrap(),
                if path == "/dev/null" { 0 } else { 4 },
                "{path}"
            );
        }
        assert_eq!(file("/proc/self").register(), Err(NOT_POLLABLE));
    });
}

/// The writing end of a full pipe whose reader closes: epoll reports `EPOLLERR` and nothing else.
#[test]
fn after_a_bare_error_event_the_next_system_call_decides() {
    const SYSTEM: Errno = Errno::new(libc::ECONNRESET);
    for last_word in [Outcome::Failed(SYSTEM), Outcome::WouldBlock] {
        check(move || {
            let [reader, writer] = pipe();
            while io::write(lend(&writer.raw()), &[0; 4096]) != Outcome::WouldBlock {}
            let mut reader = Some(reader);
            let mut tries = 0;
            let outcome = writer.operate(Mode::Read, |_| {
                tries += 1;
                // The event arrives after the first try. It wakes the wait, and still counts when
                // the second try has to wait again.
                drop(reader.take());
                if tries < 3 {
                    Outcome::<()>::WouldBlock
                } else {
                    last_word
                }
            });
            assert_eq!(tries, 3);
            assert_eq!(
                outcome,
                Err(if last_word == Outcome::WouldBlock {
                    NOT_POLLABLE
                } else {
                    FdError::Os(SYSTEM)
                })
            );
        });
    }
}

#[test]
fn an_operation_on_a_descriptor_that_is_not_pollable_does_not_wait() {
    check(|| {
        for _ in 0..200 {
            let fd = Arc::new(file("/dev/null"));
            let waiting = [Mode::Read, Mode::Write].map(|mode| {
                let fd = fd.clone();
                go(sched(), move || {
                    fd.operate::<()>(mode, |_| Outcome::WouldBlock)
                })
            });
            for goroutine in waiting {
                assert_eq!(join(goroutine), Err(NOT_POLLABLE));
            }
        }
    });
}

#[test]
fn a_bad_descriptor_is_an_error_of_the_system() {
    check(|| {
        let fd = own(sched(), i32::MAX);
        assert_eq!(fd.register(), Err(FdError::Os(Errno::new(libc::EBADF))));
        assert_eq!(
            read(&fd, &mut [0; 4]),
            Err(FdError::Os(Errno::new(libc::EBADF)))
        );
    });
}

#[test]
fn an_eventfd_wakes_its_reader() {
    check(|| {
        // SAFETY: no memory is passed.
        let fd = Arc::new(own(sched(), unsafe {
            libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)
        }));
        for _ in 0..100 {
            let reader = reader(&fd);
            write(&fd, &1u64.to_ne_bytes()).unwrap();
            assert_eq!(join(reader), Ok(8));
        }
    });
}

#[test]
fn a_pipe_carries_everything_in_order_and_ends() {
    const LEN: usize = 3_000_000;
    check(|| {
        let [reader, writer] = pipe();
        let bytes: Vec<u8> = (0..LEN).map(|i| (i % 251) as u8).collect();
        let expected = bytes.clone();
        // The goroutine owns the only `Fd` of the writing end: when it returns, the pipe ends.
        let writer = go(sched(), move || write(&writer, &bytes));
        assert!(read_to_end(&reader) == expected);
        assert_eq!(join(writer), Ok(()));
    });
}

fn unwind<T>() -> T {
    panic::resume_unwind(Box::new(()))
}

#[test]
fn an_operation_that_panics_leaves_the_descriptor_to_others() {
    let operations: [fn(&Fd); 6] = [
        |fd| fd.with(|_| unwind()).unwrap(),
        |fd| fd.operate(Mode::Read, |_| unwind::<Outcome<()>>()).unwrap(),
        |fd| _ = fd.transfer(Mode::Read, 1, |_| unwind()),
        |fd| _ = fd.transfer(Mode::Write, 1, |_| Outcome::Done(2)),
        |fd| _ = fd.transfer_all(1, |_, _| unwind()),
        |fd| _ = fd.connect(|_| unwind()),
    ];
    for operation in operations {
        check(move || {
            let [near, far] = socket_pair();
            assert!(panic::catch_unwind(AssertUnwindSafe(|| operation(&near))).is_err());
            write(&far, b"there").unwrap();
            assert_eq!(read(&near, &mut [0; 16]), Ok(5));
            write(&near, b"back").unwrap();
            assert_eq!(read(&far, &mut [0; 16]), Ok(4));
            near.close().unwrap();
            assert_eq!(read(&far, &mut [0; 16]), Ok(0), "the file must be closed");
        });
    }
}

#[test]
fn data_that_a_panicking_read_left_is_still_read() {
    check(|| {
        let [near, far] = socket_pair();
        for _ in 0..3 {
            write(&far, b"short").unwrap();
            assert_eq!(read(&near, &mut [0; 16]), Ok(5));
            // After a short read, the next read waits before it asks the kernel. It consumes the
            // readiness.
            write(&far, b"left").unwrap();
            let read_and_panic = || near.transfer(Mode::Read, 16, |_| unwind());
            assert!(panic::catch_unwind(AssertUnwindSafe(read_and_panic)).is_err());
            assert_eq!(read(&near, &mut [0; 16]), Ok(4));
        }
    });
}

#[test]
fn a_thread_and_a_goroutine_talk_over_pipes() {
    check(|| {
        let ([from_thread, to_goroutine], [from_goroutine, to_thread]) = (pipe(), pipe());
        let thread = thread::spawn(move || {
            for i in 0..1000u64 {
                write(&to_goroutine, &i.to_ne_bytes()).unwrap();
                let mut reply = [0; 8];
                assert_eq!(read(&from_goroutine, &mut reply), Ok(8));
                assert_eq!(u64::from_ne_bytes(reply), i + 1);
            }
        });
        let mut bytes = [0; 8];
        while read(&from_thread, &mut bytes).unwrap() == 8 {
            write(&to_thread, &(u64::from_ne_bytes(bytes) + 1).to_ne_bytes()).unwrap();
        }
        thread.join().unwrap();
    });
}

#[test]
fn data_and_the_end_in_one_edge_are_both_read() {
    check(|| {
        for make in [pipe, socket_pair] {
            for _ in 0..200 {
                let [near, far] = make();
                // The reader has registered the descriptor and waits when the data and the end
                // arrive.
                let theirs = near.clone();
                let reader = go(sched(), move || {
                    (read(&theirs, &mut [0; 4096]), read(&theirs, &mut [0; 4096]))
                });
                sched().yield_now();
                write(&far, &[7; 10]).unwrap();
                drop(far);
                assert_eq!(join(reader), (Ok(10), Ok(0)));
                assert_eq!(
                    read(&near, &mut [0; 4096]),
                    Ok(0),
                    "an end of stream must be permanent"
                );
            }
        }
    });
}

#[test]
fn writing_to_a_pipe_without_a_reader_fails() {
    check(|| {
        let [reader, writer] = pipe();
        let theirs = writer.clone();
        let blocked = go(sched(), move || write(&theirs, &vec![0; 1 << 20]));
        settle();
        drop(reader);
        assert_eq!(join(blocked), Err(FdError::Os(Errno::new(libc::EPIPE))));
        assert_eq!(
            write(&writer, b"x"),
            Err(FdError::Os(Errno::new(libc::EPIPE)))
        );
    });
}

#[test]
fn a_failed_write_returns_how_much_was_written() {
    check(|| {
        let [reader, writer] = pipe();
        writer
            .set_deadline(
                Some(Mode::Write),
                Deadline::At(sched().now() + 5 * MILLISECOND),
            )
            .unwrap();
        let bytes = vec![7; 1 << 20];
        let (written, error) = writer
            .transfer_all(bytes.len(), |raw, rest| io::write(raw, &bytes[rest]))
            .unwrap_err();
        assert_eq!(error, TIMEOUT);
        drop(writer);
        assert_eq!(read_to_end(&reader).len(), written);
    });
}

#[test]
fn an_empty_read_does_nothing_and_an_empty_write_looks_at_the_deadline() {
    check(|| {
        let [near, far] = socket_pair();
        near.set_deadline(None, Deadline::Passed).unwrap();
        assert_eq!(read(&near, &mut []), Ok(0));
        assert_eq!(write(&near, &[]), Err(TIMEOUT));
        near.close().unwrap();
        assert_eq!(read(&near, &mut []), Err(CLOSING));
        assert_eq!(write(&near, &[]), Err(CLOSING));
        assert_eq!(read(&far, &mut [0; 1]), Ok(0));
    });
}

#[test]
fn close_ends_all_waiters_for_a_direction() {
    check(|| {
        for _ in 0..50 {
            let [near, _far] = socket_pair();
            // The first waits in the poller, the others for the first.
            let readers: Vec<_> = (0..10).map(|_| reader(&near)).collect();
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let near = near.clone();
                    thread::spawn(move || read(&near, &mut [0; 16]))
                })
                .collect();
            settle();
            near.close().unwrap();
            assert!(
                readers
                    .into_iter()
                    .map(join)
                    .all(|result| result == Err(CLOSING))
            );
            assert!(
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .all(|result| result == Err(CLOSING))
            );
            assert_eq!(near.close(), Err(CLOSING));
        }
    });
}

#[test]
fn close_returns_when_the_last_operation_has_ended() {
    check(|| {
        let [near, far] = socket_pair();
        let (entered, leave) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let user = {
            let (near, entered, leave) = (near.clone(), entered.clone(), leave.clone());
            go(sched(), move || {
                near.with(|_| {
                    entered.store(true, SeqCst);
                    until("it may leave", || leave.load(SeqCst));
                })
            })
        };
        until("the descriptor is in use", || entered.load(SeqCst));
        let closer = go(sched(), move || near.close());
        settle();
        assert!(!closer.is_finished());
        far.set_deadline(None, Deadline::At(sched().now() + 5 * MILLISECOND))
            .unwrap();
        assert_eq!(
            read(&far, &mut [0; 1]),
            Err(TIMEOUT),
            "the descriptor must still be open"
        );
        leave.store(true, SeqCst);
        assert_eq!(join(closer), Ok(()));
        join(user).unwrap();
        far.set_deadline(None, Deadline::None).unwrap();
        assert_eq!(read(&far, &mut [0; 1]), Ok(0));
    });
}

#[test]
fn a_dropped_descriptor_is_closed() {
    check(|| {
        let [near, far] = socket_pair();
        drop(near);
        assert_eq!(read(&far, &mut [0; 1]), Ok(0));
    });
}

#[test]
fn a_reserved_number_stays_in_use_until_the_descriptor_is_dropped() {
    check(|| {
        let [near, far] = socket_pair();
        // SAFETY: `close_keeping_number` keeps the number in use, as the contract asks.
        let number = unsafe { near.reserve_number(io::close_keeping_number) }.unwrap();
        near.close().unwrap();
        assert_eq!(read(&far, &mut [0; 1]), Ok(0), "the file must be closed");
        for _ in 0..10 {
            let [a, b] = socket_pair();
            assert!(a.raw() != number && b.raw() != number);
        }
        // SAFETY: no memory is passed.
        assert!(unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0);
    });
}

#[test]
fn readiness_that_comes_before_the_wait_is_kept() {
    check(|| {
        let [reader, writer] = pipe();
        reader.register().unwrap();
        let mut tries = 0;
        let read = reader.operate(Mode::Read, |fd| {
            tries += 1;
            if tries > 1 {
                return io::read(fd, &mut [0; 8]);
            }
            write(&writer, b"x").unwrap();
            settle();
            // A deadline that expires does not consume the readiness, which counts again when the
            // deadline is removed.
            reader
                .set_deadline(Some(Mode::Read), Deadline::Passed)
                .unwrap();
            reader
                .set_deadline(Some(Mode::Read), Deadline::None)
                .unwrap();
            Outcome::WouldBlock
        });
        assert_eq!((read, tries), (Ok(1), 2));
    });
}

#[test]
fn a_duplicate_keeps_the_file_open_but_not_its_registration() {
    check(|| {
        for _ in 0..50 {
            let [near, far] = socket_pair();
            let waiting = reader(&near);
            settle();
            // SAFETY: no memory is passed.
            let duplicate = own(sched(), unsafe {
                libc::fcntl(near.raw(), libc::F_DUPFD_CLOEXEC, 0)
            });
            near.close().unwrap();
            assert_eq!(join(waiting), Err(CLOSING));
            // It gets the poll descriptor that was just freed, which events of the old registration
            // would reach.
            let [next, _peer] = socket_pair();
            next.set_deadline(None, Deadline::At(sched().now() + 3 * MILLISECOND))
                .unwrap();
            let next = reader(&next);
            write(&far, b"for the duplicate").unwrap();
            assert_eq!(join(next), Err(TIMEOUT));
            assert_eq!(read(&duplicate, &mut [0; 100]), Ok(17));
        }
    });
}
