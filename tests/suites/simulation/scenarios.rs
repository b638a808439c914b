//! Bugs that other runtimes had, each as a small program that would show it. The numbers are those
//! of `docs/verification.md`. Bugs that need a real kernel or weak memory are elsewhere
//! (`conformance`, `core/models`).

#[path = "scenarios/scheduling.rs"]
mod scheduling;

use crate::computer::{NEVER, Odds, computer};
use crate::kernel::{EMFILE, Kernel, Kind};
use crate::program::{Actor, Socket, below, reader, sched, writer, yield_now};
use crate::sharing::Arm;
use crate::{Arrangement, Runs, explore};
use gopark_core::fd::FdError;
use gopark_core::os::{Errno, Mode, Nanos};
use gopark_core::polldesc::{Deadline, PollError};
use gopark_core::select::Limit;
use std::sync::Arc;

/// Seeds for each scenario. A scheduler with the bug fails many of them.
const SEEDS: u64 = 150;

fn check(odds: fn(&mut Odds), main: fn(Actor)) {
    explore(
        0..SEEDS,
        Runs {
            odds,
            arrangement: None,
            main,
        },
    );
}

fn check_on(arrangement: Arrangement, main: fn(Actor)) {
    explore(
        0..SEEDS,
        Runs {
            odds: |_| (),
            arrangement: Some(arrangement),
            main,
        },
    );
}

fn as_drawn(_: &mut Odds) {}

fn must(holds: bool, what: &str) {
    if !holds {
        computer().fail(what.into());
    }
}

fn pair(capacity: usize) -> [Arc<Socket>; 2] {
    // Counts that never reach zero: no reader or writer closes the socket as the last one.
    Kernel::pair(capacity).map(|end| Socket::new(end, 9, 9))
}

/// Like `read`, but repeats it while the poller refuses the descriptor.
fn read(actor: Actor, socket: &Socket, len: usize) -> Result<usize, FdError> {
    loop {
        match actor.read(socket, len) {
            Err(FdError::Os(errno)) if errno.raw() == crate::kernel::ENOMEM => {}
            result => return result,
        }
    }
}

/// Like `write`, but repeats it while the poller refuses the descriptor. A refused write may have
/// sent a part, so the peer may get more than `len` bytes, and may be gone before all are sent.
fn write(actor: Actor, socket: &Socket, len: usize) {
    let no_memory = |errno: Errno| errno.raw() == crate::kernel::ENOMEM;
    while matches!(actor.write(socket, len), Err(FdError::Os(errno)) if no_memory(errno)) {}
}

const CLOSING: FdError = FdError::Poll(PollError::Closing);
const TIMEOUT: FdError = FdError::Poll(PollError::Timeout);

/// 1, golang/go #19289: an event of an earlier use of a poll descriptor ends the next use's dial
/// before it is connected.
#[test]
fn a_dial_on_a_recycled_descriptor_waits_for_its_own_connect() {
    let stale = |odds: &mut Odds| (odds.spurious, odds.refuse) = (2, NEVER);
    check(stale, |actor| {
        let listener = Socket::new(Kernel::create(Kind::Listener), 9, 0);
        for _ in 0..4 {
            let [a, b] = pair(64);
            let other = b.clone();
            let waits = Actor::go(move |actor| {
                must(
                    actor.read(&other, 8) == Err(CLOSING),
                    "a read without data must fail with closing",
                )
            });
            actor.sleep(below(20_000));
            actor.close(&b);
            let socket = Socket::new(Kernel::create(Kind::Unconnected), 9, 9);
            must(
                socket.fd.register().is_ok(),
                "the kernel refuses nothing here",
            );
            Kernel::connect(socket.file, listener.file);
            let connected = actor.connect(&socket).is_ok();
            must(
                connected == (computer().kernel.borrow().files[socket.file].kind == Kind::Stream),
                "the dial and the kernel must agree",
            );
            actor.join(waits);
            drop(a);
        }
    });
}

/// 2, golang/go #59545 and #59631: the error of a broken device reaches the pipe that reuses its
/// poll descriptor.
#[test]
fn a_dead_devices_error_does_not_reach_the_next_use() {
    check(
        |odds| odds.spurious = 2,
        |actor| {
            for _ in 0..4 {
                let device = Socket::new(Kernel::create(Kind::Broken), 9, 0);
                let result = read(actor, &device, 8);
                must(
                    result == Err(FdError::Poll(PollError::NotPollable)),
                    "a dead device is not pollable",
                );
                actor.close(&device);
                let [a, b] = pair(16);
                let sender = Actor::go(move |actor| {
                    actor.sleep(below(200_000));
                    write(actor, &b, 40);
                });
                let mut got = 0;
                while got < 40 {
                    match read(actor, &a, 16) {
                        Ok(n @ 1..) => got += n,
                        other => {
                            return computer()
                                .fail(format!("a pipe after a dead device: {other:?}"));
                        }
                    }
                }
                actor.join(sender);
            }
        },
    );
}

