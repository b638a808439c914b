//! Copies inside the kernel: every byte arrives once and in order, and errors tell how many did.

use super::check_on_thread;
use super::fs::Dir;
use crate::check;
use gopark::fs::{self, File, OpenOptions};
use gopark::io::{CopyError, CopyFrom, CopyTo, copy, copy_n};
use gopark::net::{Shutdown, TcpStream, pipe, proxy};
use gopark::sync::Cancel;
use gopark::{PollError, go, yield_now};
use gopark_tests::sockets::{narrow_pair, pair, pattern, poll_error, read_to_end};
use gopark_tests::{Dice, join, until};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// A source whose bytes are `data`, and then its end.
trait Filled: CopyFrom + Send + Sync + 'static {
    fn filled(dir: &Dir, data: &Arc<Vec<u8>>) -> Self;
}

/// A sink, and what tells what it got. The sink must be dropped before.
trait Emptied: CopyTo + Send + Sync + Sized + 'static {
    fn emptied(dir: &Dir) -> (Self, Box<dyn FnOnce() -> Vec<u8>>);
}

fn writes(mut to: impl Write + Send + 'static, data: &Arc<Vec<u8>>) {
    let data = data.clone();
    go(move || {
        let dice = Dice::new(data.len() as u64);
        let mut rest = &data[..];
        while !rest.is_empty() {
            let len = (1 + dice.below(100_000) as usize).min(rest.len());
            to.write_all(&rest[..len]).unwrap();
            rest = &rest[len..];
            if dice.below(4) == 0 {
                yield_now();
            }
        }
    });
}

fn reads(mut from: impl Read + Send + 'static) -> Box<dyn FnOnce() -> Vec<u8>> {
    let reader = go(move || {
        let dice = Dice::new(1);
        let mut all = Vec::new();
        loop {
            let mut buffer = vec![0; 1 + dice.below(100_000) as usize];
            match from.read(&mut buffer).unwrap() {
                0 => return all,
                n => all.extend_from_slice(&buffer[..n]),
            }
        }
    });
    Box::new(move || join(reader))
}

impl Filled for TcpStream {
    fn filled(_: &Dir, data: &Arc<Vec<u8>>) -> Self {
        let (near, far) = narrow_pair();
        writes(far, data);
        near
    }
}

impl Emptied for TcpStream {
    fn emptied(_: &Dir) -> (Self, Box<dyn FnOnce() -> Vec<u8>>) {
        let (near, far) = narrow_pair();
        (near, reads(far))
    }
}

impl Filled for gopark::net::Pipe {
    fn filled(_: &Dir, data: &Arc<Vec<u8>>) -> Self {
        let (near, far) = pipe();
        writes(far, data);
        near
    }
}

impl Emptied for gopark::net::Pipe {
    fn emptied(_: &Dir) -> (Self, Box<dyn FnOnce() -> Vec<u8>>) {
        let (near, far) = pipe();
        (near, reads(far))
    }
}

impl Filled for File {
    fn filled(dir: &Dir, data: &Arc<Vec<u8>>) -> Self {
        std::fs::write(dir.path("source"), &**data).unwrap();
        File::open(dir.path("source")).unwrap()
    }
}

impl Emptied for File {
    fn emptied(dir: &Dir) -> (Self, Box<dyn FnOnce() -> Vec<u8>>) {
        let path = dir.path("sink");
        let file = File::create(&path).unwrap();
        (file, Box::new(move || std::fs::read(path).unwrap()))
    }
}

fn all_arrives<S: Filled, K: Emptied>() {
    for len in [0, 1, 5_000, 100_000, 3_000_000] {
        let dir = Dir::new();
        let data = Arc::new(pattern(len));
        let source = S::filled(&dir, &data);
        let (sink, arrived) = K::emptied(&dir);
        assert_eq!(copy(&source, &sink).unwrap(), len as u64);
        drop(sink);
        assert!(arrived() == *data, "the {len} bytes differ");
    }
}

