//! Programs that end their process or change its limits. `suites/processes.rs` runs them by name,
//! and `suites/sanitizers.rs` those with a fault that a sanitizer must find.
#![allow(
    unsafe_code,
    reason = "limits are set, and faults provoked, through libc and raw pointers"
)]

use gopark::net::{TcpListener, TcpStream};
use gopark::{Builder, JoinHandle, go, try_go};
use gopark_tests::{join, until};
use socket2::{Domain, Socket, Type};
use std::cell::UnsafeCell;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

fn main() {
    let program = std::env::args().nth(1).expect("the name of a program");
    match program.as_str() {
        "overflow" => overflow(),
        "overflow-of-a-thread" => overflow_of_a_thread(),
        "null-pointer" => null_pointer(),
        "panic-without-join" => panic_without_join(),
        "address-space" => address_space(),
        "descriptors" => descriptors(),
        "start-without-descriptors" => start_without_descriptors(),
        "start-twice" => start_twice(),
        "max-procs" => println!("{}", gopark::max_procs()),
        "bind" => println!("{:?}", gopark::net::TcpListener::bind("127.0.0.1:0")),
        "connect" => println!("{:?}", gopark::net::TcpStream::connect("127.0.0.1:1")),
        "leave" => leave(),
        "schedtrace" => schedtrace(),
        "schedtrace-lines" => schedtrace_lines(),
        "relaxed-publish" => relaxed_publish(),
        "use-after-free" => use_after_free(),
        "use-after-return" => use_after_return(),
        "overrun" => overrun(),
        "leak" => leak(),
        "keep" => keep(),
        "blocks-elsewhere" => blocks_elsewhere(),
        _ => panic!("there is no program {program}"),
    }
}

/// Never ends, and needs more stack with each call.
#[allow(unconditional_recursion, reason = "an overflow is what it is for")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 16]);
    recurse(black_box(depth + 1)) + frame[depth as usize % frame.len()]
}

/// Starts a runtime and leaves it idle, or prints why it cannot start.
fn schedtrace() {
    let sysmon = std::env::args().nth(2).as_deref() != Some("without-sysmon");
    match Builder::new().max_procs(2).sysmon(sysmon).start() {
        Ok(()) => thread::sleep(Duration::from_millis(300)),
        Err(error) => println!("{:?}: {error}", error.kind()),
    }
}

/// Waits until GOPARK_SCHEDTRACE has printed a line of 200 ms after the start or later. Prints what
/// it printed.
fn schedtrace_lines() {
    let (reader, stderr) = UnixStream::pair().unwrap();
    // SAFETY: no memory is passed.
    let result = unsafe { libc::dup2(stderr.as_raw_fd(), libc::STDERR_FILENO) };
    assert_eq!(result, libc::STDERR_FILENO);
    Builder::new().max_procs(2).start().unwrap();
    for line in BufReader::new(reader).lines().map(Result::unwrap) {
        println!("{line}");
        let (millis, _) = line
            .strip_prefix("SCHED ")
            .and_then(|line| line.split_once("ms"))
            .unwrap();
        if millis.parse::<u64>().unwrap() >= 200 {
            return;
        }
    }
}

fn overflow() {
    Builder::new()
        .max_procs(2)
        .stack_size(100_000)
        .start()
        .unwrap();
    gopark::run(|| {
        let bystanders: Vec<_> = (0..100)
            .map(|_| {
                go(|| {
                    loop {
                        gopark::yield_now()
                    }
                })
            })
            .collect();
        let doomed = go(|| {
            gopark::yield_now();
            recurse(0)
        });
        println!("the doomed one is goroutine {}.", doomed.id());
        join(doomed);
        bystanders.into_iter().for_each(join)
    });
}

fn overflow_of_a_thread() {
    gopark::run(|| join(go(|| ())));
    let thread = thread::Builder::new()
        .name("an ordinary thread".into())
        .spawn(|| recurse(0))
        .unwrap();
    thread.join().unwrap();
}

fn null_pointer() {
    gopark::run(|| {
        let null = black_box(std::ptr::dangling::<u64>());
        // SAFETY: none; the program exists for this fault.
        println!("{}", unsafe { null.read_volatile() });
    });
}

/// Waits until all Ms but the caller's are idle.
fn until_others_sleep() {
    let procs = gopark::max_procs() as u64;
    until("the others sleep", || {
        gopark::metrics().procs_idle == procs - 1
    });
}

