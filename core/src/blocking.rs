//! Blocking: work that would block its thread runs on a thread of a pool, while its goroutine is
//! parked.
//!
//! Without this, sysmon notices a blocked M after a millisecond and replaces it, but the other
//! goroutines at home on that M wait. Handing the work over costs two thread switches, and they go
//! on.
//!
//! Work for [`Pool::run`] may borrow from the goroutine's stack, which stays as it is until the
//! work is done. [`Pool::run_or_leave`] takes work that borrows nothing, so a cancel ends its wait.
//! The caller and the pool then share an allocation, and each does one step at its end:
//!
//! | `state` | means | left by |
//! |---|---|---|
//! | `QUEUED` | the work has not begun | `begin`, `leave` |
//! | `BEGUN` | a thread runs the work | `finish`, `leave` |
//! | `DONE` | the result is there | `leave`, by the caller, which takes it |
//! | `LEFT` | the caller is gone | |
//!
//! The race: the caller leaves while a thread begins or ends the work. The side that takes the
//! state out of `QUEUED` has the work: the thread runs it, or the caller drops it. The side that
//! comes second after `BEGUN` has the result: the caller returns it, or the thread drops it. So
//! what was completed wins.
//!
//! The rule: a queued job has a thread that will run it. That is a thread of the pool, if there is
//! one; else the pusher that is starting the first thread; else, if the system refuses that thread,
//! the pusher itself (`take_back`).
#![allow(
    unsafe_code,
    reason = "jobs are reached by address, on the stacks of parked goroutines"
)]

use crate::latch::Latch;
use crate::must::Must;
use crate::os::Errno;
use crate::sched::Sched;
use crate::sync::{AtomicU8, AtomicU32, Lock, Ordering, UnsafeCell, while_unparkable};
use crate::wait_info::Wait;
use crate::waiter::WaitSlot;
use crate::withdraw::Cancelled;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
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

/// The address of a `Call` or a `SharedCall`, and the function that runs it.
#[derive(Clone, Copy)]
struct Job {
    call: NonNull<()>,
    /// The scheduler of the goroutine that waits for the job.
    sched: &'static Sched,
    run: unsafe fn(NonNull<()>, &'static Sched),
}

// SAFETY: the pool makes jobs only from closures and results that are Send.
unsafe impl Send for Job {}

impl Job {
    /// Runs the job.
    ///
    /// # Safety
    ///
    /// The caller has taken the job out of the queue, and so calls this once.
    unsafe fn run(self) {
        // SAFETY: the owner of a queued job keeps its call until it was run.
        unsafe { (self.run)(self.call, self.sched) };
        self.sched.pool().jobs.fetch_sub(1, Ordering::AcqRel);
    }
}

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
    }
}

const QUEUED: u8 = 0;
const BEGUN: u8 = 1;
const DONE: u8 = 2;
const LEFT: u8 = 3;

/// A call that its caller may leave. The caller and the job have one reference each.
struct SharedCall<F, T> {
    state: AtomicU8,
    work: UnsafeCell<Option<F>>,
    result: UnsafeCell<Option<T>>,
    done: Latch,
}

impl<F: FnOnce() -> T, T> SharedCall<F, T> {
    fn new(work: F) -> Self {
        SharedCall {
            state: AtomicU8::new(QUEUED),
            work: UnsafeCell::new(Some(work)),
            result: UnsafeCell::new(None),
            done: Latch::new(),
        }
    }

    /// Runs the work, stores its result and wakes the caller, unless that has left.
    ///
    /// # Safety
    ///
    /// `call` is `Arc::into_raw` of a call of these types. Called once.
    unsafe fn run(call: NonNull<()>, sched: &'static Sched) {
        // SAFETY: the job's reference, which is given up here.
        let call = unsafe { Arc::from_raw(call.cast::<Self>().as_ptr()) };
        let Some(work) = call.begin() else { return };
        call.finish(run_work(work));
        if let Some(waiter) = call.done.set() {
            sched.ready(waiter);
        }
    }