/// 3, golang/go #33624 and #60782: a waiter in a poller is counted when it starts to wait, but not
/// when it stops.
#[test]
fn every_wait_in_a_poller_is_counted_in_and_out() {
    check(as_drawn, |actor| {
        for round in 0..12 {
            let [a, b] = pair(16);
            let waits = Actor::go(move |actor| _ = read(actor, &b, 8));
            actor.sleep(below(50_000));
            match round % 3 {
                0 => _ = actor.write(&a, 4),
                1 => _ = actor.close(&a),
                _ => actor.shutdown(&a),
            }
            drop(a);
            actor.join(waits);
        }
        must(
            sched().num_poll_waiters() == 0,
            "no goroutine may be counted as a waiter",
        );
    });
}

/// 5, golang/go #45211: a reader parks after the close has begun, and no close wakes it.
#[test]
fn a_reader_that_parks_while_another_closes_is_told() {
    check(as_drawn, |actor| {
        for _ in 0..8 {
            let [a, _b] = pair(16);
            let other = a.clone();
            let waits = Actor::go(move |actor| {
                must(
                    read(actor, &other, 8) == Err(CLOSING),
                    "the read must fail with closing",
                )
            });
            (0..below(4)).for_each(|_| yield_now());
            actor.close(&a);
            actor.join(waits);
        }
    });
}

/// 6, golang/go #35532: a deadline changes while it expires, and two locks are taken in both
/// orders.
#[test]
fn a_deadline_can_be_changed_while_it_expires() {
    check(as_drawn, |actor| {
        let [a, b] = pair(16);
        let other = a.clone();
        let waits = Actor::go(move |actor| {
            while read(actor, &other, 8) == Err(TIMEOUT) {
                yield_now();
            }
        });
        for _ in 0..20 {
            let soon = below(5_000);
            let _ = actor.set_deadline(&a, None, Deadline::At(computer().now() + soon as Nanos));
            actor.sleep(soon);
        }
        let _ = actor.set_deadline(&a, None, Deadline::None);
        drop(b);
        actor.join(waits);
    });
}

/// 13, libuv #354 and #922, netty #3398: a huge timeout overflows to a negative or an infinite one.
#[test]
fn times_at_both_ends_of_the_range_mean_what_they_say() {
    check(as_drawn, |actor| {
        let [a, b] = pair(16);
        for never in [Nanos::MAX, Nanos::MAX - 1, Nanos::MAX / 2] {
            let _ = actor.set_deadline(&a, None, Deadline::At(never));
            let other = a.clone();
            let waits = Actor::go(move |actor| {
                must(
                    read(actor, &other, 1) == Ok(1),
                    "the deadline has not passed",
                )
            });
            actor.sleep(1_000_000_000_000_000_000);
            write(actor, &b, 1);
            actor.join(waits);
        }
        for passed in [
            Deadline::Passed,
            Deadline::At(1),
            Deadline::At(computer().now()),
        ] {
            let _ = actor.set_deadline(&a, None, passed);
            must(read(actor, &a, 1) == Err(TIMEOUT), "the read must time out");
        }
    });
}

/// 23, libuv #1099 and manticore #4057: a closed descriptor whose file has a second number keeps
/// reporting to the poller.
#[test]
fn a_closed_descriptor_reports_nothing_although_its_file_is_open() {
    check(as_drawn, |actor| {
        let [a, b] = pair(16);
        let number = Kernel::dup(b.file);
        let other = b.clone();
        let waits = Actor::go(move |actor| _ = read(actor, &other, 4));
        actor.sleep(below(20_000));
        actor.close(&b);
        must(
            !computer().kernel.borrow().files[b.file].is_watched(),
            "a closed descriptor must not be watched",
        );
        let _ = actor.write(&a, 4);
        actor.join(waits);
        Kernel::close(number);
    });
}

/// 24, libuv #690, twisted #5368, libmill #182: an accept that finds no free number consumes the
/// edge, and the queue is never served.
#[test]
fn an_accept_after_one_that_found_no_number_serves_the_queue() {
    let full = |odds: &mut Odds| odds.refuse = 2;
    check(full, |actor| {
        let listener = Socket::new(Kernel::create(Kind::Listener), 9, 0);
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let listener = listener.clone();
                Actor::go(move |actor| {
                    let socket = Socket::new(Kernel::create(Kind::Unconnected), 9, 9);
                    Kernel::connect_for_sure(socket.file, listener.file);
                    while actor.connect(&socket).is_err() {}
                })
            })
            .collect();
        let mut served = 0;
        while served < 4 {
            match actor.accept(&listener) {
                Ok(connection) => {
                    drop(Socket::new(connection, 9, 9));
                    served += 1;
                }
                Err(FdError::Os(errno)) => must(
                    [EMFILE, crate::kernel::ENOMEM].contains(&errno.raw()),
                    "only these two errors can happen",
                ),
                Err(error) => computer().fail(format!("accept fails with {error}")),
            }
        }
        clients.into_iter().for_each(|client| actor.join(client));
    });
}

