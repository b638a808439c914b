//! Programs that go wrong, and gopark's reports about them: `suites/watched.rs` runs them by name
//! and reads the reports. `crowd` is a hundred thousand goroutines, one for each way to wait in
//! turn, and a dump of them.
#![allow(unsafe_code, reason = "a signal is raised through libc")]

use gopark::net::{TcpListener, TcpStream};
use gopark::{Builder, JoinHandle, go, set_name, sleep};
use gopark_core::sched::Sched;
use gopark_core::semaphore::RawSemaphore;
use gopark_tests::{Dice, join, until};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

fn main() {
    let program = std::env::args().nth(1).expect("the name of a program");
    match program.as_str() {
        "deadlock" => deadlock(),
        "deadlock-of-a-thread" => deadlock_of_a_thread(),
        "deadlock-of-a-thread-later" => deadlock_of_a_thread_later(),
        "rescue" => rescue(),
        "abandoned" => abandoned(),
        "asleep" => asleep(),
        "asleep-for-ever" => asleep_for_ever(),
        "stall" => stall(),
        "stall-callback" => stall_callback(),
        "no-more-threads" => no_more_threads(),
        "pool-used-up" => pool_used_up(),
        "leaked" => leaked(),
        "stuck" => stuck(),
        "shrinks" => shrinks(),
        "shrinks-at-all-times" => shrinks_at_all_times(std::env::args().nth(2).is_some()),
        "crowd" => crowd(
            std::env::args()
                .nth(2)
                .map_or(100_000, |count| count.parse().expect("a number")),
        ),
        _ => panic!("there is no program {program}"),
    }
}

type Sema = RawSemaphore<&'static Sched>;

/// Waits for a permit that only others could release.
fn wait_for(permit: &Sema) {
    permit.acquire(1);
}

fn deadlock() {
    gopark::run(|| {
        set_name("main");
        // First everything that can end does so: timers, work on other threads, a connection.
        sleep(Duration::from_millis(20));
        gopark::blocking(|| thread::sleep(Duration::from_millis(20)));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        drop((listener.accept().unwrap(), client, listener));
        let other = go(|| {
            set_name("other");
            wait_for(&RawSemaphore::new(0, gopark::scheduler()));
        });
        join(other);
    });
}

fn deadlock_of_a_thread() {
    wait_for(&RawSemaphore::new(0, gopark::scheduler()));
}

/// It begins to wait after everything else has slept for long.
fn deadlock_of_a_thread_later() {
    Builder::new().max_procs(1).start().unwrap();
    thread::sleep(Duration::from_millis(500));
    wait_for(&RawSemaphore::new(0, gopark::scheduler()));
}

/// All goroutines are asleep, but a thread is not.
fn rescue() {
    let permit = Arc::new(RawSemaphore::new(0, gopark::scheduler()));
    let theirs = permit.clone();
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(500));
        theirs.release(1);
    });
    gopark::run(|| wait_for(&permit));
    println!("rescued");
}

/// The thread that could have woken the goroutine ends.
fn abandoned() {
    let permit = RawSemaphore::new(0, gopark::scheduler());
    let thread = thread::spawn(|| thread::sleep(Duration::from_millis(300)));
    gopark::run(|| wait_for(&permit));
    thread.join().unwrap();
}

/// No deadlock: each of these ends by itself, or could be ended from outside.
fn asleep() {
    gopark::run(|| sleep(Duration::from_millis(300)));
    gopark::run(|| gopark::blocking(|| thread::sleep(Duration::from_millis(300))));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener
        .set_deadline(Some(Instant::now() + Duration::from_millis(300)))
        .unwrap();
    assert!(listener.accept().is_err());
    gopark::run(|| thread::sleep(Duration::from_millis(300)));
    println!("awake");
}

/// Time for several reports of a deadlock before the alarm.
fn asleep_for_ever() {
    // SAFETY: no memory is passed.
    unsafe { libc::alarm(2) };
    gopark::run(|| sleep(Duration::MAX));
}

fn stall() {
    Builder::new()
        .max_procs(2)
        .stall_after(Duration::from_millis(60))
        .start()
        .unwrap();
    gopark::run(|| {
        let sleeper = go(|| {
            set_name("sleeper");
            // Bound to the same thread, started, and runnable: they wait for the thread.
            let neighbours = [(); 3].map(|()| gopark::go_local(gopark::yield_now));
            gopark::yield_now();
            thread::sleep(Duration::from_millis(200));
            neighbours.into_iter().for_each(join);
        });
        join(sleeper);
        let worker = go(|| {
            set_name("worker");
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(200) {
                std::hint::spin_loop();
            }
        });
        join(worker);
    });
}

