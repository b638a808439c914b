//! Programs about the memory of stacks. Each needs a process of its own:
//! `suites/stacks.rs` runs them by name.
#![allow(
    unsafe_code,
    reason = "limits are set, memory is locked and faults are provoked through libc"
)]

use gopark::{Builder, go, try_go};
use gopark_tests::{join, until, until_on_thread};
use std::fs;
use std::hint::black_box;
use std::io;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

fn main() {
    let program = std::env::args().nth(1).expect("the name of a program");
    match program.as_str() {
        "dumped" => dumped(),
        "crash" => crash(),
        "crowd" => small_crowd(),
        "limited-address-space" => limited_address_space(),
        "limited-data" => limited_data(),
        "locked-before" => locked_before(),
        "locked-after" => locked_after(),
        "little-locked" => little_locked(),
        "strict" => strict(),
        "large-frame" => large_frame(),
        "overflow-in-pool" => overflow_in_pool(),
        "wild" => wild(),
        "deep" => deep(),
        "deep-overflow" => deep_overflow(),
        "deep-beside-small" => deep_beside_small(),
        "deep-without-room" => deep_without_room(),
        "deep-in-four-sizes" => deep_in_four_sizes(),
        "overflow-of-sysmon" => overflow_of_sysmon(),
        _ => panic!("there is no program {program}"),
    }
}

/// Runs hundreds of goroutines at the same time.
fn work() {
    crowd(300);
}