    /// Takes the work, unless the caller has left.
    fn begin(&self) -> Option<F> {
        // Relaxed: the lock of the queue orders the work before its job.
        self.state
            .compare_exchange(QUEUED, BEGUN, Ordering::Relaxed, Ordering::Relaxed)
            .ok()?;
        // SAFETY: this thread has taken the state out of `QUEUED`, so it alone has the work.
        unsafe { (*self.work.get()).take() }
    }

    /// Leaves the result to the caller, or drops it if the caller has left.
    fn finish(&self, result: T) {
        // SAFETY: the caller does not touch the result before it has seen `DONE`.
        unsafe { *self.result.get() = Some(result) };
        // Release pairs with the Acquire in `leave`: the caller sees the result.
        let done = self
            .state
            .compare_exchange(BEGUN, DONE, Ordering::Release, Ordering::Relaxed);
        if done.is_err() {
            // SAFETY: the caller is gone, and does not touch the result any more.
            let result = unsafe { (*self.result.get()).take() };
            run_work(|| drop(result));
        }
    }

    /// The caller's last step, after its wait. Returns the result if the work is done. Drops the
    /// work if it has not begun.
    fn leave(&self) -> Result<T, Cancelled> {
        match self.state.swap(LEFT, Ordering::Acquire) {
            DONE => {
                // SAFETY: the work is done, so the pool does not touch the result any more.
                let result = unsafe { (*self.result.get()).take() };
                Ok(result.must("a job was done without a result"))
            }
            QUEUED => {
                // SAFETY: the caller has taken the state out of `QUEUED`, so it alone has the work.
                drop(unsafe { (*self.work.get()).take() });
                Err(Cancelled)
            }
            _ => Err(Cancelled),
        }
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
        self.hand_over(sched, work, |number| self.spawn(sched, number))
    }

    /// As [`run`](Self::run), unless the caller is cancelled. Work that has begun is then left
    /// behind: it runs to its end on the pool, which drops its result. Work that has not begun is
    /// dropped by the caller. An ordinary thread that is a member of a cancel hands the work over,
    /// too.
    ///
    /// # Errors
    ///
    /// If the caller is cancelled before the work is done.
    pub fn run_or_leave<T: Send + 'static>(
        &'static self,
        sched: &'static Sched,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Cancelled> {
        sched.check_cancelled()?;
        if sched.parker().member().is_none() || sched.unwinds() {
            return Ok(self.run(sched, work));
        }
        self.hand_over_shared(sched, work, |number| self.spawn(sched, number))
    }

    /// Starts the thread with this number.
    fn spawn(&'static self, sched: &'static Sched, number: usize) -> Result<(), Errno> {
        let start = Box::into_raw(Box::new((self, sched)));
        sched
            .os()
            .spawn(format_args!("b{number}"), serve, start as usize)
            .inspect_err(|_| {
                // SAFETY: no thread got it.
                drop(unsafe { Box::from_raw(start) });
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

    /// Queues `work` and waits until it is done or the caller is cancelled. `spawn` as above.
    fn hand_over_shared<F: FnOnce() -> T + Send + 'static, T: Send + 'static>(
        &self,
        sched: &'static Sched,
        work: F,
        spawn: impl FnOnce(usize) -> Result<(), Errno>,
    ) -> Result<T, Cancelled> {
        let call = Arc::new(SharedCall::new(work));
        let job = Job {
            // The job's reference.
            call: NonNull::new(Arc::into_raw(call.clone()).cast_mut().cast())
                .must("an Arc is null"),
            sched,
            run: SharedCall::<F, T>::run,
        };
        self.push(sched, job, spawn);
        // What was completed wins, so `leave` decides.
        _ = call.done.wait_or_cancel(sched, Wait::Blocking.encode());
        call.leave()
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
            while_unparkable(|| state.jobs.push_back(job));
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
            // SAFETY: the job left the queue here.
            unsafe { job.run() };
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
        // SAFETY: the job left the queue here.
        unsafe { job.run() };
    }
}

#[cfg(all(test, loom))]
#[path = "../models/blocking.rs"]
mod models;
