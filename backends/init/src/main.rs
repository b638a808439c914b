//! A PID 1 without std: mounts `/proc`, brings the network up, serves an echo port and a status
//! page, reaps orphans, and powers off on request.
//!
//! ```text
//! init [NAME=VALUE]…            on the kernel's command line after `--`
//!
//! load=FILE                     loads a kernel module
//! address=eth0/10.0.2.15/24     gives an interface an address and brings it up
//! netem=eth0/20/5               delays what leaves it by 20 ms, and loses 5 % of it
//! echo=7  status=80             ports
//! idle=30                       seconds after which a silent connection is closed
//! ```
//!
//! `load`, `address` and `netem` take effect in the order in which they are given. If it is not the
//! first process, it mounts nothing, and exits in place of powering off.
#![no_std]
#![no_main]
#![allow(
    unsafe_code,
    reason = "the arguments of main, and what goroutines that move ask for"
)]

extern crate alloc;

mod children;
#[path = "../../minimal-echo/src/heap.rs"]
mod heap;
mod network;
mod status;
mod system;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ffi::{CStr, c_char, c_int};
use core::net::{Ipv4Addr, SocketAddr};
use core::panic::{Location, PanicInfo};
use core::str::FromStr;
use core::sync::atomic::{AtomicU32, Ordering};
use gopark_backends::Epoll;
use gopark_backends::linux::{Linux, affinity, has_thread_locals, io, panicked, socket};
use gopark_core::fd::{Fd, FdError};
use gopark_core::os::{Errno, Mode, Nanos, Netpoll};
use gopark_core::polldesc::PollError;
use gopark_core::sched::{Config, Sched};
use gopark_core::semaphore::RawSemaphore;
use system::print_line;

// Without std, nothing else asks the linker for libc.
#[link(name = "c")]
unsafe extern "C" {}

static LINUX: Linux = Linux::new().with_thread_states();

const SECOND: Nanos = 1_000_000_000;
/// Bytes of a goroutine's stack.
const STACK_SIZE: usize = 64 * 1024;
/// Bytes that a connection reads at once.
const BUFFER: usize = 4096;

/// Statistics of the echo port, by how connections ended.
#[derive(Default)]
struct Counts {
    /// Connections that were sent something back.
    served: AtomicU32,
    /// Connections that were closed because they were silent for too long.
    silent: AtomicU32,
}

/// What all goroutines share.
struct Init {
    sched: &'static Sched,
    /// How long a connection may be silent.
    idle: Nanos,
    counts: Counts,
    /// Released when the machine is to be powered off.
    power_off: RawSemaphore<&'static Sched>,
}

// The ports of the two services.
struct Ports {
    echo: u16,
    status: u16,
}

#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, arguments: *const *const c_char) -> c_int {
    let first = system::is_first();
    if first {
        print_failure("mount /proc", system::mount_proc());
        print_failure("bring lo up", network::up(b"lo"));
    }
    let (mut ports, mut idle) = (
        Ports {
            echo: 7,
            status: 80,
        },
        30,
    );
    for index in 1..count as usize {
        // SAFETY: the C runtime passes `count` strings, which live as long as the process.
        let word = unsafe { CStr::from_ptr(*arguments.add(index)) };
        apply(word, &mut ports, &mut idle);
    }

    let signals = children::adopt().expect("signalfd");
    let migrate = !has_thread_locals();
    let config = Config {
        stack_size: STACK_SIZE,
        migrate,
        ..Config::new(affinity())
    };
    let poller = || Ok(Box::new(Epoll::init()?) as Box<dyn Netpoll>);
    // SAFETY: goroutines move only if there are no thread-locals, and those below keep nothing else
    // that belongs to a thread.
    let sched = match unsafe { Sched::start(&LINUX, config, poller) } {
        Ok(sched) => sched,
        Err(error) => panic!("{error} ({})", error.errno()),
    };
    let init = Arc::new(Init {
        sched,
        idle: Nanos::from(idle) * SECOND,
        counts: Counts::default(),
        power_off: RawSemaphore::new(0, sched),
    });

    let signals = own(sched, signals);
    go(sched, move || children::reap(&signals));
    listen(&init, ports.echo, echo);
    listen(&init, ports.status, status::answer);
    print_line(format_args!(
        "init: process {}, echo on port {}, status on port {}",
        system::pid(),
        ports.echo,
        ports.status
    ));

    init.power_off.acquire(1);
    print_line(format_args!("init: power off"));
    system::power_off_or_exit(first)
}

