//! Deadlines and timeouts.

use super::check_on_thread;
use crate::check;
use gopark::net::TcpStream;
use gopark::{go, sleep, yield_now};
use gopark_tests::sockets::{assert_timeout, listener, narrow_pair, pair, pair_at, pattern};
use gopark_tests::{Dice, join, until};
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);

/// An upper limit for any wake-up on a loaded machine.
const SOON: Duration = Duration::from_secs(10);

fn after(duration: Duration) -> Option<Instant> {
    Some(Instant::now() + duration)
}

fn past() -> Option<Instant> {
    Some(Instant::now() - MS)
}

#[test]
fn a_deadline_in_the_past_wakes_a_blocked_reader_and_loses_nothing() {
    check(|| {
        let (near, mut far) = pair();
        for round in 0..100u8 {
            let reader = {
                let mut near = near.try_clone().unwrap();
                go(move || near.read(&mut [0; 16]))
            };
            (0..round % 4).for_each(|_| yield_now());
            let start = Instant::now();
            near.set_read_deadline(past()).unwrap();
            assert_timeout(join(reader));
            assert!(start.elapsed() < SOON);

            near.set_read_deadline(None).unwrap();
            far.write_all(&[round; 3]).unwrap();
            let mut bytes = [0; 3];
            (&near).read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, [round; 3]);
        }
    });
}

#[test]
fn an_expired_deadline_fails_a_read_even_with_data_there() {
    check(|| {
        let (mut near, mut far) = pair();
        far.write_all(b"data").unwrap();
        assert_eq!(near.peek(&mut [0; 10]).unwrap(), 4);
        near.set_read_deadline(past()).unwrap();
        for _ in 0..3 {
            assert_timeout(near.read(&mut [0; 10]));
            assert_timeout(near.peek(&mut [0; 10]));
        }
        near.set_read_deadline(None).unwrap();
        assert_eq!(near.read(&mut [0; 10]).unwrap(), 4);
    });
}

#[test]
fn a_read_never_fails_before_its_deadline() {
    check(|| {
        let readers: Vec<_> = (0..50)
            .map(|seed| {
                let (mut near, far) = pair();
                go(move || {
                    let dice = Dice::new(seed);
                    for _ in 0..10 {
                        let deadline = Instant::now() + Duration::from_nanos(dice.below(4_000_000));
                        near.set_read_deadline(Some(deadline)).unwrap();
                        assert_timeout(near.read(&mut [0; 16]));
                        assert!(Instant::now() >= deadline);
                    }
                    drop(far);
                })
            })
            .collect();
        readers.into_iter().for_each(join);
    });
}

#[test]
fn a_write_deadline_ends_a_blocked_write() {
    check(|| {
        let (mut near, far) = narrow_pair();
        let deadline = Instant::now() + 5 * MS;
        near.set_write_deadline(Some(deadline)).unwrap();
        assert_timeout(near.write_all(&vec![7; 1 << 20]));
        assert!(Instant::now() >= deadline);
        assert_timeout(near.write(b"x"));
        near.set_write_deadline(None).unwrap();
        let reader = go(move || {
            gopark_tests::sockets::read_to_end(&far, 1 << 16).map(|bytes| bytes.last().copied())
        });
        near.write_all(b"the end").unwrap();
        drop(near);
        assert_eq!(join(reader).unwrap(), Some(b'd'));
    });
}

#[test]
fn an_accept_has_a_deadline() {
    check(|| {
        let listener = listener();
        for _ in 0..20 {
            let deadline = Instant::now() + MS;
            listener.set_deadline(Some(deadline)).unwrap();
            assert_timeout(listener.accept());
            assert!(Instant::now() >= deadline);
        }
        listener.set_deadline(None).unwrap();
        pair_at(&listener);
    });
}

#[test]
fn one_deadline_for_both_directions_ends_both() {
    check(|| {
        for _ in 0..20 {
            let (near, _far) = narrow_pair();
            let near = Arc::new(near);
            near.set_deadline(after(2 * MS)).unwrap();
            let reader = {
                let near = near.clone();
                go(move || (&*near).read(&mut [0; 16]))
            };
            let writer = go(move || (&*near).write_all(&vec![7; 1 << 20]));
            assert_timeout(join(reader));
            assert_timeout(join(writer));
        }
    });
}

