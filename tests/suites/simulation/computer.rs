//! The simulated computer: threads that are coroutines of one real thread, a clock that moves only
//! when told to, and a random generator.
//!
//! A thread runs until it calls the system. There the generator may switch to another thread, or
//! stall this one for a while. When no thread can run, the clock jumps to the next time that a
//! thread or a packet waits for. A run therefore depends on its seed and on nothing else.

use crate::kernel::Kernel;
use crate::oracle::Oracle;
use corosensei::stack::{Stack, StackPointer};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use gopark_core::futex::FutexTable;
use gopark_core::os::Nanos;
use gopark_core::sched::Sched;
use gopark_tests::Dice;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashSet;
use std::ptr::{self, NonNull};
use std::rc::Rc;

/// A run that takes more steps counts as one that never ends. With turns at every access to an
/// atomic, the longest program of the first 20 000 seeds makes 168 023 steps.
const STEPS_MAX: u64 = if cfg!(steps) { 4_000_000 } else { 400_000 };

/// Later than anything that a program waits for.
pub(crate) const FAR: Nanos = Nanos::MAX;

/// What a thread does.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum State {
    /// Can run.
    Ready,
    /// Has called `yield_thread`: runs when the others cannot, and otherwise now and then.
    Yields,
    /// Kept from running until then.
    Stalled(Nanos),
    /// Computes until then, outside the scheduler.
    Busy(Nanos),
    Futex {
        word: usize,
        until: Nanos,
    },
    Poll {
        poller: usize,
        until: Nanos,
    },
    Done,
}

struct Thread {
    coroutine: RefCell<Option<Coroutine<(), (), (), ThreadStack>>>,
    /// Set by the thread's first instructions.
    yielder: Cell<*const Yielder<(), ()>>,
    state: Cell<State>,
    /// For its innermost membership of a cancel.
    member: Cell<*mut ()>,
    /// The thread with the highest rank runs, in runs where ranks decide.
    rank: Cell<u64>,
}

/// How likely each disturbance is: one in so many. Drawn for each run, so that runs differ in kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Odds {
    /// A system call switches to another thread.
    pub(crate) switch: u64,
    /// A system call stalls its thread.
    pub(crate) stall: u64,
    /// An access to a shared word is treated as a system call, under `--cfg steps`.
    #[cfg(steps)]
    pub(crate) touch: u64,
    /// Ranks decide which thread runs, and a turn changes one rank. 0: each turn is drawn.
    pub(crate) rerank: u64,
    /// A signal interrupts a call.
    pub(crate) interrupt: u64,
    /// A poll adds a spurious event, or one for an earlier use of a descriptor.
    pub(crate) spurious: u64,
    /// A poll leaves events for the next one.
    pub(crate) late: u64,
    /// The kernel refuses a call.
    pub(crate) refuse: u64,
    /// The longest time in flight of a packet, in nanoseconds.
    pub(crate) latency: u64,
    /// What the scheduler can see of its threads.
    pub(crate) visibility: Visibility,
}

/// What the system shows of threads.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Visibility {
    /// Their states and their CPU time.
    Full,
    /// Their states.
    States,
    /// Their CPU time.
    Clocks,
    Nothing,
}

impl Odds {
    fn draw(dice: &Dice) -> Self {
        let pick = |choices: &[u64]| choices[dice.below(choices.len() as u64) as usize];
        Odds {
            switch: pick(&[1, 2, 2, 4, 16]),
            stall: pick(&[64, 256, 1024, NEVER]),
            #[cfg(steps)]
            touch: pick(&[3, 8, 32, 128]),
            rerank: pick(&[0, 0, 16, 128]),
            interrupt: pick(&[8, 32, NEVER]),
            spurious: pick(&[4, 32, NEVER]),
            late: pick(&[2, 8, NEVER]),
            refuse: pick(&[4, 32, NEVER, NEVER]),
            latency: pick(&[1, 20_000, 300_000, 5_000_000]),
            visibility: [
                Visibility::Full,
                Visibility::Full,
                Visibility::States,
                Visibility::Clocks,
                Visibility::Nothing,
            ][dice.below(5) as usize],
        }
    }
}

