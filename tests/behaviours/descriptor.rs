//! Files that can be polled and are no sockets: pipes, timers, counters.
#![allow(unsafe_code, reason = "the files are opened through libc")]

use super::check_on_thread;
use crate::check;
use gopark::net::Descriptor;
use gopark::sync::Cancel;
use gopark::{PollError, go, poll_error, select, sleep, yield_now};
use gopark_tests::sockets::{assert_closing, assert_timeout, pattern};
use gopark_tests::{join, until};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The reading and the writing end of a pipe, with these flags.
fn pipe(flags: i32) -> (File, File) {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    let result = unsafe { libc::pipe2(fds.as_mut_ptr(), flags | libc::O_CLOEXEC) };
    assert_eq!(result, 0);
    // SAFETY: the descriptors are new.
    let [reader, writer] = fds.map(|fd| unsafe { File::from_raw_fd(fd) });
    (reader, writer)
}

fn pipe_ends(flags: i32) -> (Descriptor<File>, Descriptor<File>) {
    let (reader, writer) = pipe(flags);
    (
        Descriptor::new(reader).unwrap(),
        Descriptor::new(writer).unwrap(),
    )
}

fn flags(fd: &impl AsRawFd) -> i32 {
    // SAFETY: no memory is passed.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) }
}

fn a_pipe_carries_every_byte() {
    let (mut reader, mut writer) = pipe_ends(libc::O_NONBLOCK);
    let sent = pattern(1 << 20);
    let expected = sent.clone();
    let sender = go(move || writer.write_all(&sent));
    let mut got = Vec::new();
    reader.read_to_end(&mut got).unwrap();
    assert!(got == expected);
    join(sender).unwrap();
}

#[test]
fn a_pipe_carries_every_byte_between_goroutines() {
    check(a_pipe_carries_every_byte);
}

#[test]
fn a_pipe_carries_every_byte_to_an_ordinary_thread() {
    check_on_thread(a_pipe_carries_every_byte);
}

#[test]
fn a_blocking_pipe_is_read_and_written_when_it_is_ready() {
    check(|| {
        let (reader, writer) = pipe_ends(0);
        let before = flags(&reader);
        let sender = go(move || {
            for _ in 0..100 {
                writer.writable().unwrap();
                writer.get_ref().write_all(&[7; 4096]).unwrap();
            }
        });
        let (mut got, mut buffer) = (0, [0; 1024]);
        loop {
            reader.readable().unwrap();
            match reader.get_ref().read(&mut buffer).unwrap() {
                0 => break,
                n => got += n,
            }
        }
        assert_eq!(got, 100 * 4096);
        assert_eq!(flags(&reader), before);
        join(sender);
    });
}

#[test]
fn a_wait_for_readiness_that_exists_returns_at_once_again_and_again() {
    check(|| {
        let (reader, writer) = pipe_ends(libc::O_NONBLOCK);
        (&writer).write_all(b"ab").unwrap();
        for _ in 0..3 {
            reader.readable().unwrap();
            writer.writable().unwrap();
        }
        (&reader).read_exact(&mut [0]).unwrap();
        reader.readable().unwrap();
    });
}

#[test]
fn a_reader_that_leaves_data_is_called_again_for_it() {
    check(|| {
        let (near, far) = UnixDatagram::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let near = Arc::new(Descriptor::new(near).unwrap());
        let receiver = {
            let near = near.clone();
            go(move || {
                let receive = || near.read_with(|near| near.recv(&mut [0; 8])).unwrap();
                [receive(), receive(), receive()]
            })
        };
        yield_now();
        for len in 1..=3 {
            far.send(&[0; 8][..len]).unwrap();
        }
        assert_eq!(join(receiver), [1, 2, 3]);
    });
}

#[test]
fn an_operation_is_repeated_after_an_interruption_and_returns_its_own_errors() {
    check(|| {
        let (reader, writer) = pipe_ends(libc::O_NONBLOCK);
        let mut calls = 0;
        let error = reader
            .read_with(|_| -> io::Result<()> {
                calls += 1;
                Err(match calls {
                    1 => io::ErrorKind::Interrupted.into(),
                    2 => {
                        (&writer).write_all(b"x").unwrap();
                        io::ErrorKind::WouldBlock.into()
                    }
                    _ => io::Error::other("mine"),
                })
            })
            .unwrap_err();
        assert_eq!((calls, error.to_string().as_str()), (3, "mine"));
    });
}

#[test]
fn a_timer_of_the_kernel_ends_a_wait() {
    check(|| {
        // SAFETY: no memory is passed.
        let raw = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) };
        // SAFETY: the descriptor is new.
        let timer = Descriptor::new(unsafe { OwnedFd::from_raw_fd(raw) }).unwrap();
        let spec = libc::itimerspec {
            it_interval: libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: libc::timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000,
            },
        };
        let start = Instant::now();
        // SAFETY: `spec` is readable, and the old value is not asked for.
        let set = unsafe { libc::timerfd_settime(raw, 0, &spec, std::ptr::null_mut()) };
        assert_eq!(set, 0);
        timer.readable().unwrap();
        assert!(start.elapsed() >= Duration::from_millis(1));
    });
}

#[test]
fn a_file_that_is_always_ready_is_refused() {
    check(|| {
        for path in ["/proc/self/exe", "/dev/null", "/"] {
            let error = Descriptor::new(File::open(path).unwrap()).unwrap_err();
            assert_eq!(poll_error(&error), Some(PollError::NotPollable), "{path}");
        }
    });
}

