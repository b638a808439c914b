//! The base of the loom models: the entry to the checker, values that live as long as one
//! execution, and an operating system under the scheduler whose futex, poller and clock belong to
//! the checker.
//!
//! A model is a function that runs its threads to their end. loom runs it once for each order of
//! the threads' steps and for each value that a load may return, within the bound of
//! `LOOM_MAX_PREEMPTIONS`. A lost wake-up shows as a deadlock, a missing ordering as a race on a
//! [`Mail`], any other fault as a failed assertion. `ci/loom.sh` runs the models; `ci/mutants.sh`
//! shows that each can fail.
#![allow(
    unsafe_code,
    reason = "what the code under test holds by 'static reference is freed after each execution"
)]

use crate::g::{self, GRef, Status};
use crate::os::{Delay, Errno, Event, Events, Nanos, Netpoll, Os, idle};
use crate::sched::{Config, Sched};
use crate::tagptr::TaggedPtr;
use core::cell::Cell;
use core::fmt;
use core::ptr::{self, NonNull};
use core::sync::atomic;
use loom::sync::atomic::{AtomicU32, Ordering, fence};
use loom::sync::{Condvar, Mutex};
use std::boxed::Box;
use std::sync::Arc;
use std::vec::Vec;

/// Explores `model` and prints the number of its executions.
pub(crate) fn check<F: Fn() + Send + Sync + 'static>(model: F) {
    explore::<F>(model);
}

/// Explores `execution` and prints the number of executions, under the name of the type `Model`.
pub(crate) fn explore<Model>(execution: impl Fn() + Send + Sync + 'static) {
    let executions = Arc::new(atomic::AtomicU64::new(0));
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 100_000;
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    let counter = executions.clone();
    builder.check(move || {
        counter.fetch_add(1, atomic::Ordering::Relaxed);
        execution();
    });
    let name = std::any::type_name::<Model>();
    let name = name
        .trim_start_matches("gopark_core::")
        .trim_end_matches("::{{closure}}")
        .replace("models::", "");
    std::println!(
        "model {name}: {} executions",
        executions.load(atomic::Ordering::Relaxed)
    );
}

/// A value that every thread of one execution may refer to.
pub(crate) struct Immortal<T: 'static>(NonNull<T>);

impl<T> Immortal<T> {
    pub(crate) fn new(value: T) -> Self {
        Immortal(NonNull::from(Box::leak(Box::new(value))))
    }

    /// Owns a value that the code under test has leaked.
    ///
    /// # Safety
    ///
    /// `value` was leaked from a `Box`, and no other owner frees it.
    pub(crate) unsafe fn adopt(value: &'static T) -> Self {
        Immortal(NonNull::from(value))
    }

    pub(crate) fn get(&self) -> &'static T {
        // SAFETY: a model joins its threads before it drops this.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Immortal<T> {
    fn drop(&mut self) {
        // The threads of a failed execution are not joined.
        if !std::thread::panicking() {
            // SAFETY: the value was leaked from a `Box`, and no thread of the execution runs any
            // more.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        }
    }
}

/// A cell that a waker writes and the woken thread reads. loom reports a race if nothing orders the
/// two.
pub(crate) struct Mail(loom::cell::UnsafeCell<u32>);

// SAFETY: loom checks every access.
unsafe impl Sync for Mail {}

impl Mail {
    pub(crate) fn new() -> Self {
        Mail(loom::cell::UnsafeCell::new(0))
    }

    pub(crate) fn put(&self, value: u32) {
        // SAFETY: loom checks it.
        self.0.with_mut(|place| unsafe { *place = value });
    }

    pub(crate) fn get(&self) -> u32 {
        // SAFETY: loom checks it.
        self.0.with(|place| unsafe { *place })
    }
}

/// Returns a goroutine that is queued and found but never run.
pub(crate) fn goroutine(id: u64) -> GRef {
    g::idle::goroutine(id)
}

/// Returns a goroutine that is parked on M `home`.
pub(crate) fn parked(id: u64, home: usize) -> GRef {
    let g = goroutine(id);
    g.set_home(home);
    g.set_status(Status::Waiting);
    g
}

/// Frees a goroutine that was found, and returns its number.
pub(crate) fn finish(g: GRef) -> u64 {
    let id = g.id();
    // SAFETY: `g::idle::goroutine` leaked a box, and a `GRef` is the only handle to it.
    drop(unsafe { Box::from_raw(g.into_raw().as_ptr()) });
    id
}

/// The operating system of one execution: a futex, and a clock that each call of `now` advances.
#[derive(Default)]
pub(crate) struct ModelOs {
    asleep: Mutex<Vec<usize>>,
    woken: Condvar,
    now: atomic::AtomicI64,
    memory: std::sync::Mutex<Vec<Box<[u64]>>>,
}

// SAFETY: `futex_wait` sleeps until a wake on its word. It ignores timeouts, so that none can hide
// a lost wake-up. The reservation for stacks is never accessed, since no goroutine runs.
unsafe impl Os for ModelOs {
    idle::os_methods!();

