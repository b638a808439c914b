//! Work on the pool whose caller is cancelled.

use super::super::check_on_thread;
use super::super::sync::until_waits;
use super::{everywhere, member};
use crate::check;
use gopark::sync::Cancel;
use gopark::{Cancelled, blocking, check_cancel, go, shield, try_blocking, yield_now};
use gopark_core::blocking::Pool;
use gopark_core::watch::Wait;
use gopark_tests::{Dice, join, rounds, until};
use std::panic::{self};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread::{self, ThreadId};

/// Work that waits until its gate opens.
struct Gated {
    has_begun: Arc<AtomicBool>,
    gate: mpsc::Sender<()>,
}

impl Gated {
    /// Also returns what the work does first.
    fn new() -> (Self, impl FnOnce() + Send + 'static) {
        let has_begun = Arc::new(AtomicBool::new(false));
        let (gate, opened) = mpsc::channel();
        let begun = has_begun.clone();
        let wait = move || {
            begun.store(true, SeqCst);
            opened.recv().unwrap();
        };
        (Gated { has_begun, gate }, wait)
    }

    #[track_caller]
    fn until_begun(&self) {
        until("the work has begun", || self.has_begun.load(SeqCst));
    }

    fn open(self) {
        self.gate.send(()).unwrap();
    }
}

/// Sends the thread on which it is dropped.
struct Dropped(mpsc::Sender<ThreadId>);

impl Drop for Dropped {
    fn drop(&mut self) {
        _ = self.0.send(thread::current().id());
    }
}

#[track_caller]
fn receive(news: &mpsc::Receiver<ThreadId>) -> ThreadId {
    let mut thread = None;
    until("a thread is sent", || {
        thread = news.try_recv().ok();
        thread.is_some()
    });
    thread.unwrap()
}

#[test]
fn blocking_work_that_borrows_is_waited_for_in_spite_of_a_cancel() {
    everywhere(|| {
        let cancel = Cancel::new();
        let (gated, wait) = Gated::new();
        let waiting = member(&cancel, move || {
            let mut lent = 0;
            blocking(|| {
                wait();
                lent = 7;
            });
            (lent, check_cancel())
        });
        gated.until_begun();
        cancel.cancel();
        for _ in 0..10 {
            yield_now();
            assert!(!waiting.is_finished());
        }
        gated.open();
        assert_eq!(join(waiting), (7, Err(Cancelled)));
        // So is work that a cancelled goroutine begins.
        assert_eq!(cancel.run(|| blocking(|| 8)), 8);
    });
}

#[test]
fn a_cancel_leaves_work_behind_and_the_pool_drops_its_result() {
    everywhere(|| {
        let cancel = Cancel::new();
        let (gated, wait) = Gated::new();
        let (told, news) = mpsc::channel();
        let left = member(&cancel, move || {
            let work = move || {
                wait();
                told.send(thread::current().id()).unwrap();
                Dropped(told)
            };
            try_blocking(work).err()
        });
        gated.until_begun();
        cancel.cancel();
        assert_eq!(join(left), Some(Cancelled));
        assert!(news.try_recv().is_err());
        gated.open();
        let ran_on = receive(&news);
        assert_eq!(receive(&news), ran_on);
    });
}

#[test]
fn work_that_could_be_left_returns_and_panics_as_if_it_ran_here() {
    everywhere(|| {
        let as_member = |f: fn()| Cancel::new().run(f);
        for run in [|f: fn()| f(), as_member, |f| shield(f)] {
            run(|| {
                let text = String::from("owned");
                assert_eq!(try_blocking(move || text.len()), Ok(5));
                let panics = || try_blocking::<_, ()>(|| panic::resume_unwind(Box::new(7)));
                let payload = panic::catch_unwind(panics).unwrap_err();
                assert_eq!(payload.downcast_ref(), Some(&7));
            });
        }
    });
}

#[test]
fn an_ordinary_thread_hands_work_over_if_a_cancel_can_reach_it() {
    check_on_thread(|| {
        let here = thread::current().id();
        let there = || try_blocking(|| thread::current().id());
        assert_eq!(there(), Ok(here));
        let cancel = Cancel::new();
        assert_ne!(cancel.run(there), Ok(here));
        let (gated, wait) = Gated::new();
        let theirs = cancel.clone();
        let left = thread::spawn(move || theirs.run(|| try_blocking(wait)));
        gated.until_begun();
        cancel.cancel();
        assert_eq!(left.join().unwrap(), Err(Cancelled));
        gated.open();
    });
}

#[test]
fn work_that_a_cancelled_goroutine_begins_is_dropped_unrun() {
    everywhere(|| {
        let cancel = Cancel::new();
        cancel.cancel();
        let captured = Arc::new(());
        cancel.run(|| {
            let theirs = captured.clone();
            let unrun = try_blocking::<_, ()>(move || panic!("it was run: {theirs:?}"));
            assert_eq!(unrun, Err(Cancelled));
            assert_eq!(Arc::strong_count(&captured), 1);
            assert_eq!(shield(|| try_blocking(|| 7)), Ok(7));
        });
    });
}

#[test]
fn queued_work_whose_caller_is_cancelled_is_dropped_at_once_and_never_runs() {
    /// Has one thread.
    static POOL: LazyLock<Pool> = LazyLock::new(|| Pool::new(1));
    check(|| {
        let sched = gopark::scheduler();
        let cancel = Cancel::new();
        let (gated, wait) = Gated::new();
        let busy = go(move || POOL.run(sched, wait));
        gated.until_begun();
        let captured = Arc::new(());
        let theirs = captured.clone();
        let work = move || panic!("it was run: {theirs:?}");
        let queued = member(&cancel, move || POOL.run_or_leave::<()>(sched, work));
        until_waits(&queued, Wait::Blocking);
        cancel.cancel();
        assert_eq!(join(queued), Err(Cancelled));
        assert_eq!(Arc::strong_count(&captured), 1);
        gated.open();
        join(busy);
        // The pool goes on.
        assert_eq!(join(go(move || POOL.run(sched, || 7))), 7);
    });
}

#[test]
fn a_panic_of_work_that_was_left_behind_ends_nothing_else() {
    everywhere(|| {
        let cancel = Cancel::new();
        let (gated, wait) = Gated::new();
        let (told, news) = mpsc::channel();
        let left = member(&cancel, move || {
            try_blocking::<_, ()>(move || {
                wait();
                panic::resume_unwind(Box::new(Dropped(told)));
            })
        });
        gated.until_begun();
        cancel.cancel();
        assert_eq!(join(left), Err(Cancelled));
        gated.open();
        receive(&news);
        assert_eq!(join(go(|| blocking(|| 7))), 7);
    });
}

#[test]
fn work_that_ends_while_its_caller_is_cancelled_has_its_result_returned_or_dropped() {
    everywhere(|| {
        let dice = Dice::new(7);
        for _ in 0..rounds(500) {
            let cancel = Cancel::new();
            let value = Arc::new(());
            let theirs = value.clone();
            let call = member(&cancel, move || try_blocking(move || theirs));
            for _ in 0..dice.below(20) {
                yield_now();
            }
            cancel.cancel();
            let returned = join(call);
            let owners = 1 + usize::from(returned.is_ok());
            until("no other has it", || Arc::strong_count(&value) == owners);
        }
    });
}
