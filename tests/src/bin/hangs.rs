//! Programs that hang because a goroutine blocks on what another goroutine of its thread holds.
//! `suites/hangs.rs` runs them by name and reads the reports.
//!
//! Goroutines that must share a thread are spawned with `go_local`. On a busy machine sysmon may
//! take the P of the spawning thread, and what `go` has spawned then starts on another one.
#![allow(
    unsafe_code,
    reason = "standard error is read, and the process ended, through libc"
)]

use gopark::net::{self, TcpListener, TcpStream};
use gopark::{Builder, StdLocks, chan, go, go_local, select, set_name, sleep, yield_now};
use gopark_core::semaphore::RawSemaphore;
use gopark_tests::{join, thread_names, until};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, LazyLock, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

fn main() {
    let program = std::env::args().nth(1).expect("the name of a program");
    match program.as_str() {
        "mutex" => hangs(1, 1, mutex),
        "channel" => hangs(1, 1, channel),
        "join" => hangs(1, 1, join_of_one_that_locks),
        "condvar" => hangs(1, 1, condvar),
        "once-lock" => hangs(1, 1, once_lock),
        "lazy-lock" => hangs(1, 1, lazy_lock),
        "main-blocks" => hangs(1, 1, main_blocks),
        "main-waits" => hangs(1, 1, main_waits),
        "late-neighbour" => hangs(1, 1, late_neighbour),
        "every-thread" => {
            blocking_locks()
                .max_procs(2)
                .max_threads(2)
                .start()
                .unwrap();
            hangs(2, 1, every_thread);
        }
        "no-spare-thread" => {
            blocking_locks()
                .max_procs(1)
                .max_threads(1)
                .start()
                .unwrap();
            hangs(1, 1, condvar);
        }
        "twice" => twice(),
        "others-go-on" => others_go_on(),
        "works" => works(),
        "dump" => dump(),
        "full-stderr" => full_stderr(),
        "deadlock-with-full-stderr" => deadlock_with_full_stderr(),
        "deadlock-over-two-channels" => deadlock_over_two_channels(),
        "deadlock-in-select" => deadlock_in_select(),
        "deadlock-with-own-sender" => deadlock_with_own_sender(),
        "deadlock-of-a-thread-in-select" => select_over_two(),
        "idle-connection" => idle_connection(),
        _ => panic!("there is no program {program}"),
    }
}

/// Runs `main`, which hangs, until `lines` lines about stalls were printed; prints them.
fn hangs(procs: usize, lines: usize, main: fn()) {
    let (reader, stderr) = UnixStream::pair().unwrap();
    // SAFETY: no memory is passed.
    let result = unsafe { libc::dup2(stderr.as_raw_fd(), libc::STDERR_FILENO) };
    assert_eq!(result, libc::STDERR_FILENO);
    // `main` may have started the runtime with settings of its own.
    let _ = blocking_locks().max_procs(procs).start();
    thread::spawn(move || gopark::run(main));
    let mut told = BufReader::new(reader)
        .lines()
        .map_while(io::Result::ok)
        .skip_while(|line| !line.contains("keeps its thread"));
    for _ in 0..lines {
        // The explanation and the remedy.
        told.by_ref().take(2).for_each(|line| println!("{line}"));
    }
    // Without a leak check: goroutines that hang keep their memory. SAFETY: ends the process.
    unsafe { libc::_exit(0) }
}

/// Waits for locks of `std` block their threads, so that programs hang.
fn blocking_locks() -> Builder {
    Builder::new().std_locks(StdLocks::Off)
}

fn connection() -> (TcpStream, std::net::TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, client)
}

/// Two goroutines log to one connection, byte by byte. Operations that do not block yield now and
/// then.
fn mutex() {
    let (stream, mut peer) = connection();
    thread::spawn(move || io::copy(&mut peer, &mut io::sink()));
    let stream = Arc::new(Mutex::new(stream));
    let loggers = [(); 2].map(|()| {
        let stream = stream.clone();
        go_local(move || {
            set_name("logger");
            let mut stream = stream.lock().unwrap();
            (0..200).for_each(|_| stream.write_all(b"x").unwrap());
        })
    });
    loggers.into_iter().for_each(join);
}

