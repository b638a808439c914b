//! Arms of `select!` that are no channels: joins, sockets, times.

use crate::check;
use gopark::chan::{bounded, unbounded};
use gopark::net::TcpStream;
use gopark::sync::Cancel;
use gopark::{Cancelled, ScopePanicked, scope, select, shield, thread};
use gopark_tests::sockets::{listener, pair};
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(600);

#[test]
fn a_join_gets_the_result_once() {
    check(|| {
        let (go, may_return) = bounded::<()>(0);
        let goroutine = gopark::go(move || may_return.recv().is_ok());
        select! {
            join(&goroutine) -> _ => panic!("it waits"),
            default => {}
        }
        go.send(()).unwrap();
        let result = select! { join(&goroutine) -> result => result };
        assert!(result.unwrap());
        select! {
            join(&goroutine) -> _ => panic!("the result was taken"),
            default(Duration::from_millis(1)) => {}
        }
    });
}

#[test]
fn a_join_that_waits_is_woken_and_gets_a_panic() {
    check(|| {
        let (go, may_return) = bounded::<()>(0);
        let goroutine = gopark::go(move || {
            may_return.recv().unwrap();
            std::panic::resume_unwind(Box::new(7));
        });
        let waiter = gopark::go(move || {
            select! {
                join(goroutine) -> result => result.map_err(|payload| *payload.downcast().unwrap()),
                default(LONG) => panic!("late"),
            }
        });
        gopark::yield_now();
        go.send(()).unwrap();
        assert_eq!(waiter.join().unwrap(), Err::<(), i32>(7));
    });
}

#[test]
fn a_result_that_no_select_took_is_dropped_once() {
    check(|| {
        let shared = std::sync::Arc::new(());
        for selected in [false, true] {
            let mine = shared.clone();
            let goroutine = gopark::go(move || mine);
            while !goroutine.is_finished() {
                gopark::yield_now();
            }
            if selected {
                select! { join(&goroutine) -> result => drop(result) }
            }
            drop(goroutine);
            assert_eq!(std::sync::Arc::strong_count(&shared), 1);
        }
    });
}

#[test]
fn a_join_takes_the_result_of_a_goroutine_of_a_scope() {
    check(|| {
        let text = String::from("borrowed");
        scope(|s| {
            let goroutine = s.go(|| text.as_str());
            assert_eq!(
                select! { join(&goroutine) -> result => result }.unwrap(),
                "borrowed"
            );
            select! {
                join(goroutine) -> _ => panic!("the result was taken"),
                default => {}
            }
        });
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            scope(|s| {
                let goroutine = s.go(|| -> () { resume_unwind(Box::new("no luck")) });
                let result = shield(|| select! { join(goroutine) -> result => result });
                assert!(result.unwrap_err().is::<ScopePanicked>());
            });
        }));
        assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"no luck"));
    });
}

#[test]
fn a_scope_of_threads_does_not_panic_for_a_panic_that_a_join_took() {
    check(|| {
        thread::scope(|s| {
            let returns = s.spawn(|| 7);
            assert_eq!(select! { join(returns) -> result => result }.unwrap(), 7);
            let panics = s.spawn(|| -> () { resume_unwind(Box::new("no luck")) });
            let result = select! { join(&panics) -> result => result };
            assert_eq!(result.unwrap_err().downcast_ref(), Some(&"no luck"));
        });
    });
}

#[test]
fn a_join_finds_the_handle_behind_a_pointer() {
    check(|| {
        let mut mutable = gopark::go(|| 1);
        let mutable = &mut mutable;
        let shared = Arc::new(gopark::go(|| 2));
        let boxed = Box::new(gopark::go(|| 3));
        let mut sum = 0;
        for _ in 0..3 {
            sum += select! {
                join(mutable) -> result => result.unwrap(),
                join(shared) -> result => result.unwrap(),
                join(&boxed) -> result => result.unwrap(),
            };
        }
        assert_eq!(sum, 6);
    });
}

#[test]
fn a_join_of_a_scoped_goroutine_fails_if_the_caller_is_cancelled() {
    check(|| {
        let cancel = Cancel::new();
        cancel.cancel();
        let (hold, held) = bounded::<()>(0);
        scope(|s| {
            let held = held.clone();
            let waits = s.go(move || held.recv().is_err());
            let result = cancel.run(|| select! { join(waits) -> result => result });
            assert!(result.unwrap_err().is::<Cancelled>());
            s.cancel();
        });
        thread::scope(|s| {
            let waits = s.spawn(move || held.recv().is_err());
            let result = cancel.run(|| select! { join(waits) -> result => result });
            assert!(result.unwrap_err().is::<Cancelled>());
            drop(hold);
        });
    });
}