/// One in this many: never.
pub(crate) const NEVER: u64 = FAR as u64;

pub(crate) struct Computer {
    pub(crate) dice: Dice,
    pub(crate) odds: Odds,
    pub(crate) kernel: RefCell<Kernel>,
    pub(crate) oracle: RefCell<Oracle>,
    pub(crate) sched: OnceCell<&'static Sched>,
    now: Cell<Nanos>,
    started: Nanos,
    steps: Cell<u64>,
    trace: Cell<u64>,
    threads: RefCell<Vec<Rc<Thread>>>,
    current: Cell<Option<usize>>,
    failure: RefCell<Option<String>>,
    log: Option<RefCell<Vec<String>>>,
    pub(crate) reservations: Cell<usize>,
    pub(crate) futexes: Box<FutexTable>,
    /// How many Ms a goroutine blocks in a futex.
    pub(crate) blocked: Cell<usize>,
}

thread_local! {
    static COMPUTER: Cell<*const Computer> = const { Cell::new(ptr::null()) };
    static STACKS: RefCell<Vec<ThreadStack>> = const { RefCell::new(Vec::new()) };
    static RESERVED: RefCell<Vec<(NonNull<u8>, usize)>> = const { RefCell::new(Vec::new()) };
    static OPENED: RefCell<HashSet<usize>> = RefCell::new(HashSet::new());
    static GUARDED: RefCell<HashSet<usize>> = RefCell::new(HashSet::new());
}

/// The computer of the run under way.
pub(crate) fn computer() -> &'static Computer {
    let computer = COMPUTER.get();
    // SAFETY: `install` set it to a leaked value, and no code of a run executes after `remove`
    // frees the value.
    unsafe { computer.as_ref() }.expect("a run is under way")
}

/// The seed of the run under way, for a panic hook.
pub(crate) fn seed_under_way() -> Option<u64> {
    // SAFETY: as in `computer`.
    unsafe { COMPUTER.get().as_ref() }
        .map(|computer| computer.oracle.try_borrow().map_or(0, |oracle| oracle.seed))
}

/// The outcome of a run.
pub(crate) struct Verdict {
    pub(crate) failure: Option<String>,
    pub(crate) trace: u64,
    pub(crate) steps: u64,
    pub(crate) time: Nanos,
    pub(crate) log: Vec<String>,
}

