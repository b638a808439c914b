//! Goroutines: their results, their turns, and where they run.

use super::check_on_thread;
use crate::check;
use gopark::{go, go_local, yield_now};
use gopark_tests::{join, until};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::panic;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

#[test]
fn results_come_out_of_join() {
    check(|| {
        assert_eq!(go(|| 6 * 7).join().unwrap(), 42);
        assert_eq!(
            go(|| vec!["a".to_string(); 1000]).join().unwrap().concat(),
            "a".repeat(1000)
        );
        assert_eq!(go(|| [7u8; 8 * 1024]).join().unwrap(), [7; 8 * 1024]);
        let () = go(|| ()).join().unwrap();
        let borrowed: Box<dyn Fn(i32) -> i32 + Send> = Box::new(|x| x + 1);
        assert_eq!(go(move || borrowed).join().unwrap()(1), 2);
    });
}

#[test]
fn a_result_is_kept_until_a_late_join() {
    check(|| {
        let goroutine = go(|| "done");
        until("the goroutine returns", || goroutine.is_finished());
        assert_eq!(goroutine.join().unwrap(), "done");
    });
}

#[test]
fn ordinary_threads_start_and_join_goroutines() {
    check_on_thread(|| {
        let threads: Vec<_> = (0..4)
            .map(|t| {
                thread::spawn(move || {
                    (0..100)
                        .map(|i| go(move || t * i))
                        .map(|g| g.join().unwrap())
                        .sum::<usize>()
                })
            })
            .collect();
        let sums: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        assert_eq!(sums, [0, 4950, 9900, 14850]);
    });
}

#[test]
fn a_panic_comes_out_of_join_and_ends_only_its_goroutine() {
    #[derive(Debug, PartialEq)]
    struct Payload(Vec<u32>);

    check(|| {
        let others: Vec<_> = (0..10)
            .map(|i| go(move || (0..100).map(|_| yield_now()).count() + i))
            .collect();
        // `resume_unwind` does not call the panic hook, which prints.
        let failed: Vec<_> = (0..10)
            .map(|i| go(move || -> () { panic::resume_unwind(Box::new(Payload(vec![i; 3]))) }))
            .collect();
        for (i, goroutine) in failed.into_iter().enumerate() {
            let payload = goroutine.join().unwrap_err().downcast::<Payload>().unwrap();
            assert_eq!(*payload, Payload(vec![i as u32; 3]));
        }
        for (i, goroutine) in others.into_iter().enumerate() {
            assert_eq!(goroutine.join().unwrap(), 100 + i);
        }
        let text = go(|| -> () { panic!("a test expects this") })
            .join()
            .unwrap_err();
        assert_eq!(text.downcast_ref(), Some(&"a test expects this"));
    });
}

#[test]
fn a_panic_drops_what_is_on_the_stack_once() {
    check(|| {
        let drops = Arc::new(AtomicUsize::new(0));
        let guard = CountsDrops(drops.clone());
        let goroutine = go(move || {
            let _guard = guard;
            yield_now();
            panic::resume_unwind(Box::new(()));
        });
        let _: () = goroutine.join().map(|()| unreachable!()).unwrap_or(());
        assert_eq!(drops.load(SeqCst), 1);
    });
}

struct CountsDrops(Arc<AtomicUsize>);

