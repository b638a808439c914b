//! Connections: every byte arrives once and in order.

use super::check_on_thread;
use crate::check;
use gopark::net::{Shutdown, TcpStream};
use gopark::{go, yield_now};
use gopark_tests::sockets::{listener, narrow_pair, pair, pair_at, pattern, read_to_end};
use gopark_tests::{Dice, join, until};
use socket2::SockRef;
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

fn echo(mut stream: TcpStream) -> io::Result<u64> {
    io::copy(&mut stream.try_clone()?, &mut stream)
}

#[test]
fn data_and_the_end_in_one_edge_are_both_read() {
    check(|| {
        let listener = listener();
        for round in 0..200 {
            let (mut near, mut far) = pair_at(&listener);
            let reader = go(move || {
                let mut buffer = [0; 4096];
                [
                    near.read(&mut buffer).unwrap(),
                    near.read(&mut buffer).unwrap(),
                    near.read(&mut buffer).unwrap(),
                ]
            });
            if round % 2 == 0 {
                yield_now();
            }
            far.write_all(&[7; 10]).unwrap();
            drop(far);
            assert_eq!(join(reader), [10, 0, 0]);
        }
    });
}

#[test]
fn a_read_that_filled_its_buffer_is_followed_by_the_end() {
    check(|| {
        for len in [1, 10, 4096] {
            let (mut near, mut far) = pair();
            far.write_all(&vec![7; len]).unwrap();
            drop(far);
            near.read_exact(&mut vec![0; len]).unwrap();
            assert_eq!(near.read(&mut vec![0; len]).unwrap(), 0);
        }
    });
}

#[test]
fn a_half_closed_connection_still_carries_the_other_direction() {
    check(|| {
        let (mut near, mut far) = pair();
        near.write_all(b"question").unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&far, 100).unwrap(), b"question");
        for _ in 0..10 {
            let mut answer = [0; 6];
            let reader = {
                let mut near = near.try_clone().unwrap();
                go(move || near.read_exact(&mut answer).map(|()| answer))
            };
            yield_now();
            far.write_all(b"answer").unwrap();
            assert_eq!(&join(reader).unwrap(), b"answer");
        }
        assert_eq!(
            near.write(b"x").unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
        drop(far);
        assert_eq!(near.read(&mut [0; 10]).unwrap(), 0);
    });
}

#[test]
fn a_shutdown_of_the_reading_side_ends_a_blocked_read() {
    check(|| {
        let (near, _far) = pair();
        let reader = {
            let mut near = near.try_clone().unwrap();
            go(move || near.read(&mut [0; 10]))
        };
        yield_now();
        near.shutdown(Shutdown::Read).unwrap();
        assert_eq!(join(reader).unwrap(), 0);
    });
}

#[test]
fn a_reset_reaches_a_blocked_reader_and_writer() {
    check(|| {
        for round in 0..20 {
            let (near, far) = narrow_pair();
            let reader = {
                let mut near = near.try_clone().unwrap();
                go(move || near.read(&mut [0; 10]))
            };
            let writer = {
                let mut near = near.try_clone().unwrap();
                go(move || near.write_all(&vec![7; 1 << 20]))
            };
            (0..round).for_each(|_| yield_now());
            far.set_linger(Some(std::time::Duration::ZERO)).unwrap();
            drop(far);
            let kinds = [join(reader).err(), join(writer).err()]
                .map(|error| error.map(|error| error.kind()));
            // The kernel reports the error to the first operation. To the second, the connection
            // has ended.
            assert!(
                kinds.contains(&Some(io::ErrorKind::ConnectionReset)),
                "{kinds:?}"
            );
        }
    });
}

#[test]
fn urgent_data_does_not_hold_up_the_data_after_it() {
    check(|| {
        for _ in 0..50 {
            let (mut near, mut far) = pair();
            let reader = go(move || {
                let mut all = Vec::new();
                let mut buffer = [0; 4096];
                while all.len() < 6 {
                    let n = near.read(&mut buffer).unwrap();
                    all.extend_from_slice(&buffer[..n]);
                }
                (near, all)
            });
            yield_now();
            far.write_all(b"abc").unwrap();
            SockRef::from(&far).send_out_of_band(b"!").unwrap();
            far.write_all(b"def").unwrap();
            let (mut near, all) = join(reader);
            assert_eq!(all, b"abcdef");
            far.write_all(b"ghi").unwrap();
            near.read_exact(&mut [0; 3]).unwrap();
        }
    });
}

