//! Programs with contended locks of `std`, under settings of their own. `suites/std_locks.rs` runs
//! them: the name of a program, then what [`Settings`] reads.
#![allow(
    unsafe_code,
    reason = "stderr is redirected and futexes are called through libc; `migrate` asks for \
              goroutines that stand it, which these do"
)]

use gopark::sync::Notify;
use gopark::{
    Builder, JoinHandle, StdLocks, go, go_local, metrics, set_name, without_parking, yield_now,
};
use gopark_tests::std_locks::PROGRAMS;
use gopark_tests::watch::{asleep, thread_id};
use gopark_tests::{join, until, until_on_thread};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Condvar, LazyLock, Mutex, Once, OnceLock, RwLock, mpsc};
use std::thread;

/// What the arguments after the name say: `park`, `off`, `migrate`, `quiet`, the number of procs as
/// `2p`, and the number of rounds.
struct Settings {
    locks: StdLocks,
    migrate: bool,
    quiet: bool,
    procs: usize,
    rounds: usize,
}

fn main() {
    let mut words = std::env::args().skip(1);
    let name = words.next().expect("the name of a program");
    let settings = Settings::read(words);
    let told = (name == "first-rescue").then(redirect_stderr);
    settings.start();
    let of_name = |(other, _): &&(&str, fn())| *other == name;
    if let Some((_, program)) = PROGRAMS.iter().find(of_name) {
        let (program, rounds) = (*program, settings.rounds);
        gopark::run(move || (0..rounds).for_each(|_| join(go(program))));
    } else {
        match name.as_str() {
            "states" => states(),
            "without-parking" => gopark::run(code_that_does_not_park),
            "wakes" => gopark::run(wakes),
            "first-rescue" => first_rescue(&mut told.expect("it was redirected"), settings.quiet),
            "crossed" => gopark::run(crossed),
            "own" => gopark::run(own),
            "joins-with-its-lock" => gopark::run(joins_with_its_lock),
            _ => panic!("there is no program {name}"),
        }
    }
    println!("done, {} rescues", metrics().rescues);
}

impl Settings {
    fn read(words: impl Iterator<Item = String>) -> Self {
        let mut settings = Settings {
            locks: StdLocks::default(),
            migrate: false,
            quiet: false,
            procs: 1,
            rounds: 1,
        };
        for word in words {
            match word.as_str() {
                "park" => settings.locks = StdLocks::Park,
                "off" => settings.locks = StdLocks::Off,
                "migrate" => settings.migrate = true,
                "quiet" => settings.quiet = true,
                word => match word.strip_suffix('p') {
                    Some(procs) => settings.procs = procs.parse().expect("a number of procs"),
                    None => settings.rounds = word.parse().expect("a number of rounds"),
                },
            }
        }
        settings
    }

    fn start(&self) {
        let mut builder = Builder::new().max_procs(self.procs).std_locks(self.locks);
        if self.quiet {
            builder = builder.reports(false);
        }
        if self.migrate {
            // SAFETY: the programs use thread-locals only in calls that do not park.
            builder = unsafe { builder.migrate() };
        }
        builder.start().expect("the runtime starts");
    }
}

/// The state of the goroutine `name` in a dump. Empty if there is no such goroutine.
fn state_of(name: &str) -> String {
    let mut bytes = Vec::new();
    gopark::dump(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let found = text.split_once(&format!("\"{name}\" ["));
    let state = found.and_then(|(_, rest)| rest.split_once("]:\n"));
    state.map_or(String::new(), |(state, _)| state.into())
}

const PARKED: &str = "std lock";
const BLOCKED: &str = ", std::thread::park at 0x";

/// Starts a goroutine that waits, and returns it once a dump shows it in that state.
#[track_caller]
fn waits(name: &'static str, state: &str, wait: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let waiter = go(move || {
        set_name(name);
        wait();
    });
    until(state, || {
        assert!(!waiter.is_finished(), "it does not wait");
        let seen = state_of(name);
        seen.starts_with(state) || state == BLOCKED && seen.contains(state)
    });
    waiter
}