#[test]
fn the_deadline_of_one_direction_leaves_the_other_alone() {
    check(|| {
        let (mut near, mut far) = pair();
        near.set_read_deadline(past()).unwrap();
        near.write_all(b"to").unwrap();
        far.read_exact(&mut [0; 2]).unwrap();
        near.set_read_deadline(None).unwrap();
        near.set_write_deadline(past()).unwrap();
        far.write_all(b"fro").unwrap();
        near.read_exact(&mut [0; 3]).unwrap();
        assert_timeout(near.write(b"x"));
        // Both directions, then one of them alone again.
        near.set_deadline(after(3_600_000 * MS)).unwrap();
        near.set_read_deadline(past()).unwrap();
        assert_timeout(near.read(&mut [0; 1]));
        near.write_all(b"x").unwrap();
    });
}

#[test]
fn a_deadline_can_be_moved_under_a_blocked_reader() {
    check(|| {
        for moves in [[1, 30], [3_600_000, 3]] {
            let (near, _far) = pair();
            let [first, second] = moves.map(|ms| ms * MS);
            near.set_read_deadline(after(first)).unwrap();
            let reader = {
                let mut near = near.try_clone().unwrap();
                go(move || near.read(&mut [0; 16]))
            };
            yield_now();
            let deadline = Instant::now() + second;
            near.set_read_deadline(Some(deadline)).unwrap();
            let early = reader.is_finished();
            assert_timeout(join(reader));
            assert!(early || Instant::now() >= deadline);
            assert!(deadline.elapsed() < SOON);
        }
    });
}

#[test]
fn a_cleared_deadline_ends_nothing() {
    check(|| {
        let readers: Vec<_> = (0..50)
            .map(|seed| {
                let (mut near, far) = pair();
                let writer = go(move || {
                    let dice = Dice::new(seed);
                    for round in 0..10 {
                        sleep(Duration::from_micros(500 + dice.below(2000)));
                        (&far).write_all(&[round]).unwrap();
                    }
                    far
                });
                go(move || {
                    for round in 0..10 {
                        near.set_deadline(after(MS)).unwrap();
                        near.set_deadline(None).unwrap();
                        let mut byte = [0];
                        assert_eq!(near.read(&mut byte).unwrap(), 1);
                        assert_eq!(byte, [round]);
                    }
                    join(writer);
                })
            })
            .collect();
        readers.into_iter().for_each(join);
    });
}

#[test]
fn a_deadline_in_the_far_future_never_comes() {
    check(|| {
        let (mut near, mut far) = pair();
        near.set_deadline(after(Duration::from_secs(30_000_000_000)))
            .unwrap();
        let reader = go(move || near.read(&mut [0; 16]));
        sleep(5 * MS);
        assert!(!reader.is_finished());
        far.write_all(b"x").unwrap();
        assert_eq!(join(reader).unwrap(), 1);
    });
}

#[test]
fn an_ordinary_thread_has_deadlines_and_is_woken_by_them() {
    check_on_thread(|| {
        let (mut near, mut far) = pair();
        let deadline = Instant::now() + 3 * MS;
        near.set_read_deadline(Some(deadline)).unwrap();
        assert_timeout(near.read(&mut [0; 16]));
        assert!(Instant::now() >= deadline);
        near.set_read_deadline(None).unwrap();

        let blocked = {
            let mut near = near.try_clone().unwrap();
            thread::spawn(move || near.read(&mut [0; 16]))
        };
        thread::yield_now();
        near.set_read_deadline(past()).unwrap();
        assert_timeout(blocked.join().unwrap());
        near.set_read_deadline(None).unwrap();
        far.write_all(b"still there").unwrap();
        near.read_exact(&mut [0; 11]).unwrap();
    });
}