impl Computer {
    /// Makes a new computer in place of the last one. `odds` may change the odds drawn.
    pub(crate) fn install(seed: u64, odds: fn(&mut Odds), logging: bool) -> &'static Computer {
        let dice = Dice::new(seed);
        let mut drawn = Odds::draw(&dice);
        odds(&mut drawn);
        let started = [1, 1_000_000_000, 1 << 45][dice.below(3) as usize];
        let computer = Box::leak(Box::new(Computer {
            dice,
            odds: drawn,
            kernel: RefCell::new(Kernel::new()),
            oracle: RefCell::new(Oracle::new(seed)),
            sched: OnceCell::new(),
            now: Cell::new(started),
            started,
            steps: Cell::new(0),
            trace: Cell::new(0),
            threads: RefCell::new(Vec::new()),
            current: Cell::new(None),
            failure: RefCell::new(None),
            log: logging.then(|| RefCell::new(Vec::new())),
            reservations: Cell::new(0),
            futexes: Box::default(),
            blocked: Cell::new(0),
        }));
        COMPUTER.set(computer);
        computer
    }

    /// Ends a run and frees the computer.
    pub(crate) fn remove(&'static self) -> Verdict {
        let verdict = Verdict {
            failure: self.failure.borrow().clone(),
            trace: self.trace.get(),
            steps: self.steps.get(),
            time: self.now() - self.started,
            log: self
                .log
                .as_ref()
                .map_or_else(Vec::new, |log| log.borrow().clone()),
        };
        for thread in self.threads.borrow().iter() {
            let mut coroutine = thread
                .coroutine
                .borrow_mut()
                .take()
                .expect("a thread is not resumed");
            if verdict.failure.is_none() {
                // SAFETY: after a run that succeeded, only Ms are still suspended. Their stacks own
                // the batch of an unfinished poll, which needs no drop.
                unsafe { coroutine.force_reset() };
                STACKS.with_borrow_mut(|stacks| stacks.push(coroutine.into_stack()));
            } else {
                // The thread may be suspended anywhere, so its stack cannot be dropped.
                std::mem::forget(coroutine);
            }
        }
        COMPUTER.set(ptr::null());
        if verdict.failure.is_none() {
            // SAFETY: `install` leaked it, and all threads that referred to it are gone.
            drop(unsafe { Box::from_raw(ptr::from_ref(self).cast_mut()) });
        }
        verdict
    }

    pub(crate) fn now(&self) -> Nanos {
        self.now.get()
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps.get()
    }

    pub(crate) fn one_in(&self, odds: u64) -> bool {
        odds < NEVER && self.dice.below(odds) == 0
    }

    /// Notes an event. Two runs of a seed must note the same events, or the run is not
    /// deterministic.
    pub(crate) fn note(&self, what: &'static str, details: [u64; 2]) {
        let thread = self.current.get().map_or(99, |thread| thread as u64);
        let mut hash = self.trace.get();
        let name = what.bytes().fold(0, |name: u64, byte| {
            name << 5 ^ name >> 59 ^ u64::from(byte)
        });
        for part in [thread, name, details[0], details[1], self.now() as u64] {
            hash = (hash ^ part)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29);
        }
        self.trace.set(hash);
        if let Some(log) = &self.log {
            log.borrow_mut().push(format!(
                "{:>12} thread {thread}: {what} {} {}",
                self.now() - self.started,
                details[0],
                details[1]
            ));
        }
    }

    /// Ends the run with a failure. On a simulated thread it does not return.
    pub(crate) fn fail(&self, why: String) {
        self.failure.borrow_mut().get_or_insert(why);
        while self.current.get().is_some() {
            self.switch(State::Done);
        }
    }

    pub(crate) fn failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// The start or the end of a system call: time passes, and another thread may run.
    pub(crate) fn step(&self, what: &'static str, details: [u64; 2]) {
        self.steps.set(self.steps.get() + 1);
        self.now
            .set(self.now().saturating_add(self.dice.below(400) as Nanos));
        self.note(what, details);
        if self.steps() > STEPS_MAX {
            return self.fail(format!("no end after {STEPS_MAX} steps"));
        }
        if self.current.get().is_none() {
            return;
        }
        if self.one_in(self.odds.stall) {
            let until = self.now() + self.dice.below(2_000_000) as Nanos;
            self.switch(State::Stalled(until));
        } else if self.one_in(self.odds.switch) {
            self.switch(State::Ready);
        }
    }

    /// Called before a thread accesses a shared word.
    #[cfg(steps)]
    pub(crate) fn touch() {
        // SAFETY: as in `computer`.
        let Some(computer) = (unsafe { COMPUTER.get().as_ref() }) else {
            return;
        };
        if computer.current.get().is_some() && computer.one_in(computer.odds.touch) {
            computer.step("touch", [0; 2]);
        }
    }

    /// Puts the current thread into `state`. It returns when the thread is `Ready` and is chosen to
    /// run.
    pub(crate) fn switch(&self, state: State) {
        let Some(current) = self.current.get() else {
            return;
        };
        let thread = self.threads.borrow()[current].clone();
        thread.state.set(state);
        // SAFETY: the thread's first instructions stored the yielder, which lives on the thread's
        // stack. The current thread is that thread, so its stack is in use.
        unsafe { &*thread.yielder.get() }.suspend(());
    }

    /// Makes one thread whose state `matches` ready. Returns whether there was one.
    pub(crate) fn wake_where(&self, matches: impl Fn(State) -> bool) -> bool {
        let threads = self.threads.borrow();
        let sleeper = threads.iter().find(|thread| matches(thread.state.get()));
        if let Some(thread) = sleeper {
            thread.state.set(State::Ready);
        }
        sleeper.is_some()
    }

    pub(crate) fn state(&self, thread: usize) -> State {
        self.threads.borrow()[thread].state.get()
    }

    /// The word of the thread that runs for its innermost membership of a cancel.
    pub(crate) fn member(new: Option<*mut ()>) -> *mut () {
        let computer = computer();
        let member = &computer.threads.borrow()[computer.current()].member;
        new.map_or(member.get(), |new| member.replace(new))
    }

    /// The number of the thread that runs.
    pub(crate) fn current(&self) -> usize {
        self.current.get().expect("a thread asks")
    }

    pub(crate) fn any_state(&self, matches: impl Fn(State) -> bool) -> bool {
        self.threads
            .borrow()
            .iter()
            .any(|thread| matches(thread.state.get()))
    }

    /// Starts a thread that runs `body`, and returns its number.
    pub(crate) fn spawn(&self, body: impl FnOnce() + 'static) -> usize {
        let stack = STACKS
            .with_borrow_mut(Vec::pop)
            .unwrap_or_else(ThreadStack::new);
        let thread = Rc::new(Thread {
            coroutine: RefCell::new(None),
            yielder: Cell::new(ptr::null()),
            state: Cell::new(State::Ready),
            member: Cell::new(ptr::null_mut()),
            rank: Cell::new(self.dice.below(1000)),
        });
        let mut threads = self.threads.borrow_mut();
        let index = threads.len();
        assert!(index < 64, "more threads than a set of them has bits");
        let coroutine = Coroutine::with_stack(stack, move |yielder, ()| {
            let threads = computer().threads.borrow();
            threads[index].yielder.set(yielder);
            drop(threads);
            body();
        });
        thread.coroutine.replace(Some(coroutine));
        threads.push(thread);
        index
    }

    /// Runs the threads until none can run and `over` returns true, or until a thread fails.
    /// Returns false if no thread can ever run again. Calls `rest` when no thread can run, with the
    /// time to which the clock will jump.
    pub(crate) fn run(&self, over: impl Fn() -> bool, rest: impl Fn(Nanos)) -> bool {
        while !self.failed() {
            Kernel::deliver(self);
            if let Some(chosen) = self.choose() {
                self.resume(chosen);
                continue;
            }
            let next = self.next_event();
            rest(next);
            if !self.has_stalled_thread() && over() {
                return true;
            }
            if next == FAR {
                return false;
            }
            self.now.set(self.now().max(next));
        }
        true
    }

    fn resume(&self, index: usize) {
        let thread = self.threads.borrow()[index].clone();
        thread.state.set(State::Ready);
        self.current.set(Some(index));
        let result = thread
            .coroutine
            .borrow_mut()
            .as_mut()
            .expect("not resumed twice")
            .resume(());
        if let CoroutineResult::Return(()) = result {
            thread.state.set(State::Done);
        }
        self.current.set(None);
    }

    /// Draws a thread that can run.
    fn choose(&self) -> Option<usize> {
        let now = self.now();
        let threads = self.threads.borrow();
        let (mut ready, mut yielding) = (0u64, 0u64);
        for (index, thread) in threads.iter().enumerate() {
            match thread.state.get() {
                State::Ready => ready |= 1 << index,
                State::Yields => yielding |= 1 << index,
                State::Stalled(until)
                | State::Busy(until)
                | State::Futex { until, .. }
                | State::Poll { until, .. }
                    if until <= now =>
                {
                    ready |= 1 << index;
                }
                _ => {}
            }
        }
        if ready == 0 && yielding != 0 {
            // The yielding threads may wait for a stalled one. While they alone can run, time
            // passes faster.
            self.now.set(now + self.dice.below(20_000) as Nanos);
            ready = yielding;
        }
        if ready == 0 {
            return None;
        }
        if self.one_in(8) {
            ready |= yielding;
            return Some(self.draw(ready));
        }
        if self.odds.rerank == 0 {
            return Some(self.draw(ready));
        }
        if self.one_in(self.odds.rerank) {
            threads[self.draw(ready)].rank.set(self.dice.below(1000));
        }
        (0..threads.len())
            .filter(|index| ready >> index & 1 == 1)
            .max_by_key(|&index| threads[index].rank.get())
    }

    /// Draws one of the bits of `set`.
    fn draw(&self, mut set: u64) -> usize {
        for _ in 0..self.dice.below(set.count_ones().into()) {
            set &= set - 1;
        }
        set.trailing_zeros() as usize
    }

    /// The next time at which a thread or a packet is due.
    fn next_event(&self) -> Nanos {
        let threads = self.threads.borrow();
        let times = threads.iter().map(|thread| match thread.state.get() {
            State::Stalled(until)
            | State::Busy(until)
            | State::Futex { until, .. }
            | State::Poll { until, .. } => until,
            _ => FAR,
        });
        times
            .chain([self.kernel.borrow().next_event()])
            .min()
            .expect("the kernel's is there")
    }

    /// Whether a thread is stalled, so that the state at rest says nothing.
    pub(crate) fn has_stalled_thread(&self) -> bool {
        self.any_state(|state| matches!(state, State::Stalled(_)))
    }

    /// How many threads compute, or are blocked by a goroutine.
    pub(crate) fn busy(&self) -> usize {
        let threads = self.threads.borrow();
        let busy = |thread: &&Rc<Thread>| matches!(thread.state.get(), State::Busy(_));
        threads.iter().filter(busy).count() + self.blocked.get()
    }

    /// Reserves address space for this run. What an earlier run opened there is open and zeroed.
    pub(crate) fn reserve(&self, len: usize) -> NonNull<u8> {
        let turn = self.reservations.replace(self.reservations.get() + 1);
        RESERVED.with_borrow_mut(|reserved| match reserved.get(turn) {
            Some(&(start, size)) if size == len => {
                // SAFETY: the range is a mapping of this process, and the run that used it is over.
                let done =
                    unsafe { libc::madvise(start.as_ptr().cast(), len, libc::MADV_DONTNEED) };
                assert_eq!(done, 0, "madvise");
                start
            }
            _ => {
                let start = map(len, libc::PROT_NONE);
                reserved.truncate(turn);
                reserved.push((start, len));
                start
            }
        })
    }

    /// Opens a part of a reservation. It stays open in later runs.
    pub(crate) fn open(&self, start: NonNull<u8>, len: usize) {
        if OPENED.with_borrow_mut(|opened| opened.insert(start.as_ptr() as usize)) {
            protect(start, len, libc::PROT_READ | libc::PROT_WRITE);
        }
    }

    /// Makes a page of a reservation fault, in this run and in later ones.
    pub(crate) fn guard(&self, start: NonNull<u8>, len: usize) {
        if GUARDED.with_borrow_mut(|guarded| guarded.insert(start.as_ptr() as usize)) {
            protect(start, len, libc::PROT_NONE);
        }
    }
}