/// A wait for each lock of `std` parks, and a wait for what is no lock does not. The caller is an
/// ordinary thread, which runs while goroutines block theirs.
fn states() {
    locks_park();
    initializers_park();
    let (tell, told) = mpsc::channel();
    let receives = waits("receives", BLOCKED, move || told.recv().unwrap());
    tell.send(()).unwrap();
    join(receives);
    let (tell, told) = mpsc::channel();
    let may = Arc::new(AtomicBool::new(false));
    let theirs = may.clone();
    let parks = waits("parks", BLOCKED, move || {
        tell.send(thread::current()).unwrap();
        while !theirs.load(SeqCst) {
            thread::park();
        }
    });
    may.store(true, SeqCst);
    told.recv().unwrap().unpark();
    join(parks);
}

fn locks_park() {
    let mutex = Arc::new(Mutex::new(()));
    let (held, theirs) = (mutex.lock().unwrap(), mutex.clone());
    let waiter = waits("locks", PARKED, move || drop(theirs.lock().unwrap()));
    drop(held);
    join(waiter);

    let lock = Arc::new(RwLock::new(()));
    let (held, theirs) = (lock.read().unwrap(), lock.clone());
    let waiter = waits("writes", PARKED, move || drop(theirs.write().unwrap()));
    drop(held);
    join(waiter);

    // With a writer inside and waiters of both kinds, the next reader waits for the value that
    // `std::thread::park` waits for.
    let held = lock.write().unwrap();
    let read = |name| {
        let lock = lock.clone();
        waits(name, PARKED, move || drop(lock.read().unwrap()))
    };
    let theirs = lock.clone();
    let waiters = [
        read("reads first"),
        waits("writes later", PARKED, move || {
            drop(theirs.write().unwrap())
        }),
        read("reads last"),
    ];
    drop(held);
    waiters.into_iter().for_each(join);

    let pair = Arc::new((Mutex::new(false), Condvar::new()));
    let theirs = pair.clone();
    let waiter = waits("waits in a condvar", PARKED, move || {
        let ready = theirs.0.lock().unwrap();
        drop(theirs.1.wait_while(ready, |ready| !*ready).unwrap());
    });
    *pair.0.lock().unwrap() = true;
    pair.1.notify_one();
    join(waiter);

    let barrier = Arc::new(Barrier::new(2));
    let theirs = barrier.clone();
    let waiter = waits("waits at a barrier", PARKED, move || _ = theirs.wait());
    barrier.wait();
    join(waiter);
}

fn initializers_park() {
    type Lazy = LazyLock<(), Box<dyn FnOnce() + Send>>;
    let gate = Arc::new(Notify::new());
    let theirs = gate.clone();
    let lazy: Lazy = LazyLock::new(Box::new(move || theirs.notified()));
    let shared = Arc::new((Once::new(), OnceLock::new(), lazy));
    for kind in ["once", "cell", "lazy"] {
        let initialize = || {
            let (shared, gate) = (shared.clone(), gate.clone());
            move || match kind {
                "once" => shared.0.call_once(|| gate.notified()),
                "cell" => *shared.1.get_or_init(|| gate.notified()),
                _ => *shared.2,
            }
        };
        let first = waits("initializes", "notify", initialize());
        let second = waits(kind, PARKED, initialize());
        gate.notify_one();
        [first, second].into_iter().for_each(join);
    }
}

