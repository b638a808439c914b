//! What compiles as a `select!`.
#![allow(
    clippy::redundant_closure_call,
    clippy::never_loop,
    reason = "the forms are what is tested"
)]

use crate::check;
use crossbeam_channel::{
    Receiver, RecvError, Sender, bounded, never, select, select_biased, unbounded,
};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn commas_end_cases_and_may_be_left_out_after_blocks_and_at_the_end() {
    check(|| {
        let (s, r) = bounded::<u8>(1);
        select! { send(s, 0) -> _ => {} }
        select! { recv(r) -> _ => {}, }
        select! { send(s, 0,) -> _ => () }
        select! { recv(r,) -> _ => (), }
        select! {
            recv(r) -> _ => {}
            default(Duration::ZERO,) => {}
        }
        select! {
            send(s, 0) -> _ => {},
            recv(r) -> _ => {}
            default() => {}
        }
        select! {
            default => {}
            recv(r) -> _ => (),
            recv(never::<u8>()) -> _ => {}
        }
        select! { default => {} }
        select! { default() => (), }
        select! { default(Duration::ZERO) => {} }
        select_biased! {
            recv(never::<u8>()) -> _ => {}
            default => ()
        }
        select_biased! { default(Duration::ZERO) => {}, }
    });
}

#[test]
fn bodies_are_any_expressions() {
    check(|| {
        let (s, r) = unbounded::<u8>();
        let one = select! {
            recv(r) -> _ => { r.len() }.max(2),
            default => if s.is_empty() { 1_usize } else { 2 },
        };
        assert_eq!(one, 1);
        let text: String = select! {
            recv(r) -> message => match message {
                Ok(_) => "received".into(),
                Err(_) => "gone".to_string(),
            },
            default => "nothing".to_owned(),
        };
        assert_eq!(text, "nothing");
        let closure = select! {
            recv(r) -> _ => |x: u8| x,
            default => |x: u8| x + 1,
        };
        assert_eq!(closure(1), 2);
        let array = select! {
            send(s, 1) -> result => [result.is_ok(); 2],
        };
        assert_eq!(array, [true; 2]);
        let (mut a, mut b) = (0, 0);
        select! {
            recv(r) -> message => (a, b) = (message.unwrap(), 2),
            default => a += 1,
        }
        assert_eq!((a, b), (1, 2));
        b += loop {
            select! {
                recv(r) -> _ => unreachable!(),
                default => break 5,
            }
        };
        assert_eq!(b, 7);
        let unsafe_too = select! {
            recv(r) -> _ => loop { break 0 },
            default => unsafe_free(),
        };
        fn unsafe_free() -> u8 {
            9
        }
        assert_eq!(unsafe_too, 9);
    });
}

#[test]
fn types_are_inferred() {
    check(|| {
        let (s, r) = unbounded();
        select! {
            recv(r) -> _ => {}
            default => {}
        }
        s.send("text").unwrap();
        let (s, r) = bounded(1);
        select! { send(s, Vec::new()) -> _ => {} }
        let vector: Vec<u8> = r.recv().unwrap();
        assert!(vector.is_empty());
        let result: Result<u8, ()> = select! {
            recv(r) -> message => Ok(message.unwrap().len() as u8),
            default => Err(()),
        };
        assert_eq!(result, Err(()));
    });
}

#[test]
fn patterns_bind_the_result() {
    check(|| {
        let (s, r) = unbounded();
        (0..3).for_each(|i| s.send((i, i)).unwrap());
        select! { recv(r) -> mut message => {
            message = message.map(|(a, b)| (a + 1, b));
            assert_eq!(message, Ok((1, 0)));
        } }
        select! { recv(r) -> ref message => assert_eq!(message, &Ok((1, 1))) }
        select! { recv(r) -> r => assert_eq!(r, Ok((2, 2))) }
        drop(s);
        select! { recv(r) -> (Ok(_) | Err(_)) => {} }
        let RecvError = select! { recv(r) -> message => message.unwrap_err() };
    });
}

struct Handles {
    sender: Sender<u8>,
    receiver: Receiver<u8>,
}

struct MySender(Sender<u8>);
struct MyReceiver(Receiver<u8>);

impl Deref for MySender {
    type Target = Sender<u8>;

    fn deref(&self) -> &Sender<u8> {
        &self.0
    }
}

impl Deref for MyReceiver {
    type Target = Receiver<u8>;

    fn deref(&self) -> &Receiver<u8> {
        &self.0
    }
}

