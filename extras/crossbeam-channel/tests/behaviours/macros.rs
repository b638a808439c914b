//! What `select!` and `select_biased!` do.

use super::{CAPACITIES, LONG, SHORT, channel, until};
use crate::{check, thread};
use crossbeam_channel::{
    Receiver, RecvError, SendError, after, bounded, never, select, select_biased, tick, unbounded,
};
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[test]
fn the_operation_that_is_ready_happens_and_no_other() {
    check(|| {
        let (numbers, from_numbers) = unbounded();
        let (words, from_words) = unbounded();
        numbers.send(1).unwrap();
        select! {
            recv(from_numbers) -> number => assert_eq!(number, Ok(1)),
            recv(from_words) -> _ => panic!("no word was sent"),
        }
        words.send("a").unwrap();
        select! {
            recv(from_numbers) -> _ => panic!("the number was received"),
            recv(from_words) -> word => assert_eq!(word, Ok("a")),
        }
        let (full, _at_full) = bounded(0);
        select! {
            send(full, 1) -> _ => panic!("no receiver waits"),
            send(numbers, 2) -> result => assert_eq!(result, Ok(())),
        }
        assert_eq!((from_numbers.len(), from_words.len()), (1, 0));
    });
}

#[test]
fn a_channel_that_disconnects_is_selected() {
    check(|| {
        for capacity in CAPACITIES {
            let (sender, receiver) = channel::<u8>(capacity);
            let (gone, _) = channel(capacity);
            select! {
                send(gone, 5) -> result => assert_eq!(result, Err(SendError(5))),
                recv(receiver) -> _ => panic!("the sender is there"),
            }
            drop(sender);
            for _ in 0..3 {
                select! {
                    recv(receiver) -> message => assert_eq!(message, Err(RecvError)),
                    recv(after(LONG)) -> _ => panic!("too early"),
                }
                select! {
                    recv(receiver) -> message => assert!(message.is_err()),
                    default => panic!("a channel that is disconnected is ready"),
                }
            }
        }
    });
}

#[test]
fn a_disconnect_ends_the_wait() {
    check(|| {
        for capacity in CAPACITIES {
            let (sender, receiver) = channel::<u8>(capacity);
            let (full, at_full) = bounded(0);
            let began = AtomicUsize::new(0);
            thread::scope(|scope| {
                scope.spawn(|| {
                    began.fetch_add(1, Ordering::SeqCst);
                    select! { recv(receiver) -> message => assert_eq!(message, Err(RecvError)) }
                });
                scope.spawn(|| {
                    began.fetch_add(1, Ordering::SeqCst);
                    select! { send(full, 1) -> result => assert_eq!(result, Err(SendError(1))) }
                });
                until(|| began.load(Ordering::SeqCst) == 2);
                drop((sender, at_full));
            });
        }
    });
}

#[test]
fn default_happens_if_nothing_else_can() {
    check(|| {
        let (sender, receiver) = bounded(1);
        let default = select! {
            recv(receiver) -> _ => false,
            default => true,
        };
        assert!(default);
        let before = Instant::now();
        let default = select! {
            recv(receiver) -> _ => false,
            default(SHORT) => true,
        };
        assert!(default && before.elapsed() >= SHORT);
        sender.send(1).unwrap();
        let default = select! {
            send(sender, 2) -> _ => false,
            default(Duration::ZERO) => true,
        };
        assert!(default);
        select! {
            recv(receiver) -> message => assert_eq!(message, Ok(1)),
            default => panic!("a message was there"),
        }
        select! {
            send(sender, 3) -> result => result.unwrap(),
            default(LONG) => panic!("there was room"),
        }
        let before = Instant::now();
        select! { default(SHORT) => {} }
        assert!(before.elapsed() >= SHORT);
    });
}

#[test]
fn an_event_ends_the_wait_before_its_limit() {
    check(|| {
        for capacity in CAPACITIES {
            let (numbers, from_numbers) = channel(capacity);
            let (words, from_words) = channel(capacity);
            thread::scope(|scope| {
                scope.spawn(|| {
                    for i in 0..100 {
                        select! {
                            send(numbers, i) -> result => result.unwrap(),
                            send(words, i.to_string()) -> result => result.unwrap(),
                        }
                    }
                });
                let mut next = [0, 0];
                for _ in 0..100 {
                    select! {
                        recv(from_numbers) -> number => {
                            let number = number.unwrap();
                            assert!(number >= next[0]);
                            next[0] = number + 1;
                        }
                        recv(from_words) -> word => {
                            let number = word.unwrap().parse::<i32>().unwrap();
                            assert!(number >= next[1]);
                            next[1] = number + 1;
                        }
                        default(LONG) => panic!("too late"),
                    }
                }
            });
        }
    });
}

