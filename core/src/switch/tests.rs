//! Tests of the switch: that both implementations behave alike, that the one in assembly keeps the
//! registers it must, and that it can be unwound at each of its instructions.

use super::{Entry, Stop, machine, native, portable};
use crate::stack::Stack;
use core::arch::{asm, global_asm};
use core::cell::{Cell, RefCell};
use core::hint::black_box;
use core::ptr::{self, NonNull};
use std::boxed::Box;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

/// Runs one test at a time, since one of them plants breakpoints in the code of the switch.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The methods of both implementations.
trait Switch: Sized + 'static {
    fn new() -> Self;
    unsafe fn start(&self, stack: Stack, entry: Entry, argument: NonNull<()>);
    unsafe fn resume(&self) -> Stop;
    unsafe fn suspend(&self, word: *mut ());
}

macro_rules! is_a_switch {
    ($context:ty) => {
        impl Switch for $context {
            fn new() -> Self {
                <$context>::new()
            }

            unsafe fn start(&self, stack: Stack, entry: Entry, argument: NonNull<()>) {
                // SAFETY: the caller's promise.
                unsafe { self.start(stack, entry, argument) }
            }

            unsafe fn resume(&self) -> Stop {
                // SAFETY: the caller's promise.
                unsafe { self.resume() }
            }

            unsafe fn suspend(&self, word: *mut ()) {
                // SAFETY: the caller's promise.
                unsafe { self.suspend(word) }
            }
        }
    };
}

is_a_switch!(native::Context);
is_a_switch!(portable::Context);

/// A context and its stack, on which `body(self)` runs.
#[repr(C)]
struct Coroutine<S> {
    switch: S,
    body: Box<dyn Fn(&S)>,
    stack: Box<[u128]>,
}

impl<S: Switch> Coroutine<S> {
    fn new(body: impl Fn(&S) + 'static) -> Box<Self> {
        unsafe extern "C" fn entry<S: Switch>(coroutine: NonNull<()>) {
            // SAFETY: `start` below passes a coroutine that stays in its box.
            let coroutine = unsafe { coroutine.cast::<Coroutine<S>>().as_ref() };
            (coroutine.body)(&coroutine.switch);
        }
        let stack: Box<[u128]> = std::vec![0; 8192].into();
        let coroutine = Box::new(Coroutine {
            switch: S::new(),
            body: Box::new(body),
            stack,
        });
        let bounds = Stack {
            base: coroutine.stack().end,
            limit: coroutine.stack().start,
        };
        // SAFETY: the box is freed by tests only after the coroutine has returned.
        unsafe {
            coroutine
                .switch
                .start(bounds, entry::<S>, NonNull::from(&*coroutine).cast())
        };
        coroutine
    }

    fn stack(&self) -> core::ops::Range<usize> {
        let range = self.stack.as_ptr_range();
        range.start as usize..range.end as usize
    }

    fn resume(&self) -> Stop {
        // SAFETY: tests resume only a coroutine that has not returned and does not run.
        unsafe { self.switch.resume() }
    }
}

/// Coroutines that resume each other and suspend themselves at random.
struct RandomProgram<S: 'static> {
    coroutines: RefCell<Vec<&'static Coroutine<S>>>,
    /// The coroutines that neither run nor have returned.
    idle: RefCell<Vec<usize>>,
    random: RefCell<fastrand::Rng>,
    trace: RefCell<Vec<(usize, u64)>>,
}

impl<S: Switch> RandomProgram<S> {
    fn random(&self, limit: u64) -> u64 {
        self.random.borrow_mut().u64(..limit)
    }

    fn note(&self, coroutine: usize, event: u64) {
        self.trace.borrow_mut().push((coroutine, event));
    }

    /// Resumes an idle coroutine, if there is one.
    fn resume_one(&self, by: usize) {
        let which = {
            let mut idle = self.idle.borrow_mut();
            if idle.is_empty() {
                return;
            }
            let at = self.random(idle.len() as u64) as usize;
            idle.swap_remove(at)
        };
        self.note(by, which as u64);
        let coroutine = self.coroutines.borrow()[which];
        match coroutine.resume() {
            Stop::Suspended(word) => {
                self.note(which, word.addr() as u64);
                self.idle.borrow_mut().push(which);
            }
            Stop::Returned => self.note(which, u64::MAX),
        }
    }

