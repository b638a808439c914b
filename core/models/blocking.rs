//! Models of the thread pool: pushers whose new threads the system refuses, pushers that rely on
//! those threads, pool threads that go to sleep while a job arrives, and pushers that leave after a
//! cancel. A lost job shows as a pusher that waits forever.
#![allow(unsafe_code, reason = "a model runs the pool's jobs itself")]

use super::Pool;
use crate::cancel::RawCancel;
use crate::models::{Immortal, Mail, ModelSched, check, explore};
use crate::os::Errno;
use crate::sched::Sched;
use crate::withdraw::Cancelled;
use core::cell::Cell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;
use std::sync::Arc;

const NO_THREAD: Errno = Errno::new(11);

/// Pushes a job; the system refuses each thread that the push wants to start.
fn refused(pool: &'static Pool, sched: &'static Sched, done: &Arc<AtomicUsize>) {
    let counts = done.clone();
    let before = pool.hand_over(
        sched,
        move || counts.fetch_add(1, Ordering::Relaxed),
        |_| Err(NO_THREAD),
    );
    assert!(before < 3, "a job ran twice");
}

/// Runs `jobs` jobs as a thread of the pool, and returns without a look for another.
fn serve(pool: &'static Pool, sched: &'static Sched, jobs: usize) {
    for _ in 0..jobs {
        let job = pool.next(sched);
        // SAFETY: the job left the queue here, as for the pool's own `serve`.
        unsafe { job.run() };
    }
}

fn all_are_refused(limit: usize) {
    check(move || {
        let owner = ModelSched::new(1, 1);
        let (sched, pool, done) = (
            owner.get(),
            Immortal::new(Pool::new(limit)),
            Arc::new(AtomicUsize::new(0)),
        );
        let pool = pool.get();
        let others = [0; 2].map(|_| {
            let done = done.clone();
            thread::spawn(move || refused(pool, sched, &done))
        });
        refused(pool, sched, &done);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(done.load(Ordering::Relaxed), 3);
        assert_eq!(sched.pool().jobs.load(Ordering::Relaxed), 0);
        let state = pool.state.lock();
        assert_eq!((state.jobs.len(), state.threads, state.starting), (0, 0, 0));
    });
}

#[test]
fn jobs_are_run_when_the_system_refuses_every_thread() {
    all_are_refused(3);
}

#[test]
fn jobs_are_run_when_the_only_allowed_thread_is_refused() {
    all_are_refused(1);
}

#[test]
fn a_job_beside_a_refused_thread_is_run_by_the_started_thread_or_its_owner() {
    check(|| {
        let owner = ModelSched::new(1, 1);
        let (sched, pool, done) = (
            owner.get(),
            Immortal::new(Pool::new(2)),
            Arc::new(AtomicUsize::new(0)),
        );
        let pool = pool.get();
        let other = thread::spawn({
            let done = done.clone();
            move || refused(pool, sched, &done)
        });
        let last = Arc::new(AtomicUsize::new(0));
        let given = Cell::new(None);
        pool.hand_over(
            sched,
            || (),
            |_| {
                let last = last.clone();
                given.set(Some(thread::spawn(move || {
                    while last.load(Ordering::Relaxed) == 0 {
                        serve(pool, sched, 1);
                    }
                })));
                Ok(())
            },
        );
        other.join().unwrap();
        assert_eq!(done.load(Ordering::Relaxed), 1);
        // The thread of the pool ends with this job.
        if let Some(given) = given.take() {
            pool.hand_over(
                sched,
                move || last.store(1, Ordering::Relaxed),
                |_| Err(NO_THREAD),
            );
            given.join().unwrap();
        }
    });
}

#[test]
fn a_thread_that_goes_to_sleep_does_not_miss_a_job() {
    check(|| {
        let owner = ModelSched::new(1, 1);
        let (sched, pool) = (owner.get(), Immortal::new(Pool::new(1)));
        let pool = pool.get();
        pool.state.lock().threads = 1;
        let serves = thread::spawn(move || serve(pool, sched, 2));
        let other = thread::spawn(move || {
            pool.hand_over(sched, || 1, |_| unreachable!("there is one already"))
        });
        assert_eq!(
            pool.hand_over(sched, || 2, |_| unreachable!("there is one already")),
            2
        );
        assert_eq!(other.join().unwrap(), 1);
        serves.join().unwrap();
    });
}

