//! Tests: backtraces of coroutines that are suspended some calls deep, and of random bytes.
#![allow(
    unsafe_code,
    reason = "registers are read, and stacks are made and copied"
)]

use super::Backtraces;
use super::symbols::Symbols;
use super::unwind::{Frames, MAX_FRAMES, Unwinder};
use crate::runtime::LINUX;
use corosensei::stack::{Stack, StackPointer};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use gopark_core::os::Observe;
use gopark_core::watch::{Place, StackCopy};
use libc::{c_int, c_void};
use std::arch::asm;
use std::hint::black_box;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// Returns the registers of the function into which it is inlined.
#[inline(always)]
fn registers() -> Place {
    let (ip, sp, fp);
    cfg_if::cfg_if! {
        if #[cfg(target_arch = "x86_64")] {
            // SAFETY: reads registers.
            unsafe {
                asm!("lea {ip}, [rip]", "mov {sp}, rsp", "mov {fp}, rbp",
                    ip = out(reg) ip, sp = out(reg) sp, fp = out(reg) fp,
                    options(nomem, nostack, preserves_flags));
            }
        } else {
            // SAFETY: reads registers.
            unsafe {
                asm!("adr {ip}, .", "mov {sp}, sp", "mov {fp}, x29",
                    ip = out(reg) ip, sp = out(reg) sp, fp = out(reg) fp,
                    options(nomem, nostack, preserves_flags));
            }
        }
    }
    Place { ip, sp, fp }
}

struct Memory(Vec<u128>);

// SAFETY: the memory is aligned and lives as long as the coroutine. It has no guard: the functions
// below are known to fit.
unsafe impl Stack for Memory {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.0.as_ptr_range().end as usize).unwrap()
    }

    fn limit(&self) -> StackPointer {
        StackPointer::new(self.0.as_ptr() as usize).unwrap()
    }
}

/// A copy of a stack that was suspended in `deepest`.
struct Parked {
    place: Place,
    bytes: Vec<u8>,
    /// The line numbers of the calls, as the functions have recorded them, outermost first.
    lines: Vec<u32>,
}

impl Parked {
    fn stopped(&self) -> StackCopy<'_> {
        StackCopy {
            place: self.place,
            bytes: &self.bytes,
        }
    }
}

type Yield<'a> = &'a Yielder<(), (Place, Vec<u32>)>;

#[inline(never)]
fn deepest(park: Yield<'_>, mut lines: Vec<u32>) {
    lines.push(line!() + 1);
    let place = registers();
    park.suspend((place, lines));
    black_box(park);
}

#[inline(never)]
fn middle(park: Yield<'_>, mut lines: Vec<u32>) {
    lines.push(line!() + 1);
    inlined(park, lines);
    black_box(park);
}

#[inline(always)]
fn inlined(park: Yield<'_>, mut lines: Vec<u32>) {
    lines.push(line!() + 1);
    deepest(park, lines);
    black_box(park);
}

#[inline(never)]
fn recursive(park: Yield<'_>, mut lines: Vec<u32>, depth: usize) {
    lines.push(line!() + 2);
    match depth.checked_sub(1) {
        Some(less) => recursive(park, lines, less),
        None => middle(park, lines),
    }
    black_box(park);
}

/// Returns the stack of a coroutine suspended below `depth` recursive calls of `recursive`.
fn parked(depth: usize) -> Parked {
    let memory = Memory(vec![0; 1 << 14]);
    let base = memory.base().get();
    // SAFETY: the closure's captures outlive the coroutine, which is not dropped before it has
    // returned.
    let mut coroutine = unsafe {
        Coroutine::with_stack_unchecked(memory, move |park: &Yielder<(), (Place, Vec<u32>)>, ()| {
            recursive(park, Vec::new(), depth)
        })
    };
    let CoroutineResult::Yield((place, lines)) = coroutine.resume(()) else {
        panic!("the coroutine does not return before it is resumed")
    };
    let bytes = copy(place, base);
    assert!(matches!(coroutine.resume(()), CoroutineResult::Return(())));
    Parked {
        place,
        bytes,
        lines,
    }
}

/// Copies the stack of a suspended coroutine, from its stack pointer to its base.
fn copy(place: Place, base: usize) -> Vec<u8> {
    let mut bytes = vec![0; base - place.sp];
    // The kernel may read the redzones of a sanitizer, which this process must not. An emulator may
    // lack the system call.
    if LINUX.copy(place.sp, &mut bytes) < bytes.len() {
        // SAFETY: these bytes are in use and do not change while the coroutine is suspended.
        bytes.copy_from_slice(unsafe {
            std::slice::from_raw_parts(place.sp as *const u8, base - place.sp)
        });
    }
    bytes
}

