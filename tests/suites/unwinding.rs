//! While a goroutine unwinds, no other goroutine runs on its thread, where it would see the panic
//! as its own; unless a destructor parks.
//!
//! One thread runs all goroutines, and one test at a time.

use gopark::net::TcpStream;
use gopark::{Builder, PollError, go, yield_now};
use gopark_tests::join;
use gopark_tests::sockets::{narrow_pair, pair, poll_error};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const ROUNDS: usize = 40;

fn check(behaviour: impl FnOnce() + Send + 'static) {
    gopark_tests::start(Builder::new().max_procs(1));
    gopark_tests::alone_in_goroutine(behaviour);
}

/// Goroutines of this thread that lock a mutex now and then and count how often they see a panic.
/// None of them panics.
struct Neighbours {
    seen: Arc<AtomicUsize>,
    locks: Vec<Arc<Mutex<()>>>,
    over: Arc<AtomicBool>,
    goroutines: Vec<gopark::JoinHandle<()>>,
}

impl Neighbours {
    fn new() -> Self {
        let (seen, over) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let locks: Vec<_> = (0..3).map(|_| Arc::new(Mutex::new(()))).collect();
        let neighbour = |lock: &Arc<Mutex<()>>| {
            let (seen, over, lock) = (seen.clone(), over.clone(), lock.clone());
            gopark::go_local(move || {
                while !over.load(SeqCst) {
                    let guard = lock.lock();
                    yield_now();
                    seen.fetch_add(usize::from(thread::panicking()), SeqCst);
                    drop(guard);
                }
            })
        };
        let goroutines = locks.iter().map(neighbour).collect();
        Neighbours {
            seen,
            locks,
            over,
            goroutines,
        }
    }

    /// Ends them. Returns how often they saw a panic.
    fn end(self) -> usize {
        self.over.store(true, SeqCst);
        self.goroutines.into_iter().for_each(join);
        let poisoned = self.locks.iter().any(|lock| lock.is_poisoned());
        let seen = self.seen.load(SeqCst);
        assert!(seen > 0 || !poisoned);
        seen
    }
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Runs `destructor` while a goroutine of this thread unwinds, and returns its result.
fn while_unwinding<T: 'static>(destructor: impl FnOnce() -> T + 'static) -> T {
    join(gopark::go_local(|| while_unwinding_here(destructor)))
}

/// As [`while_unwinding`], in the calling goroutine.
fn while_unwinding_here<T>(destructor: impl FnOnce() -> T) -> T {
    let (mut destructor, mut result) = (Some(destructor), None);
    let unwinding: thread::Result<()> = panic::catch_unwind(AssertUnwindSafe(|| {
        let _dropped = OnDrop(|| result = Some(destructor.take().unwrap()()));
        // `panic!` would call the hook, which prints.
        panic::resume_unwind(Box::new(()))
    }));
    assert!(unwinding.is_err());
    result.unwrap()
}

/// In how many rounds a neighbour saw the panic of a goroutine that runs `destructor` while it
/// unwinds.
fn rounds_seen(make: impl Fn() -> Box<dyn FnOnce()>) -> usize {
    let mut rounds = 0;
    for _ in 0..ROUNDS {
        let neighbours = Neighbours::new();
        yield_now();
        while_unwinding(make());
        rounds += usize::from(neighbours.end() > 0);
    }
    rounds
}

/// A connection that takes no more bytes, and its peer.
fn full_pair() -> (TcpStream, TcpStream) {
    let (mut near, far) = narrow_pair();
    near.set_write_deadline(Some(Instant::now() + Duration::from_millis(5)))
        .unwrap();
    while near.write(&[7; 4096]).is_ok() {}
    near.set_write_deadline(None).unwrap();
    (near, far)
}

#[test]
fn destructors_of_gopark_let_no_other_goroutine_run() {
    check(|| {
        let streams = || {
            let (near, far) = pair();
            // So that the descriptor is registered with a poller and shared.
            let clone = near.try_clone().unwrap();
            join(go(move || (&clone).write_all(b"x").unwrap()));
            Box::new(move || drop((near, far))) as Box<dyn FnOnce()>
        };
        assert_eq!(rounds_seen(streams), 0);
        let handle = || {
            let handle = go(|| ());
            Box::new(move || drop(handle)) as Box<dyn FnOnce()>
        };
        assert_eq!(rounds_seen(handle), 0);
    });
}

#[test]
fn a_flush_in_a_destructor_fails_if_it_would_wait() {
    check(|| {
        let buffered = || {
            let (near, far) = full_pair();
            let mut writer = BufWriter::new(near);
            writer.write_all(b"the rest").unwrap();
            Box::new(move || {
                drop(writer);
                drop(far);
            }) as Box<dyn FnOnce()>
        };
        assert_eq!(rounds_seen(buffered), 0);
    });
}

