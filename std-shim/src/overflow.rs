//! Stack overflows: a handler of SIGSEGV that reports the goroutine or the thread of the runtime,
//! its spawn site and the size of its stack. The process then dies of SIGSEGV, as it would without
//! the handler, with a core dump if those are enabled.
#![allow(
    unsafe_code,
    reason = "signal handlers are installed and called through raw pointers"
)]

use crate::panics;
use gopark_backends::linux;
use gopark_core::sched::Sched;
use std::ffi::CStr;
use std::fmt::{self, Write};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

/// The scheduler, and the action that the handler replaced. Set before the handler is installed.
static STATE: OnceLock<(&'static Sched, libc::sigaction)> = OnceLock::new();

/// Installs the handler. For other faults it calls the handler that was installed before.
pub(crate) fn install(sched: &'static Sched) {
    // SAFETY: all-zero is a valid sigaction, and the calls get valid pointers.
    unsafe {
        let mut before = MaybeUninit::<libc::sigaction>::zeroed();
        libc::sigaction(libc::SIGSEGV, ptr::null(), before.as_mut_ptr());
        if STATE.set((sched, before.assume_init())).is_err() {
            return;
        }
        let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSEGV, &action, ptr::null_mut());
    }
}

/// Runs on the thread's alternate signal stack. Everything that it calls is async-signal-safe; it
/// formats into a buffer in its frame.
unsafe extern "C" fn on_fault(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    let Some((sched, before)) = STATE.get() else {
        return;
    };
    // SAFETY: the kernel passes a valid siginfo, and for SIGSEGV it holds an address.
    let address = unsafe { (*info).si_addr() } as usize;
    if let Some(overflowed) = overflowed(sched, address) {
        write_report(sched, address, overflowed);
        return restore(signal, libc::SIG_DFL);
    }
    match before.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => restore(signal, libc::SIG_DFL),
        // SAFETY: `sa_flags` says which of the two types the function has.
        handler => unsafe {
            if before.sa_flags & libc::SA_SIGINFO != 0 {
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(handler);
                handler(signal, info, context);
            } else {
                let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                handler(signal);
            }
        },
    }
}

/// A stack whose guard was touched.
#[derive(Clone, Copy)]
enum Overflowed {
    /// The stack of a goroutine: its size, and how much of it a goroutine can use.
    Goroutine { bytes: usize, usable: usize },
    /// The stack of a thread that the runtime started, and its size.
    Thread { bytes: usize },
}

/// Returns the stack that has overflowed if a fault at `address` is an overflow.
///
/// It needs little stack. If it returns `None`, the handler that was installed before runs on the
/// rest of the same signal stack, which std makes as small as 8 KiB. With AVX-512 the frame of the
/// signal takes half of that.
fn overflowed(sched: &Sched, address: usize) -> Option<Overflowed> {
    if let Some((bytes, usable)) = sched.arena().overflowed(address) {
        return Some(Overflowed::Goroutine { bytes, usable });
    }
    linux::overflowed(address).map(|bytes| Overflowed::Thread { bytes })
}

/// Writes the report of an overflow at `address`.
///
/// Never inlined: the frame of `on_fault` must not contain the buffer.
#[inline(never)]
fn write_report(sched: &Sched, address: usize, overflowed: Overflowed) {
    let mut report = Report {
        text: [0; 512],
        len: 0,
    };
    // A text that does not fit is cut.
    let _ = match overflowed {
        Overflowed::Goroutine { bytes, usable } => {
            report.goroutine(sched, address, bytes / 1024, usable / 1024)
        }
        Overflowed::Thread { bytes } => report.thread(bytes / 1024),
    };
    // SAFETY: the buffer is valid for `len` bytes.
    unsafe { libc::write(libc::STDERR_FILENO, report.text.as_ptr().cast(), report.len) };
}

/// The prefix of the names of the pool's threads.
const POOL: &str = "gopark-b";

/// Sets the action of `signal` to `handler`. The faulting instruction runs again after the handler
/// returns, and the signal then has that effect.
fn restore(signal: libc::c_int, handler: libc::sighandler_t) {
    // SAFETY: a valid disposition for a valid signal.
    unsafe { libc::signal(signal, handler) };
}

struct Report {
    text: [u8; 512],
    len: usize,
}

impl Report {
    fn goroutine(
        &mut self,
        sched: &Sched,
        address: usize,
        size: usize,
        usable: usize,
    ) -> fmt::Result {
        // SAFETY: the goroutine at `address` has touched its guard and will not return, so it
        // exists.
        match unsafe { sched.goroutine_at(address) } {
            Some(g) => write!(self, "\ngopark: {g}"),
            None => write!(self, "\ngopark: a goroutine"),
        }?;
        write!(self, " has overflowed its stack of {size} KiB")?;
        if usable < size {
            write!(self, " ({usable} KiB usable)")?;
        }
        writeln!(
            self,
            ": raise Builder::stack_size, or thread::Builder::stack_size for this goroutine alone"
        )
    }

    fn thread(&mut self, size: usize) -> fmt::Result {
        let mut name = [0u8; 16];
        // SAFETY: a thread's name has at most 15 bytes and a terminating zero.
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        let name = CStr::from_bytes_until_nul(&name)
            .ok()
            .and_then(|name| name.to_str().ok())
            .unwrap_or("gopark");
        write!(
            self,
            "\ngopark: thread {name} has overflowed its stack of {size} KiB"
        )?;
        // Only threads of the pool run work of a goroutine. On another thread, the first access to
        // the thread-local could allocate.
        if name.starts_with(POOL) {
            match panics::blocking_caller() {
                Some(g) => write!(self, " in gopark::blocking for {g}"),
                None => write!(self, " in gopark::blocking"),
            }?;
            write!(
                self,
                ": run deep recursion on a std::thread with a larger stack"
            )?;
        }
        writeln!(self)
    }
}

impl fmt::Write for Report {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let n = text.len().min(self.text.len() - self.len);
        self.text[self.len..self.len + n].copy_from_slice(&text.as_bytes()[..n]);
        self.len += n;
        if n < text.len() {
            Err(fmt::Error)
        } else {
            Ok(())
        }
    }
}
