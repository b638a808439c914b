//! Runs a yield, a spawn, a first run, a return, a join and a park one instruction at a time, and
//! unwinds at each instruction, as the signal handler of a profiler might. Every trace must end at
//! the beginning of the stack on which it was taken: a goroutine's, or its M's.
//!
//! It prints the number of instructions, and how many of them were on goroutines.
#![allow(
    unsafe_code,
    reason = "a handler of the signal that the trap flag raises reads registers, and unwinds"
)]

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")))]
fn main() {
    println!(
        "skip: only x86-64 has the trap flag, and only glibc's threads end where unwinding can stop"
    );
}

#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
fn main() {
    stepped::main();
}

#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
mod stepped {
    use std::arch::asm;
    use std::collections::BTreeSet;
    use std::ffi::{c_int, c_void};
    use std::ops::Range;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
    use std::time::Duration;
    use std::{mem, ptr, thread};

    const STEPS_MAX: usize = 1 << 18;
    const DEPTH_MAX: usize = 200;
    const TRAP_FLAG: i64 = 0x100;

    /// At each step: the instruction, the stack pointer, and the address of the outermost frame, or
    /// 0 if the trace did not end.
    static SEEN: [[AtomicUsize; 3]; STEPS_MAX] =
        [const { [const { AtomicUsize::new(0) }; 3] }; STEPS_MAX];
    static STEPS: AtomicUsize = AtomicUsize::new(0);
    static STOP: AtomicBool = AtomicBool::new(false);

    unsafe extern "C" {
        fn _Unwind_Backtrace(
            each: extern "C" fn(*mut c_void, &mut Walk) -> c_int,
            walk: &mut Walk,
        ) -> c_int;
        fn _Unwind_GetIP(frame: *mut c_void) -> usize;
    }

    #[derive(Default)]
    #[repr(C)]
    struct Walk {
        depth: usize,
        outermost: usize,
    }

    extern "C" fn each(frame: *mut c_void, walk: &mut Walk) -> c_int {
        const NORMAL_STOP: c_int = 4;
        // SAFETY: the unwinder passes a frame.
        let ip = unsafe { _Unwind_GetIP(frame) };
        // The frame after the outermost one has no address.
        walk.outermost = if ip == 0 { walk.outermost } else { ip };
        walk.depth += 1;
        if walk.depth == DEPTH_MAX {
            NORMAL_STOP
        } else {
            0
        }
    }

    fn outermost() -> usize {
        let mut walk = Walk::default();
        // SAFETY: `each` takes what is passed for it.
        unsafe { _Unwind_Backtrace(each, &mut walk) };
        if walk.depth == DEPTH_MAX {
            0
        } else {
            walk.outermost
        }
    }

    extern "C" fn on_trap(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: a handler with SA_SIGINFO gets the registers of what it interrupts.
        let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
        let step = STEPS.load(Relaxed);
        if STOP.load(Relaxed) || step == STEPS_MAX {
            registers[libc::REG_EFL as usize] &= !TRAP_FLAG;
            return;
        }
        let [ip, sp] =
            [libc::REG_RIP, libc::REG_RSP].map(|register| registers[register as usize] as usize);
        for (word, value) in SEEN[step].iter().zip([ip, sp, outermost()]) {
            word.store(value, Relaxed);
        }
        STEPS.store(step + 1, Relaxed);
    }

    /// The stack of the calling thread, even when the caller runs on another one.
    fn threads_stack() -> Range<usize> {
        let (mut start, mut size) = (ptr::null_mut(), 0);
        // SAFETY: the attributes are initialised by the first call, and destroyed once.
        unsafe {
            let mut attributes = mem::zeroed();
            assert_eq!(
                libc::pthread_getattr_np(libc::pthread_self(), &mut attributes),
                0
            );
            assert_eq!(
                libc::pthread_attr_getstack(&attributes, &mut start, &mut size),
                0
            );
            libc::pthread_attr_destroy(&mut attributes);
        }
        start as usize..start as usize + size
    }

    /// Whether `ip` is in the linker's `jmp [rip + …]` into a library, for which lld writes no CFI.
    fn is_linkage(ip: usize) -> bool {
        // SAFETY: the instruction has been executed, and is six bytes long if it begins like that.
        unsafe { *(ip as *const [u8; 2]) == [0xff, 0x25] }
    }

    /// The program under test, in a goroutine on the only M.
    fn program() {
        gopark::yield_now();
        let other = gopark::go(|| {
            gopark::yield_now();
            7
        });
        assert_eq!(other.join().unwrap(), 7);
        gopark::sleep(Duration::from_millis(1));
    }

    pub(super) fn main() {
        // SAFETY: a handler that fits its flags; all of sigaction may be 0.
        unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = on_trap as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGTRAP, &action, ptr::null_mut()), 0);
        }
        let end_of_threads = thread::spawn(outermost).join().unwrap();
        gopark::Builder::new()
            .max_procs(1)
            .sysmon(false)
            .start()
            .unwrap();
        let (end, stack) = gopark::run(|| {
            // A first run, so that one-time initialisation is not stepped through.
            program();
            let here = (outermost(), threads_stack());
            // SAFETY: from here on each instruction of this thread ends in the handler above.
            unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
            program();
            STOP.store(true, Relaxed);
            here
        });
        let steps = STEPS.load(Relaxed);
        assert!(steps < STEPS_MAX, "more than {STEPS_MAX} instructions");
        let (mut inside, mut ends) = (0, BTreeSet::new());
        for (step, seen) in SEEN[..steps].iter().enumerate() {
            let [ip, sp, outermost] = [0, 1, 2].map(|i| seen[i].load(Relaxed));
            if outermost == ip && is_linkage(ip) {
                continue;
            }
            let place = format!("step {step} of {steps} at {ip:#x} with its stack at {sp:#x}");
            if stack.contains(&sp) {
                assert_eq!(
                    outermost, end_of_threads,
                    "{place}: the trace of an M ends elsewhere than a thread's"
                );
            } else {
                // The first function of goroutines is short.
                assert!(
                    outermost.abs_diff(end) < 20,
                    "{place}: the trace of a goroutine ends at {outermost:#x}, not about {end:#x}"
                );
                inside += 1;
                ends.insert(outermost);
            }
        }
        // Before, during and after the call of the goroutine's function.
        assert!(
            ends.len() > 3,
            "the beginning and the end of a goroutine were not seen: {ends:x?}"
        );
        assert!(
            inside > 300 && steps - inside > 300,
            "{inside} of {steps} steps on goroutines"
        );
        println!("{steps} instructions, {inside} on goroutines");
    }
}
