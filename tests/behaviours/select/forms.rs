//! The forms of `select!`: what stands in the parentheses, and what the arms may do.

use crate::behaviours::chan::{Counted, Drops};
use crate::check;
use gopark::chan::{self, Receiver, RecvError, Sender};
use gopark::select;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A channel with one value.
fn with<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = chan::unbounded();
    assert!(sender.send(value).is_ok());
    (sender, receiver)
}

/// The receiver of a channel that is closed.
fn closed<T>() -> Receiver<T> {
    chan::bounded(0).1
}

fn first_even(values: &[u32]) -> Result<Option<u32>, RecvError> {
    let (sender, receiver) = chan::unbounded();
    values.iter().for_each(|&value| sender.send(value).unwrap());
    drop(sender);
    loop {
        select! {
            recv(receiver) -> value => match value? {
                0 => break,
                odd if odd % 2 == 1 => continue,
                even => return Ok(Some(even)),
            },
        }
    }
    Ok(None)
}

#[test]
fn an_arm_may_leave_its_loop_and_its_function() {
    check(|| {
        assert_eq!(first_even(&[1, 3, 4, 5]), Ok(Some(4)));
        assert_eq!(first_even(&[1, 0, 4]), Ok(None));
        assert_eq!(first_even(&[1, 3]), Err(RecvError));
        let found = 'outer: loop {
            for i in 0.. {
                select! {
                    recv(closed::<u8>()) -> _ => if i == 3 { break 'outer i },
                    default => continue 'outer,
                }
            }
        };
        assert_eq!(found, 3);
        let (_sender, receiver) = with(7);
        let left = || -> Option<i32> {
            let value = select! {
                recv(receiver) -> value => value.ok()?,
                default => return None,
            };
            Some(value * 2)
        };
        assert_eq!((left(), left()), (Some(14), None));
    });
}

#[test]
fn a_select_is_an_expression_of_any_type() {
    check(|| {
        let (_sender, receiver) = with(7u8);
        let text: String = select! {
            recv(receiver) -> value => format!("{value:?}"),
            default => unreachable!(),
        };
        assert_eq!(text, "Ok(7)");
        let boxed: Box<dyn Fn() -> u8> = select! {
            recv(receiver) -> _ => Box::new(|| 1),
            default => Box::new(|| 2),
        };
        assert_eq!(boxed(), 2);
        let () = select! { recv(receiver) -> _ => {}, default => () };
        let () = select! { recv(receiver) -> _ => {} default => {} };
        assert_eq!(1 + select! { default => 2 }, 3);
        assert_eq!(select! { default(Duration::ZERO) => 4 }, 4);
        assert_eq!(select! { at(Instant::now()) => 5, }, 5);
        assert_eq!(select! { recv(closed::<u8>()) -> _ => [0; 3], }, [0; 3]);
        let nested = select! {
            recv(receiver) -> _ => 0,
            default => select! {
                recv(closed::<u8>()) -> inner => {
                    assert!(inner.is_err());
                    select! { recv(receiver) -> _ => 1, default(Duration::ZERO) => 2 }
                }
                default => 3,
            },
        };
        assert_eq!(nested, 2);
    });
}

#[test]
fn arms_bind_what_they_get_and_borrow_what_is_around() {
    check(|| {
        let (sender, receiver) = with((1, String::from("one")));
        let (text, texts) = chan::bounded(1);
        let mut seen = Vec::new();
        let value = String::from("moved");
        select! {
            recv(receiver) -> mut pair => {
                if let Ok((number, text)) = &mut pair {
                    *number += 1;
                    text.push('!');
                }
                seen.push(pair.unwrap());
            }
            default => seen.clear(),
        }
        select! {
            send(text, value) -> sent => sent.unwrap(),
            recv(receiver) -> _ => seen.clear(),
        }
        assert_eq!(seen, [(2, "one!".into())]);
        assert_eq!(texts.recv().unwrap(), "moved");
        drop(sender);
    });
}

/// The borrow of the channels has ended when an arm runs, and so has the life of their handles that
/// are temporaries.
#[test]
fn an_arm_may_move_the_receivers() {
    check(|| {
        let (sender, receiver) = with(1);
        let (other, others) = chan::bounded(1);
        let moved = select! {
            recv(receiver) -> value => {
                drop(receiver);
                value.unwrap()
            }
            send(other, 2) -> _ => {
                drop((receiver, other));
                9
            }
        };
        match moved {
            1 => assert!(sender.is_closed() && others.try_recv().is_err()),
            _ => assert!(sender.is_closed() && others.recv() == Ok(2)),
        }
        let (sender, receiver) = with(3);
        let mut slot = Some(receiver);
        select! {
            recv(slot.take().unwrap()) -> value => {
                assert_eq!(value, Ok(3));
                assert!(sender.is_closed(), "the temporary is gone");
            }
        }
    });
}

struct Hub {
    receiver: Receiver<u8>,
    senders: Vec<Sender<u8>>,
}

impl Hub {
    fn receiver(&self) -> &Receiver<u8> {
        &self.receiver
    }
}

