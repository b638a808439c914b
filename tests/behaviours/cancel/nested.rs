//! Goroutines in several cancels, chains of cancels, and goroutines that go on after theirs.

use super::{LONG, SHORT, everywhere, pair};
use crate::check;
use gopark::chan::{self};
use gopark::sync::{Cancel, Semaphore};
use gopark::{Cancelled, check_cancel, scope, select, shield, sleep};
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

#[test]
fn a_goroutine_in_two_cancels_is_cancelled_by_either() {
    everywhere(|| {
        let reached = |by: fn(&Cancel, &Cancel)| {
            let (outer, inner) = (Cancel::new(), Cancel::new());
            scope(|s| {
                let member = s.go(|| {
                    outer.run(|| {
                        inner.run(|| {
                            sleep(LONG);
                            check_cancel().is_err()
                        })
                    })
                });
                by(&outer, &inner);
                assert!(member.join().unwrap());
            });
            [outer, inner].map(|cancel| cancel.is_cancelled())
        };
        assert_eq!(reached(|outer, _| _ = outer.cancel()), [true, false]);
        assert_eq!(reached(|_, inner| _ = inner.cancel()), [false, true]);
        assert_eq!(reached(|outer, _| outer.set_timeout(SHORT)), [true, false]);
        // What a goroutine starts in a scope is in both, too, and so is a child of the current one.
        let (outer, inner) = (Cancel::new(), Cancel::new());
        outer.run(|| {
            inner.run(|| {
                let child = Cancel::current().unwrap().child();
                outer.cancel();
                assert!(child.is_cancelled());
                let started = scope(|s| shield(|| s.go(check_cancel).join()));
                assert_eq!(started.unwrap(), Err(Cancelled));
                assert!(shield(|| inner.run(check_cancel)).is_ok());
                inner.cancel();
                assert!(shield(|| inner.run(check_cancel)).is_err());
            })
        });
    });
}

#[test]
fn a_parent_that_is_entered_in_its_child_adds_nothing() {
    everywhere(|| {
        let parent = Cancel::new();
        let child = parent.child();
        child.run(|| {
            parent.run(|| {
                child.cancel();
                assert_eq!(check_cancel(), Err(Cancelled));
            });
            assert!(!parent.is_cancelled());
        });
    });
}

#[test]
fn a_long_chain_of_children_is_dropped_and_cancelled() {
    everywhere(|| {
        let first = Cancel::new();
        let mut last = first.clone();
        for _ in 0..20_000 {
            last = last.child();
        }
        let other = last.clone();
        last.run(|| assert!(first.run(check_cancel).is_ok()));
        first.cancel();
        assert!(other.is_cancelled());
        drop((first, last));
        drop(other);
    });
}

#[test]
fn a_goroutine_that_goes_on_after_its_cancel_lets_others_run() {
    check(|| {
        let operations: [fn(); 5] = [
            || sleep(LONG),
            || _ = check_cancel(),
            || _ = chan::never::<()>().recv(),
            || _ = Semaphore::new(0).acquire(),
            || select! { cancelled() => (), recv(chan::never::<()>()) -> _ => () },
        ];
        for operation in operations {
            let stop = AtomicBool::new(false);
            scope(|s| {
                s.go_local(|| {
                    while !stop.load(SeqCst) {
                        operation();
                    }
                });
                s.go_local(|| stop.store(true, SeqCst));
                s.cancel();
            });
        }
        let (near, _far) = pair();
        let stop = AtomicBool::new(false);
        scope(|s| {
            s.go_local(|| {
                while !stop.load(SeqCst) {
                    _ = (&near).read(&mut [0]);
                }
            });
            s.go_local(|| stop.store(true, SeqCst));
            s.cancel();
        });
    });
}