fn stall_callback() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let on_stall = move |stall: &gopark::Stall| tell.lock().unwrap().send(stall.clone()).unwrap();
    Builder::new()
        .max_procs(1)
        .stall_after(Duration::from_millis(30))
        .on_stall(on_stall)
        .start()
        .unwrap();
    let id = gopark::run(|| {
        let slow = go(|| thread::sleep(Duration::from_millis(100)));
        let id = slow.id();
        join(slow);
        id
    });
    let stall = told.recv().unwrap();
    assert_eq!(
        (stall.id(), stall.name(), stall.system_call().is_some()),
        (id, None, true)
    );
    assert!(
        stall.site().file().ends_with("watched.rs") && stall.lasts() >= Duration::from_millis(30),
        "{stall}"
    );
    println!("told once: {}", told.try_recv().is_err());
}

fn no_more_threads() {
    Builder::new().max_procs(1).max_threads(2).start().unwrap();
    gopark::run(|| {
        // Two block both threads; the last one waits.
        let busy = [(); 3].map(|()| go(|| thread::sleep(Duration::from_millis(100))));
        busy.into_iter().for_each(join);
        join(go(|| ()));
    });
    println!("done");
}

/// Five calls share two threads. The first two return when the pool was reported, or after the time
/// in which the report should appear.
fn pool_used_up() {
    Builder::new().max_procs(1).max_threads(2).start().unwrap();
    gopark::run(|| {
        let calls = [(); 5]
            .map(|()| go(|| gopark::blocking(|| thread::sleep(Duration::from_millis(1500)))));
        calls.into_iter().for_each(join);
    });
    println!("done");
}

/// Goroutines that nothing can ever wake, while the program goes on.
fn leaked() {
    gopark::run(|| {
        let permit: &'static Sema = Box::leak(Box::new(RawSemaphore::new(0, gopark::scheduler())));
        for _ in 0..3 {
            drop(go(|| wait_for(permit)));
        }
        until("they wait", || dumped().matches("semacquire").count() == 3);
        print!("{}", dumped());
    });
}

