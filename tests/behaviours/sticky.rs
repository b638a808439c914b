//! A started goroutine stays on its thread, unless the runtime migrates goroutines.

use crate::check;
use gopark::{go, yield_now};
use gopark_tests::{Dice, join};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

#[test]
fn a_started_goroutine_never_changes_its_thread() {
    const PARKS: usize = 2000;
    check(|| {
        let goroutines: Vec<_> = (0..20)
            .map(|seed| {
                go(move || {
                    let home = thread::current().id();
                    let dice = Dice::new(seed);
                    for park in 0..PARKS {
                        match dice.below(4) {
                            0 => gopark::sleep(Duration::from_micros(dice.below(50))),
                            1 => join(go(|| ())),
                            2 => join(gopark::go_local(yield_now)),
                            _ => yield_now(),
                        }
                        assert_eq!(thread::current().id(), home, "after {park} parks");
                    }
                })
            })
            .collect();
        goroutines.into_iter().for_each(join);
    });
}

#[test]
fn thread_bound_values_live_across_parks() {
    thread_local!(static COUNT: Cell<usize> = const { Cell::new(0) });
    static LOCK: Mutex<usize> = Mutex::new(0);

    check(|| {
        let goroutines: Vec<_> = (0..8)
            .map(|_| {
                go(|| {
                    let shared = Rc::new(Cell::new(0));
                    for _ in 0..100 {
                        COUNT.with(|count| {
                            let before = count.get();
                            count.set(before + 1);
                            yield_now();
                            assert!(count.get() > before);
                        });
                        // The guard is not held across a park: another goroutine of this thread
                        // would block the thread.
                        *LOCK.lock().unwrap() += 1;
                        let theirs = shared.clone();
                        join(gopark::go_local(move || theirs.set(theirs.get() + 1)));
                    }
                    shared.get()
                })
            })
            .collect();
        assert_eq!(goroutines.into_iter().map(join).sum::<usize>(), 800);
        assert_eq!(*LOCK.lock().unwrap(), 800);
    });
}

#[test]
fn a_value_of_a_goroutine_need_not_be_send() {
    gopark::goroutine_local! {
        static SHARED: Rc<Cell<u32>> = Rc::new(Cell::new(0));
    }
    check(|| {
        let dice = Dice::new(3);
        let mine = SHARED.with(Rc::clone);
        for _ in 0..100 {
            SHARED.with(|shared| shared.set(shared.get() + 1));
            if dice.below(2) == 0 {
                yield_now();
            }
        }
        assert_eq!((mine.get(), Rc::strong_count(&mine)), (100, 2));
    });
}