#[test]
fn channels_are_any_expressions_that_deref_to_one() {
    check(|| {
        let (s, r) = unbounded::<u8>();
        let (mut lent, mut other) = (s.clone(), r.clone());
        let handles = Handles {
            sender: s.clone(),
            receiver: r.clone(),
        };
        let (in_arc, in_rc) = (Arc::new(s.clone()), Rc::new(r.clone()));
        let (in_box, list) = (Box::new(s.clone()), [r.clone(), never()]);
        let (my_sender, my_receiver) = (MySender(s.clone()), MyReceiver(r.clone()));
        let (present, absent) = (Some(r.clone()), None::<Receiver<u8>>);
        let make = || s.clone();
        for _ in 0..200 {
            select! {
                send(s, 0) -> _ => {}
                send(&s, 0) -> _ => {}
                send(&&s, 0) -> _ => {}
                send(handles.sender, 0) -> _ => {}
                send(&mut lent, 0) -> _ => {}
                send(in_arc, 0) -> _ => {}
                send(in_box, 0) -> _ => {}
                send(*in_box, 0) -> _ => {}
                send(my_sender, 0) -> _ => {}
                send(&my_sender, 0) -> _ => {}
                send(make(), 0) -> _ => {}
                send(s.clone(), 0) -> _ => {}
                send((|| &s)(), 0) -> _ => {}
                send({ &s }, 0) -> _ => {}
                recv(r) -> _ => {}
                recv(&r) -> _ => {}
                recv(&&&r) -> _ => {}
                recv(handles.receiver) -> _ => {}
                recv(&mut other) -> _ => {}
                recv(in_rc) -> _ => {}
                recv(*in_rc) -> _ => {}
                recv(my_receiver) -> _ => {}
                recv(list[0]) -> _ => {}
                recv(&list[1]) -> _ => {}
                recv(present.as_ref().unwrap_or(&never())) -> _ => {}
                recv(absent.as_ref().unwrap_or(&never())) -> _ => {}
                recv(present.clone().unwrap_or(never())) -> _ => {}
                recv(if r.is_empty() { &r } else { &list[1] }) -> _ => {}
                recv(match &absent { Some(there) => there, None => &r }) -> _ => {}
            }
        }
        drop((s, in_rc));
        let (s, r) = bounded(1);
        select! { send((move || s)(), 1) -> result => result.unwrap() }
        select! { recv((move || r)()) -> message => assert_eq!(message, Ok(1)) }
    });
}

#[test]
fn many_cases() {
    check(|| {
        let receivers: Vec<_> = (0..32)
            .map(|i| {
                let (s, r) = bounded(1);
                s.send(i).unwrap();
                (s, r)
            })
            .collect();
        let r = |i: usize| &receivers[i].1;
        let mut sum = 0;
        for _ in 0..32 {
            sum += select! {
                recv(r(0)) -> m => m.unwrap(), recv(r(1)) -> m => m.unwrap(),
                recv(r(2)) -> m => m.unwrap(), recv(r(3)) -> m => m.unwrap(),
                recv(r(4)) -> m => m.unwrap(), recv(r(5)) -> m => m.unwrap(),
                recv(r(6)) -> m => m.unwrap(), recv(r(7)) -> m => m.unwrap(),
                recv(r(8)) -> m => m.unwrap(), recv(r(9)) -> m => m.unwrap(),
                recv(r(10)) -> m => m.unwrap(), recv(r(11)) -> m => m.unwrap(),
                recv(r(12)) -> m => m.unwrap(), recv(r(13)) -> m => m.unwrap(),
                recv(r(14)) -> m => m.unwrap(), recv(r(15)) -> m => m.unwrap(),
                recv(r(16)) -> m => m.unwrap(), recv(r(17)) -> m => m.unwrap(),
                recv(r(18)) -> m => m.unwrap(), recv(r(19)) -> m => m.unwrap(),
                recv(r(20)) -> m => m.unwrap(), recv(r(21)) -> m => m.unwrap(),
                recv(r(22)) -> m => m.unwrap(), recv(r(23)) -> m => m.unwrap(),
                recv(r(24)) -> m => m.unwrap(), recv(r(25)) -> m => m.unwrap(),
                recv(r(26)) -> m => m.unwrap(), recv(r(27)) -> m => m.unwrap(),
                recv(r(28)) -> m => m.unwrap(), recv(r(29)) -> m => m.unwrap(),
                recv(r(30)) -> m => m.unwrap(), recv(r(31)) -> m => m.unwrap(),
                default => panic!("messages are left"),
            };
        }
        assert_eq!(sum, (0..32).sum::<i32>());
    });
}

#[test]
fn blocks_nest_without_commas() {
    check(|| {
        let (_, r) = bounded::<u8>(0);
        let depth = select! {
            recv(r) -> _ => {
                select! {
                    recv(r) -> _ => {
                        select! {
                            recv(r) -> _ => {
                                select! {
                                    recv(r) -> _ => {
                                        select! { recv(r) -> _ => { 5 } default => { 0 } }
                                    }
                                    default => { 0 }
                                }
                            }
                            default => { 0 }
                        }
                    }
                    default => { 0 }
                }
            }
            default => { 0 }
        };
        assert_eq!(depth, 5);
    });
}

/// The names of the macro's variables are not those of the program.
#[test]
fn names_of_the_program_are_its_own() {
    check(|| {
        let (op, source) = unbounded();
        let (value, picked) = (1, 2);
        select! {
            send(op, value + picked) -> index => index.unwrap(),
            recv(source) -> _ => panic!("nothing was sent"),
        }
        select! { recv(source) -> value => assert_eq!((value, picked), (Ok(3), 2)) }
    });
}

mod shadowed {
    //! The macro names all it uses by full paths.

    #![allow(dead_code, reason = "names that stand in the way")]

    struct Option;
    struct Some;
    struct None;
    struct Result;
    struct Ok;

    #[test]
    fn names_of_the_prelude_may_be_others() {
        let (s, r) = crossbeam_channel::unbounded();
        crossbeam_channel::select! {
            send(s, 1) -> result => assert!(result.is_ok()),
            recv(r) -> _ => {}
            default => {}
        }
    }
}
