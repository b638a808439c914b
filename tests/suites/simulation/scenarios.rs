//! Bugs that other runtimes had, each as a small program that would show it. `docs/verification.md` numbers them; those that need a real kernel
//! or a weak memory are elsewhere (`conformance`, `core/models`).

use crate::kernel::{EMFILE, Kernel, Kind};
use crate::machine::{NEVER, Odds, Sight, world};
use crate::oracle::SLACK;
use crate::program::{Actor, Semaphore, Socket, below, reader, sched, writer, yield_now};
use crate::{Arrangement, Runs, explore};
use gopark_core::fd::FdError;
use gopark_core::os::{Mode, Nanos};
use gopark_core::polldesc::{Deadline, PollError};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Enough for each to meet its bug many times over.
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
        world().fail(what.into());
    }
}

fn pair(capacity: usize) -> [Arc<Socket>; 2] {
    // More readers and writers than there are: nobody is the last, who would close.
    Kernel::pair(capacity).map(|end| Socket::new(end, 9, 9))
}

/// As `read`, over and over while the poller refuses the descriptor.
fn read(actor: Actor, socket: &Socket, len: usize) -> Result<usize, FdError> {
    loop {
        match actor.read(socket, len) {
            Err(FdError::Os(errno)) if errno.raw() == crate::kernel::ENOMEM => {}
            result => return result,
        }
    }
}

const CLOSING: FdError = FdError::Poll(PollError::Closing);
const TIMEOUT: FdError = FdError::Poll(PollError::Timeout);

/// 1, golang/go #19289: an event of an earlier use of a poll descriptor ends the next use's dial before it is connected.
#[test]
fn a_dial_on_a_recycled_descriptor_waits_for_its_own_connect() {
    let stale = |odds: &mut Odds| (odds.spurious, odds.refuse) = (2, NEVER);
    check(stale, |actor| {
        let listener = Socket::new(Kernel::create(Kind::Listener), 9, 0);
        for _ in 0..4 {
            let [a, b] = pair(64);
            let other = b.clone();
            let waits = Actor::go(move |actor| {
                must(actor.read(&other, 8) == Err(CLOSING), "nothing was written")
            });
            actor.sleep(below(20_000));
            actor.close(&b);
            let socket = Socket::new(Kernel::create(Kind::Unconnected), 9, 9);
            must(socket.fd.register().is_ok(), "nothing is refused");
            Kernel::connect(socket.file, listener.file);
            let connected = actor.connect(&socket).is_ok();
            must(
                connected == (world().kernel.borrow().files[socket.file].kind == Kind::Stream),
                "the dial says what the kernel says",
            );
            actor.join(waits);
            drop(a);
        }
    });
}

/// 2, golang/go #59545 and #59631: the error of a dead device reaches the pipe that has its descriptor next.
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
                    while actor.write(&b, 40).is_err() {}
                });
                let mut got = 0;
                while got < 40 {
                    match read(actor, &a, 16) {
                        Ok(n @ 1..) => got += n,
                        other => {
                            return world().fail(format!("a pipe after a dead device: {other:?}"));
                        }
                    }
                }
                actor.join(sender);
            }
        },
    );
}

/// 3, golang/go #33624 and #60782: whoever waits in a poller is counted in and never out, whatever ends the wait.
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
        must(sched().num_poll_waiters() == 0, "nobody waits any more");
    });
}

/// 5, golang/go #45211: a reader parks although the descriptor has begun to close, and sleeps for ever.
#[test]
fn a_reader_that_parks_while_another_closes_is_told() {
    check(as_drawn, |actor| {
        for _ in 0..8 {
            let [a, _b] = pair(16);
            let other = a.clone();
            let waits = Actor::go(move |actor| {
                must(read(actor, &other, 8) == Err(CLOSING), "it was closed")
            });
            (0..below(4)).for_each(|_| yield_now());
            actor.close(&a);
            actor.join(waits);
        }
    });
}

