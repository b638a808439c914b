//! What the original cannot do: channels between goroutines of one thread, and cancels.

use crate::{check, start};
use crossbeam_channel::{
    RecvError, RecvTimeoutError, Select, SendError, TryRecvError, after, bounded, never, select,
    unbounded,
};
use gopark::sync::Cancel;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// The original blocks the thread in the receive, and the sender never runs again.
#[test]
fn a_receiver_and_a_sender_that_has_parked_are_at_home_on_one_thread() {
    check(|| {
        for capacity in [Some(0), Some(1), None] {
            let (sender, receiver) =
                capacity.map_or_else(unbounded, bounded::<std::thread::ThreadId>);
            let goroutine = gopark::go_local(move || {
                gopark::sleep(Duration::from_millis(2));
                sender.send(std::thread::current().id()).unwrap();
            });
            assert_eq!(receiver.recv(), Ok(std::thread::current().id()));
            goroutine.join().unwrap();
        }
    });
}

#[test]
fn selects_and_readiness_on_one_thread() {
    check(|| {
        let (sender, receiver) = bounded(0);
        let goroutine = gopark::go_local(move || {
            gopark::sleep(Duration::from_millis(2));
            for i in 0..100 {
                select! { send(sender, i) -> result => result.unwrap() }
            }
        });
        for i in 0..100 {
            if i % 2 == 0 {
                select! {
                    recv(receiver) -> message => assert_eq!(message, Ok(i)),
                    recv(after(Duration::from_secs(60))) -> _ => panic!("too late"),
                }
            } else {
                let mut select = Select::new();
                select.recv(&receiver);
                let message = loop {
                    select.ready();
                    if let Ok(message) = receiver.try_recv() {
                        break message;
                    }
                };
                assert_eq!(message, i);
            }
        }
        goroutine.join().unwrap();
    });
}

#[test]
fn messages_that_stay_on_their_thread() {
    check(|| {
        let (sender, receiver) = bounded::<Rc<RefCell<Vec<u8>>>>(0);
        let goroutine = gopark::go_local(move || {
            for list in receiver {
                list.borrow_mut().push(1);
            }
        });
        let list = Rc::new(RefCell::new(Vec::new()));
        for _ in 0..3 {
            let mut select = Select::new();
            select.send(&sender);
            select.select().send(&sender, list.clone()).unwrap();
        }
        drop(sender);
        goroutine.join().unwrap();
        assert_eq!(*list.borrow(), [1; 3]);
    });
}

#[test]
fn a_goroutine_and_a_thread_share_a_channel() {
    check(|| {
        let (pings, from_pings) = bounded(0);
        let (pongs, from_pongs) = unbounded();
        let thread = std::thread::spawn(move || {
            for ping in from_pings {
                select! { send(pongs, ping + 1) -> result => result.unwrap() }
            }
        });
        for i in 0..200 {
            pings.send(i).unwrap();
            assert_eq!(from_pongs.recv(), Ok(i + 1));
        }
        drop(pings);
        assert!(gopark::blocking(|| thread.join().is_ok()));
    });
}

#[test]
fn operations_of_a_cancelled_goroutine_fail() {
    check(|| {
        let cancel = Cancel::new();
        cancel.cancel();
        let (sender, receiver) = bounded(1);
        sender.send(1).unwrap();
        cancel.run(|| {
            assert_eq!(sender.send(2), Err(SendError(2)));
            let limit = Duration::from_secs(60);
            assert_eq!(receiver.recv(), Err(RecvError));
            assert_eq!(
                receiver.recv_timeout(limit),
                Err(RecvTimeoutError::Disconnected)
            );
            assert_eq!(after(limit).recv(), Err(RecvError));
            let late = after(limit).recv_timeout(limit);
            assert_eq!(late, Err(RecvTimeoutError::Disconnected));
            assert_eq!(never::<u8>().recv(), Err(RecvError));
            select! {
                recv(after(limit)) -> time => assert_eq!(time, Err(RecvError)),
                send(sender, 3) -> result => assert_eq!(result, Err(SendError(3))),
            }
            select! { recv(after(limit)) -> time => assert_eq!(time, Err(RecvError)) }
            // What does not wait is done.
            assert_eq!(receiver.try_recv(), Ok(1));
            assert!(sender.try_send(4).is_ok());
            select! {
                recv(receiver) -> message => assert_eq!(message, Ok(4)),
                default => panic!("a message was there"),
            }
            let mut select = Select::new();
            select.send(&sender);
            select.try_select().unwrap().send(&sender, 5).unwrap();
            assert_eq!(
                (select.try_ready().is_err(), receiver.try_recv()),
                (true, Ok(5))
            );
            assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        });
        sender.send(6).unwrap();
        assert_eq!(receiver.recv(), Ok(6));
    });
}

#[test]
fn a_cancel_ends_waits() {
    check(|| {
        let cancel = Cancel::new();
        let (_sender, receiver) = bounded::<u8>(0);
        let waits: Vec<Box<dyn FnOnce() + Send>> = vec![
            Box::new({
                let receiver = receiver.clone();
                move || assert_eq!(receiver.recv(), Err(RecvError))
            }),
            Box::new(|| assert_eq!(never::<u8>().recv(), Err(RecvError))),
            Box::new(|| assert_eq!(after(Duration::MAX).recv(), Err(RecvError))),
            Box::new(move || {
                select! {
                    recv(never::<u8>()) -> _ => panic!("a channel fails first"),
                    recv(receiver) -> message => assert_eq!(message, Err(RecvError)),
                }
            }),
        ];
        let goroutines: Vec<_> = waits
            .into_iter()
            .map(|wait| {
                let cancel = cancel.clone();
                gopark::go(move || cancel.run(wait))
            })
            .collect();
        (0..20).for_each(|_| gopark::yield_now());
        cancel.cancel();
        goroutines
            .into_iter()
            .for_each(|goroutine| goroutine.join().unwrap());
    });
}

/// The runtime of the suite has started, and a thread of the harness uses it.
#[test]
fn an_ordinary_thread_waits_for_a_goroutine() {
    start();
    let (sender, receiver) = bounded(0);
    let goroutine = gopark::go(move || sender.send(5));
    assert_eq!(receiver.recv(), Ok(5));
    goroutine.join().unwrap().unwrap();
}
