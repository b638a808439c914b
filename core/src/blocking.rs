//! Blocking: work that would block its thread runs on a thread of a pool, while its goroutine is
//! parked.
//!
//! Without this, sysmon notices a blocked M after a millisecond and replaces it, but the other
//! goroutines at home on that M wait. Handing the work over costs two thread switches, and they go
//! on.
//!
//! The work may borrow from the goroutine's stack, which stays as it is until the work is done.
//!
//! The rule: a queued job has a thread that will run it. That is a thread of the pool, if there is
//! one; else the pusher that is starting the first thread; else, if the system refuses that thread,
//! the pusher itself (`take_back`).
#![allow(
    unsafe_code,
    reason = "jobs are reached by address, on the stacks of parked goroutines"
)]

use crate::must::Must;
use crate::os::Errno;
use crate::sched::Sched;
use crate::sync::{AtomicU32, Lock, Ordering};
use crate::wait_info::Wait;
use crate::waiter::WaitSlot;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::ptr::NonNull;

/// Threads for work that blocks. The pool starts them on demand and keeps them.
pub struct Pool {
    limit: usize,
    state: Lock<State>,
    /// Counts pushed jobs: the futex word of idle threads. Written under the lock.
    pushed: AtomicU32,
}

struct State {
    jobs: VecDeque<Job>,
    /// How many threads the pool has.
    threads: usize,
    /// How many threads are being started, each by the pusher of a job. The system may still refuse
    /// them.
    starting: usize,
    /// How many threads sleep, are about to, or were just woken.
    idle: usize,
}

/// The address of a `Call`, and the function that runs it.
#[derive(Clone, Copy)]
struct Job {
    call: NonNull<()>,
    /// The scheduler of the goroutine that waits for the job.
    sched: &'static Sched,
    run: unsafe fn(NonNull<()>, &'static Sched),
}

// SAFETY: `Pool::run` makes jobs only from closures and results that are Send.
unsafe impl Send for Job {}

struct Call<F, T> {
    work: Option<F>,
    result: Option<T>,
    done: WaitSlot,
}

impl<F: FnOnce() -> T, T> Call<F, T> {
    /// Runs the work, stores its result and wakes its owner.
    ///
    /// # Safety
    ///
    /// `call` is a `Call` of these types whose owner waits until it is done. Called once.
    unsafe fn run(call: NonNull<()>, sched: &'static Sched) {
        let call = call.cast::<Self>().as_ptr();
        // SAFETY: until `done` is notified, the owner does not touch the other fields.
        unsafe {
            let work = (*call).work.take().must("a job was run twice");
            (*call).result = Some(run_work(work));
        }
        // SAFETY: the owner waits for this notification and frees the call only afterwards. The
        // slot's notify is one read-modify-write.
        if let Some(owner) = unsafe { (*call).done.notify() } {
            sched.ready(owner);
        }
        sched.pool().jobs.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Calls `work`. A panic must not unwind a thread of the pool: `extern "C"` makes it abort. A
/// caller with `std` catches panics in its closure.
extern "C" fn run_work<F: FnOnce() -> T, T>(work: F) -> T {
    work()
}

impl Pool {
    /// A pool of at most `limit` threads, at least one.
    pub fn new(limit: usize) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            threads: 0,
            starting: 0,
            idle: 0,
        };
        Pool {
            limit: limit.max(1),
            state: Lock::new(state),
            pushed: AtomicU32::new(0),
        }
    }

    /// Runs `work` on a thread of the pool while the goroutine is parked. If all threads are busy,
    /// the work waits in a queue. The calling thread runs the work itself if it is an ordinary
    /// thread, if the goroutine unwinds and so must not park, or if the system refuses the pool's
    /// first thread.
    ///
    /// A panic out of `work` aborts the process.
    pub fn run<T: Send>(
        &'static self,
        sched: &'static Sched,
        work: impl FnOnce() -> T + Send,
    ) -> T {
        if sched.current().is_none() || sched.unwinds() {
            return work();
        }
        self.hand_over(sched, work, |number| {
            let start = Box::into_raw(Box::new((self, sched)));
            sched
                .os()
                .spawn(format_args!("b{number}"), serve, start as usize)
                .inspect_err(|_| {
                    // SAFETY: no thread got it.
                    drop(unsafe { Box::from_raw(start) });
                })
        })
    }

