//! A TCP echo server without std: one goroutine for each connection, which is closed when it has
//! been silent for too long.
//!
//! ```text
//! minimal-echo PORT [IDLE_SECONDS]
//! ```
#![allow(
    unsafe_code,
    reason = "the entry point and the arguments are as C passes them"
)]
#![no_std]
#![no_main]

extern crate alloc;

mod heap;

use alloc::boxed::Box;
use core::ffi::{c_char, c_int};
use core::net::{Ipv4Addr, SocketAddr};
use core::panic::{Location, PanicInfo};
use gopark_backends::Epoll;
use gopark_backends::linux::{Linux, affinity, has_thread_locals, io, panicked, socket};
use gopark_core::fd::{Fd, FdError};
use gopark_core::os::{Borrowed, Errno, Mode, Nanos, Netpoll};
use gopark_core::sched::{Config, Sched};

// Without std, nothing else asks the linker for libc.
#[link(name = "c")]
unsafe extern "C" {}

static LINUX: Linux = Linux::new();

const SECOND: Nanos = 1_000_000_000;
/// Bytes of a goroutine's stack. `echo` needs 4 KiB for its buffer, and little else.
const STACK_SIZE: usize = 64 * 1024;
/// Bytes that a connection reads at once.
const BUFFER: usize = 4096;

#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, arguments: *const *const c_char) -> c_int {
    // SAFETY: the C runtime passes `count` arguments.
    let arguments = unsafe { core::slice::from_raw_parts(arguments, count as usize) };
    let number = |index: usize| number(*arguments.get(index)?);
    let Some(port) = number(1) else {
        panic!("usage: minimal-echo PORT [IDLE_SECONDS]")
    };
    let idle = Nanos::from(number(2).unwrap_or(60)) * SECOND;

    let migrate = !has_thread_locals();
    // No sysmon: the goroutines below neither block their threads nor compute for long.
    let config = Config {
        stack_size: STACK_SIZE,
        migrate,
        sysmon: None,
        ..Config::new(affinity())
    };
    let poller = || Ok(Box::new(Epoll::init()?) as Box<dyn Netpoll>);
    // SAFETY: goroutines move only if there are no thread-locals, and those below keep nothing else
    // that belongs to a thread.
    let sched = match unsafe { Sched::start(&LINUX, config, poller) } {
        Ok(sched) => sched,
        Err(error) => panic!("{error} ({})", error.errno()),
    };
    // SAFETY: the standard output is not closed.
    let stdout = unsafe { Borrowed::new(libc::STDOUT_FILENO) };
    io::write(
        stdout,
        if migrate {
            b"goroutines move\n"
        } else {
            b"goroutines stay\n"
        },
    );
    let error = serve(sched, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), idle);
    // As `usize`, the only integer type whose formatting is linked already.
    panic!("port {}: {error}", usize::from(port));
}

/// The number in a C string; `None` if it is not a number or does not fit. (`str::parse` would
/// check for UTF-8 first, which takes a kilobyte.)
fn number(text: *const c_char) -> Option<u16> {
    let mut number = None;
    for place in 0.. {
        // SAFETY: the string ends with a zero, and lives as long as the process.
        match unsafe { *text.add(place) } as u8 {
            0 => break,
            digit @ b'0'..=b'9' => {
                number = Some(
                    number
                        .unwrap_or(0u16)
                        .checked_mul(10)?
                        .checked_add(u16::from(digit - b'0'))?,
                )
            }
            _ => return None,
        }
    }
    number
}

/// Accepts connections until the kernel reports an error that does not pass.
fn serve(sched: &'static Sched, address: SocketAddr, idle: Nanos) -> FdError {
    let listener = match socket::listener(address, 1024) {
        Ok(listener) => own(sched, listener),
        Err(errno) => return FdError::Os(errno),
    };
    loop {
        match listener.accept(io::accept4) {
            Ok((connection, _)) => {
                let connection = own(sched, connection);
                // If there is no stack for the goroutine, the connection is closed.
                let _ = sched.go(move || echo(&connection, idle), Location::caller());
            }
            // Further connections wait in the kernel's queue until others have ended.
            Err(FdError::Os(errno)) if is_shortage(errno) => {
                sched.sleep_until(sched.now() + SECOND / 100)
            }
            Err(error) => return error,
        }
    }
}

/// Sends back what arrives, until the peer ends the connection or is silent for `idle`.
fn echo(connection: &Fd, idle: Nanos) -> Result<(), FdError> {
    let mut buffer = [0; BUFFER];
    connection.set_timeout(Mode::Read, idle)?;
    loop {
        match connection.transfer(Mode::Read, BUFFER, |fd| io::recv(fd, &mut buffer))? {
            0 => return Ok(()),
            count => connection
                .transfer_all(count, |fd, range| {
                    io::send(fd, buffer.get(range).unwrap_or_default())
                })
                .map_err(|(_, error)| error)?,
        }
    }
}

fn own(sched: &'static Sched, socket: i32) -> Fd {
    // SAFETY: `listener` and `accept4` make non-blocking sockets and pass them on.
    unsafe { Fd::new(sched, socket) }
}

/// Whether the error is a lack of descriptors or memory, which passes.
fn is_shortage(errno: Errno) -> bool {
    matches!(
        errno.raw(),
        libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM
    )
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    panicked(info)
}