fn crowd(count: usize) {
    gopark::run(move || {
        let release = Arc::new(AtomicBool::new(false));
        let goroutines: Vec<_> = (0..count)
            .map(|_| {
                let release = release.clone();
                go(move || until("it is released", || release.load(SeqCst)))
            })
            .collect();
        release.store(true, SeqCst);
        goroutines.into_iter().for_each(join);
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

/// Prints how many bytes a core dump would contain: the mappings that are private, anonymous,
/// accessible, and not excluded by advice.
fn dumped() {
    work();
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut dumped = 0;
    let (mut size, mut is_memory) = (0, false);
    for line in smaps.lines() {
        if let Some((bounds, rest)) = line
            .split_once(' ')
            .filter(|(bounds, _)| bounds.contains('-'))
        {
            let (from, to) = bounds.split_once('-').unwrap();
            let [from, to] = [from, to].map(|address| usize::from_str_radix(address, 16).unwrap());
            size = to - from;
            is_memory = !rest.starts_with("---") && rest.split_whitespace().nth(2) == Some("00:00");
        } else if let Some(flags) = line.strip_prefix("VmFlags:") {
            let is_left_out = flags.split_whitespace().any(|flag| flag == "dd");
            dumped += if is_memory && !is_left_out { size } else { 0 };
        }
    }
    println!("{dumped}");
}

/// Leaves more free stacks than the first array of them can hold.
fn small_crowd() {
    Builder::new()
        .max_procs(1)
        .stack_size(16 << 10)
        .start()
        .unwrap();
    crowd(17_000);
    crowd(17_000);
}

fn crash() {
    limit(libc::RLIMIT_CORE, libc::RLIM_INFINITY);
    work();
    std::process::abort();
}

/// Allocates half of the limited address space, which must succeed.
fn limited_address_space() {
    limit(libc::RLIMIT_AS, 1 << 30);
    Builder::new().max_procs(2).start().unwrap();
    let mut heap = Vec::<u8>::new();
    heap.try_reserve_exact(512 << 20).unwrap();
    work();
}

/// Spawns until the limit of private writable memory is reached. Stacks count against it from the
/// moment they are opened.
fn limited_data() {
    limit(libc::RLIMIT_DATA, 512 << 20);
    Builder::new().max_procs(1).start().unwrap();
    gopark::run(|| {
        let release = Arc::new(AtomicBool::new(false));
        let mut goroutines = Vec::new();
        let error = loop {
            let release = release.clone();
            match try_go(move || until("it is released", || release.load(SeqCst))) {
                Ok(goroutine) => goroutines.push(goroutine),
                Err(error) => break error,
            }
            assert!(goroutines.len() < 100_000, "the limit has no effect");
        };
        println!("{} goroutines; {error}", goroutines.len());
        release.store(true, SeqCst);
        goroutines.into_iter().for_each(join);
        join(go(|| ()));
    });
}

fn lock_memory() {
    // Not through libc, whose function does nothing under a sanitizer. SAFETY: no memory is passed.
    let locked = unsafe { libc::syscall(libc::SYS_mlockall, libc::MCL_CURRENT | libc::MCL_FUTURE) };
    assert_eq!(locked, 0, "{}", io::Error::last_os_error());
}

/// The KiB that `/proc/self/status` gives for `key`.
fn status(key: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap()
}

fn locked_before() {
    lock_memory();
    Builder::new()
        .max_procs(1)
        .stack_size(64 << 10)
        .start()
        .unwrap();
    work();
    println!("{} KiB resident", status("VmRSS:"));
}

fn locked_after() {
    Builder::new()
        .max_procs(1)
        .stack_size(64 << 10)
        .start()
        .unwrap();
    work();
    lock_memory();
    work();
    println!("{} KiB resident", status("VmRSS:"));
}

/// Runs as an ordinary user, whose locked memory is limited.
fn little_locked() {
    limit(libc::RLIMIT_MEMLOCK, 8 << 20);
    // SAFETY: no memory is passed. It fails for ordinary users, and these need no change.
    unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
    // SAFETY: the same. What is mapped from here on counts.
    let result = unsafe { libc::syscall(libc::SYS_mlockall, libc::MCL_FUTURE) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    // libc keeps the stack of the thread that ends for the next one.
    let error = Builder::new()
        .max_procs(1)
        .sysmon(false)
        .start()
        .unwrap_err();
    println!("{error}");
    until_on_thread("its threads have ended", || {
        fs::read_dir("/proc/self/task").unwrap().count() == 1
    });
    Builder::new()
        .max_procs(1)
        .sysmon(false)
        .stack_size(16 << 10)
        .start()
        .unwrap();
    gopark::run(|| join(go(|| println!("small stacks are no trouble"))));
}

/// For strict overcommit: run by hand as `docs/stacks.md` describes.
fn strict() {
    work();
    println!(
        "{} KiB of address space, {}",
        status("VmSize:"),
        fs::read_to_string("/proc/sys/vm/overcommit_memory")
            .unwrap()
            .trim()
    );
}

/// Never ends, and needs more stack with each call.
#[allow(unconditional_recursion, reason = "an overflow is what it is for")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 16]);
    recurse(black_box(depth + 1)) + frame[depth as usize % frame.len()]
}

/// A frame as C compilers make it: of its 33 KiB only the lowest word is touched.
#[inline(never)]
fn frame_without_probes() {
    const FRAME: usize = 33 << 10;
    // SAFETY: none if the frame is larger than the rest of the stack, which is the case under test.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            "mov {sp}, rsp",
            "sub rsp, {frame}",
            "mov qword ptr [rsp], 1",
            "mov rsp, {sp}",
            sp = out(reg) _,
            frame = const FRAME,
        );
    }
    // SAFETY: the same.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!(
            "mov {sp}, sp",
            "mov {frame}, #{size}",
            "sub sp, sp, {frame}",
            "str {sp}, [sp]",
            "mov sp, {sp}",
            sp = out(reg) _,
            frame = out(reg) _,
            size = const FRAME,
        );
    }
}

/// Recurses until less than half of such a frame is left, and calls it.
#[inline(never)]
fn go_down(end: usize) {
    let here = black_box([0u8; 512]);
    if here.as_ptr().addr() > end {
        go_down(end);
    } else {
        frame_without_probes();
    }
    black_box(here);
}

/// With a guard of so many KiB.
fn large_frame() {
    const STACK: usize = 256 << 10;
    let guard = std::env::args()
        .nth(2)
        .and_then(|guard| guard.parse::<usize>().ok())
        .expect("a guard")
        << 10;
    Builder::new()
        .max_procs(1)
        .stack_size(STACK)
        .guard_size(guard)
        .start()
        .unwrap();
    gopark::run(move || {
        let top = black_box(0u8);
        go_down(ptr::from_ref(&top).addr() - (STACK - guard) + (12 << 10));
        println!("it has returned");
    });
}

