//! Blocking: work that would block its thread runs on a thread of a pool, while the goroutine that asked for it is parked.
//!
//! sysmon would notice a blocked thread after a millisecond and replace it. Saying so at once costs two thread switches, and the other
//! goroutines at home on the thread go on, too.
//!
//! The work may borrow from the goroutine's stack, which stays as it is until the work is done.
#![allow(
    unsafe_code,
    reason = "jobs are reached by address, on the stacks of parked goroutines"
)]

use crate::os::Errno;
use crate::sched::Sched;
use crate::sync::{AtomicU32, Lock, Ordering};
use crate::wait_info::Wait;
use crate::waiter::WaitSlot;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::ptr::NonNull;

/// Threads for work that blocks. They are started as they are needed, and stay.
///
/// A job in the queue has one that will run it. It is a thread of the pool, if there is one; else the pusher that is starting the first thread;
/// and if the system refuses that, this pusher itself: see `take_back`.
pub struct Pool {
    limit: usize,
    state: Lock<State>,
    /// Counts jobs, for idle threads to sleep on. Written under the lock.
    pushed: AtomicU32,
}

struct State {
    jobs: VecDeque<Job>,
    /// Threads that exist.
    threads: usize,
    /// Threads that are being started, each by the pusher of a job. The system may still refuse them.
    starting: usize,
    /// Threads that sleep, or are about to, or have just been woken.
    idle: usize,
}

/// The address of a `Call`, and what runs it.
#[derive(Clone, Copy)]
struct Job {
    task: NonNull<()>,
    /// Of the goroutine that waits for it.
    sched: &'static Sched,
    run: unsafe fn(NonNull<()>, &'static Sched),
}

// SAFETY: `Pool::run` makes jobs only of closures and results that are Send.
unsafe impl Send for Job {}

struct Call<F, T> {
    work: Option<F>,
    result: Option<T>,
    done: WaitSlot,
}

impl<F: FnOnce() -> T, T> Call<F, T> {
    /// # Safety
    ///
    /// `task` is a task of these types whose owner waits until it is done. Called once.
    unsafe fn run(task: NonNull<()>, sched: &'static Sched) {
        let task = task.cast::<Self>().as_ptr();
        // SAFETY: until `done` is notified, the owner does not touch the rest.
        unsafe {
            let work = (*task)
                .work
                .take()
                .unwrap_or_else(|| panic!("a job is run once"));
            (*task).result = Some(call(work));
        }
        // SAFETY: the owner, who waits for this, frees the task only afterwards; the slot's notify is one read-modify-write.
        if let Some(owner) = unsafe { (*task).done.notify() } {
            sched.ready(owner);
        }
        sched.pool().jobs.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A panic must not unwind a pool's thread: `extern "C"` aborts. A caller with `std` catches panics in its closure.
extern "C" fn call<F: FnOnce() -> T, T>(work: F) -> T {
    work()
}

impl Pool {
    /// A pool of at most `limit` threads, and at least one.
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

    /// Runs `work` on one of the pool's threads, and parks meanwhile. With all of them busy, it waits for its turn. On an ordinary thread, and
    /// if the system refuses the first thread, it runs here; so it does in a goroutine that
    /// unwinds, which is not to park.
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
                    // SAFETY: no thread has it.
                    drop(unsafe { Box::from_raw(start) });
                })
        })
    }

    /// Queues `work` and waits until it is done. `spawn` starts a thread of the pool that has this number.
    fn hand_over<T: Send>(
        &self,
        sched: &'static Sched,
        work: impl FnOnce() -> T + Send,
        spawn: impl FnOnce(usize) -> Result<(), Errno>,
    ) -> T {
        let mut task = Call {
            work: Some(work),
            result: None,
            done: WaitSlot::new(),
        };
        fn job<F: FnOnce() -> T, T>(task: NonNull<Call<F, T>>, sched: &'static Sched) -> Job {
            Job {
                task: task.cast(),
                sched,
                run: Call::<F, T>::run,
            }
        }
        // From here on the task is reached by this address only.
        let task = NonNull::from(&mut task);
        self.push(sched, job(task, sched), spawn);
        // SAFETY: the task is on this stack; others touch its other fields until `done` was notified.
        while !sched.wait(
            unsafe { &(*task.as_ptr()).done },
            Wait::Blocking.encode(),
            || Ok::<_, ()>(()),
        ) {}
        // SAFETY: nobody touches the task any more.
        unsafe { (*task.as_ptr()).result.take() }.unwrap_or_else(|| panic!("the job has been run"))
    }

    /// Queues a job, and sees to it that it is run: wakes a thread, starts one, or runs what is queued itself.
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
            // SAFETY: the job is no longer in the queue, so nothing else runs it, and its owner waits.
            unsafe { (job.run)(job.task, job.sched) };
        }
    }

    /// For a pusher to which the system has refused a thread: a job to run itself. While the pool has no thread, that is its own job. If no other
    /// pusher is starting a thread either, it is any job: those who queued them left them to this pusher, when the limit was reached or it was
    /// starting the last thread that they counted on.
    fn take_back(&self, own: Job) -> Option<Job> {
        let mut state = self.state.lock();
        if state.threads > 0 {
            return None;
        }
        match state.jobs.iter().position(|queued| queued.task == own.task) {
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

/// What a thread of the pool does.
fn serve(arg: usize) {
    // SAFETY: `push` boxed this for this call.
    let (pool, sched) = *unsafe { Box::from_raw(arg as *mut (&'static Pool, &'static Sched)) };
    loop {
        let job = pool.next(sched);
        // SAFETY: the job was in the queue once, and its owner waits.
        unsafe { (job.run)(job.task, job.sched) };
    }
}

#[cfg(all(test, loom))]
#[path = "../models/blocking.rs"]
mod models;
