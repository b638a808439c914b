//! Threads: one for each M, one for sysmon, and those of the blocking pool.
//!
//! Source: pthread_create(3), sigaltstack(2), proc(5).

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

/// Bytes, the default of std. Goroutines have their own stacks, but blocking calls run here, and
/// musl's default of 128 KiB is small.
const STACK_SIZE: usize = 2 << 20;

/// Bytes below the stack of a thread whose overflow is reported, the same as below goroutines'
/// stacks. libc's default is a page, which a C function with a large frame steps over.
const GUARD: usize = 64 << 10;

/// Bytes for the handler's own frames, in addition to what the kernel saves.
const SIGNAL_STACK: usize = 16 << 10;

/// Bytes. The kernel cuts longer names (PR_SET_NAME in prctl(2)).
const NAME_MAX: usize = 15;

/// What threads need for their stack overflows to be reported: a guard, and a stack for the
/// handler. Function pointers, so that programs without reports do not link them.
#[derive(Clone, Copy)]
pub(super) struct SignalStacks {
    guard: unsafe fn(*mut libc::pthread_attr_t),
    run: Run,
}

/// What runs a thread: gets the function that the thread is for, and its argument.
type Run = fn(fn(usize), usize);

impl SignalStacks {
    pub(super) const fn new(run: Run) -> Self {
        SignalStacks {
            guard: set_guard,
            run,
        }
    }
}

/// What a new thread is to do. `spawn` allocates it, and the thread frees it.
struct Start {
    /// Ends with a zero.
    name: [u8; NAME_MAX + 1],
    signal_stacks: Option<SignalStacks>,
    entry: fn(usize),
    arg: usize,
}

/// Starts a detached thread that runs `entry(arg)`. The thread inherits the caller's blocked
/// signals.
pub(super) fn spawn(
    name: fmt::Arguments<'_>,
    signal_stacks: Option<SignalStacks>,
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
        signal_stacks,
        entry,
        arg,
    }));
    let mut attr = MaybeUninit::uninit();
    let mut thread = MaybeUninit::uninit();
    // SAFETY: `attr` is used only after its init. `start` belongs to the new thread if there is
    // one.
    let error = unsafe {
        libc::pthread_attr_init(attr.as_mut_ptr());
        libc::pthread_attr_setdetachstate(attr.as_mut_ptr(), libc::PTHREAD_CREATE_DETACHED);
        libc::pthread_attr_setstacksize(attr.as_mut_ptr(), STACK_SIZE);
        if let Some(signal_stacks) = signal_stacks {
            (signal_stacks.guard)(attr.as_mut_ptr());
        }
        // `pthread_attr_destroy` is left out: glibc and musl free nothing for these attributes.
        libc::pthread_create(thread.as_mut_ptr(), attr.as_ptr(), run, start.cast())
    };
    if error == 0 {
        return Ok(());
    }
    // SAFETY: no thread was started, so `start` still belongs to this function.
    drop(unsafe { Box::from_raw(start) });
    Err(Errno::new(error))
}

extern "C" fn run(start: *mut c_void) -> *mut c_void {
    // SAFETY: `spawn` gave this thread, and no other, the box.
    let Start {
        name,
        signal_stacks,
        entry,
        arg,
    } = *unsafe { Box::from_raw(start.cast::<Start>()) };
    // SAFETY: `name` ends with a zero.
    unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_NAME, name.as_ptr()) };
    // By default the kernel ends timed waits up to 50 µs late to save power (PR_SET_TIMERSLACK).
    // SAFETY: the argument is a number.
    unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_TIMERSLACK, 1usize) };
    match signal_stacks {
        Some(signal_stacks) => (signal_stacks.run)(entry, arg),
        None => entry(arg),
    }
    ptr::null_mut()
}

/// The state of `thread`, from `/proc/self/task/TID/syscall`: `running`, or the number of the
/// system call that the thread sleeps in, or -1 if it sleeps elsewhere (a page fault).
///
/// If the process is not dumpable, only root may read that file. `stat`, which says whether the
/// thread sleeps, stays readable.
pub(super) fn state(thread: u32) -> ThreadState {
    let mut buffer = [0; 200];
    match read_file(
        format_args!("/proc/self/task/{}/syscall", thread as usize),
        &mut buffer,
    ) {
        Some([b'r', ..]) => ThreadState::Running,
        Some(text @ [_, ..]) => ThreadState::Blocked(number(text)),
        _ => state_from_stat(thread),
    }
}

