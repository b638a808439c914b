//! Goroutines in the shape of `std::thread`: scopes, parking, names.

use super::check_on_thread;
use super::sync::until_waits;
use crate::check;
use gopark::sync::Cancel;
use gopark::thread::{self, Builder, Thread};
use gopark::{Cancelled, JoinHandle, chan, check_cancel, go, yield_now};
use gopark_core::watch::{State, Wait};
use gopark_tests::{join, rounds, until};
use std::cell::RefCell;
use std::io;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

fn everywhere(behaviour: fn()) {
    check(behaviour);
    check_on_thread(behaviour);
}

/// Counts when it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn a_scope_waits_for_goroutines_whose_handles_are_gone() {
    everywhere(|| {
        let mut values = vec![0; 300];
        let late = AtomicUsize::new(0);
        let result = thread::scope(|s| {
            for (i, value) in values.iter_mut().enumerate() {
                let handle = s.spawn(|| {
                    (0..5).for_each(|_| yield_now());
                    *value = 1;
                    Counted(&late)
                });
                match i % 3 {
                    0 => drop(handle),
                    1 => drop(handle.join().unwrap()),
                    // AddressSanitizer reports what is forgotten.
                    _ if cfg!(gopark_sanitize = "address") => drop(handle),
                    _ => mem::forget(handle),
                }
            }
            "done"
        });
        assert_eq!(result, "done");
        assert_eq!(values, vec![1; 300]);
        // A forgotten handle keeps its result.
        let dropped = if cfg!(gopark_sanitize = "address") {
            300
        } else {
            200
        };
        assert_eq!(late.load(SeqCst), dropped);
    });
}

#[test]
fn a_result_that_nobody_wants_is_dropped_before_its_scope_returns() {
    /// Is slow to drop.
    struct Slow<'a>(&'a AtomicBool);
    impl Drop for Slow<'_> {
        fn drop(&mut self) {
            (0..50).for_each(|_| yield_now());
            self.0.store(true, SeqCst);
        }
    }
    everywhere(|| {
        for _ in 0..20 {
            let dropped = AtomicBool::new(false);
            thread::scope(|s| drop(s.spawn(|| Slow(&dropped))));
            assert!(dropped.load(SeqCst));
        }
    });
}

#[test]
fn goroutines_of_a_scope_start_others_in_it() {
    everywhere(|| {
        let count = AtomicUsize::new(0);
        thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..4 {
                        s.spawn(|| {
                            yield_now();
                            thread::scope(|inner| _ = inner.spawn(|| count.fetch_add(1, SeqCst)));
                        });
                    }
                });
            }
        });
        assert_eq!(count.load(SeqCst), 16);
    });
}

#[test]
fn a_panic_comes_out_of_the_join_or_else_of_the_scope() {
    everywhere(|| {
        let joined = thread::scope(|s| s.spawn(|| panic::resume_unwind(Box::new(7))).join());
        assert_eq!(joined.unwrap_err().downcast_ref(), Some(&7));
        let others = AtomicUsize::new(0);
        let scope = || {
            thread::scope(|s| {
                s.spawn(|| panic::resume_unwind(Box::new(7)));
                s.spawn(|| {
                    (0..20).for_each(|_| yield_now());
                    others.fetch_add(1, SeqCst);
                });
            });
        };
        let payload = panic::catch_unwind(AssertUnwindSafe(scope)).unwrap_err();
        let text = payload.downcast_ref::<&str>().unwrap();
        assert_eq!(*text, "a goroutine of the scope has panicked");
        assert_eq!(others.load(SeqCst), 1);
    });
}

#[test]
fn a_scope_whose_closure_panics_waits_before_it_unwinds() {
    everywhere(|| {
        let done = AtomicUsize::new(0);
        let scope = || {
            thread::scope(|s| {
                for _ in 0..10 {
                    s.spawn(|| {
                        (0..20).for_each(|_| yield_now());
                        done.fetch_add(1, SeqCst);
                    });
                }
                panic::resume_unwind(Box::new("own"));
            });
        };
        let payload = panic::catch_unwind(AssertUnwindSafe(scope)).unwrap_err();
        assert_eq!(payload.downcast_ref(), Some(&"own"));
        assert_eq!(done.load(SeqCst), 10);
    });
}

#[test]
fn a_goroutine_with_settings_starts_in_a_scope() {
    everywhere(|| {
        let text = String::from("borrowed");
        thread::scope(|s| {
            let reader = Builder::new().name("reader".into()).stack_size(2 << 20);
            let reader = reader.spawn_scoped(s, || {
                let room = [1u8; 1 << 20];
                let id = thread::current().id();
                (text.len() + usize::from(std::hint::black_box(&room)[9]), id)
            });
            let reader = reader.unwrap();
            let (id, named) = (
                reader.thread().id(),
                reader.thread().name() == Some("reader"),
            );
            assert_eq!(reader.join().unwrap(), (9, id));
            assert!(named);
            let refused = Builder::new().stack_size(usize::MAX).spawn_scoped(s, || ());
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        });
    });
}

#[test]
fn an_unpark_of_before_is_kept_once() {
    everywhere(|| {
        let me = thread::current();
        me.unpark();
        me.unpark();
        thread::park();
        let start = Instant::now();
        thread::park_timeout(Duration::from_millis(5));
        assert!(start.elapsed() >= Duration::from_millis(4) || me.id().goroutine().is_none());
    });
}