#[test]
fn channels_are_given_as_any_expression() {
    check(|| {
        let (sender, receiver) = chan::bounded(1);
        let senders = vec![sender.clone(), sender.clone()];
        let hub = Arc::new(Hub { receiver, senders });
        let shared = Rc::new(hub.receiver.clone());
        let boxed = Box::new(sender.clone());
        let locked = Mutex::new(HashMap::from([("key", hub.receiver.clone())]));
        let cell = RefCell::new(Some(hub.receiver.clone()));
        let (by_reference, twice) = (&hub.receiver, &&hub.receiver);
        for round in 0..2 {
            select! { send(sender, 1) -> result => result.unwrap() }
            select! { recv(hub.receiver) -> value => assert_eq!(value, Ok(1)) }
            select! { send(hub.senders[round], 2) -> result => result.unwrap() }
            select! { recv(shared) -> value => assert_eq!(value, Ok(2)) }
            select! { send(*boxed, 3) -> result => result.unwrap() }
            select! { recv(by_reference) -> value => assert_eq!(value, Ok(3)) }
            select! { send(&sender, 4) -> result => result.unwrap() }
            select! { recv(twice) -> value => assert_eq!(value, Ok(4)) }
            select! { send(sender.clone(), 5) -> result => result.unwrap() }
            select! { recv({ hub.clone() }.receiver.clone()) -> value => assert_eq!(value, Ok(5)) }
            select! { send({ &sender }, 6) -> result => result.unwrap() }
            // The guards of temporaries live until the event, and no longer.
            select! {
                recv(locked.lock().unwrap()["key"]) -> value => {
                    assert_eq!(value, Ok(6));
                    assert!(locked.try_lock().is_ok());
                }
            }
            select! { send(sender, 7,) -> result => result.unwrap() }
            select! {
                recv(cell.borrow().as_ref().unwrap()) -> value => {
                    assert_eq!(value, Ok(7));
                    assert!(cell.try_borrow_mut().is_ok());
                }
            }
            select! { send(hub.senders.first().unwrap(), 8) -> result => result.unwrap() }
            select! { recv(hub.clone().receiver()) -> value => assert_eq!(value, Ok(8)) }
        }
    });
}

#[test]
fn expressions_are_evaluated_once_and_in_their_order() {
    check(|| {
        let (sender, receiver) = chan::bounded(0);
        let log = RefCell::new(Vec::new());
        fn note<T>(log: &RefCell<Vec<u32>>, number: u32, value: T) -> T {
            log.borrow_mut().push(number);
            value
        }
        let far = Instant::now() + Duration::from_secs(1000);
        select! {
            recv(note(&log, 1, &receiver)) -> _ => panic!("nothing is sent"),
            default(note(&log, 2, Duration::from_millis(1))) => {}
            send(note(&log, 3, &sender), note(&log, 4, 'x')) -> _ => panic!("nothing is received"),
            at(note(&log, 5, far)) => panic!("it comes later"),
            recv(note(&log, 6, &receiver)) -> _ => panic!("nothing is sent"),
        }
        assert_eq!(log.take(), [1, 2, 3, 4, 5, 6]);
        select! {
            biased;
            default => {}
            send(note(&log, 1, &sender), note(&log, 2, 'x')) -> _ => panic!("nothing is received"),
            recv(note(&log, 3, &receiver)) -> _ => panic!("nothing is sent"),
        }
        assert_eq!(log.take(), [1, 2, 3]);
    });
}

#[test]
fn more_than_eight_arms_of_many_types() {
    check(|| {
        let (text, texts) = chan::bounded(1);
        let (number, numbers) = chan::bounded(1);
        let (unit, units) = chan::bounded(1);
        let (_keep, never) = chan::bounded::<[u64; 512]>(0);
        let (full, _values) = chan::bounded::<Vec<u8>>(0);
        let mut counts = [0u32; 6];
        for _ in 0..600 {
            let arm = select! {
                recv(never) -> _ => panic!("nothing is sent there"),
                send(text, String::from("x")) -> result => { result.unwrap(); 0 }
                recv(texts) -> value => { assert_eq!(value.unwrap(), "x"); 1 }
                send(full, vec![1]) -> _ => panic!("it is not received"),
                send(number, 1.5) -> result => { result.unwrap(); 2 }
                recv(numbers) -> value => { assert_eq!(value, Ok(1.5)); 3 }
                recv(never) -> _ => panic!("nothing is sent there"),
                send(unit, ()) -> result => { result.unwrap(); 4 }
                recv(units) -> value => { value.unwrap(); 5 }
                recv(never) -> _ => panic!("nothing is sent there"),
                default(Duration::from_secs(1000)) => panic!("arms are ready"),
                at(Instant::now() + Duration::from_secs(1000)) => panic!("arms are ready"),
            };
            counts[arm] += 1;
        }
        assert!(counts.iter().all(|&count| count > 50), "{counts:?}");
        assert!(counts[0].abs_diff(counts[1]) <= 1, "{counts:?}");
    });
}

#[test]
fn an_arm_that_panics_has_its_value_and_no_other() {
    check(|| {
        let drops = Drops::default();
        let (sender, receiver) = chan::unbounded();
        let (full, values) = chan::bounded(0);
        (0..2).for_each(|id| sender.send(drops.value(id)).unwrap());
        let ran = Cell::new(false);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            select! {
                recv(receiver) -> value => {
                    let _value: Counted = value.unwrap();
                    std::panic::resume_unwind(Box::new(()));
                }
                send(full, drops.value(9)) -> _ => ran.set(true),
            }
        }));
        assert!(panicked.is_err() && !ran.get());
        assert_eq!(drops.count(), 2);
        assert_eq!(receiver.recv().unwrap().id, 1);
        assert!(values.try_recv().is_err());
    });
}

#[test]
fn a_panic_in_an_expression_leaves_the_channels_as_they_were() {
    check(|| {
        fn panics() -> Duration {
            std::panic::resume_unwind(Box::new(()))
        }

        let drops = Drops::default();
        let (sender, receiver) = chan::unbounded();
        sender.send(drops.value(0)).unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            select! {
                recv(receiver) -> value => drop(value),
                send(sender, drops.value(1)) -> _ => {}
                default(panics()) => {}
            }
        }));
        assert!(panicked.is_err());
        assert_eq!((drops.count(), receiver.len()), (1, 1));
    });
}