/// 6, golang/go #35532: a deadline is changed at the very moment at which it passes: two locks taken in both orders.
#[test]
fn a_deadline_can_be_changed_at_its_hour() {
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
            let _ = actor.set_deadline(&a, None, Deadline::At(world().now() + soon as Nanos));
            actor.sleep(soon);
        }
        let _ = actor.set_deadline(&a, None, Deadline::None);
        drop(b);
        actor.join(waits);
    });
}

/// 10, golang/go #42515 and #36294: a wake-up meant for a thread that sleeps in a poller is swallowed, and what it announced waits.
#[test]
fn a_wake_from_outside_reaches_the_sleeper_of_a_busy_poller() {
    check(
        |odds| odds.spurious = 4,
        |actor| {
            let semaphore = Semaphore::new();
            let [a, b] = pair(4);
            let echo = [
                Actor::go(move |actor| writer(actor, &a)),
                Actor::go(move |actor| _ = (0..9).find(|_| read(actor, &b, 4).is_err())),
            ];
            let takes = semaphore.clone();
            let taker = Actor::go(move |actor| (0..10).for_each(|_| actor.take(&takes)));
            let (_, ended) = Actor::thread(move |actor| {
                for _ in 0..10 {
                    actor.sleep(below(30_000));
                    semaphore.give(1);
                }
            });
            actor.join(taker);
            actor.take(&ended);
            echo.into_iter().for_each(|part| actor.join(part));
        },
    );
}

/// 11, golang/go #44343 and #38860: a timer earlier than the one for which a thread sleeps is not noticed. The clock does not lie here: it
/// jumps to the next hour that some thread waits for, and must not jump over anybody's.
#[test]
fn an_earlier_timer_of_another_thread_is_noticed() {
    check(as_drawn, |actor| {
        let far = Actor::go(|actor| actor.sleep(50_000_000));
        let (_, ended) = Actor::thread(|actor| {
            let [a, _b] = pair(4);
            for after in [9_000_000, 6_000_000, 3_000_000, 1_000_000, 20_000] {
                let _ = actor.set_deadline(&a, None, Deadline::At(world().now() + after));
                let _ = actor.set_deadline(
                    &a,
                    Some(Mode::Read),
                    Deadline::At(world().now() + after / 2),
                );
                must(read(actor, &a, 4) == Err(TIMEOUT), "nothing was written");
            }
        });
        (0..3)
            .map(|_| Actor::go(|actor| actor.sleep(below(5_000_000))))
            .for_each(|sleeper| actor.join(sleeper));
        actor.take(&ended);
        actor.join(far);
    });
}

/// 12, oven-sh/bun #34780: an interrupted sleep starts over with its full time, or sleeps not at all.
#[test]
fn an_interrupted_sleep_ends_at_its_hour() {
    let interrupted = |odds: &mut Odds| (odds.interrupt, odds.stall) = (1, NEVER);
    check(interrupted, |actor| {
        for nanos in [1, 300, 300_000, 40_000_000] {
            let start = world().now();
            actor.sleep(nanos);
            must(
                world().now() - start < nanos as Nanos + 200_000 + SLACK,
                "it slept longer",
            );
        }
    });
}

/// 13, libuv #354 and #922, netty #3398: a huge time becomes a negative or an endless one.
#[test]
fn times_at_both_ends_of_the_range_mean_what_they_say() {
    check(as_drawn, |actor| {
        let [a, b] = pair(16);
        for never in [Nanos::MAX, Nanos::MAX - 1, Nanos::MAX / 2] {
            let _ = actor.set_deadline(&a, None, Deadline::At(never));
            let other = a.clone();
            let waits = Actor::go(move |actor| {
                must(read(actor, &other, 1) == Ok(1), "the deadline is far")
            });
            actor.sleep(1_000_000_000_000_000_000);
            while actor.write(&b, 1).is_err() {}
            actor.join(waits);
        }
        for passed in [
            Deadline::Passed,
            Deadline::At(1),
            Deadline::At(world().now()),
        ] {
            let _ = actor.set_deadline(&a, None, passed);
            must(
                read(actor, &a, 1) == Err(TIMEOUT),
                "the deadline has passed",
            );
        }
    });
}

