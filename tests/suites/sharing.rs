//! Which cache lines the Ms share while each does the same work on its own: a line that one M
//! writes and another touches moves between CPUs, and the more of them there are the longer that
//! takes.
//!
//! ```text
//! GOPARK_MAXPROCS=64 RUSTFLAGS="--cfg steps" \
//!     cargo test -p gopark-tests --test sharing -- --nocapture
//! ```
//!
//! One goroutine for each M is a *worker*, which does the work in rounds. Beside it a goroutine
//! yields, so that the M never sleeps. `gopark_core::steps` tells of each access to an atomic or a
//! lock of core. It does not see plain memory, which has one owner at a time, nor the atomics of
//! the standard library.
#![cfg(steps)]

use gopark::net::{TcpListener, TcpStream};
use gopark::{Builder, chan, go, go_local, yield_now};
use gopark_core::steps::{self, Access};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Read, Write};
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// As a cache sees memory.
const LINE: usize = 64;

/// How often each worker does the work before the count begins, and while it goes on.
const WARM_UP: usize = 200;
const COUNTED: usize = 200;

type Place = &'static Location<'static>;

/// How often a thread has read and written at a place.
type Accesses = HashMap<(usize, Place), [usize; 2]>;

static COUNTS: AtomicBool = AtomicBool::new(false);
static THREADS: Mutex<Vec<Arc<Mutex<Accesses>>>> = Mutex::new(Vec::new());

thread_local! {
    static MINE: Cell<Option<&'static Mutex<Accesses>>> = const { Cell::new(None) };
}

fn record(access: Access) {
    if !COUNTS.load(SeqCst) {
        return;
    }
    let mine = MINE.get().unwrap_or_else(|| {
        let mine = Arc::<Mutex<Accesses>>::default();
        THREADS.lock().unwrap().push(mine.clone());
        let mine = Box::leak(Box::new(mine));
        MINE.set(Some(mine));
        mine
    });
    let place = (access.address / LINE, access.place);
    mine.lock().unwrap().entry(place).or_default()[usize::from(access.writes)] += 1;
}

/// The places that touch lines which one thread writes and another touches, with the reads and
/// writes of all threads.
fn shared() -> BTreeMap<(&'static str, u32), [usize; 2]> {
    let threads = THREADS.lock().unwrap();
    let mut touched = HashMap::<usize, (HashSet<usize>, bool)>::new();
    for (thread, accesses) in threads.iter().enumerate() {
        for ((line, _), [_, writes]) in accesses.lock().unwrap().iter() {
            let (threads, written) = touched.entry(*line).or_default();
            threads.insert(thread);
            *written |= *writes > 0;
        }
    }
    let mut places = BTreeMap::<_, [usize; 2]>::new();
    for accesses in threads.iter() {
        for ((line, place), [reads, writes]) in accesses.lock().unwrap().drain() {
            let (threads, written) = &touched[&line];
            if threads.len() > 1 && *written {
                let sum = places.entry((place.file(), place.line())).or_default();
                sum[0] += reads;
                sum[1] += writes;
            }
        }
    }
    places
}

/// Waits for all workers.
struct Meeting {
    workers: usize,
    arrived: AtomicUsize,
}

impl Meeting {
    fn wait(&self, round: usize) {
        self.arrived.fetch_add(1, SeqCst);
        while self.arrived.load(SeqCst) < self.workers * round {
            thread::yield_now();
        }
    }
}

/// Runs `worker` on each M at once.
fn on_each_m(workers: usize, worker: impl Fn() + Clone + Send + 'static) {
    let taken = Arc::new(Mutex::new(HashSet::<ThreadId>::new()));
    let seat = move || {
        if !taken.lock().unwrap().insert(thread::current().id()) {
            return false;
        }
        // Until all threads are taken, this one is busy.
        while taken.lock().unwrap().len() < workers {
            thread::yield_now();
        }
        worker();
        true
    };
    let others: Vec<_> = (1..workers).map(|_| go(seat.clone())).collect();
    assert!(seat());
    for other in others {
        assert!(other.join().unwrap(), "two workers are on one thread");
    }
}

/// Counts the shared accesses of one kind of work. `prepare` makes a worker's work.
fn measure<W: FnMut() + 'static>(name: &str, prepare: fn() -> W) -> f64 {
    let workers = gopark::max_procs();
    let meeting = Arc::new(Meeting {
        workers,
        arrived: AtomicUsize::new(0),
    });
    on_each_m(workers, move || {
        let mut work = prepare();
        let ends = Arc::new(AtomicBool::new(false));
        let theirs = ends.clone();
        let awake = go_local(move || {
            while !theirs.load(SeqCst) {
                yield_now();
            }
        });
        (0..WARM_UP).for_each(|_| work());
        meeting.wait(1);
        COUNTS.store(true, SeqCst);
        meeting.wait(2);
        (0..COUNTED).for_each(|_| work());
        meeting.wait(3);
        COUNTS.store(false, SeqCst);
        meeting.wait(4);
        ends.store(true, SeqCst);
        awake.join().unwrap();
    });
    let operations = (workers * COUNTED) as f64;
    println!("{name}, {workers} Ms: reads and writes of shared lines for each operation");
    let mut sum = 0.0;
    for ((file, line), [reads, writes]) in shared() {
        let [reads, writes] = [reads, writes].map(|count| count as f64 / operations);
        println!("  {file}:{line}: {reads:.3} {writes:.3}");
        sum += writes;
    }
    println!("  in all {sum:.3} writes");
    sum
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn echo() -> impl FnMut() {
    let (mut client, mut server) = pair();
    go_local(move || {
        let mut buffer = [0; 64];
        while let Ok(n @ 1..) = server.read(&mut buffer) {
            server.write_all(&buffer[..n]).unwrap();
        }
    });
    let mut buffer = [0; 64];
    move || {
        client.write_all(&buffer).unwrap();
        client.read_exact(&mut buffer).unwrap();
    }
}

fn deadline() -> impl FnMut() {
    let (client, _server) = pair();
    move || {
        let limit = Instant::now() + Duration::from_secs(5);
        client.set_read_deadline(Some(limit)).unwrap();
    }
}

fn spawn() -> impl FnMut() {
    || go_local(|| ()).join().unwrap()
}

fn channel() -> impl FnMut() {
    let (sender, receiver) = chan::bounded(0);
    go_local(move || receiver.iter().for_each(drop));
    move || sender.send(()).unwrap()
}

fn timer() -> impl FnMut() {
    || gopark::sleep(Duration::from_nanos(1))
}

fn accept() -> impl FnMut() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    move || {
        let client = TcpStream::connect(addr).unwrap();
        drop((client, listener.accept().unwrap()));
    }
}

#[test]
fn work_on_one_m_writes_no_line_that_another_touches() {
    // Sysmon would give the P of a busy thread to another M.
    Builder::new().sysmon(false).start().unwrap();
    steps::watch(record);
    gopark::run(|| {
        assert_eq!(measure("an echo", echo), 0.0);
        assert_eq!(measure("a deadline", deadline), 0.0);
        assert_eq!(measure("a value through a channel", channel), 0.0);
        assert_eq!(measure("a sleep", timer), 0.0);
        assert_eq!(measure("a connection", accept), 0.0);
        // Its number: Ms take them in blocks of 16.
        let goroutine = measure("a goroutine", spawn);
        assert!((0.01..0.1).contains(&goroutine), "{goroutine}");
    });
}