#[test]
fn a_sooner_deadline_from_an_ordinary_thread_comes_in_time() {
    check_on_thread(|| {
        for _ in 0..20 {
            let (near, _far) = pair();
            near.set_read_deadline(after(3_600_000 * MS)).unwrap();
            let reader = {
                let mut near = near.try_clone().unwrap();
                go(move || near.read(&mut [0; 16]))
            };
            thread::yield_now();
            let deadline = Instant::now() + MS;
            near.set_read_deadline(Some(deadline)).unwrap();
            assert_timeout(join(reader));
            let late = deadline.elapsed();
            assert!(Instant::now() >= deadline && late < SOON, "{late:?}");
        }
    });
}

#[test]
fn a_timeout_applies_to_each_operation_separately() {
    check(|| {
        let (mut near, mut far) = narrow_pair();
        near.set_read_timeout(Some(4 * MS)).unwrap();
        assert_eq!(
            (near.read_timeout().unwrap(), near.write_timeout().unwrap()),
            (Some(4 * MS), None)
        );
        for _ in 0..5 {
            let start = Instant::now();
            assert_timeout(near.read(&mut [0; 16]));
            assert!(start.elapsed() >= 4 * MS);
            far.write_all(b"x").unwrap();
            assert_eq!(near.read(&mut [0; 16]).unwrap(), 1);
        }
        // The time between operations does not count.
        sleep(6 * MS);
        far.write_all(b"y").unwrap();
        assert_eq!(near.read(&mut [0; 16]).unwrap(), 1);

        near.set_write_timeout(Some(MS)).unwrap();
        assert_timeout(near.write_all(&vec![7; 1 << 20]));
        assert_eq!(
            near.set_read_timeout(Some(Duration::ZERO))
                .unwrap_err()
                .kind(),
            ErrorKind::InvalidInput
        );
        near.set_read_timeout(None).unwrap();
        assert_eq!(near.read_timeout().unwrap(), None);
        far.write_all(b"z").unwrap();
        assert_eq!(near.read(&mut [0; 16]).unwrap(), 1);
    });
}

/// Returns when the goroutine `name` is parked in a read, or has returned.
fn until_it_reads<T>(name: &str, reader: &gopark::JoinHandle<T>) {
    until("it reads", || {
        let mut dump = Vec::new();
        gopark::dump(&mut dump).unwrap();
        reader.is_finished()
            || String::from_utf8_lossy(&dump).contains(&format!("\"{name}\" [IO wait"))
    });
}

#[test]
fn a_timeout_set_on_another_handle_does_not_change_a_read_under_way() {
    check(|| {
        for (own, others) in [
            (Some(60 * MS), None),
            (Some(60 * MS), Some(3_600_000 * MS)),
            (None, Some(MS)),
        ] {
            let (near, mut far) = pair();
            near.set_read_timeout(own).unwrap();
            let reader = {
                let mut near = near.try_clone().unwrap();
                go(move || {
                    gopark::set_name("timed reader");
                    near.read(&mut [0; 16])
                })
            };
            until_it_reads("timed reader", &reader);
            near.set_read_timeout(others).unwrap();
            if own.is_some() {
                assert_timeout(join(reader));
            } else {
                sleep(5 * MS);
                assert!(!reader.is_finished());
                far.write_all(b"x").unwrap();
                assert_eq!(join(reader).unwrap(), 1);
            }
            assert_eq!(near.read_timeout().unwrap(), others);
        }
    });
}

#[test]
fn a_removed_timeout_does_not_end_a_later_read() {
    check(|| {
        let (mut near, mut far) = pair();
        near.set_read_timeout(Some(MS)).unwrap();
        assert_timeout(near.read(&mut [0; 16]));
        near.set_read_timeout(None).unwrap();
        let reader = go(move || near.read(&mut [0; 16]));
        sleep(5 * MS);
        assert!(!reader.is_finished());
        far.write_all(b"x").unwrap();
        assert_eq!(join(reader).unwrap(), 1);
    });
}

