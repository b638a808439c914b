//! Signals as values of a channel. Each test has signals of its own, because all tests of a binary
//! share a process.
#![allow(unsafe_code, reason = "signals are sent through libc")]

use super::cancel::member;
use super::check_on_thread;
use crate::check;
use gopark::chan::TryRecvError;
use gopark::signal::{self, Signal, Signals};
use gopark::sync::Cancel;
use gopark::{PollError, go, poll_error, select, yield_now};
use gopark_tests::join;
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

/// A real-time signal. The kernel queues them, instead of merging those of one number.
fn realtime(number: i32) -> Signal {
    Signal::from_raw(libc::SIGRTMIN() + number)
}

/// Sends `signal` to the calling thread. Its handler has returned by then.
fn raise(signal: Signal) {
    // SAFETY: no memory is passed.
    assert_eq!(unsafe { libc::raise(signal.raw()) }, 0);
}

/// Sends `signal` to the process.
///
/// ThreadSanitizer runs a handler when the thread that has the signal next makes a call that it
/// intercepts. A thread that sleeps in the scheduler makes none.
fn kill(signal: Signal) {
    if cfg!(gopark_sanitize = "thread") {
        return raise(signal);
    }
    // SAFETY: no memory is passed.
    assert_eq!(unsafe { libc::kill(libc::getpid(), signal.raw()) }, 0);
}

/// Whether the process has the default action for `signal`.
fn is_default(signal: Signal) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: `action` is writable.
    unsafe {
        let result = libc::sigaction(signal.raw(), ptr::null(), action.as_mut_ptr());
        assert_eq!(result, 0);
        action.assume_init().sa_sigaction == libc::SIG_DFL
    }
}

fn notify(signal: Signal) -> Signals {
    signal::notify([signal]).unwrap()
}

fn a_signal_reaches(signals: [Signal; 2]) {
    let channel = signal::notify(signals).unwrap();
    for signal in signals {
        kill(signal);
        assert_eq!(channel.recv(), Ok(signal));
        raise(signal);
        select! {
            recv(channel) -> received => assert_eq!(received, Ok(signal)),
        }
    }
    assert_eq!(channel.try_recv(), Err(TryRecvError::Empty));
}

#[test]
fn a_signal_reaches_a_goroutine() {
    check(|| a_signal_reaches([Signal::HUP, Signal::USR2]));
}

#[test]
fn a_signal_reaches_an_ordinary_thread() {
    check_on_thread(|| a_signal_reaches([Signal::CONT, realtime(1)]));
}

#[test]
fn a_signal_wakes_a_goroutine_that_waits() {
    check(|| {
        let channel = notify(realtime(2));
        let waiting = go(move || channel.recv());
        yield_now();
        kill(realtime(2));
        assert_eq!(join(waiting), Ok(realtime(2)));
    });
}

#[test]
fn each_channel_gets_the_signal_and_the_last_one_restores_the_action() {
    check(|| {
        let signal = realtime(3);
        assert!(is_default(signal));
        let first = notify(signal);
        let second = signal::notify([signal, signal]).unwrap();
        raise(signal);
        assert_eq!((first.recv(), second.recv()), (Ok(signal), Ok(signal)));
        drop(first);
        assert!(!is_default(signal));
        raise(signal);
        assert_eq!(second.recv(), Ok(signal));
        drop(second);
        assert!(is_default(signal));
        let again = notify(signal);
        raise(signal);
        assert_eq!(again.recv(), Ok(signal));
    });
}

#[test]
fn a_full_channel_drops_signals_and_delays_no_other() {
    check(|| {
        let (signal, last) = (realtime(4), realtime(5));
        let (full, marker) = (notify(signal), notify(last));
        (0..40).for_each(|_| raise(signal));
        // Sent after all of the others.
        raise(last);
        assert_eq!(marker.recv(), Ok(last));
        assert_eq!(full.try_iter().count(), 16);
        raise(signal);
        assert_eq!(full.recv(), Ok(signal));
    });
}

#[test]
fn queued_signals_of_one_number_arrive_each() {
    check(|| {
        let channel = notify(realtime(6));
        for _ in 0..100 {
            (0..5).for_each(|_| raise(realtime(6)));
            (0..5).for_each(|_| assert!(channel.recv().is_ok()));
        }
        assert!(channel.is_empty());
    });
}

#[test]
fn signals_that_cannot_be_caught_are_refused_with_all_others_of_the_set() {
    check(|| {
        let refused = [
            (Signal::KILL, "SIGKILL cannot be caught"),
            (Signal::STOP, "SIGSTOP cannot be caught"),
            (Signal::from_raw(libc::SIGSEGV), "SIGSEGV comes from the"),
            (Signal::from_raw(32), "32 is used by libc"),
            (Signal::from_raw(0), "0 is not a signal"),
            (Signal::from_raw(-1), "-1 is not a signal"),
            (Signal::from_raw(65), "65 is not a signal"),
        ];
        for (signal, why) in refused {
            let error = signal::notify([realtime(7), signal]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(
                error.to_string().starts_with(&format!("notify: {why}")),
                "{error}"
            );
            assert!(is_default(realtime(7)));
        }
    });
}

#[test]
fn channels_come_and_go_while_signals_arrive() {
    check(|| {
        let signal = realtime(8);
        // Without it, a signal between two rounds would end the process.
        let stays = notify(signal);
        for _ in 0..200 {
            let channel = notify(signal);
            kill(signal);
            assert_eq!(channel.recv(), Ok(signal));
            assert_eq!(stays.recv(), Ok(signal));
        }
    });
}

#[test]
fn a_channel_outlives_its_notification_and_is_closed() {
    check(|| {
        let channel = notify(realtime(9));
        let receiver = (*channel).clone();
        raise(realtime(9));
        assert!(receiver.recv().is_ok());
        drop(channel);
        assert!(receiver.recv().is_err());
    });
}

#[test]
fn ctrl_c_waits_for_one_interrupt_or_a_cancel() {
    check(|| {
        // Keeps the handler when `ctrl_c` has returned.
        let _stays = notify(Signal::INT);
        let waiting = go(signal::ctrl_c);
        while !waiting.is_finished() {
            // One that `kill` sends could come after `_stays` is dropped.
            raise(Signal::INT);
            gopark::sleep(Duration::from_micros(100));
        }
        join(waiting).unwrap();

        let cancel = Cancel::new();
        let waiting = member(&cancel, signal::ctrl_c);
        yield_now();
        cancel.cancel();
        let error = join(waiting).unwrap_err();
        assert_eq!(poll_error(&error), Some(PollError::Cancelled));
    });
}
