//! A program that was written for threads, in parts. Each exercises other things of `std::thread`
//! and `std::sync`, prints what has come out, and to stderr, how long it took.
//!
//! ```text
//! cargo run --release --example parts [-- SCALE [PART]]
//! ```
//!
//! The port to goroutines changed only the `use` lines of `gopark` below. They named `std`, and the
//! first was not there. A test also compiles this file with the names of `std`, calls its `main`,
//! and compares what both programs print.

use gopark::goroutine_local as thread_local;
use gopark::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use gopark::sync::{Arc, Barrier, Condvar, LazyLock, Mutex, Once, OnceLock, RwLock, mpsc};
use gopark::thread::{self, Builder, JoinHandle, Thread};
use std::cell::Cell;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

const WORKERS: usize = 8;

/// A part gets the scale of its work, and returns what has come out.
type Part = fn(usize) -> String;

const PARTS: [(&str, Part); 9] = [
    ("life", life),
    ("pipeline", pipeline),
    ("pool", pool),
    ("bank", bank),
    ("relay", relay),
    ("crowd", crowd),
    ("once", once),
    ("limits", limits),
    ("panics", panics),
];

pub(crate) fn main() {
    let mut args = std::env::args().skip(1);
    let scale = args
        .next()
        .map_or(1, |scale| scale.parse().expect("a number"));
    let only = args.next();
    for (name, part) in PARTS {
        if only.as_ref().is_none_or(|only| only == name) {
            let start = Instant::now();
            println!("{name}: {}", part(scale));
            eprintln!("{name} took {} us", start.elapsed().as_micros());
        }
    }
}

/// Conway's game of life on a torus. Each worker has some rows, and all meet after a generation.
fn life(scale: usize) -> String {
    const SIDE: usize = 8 * WORKERS;
    let board = || Vec::from_iter((0..SIDE * SIDE).map(|i| AtomicBool::new(i * i % 101 % 3 == 0)));
    let boards = [board(), board()];
    let (barrier, generations) = (Barrier::new(WORKERS), AtomicUsize::new(0));
    thread::scope(|s| {
        for worker in 0..WORKERS {
            let (boards, barrier, generations) = (&boards, &barrier, &generations);
            s.spawn(move || {
                for generation in 0..200 * scale {
                    let (now, next) = (&boards[generation % 2], &boards[(generation + 1) % 2]);
                    for cell in (0..SIDE * SIDE).filter(|cell| cell / SIDE % WORKERS == worker) {
                        next[cell].store(lives(now, SIDE, cell), Relaxed);
                    }
                    if barrier.wait().is_leader() {
                        generations.fetch_add(1, Relaxed);
                    }
                }
            });
        }
    });
    let alive = boards[0].iter().filter(|cell| cell.load(Relaxed)).count();
    format!("{alive} cells after {generations:?} generations")
}

/// Whether a cell lives in the next generation.
fn lives(cells: &[AtomicBool], side: usize, cell: usize) -> bool {
    let (row, column) = (cell / side, cell % side);
    let mut neighbours = 0;
    for (down, right) in [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 2),
        (2, 0),
        (2, 1),
        (2, 2),
    ] {
        let row = (row + side + down - 1) % side;
        let column = (column + side + right - 1) % side;
        neighbours += usize::from(cells[row * side + column].load(Relaxed));
    }
    neighbours == 3 || neighbours == 2 && cells[cell].load(Relaxed)
}

thread_local! {
    static PARSED: Cell<usize> = Cell::new(0);
}

/// Lines go through a bounded channel to named parsers, and numbers through another to the caller.
fn pipeline(scale: usize) -> String {
    let (lines, to_parse) = mpsc::sync_channel::<String>(16);
    let to_parse = Arc::new(Mutex::new(to_parse));
    let (numbers, parsed) = mpsc::channel();
    let parsers: Vec<JoinHandle<(String, usize)>> = (0..WORKERS)
        .map(|worker| {
            let (to_parse, numbers) = (to_parse.clone(), numbers.clone());
            let settings = Builder::new().name(format!("parser {worker}"));
            let parser = settings.stack_size(128 << 10).spawn(move || {
                loop {
                    // The others wait for the lock while one waits for a line.
                    let line = to_parse.lock().unwrap().recv();
                    let Ok(line) = line else { break };
                    let number: usize = line.split(' ').map(|n| n.parse::<usize>().unwrap()).sum();
                    PARSED.set(PARSED.get() + 1);
                    numbers.send(number).unwrap();
                }
                (thread::current().name().unwrap().to_owned(), PARSED.get())
            });
            parser.unwrap()
        })
        .collect();
    drop(numbers);
    let writer = thread::spawn(move || {
        for i in 0..10_000 * scale {
            lines.send(format!("{i} {} {}", i * i, i % 7)).unwrap();
        }
    });
    let total: usize = parsed.iter().sum();
    writer.join().unwrap();
    let parsers = Vec::from_iter(parsers.into_iter().map(|parser| parser.join().unwrap()));
    let lines: usize = parsers.iter().map(|(_, lines)| lines).sum();
    let names = BTreeSet::from_iter(parsers.into_iter().map(|(name, _)| name));
    format!(
        "{total} from {lines} lines by {names:?}, and {} by the caller",
        PARSED.get()
    )
}