    /// What each coroutine runs. It has enough variables to fill all registers.
    fn run(&self, me: usize, switch: &S) {
        for _ in 0..self.random(8) {
            let values = [0; 10].map(|_| black_box(self.random(u64::MAX)));
            let [a, b, c, d, e, f, g, h, i, j] = values;
            if self.random(3) == 0 {
                self.resume_one(me);
            } else {
                // SAFETY: this is its stack, and an even word is not 1.
                unsafe { switch.suspend(ptr::without_provenance_mut(a as usize & !1)) };
            }
            let mixed = [a, b, c, d, e, f, g, h, i, j]
                .into_iter()
                .fold(0, |sum: u64, value| sum.rotate_left(7) ^ value);
            assert_eq!(
                mixed,
                black_box(values)
                    .into_iter()
                    .fold(0, |sum: u64, value| sum.rotate_left(7) ^ value)
            );
            self.note(me, mixed);
        }
    }
}

fn trace_of<S: Switch>(seed: u64) -> Vec<(usize, u64)> {
    const COROUTINES: usize = 6;
    let program: &'static RandomProgram<S> = Box::leak(Box::new(RandomProgram {
        coroutines: RefCell::new(Vec::new()),
        idle: RefCell::new((0..COROUTINES).collect()),
        random: RefCell::new(fastrand::Rng::with_seed(seed).fork()),
        trace: RefCell::new(Vec::new()),
    }));
    for me in 0..COROUTINES {
        let coroutine = Coroutine::new(move |switch| program.run(me, switch));
        program.coroutines.borrow_mut().push(Box::leak(coroutine));
    }
    while !program.idle.borrow().is_empty() {
        program.resume_one(COROUTINES);
    }
    let trace = program.trace.take();
    for coroutine in program.coroutines.take() {
        // SAFETY: it was leaked above, and has returned.
        drop(unsafe { Box::from_raw(ptr::from_ref(coroutine).cast_mut()) });
    }
    trace
}

#[test]
fn random_programs_go_the_same_way_with_both_switches() {
    let _alone = alone();
    let mut longest = 0;
    for seed in 1..300 {
        let trace = trace_of::<native::Context>(seed);
        assert_eq!(trace, trace_of::<portable::Context>(seed), "seed {seed}");
        longest = longest.max(trace.len());
    }
    assert!(longest > 50, "no program does much: {longest}");
}