#[test]
fn deadlines_and_timeouts_end_waits_for_files() {
    check(|| {
        let (reader, writer) = pipe_ends(libc::O_NONBLOCK);
        let reader = Arc::new(reader);
        reader
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        assert_timeout((&*reader).read(&mut [0]));
        reader.set_read_timeout(None).unwrap();

        let waiting = {
            let reader = reader.clone();
            go(move || reader.readable())
        };
        yield_now();
        reader.set_read_deadline(Some(Instant::now())).unwrap();
        assert_timeout(join(waiting));
        reader.set_deadline(None).unwrap();
        (&writer).write_all(b"x").unwrap();
        reader.readable().unwrap();

        writer
            .set_write_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        assert_timeout((&writer).write_all(&[0; 1 << 20]));
        let zero = writer.set_write_timeout(Some(Duration::ZERO)).unwrap_err();
        assert_eq!(zero.kind(), io::ErrorKind::InvalidInput);
    });
}

#[test]
fn a_close_ends_waits_and_leaves_the_file_open() {
    check(|| {
        for round in 0..50 {
            let (reader, mut writer) = pipe(libc::O_NONBLOCK);
            let reader = Arc::new(Descriptor::new(reader).unwrap());
            let waiting = {
                let reader = reader.clone();
                go(move || (&*reader).read(&mut [0]))
            };
            (0..round % 4).for_each(|_| yield_now());
            reader.close().unwrap();
            assert_closing(join(waiting));
            assert_closing(reader.readable());
            assert_closing(reader.close());
            let mut file = Arc::into_inner(reader).unwrap().into_inner();
            writer.write_all(b"x").unwrap();
            file.read_exact(&mut [0]).unwrap();
        }
    });
}

#[test]
fn the_owner_closes_the_file_once() {
    check(|| {
        for closed_first in [false, true] {
            let (near, mut far) = UnixStream::pair().unwrap();
            let near = Descriptor::new(near).unwrap();
            if closed_first {
                near.close().unwrap();
            }
            far.set_nonblocking(true).unwrap();
            let open = far.read(&mut [0]).unwrap_err();
            assert_eq!(open.kind(), io::ErrorKind::WouldBlock);
            // A duplicate lives on: a poller that was not left would go on to watch it.
            let duplicate = near.as_fd().try_clone_to_owned().unwrap();
            drop(near);
            let again = Descriptor::new(duplicate).unwrap();
            far.write_all(b"x").unwrap();
            again.readable().unwrap();
            drop(again);
            assert_eq!(far.read(&mut [0]).unwrap_or(0), 0);
        }
    });
}

#[test]
fn a_file_can_be_registered_again_and_again() {
    check(|| {
        let (mut reader, mut writer) = pipe(libc::O_NONBLOCK);
        for round in 0..100 {
            let mut descriptor = Descriptor::new(reader).unwrap();
            if round % 3 == 0 {
                descriptor.close().unwrap();
            } else {
                writer.write_all(b"x").unwrap();
                descriptor.read_exact(&mut [0]).unwrap();
            }
            reader = descriptor.into_inner();
        }
    });
}

#[test]
fn a_panic_in_an_operation_leaves_the_descriptor_usable() {
    check(|| {
        let (reader, writer) = pipe_ends(libc::O_NONBLOCK);
        let reader = Arc::new(reader);
        let panicking = {
            let reader = reader.clone();
            go(move || {
                let _ = reader.read_with(|_| -> io::Result<()> { panic!("of an operation") });
            })
        };
        assert!(panicking.join().is_err());
        (&writer).write_all(b"x").unwrap();
        (&*reader).read_exact(&mut [0]).unwrap();
    });
}

#[test]
fn a_cancel_ends_a_wait_for_a_file() {
    check(|| {
        let (reader, writer) = pipe_ends(libc::O_NONBLOCK);
        let cancel = Cancel::new();
        let theirs = cancel.clone();
        let waiting = go(move || theirs.run(|| (reader.readable(), reader)));
        yield_now();
        cancel.cancel();
        let (result, reader) = join(waiting);
        assert_eq!(poll_error(&result.unwrap_err()), Some(PollError::Cancelled));
        (&writer).write_all(b"x").unwrap();
        reader.readable().unwrap();
    });
}

#[test]
fn a_select_waits_for_a_file() {
    check(|| {
        let (reader, writer) = pipe_ends(libc::O_NONBLOCK);
        select! {
            readable(reader) -> _ => panic!("the pipe is empty"),
            default => {}
        }
        select! { writable(writer) -> result => result.unwrap() }
        let sender = go(move || {
            sleep(Duration::from_millis(1));
            (&writer).write_all(b"x").unwrap();
            writer
        });
        select! { readable(reader) -> result => result.unwrap() }
        let writer = join(sender);
        writer.close().unwrap();
        select! { writable(writer) -> result => assert_closing(result) }
    });
}

#[test]
fn waits_for_many_files_end_each_by_its_own_event() {
    check(|| {
        let ends: Vec<_> = (0..100).map(|_| pipe_ends(libc::O_NONBLOCK)).collect();
        let (readers, writers): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
        let waiting: Vec<_> = readers
            .into_iter()
            .map(|mut reader| {
                go(move || {
                    let mut byte = [0];
                    reader.read_exact(&mut byte).map(|()| byte[0])
                })
            })
            .collect();
        for (i, mut writer) in writers.into_iter().enumerate().rev() {
            writer.write_all(&[i as u8]).unwrap();
            until("the pipe is read", || waiting[i].is_finished());
        }
        for (i, goroutine) in waiting.into_iter().enumerate() {
            assert_eq!(join(goroutine).unwrap(), i as u8);
        }
    });
}
