//! `Once`.

use super::actors::{Actor, Flag, quiet_panic, until};
use crate::{check, spawn};
use parking_lot::{Once, OnceState};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

fn panics<T>(f: impl FnOnce() -> T) -> bool {
    panic::catch_unwind(AssertUnwindSafe(f)).is_err()
}

#[test]
fn one_initializer_runs_and_the_others_wait_for_it() {
    check(|| {
        static ONCE: Once = Once::new();
        static VALUE: AtomicU32 = AtomicU32::new(0);
        let actors = Vec::from_iter((0..8).map(|_| {
            spawn(|| {
                ONCE.call_once(|| {
                    assert_eq!(ONCE.state(), OnceState::InProgress);
                    gopark::yield_now();
                    VALUE.fetch_add(1, SeqCst);
                });
                assert_eq!((VALUE.load(SeqCst), ONCE.state()), (1, OnceState::Done));
            })
        }));
        actors.into_iter().for_each(Actor::join);
        ONCE.call_once(|| unreachable!());
        ONCE.call_once_force(|_| unreachable!());
    });
}

#[test]
fn a_panic_poisons_until_a_forced_call_returns() {
    check(|| {
        let once = Once::new();
        assert_eq!(once.state(), OnceState::New);
        assert!(panics(|| once.call_once(|| quiet_panic())));
        assert!(once.state().poisoned() && !once.state().done());
        assert!(
            panics(|| once.call_once(|| unreachable!())),
            "it is poisoned"
        );
        assert!(panics(|| once.call_once_force(|_| quiet_panic())));
        assert!(once.state().poisoned());
        once.call_once_force(|before| {
            assert_eq!(before, OnceState::Poisoned);
            assert_eq!(once.state(), OnceState::InProgress);
        });
        assert!(once.state().done() && !once.state().poisoned());
        once.call_once(|| unreachable!());
    });
}

#[test]
fn a_forced_call_is_told_that_no_initializer_has_panicked() {
    check(|| {
        let once = Once::default();
        once.call_once_force(|before| assert_eq!(before, OnceState::New));
        assert_eq!(format!("{once:?}"), "Once { state: Done }");
    });
}

#[test]
fn callers_that_wait_for_an_initializer_that_panics_panic_or_try_themselves() {
    check(|| {
        let (once, release) = (Arc::new(Once::new()), Arc::new(Flag::default()));
        let (theirs, released) = (once.clone(), release.clone());
        let fails = spawn(move || {
            theirs.call_once(|| {
                released.wait();
                quiet_panic()
            });
        });
        until("the initializer", || once.state() == OnceState::InProgress);
        let theirs = once.clone();
        let waits = spawn(move || panics(|| theirs.call_once(|| unreachable!("it is poisoned"))));
        release.set();
        assert!(fails.result().is_err());
        assert!(waits.join());
        let (theirs, released) = (once.clone(), release.clone());
        let forces = spawn(move || theirs.call_once_force(|_| released.wait()));
        once.call_once_force(|_| ());
        forces.join();
        assert!(once.state().done());
    });
}