/// Returns the lines of all functions. The backtrace would omit those of this file, which belong to
/// gopark.
fn text(parked: &Parked) -> String {
    let frames = Unwinder::new().frames(&parked.stopped());
    Symbols::default()
        .functions(&frames)
        .iter()
        .map(|function| function.text.as_str())
        .collect()
}

#[test]
fn functions_are_named_with_the_lines_of_their_calls() {
    let parked = parked(2);
    let text = text(&parked);
    let mut lines = text.lines();
    // The innermost function is `registers`, inlined into `deepest`.
    let (_, mut lines) = (lines.next(), lines.skip(1));
    let names = [
        "deepest",
        "inlined",
        "middle",
        "recursive",
        "recursive",
        "recursive",
    ];
    let calls: Vec<_> = parked.lines.iter().copied().rev().collect();
    // The last call of `recursive` is in the next arm, a line below.
    let calls: Vec<_> = calls
        .iter()
        .enumerate()
        .map(|(i, line)| if i == 3 { line + 1 } else { *line })
        .collect();
    for (name, call) in names.into_iter().zip(calls) {
        let named = lines.next().unwrap();
        assert!(
            [
                format!("    {name}"),
                format!("    gopark::backtraces::tests::{name}")
            ]
            .contains(&named.into()),
            "{named} is not {name}: {text}"
        );
        let place = lines.next().unwrap();
        assert!(
            place.starts_with("        ") && place.ends_with(&format!("{}:{call}", file!())),
            "{place} is not line {call}: {text}"
        );
    }
    assert!(
        lines.next().is_some_and(|name| name.contains("closure")),
        "{text}"
    );
}

#[test]
fn a_stack_ends_where_it_begins() {
    let parked = parked(0);
    let frames = Unwinder::new().frames(&parked.stopped());
    assert!(!frames.more);
    // `deepest`, `middle`, `recursive`, the closure, and those of corosensei that are not inlined.
    assert!((4..=9).contains(&frames.ips.len()), "{}", text(&parked));
}

#[test]
fn a_deep_stack_is_cut_and_says_so() {
    let parked = parked(MAX_FRAMES);
    let frames = Unwinder::new().frames(&parked.stopped());
    assert_eq!((frames.ips.len(), frames.more), (MAX_FRAMES, true));
    let mut text = Vec::new();
    Backtraces::new()
        .write(&parked.stopped(), &mut text)
        .unwrap();
    assert!(text.ends_with(b"\n    ...more frames\n"));
}

#[test]
fn a_truncated_copy_has_the_inner_frames() {
    let parked = parked(3);
    let mut unwinder = Unwinder::new();
    let whole = unwinder.frames(&parked.stopped());
    let mut counts = Vec::new();
    for len in 0..=parked.bytes.len() {
        let torn = StackCopy {
            bytes: &parked.bytes[..len],
            ..parked.stopped()
        };
        let frames = unwinder.frames(&torn);
        assert!(
            whole.ips.starts_with(&frames.ips),
            "{len} bytes: {frames:x?} is not the beginning of {whole:x?}"
        );
        counts.push(frames.ips.len());
    }
    assert!(counts.is_sorted(), "{counts:?}");
    assert_eq!((counts[0], counts.last()), (1, Some(&whole.ips.len())));
}

#[test]
fn a_used_unwinder_returns_what_a_new_one_returns() {
    let mut unwinder = Unwinder::new();
    for depth in [0, 5, 1, 70, 5] {
        let parked = parked(depth);
        let frames = unwinder.frames(&parked.stopped());
        assert_eq!(frames, Unwinder::new().frames(&parked.stopped()));
    }
}