fn a_limit_leaves_the_rest<S: Filled, K: Emptied>() {
    let dir = Dir::new();
    let data = Arc::new(pattern(1_000_000));
    let source = S::filled(&dir, &data);
    let (sink, arrived) = K::emptied(&dir);
    let dice = Dice::new(7);
    assert_eq!(copy_n(&source, &sink, 0).unwrap(), 0);
    let mut done = 0;
    while done < 900_000 {
        let limit = 1 + dice.below(200_000);
        let expected = limit.min(1_000_000 - done);
        assert_eq!(copy_n(&source, &sink, limit).unwrap(), expected);
        done += expected;
    }
    assert_eq!(copy_n(&source, &sink, u64::MAX).unwrap(), 1_000_000 - done);
    drop(sink);
    assert!(arrived() == *data, "the bytes differ");
}

macro_rules! each_pair {
    ($($name:ident: $source:ty => $sink:ty;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn all_bytes_arrive() {
                check(all_arrives::<$source, $sink>);
            }

            #[test]
            fn all_bytes_arrive_on_a_thread() {
                check_on_thread(all_arrives::<$source, $sink>);
            }

            #[test]
            fn a_limit_is_kept() {
                check(a_limit_leaves_the_rest::<$source, $sink>);
            }
        }
    )*};
}

each_pair! {
    socket_to_socket: TcpStream => TcpStream;
    file_to_socket: File => TcpStream;
    socket_to_file: TcpStream => File;
    file_to_file: File => File;
    memory_to_socket: gopark::net::Pipe => TcpStream;
    file_to_memory: File => gopark::net::Pipe;
}

#[track_caller]
fn assert_ended(result: Result<u64, CopyError>, error: PollError, copied: u64) {
    let ended = result.unwrap_err();
    assert_eq!(poll_error(ended.error()), Some(error), "{ended}");
    assert_eq!(ended.copied(), copied);
    assert_eq!(poll_error(&io::Error::from(ended)), Some(error));
}

#[test]
fn deadlines_of_both_ends_apply() {
    check(|| {
        let (source, mut feed) = pair();
        let (sink, mut arrived) = narrow_pair();
        feed.write_all(&[7; 1000]).unwrap();
        let copier = {
            let (source, sink) = (source.try_clone().unwrap(), sink.try_clone().unwrap());
            go(move || copy(&source, &sink))
        };
        arrived.read_exact(&mut [0; 1000]).unwrap();
        source.set_read_deadline(Some(Instant::now())).unwrap();
        assert_ended(join(copier), PollError::Timeout, 1000);
        source.set_read_deadline(None).unwrap();

        // Until the connection is reset: the system's buffers may hold megabytes.
        let feeder = go(move || while feed.write_all(&[7; 4096]).is_ok() {});
        let copier = {
            let sink = sink.try_clone().unwrap();
            go(move || copy(&source, &sink))
        };
        arrived.read_exact(&mut [0]).unwrap();
        sink.set_write_deadline(Some(Instant::now())).unwrap();
        let ended = join(copier).unwrap_err();
        assert_eq!(poll_error(ended.error()), Some(PollError::Timeout));
        sink.shutdown(Shutdown::Write).unwrap();
        // What the error says has arrived, no more and no less.
        let rest = read_to_end(&arrived, 100_000).unwrap();
        assert_eq!(1 + rest.len() as u64, ended.copied());
        join(feeder);
    });
}