#[test]
fn each_of_two_sleeping_threads_is_woken_for_its_own_job() {
    check(|| {
        let owner = ModelSched::new(1, 1);
        let (sched, pool) = (owner.get(), Immortal::new(Pool::new(2)));
        let pool = pool.get();
        pool.state.lock().threads = 2;
        // No job ends before both have begun.
        let begun = Arc::new(AtomicUsize::new(0));
        let serving = [0; 2].map(|_| thread::spawn(move || serve(pool, sched, 1)));
        let meet = |begun: Arc<AtomicUsize>| {
            move || {
                begun.fetch_add(1, Ordering::Relaxed);
                while begun.load(Ordering::Relaxed) < 2 {
                    thread::yield_now();
                }
            }
        };
        let other = {
            let meet = meet(begun.clone());
            thread::spawn(move || {
                pool.hand_over(sched, meet, |_| unreachable!("there are two already"))
            })
        };
        pool.hand_over(sched, meet(begun), |_| {
            unreachable!("there are two already")
        });
        other.join().unwrap();
        serving
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}

/// A pool with one thread, whose caller is cancelled by another thread.
struct Leaving {
    pool: Pool,
    cancel: RawCancel,
    sched: &'static Sched,
    mail: Mail,
    /// How often the work has run, and how many of its values were dropped.
    ran: AtomicUsize,
    dropped: AtomicUsize,
}

/// What the work has captured and returns.
struct Value(&'static Leaving);

impl Drop for Value {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

impl Leaving {
    /// The caller. Returns whether it got the result, and has seen what the work did then.
    fn call(&'static self) -> bool {
        let value = Value(self);
        let work = move || {
            value.0.mail.put(7);
            value.0.ran.fetch_add(1, Ordering::Relaxed);
            value
        };
        let refused = |_| unreachable!("there is one already");
        let hand_over = || self.pool.hand_over_shared(self.sched, work, refused);
        match self.cancel.run(hand_over) {
            Ok(value) => {
                assert_eq!(self.mail.get(), 7);
                drop(value);
                true
            }
            Err(Cancelled) => false,
        }
    }

    fn serve(&'static self) {
        serve(&self.pool, self.sched, 1);
    }
}

fn leaving<F: Fn(&'static Leaving) + Send + Sync + 'static>(model: F) {
    explore::<F>(move || {
        let owner = ModelSched::new(1, 1);
        let sched = owner.get();
        let shared = Immortal::new(Leaving {
            pool: Pool::new(1),
            cancel: RawCancel::new(sched),
            sched,
            mail: Mail::new(),
            ran: AtomicUsize::new(0),
            dropped: AtomicUsize::new(0),
        });
        let shared = shared.get();
        shared.pool.state.lock().threads = 1;
        model(shared);
        assert_eq!(shared.dropped.load(Ordering::Relaxed), 1);
        assert_eq!(sched.pool().jobs.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_cancelled_caller_leaves_work_that_has_begun_and_takes_back_other_work() {
    leaving(|shared| {
        let caller = thread::spawn(|| shared.call());
        let serves = thread::spawn(|| shared.serve());
        shared.cancel.cancel();
        let returned = caller.join().unwrap();
        serves.join().unwrap();
        let ran = shared.ran.load(Ordering::Relaxed);
        assert!(ran <= 1 && ran >= usize::from(returned));
    });
}

#[test]
fn work_that_was_done_before_the_cancel_returns_its_result() {
    leaving(|shared| {
        let caller = thread::spawn(|| shared.call());
        shared.serve();
        shared.cancel.cancel();
        assert!(caller.join().unwrap());
    });
}

#[test]
fn work_whose_caller_left_before_it_began_does_not_run() {
    leaving(|shared| {
        let caller = thread::spawn(|| shared.call());
        shared.cancel.cancel();
        assert!(!caller.join().unwrap());
        assert_eq!(shared.dropped.load(Ordering::Relaxed), 1);
        shared.serve();
        assert_eq!(shared.ran.load(Ordering::Relaxed), 0);
    });
}
