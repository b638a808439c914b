//! Cancelling: what fails in a cancelled goroutine, and what does not.

mod nested;
mod work;

use super::check_on_thread;
use super::sync::{until_all_wait, until_waits};
use crate::check;
use gopark::chan::{self, RecvError, SendError};
use gopark::net::{TcpListener, TcpStream};
use gopark::sync::{Cancel, Cause, Mutex, Semaphore};
use gopark::{
    Cancelled, JoinHandle, PollError, TryScope, check_cancel, go, poll_error, scope, select,
    shield, sleep, try_scope, with_deadline, with_timeout, yield_now,
};
use gopark_core::watch::{Descriptor, Wait};
use gopark_tests::{Dice, join, rounds, until};
use std::io::{self, Read, Write};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(2);
const READING: Wait = Wait::Read(Descriptor {
    fd: 0,
    deadline: None,
});

pub(super) fn everywhere(behaviour: fn()) {
    check(behaviour);
    check_on_thread(behaviour);
}

/// Whether an operation of a socket has failed because its goroutine is cancelled.
pub(super) fn is_cancelled<T>(result: io::Result<T>) -> bool {
    let Err(error) = result else { return false };
    assert_eq!(error.kind(), io::ErrorKind::Other);
    poll_error(&error) == Some(PollError::Cancelled)
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// A goroutine that runs `f` as a member of `cancel`.
pub(super) fn member<T: Send + 'static>(
    cancel: &Cancel,
    f: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let cancel = cancel.clone();
    go(move || cancel.run(f))
}

#[test]
fn a_cancel_ends_the_waits_for_sockets_and_the_sockets_work_on() {
    everywhere(|| {
        let cancel = Cancel::new();
        let (near, far) = pair();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let [mut one, mut other] = [0; 2].map(|_| near.try_clone().unwrap());
        let accept = {
            let listener = listener.try_clone().unwrap();
            member(&cancel, move || is_cancelled(listener.accept()))
        };
        let read = member(&cancel, move || is_cancelled(one.read(&mut [0])));
        let first = [accept, read];
        until_all_wait(&first, READING);
        let behind = member(&cancel, move || is_cancelled(other.read(&mut [0])));
        until_waits(&behind, Wait::Semaphore);
        cancel.cancel();
        assert!(join(behind));
        assert_eq!(first.map(join), [true; 2]);
        (&far).write_all(b"x").unwrap();
        assert_eq!((&near).read(&mut [0; 8]).unwrap(), 1);
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(listener.accept().is_ok());
    });
}

#[test]
fn a_cancel_ends_the_waits_for_channels_and_selects() {
    everywhere(|| {
        let cancel = Cancel::new();
        let (_sender, receiver) = chan::bounded::<u8>(0);
        let (full, _receiver) = chan::bounded(0);
        let theirs = full.clone();
        let with_arm = move || {
            let never = chan::never::<u8>();
            select! {
                recv(never) -> _ => false,
                send(theirs, 3) -> _ => false,
                cancelled() => true,
            }
        };
        let without_arm = || {
            let never = chan::never::<u8>();
            select! { recv(never) -> result => result == Err(RecvError) }
        };
        let waits = [
            (
                Wait::ChanReceive,
                member(&cancel, move || receiver.recv() == Err(RecvError)),
            ),
            (
                Wait::ChanSend,
                member(&cancel, move || full.send(7) == Err(SendError(7))),
            ),
            (Wait::Select, member(&cancel, with_arm)),
            (Wait::Select, member(&cancel, without_arm)),
        ];
        assert_cancelled(&cancel, waits);
    });
}