/// 14, golang/go #60050, #47762, #38119, #25686: deadlines that are set again and again corrupt the heap, are forgotten, or starve others.
#[test]
fn a_storm_of_deadlines_disturbs_no_other_timer() {
    check(as_drawn, |actor| {
        let [a, b] = pair(16);
        let movers: Vec<_> = [a, b]
            .into_iter()
            .flat_map(|socket| [socket.clone(), socket])
            .map(|socket| {
                Actor::go(move |actor| {
                    for _ in 0..30 {
                        let mode = [Some(Mode::Read), Some(Mode::Write), None][below(3) as usize];
                        let deadline = [
                            Deadline::None,
                            Deadline::At(world().now() + below(100_000) as Nanos),
                        ][below(2) as usize];
                        let _ = actor.set_deadline(&socket, mode, deadline);
                        if below(3) == 0 {
                            yield_now();
                        }
                    }
                })
            })
            .collect();
        let sleepers: Vec<_> = (0..5)
            .map(|_| Actor::go(|actor| actor.sleep(below(100_000))))
            .collect();
        movers
            .into_iter()
            .chain(sleepers)
            .for_each(|part| actor.join(part));
    });
}

/// 15 and 16, tokio #1788 and #4383, golang/go #45867: the last thread that looks for work goes to sleep while work arrives. A goroutine
/// spawned by one that then computes must be started by another thread.
#[test]
fn a_goroutine_does_not_wait_for_the_one_that_spawned_it() {
    check_on(
        Arrangement {
            procs: 2,
            pollers: 2,
            migrate: false,
            level: false,
        },
        |actor| {
            for _ in 0..6 {
                let spawner = Actor::go(|actor| {
                    let child = Actor::go(|_| ());
                    actor.compute(400_000);
                    actor.join(child);
                });
                actor.join(spawner);
            }
        },
    );
}

/// Whatever the system says of a thread that is blocked or computes, another one runs what waits for
/// its P.
#[test]
fn a_thread_is_replaced_though_the_system_says_little_of_it() {
    let one_proc = Arrangement {
        procs: 1,
        pollers: 1,
        migrate: false,
        level: false,
    };
    let sights: [fn(&mut Odds); 4] = [
        |odds| odds.sight = Sight::Full,
        |odds| odds.sight = Sight::States,
        |odds| odds.sight = Sight::Clocks,
        |odds| odds.sight = Sight::Nothing,
    ];
    for odds in sights {
        explore(
            0..SEEDS / 2,
            Runs {
                odds,
                arrangement: Some(one_proc),
                main: a_thread_is_replaced,
            },
        );
    }
}

fn a_thread_is_replaced(actor: Actor) {
    let config = sched().config();
    if config.sysmon.is_none() || config.max_threads == 1 {
        return;
    }
    let keeper = Actor::go(|actor| {
        let ran = Arc::new(AtomicUsize::new(0));
        let theirs = ran.clone();
        let fresh = Actor::go(move |_| _ = theirs.fetch_add(1, SeqCst));
        actor.compute(100_000_000);
        must(ran.load(SeqCst) == 1, "a goroutine did not start in 100 ms");
        actor.join(fresh);
    });
    actor.join(keeper);
}

/// 17, tokio #8372 and #8373: the count of idle threads and the threads that are idle drift apart. The oracle compares them at each rest.
#[test]
fn idle_threads_are_counted_right_after_every_burst() {
    check_on(
        Arrangement {
            procs: 4,
            pollers: 1,
            migrate: true,
            level: false,
        },
        |actor| {
            for _ in 0..5 {
                let burst: Vec<_> = (0..8)
                    .map(|_| Actor::go(|_| (0..below(5)).for_each(|_| yield_now())))
                    .collect();
                actor.sleep(below(60_000));
                burst.into_iter().for_each(|part| actor.join(part));
                actor.sleep(200_000);
            }
        },
    );
}