#[test]
#[cfg_attr(
    any(gopark_sanitize = "thread", gopark_sanitize = "address"),
    ignore = "sanitizers have a qsort of their own"
)]
fn frames_of_a_c_library_are_unwound() {
    static PARK: AtomicPtr<Yielder<(), Place>> = AtomicPtr::new(ptr::null_mut());

    extern "C" fn compare(_: *const c_void, _: *const c_void) -> c_int {
        // SAFETY: `PARK` holds the yielder of the coroutine below, which is the only caller.
        unsafe { &*PARK.load(Relaxed) }.suspend(registers());
        0
    }
    let memory = Memory(vec![0; 1 << 14]);
    let base = memory.base().get();
    let mut coroutine = Coroutine::with_stack(memory, |park: &Yielder<(), Place>, ()| {
        PARK.store(ptr::from_ref(park).cast_mut(), Relaxed);
        let mut two = [2, 1];
        // SAFETY: the array has 2 elements of that size, and `compare` does not unwind.
        unsafe { libc::qsort(two.as_mut_ptr().cast(), 2, size_of::<i32>(), Some(compare)) };
    });
    let CoroutineResult::Yield(place) = coroutine.resume(()) else {
        panic!("it parks")
    };
    let parked = Parked {
        place,
        bytes: copy(place, base),
        lines: Vec::new(),
    };
    assert!(matches!(coroutine.resume(()), CoroutineResult::Return(())));
    let text = text(&parked);
    let [compare, qsort, closure] =
        ["compare\n", "qsort", "closure"].map(|name| text.find(name).expect(&text));
    assert!(compare < qsort && qsort < closure, "{text}");
}

#[cfg(target_env = "gnu")]
#[test]
fn libraries_loaded_and_unloaded_later_are_noticed() {
    let mut unwinder = Unwinder::new();
    // SAFETY: the library comes with libc, and loading it has no side effects that matter.
    let library = unsafe { libc::dlopen(c"libresolv.so.2".as_ptr(), libc::RTLD_NOW) };
    assert!(!library.is_null(), "libresolv.so.2 belongs to glibc");
    // SAFETY: the library is open.
    let ip = unsafe { libc::dlsym(library, c"ns_sprintrr".as_ptr()) } as usize;
    let stack = StackCopy {
        place: Place {
            ip,
            sp: 0x1000,
            fp: 0,
        },
        bytes: &[0; 64],
    };
    assert_eq!(unwinder.frames(&stack).ips[..], [ip]);
    // SAFETY: no code or data of the library is in use.
    unsafe { libc::dlclose(library) };
    // The unwinder still has its tables, and uses them for another instruction.
    let next = StackCopy {
        place: Place {
            ip: ip + 1,
            ..stack.place
        },
        ..stack
    };
    assert_eq!(unwinder.frames(&next).ips[..], [ip + 1]);
    assert!(
        Unwinder::new().frames(&next).ips.is_empty(),
        "it is not loaded any more"
    );
}

/// A plausible value of a register or of a word of a stack.
fn word(random: &mut fastrand::Rng, parked: &Parked, code: &[usize]) -> usize {
    match random.u8(..6) {
        0 => random.usize(..),
        1 => random.usize(..32),
        2 => usize::MAX - random.usize(..32),
        3 => parked.place.sp + random.usize(..parked.bytes.len() + 64),
        4 => code[random.usize(..code.len())],
        _ => code[random.usize(..code.len())]
            .wrapping_add(random.usize(..1 << 16))
            .wrapping_sub(1 << 15),
    }
}

#[test]
fn random_bytes_and_registers_do_no_harm() {
    let seeds = 100_000;
    let parked = parked(3);
    let mut unwinder = Unwinder::new();
    let mut code: Vec<_> = unwinder.frames(&parked.stopped()).ips.into_iter().collect();
    // Functions of other modules, which have their own tables.
    code.extend([
        libc::malloc as *const () as usize,
        libc::qsort as *const () as usize,
        libc::dl_iterate_phdr as *const () as usize,
    ]);
    let mut most = 0;
    for seed in 1..=seeds {
        let random = &mut fastrand::Rng::with_seed(seed).fork();
        let mut bytes = parked.bytes.clone();
        for _ in 0..random.u8(..20) {
            let at = random.usize(..bytes.len() - 8);
            let at = if random.bool() { at } else { at & !7 };
            bytes[at..at + 8].copy_from_slice(&word(random, &parked, &code).to_ne_bytes());
        }
        if random.u8(..4) == 0 {
            random.fill(&mut bytes);
        }
        bytes.truncate(random.usize(..2 * bytes.len()));
        let mut register = |real: usize| {
            if random.bool() {
                real
            } else {
                word(random, &parked, &code)
            }
        };
        let Place { ip, sp, fp } = parked.place;
        let place = Place {
            ip: register(ip),
            sp: register(sp),
            fp: register(fp),
        };
        let stack = StackCopy {
            place,
            bytes: &bytes,
        };
        let Frames { ips, more } = unwinder.frames(&stack);
        assert!(!more || ips.len() == MAX_FRAMES, "seed {seed}");
        assert!(ips.iter().all(|ip| *ip != 0), "seed {seed}");
        most = most.max(ips.len());
    }
    assert!(most > 3, "no seed produced anything like a stack");
}