#[test]
fn a_cancel_ends_sleeps_joins_and_waits_for_permits() {
    everywhere(|| {
        let cancel = Cancel::new();
        let parked = go(gopark::thread::park);
        let thread = parked.thread().clone();
        let semaphore = Arc::new(Semaphore::new(0));
        let sleeps = || {
            sleep(LONG);
            true
        };
        let joins = move || parked.join().unwrap_err().downcast_ref() == Some(&Cancelled);
        let acquires = move || semaphore.acquire().err() == Some(Cancelled);
        let waits = [
            (Wait::Sleep(0), member(&cancel, sleeps)),
            (Wait::Join(0), member(&cancel, joins)),
            (Wait::Semaphore, member(&cancel, acquires)),
        ];
        assert_cancelled(&cancel, waits);
        // The goroutine whose join was cancelled is detached, and goes on.
        thread.unpark();
    });
}

/// Cancels the goroutines once they wait. Fails unless each finds that it was.
fn assert_cancelled<const N: usize>(cancel: &Cancel, waits: [(Wait, JoinHandle<bool>); N]) {
    for (wait, goroutine) in &waits {
        until_waits(goroutine, *wait);
    }
    cancel.cancel();
    for (wait, goroutine) in waits {
        assert!(join(goroutine), "{wait}");
    }
}

#[test]
fn later_operations_fail_at_once_even_if_they_need_not_wait() {
    everywhere(|| {
        let (near, far) = pair();
        (&far).write_all(b"data").unwrap();
        let (sender, receiver) = chan::bounded(4);
        sender.send(1).unwrap();
        let semaphore = Semaphore::new(3);
        let cancel = Cancel::new();
        cancel.cancel();
        cancel.run(|| {
            for _ in 0..3 {
                assert!(is_cancelled((&near).read(&mut [0; 4])));
                assert!(is_cancelled((&near).write(b"x")));
                assert_eq!(receiver.recv(), Err(RecvError));
                assert_eq!(sender.send(2), Err(SendError(2)));
                assert_eq!(semaphore.acquire().err(), Some(Cancelled));
                assert_eq!(check_cancel(), Err(Cancelled));
                let start = Instant::now();
                sleep(LONG);
                assert!(start.elapsed() < LONG / 2);
            }
            // These do not wait, and so work on.
            assert_eq!(receiver.try_recv(), Ok(1));
            assert!(sender.try_send(1).is_ok() && semaphore.try_acquire().is_some());
            let done = go(|| 7);
            until("it has returned", || done.is_finished());
            assert_eq!(done.join().unwrap(), 7);
        });
        // Nothing was lost.
        assert_eq!(check_cancel(), Ok(()));
        assert_eq!(receiver.recv(), Ok(1));
        let mut buffer = [0; 8];
        assert_eq!((&near).read(&mut buffer).unwrap(), 4);
        near.close().unwrap();
        assert_eq!((&far).read(&mut buffer).unwrap(), 0);
    });
}

#[test]
fn a_cancel_reaches_children_and_no_others() {
    everywhere(|| {
        let root = Cancel::new();
        let (one, other) = (root.child(), root.child());
        let grandchild = one.child();
        assert!(one.cancel() && !one.cancel());
        assert_eq!(one.cause(), Some(Cause::Asked));
        assert_eq!(grandchild.cause(), Some(Cause::Parent));
        assert_eq!((root.cause(), other.cause()), (None, None));
        // A child of a cancelled one is cancelled from the start.
        assert_eq!(grandchild.child().cause(), Some(Cause::Parent));
        drop(other);
        assert!(root.cancel());
        assert_eq!(one.cause(), Some(Cause::Asked));
    });
}

#[test]
fn nested_members_are_reached_by_the_innermost_and_its_parents() {
    everywhere(|| {
        let outer = Cancel::new();
        let unrelated = Cancel::new();
        outer.run(|| {
            let inner = outer.child();
            inner.run(|| {
                inner.cancel();
                assert_eq!(check_cancel(), Err(Cancelled));
                // One that is no child of the current one does not hide it.
                assert_eq!(unrelated.run(check_cancel), Err(Cancelled));
                assert_eq!(shield(|| unrelated.run(check_cancel)), Ok(()));
                assert_eq!(shield(check_cancel), Ok(()));
                assert_eq!(shield(|| inner.run(check_cancel)), Err(Cancelled));
            });
            assert_eq!(check_cancel(), Ok(()));
            outer.child().run(|| {
                outer.cancel();
                assert_eq!(check_cancel(), Err(Cancelled));
            });
            assert_eq!(check_cancel(), Err(Cancelled));
        });
        assert_eq!(check_cancel(), Ok(()));
    });
}