#[test]
fn one_of_those_that_are_ready_is_taken_at_random() {
    check(|| {
        let (numbers, from_numbers) = unbounded();
        let (gone, _) = bounded(0);
        let (_, disconnected) = bounded::<u8>(0);
        (0..400).for_each(|i| numbers.send(i).unwrap());
        let now = after(Duration::ZERO);
        let mut hits = [0; 5];
        for _ in 0..400 {
            select! {
                recv(from_numbers) -> _ => hits[0] += 1,
                send(gone, 0) -> _ => hits[1] += 1,
                recv(disconnected) -> _ => hits[2] += 1,
                send(numbers, 0) -> _ => hits[3] += 1,
                recv(tick(Duration::ZERO)) -> _ => hits[4] += 1,
                recv(never::<u8>()) -> _ => panic!("never came"),
            }
        }
        assert!(now.try_recv().is_ok());
        assert!(hits.iter().all(|&times| times >= 20), "{hits:?}");
    });
}

#[test]
fn a_biased_select_takes_the_first_that_is_ready() {
    check(|| {
        let (sender, receiver) = bounded(8);
        let (_, disconnected) = bounded::<u8>(0);
        for _ in 0..100 {
            let taken = select_biased! {
                recv(never::<u8>()) -> _ => 0,
                recv(receiver) -> _ => 1,
                send(sender, ()) -> _ => 2,
                recv(disconnected) -> _ => 3,
                default => 4,
            };
            assert_eq!(taken, 2);
            let taken = select_biased! {
                recv(receiver) -> _ => 1,
                send(sender, ()) -> _ => 2,
            };
            assert_eq!(taken, 1);
            let taken = select_biased! {
                recv(receiver) -> _ => 1,
                recv(disconnected) -> _ => 3,
                send(sender, ()) -> _ => 2,
                default(LONG) => 4,
            };
            assert_eq!(taken, 3);
        }
        let taken = select_biased! {
            recv(receiver) -> _ => 1,
            default => 2,
        };
        assert_eq!(taken, 2);
    });
}

#[test]
fn receivers_are_made_in_order_and_messages_if_they_are_sent() {
    check(|| {
        let steps = RefCell::new(Vec::new());
        let (sender, receiver) = unbounded::<&str>();
        let note = |step: &'static str| steps.borrow_mut().push(step);
        let (_full, at_full) = bounded::<u8>(0);
        select! {
            recv({ note("first"); &at_full }) -> _ => panic!("nothing was sent"),
            send({ note("second"); &sender }, { note("message"); "hello" }) -> result => {
                note("body");
                result.unwrap();
            }
            default({ note("limit"); LONG }) => panic!("there was room"),
        }
        assert_eq!(
            steps.take(),
            ["first", "second", "limit", "message", "body"]
        );
        assert_eq!(receiver.recv(), Ok("hello"));
        let (full, _at_full) = bounded(0);
        select! {
            send(full, { note("message"); 1 }) -> _ => panic!("no receiver waits"),
            default => note("default"),
        }
        assert_eq!(steps.take(), ["default"]);
    });
}

#[test]
fn a_message_stays_with_the_program_until_it_is_sent() {
    check(|| {
        let (sender, receiver) = bounded(0);
        thread::scope(|scope| {
            scope.spawn(|| assert_eq!(receiver.recv().as_deref(), Ok("only one")));
            let message = String::from("only one");
            loop {
                select! {
                    send(sender, message) -> result => break result.unwrap(),
                    default => thread::yield_now(),
                }
            }
        });
    });
}

#[test]
fn the_channel_can_be_used_while_the_message_is_made() {
    check(|| {
        let (sender, receiver) = bounded(2);
        sender.send(1).unwrap();
        select! {
            send(sender, { assert_eq!(receiver.recv(), Ok(1)); 2 }) -> result => result.unwrap(),
        }
        assert_eq!(receiver.recv(), Ok(2));
    });
}

#[test]
fn a_message_that_panics_is_not_sent() {
    check(|| {
        for capacity in [Some(1), None] {
            let (sender, receiver) = channel(capacity);
            let panics = || -> u8 { panic!("no message") };
            let result = panic::catch_unwind(AssertUnwindSafe(|| {
                select! { send(sender, panics()) -> _ => {} }
            }));
            assert!(result.is_err());
            thread::scope(|scope| {
                scope.spawn(|| assert_eq!(receiver.recv(), Ok(1)));
                sender.send(1).unwrap();
            });
        }
    });
}

#[test]
fn a_receiver_that_panics_leaves_the_others() {
    check(|| {
        let (sender, receiver) = unbounded();
        sender.send(1).unwrap();
        let panics = || -> Receiver<u8> { panic!("no receiver") };
        let result = panic::catch_unwind(AssertUnwindSafe(|| {
            select! {
                recv(receiver) -> _ => {}
                recv(panics()) -> _ => {}
            }
        }));
        assert!(result.is_err());
        assert_eq!(receiver.recv(), Ok(1));
    });
}