    fn now(&self) -> Nanos {
        const STEP: Nanos = 500;
        STEP + self.now.fetch_add(STEP, atomic::Ordering::Relaxed)
    }

    fn futex_wait(&self, word: &AtomicU32, expected: u32, _: Option<Nanos>) {
        let mut asleep = self.asleep.lock().unwrap();
        let me = core::ptr::from_ref(word) as usize;
        if word.load(Ordering::Relaxed) == expected {
            asleep.push(me);
            while asleep.contains(&me) {
                asleep = self.woken.wait(asleep).unwrap();
            }
        }
    }

    fn futex_wake(&self, word: *const AtomicU32) {
        let mut asleep = self.asleep.lock().unwrap();
        if let Some(sleeper) = asleep.iter().position(|&address| address == word as usize) {
            asleep.swap_remove(sleeper);
            self.woken.notify_all();
        }
    }

    fn spawn(&self, _: fmt::Arguments<'_>, _: fn(usize), arg: usize) -> Result<(), Errno> {
        // A model's threads are the Ms, so the thread that `Sched::start` asks for is not started.
        // SAFETY: `Sched::start` boxed the argument for that thread alone.
        drop(unsafe { Box::from_raw(arg as *mut crate::sched::Start) });
        Ok(())
    }

    /// In models the M's half of the barrier is a fence, so this half is a fence too.
    fn barrier(&self) -> bool {
        fence(Ordering::SeqCst);
        true
    }

    fn yield_thread(&self) {
        loom::thread::yield_now();
    }

    fn reserve(&self, len: usize) -> Result<NonNull<u8>, Errno> {
        const STACKS: usize = 1 << 20;
        if len >= STACKS {
            return Ok(idle::reservation());
        }
        let mut memory = std::vec![0; len.div_ceil(8)].into_boxed_slice();
        let start = NonNull::from(&mut *memory).cast();
        self.memory.lock().unwrap().push(memory);
        Ok(start)
    }
}

/// A poller whose events a model posts. A poll with a time limit returns at once.
#[derive(Default)]
pub(crate) struct ModelPoller {
    state: Mutex<Pending>,
    change: Condvar,
}

/// A descriptor that every poller refuses.
pub(crate) const REFUSED: i32 = 1000;

#[derive(Default)]
struct Pending {
    events: Vec<Event>,
    wake: bool,
}

// SAFETY: the model posts only tokens that were passed to `open`.
unsafe impl Netpoll for ModelPoller {
    fn init() -> Result<Self, Errno> {
        Ok(ModelPoller::default())
    }

    fn open(&self, fd: i32, _: TaggedPtr) -> Result<(), Errno> {
        const ENOSPC: i32 = 28;
        if fd == REFUSED {
            Err(Errno::new(ENOSPC))
        } else {
            Ok(())
        }
    }

    fn close(&self, _: i32) {}

    fn poll(&self, delay: Delay, events: &mut Events) {
        let mut state = self.state.lock().unwrap();
        while delay == Delay::Forever && state.events.is_empty() && !state.wake {
            state = self.change.wait(state).unwrap();
        }
        state.wake &= delay == Delay::None;
        for event in state.events.drain(..) {
            events.push(event).expect("a model posts few events");
        }
    }

    fn wake(&self) {
        self.state.lock().unwrap().wake = true;
        self.change.notify_one();
    }
}

impl ModelPoller {
    pub(crate) fn post(&self, event: Event) {
        self.state.lock().unwrap().events.push(event);
        self.change.notify_one();
    }
}

/// A scheduler whose Ms are the model's threads. Each P is granted to the M of the same number, and
/// a model may start one more M.
pub(crate) struct ModelSched {
    // The scheduler refers to the system, so it is dropped first.
    sched: Immortal<Sched>,
    _os: Immortal<ModelOs>,
}

impl ModelSched {
    pub(crate) fn new(procs: usize, pollers: usize) -> Self {
        let os = Immortal::new(ModelOs::default());
        let stack_size = crate::stack::MIN_STACK;
        let config = Config {
            pollers,
            stack_size,
            max_threads: procs + 1,
            thread_member,
            ..Config::new(procs)
        };
        // SAFETY: goroutines stay at home.
        let sched =
            unsafe { Sched::start(os.get(), config, || Ok(Box::new(ModelPoller::init()?))) };
        // SAFETY: `start` leaks the scheduler, and no other owner frees it.
        let sched = unsafe { Immortal::adopt(sched.expect("nothing is refused")) };
        ModelSched { sched, _os: os }
    }

    pub(crate) fn get(&self) -> &'static Sched {
        self.sched.get()
    }
}

/// The word of a model's thread for the cancel that it is a member of.
fn thread_member(new: Option<*mut ()>) -> *mut () {
    loom::thread_local! {
        static MEMBER: Cell<*mut ()> = Cell::new(ptr::null_mut());
    }
    MEMBER.with(|member| match new {
        Some(new) => member.replace(new),
        None => member.get(),
    })
}