#[test]
fn the_limit_that_has_passed_is_told_apart() {
    everywhere(|| {
        let never = chan::never::<u8>();
        let inner = with_timeout(LONG, || with_timeout(SHORT, || never.recv()));
        assert!(matches!(inner, Ok(Err(expired)) if expired.into_inner().is_err()));
        let outer = with_timeout(SHORT, || with_timeout(LONG, || never.recv()));
        assert!(matches!(
            outer.unwrap_err().into_inner(),
            Ok(Err(RecvError))
        ));
        let past = Instant::now() - SHORT;
        assert!(
            with_deadline(past, check_cancel)
                .unwrap_err()
                .into_inner()
                .is_err()
        );
        assert_eq!(with_timeout(Duration::MAX, || 7), Ok(7));
        let cancel = Cancel::new();
        cancel.cancel();
        // Cancelled, but not by its own deadline.
        assert_eq!(
            cancel.run(|| with_timeout(LONG, || never.recv())),
            Ok(Err(RecvError))
        );
    });
}

#[test]
fn a_deadline_can_be_moved_and_removed() {
    everywhere(|| {
        let cancel = Cancel::new();
        cancel.set_timeout(LONG);
        cancel.set_timeout(SHORT);
        assert_eq!(cancel.wait(), Ok(()));
        assert_eq!(cancel.cause(), Some(Cause::Deadline));
        let cancel = Cancel::new();
        cancel.set_timeout(SHORT);
        cancel.set_deadline(None);
        sleep(SHORT * 3);
        assert!(!cancel.is_cancelled());
        cancel.set_timeout(LONG);
    });
}

#[test]
fn a_shield_entered_during_a_wait_of_before_is_not_reached() {
    everywhere(|| {
        let cancel = Cancel::new();
        let (sender, receiver) = chan::bounded(0);
        let shielded = member(&cancel, move || shield(|| receiver.recv()));
        until_waits(&shielded, Wait::ChanReceive);
        cancel.cancel();
        sender.send(7).unwrap();
        assert_eq!(join(shielded), Ok(7));
    });
}

#[test]
fn what_was_completed_wins_and_no_value_is_lost() {
    everywhere(|| {
        let dice = Dice::new(5);
        for round in 0..rounds(3_000) {
            let cancel = Cancel::new();
            let (sender, receiver) = chan::bounded(dice.below(2) as usize);
            let theirs = receiver.clone();
            let receiving = member(&cancel, move || theirs.recv().ok());
            for _ in 0..dice.below(4) {
                yield_now();
            }
            let canceller = go(move || cancel.cancel());
            let sent = sender.try_send(round).is_ok();
            join(canceller);
            let received = join(receiving);
            let left = receiver.try_recv().ok();
            assert_eq!(u64::from(sent), received.iter().chain(&left).count() as u64);
        }
    });
}

#[test]
fn a_cancelled_reader_that_waits_for_another_reader_leaves_the_queue() {
    everywhere(|| {
        for _ in 0..rounds(300) {
            let (near, far) = pair();
            let near = Arc::new(near);
            let cancel = Cancel::new();
            let read = |near: &Arc<TcpStream>| {
                let near = near.clone();
                move || (&*near).read(&mut [0])
            };
            let first = go(read(&near));
            until_waits(&first, READING);
            let cancelled = [0; 3].map(|_| member(&cancel, read(&near)));
            let last = go(read(&near));
            until_all_wait(&cancelled, Wait::Semaphore);
            let canceller = go(move || cancel.cancel());
            (&far).write_all(b"ab").unwrap();
            join(canceller);
            // Those that were cancelled have read nothing, or what they read counts.
            let read = |result: io::Result<usize>| result.unwrap_or(0);
            let mut sum = 0;
            for cancelled in cancelled {
                sum += read(join(cancelled));
            }
            far.close().unwrap();
            sum += read(join(first)) + read(join(last));
            assert!(sum <= 2);
        }
    });
}