fn overflow_in_pool() {
    gopark::run(|| {
        let doomed = go(|| {
            gopark::set_name("deep");
            gopark::blocking(|| recurse(0))
        });
        println!("the doomed one is goroutine {}.", doomed.id());
        join(doomed);
    });
}

fn overflow_of_sysmon() {
    Builder::new()
        .stall_after(Duration::from_millis(10))
        .on_stall(|_| _ = black_box(recurse(0)))
        .start()
        .unwrap();
    gopark::run(|| std::thread::sleep(Duration::from_secs(10)));
}

/// Uses `bytes` of stack and a few KiB more.
fn dig(bytes: usize) {
    #[inline(never)]
    fn down(end: usize) -> usize {
        let frame = black_box([0u8; 1024]);
        if frame.as_ptr().addr() <= end {
            // gopark finds the goroutine from the stack pointer here, too.
            gopark::yield_now();
            return 0;
        }
        1 + down(end) + usize::from(black_box(&frame)[3])
    }
    let top = black_box(0u8);
    assert!(down(ptr::from_ref(&top).addr() - bytes) > 10);
}

fn larger() -> gopark::thread::Builder {
    gopark::thread::Builder::new()
        .name("deep".into())
        .stack_size(8 << 20)
}

/// A hundred goroutines that each use six MiB of stack at the same time.
fn deep() {
    Builder::new().max_procs(2).start().unwrap();
    gopark::run(|| {
        join(larger().spawn(|| dig(6 << 20)).unwrap());
        let before = status("VmRSS:");
        let arrived = Arc::new(AtomicUsize::new(0));
        let release = Arc::new(AtomicBool::new(false));
        let goroutines: Vec<_> = (0..100)
            .map(|_| {
                let (arrived, release) = (arrived.clone(), release.clone());
                let work = move || {
                    dig(6 << 20);
                    arrived.fetch_add(1, SeqCst);
                    until("it is released", || release.load(SeqCst));
                };
                larger().spawn(work).unwrap()
            })
            .collect();
        until("all have been deep down", || arrived.load(SeqCst) == 100);
        let mut dump = Vec::new();
        gopark::dump(&mut dump).unwrap();
        let named = String::from_utf8_lossy(&dump).matches(" \"deep\"").count();
        assert!(named >= 100, "{named} of them are in the dump");
        let during = status("VmRSS:");
        let known = gopark::metrics().stack_bytes.expect("Linux says") / 1024;
        release.store(true, SeqCst);
        goroutines.into_iter().for_each(join);
        assert!(
            during - before > 600 << 10 && known > 600 << 10,
            "{before} {during} {known} KiB"
        );
        until("all memory has been given back", || {
            status("VmRSS:") < before + (50 << 10)
        });
    });
}

fn deep_overflow() {
    gopark::run(|| {
        let doomed = larger().stack_size(6 << 20).spawn(|| recurse(0)).unwrap();
        println!("the doomed one is goroutine {}.", doomed.id());
        join(doomed);
    });
}

/// A stack of the default size is an ordinary one; one byte more makes it a larger one.
fn deep_beside_small() {
    Builder::new().max_procs(1).start().unwrap();
    gopark::run(|| {
        let mappings = || {
            fs::read_to_string("/proc/self/maps")
                .unwrap()
                .lines()
                .count()
        };
        join(go(|| ()));
        let before = mappings();
        for bytes in [0, 1, 190 << 10] {
            join(
                gopark::thread::Builder::new()
                    .stack_size(bytes)
                    .spawn(|| dig(180 << 10))
                    .unwrap(),
            );
        }
        assert_eq!(mappings(), before);
        for bytes in [
            191 << 10,
            256 << 10,
            1 << 20,
            (1 << 20) + 1,
            3 << 20,
            1 << 30,
        ] {
            // Of the largest stack, a part is enough.
            let used = (bytes - (8 << 10)).min(50 << 20);
            join(
                gopark::thread::Builder::new()
                    .stack_size(bytes)
                    .spawn(move || dig(used))
                    .unwrap(),
            );
        }
        assert!(mappings() > before);
        let error = gopark::thread::Builder::new()
            .stack_size((1 << 30) + 1)
            .spawn(|| ())
            .unwrap_err();
        println!("{:?}: {error}", error.kind());
    });
}

