//! The report of a stack overflow: which goroutine, where it was spawned, how large its stack is. Then the process dies by the SIGSEGV
//! that it would have died by anyway, with a core if those are enabled.
#![allow(unsafe_code, reason = "signal handlers are installed and called through raw pointers")]

use gopark_core::sched::Sched;
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
unsafe extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some((sched, before)) = STATE.get() else { return };
    // SAFETY: the kernel passes a valid siginfo, and for SIGSEGV it holds an address.
    let address = unsafe { (*info).si_addr() } as usize;
    if sched.arena().is_guard(address) {
        // SAFETY: a goroutine that has just touched its guard does not return.
        let g = unsafe { sched.goroutine_at(address) };
        let mut report = Report { text: [0; 512], len: 0 };
        let size = sched.arena().stack_size() / 1024;
        // A report that does not fit is cut.
        let _ = match g {
            Some(g) => writeln!(
                report,
                "\ngopark: goroutine {}, spawned at {}, has overflowed its stack of {size} KiB (Builder::stack_size)",
                g.id, g.site
            ),
            None => writeln!(report, "\ngopark: a goroutine has overflowed its stack of {size} KiB (Builder::stack_size)"),
        };
        // SAFETY: the buffer is valid for `len` bytes.
        unsafe { libc::write(libc::STDERR_FILENO, report.text.as_ptr().cast(), report.len) };
        return restore(signal, libc::SIG_DFL);
    }
    match before.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => restore(signal, libc::SIG_DFL),
        // SAFETY: whoever installed the handler gave it the type that its flags say.
        handler => unsafe {
            if before.sa_flags & libc::SA_SIGINFO != 0 {
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = std::mem::transmute(handler);
                handler(signal, info, context);
            } else {
                let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                handler(signal);
            }
        },
    }
}

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
        if n < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}