/// Spawns goroutines that block their thread, beside two that are bound to one thread and wait for
/// each other.
fn blocks_elsewhere() {
    Builder::new().max_procs(2).start().unwrap();
    gopark::run(|| {
        let (mut near, mut far) = pair();
        let echo = gopark::go_local(move || {
            let mut byte = [0];
            while far.read(&mut byte).unwrap() == 1 {
                far.write_all(&byte).unwrap();
            }
        });
        for _ in 0..5 {
            until_others_sleep();
            let (release, released) = mpsc::channel();
            // On the thread of the two it would never be released.
            let blocks = go(move || released.recv().unwrap());
            for _ in 0..10 {
                near.write_all(&[7]).unwrap();
                near.read_exact(&mut [0]).unwrap();
            }
            release.send(()).unwrap();
            join(blocks);
        }
        drop(near);
        join(echo);
    });
}

/// A connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

fn panic_without_join() {
    gopark::run(|| {
        drop(go(|| panic!("no goroutine joins this")));
        until("it has panicked", || gopark::num_goroutines() == 1);
        println!("the others go on");
    });
}

fn limit(resource: libc::__rlimit_resource_t, value: u64) {
    let limit = libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    };
    // SAFETY: a valid structure, read during the call.
    let result = unsafe { libc::setrlimit(resource, &limit) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Spawns until no stack is left, three times.
fn address_space() {
    limit(libc::RLIMIT_AS, 2 << 30);
    Builder::new().max_procs(2).start().unwrap();
    gopark::run(|| {
        let bystander = go(|| (0..1000).map(|_| gopark::yield_now()).count());
        let mut counts = Vec::new();
        for _ in 0..3 {
            let release = Arc::new(AtomicBool::new(false));
            let (goroutines, error) = spawn_all(&release);
            assert_eq!(error.kind(), io::ErrorKind::OutOfMemory, "{error}");
            let text = error.to_string();
            assert!(
                text.contains("ulimit -v")
                    && text.contains("256 KiB")
                    && text.contains("stack_size"),
                "{text}"
            );
            assert!(
                std::panic::catch_unwind(|| go(|| ())).is_err(),
                "go panics where try_go fails"
            );
            counts.push(goroutines.len());
            release.store(true, SeqCst);
            goroutines.into_iter().for_each(join);
        }
        println!("{counts:?}");
        assert!(
            counts[0] > 1000 && counts.iter().all(|count| count.abs_diff(counts[0]) < 200),
            "{counts:?}"
        );
        assert_eq!(join(bystander), 1000);
        assert_eq!(join(go(|| "still here")), "still here");
    });
}

fn spawn_all(release: &Arc<AtomicBool>) -> (Vec<JoinHandle<()>>, io::Error) {
    let mut goroutines = Vec::new();
    loop {
        let release = release.clone();
        match try_go(move || until("it is released", || release.load(SeqCst))) {
            Ok(goroutine) => goroutines.push(goroutine),
            Err(error) => return (goroutines, error),
        }
        assert!(goroutines.len() < 1_000_000, "the limit has no effect");
    }
}

/// Opens files until no descriptor is left.
fn take_all_descriptors() -> Vec<File> {
    let mut files = Vec::new();
    loop {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                return files;
            }
        }
    }
}

/// Accepts without a free descriptor, and goes on when one is free.
///
/// One thread runs everything: an accept that finds no connection holds a number for a moment, as
/// does sysmon while it reads a file of `/proc`. With two threads, such a number could be free
/// after all the others are taken.
fn descriptors() {
    const CLIENTS: usize = 10;
    limit(libc::RLIMIT_NOFILE, 100);
    Builder::new().max_procs(1).sysmon(false).start().unwrap();
    gopark::run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| TcpStream::connect(addr).unwrap())
            .collect();
        let mut files = take_all_descriptors();
        let refused = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EMFILE))
        };
        for _ in 0..3 {
            refused(listener.accept().map(drop));
            refused(TcpStream::connect(addr).map(drop));
            refused(TcpListener::bind("127.0.0.1:0").map(drop));
        }
        // Goroutines, their stacks and established connections need no descriptor.
        assert_eq!(join(go(|| "still here")), "still here");
        files.pop();
        let mut served = vec![listener.accept().unwrap().0];
        refused(listener.accept().map(drop));

        drop(files);
        served.extend((1..CLIENTS).map(|_| listener.accept().unwrap().0));
        for (i, (mut client, mut server)) in clients.into_iter().zip(served).enumerate() {
            client.write_all(&[i as u8]).unwrap();
            let mut byte = [0];
            server.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [i as u8], "the queue is in order and complete");
        }
        wake_without_descriptor(&listener);
    });
}