/// 26, ceph #44344 and libuv #1703: a refused registration leaves the descriptor half registered,
/// or leaves a waiter that no event wakes.
#[test]
fn a_refused_registration_is_retried_by_the_next_operation() {
    let refused = |odds: &mut Odds| (odds.refuse, odds.switch) = (2, 1);
    check(refused, |actor| {
        for _ in 0..4 {
            // The stream ends when a writer has sent less than the reader asks for.
            let [a, b] = Kernel::pair(4).map(|end| Socket::new(end, 9, 1));
            let parts: Vec<_> = [a, b]
                .into_iter()
                .flat_map(|socket| {
                    let writes = socket.clone();
                    [
                        Actor::go(move |actor| writer(actor, &writes)),
                        Actor::go(move |actor| {
                            actor.sleep(below(100));
                            _ = (0..3).find(|_| read(actor, &socket, 60).is_err());
                            actor.close(&socket);
                        }),
                    ]
                })
                .collect();
            parts.into_iter().for_each(|part| actor.join(part));
        }
    });
}

/// 27, golang/go #14548: an unconnected descriptor is writable, and the dial takes that for the end
/// of the connect.
#[test]
fn a_descriptor_that_is_writable_before_it_connects_does_not_end_the_dial() {
    let slow = |odds: &mut Odds| (odds.latency, odds.refuse) = (5_000_000, NEVER);
    check(slow, |actor| {
        let listener = Socket::new(Kernel::create(Kind::Listener), 9, 0);
        let socket = Socket::new(Kernel::create(Kind::Unconnected), 9, 9);
        must(
            socket.fd.register().is_ok(),
            "the kernel refuses nothing here",
        );
        actor.sleep(below(2_000));
        Kernel::connect_for_sure(socket.file, listener.file);
        must(actor.connect(&socket) == Ok(()), "the dial must succeed");
        must(
            computer().kernel.borrow().files[socket.file].kind == Kind::Stream,
            "the dial ends when it is connected",
        );
    });
}

/// 32, golang/go #21856 and #24455: close returns before the kernel has released the number, or a
/// reader keeps the number in use.
#[test]
fn a_close_returns_when_the_number_is_free() {
    check(as_drawn, |actor| {
        for _ in 0..6 {
            let [a, _b] = pair(16);
            let number = a.fd.raw();
            let readers =
                [a.clone(), a.clone()].map(|socket| Actor::go(move |actor| reader(actor, &socket)));
            actor.sleep(below(10_000));
            if actor.close(&a) {
                must(
                    !computer().kernel.borrow().names(number, a.file),
                    "the number must be free",
                );
            }
            readers.into_iter().for_each(|reader| actor.join(reader));
        }
    });
}

/// A bug of gopark: a second operation armed its direction before the first one had registered the
/// descriptor, and the arming was lost. Both operations wait: a reader for bytes, a writer for
/// room.
#[test]
fn a_direction_that_waits_while_the_other_registers_is_armed() {
    check_on(
        Arrangement {
            procs: 2,
            pollers: 1,
            migrate: false,
            level: true,
        },
        |actor| {
            for _ in 0..4 {
                let [a, b] = pair(8);
                let other = a.clone();
                let reads = Actor::go(move |actor| while read(actor, &other, 4) != Ok(0) {});
                let writes = Actor::go(move |actor| write(actor, &a, 30));
                let peer = Actor::go(move |actor| {
                    actor.sleep(100_000);
                    write(actor, &b, 4);
                    let mut got = 0;
                    while got < 30 {
                        got += read(actor, &b, 30).unwrap_or(0);
                    }
                    actor.shutdown(&b);
                });
                [reads, writes, peer]
                    .into_iter()
                    .for_each(|part| actor.join(part));
            }
        },
    );
}

/// The same for selects: one that waits for room while a reader registers the descriptor.
#[test]
fn a_select_that_waits_while_a_reader_registers_is_armed() {
    check_on(
        Arrangement {
            procs: 3,
            pollers: 1,
            migrate: false,
            level: true,
        },
        |actor| {
            for _ in 0..4 {
                let [a, b] = pair(8);
                write(actor, &a, 8);
                let other = a.clone();
                let reads = Actor::go(move |actor| while read(actor, &other, 4) != Ok(0) {});
                let other = a.clone();
                let selects = Actor::go(move |actor| {
                    _ = actor.select(&[Arm::Ready(&other, Mode::Write)], true, Limit::Never)
                });
                let peer = Actor::go(move |actor| {
                    actor.sleep(100_000);
                    let mut got = 0;
                    while got < 8 {
                        got += read(actor, &b, 8).unwrap_or(0);
                    }
                    actor.sleep(100_000);
                    actor.shutdown(&b);
                });
                [reads, selects, peer]
                    .into_iter()
                    .for_each(|part| actor.join(part));
                drop(a);
            }
        },
    );
}