type Job = Box<dyn FnOnce() + Send>;

/// A queue of jobs, as in a textbook.
#[derive(Default)]
struct Jobs {
    queue: Mutex<(VecDeque<Job>, bool)>,
    changed: Condvar,
}

impl Jobs {
    fn push(&self, job: Job) {
        self.queue.lock().unwrap().0.push_back(job);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.queue.lock().unwrap().1 = true;
        self.changed.notify_all();
    }

    fn work(&self) {
        loop {
            let queue = self.queue.lock().unwrap();
            let waits = |queue: &mut (VecDeque<Job>, bool)| queue.0.is_empty() && !queue.1;
            let job = self.changed.wait_while(queue, waits).unwrap().0.pop_front();
            let Some(job) = job else { return };
            job();
        }
    }
}

/// A value that another thread makes. Its owner parks until then.
struct Promise<T> {
    value: Mutex<Option<T>>,
    owner: Thread,
}

impl<T> Promise<T> {
    fn new() -> Arc<Self> {
        let (value, owner) = (Mutex::new(None), thread::current());
        Arc::new(Promise { value, owner })
    }

    fn keep(&self, value: T) {
        *self.value.lock().unwrap() = Some(value);
        self.owner.unpark();
    }

    fn wait(&self) -> T {
        loop {
            if let Some(value) = self.value.lock().unwrap().take() {
                return value;
            }
            thread::park();
        }
    }
}

/// The clients of a pool wait for each of their jobs: lengths of Collatz's sequences.
fn pool(scale: usize) -> String {
    let jobs = Arc::new(Jobs::default());
    let lengths = Arc::new(RwLock::new(HashMap::new()));
    let workers: [_; WORKERS] = std::array::from_fn(|_| {
        let jobs = jobs.clone();
        thread::spawn(move || jobs.work())
    });
    let longest = thread::scope(|s| {
        let clients: [_; 4] = std::array::from_fn(|client| {
            let (jobs, lengths) = (&jobs, &lengths);
            let ask = move |start| {
                let promise = Promise::new();
                let (lengths, theirs) = (lengths.clone(), promise.clone());
                jobs.push(Box::new(move || {
                    theirs.keep((collatz(&lengths, start), start))
                }));
                promise.wait()
            };
            s.spawn(move || (client + 1..4_000 * scale).step_by(4).map(ask).max())
        });
        let longest = clients.map(|client| client.join().unwrap());
        longest.into_iter().max().unwrap().unwrap()
    });
    jobs.close();
    for worker in workers {
        worker.join().unwrap();
    }
    let known = lengths.read().unwrap().len();
    format!("the longest is {longest:?}, and {known} lengths are known")
}

fn collatz(lengths: &RwLock<HashMap<usize, usize>>, start: usize) -> usize {
    if start == 1 {
        return 0;
    }
    if let Some(&length) = lengths.read().unwrap().get(&start) {
        return length;
    }
    let next = if start % 2 == 0 {
        start / 2
    } else {
        3 * start + 1
    };
    let length = collatz(lengths, next) + 1;
    lengths.write().unwrap().insert(start, length);
    length
}

/// Transfers between accounts, and audits while no transfer is going on.
fn bank(scale: usize) -> String {
    let accounts: [_; 16] = std::array::from_fn(|_| Mutex::new(1_000_000_i64));
    let (open, audits) = (RwLock::new(()), Mutex::new(Vec::new()));
    thread::scope(|s| {
        for worker in 0..WORKERS {
            let (accounts, open, audits) = (&accounts, &open, &audits);
            s.spawn(move || {
                let mut random = worker;
                for i in 0..5_000 * scale {
                    random = random
                        .wrapping_mul(6364136223846793005)
                        .wrapping_add(1442695040888963407);
                    let (from, to) = (random >> 60, random >> 56 & 15);
                    if i % 500 == worker {
                        let _closed = open.write().unwrap();
                        let total = accounts.iter().map(|it| *it.lock().unwrap()).sum::<i64>();
                        audits.lock().unwrap().push(total);
                    } else if from != to {
                        let _open = open.read().unwrap();
                        // All lock the lower number first.
                        let mut low = accounts[from.min(to)].lock().unwrap();
                        let mut high = accounts[from.max(to)].lock().unwrap();
                        *low -= worker as i64;
                        *high += worker as i64;
                    }
                }
            });
        }
    });
    let audits = audits.into_inner().unwrap();
    let totals = BTreeSet::from_iter(&audits);
    format!("{} audits found {totals:?}", audits.len())
}

