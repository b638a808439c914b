//! A system that refuses what a scheduler asks for: what a failed start leaves behind, and whether
//! the next one succeeds.
#![allow(
    unsafe_code,
    reason = "it is an operating system, and starts schedulers over it"
)]

use gopark_backends::linux::Linux;
use gopark_backends::linux::io::is_ready;
use gopark_core::blocking::Pool;
use gopark_core::fd::Fd;
use gopark_core::os::{Borrowed, Errno, Nanos, Os, ThreadState};
use gopark_core::sched::{Config, Sched, StartError};
use gopark_core::stack::Shortage;
use gopark_tests::{open_files, poller, until_on_thread};
use std::fmt;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::panic::Location;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

/// Linux, with refusals on request.
struct Refusing {
    linux: Linux,
    /// How many more threads may start.
    threads: AtomicUsize,
    /// How many callers must have asked for a thread before the first one is refused.
    crowd: AtomicUsize,
    space: AtomicBool,
    memory: AtomicBool,
    guards: AtomicBool,
}

static SYSTEM: Refusing = Refusing {
    linux: Linux::new().with_thread_states(),
    threads: AtomicUsize::new(usize::MAX),
    crowd: AtomicUsize::new(0),
    space: AtomicBool::new(false),
    memory: AtomicBool::new(false),
    guards: AtomicBool::new(false),
};

/// Refusals and descriptors are those of the process, so the tests take turns.
static TURN: Mutex<()> = Mutex::new(());

const NO_THREAD: Errno = Errno::new(libc::EAGAIN);
const NO_SPACE: Errno = Errno::new(libc::ENOMEM);
const NO_MEMORY: Errno = Errno::new(libc::EACCES);
const NO_GUARD: Errno = Errno::new(libc::ENOMEM);

thread_local! {
    /// How many of the threads that this thread has started have not ended. Each test has a thread,
    /// and the schedulers of earlier tests may still start some.
    static STARTED: Arc<AtomicUsize> = Arc::default();
}

/// What a new thread runs, and the count that it leaves at its end.
struct Start {
    entry: fn(usize),
    arg: usize,
    alive: Arc<AtomicUsize>,
}

fn enter(start: usize) {
    // SAFETY: `spawn` boxed this for this call.
    let start = unsafe { Box::from_raw(start as *mut Start) };
    (start.entry)(start.arg);
    start.alive.fetch_sub(1, SeqCst);
}

// SAFETY: it refuses a call, which the contract allows, or passes it on to `Linux`, which keeps the
// contract.
unsafe impl Os for Refusing {
    fn now(&self) -> Nanos {
        self.linux.now()
    }

    fn futex_wait(&self, word: &AtomicU32, expected: u32, timeout: Option<Nanos>) {
        self.linux.futex_wait(word, expected, timeout);
    }

    fn futex_wake(&self, word: *const AtomicU32) {
        self.linux.futex_wake(word);
    }

    fn spawn(&self, name: fmt::Arguments<'_>, entry: fn(usize), arg: usize) -> Result<(), Errno> {
        if self
            .threads
            .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
            .is_err()
        {
            _ = self
                .crowd
                .fetch_update(SeqCst, SeqCst, |missing| missing.checked_sub(1));
            until_on_thread("the other callers ask for a thread", || {
                self.crowd.load(SeqCst) == 0
            });
            return Err(NO_THREAD);
        }
        let alive = STARTED.with(Arc::clone);
        alive.fetch_add(1, SeqCst);
        let start = Box::into_raw(Box::new(Start { entry, arg, alive }));
        self.linux
            .spawn(name, enter, start as usize)
            .inspect_err(|_| {
                // SAFETY: no thread got it.
                let start = unsafe { Box::from_raw(start) };
                start.alive.fetch_sub(1, SeqCst);
            })
    }

    fn thread_id(&self) -> u32 {
        self.linux.thread_id()
    }

    fn thread_state(&self, thread: u32) -> ThreadState {
        self.linux.thread_state(thread)
    }

    fn cpu_time(&self, thread: u32) -> Nanos {
        self.linux.cpu_time(thread)
    }

    fn barrier(&self) -> bool {
        self.linux.barrier()
    }

    fn yield_thread(&self) {
        self.linux.yield_thread();
    }

    fn reserve(&self, len: usize) -> Result<NonNull<u8>, Errno> {
        if self.space.load(SeqCst) {
            Err(NO_SPACE)
        } else {
            self.linux.reserve(len)
        }
    }

