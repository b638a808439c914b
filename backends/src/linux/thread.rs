//! Threads, one for each M.

#![allow(
    unsafe_code,
    reason = "pthreads, and the allocation that carries a thread's start"
)]

use super::text::{Text, number};
use super::{clock, read_file};
use alloc::boxed::Box;
use core::ffi::c_void;
use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use core::ptr;
use gopark_core::os::{Errno, Nanos, ThreadState};

/// What std gives its threads. Goroutines bring their own stacks, but blocking calls run here, and musl's default of 128 KiB is small.
const STACK_SIZE: usize = 2 << 20;

/// Below the stack of a thread whose overflow is reported, as below goroutines'. libc's own is a
/// page.
const GUARD: usize = 64 << 10;

/// For a handler's own frames, beside what the kernel saves.
const SIGNAL_STACK: usize = 16 << 10;

/// The kernel cuts a longer name.
const NAME_MAX: usize = 15;

/// What threads have whose overflows are reported: a guard, and a stack for the handler.
#[derive(Clone, Copy)]
pub(super) struct Watch {
    guard: unsafe fn(*mut libc::pthread_attr_t),
    begin: fn(),
    end: fn(),
}

pub(super) const WATCH: Watch = Watch {
    guard: set_guard,
    begin: use_signal_stack,
    end: give_signal_stack_back,
};

/// What a new thread is to do.
struct Start {
    /// It ends with a zero.
    name: [u8; NAME_MAX + 1],
    watch: Option<Watch>,
    entry: fn(usize),
    arg: usize,
}

/// Signals stay as the calling thread has them, which a new thread inherits.
pub(super) fn spawn(
    name: fmt::Arguments<'_>,
    watch: Option<Watch>,
    entry: fn(usize),
    arg: usize,
) -> Result<(), Errno> {
    let mut full = [0; NAME_MAX + 1];
    let mut text = Text::new(&mut full[..NAME_MAX]);
    let _ = text
        .write_str("gopark-")
        .and_then(|()| text.write_fmt(name));
    let start = Box::into_raw(Box::new(Start {
        name: full,
        watch,
        entry,
        arg,
    }));
    let mut attr = MaybeUninit::uninit();
    let mut thread = MaybeUninit::uninit();
    // SAFETY: `attr` is used after its init only; `start` is the new thread's if there is one.
    let error = unsafe {
        libc::pthread_attr_init(attr.as_mut_ptr());
        libc::pthread_attr_setdetachstate(attr.as_mut_ptr(), libc::PTHREAD_CREATE_DETACHED);
        libc::pthread_attr_setstacksize(attr.as_mut_ptr(), STACK_SIZE);
        if let Some(watch) = watch {
            (watch.guard)(attr.as_mut_ptr());
        }
        // No `pthread_attr_destroy`: attributes like these hold nothing.
        libc::pthread_create(thread.as_mut_ptr(), attr.as_ptr(), run, start.cast())
    };
    if error == 0 {
        return Ok(());
    }
    // SAFETY: no thread was started, so `start` is still ours.
    drop(unsafe { Box::from_raw(start) });
    Err(Errno::new(error))
}

extern "C" fn run(start: *mut c_void) -> *mut c_void {
    // SAFETY: `spawn` gave this thread, and no other, the box.
    let Start {
        name,
        watch,
        entry,
        arg,
    } = *unsafe { Box::from_raw(start.cast::<Start>()) };
    // SAFETY: `name` ends with a zero.
    unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_NAME, name.as_ptr()) };
    // Timed waits end up to 50 µs late by default, for threads that would rather save power than be on time.
    // SAFETY: takes a number.
    unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_TIMERSLACK, 1usize) };
    if let Some(watch) = watch {
        (watch.begin)();
    }
    entry(arg);
    if let Some(watch) = watch {
        (watch.end)();
    }
    ptr::null_mut()
}

/// `syscall` says `running`, or the number of the system call that the thread sleeps in, or -1 if it
/// sleeps elsewhere (a page fault). In a process that is not dumpable only root may read it. `stat`,
/// which says whether the thread sleeps, stays readable there.
pub(super) fn doing(thread: u32) -> ThreadState {
    let mut buffer = [0; 200];
    match read_file(
        format_args!("/proc/self/task/{}/syscall", thread as usize),
        &mut buffer,
    ) {
        Some([b'r', ..]) => ThreadState::Running,
        Some(text @ [_, ..]) => ThreadState::Blocked(number(text)),
        _ => doing_by_state(thread),
    }
}

fn doing_by_state(thread: u32) -> ThreadState {
    let mut buffer = [0; STAT_MAX];
    let stat = read_file(
        format_args!("/proc/self/task/{}/stat", thread as usize),
        &mut buffer,
    );
    match stat.and_then(|stat| field_after_name(stat, 0)) {
        Some(b"S" | b"D") => ThreadState::Blocked(None),
        Some(b"R" | b"T" | b"t") => ThreadState::Running,
        _ => ThreadState::Unknown,
    }
}

/// How many threads this process has.
pub(super) fn count() -> Option<usize> {
    let mut buffer = [0; STAT_MAX];
    let stat = read_file(format_args!("/proc/self/stat"), &mut buffer)?;
    number(field_after_name(stat, 17)?).map(|count| count as usize)
}

/// More than the fields of a `stat` take.
const STAT_MAX: usize = 1024;