#[test]
fn a_blocked_writer_goes_on_as_the_reader_drains() {
    check(|| {
        for len in [500, 4096, 60_000] {
            let (mut near, far) = pair();
            SockRef::from(&near).set_send_buffer_size(50_000).unwrap();
            let sent = pattern(2_000_000);
            let expected = sent.clone();
            let writer = go(move || near.write_all(&sent).unwrap());
            assert!(read_to_end(&far, len).unwrap() == expected);
            join(writer);
        }
    });
}

#[test]
fn short_writes_add_up() {
    check(|| {
        let (mut near, far) = pair();
        let sent = pattern(3_000_000);
        let expected = sent.clone();
        let writer = go(move || {
            let mut rest = &sent[..];
            while !rest.is_empty() {
                let n = near.write(rest).unwrap();
                assert!(n > 0);
                rest = &rest[n..];
            }
        });
        assert!(read_to_end(&far, 10_000).unwrap() == expected);
        join(writer);
    });
}

#[test]
fn two_concurrent_write_alls_do_not_mix() {
    const BLOCK: usize = 50_000;
    const BLOCKS: usize = 15;
    check(|| {
        let (near, far) = narrow_pair();
        let near = Arc::new(near);
        let writers: Vec<_> = (1..=4u8)
            .map(|name| {
                let near = near.clone();
                go(move || {
                    (0..BLOCKS).for_each(|_| (&*near).write_all(&vec![name; BLOCK]).unwrap())
                })
            })
            .collect();
        let reader = go(move || read_to_end(&far, 7_000).unwrap());
        writers.into_iter().for_each(join);
        near.close().unwrap();
        let all = join(reader);
        assert_eq!(all.len(), 4 * BLOCKS * BLOCK);
        assert!(
            all.chunks(BLOCK)
                .all(|block| block.iter().all(|&byte| byte == block[0]))
        );
    });
}

#[test]
fn readers_of_one_connection_take_turns() {
    check(|| {
        let (near, mut far) = pair();
        let near = Arc::new(near);
        let readers: Vec<_> = (0..10)
            .map(|_| {
                let near = near.clone();
                go(move || {
                    let mut taken = Vec::new();
                    let mut byte = [0];
                    while (&*near).read(&mut byte).unwrap() == 1 {
                        taken.push(byte[0]);
                    }
                    taken
                })
            })
            .collect();
        let sent = pattern(500);
        for chunk in sent.chunks(7) {
            far.write_all(chunk).unwrap();
            yield_now();
        }
        drop(far);
        let mut taken: Vec<u8> = readers.into_iter().flat_map(join).collect();
        let mut sent = sent;
        sent.sort();
        taken.sort();
        assert!(taken == sent);
    });
}

#[test]
fn vectors_are_filled_and_emptied_in_order() {
    check(|| {
        let (mut near, mut far) = pair();
        let n = near
            .write_vectored(&[
                IoSlice::new(b"a"),
                IoSlice::new(b""),
                IoSlice::new(b"bcd"),
                IoSlice::new(b"ef"),
            ])
            .unwrap();
        assert_eq!(n, 6);
        let (mut first, mut second) = ([0; 2], [0; 10]);
        let n = far
            .read_vectored(&mut [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)])
            .unwrap();
        assert_eq!((n, &first, &second[..4]), (6, b"ab", &b"cdef"[..]));

        let sent = pattern(500_000);
        let expected = sent.clone();
        let writer = go(move || {
            let mut slices: Vec<_> = sent.chunks(100).map(IoSlice::new).collect();
            let mut rest = &mut slices[..];
            while !rest.is_empty() {
                let n = near.write_vectored(rest).unwrap();
                IoSlice::advance_slices(&mut rest, n);
            }
        });
        assert!(read_to_end(&far, 9_999).unwrap() == expected);
        join(writer);
    });
}

