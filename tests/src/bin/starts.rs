//! How a runtime starts, and how it reads its environment: `suites/starts.rs` runs these programs
//! by name.
#![allow(
    unsafe_code,
    reason = "limits, signals and privileges are asked for through libc"
)]

use gopark::{Builder, go};
use gopark_tests::{join, thread_names, until, until_on_thread};
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

fn main() {
    let program = std::env::args().nth(1).expect("the name of a program");
    match program.as_str() {
        "dump-on" => dump_on(
            std::env::args()
                .nth(2)
                .and_then(|signal| signal.parse().ok())
                .expect("a signal"),
        ),
        "fails-first" => fails_first(),
        "fails-often" => fails_often(),
        "environment" => environment(),
        "dumped" => dumped(),
        "dump" => dump(),
        "ordinary" => ordinary(),
        _ => panic!("there is no program {program}"),
    }
}

/// A start with a signal that is refused, and one without.
fn dump_on(signal: i32) {
    let before = thread_names().len();
    let error = Builder::new()
        .max_procs(1)
        .dump_on(signal)
        .start()
        .unwrap_err();
    println!("{:?}: {error}", error.kind());
    assert_eq!(thread_names().len(), before, "no scheduler runs");
    Builder::new()
        .max_procs(1)
        .dump_on(libc::SIGUSR1)
        .start()
        .unwrap();
    assert_eq!(gopark::run(|| join(go(|| 7))), 7);
}

/// Sets the limit of descriptors of this process and returns the one before.
fn limit_descriptors(most: u64) -> u64 {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: `limit` is writable, and valid before it is read.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()), 0);
        let mut limit = limit.assume_init();
        let before = limit.rlim_cur;
        limit.rlim_cur = most;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
        before
    }
}

fn disposition(signal: i32) -> usize {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: `action` is writable, and valid afterwards.
    unsafe {
        assert_eq!(libc::sigaction(signal, ptr::null(), action.as_mut_ptr()), 0);
        action.assume_init().sa_sigaction
    }
}

/// A start that fails for lack of descriptors leaves nothing behind, and none of its settings stay.
fn fails_first() {
    let trace = std::env::var_os("GOPARK_TRACE").expect("a trace is wanted");
    let (before, threads_before) = (fs::read(&trace).ok(), thread_names().len());
    let called = |_: &gopark::Stall| panic!("the callback of a start that failed");
    let most = limit_descriptors(20);
    let refused = Builder::new()
        .max_procs(64)
        .dump_on(libc::SIGUSR1)
        .on_stall(called)
        .start();
    println!("{}", refused.unwrap_err());
    assert_eq!(
        (disposition(libc::SIGUSR1), disposition(libc::SIGUSR2)),
        (libc::SIG_DFL, libc::SIG_DFL),
        "no handler stays"
    );
    assert_eq!(
        fs::read(&trace).ok(),
        before,
        "no file is made, and none is changed"
    );
    until_on_thread("its threads have ended", || {
        thread_names().len() == threads_before
    });

    limit_descriptors(most);
    static TOLD: AtomicBool = AtomicBool::new(false);
    let tell = |_: &gopark::Stall| TOLD.store(true, SeqCst);
    Builder::new()
        .max_procs(1)
        .stall_after(Duration::from_millis(1))
        .on_stall(tell)
        .start()
        .unwrap();
    assert_ne!(disposition(libc::SIGUSR2), libc::SIG_DFL);
    gopark::run(|| {
        // Without parking, so that it keeps its thread.
        while !TOLD.load(SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
    });
}

/// Starts that fail for lack of descriptors, and one that succeeds, in four gigabytes of address
/// space.
fn fails_often() {
    let limit = libc::rlimit {
        rlim_cur: 4 << 30,
        rlim_max: 4 << 30,
    };
    // SAFETY: a valid structure, read during the call.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    let most = limit_descriptors(20);
    for _ in 0..200 {
        let error = Builder::new().max_procs(64).start().unwrap_err();
        assert!(error.to_string().contains("ulimit -n"), "{error}");
    }
    limit_descriptors(most);
    let mut sizes = Vec::new();
    for _ in 0..100 {
        // Even the smallest number of such stacks needs more address space than there is.
        let error = Builder::new()
            .max_procs(1)
            .stack_size(1 << 30)
            .start()
            .unwrap_err();
        assert!(error.to_string().contains("ulimit -v"), "{error}");
        until_on_thread("its threads have ended", || thread_names().len() == 1);
        sizes.push(address_space());
    }
    // A start that leaks address space would do so every time. glibc keeps the stacks of ended
    // threads, and maps another one when more threads of a start are alive at once than before. A
    // thread that is missing in /proc may still have its signal stack. So what counts is growth
    // that lasts: how often the least of all later sizes grows.
    let mut least = usize::MAX;
    let mut lasting: Vec<usize> = sizes[9..]
        .iter()
        .rev()
        .map(|&size| {
            least = least.min(size);
            least
        })
        .collect();
    lasting.dedup();
    assert!(lasting.len() <= 5, "KiB of address space: {sizes:?}");
    Builder::new().max_procs(2).start().unwrap();
    assert_eq!(gopark::run(|| join(go(|| 7))), 7);
}

/// KiB that this process has mapped.
fn address_space() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmSize:"))
        .unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Prints which variables are read, and whether the kernel calls the process privileged.
fn environment() {
    // SAFETY: the call only reads a number.
    let privileged = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    println!("privileged: {privileged}");
    println!("procs: {}", gopark::max_procs());
    println!("handler: {}", disposition(libc::SIGUSR1) != libc::SIG_DFL);
}

/// Prints a dump.
fn dump() {
    Builder::new().max_procs(2).start().unwrap();
    gopark::dump(&mut io::stdout()).unwrap();
}

/// Calls what needs no runtime on an ordinary thread.
fn ordinary() {
    let start = Instant::now();
    let wait = Duration::from_millis(2);
    gopark::sleep(wait);
    gopark::sleep_until(Instant::now() + wait);
    assert!(start.elapsed() >= 2 * wait);
    gopark::yield_now();
    gopark::set_name("ordinary");
    assert_eq!(gopark::num_goroutines(), 0);
    assert_eq!(gopark::blocking(|| 7), 7);
    assert!(std::panic::catch_unwind(|| gopark::go_local(|| ())).is_err());
    assert_eq!(thread_names().len(), 1);
    println!("nothing was started");
}

/// Ends when the signal that the environment names has produced a dump.
fn dumped() {
    let (reader, stderr) = UnixStream::pair().unwrap();
    // SAFETY: no memory is passed.
    let result = unsafe { libc::dup2(stderr.as_raw_fd(), libc::STDERR_FILENO) };
    assert_eq!(result, libc::STDERR_FILENO);
    let _sleeper = go(|| {
        gopark::set_name("sleeper");
        gopark::sleep(Duration::from_secs(1000));
    });
    until("it sleeps", || gopark::metrics().goroutines_waiting == 1);
    // SAFETY: no memory is passed.
    assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
    let found = BufReader::new(reader)
        .lines()
        .map_while(io::Result::ok)
        .any(|line| line.contains("\"sleeper\" [sleep"));
    println!("dumped: {found}");
}