    unsafe fn open(&self, start: NonNull<u8>, len: usize) -> Result<(), Errno> {
        if self.memory.load(SeqCst) {
            return Err(NO_MEMORY);
        }
        // SAFETY: the caller's promise.
        unsafe { self.linux.open(start, len) }
    }

    unsafe fn guard(&self, start: NonNull<u8>, len: usize) -> Result<(), Errno> {
        if self.guards.load(SeqCst) {
            return Err(NO_GUARD);
        }
        // SAFETY: the caller's promise.
        unsafe { self.linux.guard(start, len) }
    }

    unsafe fn discard(&self, start: NonNull<u8>, len: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.linux.discard(start, len) };
    }

    unsafe fn close(&self, fd: i32) {
        // SAFETY: the caller's promise.
        unsafe { self.linux.close(fd) };
    }

    fn address_space(&self) -> usize {
        self.linux.address_space()
    }

    fn is_socket(&self, fd: Borrowed<'_>) -> bool {
        self.linux.is_socket(fd)
    }

    fn page_size(&self) -> usize {
        self.linux.page_size()
    }

    fn abort(&self, message: fmt::Arguments<'_>) -> ! {
        self.linux.abort(message)
    }
}

fn start(config: Config) -> Result<&'static Sched, StartError> {
    // SAFETY: no configuration here migrates goroutines.
    unsafe { Sched::start(&SYSTEM, config, || poller().init()) }
}

/// What a failed start must leave as it was: open files, and threads that run.
fn held() -> (Vec<PathBuf>, usize) {
    let threads = STARTED.with(|threads| threads.load(SeqCst));
    (open_files(1024), threads)
}

#[test]
fn a_failed_start_without_threads_leaks_nothing_and_can_be_repeated() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let config = Config {
        stack_size: 64 * 1024,
        max_threads: 8,
        ..Config::new(4)
    };
    let before = held();
    for threads in [0, 1, 3, 4] {
        SYSTEM.threads.store(threads, SeqCst);
        let error = start(config).err();
        assert_eq!(error, Some(StartError::Thread(threads, NO_THREAD)));
        assert!(
            error
                .unwrap()
                .to_string()
                .ends_with("raise `ulimit -u`, `ulimit -v` or the cgroup's pids.max")
        );
        until_on_thread("everything has been released", || held() == before);
    }
    SYSTEM.threads.store(usize::MAX, SeqCst);
    let sched = start(config).unwrap_or_else(|error| panic!("{error}"));
    sched.go(|| (), Location::caller()).unwrap().join();
}

#[test]
fn a_failed_start_without_address_space_leaks_nothing_and_reserves_last() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let config = Config {
        stack_size: 64 * 1024,
        max_threads: 8,
        ..Config::new(4)
    };
    let before = held();
    SYSTEM.space.store(true, SeqCst);
    assert_eq!(start(config).err(), Some(StartError::Stacks(NO_SPACE)));
    until_on_thread("everything has been released", || held() == before);
    SYSTEM.threads.store(4, SeqCst);
    assert_eq!(
        start(config).err(),
        Some(StartError::Thread(4, NO_THREAD)),
        "address space must be reserved last"
    );
    until_on_thread("everything has been released", || held() == before);
    SYSTEM.threads.store(usize::MAX, SeqCst);
    SYSTEM.space.store(false, SeqCst);
    let sched = start(config).unwrap_or_else(|error| panic!("{error}"));
    sched.go(|| (), Location::caller()).unwrap().join();
}

#[test]
fn a_fresh_goroutine_starts_although_its_p_cannot_be_handed_off_and_the_other_p_is_always_busy() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let config = Config {
        stack_size: 64 * 1024,
        max_threads: 8,
        ..Config::new(2)
    };
    let sched = start(config).unwrap_or_else(|error| panic!("{error}"));
    SYSTEM.threads.store(0, SeqCst);
    let computes = move || {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        static STOP: AtomicBool = AtomicBool::new(false);
        let go = |body: fn(&'static Sched)| {
            drop(sched.go(move || body(sched), Location::caller()).unwrap())
        };
        for _ in 0..3 {
            go(|sched| {
                STARTED.fetch_add(1, SeqCst);
                while !STOP.load(SeqCst) {
                    sched.yield_now();
                }
            });
        }
        // They start on the other P, because this goroutine keeps its own.
        until_on_thread("the yielding goroutines start", || {
            STARTED.load(SeqCst) == 3
        });
        go(|_| _ = STARTED.fetch_add(1, SeqCst));
        until_on_thread("the fresh goroutine starts", || STARTED.load(SeqCst) == 4);
        STOP.store(true, SeqCst);
    };
    sched.go(computes, Location::caller()).unwrap().join();
    SYSTEM.threads.store(usize::MAX, SeqCst);
}

