//! Goroutines that block or compute where the system shows little or forbids much.
//! `suites/blind.rs` runs `blind WHERE`, which prints how long a fresh goroutine waited.
#![allow(
    unsafe_code,
    reason = "what the system shows is taken away through libc"
)]

use gopark::{Builder, go};
use gopark_tests::join;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

fn main() {
    let wheres: Vec<_> = std::env::args().skip(1).collect();
    assert!(!wheres.is_empty(), "where");
    for place in &wheres {
        let arranged = match place.as_str() {
            "in-sight" => Ok(()),
            "undumpable" => hide_calls(),
            "no-proc" => hide_proc(),
            "no-descriptor" => return start_with_the_last_descriptor(),
            "no-clock" => forbid(libc::SYS_clock_gettime, Some(SIGN)),
            "no-membarrier" => forbid(libc::SYS_membarrier, None),
            _ => panic!("there is no place {place}"),
        };
        if let Err(error) = arranged {
            return println!("skipped: {place}: {error}");
        }
    }
    Builder::new().max_procs(1).start().unwrap();
    if wheres.iter().any(|place| place == "no-membarrier") {
        // What hand-offs need.
        return;
    }
    let blocked = median((0..9).map(|_| after_blocking()).collect());
    let computing = median((0..9).map(|_| after_computing()).collect());
    println!(
        "a fresh goroutine ran {blocked:?} after one blocked, and {computing:?} after one computed"
    );
    stall();
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Raises the limit of descriptors until the runtime can start, so that none is left.
fn start_with_the_last_descriptor() {
    let allow = |descriptors| {
        let limit = libc::rlimit {
            rlim_cur: descriptors,
            rlim_max: 64,
        };
        // SAFETY: the limit is valid.
        let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    };
    let started = (3..64).find(|&descriptors| {
        allow(descriptors);
        Builder::new().max_procs(1).start().is_ok()
    });
    println!(
        "started with {} descriptors",
        started.expect("64 are enough")
    );
}

/// Makes the process not dumpable: an ordinary user cannot read the system calls of its threads.
fn hide_calls() -> io::Result<()> {
    // SAFETY: no memory is passed.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    match fs::read("/proc/self/task/self/syscall")
        .or_else(|_| fs::read("/proc/thread-self/syscall"))
    {
        Ok(_) => Err(io::Error::other(
            "the calls can be read in spite of that: by root, say",
        )),
        Err(_) => Ok(()),
    }
}

/// Mounts an empty file system on `/proc`, in a namespace of its own.
fn hide_proc() -> io::Result<()> {
    let checked = |result: i32| {
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    let mount = |source: &CStr, target: &CStr, kind: &CStr, flags| {
        // SAFETY: three C strings, and no data.
        checked(unsafe {
            libc::mount(
                source.as_ptr(),
                target.as_ptr(),
                kind.as_ptr(),
                flags,
                ptr::null(),
            )
        })
    };
    // SAFETY: no memory is passed.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    mount(c"none", c"/", c"", libc::MS_REC | libc::MS_PRIVATE)?;
    mount(c"none", c"/proc", c"tmpfs", 0)
}

/// This bit marks the clock ids that belong to a thread.
const SIGN: u32 = 1 << 31;

/// From now on a system call fails: always, or if its first argument has `bit`.
fn forbid(number: libc::c_long, bit: Option<u32>) -> io::Result<()> {
    const FIRST_ARGUMENT: u32 = 16;
    let step = |code: u32, value: u32, if_so: u8, if_not: u8| libc::sock_filter {
        code: code as u16,
        jt: if_so,
        jf: if_not,
        k: value,
    };
    let mut filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            number as u32,
            0,
            3,
        ),
        step(
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            if bit.is_some() { FIRST_ARGUMENT } else { 0 },
            0,
            0,
        ),
        step(
            libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K,
            bit.unwrap_or(u32::MAX),
            0,
            1,
        ),
        step(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
            0,
            0,
        ),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the filter is readable for its length, and the kernel copies it.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
    };
    if done {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// How long a fresh goroutine waits that must release the goroutine which blocks the only thread.
fn after_blocking() -> Duration {
    let (begin, begun) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let blocked = go(move || {
        begin.send(()).unwrap();
        released.recv().unwrap()
    });
    begun.recv().unwrap();
    let spawned = Instant::now();
    drop(go(move || release.send(spawned.elapsed()).unwrap()));
    join(blocked)
}

/// The same with a goroutine that computes.
fn after_computing() -> Duration {
    let (begin, begun) = mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let computing = go(move || {
        begin.send(()).unwrap();
        while !stopped.load(SeqCst) {
            std::hint::spin_loop();
        }
    });
    begun.recv().unwrap();
    let spawned = Instant::now();
    let fresh = go(move || {
        stop.store(true, SeqCst);
        spawned.elapsed()
    });
    join(computing);
    join(fresh)
}

/// A goroutine that blocks long enough to be reported, with another one that waits for its thread.
fn stall() {
    join(go(|| {
        gopark::set_name("blocked");
        let neighbour = gopark::go_local(|| ());
        thread::sleep(Duration::from_millis(1500));
        join(neighbour);
    }));
}
