//! Sleeping.

use super::check_on_thread;
use crate::check;
use gopark::{go, go_local, sleep, sleep_until};
use gopark_tests::{Dice, join};
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

#[test]
fn sleep_is_never_early() {
    check(|| {
        let sleepers: Vec<_> = (0..200)
            .map(|seed| {
                go(move || {
                    let dice = Dice::new(seed);
                    for _ in 0..10 {
                        let duration = Duration::from_nanos(1 + dice.below(3_000_000));
                        let start = Instant::now();
                        sleep(duration);
                        let slept = start.elapsed();
                        assert!(slept >= duration, "slept {slept:?} instead of {duration:?}");
                    }
                })
            })
            .collect();
        sleepers.into_iter().for_each(join);
    });
}

#[test]
fn sleep_until_is_never_early() {
    check(|| {
        for micros in [1, 10, 100, 1000, 5000] {
            let deadline = Instant::now() + Duration::from_micros(micros);
            sleep_until(deadline);
            assert!(Instant::now() >= deadline);
        }
    });
}

#[test]
fn an_ordinary_thread_sleeps_too() {
    check_on_thread(|| {
        let start = Instant::now();
        sleep(Duration::from_millis(2));
        assert!(start.elapsed() >= Duration::from_millis(2));
        sleep_until(start + Duration::from_millis(4));
        assert!(start.elapsed() >= Duration::from_millis(4));
        sleep_until(start);
        sleep(Duration::ZERO);
    });
}

#[test]
fn a_sleep_that_is_over_does_not_even_yield() {
    check(|| {
        let ran = Rc::new(Cell::new(false));
        let theirs = ran.clone();
        let other = go_local(move || theirs.set(true));
        sleep(Duration::ZERO);
        sleep_until(Instant::now());
        sleep_until(Instant::now() - Duration::from_millis(1));
        assert!(!ran.get());
        join(other);
        assert!(ran.get());
    });
}

#[test]
fn a_far_future_never_comes() {
    check(|| {
        let far = [
            Duration::MAX,
            Duration::from_secs(u64::MAX),
            Duration::from_nanos(u64::MAX),
            Duration::from_nanos(i64::MAX as u64),
        ];
        let sleepers: Vec<_> = far
            .into_iter()
            .map(|duration| go(move || sleep(duration)))
            .collect();
        let century = Instant::now() + Duration::from_secs(3_000_000_000);
        let late = go(move || sleep_until(century));
        sleep(Duration::from_millis(20));
        assert!(
            sleepers
                .iter()
                .chain([&late])
                .all(|sleeper| !sleeper.is_finished())
        );
    });
}

#[test]
fn fifty_thousand_sleepers_all_wake() {
    const SLEEPERS: u64 = 50_000;
    check(|| {
        let end = Instant::now() + Duration::from_millis(300);
        let sleepers: Vec<_> = (0..SLEEPERS)
            .map(|i| {
                if i % 1000 == 0 {
                    gopark::yield_now();
                }
                go(move || {
                    let deadline = end + Duration::from_micros(i * 7919 % 100_000);
                    sleep_until(deadline);
                    assert!(Instant::now() >= deadline);
                })
            })
            .collect();
        sleepers.into_iter().for_each(join);
    });
}

#[test]
fn a_short_sleep_is_not_held_up_by_a_long_one_before_it() {
    check(|| {
        let long = go(|| sleep(Duration::from_secs(3600)));
        for _ in 0..5 {
            let start = Instant::now();
            join(go(|| sleep(Duration::from_millis(1))));
            assert!(start.elapsed() < Duration::from_secs(10));
        }
        assert!(!long.is_finished());
    });
}