/// Enters with marks in the registers that the switch keeps. Returns what they hold afterwards.
fn enter_with_marks(switch: &native::Context, marks: [usize; 2]) -> [usize; 2] {
    // The word is the context's only field.
    let other = ptr::from_ref(switch).cast_mut();
    let [mut first, mut second] = marks;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in `machine::enter`; the two registers are put back.
    unsafe {
        asm!(
            "push rbx", "push rbp", "mov rbx, r8", "mov rbp, r9",
            concat!("call ", symbol!("enter")),
            "mov r8, rbx", "mov r9, rbp", "pop rbp", "pop rbx",
            inlateout("rdi") other => _, inlateout("r8") first, inlateout("r9") second,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            clobber_abi("sysv64"),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as in `machine::enter`; the two registers are put back.
    unsafe {
        asm!(
            "stp x19, x29, [sp, #-16]!", "mov x19, x1", "mov x29, x2",
            concat!("bl ", symbol!("enter")), "hint #36",
            "mov x1, x19", "mov x2, x29", "ldp x19, x29, [sp], #16",
            inlateout("x0") other => _, inlateout("x1") first, inlateout("x2") second,
            lateout("x20") _, lateout("x21") _, lateout("x22") _,
            lateout("x23") _, lateout("x24") _, lateout("x25") _,
            lateout("x26") _, lateout("x27") _, lateout("x28") _,
            clobber_abi("C"),
        );
    }
    [first, second]
}

/// As `enter_with_marks`, but leaves.
fn leave_with_marks(switch: &native::Context, marks: [usize; 2]) -> [usize; 2] {
    let other = ptr::from_ref(switch).cast_mut();
    let [mut first, mut second] = marks;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in `enter_with_marks`.
    unsafe {
        asm!(
            "push rbx", "push rbp", "mov rbx, r8", "mov rbp, r9",
            concat!("call ", symbol!("leave")),
            "mov r8, rbx", "mov r9, rbp", "pop rbp", "pop rbx",
            inlateout("rdi") other => _, inlateout("rsi") 0usize => _,
            inlateout("r8") first, inlateout("r9") second,
            lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
            clobber_abi("sysv64"),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as in `enter_with_marks`.
    unsafe {
        asm!(
            "stp x19, x29, [sp, #-16]!", "mov x19, x2", "mov x29, x3",
            concat!("bl ", symbol!("leave")), "hint #36",
            "mov x2, x19", "mov x3, x29", "ldp x19, x29, [sp], #16",
            inlateout("x0") other => _, inlateout("x1") 0usize => _,
            inlateout("x2") first, inlateout("x3") second,
            lateout("x20") _, lateout("x21") _, lateout("x22") _,
            lateout("x23") _, lateout("x24") _, lateout("x25") _,
            lateout("x26") _, lateout("x27") _, lateout("x28") _,
            clobber_abi("C"),
        );
    }
    [first, second]
}

#[test]
fn registers_that_a_call_keeps_are_kept_on_both_sides() {
    let _alone = alone();
    let coroutine = Coroutine::<native::Context>::new(|switch| {
        for marks in [[5, 6], [7, 8]] {
            assert_eq!(leave_with_marks(switch, marks), marks);
        }
    });
    for marks in [[1, 2], [3, 4], [9, 10]] {
        assert_eq!(enter_with_marks(&coroutine.switch, marks), marks);
    }
}

// An entry that notes its frame pointer and stack pointer.
#[cfg(target_arch = "x86_64")]
global_asm!(
    begin!("probe"),
    "mov [rdi], rbp",
    "mov [rdi + 8], rsp",
    "ret",
    end!("probe")
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    begin!("probe"),
    "hint #34",
    "mov x9, sp",
    "stp x29, x9, [x0]",
    "ret",
    end!("probe")
);

#[test]
fn an_entry_begins_on_an_aligned_stack_and_with_the_end_of_the_chain_of_frame_pointers() {
    let _alone = alone();
    let entry: usize;
    // SAFETY: the asm only computes an address.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(concat!("lea {}, [rip + ", symbol!("probe"), "]"), out(reg) entry)
    };
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            concat!("adrp {0}, ", symbol!("probe")),
            concat!("add {0}, {0}, :lo12:", symbol!("probe")),
            out(reg) entry
        )
    };
    let (switch, mut noted) = (native::Context::new(), [1usize; 2]);
    let stack = std::vec![0u128; 1024];
    let bounds = stack.as_ptr_range();
    // SAFETY: the entry takes an address of two words. It returns before the stack is freed.
    let stop = unsafe {
        let entry = core::mem::transmute::<usize, Entry>(entry);
        switch.start(
            Stack {
                base: bounds.end as usize,
                limit: bounds.start as usize,
            },
            entry,
            NonNull::from(&mut noted).cast(),
        );
        switch.resume()
    };
    assert_eq!(stop, Stop::Returned);
    let [fp, sp] = black_box(noted);
    assert_eq!(fp, 0);
    // A call pushes its return address on x86-64.
    let pushed = if cfg!(target_arch = "x86_64") {
        size_of::<usize>()
    } else {
        0
    };
    assert_eq!((sp + pushed) % 16, 0);
    assert!(
        bounds.end as usize - sp <= 64,
        "{} bytes are used",
        bounds.end as usize - sp
    );
}

/// The rounding modes in the control words of the floating point unit.
#[cfg(target_arch = "x86_64")]
fn rounding() -> [u16; 2] {
    let (mut sse, mut x87) = (0u32, 0u16);
    // SAFETY: stores control words where they fit.
    unsafe {
        asm!("stmxcsr [{}]", "fnstcw [{}]", in(reg) &mut sse, in(reg) &mut x87, options(nostack))
    };
    [sse as u16 & 0x6000, x87 & 0x0c00]
}

#[cfg(target_arch = "x86_64")]
fn set_rounding([sse, x87]: [u16; 2]) {
    let (sse, x87) = (0x1f80 | u32::from(sse), 0x037f | x87);
    // SAFETY: both are valid control words. The caller sets them back before it rounds any number.
    unsafe {
        asm!("ldmxcsr [{}]", "fldcw [{}]", in(reg) &sse, in(reg) &x87, options(nostack, readonly))
    };
}

#[cfg(target_arch = "x86_64")]
#[test]
fn control_words_of_the_floating_point_unit_are_the_threads_and_hold_across_switches() {
    let _alone = alone();
    const UP: [u16; 2] = [0x4000, 0x0800];
    const DOWN: [u16; 2] = [0x2000, 0x0400];
    let coroutine = Coroutine::<native::Context>::new(|switch| {
        assert_eq!(rounding(), UP);
        set_rounding(DOWN);
        // SAFETY: this is its stack.
        unsafe { switch.suspend(ptr::null_mut()) };
        assert_eq!(rounding(), UP);
    });
    let before = rounding();
    set_rounding(UP);
    let stop = coroutine.resume();
    let seen = rounding();
    set_rounding(UP);
    let last = coroutine.resume();
    set_rounding(before);
    assert_eq!(
        (stop, seen, last),
        (Stop::Suspended(ptr::null_mut()), DOWN, Stop::Returned)
    );
}

/// Traces by the unwinder that panics use.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod traces {
    use super::*;
    use core::ffi::{c_int, c_void};

    const DEPTH_MAX: usize = 100;

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
        // The walk ends with a frame that has no address.
        walk.outermost = if ip == 0 { walk.outermost } else { ip };
        walk.depth += 1;
        if walk.depth == DEPTH_MAX {
            NORMAL_STOP
        } else {
            0
        }
    }

    /// The address of the outermost frame, or 0 if a trace from here does not end.
    pub(super) fn outermost() -> usize {
        let mut walk = Walk::default();
        // SAFETY: `each` takes what is passed for it.
        unsafe { _Unwind_Backtrace(each, &mut walk) };
        if walk.depth == DEPTH_MAX {
            0
        } else {
            walk.outermost
        }
    }

    pub(super) fn handle_traps(handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)) {
        // SAFETY: a handler that fits its flags; all of sigaction may be 0.
        unsafe {
            let mut action: libc::sigaction = core::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGTRAP, &action, ptr::null_mut()), 0);
        }
    }

    #[test]
    fn a_trace_ends_in_the_first_function_of_its_coroutine() {
        let _alone = alone();
        let end = Box::leak(Box::new(Cell::new(0)));
        let coroutine = Coroutine::<native::Context>::new(|_| end.set(outermost()));
        assert_eq!(coroutine.resume(), Stop::Returned);
        let start = machine::start();
        assert!(
            (start..start + 32).contains(&end.get()),
            "{:#x} is not about {start:#x}",
            end.get()
        );
    }
}

