//! Timers and tickers with channels, by the rules of Go 1.23.

use crate::check;
use gopark::chan::{RecvTimeoutError, TryRecvError, bounded, never};
use gopark::sync::Cancel;
use gopark::time::{Duration, Instant, Ticker, Timer, after, timeout};
use gopark::{Cancelled, check_cancel, go, shield, yield_now};
use gopark_tests::{Dice, join};
use std::sync::Arc;

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_micros(300);

#[test]
fn a_timer_fires_once_and_not_early() {
    check(|| {
        let due = Instant::now() + SHORT;
        let timer = Timer::new(SHORT);
        assert!(timer.chan().recv().unwrap() >= due);
        let again = timer.chan().recv_timeout(SHORT * 4);
        assert_eq!(again, Err(RecvTimeoutError::Timeout));
        assert!(!timer.stop());
    });
}

#[test]
fn a_stop_takes_back_a_value_that_was_not_received() {
    check(|| {
        let timer = Timer::new(Duration::ZERO);
        while timer.chan().is_empty() {
            yield_now();
            gopark::sleep(SHORT);
        }
        assert!(timer.stop());
        assert_eq!(timer.chan().try_recv(), Err(TryRecvError::Empty));
        assert!(!timer.stop());
    });
}

#[test]
fn no_receive_returns_a_time_of_before_a_reset() {
    check(|| {
        let dice = Dice::new(1);
        let timer = Timer::new(LONG);
        for _ in 0..2_000 {
            let first = Duration::from_micros(dice.below(60));
            timer.reset(first);
            if dice.below(2) == 0 {
                gopark::sleep(Duration::from_micros(dice.below(120)));
            }
            let due = Instant::now() + SHORT;
            timer.reset(SHORT);
            assert!(timer.chan().recv().unwrap() >= due);
            timer.reset(first);
            yield_now();
            timer.stop();
            assert_eq!(timer.chan().try_recv(), Err(TryRecvError::Empty));
        }
    });
}

#[test]
fn resets_and_stops_may_race() {
    check(|| {
        let timer = Arc::new(Timer::new(LONG));
        let racers: Vec<_> = (0..4u64)
            .map(|seed| {
                let timer = timer.clone();
                go(move || {
                    let dice = Dice::new(seed);
                    for _ in 0..1_000 {
                        match dice.below(4) {
                            0 => _ = timer.stop(),
                            1 => _ = timer.chan().try_recv(),
                            2 => yield_now(),
                            _ => _ = timer.reset(Duration::from_micros(dice.below(50))),
                        }
                    }
                })
            })
            .collect();
        racers.into_iter().for_each(join);
        timer.stop();
        assert_eq!(timer.chan().try_recv(), Err(TryRecvError::Empty));
        timer.reset(Duration::ZERO);
        assert!(timer.chan().recv().is_ok());
    });
}

#[test]
fn a_ticker_drops_ticks_for_a_slow_receiver() {
    check(|| {
        let period = Duration::from_millis(5);
        let start = Instant::now();
        let ticker = Ticker::new(period);
        gopark::sleep(period * 7 / 2);
        while ticker.chan().is_empty() {
            yield_now();
        }
        assert_eq!(ticker.chan().len(), 1);
        let (first, second) = (ticker.chan().recv().unwrap(), ticker.chan().recv().unwrap());
        assert!(first >= start + period);
        assert!(second > first);
        ticker.stop();
        assert_eq!(ticker.chan().try_recv(), Err(TryRecvError::Empty));
        assert!(ticker.chan().recv_timeout(period * 2).is_err());
        ticker.reset(SHORT);
        assert!(ticker.chan().recv().is_ok());
    });
}

#[test]
fn a_dropped_timer_or_ticker_wakes_no_receiver() {
    check(|| {
        let ticker = Ticker::new(SHORT);
        let ticks = ticker.chan().clone();
        assert!(ticks.recv().is_ok());
        drop(ticker);
        assert_eq!(ticks.try_recv(), Err(TryRecvError::Empty));
        let timer = Timer::new(SHORT);
        let time = timer.chan().clone();
        drop(timer);
        assert!(time.recv_timeout(SHORT * 4).is_err());
    });
}

#[test]
fn afters_come_in_the_order_of_their_times() {
    check(|| {
        let start = Instant::now();
        let late = after(SHORT * 8);
        let soon = after(SHORT);
        let (soon, late) = (soon.recv().unwrap(), late.recv().unwrap());
        assert!(soon >= start + SHORT && late >= start + SHORT * 8 && soon <= late);
        // Never received, and one whose receiver is gone.
        drop(after(SHORT));
        _ = after(Duration::MAX);
    });
}

#[test]
fn a_timeout_returns_the_result_the_panic_or_nothing() {
    check(|| {
        assert_eq!(timeout(LONG, || 7), Ok(7));
        let (held, holder) = bounded::<()>(0);
        let late = timeout(SHORT, move || holder.recv());
        assert_eq!(late.unwrap_err().to_string(), "the time limit has passed");
        drop(held);
        let panicked = std::panic::catch_unwind(|| {
            timeout(LONG, || std::panic::resume_unwind(Box::new("no luck"))).unwrap()
        });
        assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"no luck"));
    });
}

#[test]
fn a_timeout_cancels_its_function_and_so_does_a_cancel_of_the_caller() {
    check(|| {
        let (report, reports) = bounded(1);
        let wait = || {
            assert!(never::<()>().recv().is_err());
            check_cancel()
        };
        let late = timeout(SHORT, move || {
            let outcome = wait();
            shield(|| report.send(outcome)).unwrap();
        });
        assert!(late.is_err());
        assert_eq!(reports.recv(), Ok(Err(Cancelled)));
        let cancel = Cancel::new();
        cancel.cancel();
        // What it returns is no error of the time limit.
        assert_eq!(cancel.run(|| timeout(LONG, wait)), Ok(Err(Cancelled)));
    });
}