/// One goroutine reads a connection and sends what it has read to the other.
fn channel() {
    let (mut stream, mut peer) = connection();
    let (say, said) = mpsc::channel();
    let reads = go_local(move || {
        let mut byte = [0];
        while stream.read(&mut byte).unwrap() == 1 {
            say.send(byte[0]).unwrap();
        }
    });
    let writes = go_local(move || {
        set_name("writer");
        peer.write_all(b"hello").unwrap();
        said.iter().for_each(drop);
    });
    [reads, writes].into_iter().for_each(join);
}

/// One goroutine joins another while it holds the lock that the other waits for: none is runnable.
fn join_of_one_that_locks() {
    let lock = Arc::new(Mutex::new(()));
    let theirs = lock.clone();
    let _held = lock.lock().unwrap();
    join(go_local(move || {
        set_name("locks");
        drop(theirs.lock().unwrap());
    }));
}

fn condvar() {
    let shared = Arc::new((Mutex::new(false), Condvar::new()));
    let theirs = shared.clone();
    let notifies = go_local(move || {
        sleep(Duration::from_millis(10));
        *theirs.0.lock().unwrap() = true;
        theirs.1.notify_one();
    });
    until("it sleeps", || gopark::metrics().goroutines_waiting == 1);
    let ready = shared.0.lock().unwrap();
    drop(shared.1.wait_while(ready, |ready| !*ready).unwrap());
    join(notifies);
}

fn once_lock() {
    static ONCE: OnceLock<u32> = OnceLock::new();
    let init = || {
        sleep(Duration::from_millis(10));
        7
    };
    let both = [(); 2].map(|()| go_local(move || *ONCE.get_or_init(init)));
    both.into_iter()
        .for_each(|goroutine| assert_eq!(join(goroutine), 7));
}

fn lazy_lock() {
    static LAZY: LazyLock<u32> = LazyLock::new(|| {
        yield_now();
        7
    });
    let both = [(); 2].map(|()| go_local(|| *LAZY));
    both.into_iter()
        .for_each(|goroutine| assert_eq!(join(goroutine), 7));
}

/// The main goroutine blocks until a goroutine that has not started sends to it.
fn main_blocks() {
    let (tell, told) = mpsc::channel();
    set_name("main");
    let neighbour = go_local(move || tell.send(()).unwrap());
    told.recv().unwrap();
    join(neighbour);
}

/// The main goroutine is the one that waits for its thread.
fn main_waits() {
    static STARTED: AtomicBool = AtomicBool::new(false);
    drop(go_local(move || {
        set_name("blocked");
        STARTED.store(true, SeqCst);
        let (_tell, told) = mpsc::channel::<()>();
        told.recv().unwrap();
    }));
    until("it has started", || STARTED.load(SeqCst));
}

/// The waiting goroutine becomes runnable after the thread has been blocked for more than a second.
fn late_neighbour() {
    let (tell, told) = mpsc::channel();
    drop(go_local(move || {
        sleep(Duration::from_millis(1300));
        tell.send(()).unwrap();
    }));
    until("it sleeps", || gopark::metrics().goroutines_waiting == 1);
    told.recv().unwrap();
}

/// Each of two threads blocks on a lock that another of its goroutines holds: no thread runs.
fn every_thread() {
    let locks: &'static [Mutex<()>; 2] = Box::leak(Box::new([Mutex::new(()), Mutex::new(())]));
    let held = Arc::new(AtomicUsize::new(0));
    for lock in locks {
        let held = held.clone();
        drop(go(move || {
            let _guard = lock.lock().unwrap();
            held.fetch_add(1, SeqCst);
            // Without parking, so that the other one starts on another thread.
            while held.load(SeqCst) < 2 {
                thread::yield_now();
            }
            let waits = go_local(|| {
                set_name("waits");
                drop(lock.lock().unwrap());
            });
            until("it has the lock, which it never gets", || {
                waits.is_finished()
            });
        }));
    }
    sleep(Duration::from_secs(1000));
}