/// Unwinds at every instruction, in a handler of the signal that the trap flag raises.
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
mod steps {
    use super::traces::{handle_traps, outermost};
    use super::*;
    use core::ffi::{c_int, c_void};
    use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    const STEPS_MAX: usize = 8192;
    const TRAP_FLAG: i64 = 0x100;

    /// At each step: the instruction, the stack pointer, and the outermost frame's address, 0 if
    /// the trace did not end.
    static SEEN: [[AtomicUsize; 3]; STEPS_MAX] =
        [const { [const { AtomicUsize::new(0) }; 3] }; STEPS_MAX];
    static STEPS: AtomicUsize = AtomicUsize::new(0);
    /// The instruction at which stepping ends.
    static END: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn on_trap(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: a handler with SA_SIGINFO gets the registers of what it interrupts.
        let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
        let [ip, sp] =
            [libc::REG_RIP, libc::REG_RSP].map(|register| registers[register as usize] as usize);
        let step = STEPS.fetch_add(1, Relaxed);
        if ip == END.load(Relaxed) || step >= STEPS_MAX {
            registers[libc::REG_EFL as usize] &= !TRAP_FLAG;
        } else {
            for (word, value) in SEEN[step].iter().zip([ip, sp, outermost()]) {
                word.store(value, Relaxed);
            }
        }
    }

    /// Steps through the resumes of `coroutine` until it has returned.
    fn step(coroutine: &Coroutine<native::Context>) {
        handle_traps(on_trap);
        END.store(stop as *const () as usize, Relaxed);
        // SAFETY: from here on each instruction ends in the handler above.
        unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
        while coroutine.resume() != Stop::Returned {}
        stop();
    }

    #[inline(never)]
    extern "C" fn stop() {
        black_box(());
    }

    #[test]
    fn a_trace_from_every_instruction_ends_where_its_stack_begins() {
        let _alone = alone();
        let coroutine = Coroutine::<native::Context>::new(|switch| {
            // SAFETY: this is its stack.
            unsafe { switch.suspend(ptr::null_mut()) };
        });
        let thread = outermost();
        step(&coroutine);
        let start = machine::start();
        let first = start..start + 24;
        let steps = STEPS.load(Relaxed);
        assert!(steps <= STEPS_MAX, "more than {STEPS_MAX} instructions");
        let seen = SEEN[..steps - 1]
            .iter()
            .map(|step| [0, 1, 2].map(|i| step[i].load(Relaxed)));
        let (mut inside, mut outside, mut at_first) = (0, 0, Vec::new());
        for (step, [ip, sp, outermost]) in seen.enumerate() {
            let place = std::format!("step {step} of {steps} at {ip:#x} with its stack at {sp:#x}");
            if coroutine.stack().contains(&sp) {
                inside += 1;
                assert!(
                    first.contains(&outermost),
                    "{place}: the trace of a coroutine ends at {outermost:#x}, not in {first:x?}"
                );
            } else {
                outside += 1;
                assert_eq!(
                    outermost, thread,
                    "{place}: the trace of a thread ends elsewhere"
                );
            }
            if first.contains(&ip) {
                at_first.push(ip - start);
            }
        }
        assert!(inside > 20 && outside > 20, "{inside} and {outside} steps");
        // All instructions of `start`, except the first and the last, which never run.
        assert_eq!(at_first, [1, 5, 7, 12, 17]);
    }
}