/// 18, compio #948, and 29, glommio #552: of two wakers one relies on the other, who has not yet woken; the sleeper has looked already.
#[test]
fn goroutines_readied_by_several_threads_at_once_all_run() {
    check(as_drawn, |actor| {
        let semaphores: Vec<_> = (0..3).map(|_| Semaphore::new()).collect();
        let takers: Vec<_> = semaphores
            .iter()
            .map(|semaphore| {
                let semaphore = semaphore.clone();
                Actor::go(move |actor| (0..6).for_each(|_| actor.take(&semaphore)))
            })
            .collect();
        let givers: Vec<_> = semaphores
            .into_iter()
            .map(|semaphore| {
                Actor::thread(move |actor| {
                    for _ in 0..6 {
                        actor.sleep(10_000);
                        semaphore.give(1);
                    }
                })
            })
            .collect();
        takers.into_iter().for_each(|taker| actor.join(taker));
        givers.into_iter().for_each(|(_, ended)| actor.take(&ended));
    });
}

/// 19, CVE-2021-32810: an element of a queue is taken twice while thieves are at it and the queue overflows.
#[test]
fn each_of_many_goroutines_runs_once() {
    let arrangement = Arrangement {
        procs: 3,
        pollers: 1,
        migrate: true,
        level: false,
    };
    explore(
        0..8,
        Runs {
            odds: |_| (),
            arrangement: Some(arrangement),
            main: |actor| {
                let ran = Arc::new(AtomicUsize::new(0));
                let all: Vec<_> = (0..280)
                    .map(|_| {
                        let ran = ran.clone();
                        Actor::go(move |_| {
                            yield_now();
                            ran.fetch_add(1, SeqCst);
                        })
                    })
                    .collect();
                all.into_iter().for_each(|one| actor.join(one));
                must(ran.load(SeqCst) == 280, "each ran once");
            },
        },
    );
}

/// 23, libuv #1099 and manticore #4057: a descriptor that lives on under a second number keeps reporting to a watcher that is gone.
#[test]
fn a_closed_descriptor_is_silent_though_its_file_lives_on() {
    check(as_drawn, |actor| {
        let [a, b] = pair(16);
        let number = Kernel::dup(b.file);
        let other = b.clone();
        let waits = Actor::go(move |actor| _ = read(actor, &other, 4));
        actor.sleep(below(20_000));
        actor.close(&b);
        must(
            !world().kernel.borrow().files[b.file].is_watched(),
            "nobody watches a closed descriptor",
        );
        let _ = actor.write(&a, 4);
        actor.join(waits);
        Kernel::close(number);
    });
}

/// 24, libuv #690, twisted #5368, libmill #182: an accept that finds no free number uses up the edge, and the queue waits for ever.
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
                    "those two are refused",
                ),
                Err(error) => world().fail(format!("accept says {error}")),
            }
        }
        clients.into_iter().for_each(|client| actor.join(client));
    });
}