#[test]
fn data_that_was_there_before_a_read_comes_before_its_timeout() {
    check(|| {
        let (near, mut far) = pair();
        far.write_all(b"x").unwrap();
        let mut near = near;
        // A short read, so that the next read waits for an edge.
        assert_eq!(near.read(&mut [0; 16]).unwrap(), 1);
        for _ in 0..5 {
            far.write_all(b"x").unwrap();
            near.set_read_timeout(Some(MS)).unwrap();
            // The thread is busy from the moment the read waits until long after its timeout.
            let busy = gopark::go_local(|| thread::sleep(3 * MS));
            assert_eq!(near.read(&mut [0; 16]).unwrap(), 1);
            join(busy);
        }
    });
}

#[test]
fn a_deadline_before_every_read_loses_nothing() {
    fn echo(mut stream: TcpStream) {
        let mut buffer = [0; 256];
        loop {
            stream.set_deadline(after(30_000 * MS)).unwrap();
            match stream.read(&mut buffer).unwrap() {
                0 => return,
                n => stream.write_all(&buffer[..n]).unwrap(),
            }
        }
    }
    check(|| {
        let clients: Vec<_> = (0..50)
            .map(|seed| {
                let (mut near, far) = pair();
                go(|| echo(far));
                go(move || {
                    let dice = Dice::new(seed);
                    for _ in 0..50 {
                        let message = pattern(1 + dice.below(256) as usize);
                        near.write_all(&message).unwrap();
                        near.set_read_deadline(after(30_000 * MS)).unwrap();
                        let mut reply = vec![0; message.len()];
                        near.read_exact(&mut reply).unwrap();
                        assert!(reply == message);
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(join);
    });
}

#[test]
fn deadlines_that_come_and_go_lose_no_byte() {
    const LEN: usize = 400_000;
    check(|| {
        let (near, mut far) = pair();
        let done = Arc::new(AtomicBool::new(false));
        let nagger = {
            let (near, done) = (near.try_clone().unwrap(), done.clone());
            go(move || {
                let dice = Dice::new(1);
                while !done.load(SeqCst) {
                    let deadline = [past(), None, after(Duration::from_micros(dice.below(100)))]
                        [dice.below(3) as usize];
                    match dice.below(2) {
                        0 => near.set_deadline(deadline).unwrap(),
                        _ => near.set_read_deadline(deadline).unwrap(),
                    }
                    yield_now();
                }
                near.set_deadline(None).unwrap();
            })
        };
        let writer = go(move || {
            for chunk in pattern(LEN).chunks(1000) {
                far.write_all(chunk).unwrap();
                yield_now();
            }
        });
        let reader = {
            let mut near = near.try_clone().unwrap();
            go(move || {
                let mut all = Vec::new();
                let mut buffer = [0; 3000];
                while all.len() < LEN {
                    match near.read(&mut buffer) {
                        Ok(n) => all.extend_from_slice(&buffer[..n]),
                        Err(_) if done.load(SeqCst) => unreachable!("the deadlines still change"),
                        timeout => {
                            assert_timeout(timeout);
                            yield_now();
                        }
                    }
                }
                done.store(true, SeqCst);
                all
            })
        };
        assert!(join(reader) == pattern(LEN));
        join(writer);
        join(nagger);
    });
}

#[test]
fn a_stale_deadline_never_ends_an_operation_of_the_next_connection() {
    check(|| {
        let lanes: Vec<_> = (0..8)
            .map(|seed| {
                go(move || {
                    let dice = Dice::new(seed);
                    let listener = listener();
                    for _ in 0..100 {
                        let (old, _peer) = pair_at(&listener);
                        old.set_deadline(after(Duration::from_micros(dice.below(300))))
                            .unwrap();
                        let reader = {
                            let mut old = old.try_clone().unwrap();
                            go(move || old.read(&mut [0; 1]))
                        };
                        sleep(Duration::from_micros(dice.below(300)));
                        old.close().unwrap();
                        join(reader).unwrap_err();

                        // It reuses the descriptor number and the poll descriptor of the connection
                        // just closed.
                        let (mut new, mut peer) = pair_at(&listener);
                        let late = go(move || {
                            sleep(Duration::from_micros(400));
                            peer.write_all(b"x").map(|()| peer)
                        });
                        assert_eq!(new.read(&mut [0; 8]).unwrap(), 1);
                        join(late).unwrap();
                    }
                })
            })
            .collect();
        lanes.into_iter().for_each(join);
    });
}