    /// Queues `work` and waits until it is done. `spawn` starts the thread of the pool with the
    /// given number.
    fn hand_over<T: Send>(
        &self,
        sched: &'static Sched,
        work: impl FnOnce() -> T + Send,
        spawn: impl FnOnce(usize) -> Result<(), Errno>,
    ) -> T {
        let mut call = Call {
            work: Some(work),
            result: None,
            done: WaitSlot::new(),
        };
        fn job<F: FnOnce() -> T, T>(call: NonNull<Call<F, T>>, sched: &'static Sched) -> Job {
            Job {
                call: call.cast(),
                sched,
                run: Call::<F, T>::run,
            }
        }
        // From here on, all access goes through this address.
        let call = NonNull::from(&mut call);
        self.push(sched, job(call, sched), spawn);
        // SAFETY: the call is on this stack. Until `done` was notified, only the pool touches its
        // other fields.
        let done = unsafe { &(*call.as_ptr()).done };
        sched.wait_for(done, Wait::Blocking.encode());
        // SAFETY: the pool does not touch the call any more.
        unsafe { (*call.as_ptr()).result.take() }.must("a job was done without a result")
    }

    /// Queues a job and makes sure that a thread runs it: wakes a thread, starts one, or runs
    /// queued jobs itself.
    fn push(
        &self,
        sched: &'static Sched,
        job: Job,
        spawn: impl FnOnce(usize) -> Result<(), Errno>,
    ) {
        let counts = sched.pool();
        counts.jobs.fetch_add(1, Ordering::AcqRel);
        let (wake, number) = {
            let mut state = self.state.lock();
            state.jobs.push_back(job);
            self.pushed.fetch_add(1, Ordering::Relaxed);
            let number = state.threads + state.starting + 1;
            let short = state.jobs.len() > state.idle && number <= self.limit;
            state.starting += usize::from(short);
            (state.idle > 0, short.then_some(number))
        };
        if wake {
            sched.wake_one(&self.pushed);
        }
        let Some(number) = number else { return };
        let spawned = spawn(number);
        {
            let mut state = self.state.lock();
            state.starting -= 1;
            state.threads += usize::from(spawned.is_ok());
        }
        counts
            .refused
            .store(spawned.map_or_else(Errno::raw, |()| 0), Ordering::Relaxed);
        if spawned.is_ok() {
            counts.threads.fetch_add(1, Ordering::AcqRel);
            return;
        }
        while let Some(job) = self.take_back(job) {
            // SAFETY: the job left the queue, so no other thread runs it, and its owner waits.
            unsafe { (job.run)(job.call, job.sched) };
        }
    }

    /// Takes a job that the caller must run itself, after the system has refused it a thread. If
    /// the pool has a thread, there is none. Otherwise it is the caller's own job. When that is
    /// done and no other pusher is starting a thread, it is any job: its pusher relied on this
    /// caller, because the limit was reached or because this caller was starting the last thread.
    fn take_back(&self, own: Job) -> Option<Job> {
        let mut state = self.state.lock();
        if state.threads > 0 {
            return None;
        }
        match state.jobs.iter().position(|queued| queued.call == own.call) {
            Some(place) => state.jobs.remove(place),
            None if state.starting == 0 => state.jobs.pop_front(),
            None => None,
        }
    }

    fn next(&self, sched: &Sched) -> Job {
        loop {
            let seen = {
                let mut state = self.state.lock();
                if let Some(job) = state.jobs.pop_front() {
                    return job;
                }
                state.idle += 1;
                self.pushed.load(Ordering::Relaxed)
            };
            sched.os().futex_wait(&self.pushed, seen, None);
            self.state.lock().idle -= 1;
        }
    }
}

/// The body of a thread of the pool.
fn serve(arg: usize) {
    // SAFETY: `run` boxed this for this call.
    let (pool, sched) = *unsafe { Box::from_raw(arg as *mut (&'static Pool, &'static Sched)) };
    loop {
        let job = pool.next(sched);
        // SAFETY: the job was in the queue once, and its owner waits.
        unsafe { (job.run)(job.call, job.sched) };
    }
}

#[cfg(all(test, loom))]
#[path = "../models/blocking.rs"]
mod models;