/// A connection wakes a waiting acceptor that has no descriptor for it.
fn wake_without_descriptor(listener: &TcpListener) {
    let addr = listener.local_addr().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let acceptor = {
        let listener = listener.try_clone().unwrap();
        go(move || listener.accept())
    };
    until("it is parked", || gopark::metrics().goroutines_waiting == 1);
    let files = take_all_descriptors();
    socket.connect(&addr.into()).unwrap();
    assert_eq!(
        join(acceptor).unwrap_err().raw_os_error(),
        Some(libc::EMFILE)
    );
    drop(files);
    assert_eq!(
        listener.accept().unwrap().1,
        socket.local_addr().unwrap().as_socket().unwrap()
    );
}

fn start_without_descriptors() {
    limit(libc::RLIMIT_NOFILE, 20);
    let error = gopark::Builder::new().max_procs(64).start().unwrap_err();
    assert!(error.to_string().contains("ulimit -n"), "{error}");
}

fn start_twice() {
    Builder::new().max_procs(1).start().unwrap();
    let error = Builder::new().start().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    let text = "the gopark runtime is already running: call Builder::start once, before the first";
    assert!(error.to_string().starts_with(text), "{error}");
    assert_eq!(gopark::max_procs(), 1);
    assert_eq!(gopark::run(|| join(go(|| 7))), 7);
}

/// Returns from `main` while goroutines run and sleep.
fn leave() {
    gopark::run(|| {
        (0..100).for_each(|_| {
            drop(go(|| {
                loop {
                    gopark::yield_now()
                }
            }))
        });
        (0..100).for_each(|_| drop(go(|| gopark::sleep(Duration::MAX))));
    });
    println!("left");
}

/// Claims to be shareable, which is not true.
struct Shared(UnsafeCell<u64>);

// SAFETY: none; the program exists for this race.
unsafe impl Sync for Shared {}

/// One goroutine writes and publishes with relaxed ordering; another, on another M, reads.
fn relaxed_publish() {
    static VALUE: Shared = Shared(UnsafeCell::new(0));
    static PUBLISHED: AtomicBool = AtomicBool::new(false);
    static READ: AtomicBool = AtomicBool::new(false);
    // Few calls: the report needs the history of both sides, which is short.
    let spin_until = |flag: &AtomicBool| {
        while !flag.load(Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
    };
    Builder::new().max_procs(2).start().unwrap();
    gopark::run(move || {
        let reader = go(move || {
            spin_until(&PUBLISHED);
            // SAFETY: none; the program exists for this race.
            println!("{}", unsafe { VALUE.0.get().read_volatile() });
            READ.store(true, Relaxed);
        });
        // SAFETY: none; the program exists for this race.
        unsafe { VALUE.0.get().write_volatile(1) };
        PUBLISHED.store(true, Relaxed);
        // Without parking: one M would order the two.
        spin_until(&READ);
        join(reader);
    });
}

fn use_after_free() {
    gopark::run(|| {
        let boxed = Box::new([7_u64; 8]);
        let dangling = &raw const boxed[3];
        drop(black_box(boxed));
        gopark::yield_now();
        // SAFETY: none; the program exists for this fault.
        println!("{}", unsafe { dangling.read_volatile() });
    });
}

fn use_after_return() {
    #[inline(never)]
    fn local() -> *const u64 {
        let local = black_box(7);
        std::ptr::from_ref(black_box(&local))
    }
    gopark::run(|| {
        let dangling = black_box(local());
        gopark::yield_now();
        // SAFETY: none; the program exists for this fault.
        println!("{}", unsafe { dangling.read_volatile() });
    });
}

/// Reads beyond an array on the goroutine's stack.
fn overrun() {
    gopark::run(|| {
        let array = black_box([7_u8; 32]);
        gopark::yield_now();
        // SAFETY: none; the program exists for this fault.
        println!("{}", unsafe {
            array.as_ptr().add(black_box(array.len())).read_volatile()
        });
    });
}

fn leak() {
    gopark::run(|| {
        (0..100).for_each(|_| join(go(|| std::mem::forget(black_box(Box::new([7_u64; 100]))))))
    });
}

/// Returns while only a parked goroutine refers to some memory, which is no leak.
fn keep() {
    static ASLEEP: AtomicBool = AtomicBool::new(false);
    gopark::run(|| {
        drop(go(|| {
            let kept = black_box(vec![7_u64; 100]);
            ASLEEP.store(true, SeqCst);
            gopark::sleep(Duration::MAX);
            drop(black_box(kept));
        }));
        until("it sleeps", || ASLEEP.load(SeqCst));
    });
}