impl Drop for CountsDrops {
    fn drop(&mut self) {
        // `go_local` panics outside of a goroutine.
        drop(go_local(|| ()));
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn a_detached_result_is_dropped_once_on_a_goroutine() {
    const ROUNDS: usize = 200;
    check(|| {
        let drops = Arc::new(AtomicUsize::new(0));
        for round in 0..ROUNDS {
            let result = CountsDrops(drops.clone());
            let goroutine = go(move || result);
            match round % 3 {
                0 => drop(goroutine),
                1 => {
                    yield_now();
                    drop(goroutine);
                }
                _ => {
                    until("the goroutine returns", || goroutine.is_finished());
                    drop(goroutine);
                }
            }
        }
        until("every result is dropped", || drops.load(SeqCst) == ROUNDS);
        gopark::sleep(Duration::from_millis(1));
        assert_eq!(drops.load(SeqCst), ROUNDS);
    });
}

#[test]
fn captured_values_are_dropped_once() {
    check(|| {
        let drops = Arc::new(AtomicUsize::new(0));
        let captured = CountsDrops(drops.clone());
        join(go(move || _ = &captured));
        assert_eq!(drops.load(SeqCst), 1);
    });
}

#[test]
fn go_local_shares_an_rc_with_its_spawner() {
    check(|| {
        let log = Rc::new(RefCell::new(Vec::new()));
        let goroutines: Vec<_> = (0..10)
            .map(|i| {
                let log = log.clone();
                go_local(move || log.borrow_mut().push(i))
            })
            .collect();
        goroutines.into_iter().for_each(join);
        assert_eq!(*log.borrow(), Vec::from_iter(0..10));
        assert_eq!(Rc::strong_count(&log), 1);
    });
}

#[test]
fn go_local_goroutines_stay_on_the_thread_of_their_spawner() {
    check(|| {
        let home = Rc::new(Cell::new(None));
        let goroutines: Vec<_> = (0..20)
            .map(|_| {
                let home = home.clone();
                go_local(move || {
                    for _ in 0..50 {
                        let here = thread::current().id();
                        assert_eq!(home.get().get_or_insert(here), &here);
                        home.set(Some(here));
                        gopark::sleep(Duration::from_micros(10));
                        join(go(yield_now));
                    }
                })
            })
            .collect();
        goroutines.into_iter().for_each(join);
    });
}

#[test]
fn go_local_on_an_ordinary_thread_is_refused() {
    check_on_thread(|| {
        let refused = panic::catch_unwind(|| go_local(|| ()));
        let payload = refused.unwrap_err();
        let text = payload.downcast_ref::<&str>().unwrap();
        assert!(
            text.contains("go_local: an ordinary thread runs no goroutines"),
            "{text}"
        );
    });
}

#[test]
fn a_burst_of_spawns_overflows_into_the_global_queue_and_all_run() {
    const BURST: usize = 100_000;
    check(|| {
        let runs = Arc::new(AtomicUsize::new(0));
        let goroutines: Vec<_> = (0..BURST)
            .map(|i| {
                let runs = runs.clone();
                go(move || {
                    runs.fetch_add(1, SeqCst);
                    i
                })
            })
            .collect();
        for (i, goroutine) in goroutines.into_iter().enumerate() {
            assert_eq!(goroutine.join().unwrap(), i);
        }
        assert_eq!(runs.load(SeqCst), BURST);
    });
}

#[test]
fn goroutines_that_start_goroutines_all_run() {
    fn tree(depth: u32) -> u64 {
        match depth {
            0 => 1,
            _ => [go(move || tree(depth - 1)), go(move || tree(depth - 1))]
                .map(join)
                .iter()
                .sum(),
        }
    }
    check(|| assert_eq!(tree(12), 1 << 12));
}

#[test]
fn yielding_goroutines_take_turns() {
    const GOROUTINES: usize = 10;
    check(|| {
        let turns = Rc::new(RefCell::new([0; GOROUTINES]));
        let goroutines: Vec<_> = (0..GOROUTINES)
            .map(|me| {
                let turns = turns.clone();
                go_local(move || {
                    for _ in 0..1000 {
                        let [least, most] = {
                            let mut turns = turns.borrow_mut();
                            turns[me] += 1;
                            [*turns.iter().min().unwrap(), *turns.iter().max().unwrap()]
                        };
                        assert!(
                            most - least <= 1,
                            "the most turns of a goroutine are {most}, the fewest {least}"
                        );
                        yield_now();
                    }
                })
            })
            .collect();
        goroutines.into_iter().for_each(join);
    });
}

#[test]
fn a_goroutine_that_always_yields_does_not_starve_others() {
    check(|| {
        let stop = Arc::new(AtomicBool::new(false));
        let yielders: Vec<_> = (0..8)
            .map(|_| {
                let stop = stop.clone();
                go(move || {
                    while !stop.load(SeqCst) {
                        yield_now();
                    }
                })
            })
            .collect();
        for _ in 0..20 {
            join(go(|| gopark::sleep(Duration::from_micros(100))));
        }
        let other_thread = thread::spawn(|| join(go(|| 1)));
        until("a goroutine from an ordinary thread runs", || {
            other_thread.is_finished()
        });
        stop.store(true, SeqCst);
        yielders.into_iter().for_each(join);
    });
}

#[test]
fn numbers_of_goroutines_are_unique() {
    check_on_thread(|| {
        let makers: Vec<_> = (0..4)
            .map(|_| {
                go(|| {
                    (0..500)
                        .map(|_| go(|| ()))
                        .map(|g| g.id())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let mut seen = HashSet::new();
        for id in makers
            .into_iter()
            .flat_map(join)
            .chain((0..500).map(|_| go(|| ()).id()))
        {
            assert!(seen.insert(id), "two goroutines have the number {id}");
        }
        assert_eq!(seen.len(), 2500);
    });
}

#[test]
fn run_borrows_from_its_caller_and_returns_what_main_returns() {
    check_on_thread(|| {
        let mut numbers = vec![1, 2, 3];
        let sum: i32 = gopark::run(|| {
            numbers.push(4);
            yield_now();
            numbers.iter().sum()
        });
        assert_eq!((sum, numbers), (10, vec![1, 2, 3, 4]));
    });
}

#[test]
fn run_nests() {
    check(|| {
        let mut depth = 0;
        let result = gopark::run(|| {
            depth += 1;
            gopark::run(|| {
                depth += 1;
                gopark::run(|| "the innermost")
            })
        });
        assert_eq!((result, depth), ("the innermost", 2));
    });
}

#[test]
fn run_panics_with_the_panic_of_main() {
    check_on_thread(|| {
        let panic = panic::catch_unwind(|| gopark::run(|| panic::resume_unwind(Box::new(17))));
        assert_eq!(panic.unwrap_err().downcast_ref(), Some(&17));
    });
}

#[test]
fn recursion_within_the_stack_is_fine() {
    /// Uses at least `kib` KiB of stack.
    fn recurse(kib: usize) -> usize {
        let frame = std::hint::black_box([kib; 1024 / size_of::<usize>()]);
        if kib == 0 {
            0
        } else {
            recurse(kib - 1) + usize::from(frame[kib % frame.len()] == kib)
        }
    }
    check(|| {
        // In a debug build a frame takes two or three times its KiB.
        let goroutines: Vec<_> = (0..50).map(|_| go(|| recurse(64))).collect();
        for goroutine in goroutines {
            assert_eq!(join(goroutine), 64);
        }
    });
}

#[test]
fn a_backtrace_can_be_taken_on_a_goroutine() {
    check(|| {
        let trace = std::backtrace::Backtrace::force_capture().to_string();
        assert!(
            trace.contains("a_backtrace_can_be_taken_on_a_goroutine"),
            "{trace}"
        );
    });
}