/// A token goes round a ring. Each that gets it unparks the next one.
fn relay(scale: usize) -> String {
    let (turn, ring) = (AtomicUsize::new(0), OnceLock::<Vec<Thread>>::new());
    let start = Barrier::new(WORKERS + 1);
    thread::scope(|s| {
        let runners = Vec::from_iter((0..WORKERS).map(|runner| {
            let (turn, ring, start) = (&turn, &ring, &start);
            s.spawn(move || {
                start.wait();
                let next = &ring.get().unwrap()[(runner + 1) % WORKERS];
                for _ in 0..1_000 * scale {
                    while turn.load(SeqCst) % WORKERS != runner {
                        thread::park();
                    }
                    turn.fetch_add(1, SeqCst);
                    next.unpark();
                }
            })
        }));
        let threads = runners
            .iter()
            .map(|runner| runner.thread().clone())
            .collect();
        ring.set(threads).unwrap();
        start.wait();
    });
    format!("{turn:?} turns")
}

/// Many short lives.
fn crowd(scale: usize) -> String {
    let mut numbers: Vec<usize> = (0..100).collect();
    for _ in 0..20 * scale {
        thread::scope(|s| {
            for number in &mut numbers {
                s.spawn(|| *number = (*number * 31 + 7) % 1009);
            }
        });
    }
    format!("the sum is {}", numbers.iter().sum::<usize>())
}

static LATE: LazyLock<usize> = LazyLock::new(|| {
    thread::sleep(Duration::from_millis(2));
    INITIALIZED.fetch_add(1, SeqCst)
});
static INITIALIZED: AtomicUsize = AtomicUsize::new(1);

fn once(_: usize) -> String {
    let (once, cell) = (Once::new(), OnceLock::new());
    let seen = Mutex::new(BTreeSet::new());
    thread::scope(|s| {
        for _ in 0..WORKERS {
            s.spawn(|| {
                once.call_once(thread::yield_now);
                let first = cell.get_or_init(|| thread::current().id());
                seen.lock()
                    .unwrap()
                    .insert((*LATE, first == cell.get().unwrap()));
            });
        }
    });
    format!(
        "{:?} is seen, and {INITIALIZED:?} is next",
        seen.into_inner().unwrap()
    )
}

/// Waits with a limit for what does not come.
fn limits(_: usize) -> String {
    let start = Instant::now();
    let limit = Duration::from_millis(2);
    let (_sender, receiver) = mpsc::channel::<u8>();
    let received = receiver.recv_timeout(limit);
    let (lock, changed) = (Mutex::new(7), Condvar::new());
    let (guard, waited) = changed
        .wait_timeout_while(lock.lock().unwrap(), limit, |_| true)
        .unwrap();
    thread::park_timeout(limit);
    thread::sleep(limit);
    let in_time = start.elapsed() >= 3 * limit;
    format!(
        "{received:?}, {}, {}, {in_time}",
        waited.timed_out(),
        *guard
    )
}

/// Panics come out of joins and scopes, and poison locks.
fn panics(_: usize) -> String {
    let (lock, table) = (Mutex::new(1), RwLock::new(2));
    let fail = || -> u8 { panic::resume_unwind(Box::new("no luck")) };
    let joined = thread::scope(|s| {
        let (lock, table) = (&lock, &table);
        let holder = s.spawn(move || {
            let _guards = (lock.lock().unwrap(), table.write().unwrap());
            fail()
        });
        holder.join().unwrap_err().downcast_ref::<&str>().copied()
    });
    let scope = catch_unwind(|| thread::scope(|s| _ = s.spawn(fail))).is_err();
    let detached = thread::spawn(fail).join().is_err();
    let once = Once::new();
    let first = catch_unwind(AssertUnwindSafe(|| once.call_once(|| _ = fail()))).is_err();
    once.call_once_force(|state| assert!(state.is_poisoned()));
    let kept = lock.lock().unwrap_err().into_inner();
    format!(
        "{joined:?}, {scope}, {detached}, {first}, {kept}, {}",
        table.is_poisoned()
    )
}