fn dumped() -> String {
    let mut text = Vec::new();
    gopark::dump(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// All threads are busy when a signal arrives.
fn stuck() {
    Builder::new()
        .max_procs(2)
        .max_threads(2)
        .dump_on(libc::SIGUSR1)
        .start()
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let running = Arc::new(AtomicUsize::new(0));
    let busy = [(); 2].map(|()| {
        let (stop, running) = (stop.clone(), running.clone());
        go(move || {
            set_name("busy");
            running.fetch_add(1, SeqCst);
            while !stop.load(SeqCst) {
                std::hint::spin_loop();
            }
        })
    });
    until("both run", || running.load(SeqCst) == 2);
    let waiting = go(|| ());
    // SAFETY: a handler for it is installed.
    unsafe { libc::raise(libc::SIGUSR1) };
    // The dump comes from another thread. The test that reads it ends this program.
    thread::sleep(Duration::from_secs(1));
    stop.store(true, SeqCst);
    busy.into_iter().chain([waiting]).for_each(join);
}

/// Fills `frames` frames with `mark`, calls `f` below them, and checks that they are unchanged.
fn deep<T>(frames: usize, mark: u8, f: &mut dyn FnMut() -> T) -> T {
    let frame = black_box([mark; 512]);
    let result = match frames {
        0 => f(),
        _ => deep(frames - 1, mark, f),
    };
    assert!(
        black_box(frame).iter().all(|&byte| byte == mark),
        "a stack has lost what was on it"
    );
    result
}

/// Bytes of resident memory of this process.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = pages.split(' ').nth(1).unwrap().parse().unwrap();
    // SAFETY: no memory is passed.
    pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize
}

fn shrinks() {
    const GOROUTINES: usize = 600;
    // 110 KiB without optimisation.
    const DEEP: usize = 45;
    // Stacks that two Ps keep for themselves, and as many again for everything else.
    const CACHED: usize = 128 + 128;
    Builder::new()
        .max_procs(2)
        .shrink_stacks(Duration::from_millis(20), Duration::from_millis(10))
        .start()
        .unwrap();
    let permit = Arc::new(RawSemaphore::new(0, gopark::scheduler()));
    let before = resident();
    let ready = Arc::new(AtomicUsize::new(0));
    let waiting: Vec<_> = (0..GOROUTINES)
        .map(|index| {
            let (permit, ready) = (permit.clone(), ready.clone());
            go(move || {
                deep(10, index as u8, &mut || {
                    deep(DEEP, !(index as u8), &mut || ready.fetch_add(1, SeqCst));
                    wait_for(&permit);
                    deep(DEEP, index as u8, &mut || ());
                });
            })
        })
        .collect();
    until("all have been deep down", || {
        ready.load(SeqCst) == GOROUTINES
    });
    until("what they touched is given back", || {
        resident() < before + GOROUTINES * 50 * 1024
    });
    permit.release(GOROUTINES);
    waiting.into_iter().for_each(join);
    until("free stacks are given back", || {
        resident() < before + CACHED * 120 * 1024
    });
}

/// Goroutines that come and go while free stacks shrink all the time.
fn shrinks_at_all_times(migrate: bool) {
    let settings = Builder::new()
        .max_procs(2)
        .shrink_stacks(Duration::from_nanos(1), Duration::from_nanos(1));
    let settings = if migrate {
        // SAFETY: no goroutine here keeps anything bound to a thread.
        unsafe { settings.migrate() }
    } else {
        settings
    };
    settings.start().unwrap();
    let goroutines = 100;
    let naps = gopark_tests::rounds(20_000) / goroutines;
    let goroutines: Vec<_> = (0..goroutines)
        .map(|seed| {
            go(move || {
                let dice = Dice::new(seed);
                for _ in 0..naps {
                    let nap = Duration::from_micros(dice.below(1500));
                    deep(dice.below(40) as usize, seed as u8, &mut || sleep(nap));
                }
            })
        })
        .collect();
    goroutines.into_iter().for_each(join);
}

/// Goroutines that wait in every way, a dump of them, and their end: the dump has disturbed none.
fn crowd(count: usize) {
    Builder::new().max_procs(2).start().unwrap();
    gopark::run(|| {
        let (sleepers, joiners, readers, writers, blocked) =
            (count * 2 / 5, count / 5, count / 250, 20, count / 50);
        let queued = count - sleepers - joiners - readers - writers - blocked;
        let end = Instant::now() + Duration::from_secs(10);
        let mut sleeping: Vec<_> = (0..sleepers)
            .map(|_| go(move || gopark::sleep_until(end)))
            .collect();
        let mut waiting: Vec<JoinHandle<()>> = sleeping
            .drain(..joiners)
            .map(|sleeper| go(move || join(sleeper)))
            .collect();

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peers = Vec::new();
        for index in 0..readers + writers {
            let mut connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            peers.push(listener.accept().unwrap().0);
            waiting.push(go(move || match index < readers {
                true => assert_eq!(connection.read(&mut [0; 8]).unwrap(), 0),
                // More than the system buffers. The write fails when the peer closes.
                false => assert!(connection.write_all(&vec![0; 64 << 20]).is_err()),
            }));
        }

        let gate = Arc::new(Mutex::new(()));
        let shut = gate.lock().unwrap();
        for _ in 0..blocked {
            let gate = gate.clone();
            waiting.push(go(move || gopark::blocking(|| drop(gate.lock()))));
        }
        let permit = Arc::new(RawSemaphore::new(0, gopark::scheduler()));
        for _ in 0..queued {
            let permit = permit.clone();
            waiting.push(go(move || wait_for(&permit)));
        }
        let expected = [
            ("sleep", sleepers),
            ("join", joiners),
            ("IO wait", readers + writers),
            ("blocking", blocked),
            ("semacquire", queued),
        ];
        let expected: BTreeMap<_, _> = expected
            .map(|(reason, count)| (reason.to_owned(), count))
            .into();
        let mut dump = (Duration::ZERO, String::new());
        until("all wait", || {
            let start = Instant::now();
            let text = dumped();
            dump = (start.elapsed(), text);
            states(&dump.1) == expected
        });
        println!(
            "{count} goroutines dumped in {} ms, {} bytes",
            dump.0.as_millis(),
            dump.1.len()
        );

        drop((peers, shut));
        permit.release(count);
        waiting.into_iter().chain(sleeping).for_each(join);
        println!("all have ended");
    });
}

/// How many goroutines of a dump are in each state, without this one.
fn states(dump: &str) -> BTreeMap<String, usize> {
    let mut states = BTreeMap::new();
    for line in dump
        .lines()
        .filter(|line| line.starts_with("goroutine ") && !line.contains("[running"))
    {
        let state = line.split_once('[').unwrap().1;
        let state = state.split_once([',', ']']).unwrap().0;
        *states.entry(state.to_owned()).or_default() += 1;
    }
    states
}