/// A field of a `stat`, counted from the one behind the name. The name stands in brackets, and may
/// hold anything.
fn field_after_name(stat: &[u8], index: usize) -> Option<&[u8]> {
    let fields = stat
        .rsplit(|&byte| byte == b')')
        .next()?
        .strip_prefix(b" ")?;
    fields.split(|&byte| byte == b' ').nth(index)
}

/// The clock of a thread's CPU time. The kernel makes its number from the thread's: three bits say which clock it is.
pub(super) fn cpu_time(thread: u32) -> Nanos {
    const PER_THREAD: i32 = 4;
    const SCHED: i32 = 2;
    clock((!(thread as i32) << 3) | PER_THREAD | SCHED)
}

/// # Safety
///
/// `attr` is initialised.
unsafe fn set_guard(attr: *mut libc::pthread_attr_t) {
    // SAFETY: the caller's promise.
    unsafe { libc::pthread_attr_setguardsize(attr, GUARD) };
}

/// What stands at the low end of a signal stack, where a handler comes last: whose overflow it is
/// for. A handler finds it without a thread-local.
#[derive(Clone, Copy)]
#[repr(C)]
struct Owner {
    /// Its own address and [`MARK`]: signal stacks of others hold something else.
    mark: usize,
    /// The lowest address of the thread's stack.
    bottom: usize,
    /// Bytes of that stack.
    size: usize,
}

const MARK: usize = 0x676f_7061;

fn use_signal_stack() {
    // SAFETY: asks for a number.
    let least = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
    let size = least + SIGNAL_STACK;
    // SAFETY: a new mapping, which nothing else uses.
    let stack = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    // Without memory for it, overflows go unreported, and end the process all the same.
    if stack != libc::MAP_FAILED {
        let (bottom, bytes) = own_stack();
        // SAFETY: the mapping is larger, page-aligned, and not yet in use.
        unsafe {
            stack.cast::<Owner>().write(Owner {
                mark: stack.addr() ^ MARK,
                bottom,
                size: bytes,
            })
        };
        let stack = libc::stack_t {
            ss_sp: stack,
            ss_flags: 0,
            ss_size: size,
        };
        // SAFETY: the mapping is the size it says, and stays.
        unsafe { libc::sigaltstack(&stack, ptr::null_mut()) };
    }
}

/// The lowest address of the calling thread's stack, and its size. Zeros if libc does not say.
fn own_stack() -> (usize, usize) {
    let mut attr = MaybeUninit::uninit();
    let (mut bottom, mut size) = (ptr::null_mut(), 0);
    // SAFETY: `attr` is used if the first call has filled it, and destroyed once.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attr.as_mut_ptr()) == 0 {
            libc::pthread_attr_getstack(attr.as_ptr(), &mut bottom, &mut size);
            libc::pthread_attr_destroy(attr.as_mut_ptr());
        }
    }
    (bottom.addr(), size)
}

/// The signal stack of the calling thread, if it is one that [`use_signal_stack`] made.
fn own_signal_stack() -> Option<(libc::stack_t, Owner)> {
    let mut stack = MaybeUninit::<libc::stack_t>::uninit();
    // SAFETY: `stack` is writable.
    if unsafe { libc::sigaltstack(ptr::null(), stack.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call has succeeded.
    let stack = unsafe { stack.assume_init() };
    if stack.ss_flags & libc::SS_DISABLE != 0 || stack.ss_size < size_of::<Owner>() {
        return None;
    }
    // SAFETY: a signal stack is memory, and an owner may be any bytes.
    let owner = unsafe { stack.ss_sp.cast::<Owner>().read_unaligned() };
    (owner.mark == stack.ss_sp.addr() ^ MARK).then_some((stack, owner))
}

/// For a thread that ends, and has no signal stack from here on.
fn give_signal_stack_back() {
    if let Some((stack, _)) = own_signal_stack() {
        let none = libc::stack_t {
            ss_sp: ptr::null_mut(),
            ss_flags: libc::SS_DISABLE,
            ss_size: 0,
        };
        // SAFETY: the mapping is the one that `use_signal_stack` made, and of no use once the kernel does not know it.
        unsafe {
            if libc::sigaltstack(&none, ptr::null_mut()) == 0 {
                libc::munmap(stack.ss_sp, stack.ss_size);
            }
        }
    }
}

/// If the calling thread is one that [`Linux`](super::Linux) started, and `address` is in the guard
/// below its stack: the size of the stack in bytes. For the handler of a fault at that address.
pub fn overflowed(address: usize) -> Option<usize> {
    let (_, owner) = own_signal_stack()?;
    // C libraries differ in whether the guard is the lowest part of the stack or lies below it.
    let guard = owner.bottom.saturating_sub(GUARD)..owner.bottom + GUARD;
    guard.contains(&address).then_some(owner.size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::vec;

    #[test]
    fn a_signal_stack_of_others_tells_of_no_overflow_whatever_it_holds() {
        let of_another = || {
            let mut bytes = vec![0xff_u8; 64 << 10];
            let theirs = libc::stack_t {
                ss_sp: bytes.as_mut_ptr().cast(),
                ss_flags: 0,
                ss_size: bytes.len(),
            };
            let mut before = MaybeUninit::uninit();
            // SAFETY: `bytes` outlives its use, and `before` is written by the first call.
            unsafe {
                assert_eq!(libc::sigaltstack(&theirs, before.as_mut_ptr()), 0);
                let found = [0, 1 << 20, usize::MAX].map(overflowed);
                assert_eq!(libc::sigaltstack(before.as_ptr(), ptr::null_mut()), 0);
                found
            }
        };
        assert_eq!(thread::spawn(of_another).join().unwrap(), [None; 3]);
    }
}