#[test]
fn a_close_and_a_cancel_end_a_copy() {
    check(|| {
        for round in 0..20 {
            let ((source, _feed), (sink, _arrived)) = (pair(), pair());
            let cancel = Cancel::new();
            let copier = {
                let (source, sink) = (source.try_clone().unwrap(), sink.try_clone().unwrap());
                let cancel = cancel.clone();
                go(move || cancel.run(|| copy(&source, &sink)))
            };
            (0..round % 4).for_each(|_| yield_now());
            if round % 2 == 0 {
                source.close().unwrap();
                assert_ended(join(copier), PollError::Closing, 0);
            } else {
                cancel.cancel();
                assert_ended(join(copier), PollError::Cancelled, 0);
            }
        }
        let dir = Dir::new();
        std::fs::write(dir.path("a"), "text").unwrap();
        let (from, to) = (
            File::open(dir.path("a")).unwrap(),
            File::create(dir.path("b")).unwrap(),
        );
        let cancel = Cancel::new();
        cancel.cancel();
        assert_ended(cancel.run(|| copy(&from, &to)), PollError::Cancelled, 0);
    });
}

#[test]
fn a_sink_whose_peer_is_gone_is_an_error() {
    check(|| {
        let dir = Dir::new();
        std::fs::write(dir.path("a"), vec![7; 4 << 20]).unwrap();
        let file = File::open(dir.path("a")).unwrap();
        for source in [true, false] {
            let (sink, arrived) = narrow_pair();
            let (from, feed) = pair();
            arrived.set_linger(Some(Duration::ZERO)).unwrap();
            drop(arrived);
            let feeder = go(move || { &feed }.write_all(&vec![7; 4 << 20]));
            let ended = match source {
                true => copy(&file, &sink),
                false => copy(&from, &sink),
            };
            let kind = ended.unwrap_err().error().kind();
            assert!(
                matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
                "{kind:?}"
            );
            drop(from);
            _ = join(feeder);
        }
    });
}

#[test]
fn pipes_with_a_rest_are_not_used_again() {
    check(|| {
        for round in 0..40 {
            let (source, mut feed) = pair();
            let (sink, arrived) = narrow_pair();
            if round % 2 == 0 {
                // Leaves bytes in the pipe.
                let feeder = go(move || feed.write_all(&vec![9; 4 << 20]));
                sink.set_write_deadline(Some(Instant::now() + Duration::from_micros(500)))
                    .unwrap();
                assert!(copy(&source, &sink).is_err());
                drop((source, sink, arrived));
                _ = join(feeder);
            } else {
                feed.write_all(b"clean").unwrap();
                drop(feed);
                assert_eq!(copy(&source, &sink).unwrap(), 5);
                drop(sink);
                assert_eq!(read_to_end(&arrived, 100).unwrap(), b"clean");
            }
        }
    });
}

#[test]
fn what_the_kernel_refuses_is_copied_through_a_buffer() {
    check(|| {
        let dir = Dir::new();
        // Splices and copies of ranges refuse a file that is open to append.
        let append = || {
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(dir.path("log"))
                .unwrap()
        };
        let data = Arc::new(pattern(200_000));
        let socket = TcpStream::filled(&dir, &data);
        assert_eq!(copy(&socket, &append()).unwrap(), 200_000);
        let file = File::filled(&dir, &data);
        assert_eq!(copy(&file, &append()).unwrap(), 200_000);
        assert!(std::fs::read(dir.path("log")).unwrap() == [&data[..], &data[..]].concat());
        // Files whose length is not known.
        let proc = || File::open("/proc/self/status").unwrap();
        let (sink, arrived) = TcpStream::emptied(&dir);
        let len = copy(&proc(), &sink).unwrap();
        drop(sink);
        assert!(len > 100 && arrived().len() as u64 == len);
        let copied = File::create(dir.path("status")).unwrap();
        let len = copy(&proc(), &copied).unwrap();
        assert!(len > 100 && fs::metadata(dir.path("status")).unwrap().len() == len);
        // A file that is not open to write says so.
        let socket = TcpStream::filled(&dir, &Arc::new(vec![7; 100]));
        let ended = copy(&socket, &File::open("/dev/null").unwrap()).unwrap_err();
        assert_eq!(
            (ended.copied(), ended.error().raw_os_error()),
            (0, Some(libc::EBADF))
        );
    });
}

