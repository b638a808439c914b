//! Scenarios of threads, timers and queues: runnable work that no thread runs, or that runs too
//! late.

use super::{SEEDS, TIMEOUT, as_drawn, check, check_on, must, pair, read};
use crate::computer::{NEVER, Odds, Visibility, computer};
use crate::kernel::{Kernel, Kind};
use crate::oracle::SLACK;
use crate::program::{Actor, Semaphore, Socket, below, sched, writer, yield_now};
use crate::{Arrangement, Runs, explore};
use gopark_core::os::{Mode, Nanos};
use gopark_core::polldesc::Deadline;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// 10, golang/go #42515 and #36294: a wake-up for a thread that sleeps in a poller is lost, and the
/// work that it announced waits.
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

/// 11, golang/go #44343 and #38860: a thread sleeps for a timer and does not notice an earlier one.
/// The clock jumps to the next time that a thread waits for, and must not jump over the earlier
/// timer.
#[test]
fn an_earlier_timer_of_another_thread_is_noticed() {
    check(as_drawn, |actor| {
        let far = Actor::go(|actor| actor.sleep(50_000_000));
        let (_, ended) = Actor::thread(|actor| {
            let [a, _b] = pair(4);
            for after in [9_000_000, 6_000_000, 3_000_000, 1_000_000, 20_000] {
                let _ = actor.set_deadline(&a, None, Deadline::At(computer().now() + after));
                let _ = actor.set_deadline(
                    &a,
                    Some(Mode::Read),
                    Deadline::At(computer().now() + after / 2),
                );
                must(read(actor, &a, 4) == Err(TIMEOUT), "the read must time out");
            }
        });
        (0..3)
            .map(|_| Actor::go(|actor| actor.sleep(below(5_000_000))))
            .for_each(|sleeper| actor.join(sleeper));
        actor.take(&ended);
        actor.join(far);
    });
}

/// 12, oven-sh/bun #34780: an interrupted sleep starts again with its full time, or ends at once.
#[test]
fn an_interrupted_sleep_ends_on_time() {
    let interrupted = |odds: &mut Odds| (odds.interrupt, odds.stall) = (1, NEVER);
    check(interrupted, |actor| {
        for nanos in [1, 300, 300_000, 40_000_000] {
            let start = computer().now();
            actor.sleep(nanos);
            must(
                computer().now() - start < nanos as Nanos + 200_000 + SLACK,
                "the sleep took too long",
            );
        }
    });
}

/// 14, golang/go #60050, #47762, #38119, #25686: deadlines that change all the time corrupt the
/// heap, are forgotten, or delay other timers.
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
                            Deadline::At(computer().now() + below(100_000) as Nanos),
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

/// 15 and 16, tokio #1788 and #4383, golang/go #45867: the last spinning thread goes to sleep while
/// work arrives. Another thread must start a goroutine whose spawner computes.
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

/// When a thread is blocked or computes, another one takes over its P, however little the system
/// shows of threads.
#[test]
fn a_blocked_thread_is_replaced_even_if_the_system_hides_its_state() {
    let one_proc = Arrangement {
        procs: 1,
        pollers: 1,
        migrate: false,
        level: false,
    };
    let visibilities: [fn(&mut Odds); 4] = [
        |odds| odds.visibility = Visibility::Full,
        |odds| odds.visibility = Visibility::States,
        |odds| odds.visibility = Visibility::Clocks,
        |odds| odds.visibility = Visibility::Nothing,
    ];
    for odds in visibilities {
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

/// 17, tokio #8372 and #8373: the count of idle threads differs from the number of threads that are
/// idle. The oracle compares both whenever the run is at rest.
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

/// 18, compio #948, and 29, glommio #552: the second of two wakers relies on the first, which has
/// not woken the sleeper yet, while the sleeper has already checked for work.
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

/// 19, CVE-2021-32810: an element of a queue is taken twice when thieves meet an overflow.
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
                all.into_iter().for_each(|part| actor.join(part));
                must(ran.load(SeqCst) == 280, "each goroutine must run once");
            },
        },
    );
}

/// 31, golang/go #51651: descriptors starve while goroutines stay runnable.
#[test]
fn a_reader_is_served_while_other_goroutines_never_park() {
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
                    while written.load(SeqCst) < 2 && !computer().failed() {
                        turns += written.load(SeqCst);
                        // One schedule in 61 polls.
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
        // The reader may have set it to 2 already.
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

/// A bug of gopark: a P whose goroutines never park took one goroutine from the global queue in
/// each 61 schedules.
#[test]
fn a_burst_of_fresh_goroutines_starts_while_others_never_park() {
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
                    while started.load(SeqCst) < BURST && !computer().failed() {
                        turns += spawned.load(SeqCst);
                        // The ring has its turn in one schedule of 61, and the home queue as often.
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

/// A bug of gopark: an acceptor accepted 64 connections in each round of the run queue, however
/// long the queue was.
#[test]
fn an_acceptor_gets_its_share_of_each_round_of_the_run_queue() {
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
                    while stop.load(SeqCst) == 0 && !computer().failed() {
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
                "the acceptor waited for a round of the run queue",
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

/// A bug of gopark: the two timers of a descriptor were in the heaps of two threads, and only one
/// of the threads was told of an earlier deadline.
#[test]
fn a_deadline_of_either_direction_wakes_the_thread_that_owns_its_timer() {
    check_on(
        Arrangement {
            procs: 2,
            pollers: 1,
            migrate: false,
            level: false,
        },
        |actor| {
            // A thread outside the scheduler spreads its timers over the heaps in turn.
            let (_, ended) = Actor::thread(|actor| {
                let [a, _b] = pair(1);
                for _ in 0..4 {
                    let now = computer().now();
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