#[test]
fn a_socket_becomes_readable_beside_a_channel_and_no_byte_is_lost() {
    check(|| {
        const BYTES: usize = 4096;
        let (mut near, mut far) = pair();
        let (ticks, from_ticks) = unbounded();
        let ticker = gopark::go(move || {
            for i in 0..BYTES {
                ticks.send(i).unwrap();
                gopark::yield_now();
            }
        });
        let writer = gopark::go(move || {
            for i in 0..BYTES {
                near.write_all(&[i as u8]).unwrap();
            }
        });
        let (mut received, mut ticked) = (Vec::new(), 0);
        while received.len() < BYTES || ticked < BYTES {
            let mut buffer = [0; 64];
            select! {
                readable(&far) -> ready => {
                    ready.unwrap();
                    let n = far.read(&mut buffer).unwrap();
                    received.extend_from_slice(&buffer[..n]);
                    if n == 0 {
                        break;
                    }
                }
                recv(from_ticks) -> tick => match tick {
                    Ok(tick) => {
                        assert_eq!(tick, ticked);
                        ticked += 1;
                    }
                    // Closed: it would be selected again and again.
                    Err(_) => break,
                },
            }
        }
        far.read_to_end(&mut received).unwrap();
        assert!(
            received
                .iter()
                .enumerate()
                .all(|(i, &byte)| byte == i as u8)
        );
        assert_eq!(received.len(), BYTES);
        ticker.join().unwrap();
        writer.join().unwrap();
    });
}

#[test]
fn a_socket_without_data_is_not_readable_after_its_data_was_read() {
    check(|| {
        let (mut near, mut far) = pair();
        for round in 0..100 {
            near.write_all(b"x").unwrap();
            select! { readable(far) -> ready => ready.unwrap() }
            far.read_exact(&mut [0]).unwrap();
            select! {
                readable(far) -> _ => panic!("round {round}: a read would wait"),
                default(Duration::from_micros(50)) => {}
            }
        }
    });
}

#[test]
fn an_end_of_stream_and_a_close_are_readable() {
    check(|| {
        let (near, mut far) = pair();
        drop(near);
        select! { readable(far) -> ready => ready.unwrap() }
        assert_eq!(far.read(&mut [0]).unwrap(), 0);

        let (_near, far) = pair();
        let shared = far.try_clone().unwrap();
        let (waits, from_waiter) = bounded::<()>(0);
        let waiter = gopark::go(move || {
            waits.send(()).unwrap();
            select! {
                readable(shared) -> ready => ready.unwrap_err().to_string(),
                default(LONG) => panic!("late"),
            }
        });
        from_waiter.recv().unwrap();
        gopark::yield_now();
        far.close().unwrap();
        assert_eq!(waiter.join().unwrap(), "use of closed network connection");
        let closed = select! { writable(far) -> ready => ready.is_err() };
        assert!(closed);
    });
}

#[test]
fn a_listener_and_a_full_socket() {
    check(|| {
        let listener = listener();
        select! {
            acceptable(listener) -> _ => panic!("there is no client"),
            default => {}
        }
        let addr = listener.local_addr().unwrap();
        let client = gopark::go(move || TcpStream::connect(addr).unwrap());
        select! { acceptable(&listener) -> ready => ready.unwrap() }
        let (mut far, _) = listener.accept().unwrap();
        let near = client.join().unwrap();

        select! { writable(&near) -> ready => ready.unwrap() }
        near.set_write_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        while (&near).write(&[0; 1 << 16]).is_ok() {}
        select! {
            writable(near) -> _ => panic!("the buffer is full"),
            default => {}
        }
        let reader = gopark::go(move || std::io::copy(&mut far, &mut std::io::sink()).unwrap());
        select! {
            writable(near) -> ready => ready.unwrap(),
            default(LONG) => panic!("late"),
        }
        drop(near);
        assert!(reader.join().unwrap() > 0);
    });
}

#[test]
fn the_earliest_time_comes_first_and_not_early() {
    check(|| {
        let (_sender, never) = bounded::<u8>(0);
        let now = Instant::now();
        let soon = now + Duration::from_millis(2);
        let picked = select! {
            recv(never) -> _ => "receive",
            at(now + LONG) => "later",
            at(soon) => "soon",
            default(LONG) => "default",
        };
        assert_eq!(picked, "soon");
        assert!(Instant::now() >= soon);
    });
}

#[test]
fn a_time_that_has_come_is_selected_as_often_as_other_events() {
    const ROUNDS: usize = 4_000;
    check(|| {
        let (sender, receiver) = unbounded();
        (0..2 * ROUNDS).for_each(|i| sender.send(i).unwrap());
        let past = Instant::now();
        let (mut times, mut values) = (0, 0);
        for _ in 0..ROUNDS {
            select! {
                recv(receiver) -> _ => values += 1,
                at(past) => times += 1,
            }
            select! {
                biased;
                at(past) => {}
                recv(receiver) -> _ => panic!("the time is written first"),
            }
        }
        assert!(
            times > ROUNDS / 3 && values > ROUNDS / 3,
            "{times} {values}"
        );
        select! {
            at(past + LONG) => panic!("early"),
            default => {}
        }
    });
}