/// Carries out one word of the command line. It ignores unknown words: the kernel passes some that
/// are not meant for init.
fn apply(word: &'static CStr, ports: &mut Ports, idle: &mut u16) {
    let bytes = word.to_bytes_with_nul();
    let Some(name) = bytes
        .split(|&byte| byte == b'=')
        .next()
        .filter(|name| name.len() < bytes.len())
    else {
        return;
    };
    let value = CStr::from_bytes_with_nul(&bytes[name.len() + 1..]).unwrap_or_default();
    let text = value.to_str().unwrap_or_default();
    let what = word.to_str().unwrap_or_default();
    match name {
        b"load" => print_failure(what, system::load(value)),
        b"address" => print_failure(what, network::set_address(text)),
        b"netem" => print_failure(what, network::set_netem(text)),
        b"echo" => set(what, text, &mut ports.echo),
        b"status" => set(what, text, &mut ports.status),
        b"idle" => set(what, text, idle),
        _ => {}
    }
}

fn set<T: FromStr>(what: &str, text: &str, to: &mut T) {
    match text.parse() {
        Ok(value) => *to = value,
        Err(_) => print_line(format_args!("init: {what}: no such number")),
    }
}

/// Prints a failure and goes on, as a PID 1 must.
fn print_failure(what: &str, result: Result<(), Errno>) {
    if let Err(errno) = result {
        print_line(format_args!("init: {what}: {errno}"));
    }
}

/// Serves a port. One goroutine accepts, and each connection has its own.
fn listen(init: &Arc<Init>, port: u16, serve: fn(&Init, &Fd) -> Result<(), FdError>) {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let listener = match socket::listener(address, 1024) {
        Ok(listener) => own(init.sched, listener),
        Err(errno) => panic!("port {port}: {errno}"),
    };
    let init = init.clone();
    go(init.sched, move || {
        loop {
            match listener.accept(io::accept4) {
                Ok((connection, _)) => {
                    let (init, connection) = (init.clone(), own(init.sched, connection));
                    // Without a stack for it, the connection is closed.
                    let _ = init
                        .sched
                        .go(move || serve(&init, &connection), Location::caller());
                }
                // Too many are open, for example. New connections wait in the kernel's queue until
                // others have ended.
                Err(_) => init.sched.sleep_until(init.sched.now() + SECOND / 100),
            }
        }
    });
}

/// Sends back what arrives, until the peer ends the connection or is silent for too long.
fn echo(init: &Init, connection: &Fd) -> Result<(), FdError> {
    let mut buffer = [0; BUFFER];
    connection.set_timeout(Mode::Read, init.idle)?;
    let mut counted = false;
    loop {
        match connection.transfer(Mode::Read, BUFFER, |fd| io::recv(fd, &mut buffer)) {
            Ok(0) => return Ok(()),
            Ok(count) => send(connection, &buffer[..count])?,
            Err(error) => {
                if error == FdError::Poll(PollError::Timeout) {
                    init.counts.silent.fetch_add(1, Ordering::Relaxed);
                }
                return Err(error);
            }
        }
        if !counted {
            counted = true;
            init.counts.served.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn send(connection: &Fd, bytes: &[u8]) -> Result<(), FdError> {
    connection
        .transfer_all(bytes.len(), |fd, range| io::send(fd, &bytes[range]))
        .map_err(|(_, error)| error)
}

fn go(sched: &'static Sched, f: impl FnOnce() + Send + 'static) {
    if sched.go(f, Location::caller()).is_err() {
        panic!("no stack for a goroutine");
    }
}

fn own(sched: &'static Sched, descriptor: i32) -> Fd {
    // SAFETY: callers pass a non-blocking descriptor that they have just made, and give it away.
    unsafe { Fd::new(sched, descriptor) }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    panicked(info)
}