#[test]
fn locks_are_not_cancelled_and_not_poisoned() {
    everywhere(|| {
        let lock = Arc::new(Mutex::new(0));
        let held = lock.lock().unwrap();
        let cancel = Cancel::new();
        let theirs = lock.clone();
        let waiting = member(&cancel, move || {
            *theirs.lock().unwrap() += 1;
            check_cancel()
        });
        until_waits(&waiting, Wait::Mutex(0));
        cancel.cancel();
        drop(held);
        assert_eq!(join(waiting), Err(Cancelled));
        assert_eq!(*lock.lock().unwrap(), 1);
    });
}

#[test]
fn a_scope_cancels_its_goroutines_and_waits_for_them() {
    everywhere(|| {
        let ended = AtomicUsize::new(0);
        scope(|s| {
            for _ in 0..50 {
                s.go(|| {
                    sleep(LONG);
                    assert_eq!(check_cancel(), Err(Cancelled));
                    ended.fetch_add(1, SeqCst);
                });
            }
            // Those of a scope within are cancelled, too.
            s.go(|| {
                scope(|inner| _ = inner.go(|| sleep(LONG)));
                ended.fetch_add(1, SeqCst);
            });
            assert!(s.cancel());
            assert_eq!(check_cancel(), Err(Cancelled));
        });
        assert_eq!(ended.into_inner(), 51);
        assert_eq!(check_cancel(), Ok(()));
    });
}

#[test]
fn a_panic_in_a_scope_cancels_the_others_and_comes_out_last() {
    everywhere(|| {
        let ended = AtomicUsize::new(0);
        let run = || {
            scope(|s| {
                for _ in 0..10 {
                    s.go(|| {
                        sleep(LONG);
                        ended.fetch_add(1, SeqCst);
                    });
                }
                let failing = s.go(|| panic::resume_unwind(Box::new("first")));
                // The body may be cancelled before the goroutine has ended.
                let joined: Result<(), _> = failing.join();
                assert!(joined.is_err());
                sleep(LONG);
                panic::resume_unwind(Box::new("second"));
            });
        };
        let payload = panic::catch_unwind(AssertUnwindSafe(run)).unwrap_err();
        assert_eq!(payload.downcast_ref(), Some(&"first"));
        assert_eq!(ended.load(SeqCst), 10);
    });
}

#[test]
fn the_first_error_cancels_the_others_and_is_returned() {
    everywhere(|| {
        let ended = AtomicUsize::new(0);
        let outcome = try_scope(|s| {
            for number in 0..10 {
                s.go(|| {
                    sleep(LONG);
                    ended.fetch_add(1, SeqCst);
                    Err::<(), _>("a consequence")
                });
                if number == 5 {
                    s.go(|| Err::<(), _>("the cause"));
                }
            }
            Ok(7)
        });
        assert_eq!(outcome, Err("the cause"));
        assert_eq!(ended.load(SeqCst), 10);
        assert_eq!(
            try_scope(|s| s.go(|| Ok::<_, ()>(3)).join().map_err(|_| ())),
            Ok(Some(3))
        );
        assert_eq!(try_scope::<(), _>(|_| Err("own")), Err("own"));
    });
}