#[test]
fn a_peek_consumes_nothing() {
    check(|| {
        let (near, mut far) = pair();
        let peeker = {
            let near = near.try_clone().unwrap();
            go(move || near.peek(&mut [0; 10]))
        };
        yield_now();
        far.write_all(b"abc").unwrap();
        assert_eq!(join(peeker).unwrap(), 3);
        let mut buffer = [0; 10];
        assert_eq!(near.peek(&mut buffer[..2]).unwrap(), 2);
        assert_eq!((&near).read(&mut buffer).unwrap(), 3);
        assert_eq!(&buffer[..3], b"abc");
    });
}

#[test]
fn clones_read_and_write_at_the_same_time() {
    check(|| {
        let (near, far) = pair();
        let server = go(|| echo(far));
        let sent = pattern(1_000_000);
        let writer = {
            let (mut near, sent) = (near.try_clone().unwrap(), sent.clone());
            go(move || {
                near.write_all(&sent).unwrap();
                near.shutdown(Shutdown::Write).unwrap();
            })
        };
        assert!(read_to_end(&near, 5_000).unwrap() == sent);
        join(writer);
        assert_eq!(join(server).unwrap(), sent.len() as u64);
    });
}

#[test]
fn hundreds_of_connections_echo_at_once() {
    check(|| {
        let listener = listener();
        let addr = listener.local_addr().unwrap();
        let server = {
            let listener = listener.try_clone().unwrap();
            go(move || {
                while let Ok((stream, _)) = listener.accept() {
                    go(|| echo(stream));
                }
            })
        };
        let clients: Vec<_> = (0..200)
            .map(|seed| {
                go(move || {
                    let dice = Dice::new(seed);
                    let mut stream = TcpStream::connect(addr).unwrap();
                    for _ in 0..20 {
                        let message: Vec<u8> = (0..1 + dice.below(5000))
                            .map(|i| (i * seed) as u8)
                            .collect();
                        stream.write_all(&message).unwrap();
                        let mut reply = vec![0; message.len()];
                        stream.read_exact(&mut reply).unwrap();
                        assert!(reply == message);
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(join);
        listener.close().unwrap();
        join(server);
    });
}

#[test]
fn ordinary_threads_serve_and_dial() {
    check_on_thread(|| {
        let listener = listener();
        let addr = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let served: Vec<_> = (0..20)
                .map(|_| listener.accept().unwrap().0)
                .map(|stream| thread::spawn(move || echo(stream).unwrap()))
                .collect();
            served
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum::<u64>()
        });
        let clients: Vec<_> = (0..20u8)
            .map(|name| {
                let client = move || {
                    let mut stream = TcpStream::connect(addr).unwrap();
                    for _ in 0..50 {
                        stream.write_all(&[name; 100]).unwrap();
                        let mut reply = [0; 100];
                        stream.read_exact(&mut reply).unwrap();
                        assert_eq!(reply, [name; 100]);
                    }
                };
                // Half of them are goroutines.
                let goroutine = (name % 2 == 0).then(|| go(client));
                goroutine.map_or_else(
                    || thread::spawn(client),
                    |goroutine| thread::spawn(|| join(goroutine)),
                )
            })
            .collect();
        clients
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(server.join().unwrap(), 20 * 50 * 100);
    });
}

#[test]
fn a_connection_can_move_between_goroutines_and_threads() {
    check(|| {
        let (mut near, mut far) = pair();
        for round in 0..300u32 {
            let next = move || {
                let mut bytes = [0; 4];
                near.read_exact(&mut bytes).unwrap();
                (near, u32::from_ne_bytes(bytes))
            };
            let reader = match round % 10 {
                0 => go(move || {
                    let thread = thread::spawn(next);
                    until("the thread has read", || thread.is_finished());
                    thread.join().unwrap()
                }),
                _ => go(next),
            };
            yield_now();
            far.write_all(&round.to_ne_bytes()).unwrap();
            let (back, number) = join(reader);
            assert_eq!(number, round);
            near = back;
        }
    });
}

#[test]
fn messages_of_every_size_around_the_buffer_arrive() {
    const BUFFER: usize = 64;
    check(|| {
        let (mut near, mut far) = pair();
        let reader = go(move || {
            for len in 1..=3 * BUFFER {
                let mut buffer = [0; BUFFER];
                let mut rest = len;
                while rest > 0 {
                    let n = near.read(&mut buffer).unwrap();
                    assert!(n > 0 && buffer[..n].iter().all(|&byte| byte == len as u8));
                    rest -= n;
                }
                near.write_all(&[0]).unwrap();
            }
        });
        for len in 1..=3 * BUFFER {
            far.write_all(&vec![len as u8; len]).unwrap();
            far.read_exact(&mut [0]).unwrap();
        }
        join(reader);
    });
}

#[test]
fn queued_connections_are_accepted_by_all_waiting_acceptors() {
    const CLIENTS: usize = 100;
    check(|| {
        let listener = listener();
        let addr = listener.local_addr().unwrap();
        let acceptors: Vec<_> = (0..3)
            .map(|_| {
                let listener = listener.try_clone().unwrap();
                go(move || {
                    listener
                        .incoming()
                        .take_while(|accepted| accepted.is_ok())
                        .map(|accepted| go(|| echo(accepted.unwrap())))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| TcpStream::connect(addr).unwrap())
            .collect();
        for mut client in clients {
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        listener.close().unwrap();
        let served: Vec<_> = acceptors.into_iter().flat_map(join).collect();
        assert_eq!(served.len(), CLIENTS);
        assert!(
            served
                .into_iter()
                .map(join)
                .all(|echoed| echoed.unwrap() == 1)
        );
    });
}

#[test]
fn a_connection_that_was_reset_in_the_queue_does_not_hold_up_the_listener() {
    check(|| {
        let listener = listener();
        let addr = listener.local_addr().unwrap();
        for _ in 0..5 {
            let reset = TcpStream::connect(addr).unwrap();
            reset.set_linger(Some(std::time::Duration::ZERO)).unwrap();
        }
        let client = TcpStream::connect(addr).unwrap();
        let here = client.local_addr().unwrap();
        while listener.accept().unwrap().1 != here {}
    });
}

#[test]
fn a_refused_connection_is_an_error_at_once() {
    check(|| {
        let listener = listener();
        let addr = listener.local_addr().unwrap();
        listener.close().unwrap();
        for _ in 0..20 {
            assert_eq!(
                TcpStream::connect(addr).unwrap_err().kind(),
                io::ErrorKind::ConnectionRefused
            );
        }
    });
}

#[test]
fn readers_written_for_std_work() {
    check(|| {
        let (mut near, far) = pair();
        let reader = go(move || {
            BufReader::new(far)
                .lines()
                .map(|line| line.unwrap().len())
                .sum::<usize>()
        });
        for line in 0..1000 {
            writeln!(near, "{line}").unwrap();
        }
        drop(near);
        assert_eq!(join(reader), 10 + 180 + 2700);
    });
}

#[test]
fn a_descriptor_that_is_no_socket_fails_and_disturbs_no_other() {
    check(|| {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let mut stream =
            TcpStream::from(std::net::TcpStream::from(std::os::fd::OwnedFd::from(file)));
        assert_eq!(
            stream.read(&mut [0; 16]).unwrap_err().raw_os_error(),
            Some(libc::ENOTSOCK)
        );
        assert_eq!(
            stream.write(b"x").unwrap_err().raw_os_error(),
            Some(libc::ENOTSOCK)
        );
        stream.close().unwrap();
        let (mut near, mut far) = pair();
        near.write_all(b"x").unwrap();
        far.read_exact(&mut [0]).unwrap();
    });
}

#[test]
fn a_duplicate_set_to_blocking_does_not_block_a_thread() {
    check(|| {
        let (mut near, mut far) = pair();
        let duplicate = std::net::TcpStream::from(near.as_fd().try_clone_to_owned().unwrap());
        duplicate.set_nonblocking(false).unwrap();
        near.set_deadline(Some(Instant::now() + Duration::from_millis(20)))
            .unwrap();
        assert_eq!(
            near.read(&mut [0; 10]).unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );
        assert_eq!(
            near.read_vectored(&mut [IoSliceMut::new(&mut [0; 10])])
                .unwrap_err()
                .kind(),
            io::ErrorKind::TimedOut
        );
        assert_eq!(
            near.write_all(&vec![7; 64 << 20]).unwrap_err().kind(),
            io::ErrorKind::TimedOut
        );

        near.set_deadline(None).unwrap();
        let reader = go(move || near.read(&mut [0; 10]).unwrap());
        yield_now();
        far.write_all(b"hello").unwrap();
        assert_eq!(join(reader), 5);
    });
}