#[test]
fn many_operations_in_a_destructor_yield_to_no_other_goroutine() {
    check(|| {
        let busy = || {
            let (mut near, mut far) = pair();
            Box::new(move || {
                for _ in 0..300 {
                    near.write_all(b"x").unwrap();
                    far.read_exact(&mut [0]).unwrap();
                }
            }) as Box<dyn FnOnce()>
        };
        assert_eq!(rounds_seen(busy), 0);
    });
}

#[test]
fn blocking_and_close_do_not_park_while_unwinding() {
    check(|| {
        let blocking = || Box::new(|| assert_eq!(gopark::blocking(|| 7), 7)) as Box<dyn FnOnce()>;
        assert_eq!(rounds_seen(blocking), 0);
        let close = || {
            let (near, _far) = pair();
            let mut theirs = near.try_clone().unwrap();
            let reader = gopark::go_local(move || theirs.read(&mut [0]));
            yield_now();
            Box::new(move || {
                near.close().unwrap();
                assert!(!reader.is_finished());
            }) as Box<dyn FnOnce()>
        };
        assert_eq!(rounds_seen(close), 0);
    });
}

fn assert_unwinding<T: std::fmt::Debug>(result: io::Result<T>) {
    let error = result.unwrap_err();
    assert_eq!(
        (error.kind(), poll_error(&error)),
        (ErrorKind::WouldBlock, Some(PollError::Unwinding))
    );
}

#[test]
fn while_unwinding_operations_that_need_not_wait_work_and_others_are_refused() {
    check(|| {
        let (mut near, mut far) = pair();
        let (mut full, _peer) = full_pair();
        while_unwinding(move || {
            assert_unwinding(near.read(&mut [0; 8]));
            far.write_all(b"there").unwrap();
            let mut buffer = [0; 8];
            assert_eq!(near.read(&mut buffer).unwrap(), 5);
            // After a short read, the next read waits before it asks the kernel.
            far.write_all(b"more").unwrap();
            assert_eq!(near.read(&mut buffer).unwrap(), 4);
            assert_unwinding(near.read(&mut buffer));
            assert_unwinding(full.write(&[0; 1 << 16]));
        });
    });
}

#[test]
fn an_operation_does_not_wait_for_another_one_while_unwinding() {
    check(|| {
        let (near, mut far) = pair();
        let mut theirs = near.try_clone().unwrap();
        let reader = gopark::go_local(move || theirs.read(&mut [0]));
        yield_now();
        while_unwinding(move || assert_unwinding((&near).read(&mut [0])));
        far.write_all(b"x").unwrap();
        assert_eq!(join(reader).unwrap(), 1);
    });
}

#[test]
fn a_destructor_that_parks_explicitly_lets_other_goroutines_run() {
    check(|| {
        for round in 0..ROUNDS {
            let (mut near, mut far) = pair();
            let echo = gopark::go_local(move || {
                let mut buffer = [0; 1];
                while far.read(&mut buffer)? > 0 {
                    far.write_all(&buffer)?;
                }
                io::Result::Ok(())
            });
            let client = gopark::go_local(move || {
                for _ in 0..5 {
                    near.write_all(b"x")?;
                    near.read_exact(&mut [0])?;
                }
                io::Result::Ok(())
            });
            while_unwinding(move || match round % 4 {
                0 => join(go(yield_now)),
                1 => gopark::sleep(Duration::from_micros(300)),
                2 => (0..30).for_each(|_| yield_now()),
                _ => join(client).unwrap(),
            });
            join(echo).unwrap();
            // The neighbours have ended, so a panic can only be the unwinding goroutine's.
            let (mut near, _far) = pair();
            while_unwinding(move || assert_unwinding(near.read(&mut [0])));
        }
    });
}

/// A panic that neighbours have seen leaves no trace after its goroutine has returned.
#[test]
fn a_goroutine_that_panics_after_another_has_returned_counts_as_unwinding() {
    check(|| {
        let (near, _far) = pair();
        let limit = Instant::now() + Duration::from_millis(200);
        near.set_read_deadline(Some(limit)).unwrap();
        let returned = Arc::new(AtomicBool::new(false));
        let returns = returned.clone();
        let first = gopark::go_local(move || {
            while_unwinding_here(yield_now);
            returns.store(true, SeqCst);
        });
        let second = gopark::go_local(move || {
            while !returned.load(SeqCst) {
                yield_now();
            }
            while_unwinding_here(|| (&near).read(&mut [0]))
        });
        assert_unwinding(join(second));
        join(first);
    });
}