/// Unwinds at every instruction of the assembly. A breakpoint replaces each of them in turn.
#[cfg(all(target_arch = "aarch64", target_os = "linux", target_env = "gnu"))]
mod breakpoints {
    use super::traces::{handle_traps, outermost};
    use super::*;
    use core::ffi::{c_int, c_void};
    use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

    const BREAKPOINT: u32 = 0xd420_0000;

    /// The instruction that the breakpoint has replaced.
    static ORIGINAL: AtomicU32 = AtomicU32::new(0);
    /// At the last breakpoint: the instruction, the stack pointer, and the outermost frame's
    /// address.
    static SEEN: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];

    /// Writes `instruction` at `place`. Returns the one that was there.
    fn write(place: usize, instruction: u32) -> u32 {
        let instructions = place as *mut u32;
        // SAFETY: the page was made writable, and no other thread runs this code.
        unsafe {
            let before = instructions.replace(instruction);
            asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb", in(reg) place);
            before
        }
    }

    extern "C" fn on_breakpoint(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: a handler with SA_SIGINFO gets the registers of what it interrupts.
        let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext };
        for (word, value) in
            SEEN.iter()
                .zip([registers.pc as usize, registers.sp as usize, outermost()])
        {
            word.store(value, Relaxed);
        }
        write(registers.pc as usize, ORIGINAL.load(Relaxed));
    }

    fn plant(place: usize) {
        SEEN[0].store(0, Relaxed);
        ORIGINAL.store(write(place, BREAKPOINT), Relaxed);
    }

    fn functions() -> [usize; 3] {
        let (enter, leave);
        // SAFETY: the asm only computes addresses.
        unsafe {
            asm!(
                concat!("adrp {0}, ", symbol!("enter")),
                concat!("add {0}, {0}, :lo12:", symbol!("enter")),
                concat!("adrp {1}, ", symbol!("leave")),
                concat!("add {1}, {1}, :lo12:", symbol!("leave")),
                out(reg) enter, out(reg) leave,
            )
        };
        [enter, leave, machine::start()]
    }

    #[test]
    fn a_trace_from_every_instruction_ends_where_its_stack_begins() {
        let _alone = alone();
        let thread = outermost();
        let [enter, leave, start] = functions();
        handle_traps(on_breakpoint);
        let first = start..start + 32;
        // For each function: the number of its instructions, how many at each end do not run, and
        // in which of two resumes it runs.
        for (function, len, skipped, runs) in [
            (enter, 10, 0, &[0, 1][..]),
            (leave, 10, 0, &[0, 1]),
            (start, 4, 1, &[0]),
            (start + 16, 3, 0, &[1]),
        ] {
            for (place, &run) in
                (skipped..len).flat_map(|i| runs.iter().map(move |run| (function + 4 * i, run)))
            {
                let page = (place & !0xfff) as *mut c_void;
                // SAFETY: the page stays executable, and its content as it is.
                let writable = unsafe {
                    libc::mprotect(
                        page,
                        0x1000,
                        libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                    )
                };
                assert_eq!(writable, 0);
                let coroutine = Coroutine::<native::Context>::new(|switch| {
                    // SAFETY: this is its stack.
                    unsafe { switch.suspend(ptr::null_mut()) };
                });
                for now in 0..2 {
                    if now == run {
                        plant(place);
                    }
                    coroutine.resume();
                }
                let [ip, sp, outermost] = [0, 1, 2].map(|i| SEEN[i].load(Relaxed));
                assert_eq!(
                    ip, place,
                    "{place:#x} does not run, in functions at {enter:#x}, {leave:#x} and {start:#x}"
                );
                if coroutine.stack().contains(&sp) {
                    assert!(
                        first.contains(&outermost),
                        "{place:#x}, resume {run}: the trace of a coroutine ends at {outermost:#x}"
                    );
                } else {
                    assert_eq!(
                        outermost, thread,
                        "{place:#x}, resume {run}: the trace of a thread ends elsewhere"
                    );
                }
            }
        }
    }
}