#[test]
fn goroutines_and_threads_unpark_each_other() {
    everywhere(|| {
        let parked: JoinHandle<()> = go(thread::park);
        until_waits(&parked, Wait::Park);
        let theirs = parked.thread().clone();
        let thread = std::thread::spawn(move || {
            theirs.unpark();
            thread::park();
        });
        join(parked);
        // What a thread that is no goroutine parks in is std's.
        thread.thread().unpark();
        gopark::blocking(|| thread.join().unwrap());
    });
}

#[test]
fn two_goroutines_take_turns_by_parking() {
    fn play(rounds: u64, own: &AtomicUsize, other: &AtomicUsize, partner: &Thread) {
        for round in 0..rounds as usize {
            while own.load(SeqCst) == round {
                thread::park();
            }
            other.fetch_add(1, SeqCst);
            partner.unpark();
        }
    }
    everywhere(|| {
        let rounds = rounds(20_000);
        let turns = [AtomicUsize::new(1), AtomicUsize::new(0)];
        let me = thread::current();
        thread::scope(|s| {
            let partner = s.spawn(|| play(rounds, &turns[1], &turns[0], &me));
            play(rounds, &turns[0], &turns[1], partner.thread());
        });
        assert_eq!(
            turns.map(AtomicUsize::into_inner),
            [1, 0].map(|first| first + rounds as usize)
        );
    });
}

#[test]
fn park_timeout_ends_by_the_limit_or_by_an_unpark() {
    everywhere(|| {
        let start = Instant::now();
        join(go(|| thread::park_timeout(Duration::from_millis(3))));
        assert!(start.elapsed() >= Duration::from_millis(3));
        let sleeper = go(|| thread::park_timeout(Duration::from_secs(3600)));
        until_waits(&sleeper, Wait::Park);
        sleeper.thread().unpark();
        join(sleeper);
        let endless = go(|| thread::park_timeout(Duration::MAX));
        endless.thread().unpark();
        join(endless);
    });
}

#[test]
fn a_goroutine_and_its_handle_name_the_same() {
    everywhere(|| {
        let goroutine = thread::spawn(|| (thread::current().id(), thread::current().id()));
        let (id, number) = (goroutine.thread().id(), goroutine.id());
        assert_eq!(id.goroutine(), Some(number));
        assert_eq!(join(goroutine), (id, id));
        assert_ne!(thread::current().id(), id);
        let named = Builder::new()
            .name("n".into())
            .spawn(thread::current)
            .unwrap();
        let (theirs, ours) = (named.thread().clone(), join(named));
        assert_eq!((theirs.id(), theirs.name()), (ours.id(), Some("n")));
        // A handle to a goroutine that has returned is harmless.
        ours.unpark();
    });
}

#[test]
fn a_scope_that_waits_says_so_in_a_snapshot() {
    check(|| {
        let release = AtomicBool::new(false);
        thread::scope(|s| {
            let waiting = s.spawn(|| {
                thread::scope(|inner| {
                    inner.spawn(|| until("it is released", || release.load(SeqCst)));
                });
            });
            until("the scope waits", || {
                let mut seen = false;
                gopark::scheduler().snapshot(None, |it| {
                    let reason = match it.state {
                        State::Waiting { wait, .. } => wait.reason(),
                        _ => "none",
                    };
                    seen |= it.id == waiting.id() && reason == Wait::<()>::Scope.reason();
                });
                seen
            });
            release.store(true, SeqCst);
        });
    });
}

#[test]
fn a_cancel_reaches_what_its_member_waits_for_in_run_and_in_a_scope() {
    everywhere(|| {
        let cancel = Cancel::new();
        let stopped = AtomicUsize::new(0);
        let wait = || {
            assert!(chan::never::<()>().recv().is_err());
            assert_eq!(check_cancel(), Err(Cancelled));
            stopped.fetch_add(1, SeqCst);
        };
        gopark::scope(|s| {
            s.go(|| cancel.run(|| gopark::run(wait)));
            s.go(|| {
                cancel.run(|| {
                    thread::scope(|inner| {
                        inner.spawn(wait);
                        inner.spawn(|| thread::scope(|innermost| _ = innermost.spawn(wait)));
                    })
                })
            });
            cancel.cancel();
        });
        assert_eq!(stopped.load(SeqCst), 3);
        // A detached goroutine is no member.
        let detached = cancel.run(|| go(check_cancel));
        assert_eq!(join(detached), Ok(()));
    });
}

#[test]
fn local_goroutines_of_a_scope_share_what_is_not_send() {
    check(|| {
        let log = RefCell::new(Vec::new());
        let total = gopark::scope(|s| {
            s.limit(2);
            let parts = [1, 2, 3].map(|part| {
                let (log, part) = (&log, Rc::new(part));
                s.go_local(move || {
                    yield_now();
                    log.borrow_mut().push(*part);
                    part
                })
            });
            parts.map(|part| *part.join().unwrap()).iter().sum::<i32>()
        });
        assert_eq!(total, 6);
        let mut log = log.into_inner();
        log.sort();
        assert_eq!(log, [1, 2, 3]);
        let failed = panic::catch_unwind(|| {
            gopark::scope(|s| {
                s.go_local(|| panic::resume_unwind(Box::new("no luck")));
                assert!(chan::never::<()>().recv().is_err());
            })
        });
        assert_eq!(failed.unwrap_err().downcast_ref(), Some(&"no luck"));
    });
    let on_thread = panic::catch_unwind(|| gopark::scope(|s| s.go_local(|| ()).join().unwrap()));
    assert!(on_thread.is_err());
}
