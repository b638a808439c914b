//! Scenarios of threads, timers and queues: work that no thread takes up, or that takes its turn too late.

use super::{SEEDS, TIMEOUT, as_drawn, check, check_on, must, pair, read};
use crate::kernel::{Kernel, Kind};
use crate::machine::{NEVER, Odds, Sight, world};
use crate::oracle::SLACK;
use crate::program::{Actor, Semaphore, Socket, below, sched, writer, yield_now};
use crate::{Arrangement, Runs, explore};
use gopark_core::os::{Mode, Nanos};
use gopark_core::polldesc::Deadline;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

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
