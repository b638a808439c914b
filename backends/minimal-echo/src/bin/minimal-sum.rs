//! Channels and a mutex without std: goroutines take numbers from a channel and add them up.
#![allow(
    unsafe_code,
    reason = "the entry point is as C calls it, and a raw mutex guards no data by itself"
)]
#![no_std]
#![no_main]

extern crate alloc;

#[path = "../heap.rs"]
mod heap;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::cell::UnsafeCell;
use core::ffi::c_int;
use core::fmt::{self, Write};
use core::panic::{Location, PanicInfo};
use gopark_backends::Epoll;
use gopark_backends::linux::{Linux, affinity, io, panicked};
use gopark_core::chan::bounded;
use gopark_core::mutex::RawMutex;
use gopark_core::os::{Borrowed, Netpoll};
use gopark_core::sched::{Config, Sched};

// Without std, nothing else asks the linker for libc.
#[link(name = "c")]
unsafe extern "C" {}

static LINUX: Linux = Linux::new();

const WORKERS: usize = 8;

#[unsafe(no_mangle)]
extern "C" fn main() -> c_int {
    let config = Config {
        sysmon: None,
        ..Config::new(affinity())
    };
    let poller = || Ok(Box::new(Epoll::init()?) as Box<dyn Netpoll>);
    // SAFETY: the configuration does not let goroutines move.
    let sched: &'static Sched = match unsafe { Sched::start(&LINUX, config, poller) } {
        Ok(sched) => sched,
        Err(error) => panic!("{error} ({})", error.errno()),
    };

    // A channel or a mutex gets the scheduler that serves those that wait for it.
    let (numbers, queue) = bounded(2, sched);
    let (done, ends) = bounded(0, sched);
    let sum = Arc::new(Mutex::new(0, sched));
    for _ in 0..WORKERS {
        let (queue, done, sum) = (queue.clone(), done.clone(), sum.clone());
        let worker = move || {
            let mut count = 0;
            while let Ok(number) = queue.recv() {
                count += 1;
                sum.with(|sum: &mut u32| {
                    *sum += number;
                    // Others run, and park in `with`.
                    sched.yield_now();
                });
            }
            // Fails if `main` has ended.
            _ = done.send(count);
        };
        // `Err` if there is no stack.
        _ = sched.go(worker, Location::caller());
    }
    drop((queue, done));
    // This thread is not a goroutine. It blocks where goroutines park.
    for number in 1..=10_000 {
        if numbers.send(number).is_err() {
            panic!("no goroutine receives");
        }
    }
    drop(numbers);
    let mut count = 0;
    while let Ok(more) = ends.recv() {
        count += more;
    }
    sum.with(|sum| _ = writeln!(Stdout, "{count} numbers, sum {sum}"));
    0
}

/// A lock for data.
struct Mutex<T> {
    raw: RawMutex<&'static Sched>,
    data: UnsafeCell<T>,
}

// SAFETY: the raw mutex gives the data to one caller at a time.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    fn new(data: T, sched: &'static Sched) -> Self {
        Mutex {
            raw: RawMutex::new(sched),
            data: UnsafeCell::new(data),
        }
    }

    /// Calls `f` with the data. If `f` panicked, the program would abort.
    fn with(&self, f: impl FnOnce(&mut T)) {
        self.raw.lock();
        // SAFETY: the mutex is locked.
        f(unsafe { &mut *self.data.get() });
        // SAFETY: it was locked above.
        unsafe { self.raw.unlock() };
    }
}

struct Stdout;

impl Write for Stdout {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: the standard output is not closed.
        let stdout = unsafe { Borrowed::new(libc::STDOUT_FILENO) };
        // A pipe or a terminal takes a text as short as this at once.
        io::write(stdout, text.as_bytes());
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    panicked(info)
}
