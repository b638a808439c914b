//! gopark without std: goroutines, a descriptor with deadlines, and the raw Linux calls, over nothing but libc.
//!
//! Two goroutines send numbers to and fro over a socket pair; then a read that nobody answers runs into its deadline, and one that
//! waits is ended by a close.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::alloc::{GlobalAlloc, Layout};
use core::panic::{Location, PanicInfo};
use gopark_backends::Poller;
use gopark_backends::linux::{Linux, io};
use gopark_core::fd::{Fd, FdError};
use gopark_core::join::Join;
use gopark_core::os::{Mode, Netpoll, Os};
use gopark_core::polldesc::{Deadline, PollError};
use gopark_core::sched::{Config, Sched};

static LINUX: Linux = Linux::new();

struct Malloc;

#[global_allocator]
static MALLOC: Malloc = Malloc;

// SAFETY: aligned_alloc gives blocks of that size and alignment, which free takes back.
unsafe impl GlobalAlloc for Malloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let align = layout.align().max(align_of::<usize>());
        // SAFETY: `align` is a power of two and a multiple of the pointer's size, and the size a multiple of `align`.
        unsafe { libc::aligned_alloc(align, layout.size().next_multiple_of(align)).cast() }
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: `alloc` gave the block.
        unsafe { libc::free(block.cast()) }
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    LINUX.abort(format_args!("{info}"))
}

#[unsafe(no_mangle)]
extern "C" fn main() -> libc::c_int {
    let config = Config { stack_size: 64 * 1024, max_threads: 8, ..Config::new(2) };
    let poller = || Poller::init().map(|poller| Box::new(poller) as Box<dyn Netpoll>);
    // SAFETY: without `migrate` there is nothing to promise.
    let sched = unsafe { Sched::start(&LINUX, config, poller) }.expect("a scheduler");
    let (near, far) = socket_pair(sched);
    ping_pong(sched, &near, &far);
    deadline(sched, &near);
    close(sched, &near);
    io::write(libc::STDOUT_FILENO, b"OK\n");
    0
}

fn socket_pair(sched: &'static Sched) -> (Arc<Fd>, Arc<Fd>) {
    let mut fds = [0; 2];
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) };
    assert_eq!(made, 0, "socketpair");
    // SAFETY: both are new, non-blocking and nobody else's.
    let [near, far] = fds.map(|fd| Arc::new(unsafe { Fd::new(sched, fd) }));
    (near, far)
}

fn go<R: Send + 'static>(sched: &'static Sched, f: impl FnOnce() -> R + Send + 'static) -> Join<R> {
    sched.go(f, Location::caller()).expect("a stack")
}

fn receive(fd: &Fd) -> Result<u64, FdError> {
    let mut bytes = [0; 8];
    let count = fd.transfer(Mode::Read, 8, |raw| io::read(raw, &mut bytes))?;
    assert_eq!(count, 8, "a small message comes in one piece");
    Ok(u64::from_ne_bytes(bytes))
}

fn send(fd: &Fd, number: u64) {
    let bytes = number.to_ne_bytes();
    fd.transfer_all(8, |raw, rest| io::send(raw, &bytes[rest])).expect("the other end reads");
}

fn ping_pong(sched: &'static Sched, near: &Arc<Fd>, far: &Arc<Fd>) {
    const ROUNDS: u64 = 1000;
    let (near, far) = (near.clone(), far.clone());
    near.set_deadline(Some(Mode::Read), Deadline::At(sched.now() + 60_000_000_000)).expect("open");
    let pinger = go(sched, move || {
        for number in 0..ROUNDS {
            send(&near, number);
            assert_eq!(receive(&near), Ok(number + 1));
        }
    });
    let ponger = go(sched, move || {
        for _ in 0..ROUNDS {
            let number = receive(&far).expect("the other end writes");
            send(&far, number + 1);
        }
    });
    pinger.join();
    ponger.join();
}

fn deadline(sched: &'static Sched, fd: &Arc<Fd>) {
    const MILLISECOND: i64 = 1_000_000;
    let when = sched.now() + 5 * MILLISECOND;
    fd.set_deadline(Some(Mode::Read), Deadline::At(when)).expect("open");
    let fd = fd.clone();
    let timed_out = go(sched, move || receive(&fd)).join();
    assert_eq!(timed_out, Err(FdError::Poll(PollError::Timeout)));
    assert!(sched.now() >= when, "a deadline came early");
}

fn close(sched: &'static Sched, fd: &Arc<Fd>) {
    fd.set_deadline(None, Deadline::None).expect("open");
    let theirs = fd.clone();
    let reader = go(sched, move || receive(&theirs));
    while sched.num_poll_waiters() == 0 {
        sched.sleep_until(sched.now() + 100_000);
    }
    fd.close().expect("open");
    assert_eq!(reader.join(), Err(FdError::Poll(PollError::Closing)));
    assert_eq!(sched.num_poll_waiters(), 0);
}