/// Locks a Mutex by `enter`, which gets a function that does so, while an ordinary thread holds it.
/// Returns how often a neighbour had its turn until then. The thread unlocks the Mutex once a dump
/// shows that the caller waits; if it is parked, once the neighbour had a turn.
fn turns_during(enter: impl FnOnce(&dyn Fn())) -> usize {
    set_name("locks");
    let (lock, turns) = (Arc::new(Mutex::new(())), Arc::new(AtomicUsize::new(0)));
    let over = Arc::new(AtomicBool::new(false));
    let (theirs, stop) = (turns.clone(), over.clone());
    let neighbour = go_local(move || {
        while !stop.load(SeqCst) {
            theirs.fetch_add(1, SeqCst);
            yield_now();
        }
    });
    until("the neighbour runs", || turns.load(SeqCst) > 0);
    let (tell, told) = mpsc::channel();
    let (held, theirs) = (lock.clone(), turns.clone());
    let holder = thread::spawn(move || {
        let _guard = held.lock().unwrap();
        tell.send(()).unwrap();
        until_on_thread("the goroutine waits", || state_of("locks").contains(PARKED));
        let before = theirs.load(SeqCst);
        if state_of("locks").starts_with(PARKED) {
            until_on_thread("the neighbour runs", || theirs.load(SeqCst) > before);
        }
    });
    told.recv().unwrap();
    let before = turns.load(SeqCst);
    enter(&|| drop(lock.lock().unwrap()));
    let during = turns.load(SeqCst) - before;
    over.store(true, SeqCst);
    join(neighbour);
    gopark::blocking(|| holder.join().unwrap());
    during
}

/// What must let no neighbour run, and that a neighbour runs otherwise.
fn code_that_does_not_park() {
    assert!(turns_during(|lock| lock()) > 0);
    assert_eq!(turns_during(|lock| without_parking(lock)), 0);
    let nested = turns_during(|lock| {
        without_parking(|| {
            without_parking(|| ());
            lock();
        });
    });
    assert_eq!(nested, 0);
    assert!(turns_during(|lock| lock()) > 0, "it is over");

    let caught = panic::catch_unwind(|| {
        without_parking(|| panic::resume_unwind(Box::new("a test expects this")));
    });
    assert!(caught.is_err());
    assert!(turns_during(|lock| lock()) > 0, "a panic has ended it");

    struct Locks<'a>(&'a dyn Fn());
    impl Drop for Locks<'_> {
        fn drop(&mut self) {
            self.0();
        }
    }
    let unwinds = turns_during(|lock| {
        let caught = panic::catch_unwind(AssertUnwindSafe(|| {
            let _locks = Locks(lock);
            panic::resume_unwind(Box::new("a test expects this"));
        }));
        assert!(caught.is_err());
    });
    assert_eq!(unwinds, 0, "a goroutine that unwinds does not park");

    let on_thread = thread::spawn(|| without_parking(|| 7));
    assert_eq!(gopark::blocking(|| on_thread.join().unwrap()), 7);
}

fn futex(word: &AtomicU32, operation: i32, value: u32) -> i64 {
    // SAFETY: a private operation on a word that outlives the call.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word,
            operation | libc::FUTEX_PRIVATE_FLAG,
            value,
            std::ptr::null::<libc::timespec>(),
            std::ptr::null::<u32>(),
            u32::MAX,
        )
    }
}

/// A wake of all counts goroutines and threads together. One of a single waiter counts one, and
/// leaves waiters of either kind to later ones.
fn wakes() {
    static WORD: AtomicU32 = AtomicU32::new(0);
    static RETURNED: AtomicU32 = AtomicU32::new(0);
    const EACH: u32 = 5;
    let wait = || {
        assert_eq!(futex(&WORD, libc::FUTEX_WAIT_BITSET, 0), 0);
        RETURNED.fetch_add(1, SeqCst);
    };
    let start = || {
        RETURNED.store(0, SeqCst);
        let ids = [(); EACH as usize].map(|()| Arc::new(AtomicI32::new(0)));
        let threads = ids.clone().map(|id| {
            thread::spawn(move || {
                id.store(thread_id(), SeqCst);
                wait();
            })
        });
        for id in ids {
            until("the thread runs", || id.load(SeqCst) != 0);
            asleep(id.load(SeqCst));
        }
        let names = ["a", "b", "c", "d", "e"];
        (threads, names.map(|name| waits(name, PARKED, wait)))
    };
    let end = |(threads, goroutines): ([thread::JoinHandle<()>; 5], [JoinHandle<()>; 5])| {
        goroutines.into_iter().for_each(join);
        gopark::blocking(|| {
            threads
                .into_iter()
                .for_each(|thread| thread.join().unwrap())
        });
        assert_eq!(RETURNED.load(SeqCst), 2 * EACH);
        assert_eq!(futex(&WORD, libc::FUTEX_WAKE, i32::MAX as u32), 0);
    };
    let all = start();
    assert_eq!(
        futex(&WORD, libc::FUTEX_WAKE, i32::MAX as u32),
        2 * i64::from(EACH)
    );
    end(all);
    let all = start();
    for woken in 1..=EACH {
        assert_eq!(futex(&WORD, libc::FUTEX_WAKE, 1), 1);
        // Each wakes a goroutine, and with it a thread.
        until("both return", || RETURNED.load(SeqCst) == 2 * woken);
    }
    end(all);
}