/// 26, ceph #44344 and libuv #1703: a registration that is refused leaves a descriptor half registered, or one who relies on it asleep.
#[test]
fn a_refused_registration_is_tried_again_by_whoever_needs_it() {
    let refused = |odds: &mut Odds| (odds.refuse, odds.switch) = (2, 1);
    check(refused, |actor| {
        for _ in 0..4 {
            // A writer that has less to say than the reader asks for ends the stream.
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

/// 27, golang/go #14548: an unconnected descriptor is writable, and the dial takes that for its end.
#[test]
fn a_descriptor_that_is_writable_before_it_connects_does_not_end_the_dial() {
    let slow = |odds: &mut Odds| (odds.latency, odds.refuse) = (5_000_000, NEVER);
    check(slow, |actor| {
        let listener = Socket::new(Kernel::create(Kind::Listener), 9, 0);
        let socket = Socket::new(Kernel::create(Kind::Unconnected), 9, 9);
        must(socket.fd.register().is_ok(), "nothing is refused");
        actor.sleep(below(2_000));
        Kernel::connect_for_sure(socket.file, listener.file);
        must(actor.connect(&socket) == Ok(()), "the listener listens");
        must(
            world().kernel.borrow().files[socket.file].kind == Kind::Stream,
            "the dial ends when it is connected",
        );
    });
}

/// 31, golang/go #51651: descriptors starve while goroutines stay runnable.
#[test]
fn a_reader_is_served_while_others_never_rest() {
    let arrangement = Arrangement {
        procs: 1,
        pollers: 1,
        migrate: false,
        level: false,
    };
    let prompt = |odds: &mut Odds| {
        (odds.latency, odds.late, odds.refuse, odds.spurious) = (1, NEVER, NEVER, NEVER)
    };
    let main = |actor: Actor| {
        let [a, b] = pair(16);
        let written = Arc::new(AtomicUsize::new(0));
        let restless: Vec<_> = (0..3)
            .map(|_| {
                let written = written.clone();
                Actor::go(move |_| {
                    let mut turns = 0;
                    while written.load(SeqCst) < 2 && !world().failed() {
                        turns += written.load(SeqCst);
                        // One schedule in 61 asks the poller.
                        must(turns <= 61, "the reader was not served in 61 turns");
                        yield_now();
                    }
                })
            })
            .collect();
        let served = written.clone();
        let reads = Actor::go(move |actor| {
            must(actor.read(&b, 4) == Ok(4), "four bytes were written");
            served.store(2, SeqCst);
        });
        while sched().num_poll_waiters() == 0 {
            actor.sleep(20_000);
        }
        must(actor.write(&a, 4) == Ok(()), "there is room");
        // The reader may have been served already.
        written.fetch_max(1, SeqCst);
        restless
            .into_iter()
            .chain([reads])
            .for_each(|part| actor.join(part));
    };
    explore(
        0..SEEDS,
        Runs {
            odds: prompt,
            arrangement: Some(arrangement),
            main,
        },
    );
}

/// gopark's own: a P whose goroutines never rest took one at a time from the global queue, in one schedule of 61.
#[test]
fn a_burst_of_fresh_goroutines_starts_while_others_never_rest() {
    const BURST: usize = 100;
    let arrangement = Arrangement {
        procs: 1,
        pollers: 1,
        migrate: false,
        level: false,
    };
    let main = |actor: Actor| {
        let (spawned, started) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let restless: Vec<_> = (0..3)
            .map(|_| {
                let (spawned, started) = (spawned.clone(), started.clone());
                Actor::go(move |_| {
                    let mut turns = 0;
                    while started.load(SeqCst) < BURST && !world().failed() {
                        turns += spawned.load(SeqCst);
                        // The ring, which gets a share in one schedule of 61, is served as often as the home queue.
                        must(
                            turns <= BURST + 2 * 61,
                            "a burst of fresh goroutines has not started in time",
                        );
                        yield_now();
                    }
                })
            })
            .collect();
        let (_, ended) = Actor::thread(move |actor| {
            let fresh: Vec<_> = (0..BURST)
                .map(|_| (started.clone(), Actor::go))
                .map(|(started, go)| go(move |_| _ = started.fetch_add(1, SeqCst)))
                .collect();
            spawned.store(1, SeqCst);
            fresh.into_iter().for_each(|fresh| actor.join(fresh));
        });
        restless.into_iter().for_each(|part| actor.join(part));
        actor.take(&ended);
    };
    explore(
        0..SEEDS,
        Runs {
            odds: as_drawn,
            arrangement: Some(arrangement),
            main,
        },
    );
}

/// gopark's own: an acceptor accepted 64 connections in each round of all others, however many these were.
#[test]
fn an_acceptor_among_many_takes_a_fair_part_of_each_round() {
    const NEIGHBOURS: usize = 400;
    const CONNECTIONS: usize = NEIGHBOURS / 4;
    let arrangement = Arrangement {
        procs: 1,
        pollers: 1,
        migrate: false,
        level: false,
    };
    let prompt = |odds: &mut Odds| {
        (odds.latency, odds.stall, odds.refuse, odds.interrupt) = (1, NEVER, NEVER, NEVER)
    };
    let main = |actor: Actor| {
        let (started, turns, stop) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicUsize::new(0)),
        );
        let neighbours: Vec<_> = (0..NEIGHBOURS)
            .map(|_| {
                let (started, turns, stop) = (started.clone(), turns.clone(), stop.clone());
                Actor::go(move |_| {
                    started.fetch_add(1, SeqCst);
                    while stop.load(SeqCst) == 0 && !world().failed() {
                        turns.fetch_add(1, SeqCst);
                        yield_now();
                    }
                })
            })
            .collect();
        let listener = Socket::new(Kernel::create(Kind::Listener), 9, 0);
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|_| Socket::new(Kernel::create(Kind::Unconnected), 9, 9))
            .collect();
        clients
            .iter()
            .for_each(|client| Kernel::connect_for_sure(client.file, listener.file));
        let accepts = Actor::go(move |actor| {
            while started.load(SeqCst) < NEIGHBOURS {
                yield_now();
            }
            let before = turns.load(SeqCst);
            for _ in 0..CONNECTIONS {
                drop(
                    actor
                        .accept(&listener)
                        .map(|connection| Socket::new(connection, 9, 9)),
                );
            }
            must(
                turns.load(SeqCst) == before,
                "the acceptor waited for a round of all others",
            );
            stop.store(1, SeqCst);
        });
        neighbours
            .into_iter()
            .chain([accepts])
            .for_each(|part| actor.join(part));
    };
    explore(
        0..SEEDS / 10,
        Runs {
            odds: prompt,
            arrangement: Some(arrangement),
            main,
        },
    );
}

/// 32, golang/go #21856 and #24455: close returns before the system has released the number, or a reader holds on to it.
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
                    !world().kernel.borrow().names(number, a.file),
                    "the number is free",
                );
            }
            readers.into_iter().for_each(|reader| actor.join(reader));
        }
    });
}

