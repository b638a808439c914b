//! Channels in a process of their own: before the runtime starts, and with an allocator that
//! counts. `suites/channels.rs` runs the programs by name.
#![allow(unsafe_code, reason = "an allocator is an unsafe trait")]

use gopark::chan::{self, Receiver, Sender};
use gopark::{Builder, Select, go, go_local, num_goroutines, select};
use gopark_tests::{join, thread_names, until_on_thread};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

fn main() {
    let program = std::env::args().nth(1).expect("the name of a program");
    match program.as_str() {
        "before-start" => before_start(),
        "static" => in_static(),
        "burst" => burst(),
        "steady" => steady(),
        "waits" => waits(),
        _ => panic!("there is no program {program}"),
    }
}

/// Bytes that are allocated now.
static BYTES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Allocations that this thread has made.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), SeqCst);
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Fails if a call of `f` allocates on this thread. The first call may.
#[track_caller]
fn assert_no_allocation(what: &str, mut f: impl FnMut()) {
    f();
    let before = ALLOCATIONS.get();
    f();
    assert_eq!(ALLOCATIONS.get() - before, 0, "{what}");
}

/// Whether the runtime has started.
fn has_started() -> bool {
    thread_names().iter().any(|name| name.starts_with("gopark"))
}

fn before_start() {
    let (sender, receiver) = chan::bounded(10);
    (0..10).for_each(|i| sender.send(i).unwrap());
    assert!(sender.try_send(10).is_err() && receiver.is_full());
    assert_eq!(receiver.recv(), Ok(0));
    sender.send_timeout(10, Duration::from_secs(1)).unwrap();
    let (endless, values) = chan::unbounded();
    (0..100).for_each(|i| endless.send(i).unwrap());
    drop(endless);
    assert!(values.iter().eq(0..100));
    let (closed, end) = chan::bounded(0);
    assert!(closed.try_send(()).unwrap_err().is_full() && end.close());
    assert!(closed.send(()).is_err() && end.recv().is_err());
    assert!(!has_started() && num_goroutines() == 0);
    // A wait on an ordinary thread starts the runtime. Its partner may be a goroutine.
    let waits = thread::spawn(move || receiver.iter().sum::<i32>());
    until_on_thread("the runtime has started", has_started);
    gopark::run(move || sender.send(100).unwrap());
    assert_eq!(waits.join().unwrap(), 155);
}

fn in_static() {
    static EVENTS: LazyLock<(Sender<usize>, Receiver<usize>)> = LazyLock::new(|| chan::bounded(1));

    EVENTS.0.send(0).unwrap();
    let threads = [1, 2].map(|i| thread::spawn(move || EVENTS.0.send(i).unwrap()));
    let sum = gopark::run(|| {
        let sends = go(|| EVENTS.0.send(3).unwrap());
        let sum: usize = EVENTS.1.iter().take(4).sum();
        join(sends);
        sum
    });
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    assert_eq!(sum, 6);
}

fn burst() {
    let before = BYTES.load(SeqCst);
    let used = || BYTES.load(SeqCst) - before;
    let (sender, receiver) = chan::unbounded();
    let (large, larges) = chan::unbounded();
    // A few blocks of each channel stay for the next burst.
    let few = used() + 6 * 8192 + 6 * 512;
    for _ in 0..3 {
        (0..100_000u64).for_each(|i| sender.send(i).unwrap());
        (0..1000u64).for_each(|i| large.send([i; 512]).unwrap());
        assert!(used() > 800_000 + 4_096_000);
        assert!(receiver.iter().take(100_000).eq(0..100_000));
        assert!(larges.iter().take(1000).all(|value| value[0] == value[511]));
        assert!(used() < few, "{} bytes are still in use", used());
    }
    (0..1000).for_each(|i| sender.send(i).unwrap());
    drop((sender, large, larges));
    drop(receiver);
    assert_eq!(used(), 0);
    // A bounded channel takes memory as it fills.
    let (sender, receiver) = chan::bounded::<[u64; 512]>(1_000_000);
    assert!(used() < 1024);
    sender.send([1; 512]).unwrap();
    assert!(used() < 16 * 1024);
    drop((sender, receiver));
    assert_eq!(used(), 0);
}

fn steady() {
    for capacity in [1, 100, 1000, usize::MAX] {
        let (sender, receiver) = chan::bounded(capacity);
        let burst = capacity.min(64);
        assert_no_allocation("bursts", || {
            for round in 0..1000 {
                (0..burst).for_each(|i| sender.send(round + i).unwrap());
                (0..burst).for_each(|i| assert_eq!(receiver.recv(), Ok(round + i)));
            }
        });
        if capacity > 1 {
            sender.send(0).unwrap();
            assert_no_allocation("a channel that is never empty", || {
                for i in 0..10_000 {
                    sender.send(i).unwrap();
                    receiver.recv().unwrap();
                }
            });
        }
    }
}

/// All goroutines stay on one thread, whose allocations are counted.
fn waits() {
    Builder::new().max_procs(1).start().unwrap();
    gopark::run(|| {
        // The first timer makes room for others. Whether a select below waits, and needs one, can
        // change between two rounds: sysmon ends turns.
        gopark::sleep(Duration::from_millis(1));
        let (there, from_there) = chan::bounded(0);
        let (back, from_back) = chan::bounded(0);
        let (_keep, never) = chan::bounded::<u8>(0);
        let nevers = never.clone();
        let echoes = go_local(move || {
            loop {
                select! {
                    recv(from_there) -> value => match value {
                        Ok(value) => back.send(value).unwrap(),
                        Err(_) => break,
                    },
                    recv(nevers) -> _ => {}
                    default(Duration::from_secs(100)) => {}
                }
            }
        });
        assert_no_allocation("a rendezvous", || {
            for i in 0..1000 {
                there.send(i).unwrap();
                assert_eq!(from_back.recv(), Ok(i));
            }
        });
        assert_no_allocation("a wait with a limit", || {
            for i in 0..100 {
                there.send_timeout(i, Duration::from_secs(100)).unwrap();
                let limit = Instant::now() + Duration::from_secs(100);
                assert_eq!(from_back.recv_deadline(limit), Ok(i));
                assert!(never.recv_timeout(Duration::from_micros(10)).is_err());
            }
        });
        assert_no_allocation("a select with eight arms", || {
            for i in 0..1000 {
                there.send(i).unwrap();
                select! {
                    recv(never) -> _ => {}
                    recv(never) -> _ => {}
                    recv(never) -> _ => {}
                    recv(never) -> _ => {}
                    recv(never) -> _ => {}
                    recv(never) -> _ => {}
                    recv(never) -> _ => {}
                    recv(from_back) -> value => assert_eq!(value, Ok(i)),
                }
            }
        });
        drop(there);
        join(echoes);
        let mut select = Select::new();
        select.recv(&from_back, |value| value.is_err());
        assert!(select.wait());
    });
}
