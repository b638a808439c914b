//! The report of a stack overflow: which goroutine or thread of the runtime, where it was spawned,
//! how large its stack is. Then the process dies by the SIGSEGV that it would have died by anyway,
//! with a core if those are enabled.
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

/// What the handler needs, set before it is installed.
static STATE: OnceLock<(&'static Sched, libc::sigaction)> = OnceLock::new();

/// Installs the handler in front of the one that is there.
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

/// Runs on the thread's alternate signal stack. Everything it calls is async-signal-safe: it formats into its own frame.
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
    if tell(sched, address) {
        return restore(signal, libc::SIG_DFL);
    }
    match before.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => restore(signal, libc::SIG_DFL),
        // SAFETY: whoever installed the handler gave it the type that its flags say.
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

/// Writes what to say of a fault at `address`. False if it is no overflow.
///
/// Never inlined: an earlier handler runs on what the frame of `on_fault` leaves of the signal stack, which may have 8 KiB.
#[inline(never)]
fn tell(sched: &Sched, address: usize) -> bool {
    let Some(report) = report_of(sched, address) else {
        return false;
    };
    // SAFETY: the buffer is valid for `len` bytes.
    unsafe { libc::write(libc::STDERR_FILENO, report.text.as_ptr().cast(), report.len) };
    true
}

/// The text. A report that does not fit is cut.
fn report_of(sched: &Sched, address: usize) -> Option<Report> {
    let mut report = Report {
        text: [0; 512],
        len: 0,
    };
    if let Some((bytes, usable)) = sched.arena().overflowed(address) {
        let (size, usable) = (bytes / 1024, usable / 1024);
        // SAFETY: a goroutine that has just touched its guard does not return.
        let _ = match unsafe { sched.goroutine_at(address) } {
            Some(g) => write!(report, "\ngopark: {g}"),
            None => write!(report, "\ngopark: a goroutine"),
        };
        let _ = write!(report, " has overflowed its stack of {size} KiB");
        if usable < size {
            let _ = write!(report, ", of which {usable} KiB are usable");
        }
        let _ = writeln!(
            report,
            " (Builder::stack_size for all, thread::Builder::stack_size for one)"
        );
        return Some(report);
    }
    let size = linux::overflowed(address)? / 1024;
    let mut name = [0u8; 16];
    // SAFETY: a thread's name has at most 15 bytes and a zero.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let name = CStr::from_bytes_until_nul(&name)
        .ok()
        .and_then(|name| name.to_str().ok())
        .unwrap_or("gopark");
    let _ = write!(
        report,
        "\ngopark: thread {name} has overflowed its stack of {size} KiB"
    );
    // Other threads work for no goroutine, and to ask them would allocate.
    if name.starts_with(POOL) {
        let _ = match panics::employer() {
            Some(g) => write!(report, " in gopark::blocking for {g}"),
            None => write!(report, " in gopark::blocking"),
        };
        let _ = write!(
            report,
            "; deep recursion needs a std::thread with a larger stack"
        );
    }
    let _ = writeln!(report);
    Some(report)
}

/// How the names of the threads begin that `gopark::blocking` works on.
const POOL: &str = "gopark-b";

/// The faulting instruction runs again after the handler, and this time the signal has its default effect.
fn restore(signal: libc::c_int, handler: libc::sighandler_t) {
    // SAFETY: a valid disposition for a valid signal.
    unsafe { libc::signal(signal, handler) };
}

struct Report {
    text: [u8; 512],
    len: usize,
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