/// gopark's own: a second operation armed its direction before the first one had registered the descriptor, and was not heard. Both then
/// wait: a reader for bytes, a writer for room.
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
                let writes = Actor::go(move |actor| while actor.write(&a, 30).is_err() {});
                let peer = Actor::go(move |actor| {
                    actor.sleep(100_000);
                    while actor.write(&b, 4).is_err() {}
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

/// gopark's own: the two timers of a descriptor lay in the heaps of two threads, and only one of them was told of an earlier time.
#[test]
fn both_directions_deadlines_are_kept_by_whoever_sleeps_for_them() {
    check_on(
        Arrangement {
            procs: 2,
            pollers: 1,
            migrate: false,
            level: false,
        },
        |actor| {
            // Timers that an ordinary thread arms go to each heap in turn.
            let (_, ended) = Actor::thread(|actor| {
                let [a, _b] = pair(1);
                for _ in 0..4 {
                    let now = world().now();
                    let set =
                        |mode, after| _ = actor.set_deadline(&a, mode, Deadline::At(now + after));
                    set(Some(Mode::Read), 9_000_000);
                    set(Some(Mode::Write), 8_000_000);
                    set(None, 2_000_000);
                    set(Some(Mode::Read), 1_000_000);
                    let writes = a.clone();
                    let (_, ended) =
                        Actor::thread(
                            move |actor| while actor.write(&writes, 9) != Err(TIMEOUT) {},
                        );
                    while read(actor, &a, 1) != Err(TIMEOUT) {}
                    actor.take(&ended);
                }
            });
            actor.take(&ended);
        },
    );
}