#[test]
fn a_goroutine_of_a_try_scope_starts_others_that_can_fail() {
    everywhere(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let greeted = &AtomicUsize::new(0);
        let outcome = try_scope(|s| {
            s.go(|| -> io::Result<()> {
                loop {
                    let (mut stream, _) = listener.accept()?;
                    s.go(move || {
                        let mut greeting = String::new();
                        stream.read_to_string(&mut greeting)?;
                        match greeting.as_str() {
                            "hello" => greeted.fetch_add(1, SeqCst),
                            other => return Err(io::Error::other(other.to_owned())),
                        };
                        Ok(())
                    });
                }
            });
            for greeting in ["hello", "hello"] {
                TcpStream::connect(addr)?.write_all(greeting.as_bytes())?;
            }
            until("both are greeted", || greeted.load(SeqCst) == 2);
            TcpStream::connect(addr)?.write_all(b"goodbye")?;
            Ok(())
        });
        assert_eq!(outcome.unwrap_err().to_string(), "goodbye");
    });
}

#[test]
fn a_function_starts_goroutines_that_call_it_again() {
    fn walk<'s>(
        s: &'s TryScope<'s, '_, &'static str>,
        depth: u32,
        leaves: &'s AtomicUsize,
        fails: bool,
    ) -> Result<(), &'static str> {
        if depth == 0 {
            let leaf = leaves.fetch_add(1, SeqCst);
            return if fails && leaf == 5 {
                Err("the sixth")
            } else {
                Ok(())
            };
        }
        for _ in 0..2 {
            s.go(move || walk(s, depth - 1, leaves, fails));
        }
        Ok(())
    }
    everywhere(|| {
        let leaves = AtomicUsize::new(0);
        assert_eq!(try_scope(|s| walk(s, 5, &leaves, false)), Ok(()));
        assert_eq!(leaves.load(SeqCst), 32);
        let leaves = AtomicUsize::new(0);
        let outcome = try_scope(|s| walk(s, 5, &leaves, true));
        assert_eq!(outcome, Err("the sixth"));
    });
}

#[test]
fn a_limit_bounds_how_many_run() {
    everywhere(|| {
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        scope(|s| {
            s.limit(3);
            for _ in 0..30 {
                s.go(|| {
                    most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                    (0..3).for_each(|_| yield_now());
                    running.fetch_sub(1, SeqCst);
                });
            }
        });
        assert!((1..=3).contains(&most.into_inner()));
    });
}

#[test]
fn members_that_come_and_go_during_a_cancel_are_all_reached() {
    everywhere(|| {
        for _ in 0..rounds(200) {
            let cancel = Cancel::new();
            let stop = Arc::new(AtomicBool::new(false));
            let goroutines = Vec::from_iter((0..20).map(|seed| {
                let (cancel, stop) = (cancel.clone(), stop.clone());
                go(move || {
                    let dice = Dice::new(seed);
                    while !stop.load(SeqCst) {
                        let child = cancel.child();
                        let outcome = child.run(|| match dice.below(3) {
                            0 => check_cancel(),
                            1 => with_timeout(LONG, check_cancel).unwrap(),
                            _ => scope(|s| s.go(check_cancel).join().unwrap_or(Err(Cancelled))),
                        });
                        if outcome.is_err() {
                            return;
                        }
                        yield_now();
                    }
                    panic!("the cancel has not reached it");
                })
            }));
            yield_now();
            cancel.cancel();
            goroutines.into_iter().for_each(join);
            stop.store(true, SeqCst);
        }
    });
}

#[test]
fn the_connections_of_a_listener_end_for_a_cancelled_goroutine() {
    everywhere(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let cancel = Cancel::new();
        let connections = scope(|s| {
            let server = s.go(|| cancel.run(|| listener.incoming().count()));
            cancel.cancel();
            server.join().unwrap()
        });
        assert_eq!(connections, 0);
        // The listener goes on for others, but the iterator has ended.
        let mut incoming = listener.incoming();
        assert!(cancel.run(|| incoming.next()).is_none() && incoming.next().is_none());
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.incoming().next().unwrap().unwrap();
        assert_eq!(accepted.peer_addr().unwrap(), client.local_addr().unwrap());
    });
}