fn map(len: usize, access: libc::c_int) -> NonNull<u8> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: it makes a new mapping, and replaces none.
    let start = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, -1, 0) };
    assert!(
        start != libc::MAP_FAILED,
        "mmap of {len} bytes: {}",
        std::io::Error::last_os_error()
    );
    NonNull::new(start.cast()).expect("not null")
}

fn protect(start: NonNull<u8>, len: usize, access: libc::c_int) {
    // SAFETY: no code uses these pages.
    let done = unsafe { libc::mprotect(start.as_ptr().cast(), len, access) };
    assert_eq!(done, 0, "mprotect: {}", std::io::Error::last_os_error());
}

/// The stack of a simulated thread, used again by later runs.
struct ThreadStack(NonNull<u8>);

/// Bytes: room for a panic message with a backtrace.
const STACK_SIZE: usize = 512 * 1024;
const GUARD: usize = 4096;

impl ThreadStack {
    fn new() -> Self {
        let start = map(STACK_SIZE, libc::PROT_READ | libc::PROT_WRITE);
        protect(start, GUARD, libc::PROT_NONE);
        ThreadStack(start)
    }
}

// SAFETY: the mapping is page-aligned, its lowest page faults, and it is never unmapped and has one
// owner.
unsafe impl Stack for ThreadStack {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.0.as_ptr() as usize + STACK_SIZE).expect("not null")
    }

    fn limit(&self) -> StackPointer {
        StackPointer::new(self.0.as_ptr() as usize).expect("not null")
    }
}