/// Spawns until no largest stack is left, and then again.
fn deep_without_room() {
    limit(libc::RLIMIT_AS, 24 << 30);
    Builder::new().max_procs(1).start().unwrap();
    gopark::run(|| {
        let spawn = |release: &Arc<AtomicBool>| {
            let release = release.clone();
            gopark::thread::Builder::new()
                .stack_size(1 << 30)
                .spawn(move || until("it is released", || release.load(SeqCst)))
        };
        for _ in 0..3 {
            let release = Arc::new(AtomicBool::new(false));
            let mut goroutines = Vec::new();
            let error = loop {
                match spawn(&release) {
                    Ok(goroutine) => goroutines.push(goroutine),
                    Err(error) => break error,
                }
                assert!(goroutines.len() < 24, "the limit has no effect");
            };
            println!("{}: {:?}: {error}", goroutines.len(), error.kind());
            assert!(!goroutines.is_empty());
            release.store(true, SeqCst);
            goroutines.into_iter().for_each(join);
            until("their stacks are free", || gopark::num_goroutines() == 1);
        }
        join(go(|| println!("ordinary ones go on")));
    });
}

/// Allocates a third of the address space beside stacks of four larger sizes, which must succeed.
fn deep_in_four_sizes() {
    limit(libc::RLIMIT_AS, 4 << 30);
    Builder::new().max_procs(2).start().unwrap();
    gopark::run(|| {
        for bytes in [1 << 20, 2 << 20, 4 << 20, 8 << 20] {
            let deep = || {
                gopark::thread::Builder::new()
                    .stack_size(bytes)
                    .spawn(move || dig(bytes - (8 << 10)))
                    .unwrap()
            };
            [deep(), deep()].into_iter().for_each(join);
        }
        let mut heap = Vec::<u8>::new();
        heap.try_reserve_exact((4 << 30) / 3).unwrap();
        // The allocation is not optimised away.
        black_box(heap);
    });
}

/// Gives the thread a signal stack of `size` bytes with a guard below it.
fn take_signal_stack(size: usize) {
    // SAFETY: a new mapping, opened above its guard and never unmapped.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let guard = libc::mmap(ptr::null_mut(), 1 << 20, libc::PROT_NONE, flags, -1, 0);
        assert_ne!(guard, libc::MAP_FAILED);
        let stack = libc::stack_t {
            ss_sp: guard.byte_add(64 << 10),
            ss_flags: 0,
            ss_size: size,
        };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        assert_eq!(libc::mprotect(stack.ss_sp, size, access), 0);
        assert_eq!(libc::sigaltstack(&stack, ptr::null_mut()), 0);
    }
}

/// Reads an address where a stack could be, but is not. The program's own handler must be called,
/// on a signal stack that is as small as std's on a CPU with AVX-512.
fn wild() {
    extern "C" fn handler(_: libc::c_int) {
        let text = "the program's own handler\n";
        // SAFETY: the text is valid for its length; a handler may write and exit.
        unsafe {
            libc::write(libc::STDOUT_FILENO, text.as_ptr().cast(), text.len());
            libc::_exit(0);
        }
    }
    // SAFETY: the handler is one of the type that these flags say.
    unsafe { libc::signal(libc::SIGSEGV, handler as *const () as libc::sighandler_t) };
    work();
    // SAFETY: getauxval(3) takes any number. The kernel knows the size of the frame of a signal.
    let frame = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
    take_signal_stack(frame.max(libc::MINSIGSTKSZ) + (3 << 10));
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let ends = maps
        .lines()
        .filter(|line| line.contains(" ---p "))
        .map(|line| {
            let (from, to) = line
                .split(' ')
                .next()
                .and_then(|bounds| bounds.split_once('-'))
                .unwrap();
            let [from, to] = [from, to].map(|address| usize::from_str_radix(address, 16).unwrap());
            (to - from, to)
        });
    let (_, end) = ends.max().expect("the reservation");
    // SAFETY: none; the program exists for this fault.
    println!("{}", unsafe {
        ptr::with_exposed_provenance::<u8>(end - (256 << 10)).read_volatile()
    });
}