#[test]
fn a_copy_moves_the_positions_of_files() {
    check(|| {
        let dir = Dir::new();
        let data = Arc::new(pattern(10_000));
        let mut source = File::filled(&dir, &data);
        let (sink, arrived) = TcpStream::emptied(&dir);
        source.seek(io::SeekFrom::Start(1000)).unwrap();
        assert_eq!(copy_n(&source, &sink, 3000).unwrap(), 3000);
        assert_eq!(source.stream_position().unwrap(), 4000);
        let mut copied = File::create(dir.path("b")).unwrap();
        copied.write_all(b"head").unwrap();
        assert_eq!(copy(&source, &copied).unwrap(), 6000);
        assert_eq!(copied.stream_position().unwrap(), 6004);
        drop(sink);
        assert!(arrived() == data[1000..4000]);
        assert!(std::fs::read(dir.path("b")).unwrap() == [b"head", &data[4000..]].concat());
    });
}

#[test]
fn a_proxy_moves_both_directions_and_keeps_half_closes() {
    check(|| {
        let ((client, front), (back, origin)) = (narrow_pair(), narrow_pair());
        let server = go(move || proxy(&front, &Arc::new(back)));
        let data = Arc::new(pattern(2_000_000));
        let sent = {
            let (client, data) = (client.try_clone().unwrap(), data.clone());
            go(move || {
                (&client).write_all(&data).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            })
        };
        let got_end = Arc::new(AtomicBool::new(false));
        let echo = {
            let (data, got_end) = (data.clone(), got_end.clone());
            go(move || {
                assert!(read_to_end(&origin, 50_000).unwrap() == *data);
                got_end.store(true, SeqCst);
                // The client has ended its direction, and still gets this one.
                (&origin).write_all(&data[..1_000_000]).unwrap();
            })
        };
        assert!(read_to_end(&client, 70_000).unwrap() == data[..1_000_000]);
        assert!(got_end.load(SeqCst));
        join(sent);
        join(echo);
        assert_eq!(join(server).unwrap(), (2_000_000, 1_000_000));
    });
}

#[test]
fn an_error_in_one_direction_of_a_proxy_ends_the_other() {
    check(|| {
        // The deadline is that of one direction. Nothing else would end the other one.
        let ((_client, front), (back, _origin)) = (pair(), pair());
        back.set_read_deadline(Some(Instant::now() + Duration::from_millis(3)))
            .unwrap();
        let error = proxy(&front, &back).unwrap_err();
        assert_eq!(poll_error(&error), Some(PollError::Timeout));
        let error = proxy(&back, &front).unwrap_err();
        assert_eq!(poll_error(&error), Some(PollError::Timeout));
        // The connections are open.
        front.peer_addr().unwrap();
        back.set_read_deadline(None).unwrap();

        let cancel = Cancel::new();
        let server = {
            let cancel = cancel.clone();
            go(move || cancel.run(|| proxy(&front, &back)))
        };
        yield_now();
        cancel.cancel();
        let error = join(server).unwrap_err();
        assert_eq!(poll_error(&error), Some(PollError::Cancelled));
    });
}

#[test]
fn idle_copies_have_no_pipes() {
    fn pipes() -> usize {
        let files = gopark_tests::open_files(4096);
        let is_pipe = |file: &&std::path::PathBuf| file.to_string_lossy().starts_with("pipe:");
        files.iter().filter(is_pipe).count()
    }
    check(|| {
        let connections: Vec<_> = (0..60).map(|_| (pair(), pair())).collect();
        let before = pipes();
        let mut copiers = Vec::new();
        let mut ends = Vec::new();
        for ((source, mut feed), (sink, mut arrived)) in connections {
            copiers.push(go(move || copy(&source, &sink).unwrap()));
            feed.write_all(b"one").unwrap();
            arrived.read_exact(&mut [0; 3]).unwrap();
            ends.push((feed, arrived));
        }
        // 16 spare ones, those of other tests, and none for each of these connections.
        until("the copies wait", || pipes() < before + 60);
        drop(ends);
        assert!(copiers.into_iter().all(|it| join(it) == 3));
    });
}