#[test]
fn spawns_without_memory_or_guards_name_what_is_missing_and_leak_no_stacks() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // Of the largest stacks there are only a few thousand, so a leak shows soon.
    let sched = start(Config {
        stack_size: 1 << 30,
        max_threads: 8,
        ..Config::new(1)
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let refusals = [
        (
            &SYSTEM.memory,
            Shortage::Memory(NO_MEMORY),
            "memory for more was refused (errno 13; `ulimit -d`",
        ),
        (
            &SYSTEM.guards,
            Shortage::Guard(NO_GUARD),
            "a guard was refused (errno 12; without MADV_GUARD_INSTALL",
        ),
    ];
    for (refused, cause, said) in refusals {
        refused.store(true, SeqCst);
        for _ in 0..1000 {
            let exhausted = sched
                .go(|| (), Location::caller())
                .err()
                .expect("the spawn must fail");
            assert_eq!(exhausted.cause, cause);
            assert!(exhausted.to_string().contains(said), "{exhausted}");
        }
        refused.store(false, SeqCst);
    }
    sched.go(|| (), Location::caller()).unwrap().join();
}

#[test]
fn a_connection_without_a_stack_waits_until_there_is_one() {
    const IDLE: usize = 5;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let sched = start(Config {
        stack_size: 1 << 30,
        max_threads: 8,
        ..Config::new(2)
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let started = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..IDLE)
        .map(|_| {
            let (reader, writer) = UnixStream::pair().unwrap();
            reader.set_nonblocking(true).unwrap();
            // SAFETY: gives up the descriptor, which is non-blocking.
            let reader = unsafe { Fd::new(sched, reader.into_raw_fd()) };
            let started = started.clone();
            let body = move |_: Fd| started.fetch_add(1, SeqCst);
            let site = Location::caller();
            drop(Fd::go_when_readable(reader, |fd| fd, is_ready, body, site).unwrap());
            writer
        })
        .collect();
    // The scheduler has not had a goroutine with a stack, so there is none to reuse.
    SYSTEM.memory.store(true, SeqCst);
    let fired = || sched.metrics(&SYSTEM.linux).timers_fired;
    let before = fired();
    drop(writers);
    until_on_thread("they have tried twice", || fired() >= before + 2);
    assert_eq!(started.load(SeqCst), 0, "one has started without a stack");
    let m = sched.metrics(&SYSTEM.linux);
    assert_eq!((m.idle_connections, m.goroutines_waiting), (5, 5));
    SYSTEM.memory.store(false, SeqCst);
    until_on_thread("all have started", || started.load(SeqCst) == IDLE);
    until_on_thread("all have returned", || sched.num_goroutines() == 0);
    assert_eq!(sched.num_idle_connections(), 0);
}

#[test]
fn blocking_jobs_run_even_if_no_caller_gets_a_thread() {
    const TOGETHER: usize = 2;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let config = Config {
        stack_size: 64 * 1024,
        max_threads: 8,
        ..Config::new(TOGETHER)
    };
    let sched = start(config).unwrap_or_else(|error| panic!("{error}"));
    let pool: &Pool = Box::leak(Box::new(Pool::new(8)));
    SYSTEM.threads.store(0, SeqCst);
    for round in 0..20 {
        SYSTEM.crowd.store(TOGETHER, SeqCst);
        let calls: Vec<_> = (0..TOGETHER)
            .map(|i| {
                sched
                    .go(move || pool.run(sched, || i), Location::caller())
                    .unwrap()
            })
            .collect();
        until_on_thread("all calls have returned", || {
            calls.iter().all(|call| call.is_finished())
        });
        assert_eq!(
            calls
                .into_iter()
                .map(|call| call.join())
                .collect::<Vec<_>>(),
            [0, 1],
            "round {round}"
        );
    }
    SYSTEM.threads.store(usize::MAX, SeqCst);
    assert_eq!(
        sched
            .go(move || pool.run(sched, || 7), Location::caller())
            .unwrap()
            .join(),
        7
    );
}
