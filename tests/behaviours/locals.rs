//! Goroutine-local values.

use crate::check;
use gopark::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use gopark::{chan, go, goroutine_local, yield_now};
use gopark_tests::{join, until};
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex};
use std::thread;

/// Pushes its text to a list when it is dropped.
struct Noted(Arc<Mutex<Vec<&'static str>>>, &'static str);

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(self.1);
    }
}

#[test]
fn goroutines_of_one_thread_do_not_see_each_others_values() {
    goroutine_local! {
        static NUMBER: Cell<usize> = Cell::new(0);
        static NAMES: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    }
    check(|| {
        let goroutines = Vec::from_iter((1..200).map(|number| {
            go(move || {
                for _ in 0..10 {
                    assert_eq!(NUMBER.get() % number, 0);
                    NUMBER.set(NUMBER.get() + number);
                    yield_now();
                    NAMES.with_borrow_mut(|names| names.push(number));
                    if number % 16 == 0 {
                        gopark::sleep(std::time::Duration::from_micros(50));
                    }
                }
                (NUMBER.take(), NAMES.take())
            })
        }));
        for (number, goroutine) in (1..).zip(goroutines) {
            assert_eq!(join(goroutine), (10 * number, vec![number; 10]));
        }
        assert_eq!((NUMBER.get(), NAMES.with_borrow(Vec::len)), (0, 0));
    });
}

#[test]
fn values_are_dropped_on_the_goroutine_before_it_is_joined() {
    goroutine_local! {
        static FIRST: RefCell<Option<Noted>> = RefCell::new(None);
        static SECOND: RefCell<Option<Noted>> = RefCell::new(None);
    }
    check(|| {
        for panics in [false, true] {
            let dropped = Arc::new(Mutex::new(Vec::new()));
            let theirs = dropped.clone();
            let goroutine = go(move || {
                SECOND.set(Some(Noted(theirs.clone(), "second")));
                FIRST.set(Some(Noted(theirs.clone(), "first")));
                theirs.lock().unwrap().push("returns");
                if panics {
                    panic::resume_unwind(Box::new(()));
                }
            });
            assert_eq!(goroutine.join().is_err(), panics);
            let mut seen = dropped.lock().unwrap();
            assert_eq!(seen[0], "returns");
            seen.sort();
            assert_eq!(*seen, ["first", "returns", "second"]);
        }
    });
}

#[test]
fn a_destructor_may_use_other_values_and_park() {
    /// Uses both values when it is dropped.
    struct Late(Arc<AtomicUsize>);
    impl Drop for Late {
        fn drop(&mut self) {
            yield_now();
            let own = LATE.try_with(|_| ()).is_err();
            // A value that the destructor makes is dropped, too.
            NOTE.set(Some(Noted(Arc::default(), "made by a destructor")));
            self.0.fetch_add(1 + usize::from(own), SeqCst);
        }
    }
    goroutine_local! {
        static LATE: RefCell<Option<Late>> = RefCell::new(None);
        static NOTE: RefCell<Option<Noted>> = RefCell::new(None);
    }
    check(|| {
        let count = Arc::new(AtomicUsize::new(0));
        let theirs = count.clone();
        join(go(move || LATE.set(Some(Late(theirs)))));
        assert_eq!(count.load(SeqCst), 2);
    });
}

#[test]
fn a_result_that_is_dropped_at_the_end_finds_no_values() {
    struct Late(Arc<AtomicUsize>);
    impl Drop for Late {
        fn drop(&mut self) {
            self.0
                .store(1 + usize::from(VALUE.try_with(|_| ()).is_err()), SeqCst);
        }
    }
    goroutine_local! {
        static VALUE: Cell<u8> = Cell::new(0);
    }
    check(|| {
        VALUE.set(1);
        for uses in [false, true] {
            let seen = Arc::new(AtomicUsize::new(0));
            let late = Late(seen.clone());
            let (handle_is_gone, wait) = chan::bounded::<()>(0);
            drop(go(move || {
                if uses {
                    VALUE.set(2);
                }
                assert!(wait.recv().is_err());
                late
            }));
            drop(handle_is_gone);
            until("the result is dropped", || seen.load(SeqCst) != 0);
            assert_eq!(seen.load(SeqCst), 2);
        }
    });
}

#[test]
fn an_initializer_may_park_and_runs_once_for_each_goroutine() {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    goroutine_local! {
        static VALUE: usize = {
            for _ in 0..20 {
                yield_now();
            }
            MADE.fetch_add(1, SeqCst)
        };
    }
    check(|| {
        let before = MADE.load(SeqCst);
        let goroutines =
            Vec::from_iter((0..50).map(|_| go(|| [VALUE.with(|v| *v), VALUE.with(|v| *v)])));
        let mut seen = Vec::from_iter(goroutines.into_iter().map(|goroutine| {
            let [first, second] = join(goroutine);
            assert_eq!(first, second);
            first
        }));
        seen.sort();
        assert_eq!(seen, Vec::from_iter(before..before + 50));
    });
}

#[test]
fn an_initializer_that_uses_its_own_key_panics() {
    goroutine_local! {
        static VALUE: u32 = again();
        static ENTERED: Cell<bool> = Cell::new(false);
    }
    fn again() -> u32 {
        match ENTERED.replace(true) {
            false => VALUE.with(|value| *value),
            true => 7,
        }
    }
    check(|| {
        let outcome = panic::catch_unwind(|| VALUE.with(|value| *value));
        let payload = outcome.unwrap_err();
        let text = payload.downcast_ref::<&str>().unwrap();
        assert!(text.contains("uses the same goroutine_local"), "{text}");
        assert_eq!(VALUE.with(|value| *value), 7);
    });
}

#[test]
fn ordinary_threads_have_values_of_their_own() {
    goroutine_local! {
        static NOTE: RefCell<Option<Noted>> = RefCell::new(None);
    }
    check(|| {
        let dropped = Arc::new(Mutex::new(Vec::new()));
        NOTE.set(Some(Noted(dropped.clone(), "goroutine")));
        let theirs = dropped.clone();
        gopark::blocking(|| {
            thread::spawn(move || {
                assert!(NOTE.with_borrow(Option::is_none));
                NOTE.set(Some(Noted(theirs, "thread")));
            })
            .join()
            .unwrap();
        });
        assert_eq!(*dropped.lock().unwrap(), ["thread"]);
        assert!(NOTE.with_borrow(Option::is_some));
    });
}

#[test]
fn a_value_stays_borrowed_over_a_park() {
    goroutine_local! {
        static LIST: RefCell<Vec<usize>> = RefCell::default();
    }
    check(|| {
        let goroutines = Vec::from_iter((0..20).map(|number| {
            go(move || {
                LIST.with_borrow_mut(|list| {
                    list.push(number);
                    yield_now();
                    list.push(number);
                    let again = AssertUnwindSafe(|| LIST.with_borrow(Vec::len));
                    assert!(panic::catch_unwind(again).is_err());
                });
                LIST.take()
            })
        }));
        for (number, goroutine) in goroutines.into_iter().enumerate() {
            assert_eq!(join(goroutine), [number, number]);
        }
    });
}