/// Replaces stderr. Returns what is written to it.
fn redirect_stderr() -> UnixStream {
    let (reader, stderr) = UnixStream::pair().unwrap();
    // SAFETY: no memory is passed.
    let result = unsafe { libc::dup2(stderr.as_raw_fd(), libc::STDERR_FILENO) };
    assert_eq!(result, libc::STDERR_FILENO);
    reader
}

/// Three goroutines in turn are rescued, each at a lock of its own. Prints what stderr was told.
fn first_rescue(told: &mut UnixStream, quiet: bool) {
    gopark::run(|| {
        // All at once, since an address that is used again is known already.
        let locks = [(); 3].map(|()| Arc::new(Mutex::new(())));
        for lock in &locks {
            let before = metrics().rescues;
            let (unlock, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let (theirs, may, leave) = (lock.clone(), unlock.clone(), gate.clone());
            let holder = go(move || {
                set_name("holder");
                let guard = theirs.lock().unwrap();
                may.notified();
                drop(guard);
                leave.notified();
            });
            until("it is held", || lock.try_lock().is_err());
            let (theirs, leave) = (lock.clone(), gate.clone());
            let waiter = waits("waiter", PARKED, move || {
                drop(theirs.lock().unwrap());
                leave.notified();
            });
            assert!(metrics().rescues > before);
            unlock.notify_one();
            // Both live while sysmon looks up their names, before the next rescue.
            until("both have had the lock", || {
                state_of("waiter").starts_with("notify")
            });
            gate.notify_one();
            gate.notify_one();
            [holder, waiter].into_iter().for_each(join);
        }
    });
    let mut text = String::new();
    if !quiet {
        BufReader::new(&*told).read_line(&mut text).unwrap();
    }
    told.set_nonblocking(true).unwrap();
    let rest = told.read_to_string(&mut text).unwrap_err();
    assert_eq!(rest.kind(), io::ErrorKind::WouldBlock);
    println!("{text}");
}

/// Each of two goroutines holds the lock that the other waits for.
fn crossed() {
    set_name("main");
    let locks = Arc::new([const { Mutex::new(()) }; 2]);
    let goroutines = [("first", 0), ("second", 1)].map(|(name, mine)| {
        let locks = locks.clone();
        go(move || {
            set_name(name);
            let _mine = locks[mine].lock().unwrap();
            until("both are held", || {
                locks.iter().all(|lock| lock.try_lock().is_err())
            });
            drop(locks[1 - mine].lock().unwrap());
        })
    });
    goroutines.into_iter().for_each(join);
}

/// A goroutine locks a Mutex that it has locked.
fn own() {
    set_name("main");
    let lock = Mutex::new(());
    let _guard = lock.lock().unwrap();
    drop(lock.lock());
}

/// A goroutine joins another while it holds the lock that the other waits for.
fn joins_with_its_lock() {
    set_name("main");
    let lock = Arc::new(Mutex::new(()));
    let theirs = lock.clone();
    let _guard = lock.lock().unwrap();
    join(go(move || {
        set_name("locks");
        drop(theirs.lock().unwrap());
    }));
}