/// Blocks for longer than the limit: twice from one spawn site, and once from another.
fn twice() {
    Builder::new().max_procs(1).start().unwrap();
    let block = || {
        let neighbour = go_local(|| ());
        thread::sleep(Duration::from_millis(1200));
        join(neighbour);
    };
    gopark::run(move || {
        (0..2).for_each(|_| join(go(block)));
        join(go(block));
    });
    println!("done");
}

/// What must not be reported: computing, and blocking while no goroutine waits for the thread.
fn others_go_on() {
    Builder::new().max_procs(1).start().unwrap();
    let computes = go(|| {
        let neighbour = go_local(|| ());
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_millis(1200) {
            std::hint::spin_loop();
        }
        join(neighbour);
    });
    join(computes);
    let (begin, begun) = mpsc::channel();
    let blocks = go(move || {
        begin.send(()).unwrap();
        thread::sleep(Duration::from_millis(1200));
    });
    begun.recv().unwrap();
    // They start on other threads.
    (0..50).for_each(|_| join(go(yield_now)));
    join(blocks);
    // The main goroutine waits for the sleeper, and the sleeper needs nothing of it.
    gopark::run(|| join(go_local(|| thread::sleep(Duration::from_millis(1200)))));
    println!("done");
}

/// What the documentation allows between goroutines of one thread.
fn works() {
    Builder::new().max_procs(1).start().unwrap();
    gopark::run(|| {
        // A lock that is never held across a park.
        let sum = Arc::new(Mutex::new(0));
        let adders: Vec<_> = (0..10)
            .map(|_| {
                let sum = sum.clone();
                go(move || {
                    for _ in 0..200 {
                        *sum.lock().unwrap() += 1;
                        yield_now();
                    }
                })
            })
            .collect();
        adders.into_iter().for_each(join);
        assert_eq!(*sum.lock().unwrap(), 2000);

        // A std channel whose receiver waits on another thread.
        let (tell, mut told) = mpsc::channel();
        let tells = go(move || {
            sleep(Duration::from_millis(5));
            (0..100).for_each(|i| tell.send(i).unwrap());
        });
        let sum = gopark::blocking(|| {
            // A receiver cannot be shared between threads, but it can be lent to one.
            let told = &mut told;
            told.iter().sum::<u32>()
        });
        assert_eq!(sum, 4950);
        join(tells);

        // A lock that is held across parks, if all others wait for it on other threads.
        let lock = Arc::new(Mutex::new(0));
        let holders = [(); 4].map(|()| {
            let lock = lock.clone();
            go(move || {
                gopark::blocking(|| {
                    let mut held = lock.lock().unwrap();
                    sleep(Duration::from_millis(1));
                    *held += 1;
                });
            })
        });
        holders.into_iter().for_each(join);
        assert_eq!(*lock.lock().unwrap(), 4);

        // A socket between goroutines.
        let (mut stream, mut peer) = connection();
        let reads = go(move || {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            byte[0]
        });
        gopark::blocking(|| peer.write_all(b"!").unwrap());
        assert_eq!(join(reads), b'!');
    });
    println!("done");
}

/// A dump while a goroutine waits for its thread.
fn dump() {
    Builder::new().max_procs(1).reports(false).start().unwrap();
    let (release, released) = mpsc::channel::<()>();
    let logger = go(move || {
        set_name("logger");
        let neighbour = go_local(|| {
            set_name("neighbour");
            yield_now();
        });
        yield_now();
        let _ = released.recv();
        join(neighbour);
    });
    let mut text = String::new();
    until(
        "the dump names the goroutine that blocks the thread",
        || {
            let mut bytes = Vec::new();
            gopark::dump(&mut bytes).unwrap();
            text = String::from_utf8(bytes).unwrap();
            text.contains("its thread is kept by")
        },
    );
    println!("{text}");
    drop(release);
    join(logger);
    until("the dump no longer says so", || {
        let mut bytes = Vec::new();
        gopark::dump(&mut bytes).unwrap();
        !String::from_utf8(bytes)
            .unwrap()
            .contains("its thread is kept by")
    });
}