fn state_from_stat(thread: u32) -> ThreadState {
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

/// The number of threads of this process, the 20th field of `/proc/self/stat`.
pub(super) fn count() -> Option<usize> {
    let mut buffer = [0; STAT_MAX];
    let stat = read_file(format_args!("/proc/self/stat"), &mut buffer)?;
    number(field_after_name(stat, 17)?).map(|count| count as usize)
}

/// Bytes, more than a `stat` file has.
const STAT_MAX: usize = 1024;

/// A field of a `stat` file, counted from 0 after the name. The name is in brackets and may contain
/// any character, brackets included.
fn field_after_name(stat: &[u8], index: usize) -> Option<&[u8]> {
    let fields = stat
        .rsplit(|&byte| byte == b')')
        .next()?
        .strip_prefix(b" ")?;
    fields.split(|&byte| byte == b' ').nth(index)
}

/// The CPU time of a thread. The kernel encodes the thread in the number of its clock: three bits
/// say which clock it is (Linux `include/linux/posix-timers_types.h`, `CPUCLOCK_PERTHREAD`).
pub(super) fn cpu_time(thread: u32) -> Nanos {
    const PER_THREAD: i32 = 4;
    const SCHED: i32 = 2;
    clock((!(thread as i32) << 3) | PER_THREAD | SCHED)
}

/// # Safety
///
/// - `attr` is initialised.
unsafe fn set_guard(attr: *mut libc::pthread_attr_t) {
    // SAFETY: `attr` is initialised, as the caller promises.
    unsafe { libc::pthread_attr_setguardsize(attr, GUARD) };
}

/// The thread that a signal stack belongs to. This record stands at the low end of the signal
/// stack, which a handler uses last. The handler finds it without a thread-local.
#[derive(Clone, Copy)]
#[repr(C)]
struct Owner {
    /// Its own address xor [`MAGIC`]. Signal stacks of other code hold another value.
    mark: usize,
    /// The lowest address of the thread's stack.
    bottom: usize,
    /// The size of that stack in bytes.
    size: usize,
}

const MAGIC: usize = 0x676f_7061;

/// Runs `entry(arg)` on the calling thread, which has a signal stack of its own during that.
pub fn with_signal_stack(entry: fn(usize), arg: usize) {
    install_signal_stack();
    entry(arg);
    remove_signal_stack();
}

/// Gives the calling thread a signal stack.
fn install_signal_stack() {
    // SAFETY: no memory is passed.
    let least = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
    let size = least + SIGNAL_STACK;
    // SAFETY: the kernel chooses a free range, so no memory in use is touched.
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
    // Without memory for it, an overflow still ends the process, but without a report.
    if stack != libc::MAP_FAILED {
        let (bottom, bytes) = own_stack();
        // SAFETY: the mapping is larger, page-aligned, and not yet in use.
        unsafe {
            stack.cast::<Owner>().write(Owner {
                mark: stack.addr() ^ MAGIC,
                bottom,
                size: bytes,
            })
        };
        let stack = libc::stack_t {
            ss_sp: stack,
            ss_flags: 0,
            ss_size: size,
        };
        // SAFETY: the mapping has the stated size, and stays until the thread has removed the
        // signal stack.
        unsafe { libc::sigaltstack(&stack, ptr::null_mut()) };
    }
}

/// The lowest address and the size of the calling thread's stack; zeros if libc does not say.
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

/// The signal stack of the calling thread, if [`install_signal_stack`] made it.
fn own_signal_stack() -> Option<(libc::stack_t, Owner)> {
    let mut stack = MaybeUninit::<libc::stack_t>::uninit();
    // SAFETY: `stack` is writable.
    if unsafe { libc::sigaltstack(ptr::null(), stack.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call has succeeded, so it has filled `stack`.
    let stack = unsafe { stack.assume_init() };
    if stack.ss_flags & libc::SS_DISABLE != 0 || stack.ss_size < size_of::<Owner>() {
        return None;
    }
    // SAFETY: a signal stack is readable memory of at least this size, and any bytes are an
    // `Owner`.
    let owner = unsafe { stack.ss_sp.cast::<Owner>().read_unaligned() };
    (owner.mark == stack.ss_sp.addr() ^ MAGIC).then_some((stack, owner))
}

/// Removes and unmaps the signal stack of a thread that is about to exit.
fn remove_signal_stack() {
    if let Some((stack, _)) = own_signal_stack() {
        let none = libc::stack_t {
            ss_sp: ptr::null_mut(),
            ss_flags: libc::SS_DISABLE,
            ss_size: 0,
        };
        // SAFETY: `install_signal_stack` made this mapping, and the kernel has just dropped its
        // reference to it.
        unsafe {
            if libc::sigaltstack(&none, ptr::null_mut()) == 0 {
                libc::munmap(stack.ss_sp, stack.ss_size);
            }
        }
    }
}

/// The size in bytes of the calling thread's stack, if [`Linux`](super::Linux) started the thread
/// and `address` is in the guard below its stack; `None` otherwise. For the handler of a fault at
/// `address`.
pub fn overflowed(address: usize) -> Option<usize> {
    let (_, owner) = own_signal_stack()?;
    // glibc counts the guard as the lowest part of the stack (pthread_attr_setguardsize(3)); musl
    // places it below.
    let guard = owner.bottom.saturating_sub(GUARD)..owner.bottom + GUARD;
    guard.contains(&address).then_some(owner.size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::vec;

    #[test]
    fn a_signal_stack_of_other_code_reports_no_overflow() {
        let with_other_stack = || {
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
        assert_eq!(thread::spawn(with_other_stack).join().unwrap(), [None; 3]);
    }
}