#[test]
fn bodies_assign_to_the_channels() {
    check(|| {
        let (sender, mut receiver) = unbounded();
        let mut other = receiver.clone();
        let (mut to_other, _from_other) = bounded(5);
        sender.send(1).unwrap();
        sender.send(2).unwrap();
        drop(sender);
        let mut received = 0;
        let mut ended = 0;
        while ended < 2 {
            select! {
                recv(receiver) -> message => match message {
                    Ok(message) => received += message,
                    Err(_) => {
                        receiver = never();
                        ended += 1;
                    }
                },
                recv(other) -> message => match message {
                    Ok(message) => received += message,
                    Err(_) => {
                        other = never();
                        ended += 1;
                    }
                },
                send(to_other, ()) -> _ => to_other = bounded(1).0,
            }
        }
        assert_eq!(received, 3);
    });
}

#[test]
fn temporaries_end_before_the_body() {
    check(|| {
        let (sender, receiver) = unbounded();
        sender.send(1).unwrap();
        let cell = RefCell::new(receiver);
        select! {
            recv(cell.borrow_mut()) -> message => {
                assert_eq!(message, Ok(1));
                assert!(cell.borrow_mut().is_empty());
            }
        }
    });
}

#[test]
fn bodies_leave_loops_and_functions() {
    fn first(receiver: &Receiver<u8>) -> Result<u8, RecvError> {
        select! {
            recv(receiver) -> message => return Ok(message? + 1),
            default => {}
        }
        Ok(0)
    }
    check(|| {
        let (sender, receiver) = unbounded();
        assert_eq!(first(&receiver), Ok(0));
        sender.send(4).unwrap();
        assert_eq!(first(&receiver), Ok(5));
        (0..10).for_each(|i| sender.send(i).unwrap());
        drop(sender);
        let mut odd = Vec::new();
        let last = 'receive: loop {
            for _ in 0..3 {
                select! {
                    recv(receiver) -> message => match message {
                        Ok(message) if message % 2 == 0 => continue,
                        Ok(message) => odd.push(message),
                        Err(error) => break 'receive error,
                    },
                }
            }
        };
        assert_eq!((last, odd), (RecvError, vec![1, 3, 5, 7, 9]));
        assert_eq!(first(&receiver), Err(RecvError));
    });
}

#[test]
fn bodies_run_once_and_may_consume() {
    check(|| {
        let (sender, receiver) = unbounded();
        let once = Box::new(5);
        let value = select! {
            recv(receiver) -> _ => *once,
            send(sender, *once) -> _ => *once + 1,
            default => panic!("there is room, unlike in {once}"),
        };
        assert_eq!((value, receiver.recv()), (6, Ok(5)));
    });
}

#[test]
fn equal_operations_share_the_events_they_wait_for() {
    check(|| {
        let (sender, receiver) = bounded(0);
        let mut hits = [0; 4];
        thread::scope(|scope| {
            scope.spawn(move || (0..400).for_each(|i| sender.send(i).unwrap()));
            for i in 0..400 {
                let (hit, message) = select! {
                    recv(receiver) -> message => (0, message),
                    recv(receiver) -> message => (1, message),
                    recv(receiver) -> message => (2, message),
                    recv(receiver) -> message => (3, message),
                };
                hits[hit] += 1;
                assert_eq!(message, Ok(i));
            }
        });
        assert!(hits.iter().all(|&times| times >= 20), "{hits:?}");
    });
}

#[test]
fn selects_nest() {
    check(|| {
        let (sender, receiver) = bounded(0);
        thread::scope(|scope| {
            scope.spawn(move || (0..3).for_each(|i| sender.send(i).unwrap()));
            let sum = Cell::new(0);
            select! {
                recv(receiver) -> first => {
                    sum.set(sum.get() + first.unwrap());
                    select! {
                        recv(receiver) -> second => {
                            sum.set(sum.get() + second.unwrap());
                            select! {
                                recv(receiver) -> third => sum.set(sum.get() + third.unwrap()),
                            }
                        }
                    }
                }
            }
            assert_eq!(sum.get(), 3);
        });
    });
}

#[test]
fn a_ring_passes_a_message_by_selects() {
    check(|| {
        const MEMBERS: usize = 8;
        let channels: Vec<_> = (0..MEMBERS).map(|_| bounded::<usize>(0)).collect();
        thread::scope(|scope| {
            for member in 0..MEMBERS {
                let receiver = channels[member].1.clone();
                let sender = channels[(member + 1) % MEMBERS].0.clone();
                scope.spawn(move || {
                    for _ in 0..50 {
                        let hops = select! {
                            recv(receiver) -> hops => hops.unwrap(),
                            recv(after(LONG)) -> _ => panic!("too late"),
                        };
                        if hops + 1 < MEMBERS * 50 {
                            select! { send(sender, hops + 1) -> result => result.unwrap() }
                        }
                    }
                });
            }
            channels[0].0.send(0).unwrap();
        });
    });
}