/// Replaces stderr by a stream that is full and has no reader. Returns its other end.
fn fill_stderr() -> UnixStream {
    let (reader, mut stderr) = UnixStream::pair().unwrap();
    stderr.set_nonblocking(true).unwrap();
    while stderr.write(&[b'x'; 4096]).is_ok() {}
    stderr.set_nonblocking(false).unwrap();
    // SAFETY: no memory is passed.
    let result = unsafe { libc::dup2(stderr.as_raw_fd(), libc::STDERR_FILENO) };
    assert_eq!(result, libc::STDERR_FILENO);
    reader
}

/// A goroutine that holds the lock of stderr forever, and the report of that; then another that
/// blocks its thread, and one that must still run.
fn full_stderr() {
    let _reader = fill_stderr();
    Builder::new().max_procs(1).start().unwrap();
    drop(go(|| {
        drop(go_local(|| ()));
        eprintln!("there is no room for this");
    }));
    until("it is reported", || {
        thread_names().iter().any(|name| name == "gopark-report")
    });
    for _ in 0..3 {
        let (begin, begun) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let blocks = go(move || {
            begin.send(()).unwrap();
            _ = released.recv();
        });
        begun.recv().unwrap();
        join(go(|| ()));
        drop(release);
        join(blocks);
    }
    println!("done");
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) }
}

fn deadlock_with_full_stderr() {
    let _reader = fill_stderr();
    gopark::run(|| RawSemaphore::new(0, gopark::scheduler()).acquire(1));
}

/// Each of two goroutines waits for a channel that only the other could serve.
fn deadlock_over_two_channels() {
    gopark::run(|| {
        set_name("main");
        let [(to_first, from_second), (to_second, from_first)] = [(); 2].map(|()| chan::bounded(0));
        let first = go(move || {
            set_name("first");
            let value: u8 = from_second.recv().unwrap();
            to_second.send(value).unwrap();
        });
        let second = go(move || {
            set_name("second");
            let other = chan::bounded(0);
            other.0.send(1).unwrap();
            to_first.send(from_first.recv().unwrap()).unwrap();
        });
        [first, second].into_iter().for_each(join);
    });
}

fn deadlock_in_select() {
    gopark::run(|| {
        set_name("main");
        let selects = go(|| {
            set_name("selects");
            select_over_two();
        });
        join(selects);
    });
}

/// No other goroutine has an end of these channels.
fn select_over_two() {
    let (sender, values) = chan::bounded(0);
    let (_other, receiver) = chan::bounded::<u8>(0);
    select! {
        send(sender, 1) -> _ => {}
        recv(receiver) -> _ => {}
    }
    drop(values);
}

/// The channel never closes, because its receiver holds the sender.
fn deadlock_with_own_sender() {
    gopark::run(|| {
        set_name("main");
        let (sender, receiver) = chan::unbounded();
        let sends = sender.clone();
        join(go(move || (0..3).for_each(|i| sends.send(i).unwrap())));
        println!("received {}", receiver.iter().count());
        drop(sender);
    });
}

/// The main goroutine waits for a handler that has not started: only the connection of another
/// process can wake the two.
fn idle_connection() {
    gopark::run(|| {
        let (near, far) = UnixStream::pair().unwrap();
        let mut child = Command::new("sleep")
            .arg("1")
            .stdout(OwnedFd::from(far))
            .spawn()
            .unwrap();
        let (tx, rx) = chan::bounded(1);
        let handler = move |mut near: net::UnixStream| {
            tx.send(near.read(&mut [0]).unwrap()).unwrap();
        };
        net::on_readable(net::UnixStream::from(near), handler).unwrap();
        assert_eq!(rx.recv(), Ok(0), "the end of the child");
        child.wait().unwrap();
    });
    println!("done");
}
