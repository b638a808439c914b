//! Dumps on a signal: which signals can request a dump, and their handlers.
#![allow(unsafe_code, reason = "signal handlers are installed through libc")]

use crate::environment;
use crate::runtime::started;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::ptr;

const VARIABLE: &str = "GOPARK_DUMP";

/// Returns the signals named by `setting` ([`Builder::dump_on`](crate::Builder::dump_on)) and by
/// `GOPARK_DUMP`. Fails if one of them cannot request a dump.
pub(crate) fn requested(setting: Option<i32>) -> io::Result<Vec<i32>> {
    let mut signals = Vec::new();
    if let Some(signal) = setting {
        check(signal)
            .map_err(|why| io::Error::new(ErrorKind::InvalidInput, format!("dump_on: {why}")))?;
        signals.push(signal);
    }
    if let Some(value) = environment::nonempty(VARIABLE) {
        let signal = value.to_str().and_then(number);
        let signal = signal.ok_or_else(|| {
            environment::invalid(VARIABLE, &value, "the name or number of a signal")
        })?;
        check(signal)
            .map_err(|why| io::Error::new(ErrorKind::InvalidInput, format!("{VARIABLE}: {why}")))?;
        if !signals.contains(&signal) {
            signals.push(signal);
        }
    }
    Ok(signals)
}

const NAMES: [(&str, i32); 31] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// Parses a signal: `USR1`, `SIGUSR1` or `10`, in upper or lower case.
fn number(text: &str) -> Option<i32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|&(_, signal)| signal)
        .or_else(|| text.parse().ok())
}

/// Returns why `signal` cannot request a dump, as an error.
fn check(signal: i32) -> Result<(), String> {
    let (last, last_standard) = (libc::SIGRTMAX(), 31);
    let name = NAMES
        .iter()
        .find(|&&(_, known)| known == signal)
        .map_or_else(|| format!("{signal}"), |(name, _)| format!("SIG{name}"));
    let why = match signal {
        libc::SIGSEGV
        | libc::SIGBUS
        | libc::SIGILL
        | libc::SIGFPE
        | libc::SIGTRAP
        | libc::SIGSYS => {
            "comes from the instruction that faulted, which would fault again after the handler"
        }
        libc::SIGKILL | libc::SIGSTOP => "cannot be caught",
        libc::SIGPIPE | libc::SIGTTOU | libc::SIGXFSZ => {
            "comes from writing, so that writing a dump could request the next one"
        }
        _ if !(1..=last).contains(&signal) => {
            return Err(format!("{signal} is not a signal: signals are 1 to {last}"));
        }
        _ if signal > last_standard && signal < libc::SIGRTMIN() => {
            "is used by libc, for setuid() and to cancel threads"
        }
        _ => return Ok(()),
    };
    Err(format!(
        "{name} {why}; choose another, such as SIGUSR1 or SIGQUIT"
    ))
}

/// The installed handlers, each with the action that it replaced. Unless [`keep`](Self::keep) is
/// called, the drop restores those actions.
pub(crate) struct Handlers(Vec<(i32, libc::sigaction)>);

impl Handlers {
    /// Installs a handler for each of `signals`, or on an error for none. A handler does nothing
    /// until the scheduler runs.
    pub(crate) fn install(signals: &[i32]) -> io::Result<Self> {
        let mut installed = Handlers(Vec::new());
        for &signal in signals {
            // SAFETY: all-zero is a valid sigaction, and `on_signal` is async-signal-safe.
            let (result, before) = unsafe {
                let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
                action.sa_sigaction = on_signal as *const () as usize;
                action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
                let mut before = MaybeUninit::<libc::sigaction>::zeroed();
                (
                    libc::sigaction(signal, &action, before.as_mut_ptr()),
                    before.assume_init(),
                )
            };
            if result != 0 {
                let error = io::Error::last_os_error();
                return Err(io::Error::new(
                    error.kind(),
                    format!("cannot install a handler for signal {signal}: {error}"),
                ));
            }
            installed.0.push((signal, before));
        }
        Ok(installed)
    }

    /// Keeps the handlers installed for the life of the process.
    pub(crate) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        for (signal, before) in &self.0 {
            // SAFETY: `before` is the action that the kernel returned.
            unsafe { libc::sigaction(*signal, before, ptr::null_mut()) };
        }
    }
}

/// The signal handler. It sets a flag for sysmon, which then reports `Report::Asked`.
extern "C" fn on_signal(_: libc::c_int) {
    // SAFETY: errno is restored for the interrupted code, which may be about to read it.
    unsafe {
        let errno = *libc::__errno_location();
        if let Some(sched) = started() {
            sched.ask();
        }
        *libc::__errno_location() = errno;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_parsed_by_name_with_or_without_sig_and_by_number() {
        for text in ["USR1", "SIGUSR1", "usr1", "sigusr1", "10"] {
            assert_eq!(number(text), Some(libc::SIGUSR1), "{text}");
        }
        for text in ["", "SIG", "USR3", "1.5", " 10", "SIG10"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn signals_that_cannot_request_a_dump_are_refused() {
        let standard = [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGTRAP,
            libc::SIGSYS,
            libc::SIGKILL,
            libc::SIGSTOP,
            libc::SIGPIPE,
            libc::SIGTTOU,
            libc::SIGXFSZ,
        ];
        let never = [
            i32::MIN,
            -1,
            0,
            32,
            33,
            libc::SIGRTMAX() + 1,
            1000,
            i32::MAX,
        ];
        let refused: Vec<_> = standard.into_iter().chain(never).collect();
        assert!(refused.iter().all(|&signal| check(signal).is_err()));
        let allowed = (1..=31)
            .chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
            .filter(|signal| !refused.contains(signal));
        allowed.for_each(|signal| check(signal).unwrap());
        assert!(
            check(libc::SIGUSR1).is_ok()
                && check(libc::SIGQUIT).is_ok()
                && check(libc::SIGRTMIN()).is_ok()
        );
    }
}
